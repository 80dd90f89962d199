//! A fake of the API server of a Kubernetes cluster.

mod accounts;
mod authentication;
mod objects;
mod tls;
mod token_roles;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use self::accounts::Accounts;
use self::authentication::User;
use self::tls::Certified;
use self::token_roles::{RoleKind, TokenRoles};
use super::claims::{KUBERNETES, TestClaims};
use super::issuer_state::IssuerState;
use super::kubernetes_http::{
    AcceptHeader, DISCOVERY_PATH, JWKS_PATH, document, document_type, forbidden, healthy,
    negotiate, object, status, unauthorized,
};
use super::server::{ResponseDelay, serve};
use super::token::TokenSpec;
use crate::build_error::BuildError;
use crate::clock::Clock;
use crate::issuer::Issuer;
use crate::jose::algorithm::Algorithm;

const REVIEW_PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const HEALTH_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

type MapResponse = dyn Fn(&Request<Bytes>, Response<String>) -> Response<String> + Send + Sync;

/// A fake of a Kubernetes API server on loopback, over TLS with its own CA.
///
/// | request | response |
/// | --- | --- |
/// | `GET /.well-known/openid-configuration`, `GET /openid/v1/jwks` | the documents; 406 if `Accept` does not contain their media type, 405 for another method |
/// | `POST /api/v1/namespaces/NS/serviceaccounts/NAME/token` | TokenRequest, for the administrator and for accounts with a Role with `create` on `serviceaccounts/token` |
/// | `POST /apis/authentication.k8s.io/v1/tokenreviews` | TokenReview, for the administrator and for accounts with the role `system:auth-delegator` |
/// | `POST /api/v1/namespaces/NS/serviceaccounts`, `DELETE …/NAME` | creates and deletes service accounts, for the administrator |
/// | `POST /api/v1/namespaces/NS/pods`, `POST /api/v1/nodes`, `DELETE …/NAME` | creates and deletes pods and nodes, which a TokenRequest can bind a token to (`boundObjectRef`), for the administrator |
/// | `POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings`, `DELETE …/NAME` | grants `system:auth-delegator` to service accounts, and revokes it, for the administrator |
/// | `POST /apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles`, `…/rolebindings`, `DELETE …/NAME` | grants `create` on `serviceaccounts/token`, for all service accounts of the namespace or for those in `resourceNames`, and revokes it, for the administrator |
/// | `GET /healthz`, `/livez`, `/readyz` | `ok` |
///
/// A caller is authenticated by its bearer token, whose signature, issuer, audience and times are verified, whose service
/// account must exist, and whose pod must not have been [deleted](Self::delete_pod). A request without a token gets 403, and one with an invalid token 401. A service account may only
/// `GET` the two documents (`HEAD` gets 403). A real server may repeat a positive TokenReview for 10 s after a service
/// account, a pod or a node was deleted; this one applies a deletion immediately.
///
/// This crate's tests compare its responses, header by header, with recorded ones of Kubernetes 1.20 and 1.36, and the
/// repository's contract tests run against this fake as well as a real kube-apiserver. Like Kubernetes 1.22 and later, and
/// unlike 1.20, it can have [several issuers](Self::set_issuers).
///
/// It stops and closes its connections when it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_oidc_guard::{OidcGuard, testing::FakeApiServer};
///
/// let server = FakeApiServer::start().await?;
/// let volume = tempfile::tempdir()?;
/// server.write_pod_volume(&volume, "shop", "orders")?;
///
/// let guard = OidcGuard::builder()
///     .issuer(server.issuer(&volume)?.audience("https://orders.example"))
///     .any_verified_caller()
///     .build()?;
/// let caller = server.token("shop", "web").audience("https://orders.example").mint();
/// assert_eq!(guard.verifier().verify(caller).await?.subject(), "system:serviceaccount:shop:web");
/// # Ok(())
/// # }
/// ```
pub struct FakeApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

struct Shared {
    keys: IssuerState,
    certified: ArcSwap<Certified>,
    inner: Mutex<Inner>,
}

struct Inner {
    issuers: Vec<String>,
    accounts: Accounts,
    token_roles: TokenRoles,
    admin_token: String,
    requests: Vec<ApiServerRequest>,
    map_response: Option<Arc<MapResponse>>,
    review_delay: Duration,
    /// The clock that the times of tokens are compared with.
    clock: Clock,
}

/// A request that a [`FakeApiServer`] has responded to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiServerRequest {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The status of the response.
    pub status: StatusCode,
}

impl ApiServerRequest {
    /// Returns the bearer token of the request, or `None` if it had none.
    pub fn bearer_token(&self) -> Option<&str> {
        authentication::bearer_token(&self.headers)
    }
}

impl FakeApiServer {
    /// Starts a server on 127.0.0.1, on a port chosen by the system, with one RS256 key. Spawns a task on the current tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key or certificate can be generated.
    pub async fn start() -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts a server on an address of this machine, such as `::1`, on a port chosen by the system. Spawns a task on the
    /// current tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key or certificate can be generated.
    pub async fn start_at(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            keys: IssuerState::kubernetes(KUBERNETES.to_owned())?,
            certified: ArcSwap::from_pointee(Certified::new()?),
            inner: Mutex::new(Inner {
                issuers: vec![KUBERNETES.to_owned()],
                accounts: Accounts::default(),
                token_roles: TokenRoles::default(),
                admin_token: super::claims::uid(&format!("administrator {address}")),
                requests: Vec::new(),
                map_response: None,
                review_delay: Duration::ZERO,
                clock: Clock::default(),
            }),
        });
        let server = spawn(listener, &shared);
        Ok(Self {
            shared,
            address,
            server,
        })
    }

    /// Closes the connections and the port, as at the end of a process, until [`restart`](Self::restart) is called.
    pub async fn stop(&mut self) {
        self.server.abort();
        // An aborted task ends with an error, and its listener is closed then.
        let _ = (&mut self.server).await;
    }

    /// Starts the server again at its port, with its keys, accounts and certificate.
    ///
    /// # Errors
    ///
    /// If another process uses the port by now.
    pub async fn restart(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.server = spawn(listener, &self.shared);
        Ok(())
    }

    /// Returns the host, as `KUBERNETES_SERVICE_HOST` contains it in a pod.
    pub fn host(&self) -> String {
        self.address.ip().to_string()
    }

    /// Returns the port, as `KUBERNETES_SERVICE_PORT` contains it in a pod.
    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Returns the certificate of the CA that signed the server's certificate, in PEM.
    pub fn ca_pem(&self) -> String {
        self.shared.certified.load().ca_pem.clone()
    }

    /// Generates a new CA and a certificate signed by it, for new connections.
    ///
    /// # Errors
    ///
    /// If they cannot be generated.
    pub fn replace_ca(&self) -> io::Result<()> {
        self.shared.certified.store(Arc::new(Certified::new()?));
        Ok(())
    }

    /// Returns a token to be minted for a service account, which is created if it does not exist. The token is signed with the
    /// current key and has the first issuer and no audience. It is bound to a pod with the name of the service account, which
    /// is created if it does not exist.
    pub fn token(&self, namespace: &str, name: &str) -> TokenSpec {
        let mut inner = self.shared.inner();
        let uid = inner.accounts.ensure(namespace, name);
        let pod = inner.accounts.ensure_pod(namespace, name);
        let issuer = inner.issuers.first().cloned().unwrap_or_default();
        let claims = TestClaims::kubernetes(&issuer, namespace, name);
        TokenSpec::new(self.shared.keys.current(), claims)
            .object_uid("serviceaccount", &uid)
            .object_uid("pod", &pod)
            .issued_at(inner.clock.now())
    }

    /// Mints a token of a service account with the API server's own audience, like the one in a pod's `kube-api-access`
    /// volume.
    pub fn pod_token(&self, namespace: &str, name: &str) -> String {
        let audience = self.issuers().into_iter().next().unwrap_or_default();
        self.token(namespace, name).audience(audience).mint()
    }

    /// Writes the files of a pod's `kube-api-access` volume into a folder: `token`, `ca.crt` and `namespace`. Each file is
    /// replaced, so calling this again rotates the token.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn write_pod_volume(
        &self,
        folder: impl AsRef<Path>,
        namespace: &str,
        name: &str,
    ) -> io::Result<()> {
        let token = self.pod_token(namespace, name);
        for (file, content) in [
            ("ca.crt", self.ca_pem()),
            ("namespace", namespace.to_owned()),
            ("token", token),
        ] {
            let path = folder.as_ref().join(file);
            let written = path.with_extension("new");
            std::fs::write(&written, content)?;
            std::fs::rename(&written, &path)?;
        }
        Ok(())
    }

    /// Returns the settings of [`Issuer::in_cluster`] for this server, with the files that
    /// [`write_pod_volume`](Self::write_pod_volume) has written into a folder. Add an audience.
    ///
    /// # Errors
    ///
    /// Those of [`Issuer::in_cluster_at`], which do not occur with this server's address.
    pub fn issuer(&self, volume: impl AsRef<Path>) -> Result<Issuer, BuildError> {
        let volume = volume.as_ref();
        let issuer = Issuer::in_cluster_at(&self.host(), &self.port())?;
        Ok(issuer
            .api_ca_file(volume.join("ca.crt"))
            .api_token_file(volume.join("token")))
    }

    /// Reads the time of day from this function instead of from the system. If called again, the last function is used.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::{Duration, SystemTime};
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// // Recorded tokens are valid again.
    /// let server = FakeApiServer::start().await?;
    /// server.set_clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_463_114));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_clock(&self, now: impl Fn() -> SystemTime + Send + Sync + 'static) {
        self.shared.inner().clock = Clock::new(now);
    }

    /// Returns the administrator's bearer token, which has every permission.
    pub fn admin_token(&self) -> String {
        self.shared.inner().admin_token.clone()
    }

    /// Accepts `token` as a token of that service account from now on, without verifying it. For recorded tokens.
    pub fn accept_token(&self, token: impl Into<String>, namespace: &str, name: &str) {
        let mut inner = self.shared.inner();
        inner.accounts.ensure(namespace, name);
        inner.accounts.accept(token.into(), namespace, name);
    }

    /// Returns the issuers whose tokens are accepted (`--service-account-issuer`); the first one signs.
    pub fn issuers(&self) -> Vec<String> {
        self.shared.inner().issuers.clone()
    }

    /// Replaces the issuers. The first one signs and is the `issuer` of the discovery document; all are accepted, and all are
    /// audiences of the API server.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// server.set_issuers(["https://new.example", "https://old.example"]);
    /// assert_eq!(server.issuers(), ["https://new.example", "https://old.example"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_issuers<I: Into<String>>(&self, issuers: impl IntoIterator<Item = I>) {
        self.shared.inner().issuers = issuers.into_iter().map(Into::into).collect();
    }

    /// Publishes a new key of the current key's algorithm and signs with it from now on. The old keys stay published. Returns
    /// the `kid` of the new key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key(&self) -> io::Result<String> {
        self.shared.keys.rotate_key(None)
    }

    /// Publishes a new key for `algorithm` and signs with it from now on. The old keys stay published. Returns the `kid` of
    /// the new key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key_to(&self, algorithm: Algorithm) -> io::Result<String> {
        self.shared.keys.rotate_key(Some(algorithm))
    }

    /// Withdraws all keys but the current one.
    pub fn withdraw_old_keys(&self) {
        self.shared.keys.withdraw_old_keys();
    }

    /// Creates a service account, unless it exists.
    pub fn create_service_account(&self, namespace: &str, name: &str) {
        self.shared.inner().accounts.ensure(namespace, name);
    }

    /// Deletes a service account. Its tokens are no longer valid.
    pub fn delete_service_account(&self, namespace: &str, name: &str) {
        self.shared.inner().accounts.delete(namespace, name);
    }

    /// Deletes a pod. The tokens that are bound to it are no longer valid; only the API server knows that, since their
    /// signatures still are.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// let token = server.token("shop", "web").audience("orders").mint();
    /// // A TokenReview of `token` now contains `authenticated: true`.
    /// server.delete_pod("shop", "web");
    /// // And now an error: "service account token has been invalidated".
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        self.shared.inner().accounts.delete_pod(namespace, name);
    }

    /// Grants the role `system:auth-delegator` to a service account, which may then create TokenReviews.
    pub fn grant_token_reviews(&self, namespace: &str, name: &str) {
        let mut inner = self.shared.inner();
        inner.accounts.grant_reviews("", [(namespace, name)]);
    }

    /// Takes the role `system:auth-delegator` away from a service account. Its next TokenReview gets 403.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// server.grant_token_reviews("shop", "orders");
    /// server.withdraw_token_reviews("shop", "orders");
    /// # Ok(())
    /// # }
    /// ```
    pub fn withdraw_token_reviews(&self, namespace: &str, name: &str) {
        let mut inner = self.shared.inner();
        inner.accounts.withdraw_reviews(namespace, name);
    }

    /// Lets a service account create tokens of a service account in its namespace (TokenRequest).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// // The account may create tokens for itself.
    /// server.grant_token_requests("shop", "orders", "orders");
    /// # Ok(())
    /// # }
    /// ```
    pub fn grant_token_requests(&self, namespace: &str, holder: &str, account: &str) {
        let mut inner = self.shared.inner();
        inner.token_roles.grant(namespace, holder, account);
    }

    /// Withdraws what [`grant_token_requests`](Self::grant_token_requests) grants. The next TokenRequest gets 403.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// server.grant_token_requests("shop", "orders", "orders");
    /// server.withdraw_token_requests("shop", "orders", "orders");
    /// # Ok(())
    /// # }
    /// ```
    pub fn withdraw_token_requests(&self, namespace: &str, holder: &str, account: &str) {
        let mut inner = self.shared.inner();
        inner.token_roles.withdraw(namespace, holder, account);
    }

    /// Returns how many TokenReviews have been responded to, whatever the response.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// assert_eq!(server.token_reviews(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_reviews(&self) -> usize {
        let inner = self.shared.inner();
        let requests = inner.requests.iter();
        requests
            .filter(|request| request.path == REVIEW_PATH)
            .count()
    }

    /// Delays each response to a TokenReview by this time from now on. Zero, the default, does not delay them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// server.delay_token_reviews(Duration::from_secs(10));
    /// # Ok(())
    /// # }
    /// ```
    pub fn delay_token_reviews(&self, delay: Duration) {
        self.shared.inner().review_delay = delay;
    }

    /// Sets a function that may replace every response before it is sent, to simulate faults: another status, another document,
    /// a redirect. If called again, the last function is used.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::FakeApiServer;
    ///
    /// let server = FakeApiServer::start().await?;
    /// server.map_responses(|request, mut response| {
    ///     if request.uri().path() == "/openid/v1/jwks" {
    ///         *response.status_mut() = http::StatusCode::FORBIDDEN;
    ///     }
    ///     response
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_responses(
        &self,
        map: impl Fn(&Request<Bytes>, Response<String>) -> Response<String> + Send + Sync + 'static,
    ) {
        self.shared.inner().map_response = Some(Arc::new(map));
    }

    /// Returns the requests that have been responded to, oldest first.
    pub fn requests(&self) -> Vec<ApiServerRequest> {
        self.shared.inner().requests.clone()
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for FakeApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeApiServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn spawn(listener: TcpListener, shared: &Arc<Shared>) -> JoinHandle<()> {
    let (certified, shared) = (shared.clone(), shared.clone());
    let acceptor = move || Some(TlsAcceptor::from(certified.certified.load().config.clone()));
    let respond = move |request| shared.respond(&request);
    tokio::spawn(serve(listener, acceptor, Arc::new(respond)))
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, request: &Request<Bytes>) -> Response<String> {
        let response = self.unmapped_response(request);
        let map = self.inner().map_response.clone();
        let mut response = match map {
            Some(map) => map(request, response),
            None => response,
        };
        if request.uri().path() == REVIEW_PATH {
            let delay = ResponseDelay(self.inner().review_delay);
            response.extensions_mut().insert(delay);
        }
        self.inner().requests.push(ApiServerRequest {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
            status: response.status(),
        });
        response
    }

    /// Authenticates the caller, checks its permissions, and returns the response, before [`FakeApiServer::map_responses`].
    fn unmapped_response(&self, request: &Request<Bytes>) -> Response<String> {
        let Some(user) = self.authenticate(request.headers()) else {
            return unauthorized();
        };
        let (method, path) = (request.method(), request.uri().path());
        if HEALTH_PATHS.contains(&path) {
            return healthy();
        }
        if let Some(media_type) = document_type(path) {
            return self.document(&user, request, media_type);
        }
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        match (method, segments.as_slice()) {
            (&Method::POST, ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => {
                self.review(&user, request.body())
            }
            (
                &Method::POST,
                [
                    "api",
                    "v1",
                    "namespaces",
                    namespace,
                    "serviceaccounts",
                    name,
                    "token",
                ],
            ) => self.request_token(&user, namespace, name, request.body()),
            (&Method::POST, ["api", "v1", "namespaces", namespace, "serviceaccounts"]) => {
                self.create_account(&user, namespace, request.body())
            }
            (
                &Method::DELETE,
                [
                    "api",
                    "v1",
                    "namespaces",
                    namespace,
                    "serviceaccounts",
                    name,
                ],
            ) => self.delete_account(&user, namespace, name),
            (
                &Method::POST,
                [
                    "apis",
                    "rbac.authorization.k8s.io",
                    "v1",
                    "clusterrolebindings",
                ],
            ) => self.bind_role(&user, request.body()),
            (
                &Method::DELETE,
                [
                    "apis",
                    "rbac.authorization.k8s.io",
                    "v1",
                    "clusterrolebindings",
                    name,
                ],
            ) => self.unbind_role(&user, name),
            (
                &Method::POST,
                [
                    "apis",
                    "rbac.authorization.k8s.io",
                    "v1",
                    "namespaces",
                    namespace,
                    kind,
                ],
            ) if RoleKind::from_plural(kind).is_some() => {
                let kind = RoleKind::from_plural(kind).unwrap_or(RoleKind::Role);
                self.create_role(&user, kind, namespace, request.body())
            }
            (
                &Method::DELETE,
                [
                    "apis",
                    "rbac.authorization.k8s.io",
                    "v1",
                    "namespaces",
                    namespace,
                    kind,
                    name,
                ],
            ) if RoleKind::from_plural(kind).is_some() => {
                let kind = RoleKind::from_plural(kind).unwrap_or(RoleKind::Role);
                self.delete_role(&user, kind, namespace, name)
            }
            (&Method::POST, ["api", "v1", "namespaces", namespace, "pods"]) => {
                self.create_pod(&user, namespace, request.body())
            }
            (&Method::DELETE, ["api", "v1", "namespaces", namespace, "pods", name]) => {
                self.delete_pod(&user, namespace, name)
            }
            (&Method::POST, ["api", "v1", "nodes"]) => self.create_node(&user, request.body()),
            (&Method::DELETE, ["api", "v1", "nodes", name]) => self.delete_node(&user, name),
            _ if user.is_admin() => {
                let paths = json!({ "paths": [DISCOVERY_PATH, JWKS_PATH, "/apis", "/readyz"] });
                object(StatusCode::NOT_FOUND, &paths)
            }
            _ => not_on_path(&user, method, path),
        }
    }

    /// Returns a document to a caller that may read it. The role `system:service-account-issuer-discovery` is bound to all
    /// service accounts and grants only `get`.
    fn document(
        &self,
        user: &User,
        request: &Request<Bytes>,
        media_type: &'static str,
    ) -> Response<String> {
        let (method, path) = (request.method(), request.uri().path());
        let may_read = user.is_admin() || (user.is_service_account() && method == Method::GET);
        if !may_read {
            return not_on_path(user, method, path);
        }
        if let Err(refused) = negotiate(
            method,
            request.headers(),
            media_type,
            AcceptHeader::Respected,
        ) {
            return *refused;
        }
        if path == JWKS_PATH {
            return document(media_type, &self.keys.key_set());
        }
        let issuer = self.inner().issuers.first().cloned().unwrap_or_default();
        // The advertised address is that of a node, and no server listens at that port: clients must not use it.
        let jwks_uri = format!("https://127.0.0.1:1{JWKS_PATH}");
        document(media_type, &self.keys.discovery(&issuer, &jwks_uri))
    }

    fn authenticate(&self, headers: &HeaderMap) -> Option<User> {
        if !headers.contains_key(AUTHORIZATION) {
            return Some(User::Anonymous);
        }
        let Some(token) = authentication::bearer_token(headers) else {
            // The API server ignores credentials of other schemes.
            return Some(User::Anonymous);
        };
        let inner = self.inner();
        if token == inner.admin_token {
            return Some(User::Admin);
        }
        inner.authenticate(&self.keys, token, &inner.issuers).ok()
    }

    fn review(&self, user: &User, body: &Bytes) -> Response<String> {
        let inner = self.inner();
        if !(user.is_admin() || inner.accounts.may_review(user)) {
            return forbidden(
                &format!(
                    "tokenreviews.authentication.k8s.io is forbidden: User {:?} cannot create resource \"tokenreviews\" in API group \"authentication.k8s.io\" at the cluster scope",
                    user.name()
                ),
                json!({ "group": "authentication.k8s.io", "kind": "tokenreviews" }),
            );
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(token) = request["spec"]["token"]
            .as_str()
            .filter(|token| !token.is_empty())
        else {
            let message = "token is required for TokenReview in authentication";
            return status(StatusCode::BAD_REQUEST, "BadRequest", message, None);
        };
        let asked: Vec<_> = strings(&request["spec"]["audiences"]);
        let audiences = if asked.is_empty() {
            inner.issuers.clone()
        } else {
            asked
        };
        let reviewed = match inner.review(&self.keys, token, &audiences) {
            Ok(status) => status,
            Err(error) => json!({ "user": {}, "error": error }),
        };
        object(
            StatusCode::CREATED,
            &json!({
                "kind": "TokenReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {},
                "spec": request["spec"],
                "status": reviewed,
            }),
        )
    }

    fn request_token(
        &self,
        user: &User,
        namespace: &str,
        name: &str,
        body: &Bytes,
    ) -> Response<String> {
        let may_create = self.inner().token_roles.may_create(user, namespace, name);
        if !may_create {
            return forbidden(
                &format!(
                    "serviceaccounts {name:?} is forbidden: User {:?} cannot create resource \"serviceaccounts/token\" in API group \"\" in the namespace {namespace:?}",
                    user.name()
                ),
                json!({ "name": name, "kind": "serviceaccounts" }),
            );
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let seconds = request["spec"]["expirationSeconds"]
            .as_u64()
            .unwrap_or(3600);
        if seconds < 600 {
            let message = format!(
                "Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            );
            return status(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                &format!(
                    "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: {message}"
                ),
                Some(json!({
                    "group": "authentication.k8s.io",
                    "kind": "TokenRequest",
                    "causes": [{ "reason": "FieldValueInvalid", "message": message, "field": "spec.expirationSeconds" }],
                })),
            );
        }
        let inner = self.inner();
        let Some(uid) = inner.accounts.uid(namespace, name) else {
            return not_found("serviceaccounts", name);
        };
        let reference = &request["spec"]["boundObjectRef"];
        let bound_to = match inner.accounts.bound_object(namespace, name, reference) {
            Ok(bound_to) => bound_to,
            Err(refused) => return *refused,
        };
        let mut audiences = strings(&request["spec"]["audiences"]);
        if audiences.is_empty() {
            audiences.clone_from(&inner.issuers);
        }
        let issuer = inner.issuers.first().cloned().unwrap_or_default();
        let claims = TestClaims::kubernetes(&issuer, namespace, name);
        let spec = TokenSpec::new(self.keys.current(), claims)
            .without_pod()
            .object_uid("serviceaccount", &uid)
            .issued_at(inner.clock.now())
            .lifetime(std::time::Duration::from_secs(seconds));
        let spec = audiences.iter().fold(spec, TokenSpec::audience);
        let spec = match &bound_to {
            Some(bound_to) => bound_to.add_to(spec),
            None => spec,
        };
        let reference = bound_to.map(|bound_to| bound_to.reference());
        object(
            StatusCode::CREATED,
            &json!({
                "kind": "TokenRequest",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {},
                "spec": { "audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": reference },
                "status": { "token": spec.mint(), "expirationTimestamp": spec.expiration_timestamp() },
            }),
        )
    }

    fn create_account(&self, user: &User, namespace: &str, body: &Bytes) -> Response<String> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = request["metadata"]["name"].as_str().unwrap_or_default();
        if !user.is_admin() {
            return not_on_accounts(user, "create", name, namespace);
        }
        let uid = self.inner().accounts.ensure(namespace, name);
        object(StatusCode::CREATED, &account(namespace, name, &uid))
    }

    fn delete_account(&self, user: &User, namespace: &str, name: &str) -> Response<String> {
        if !user.is_admin() {
            return not_on_accounts(user, "delete", name, namespace);
        }
        match self.inner().accounts.delete(namespace, name) {
            Some(uid) => object(StatusCode::OK, &account(namespace, name, &uid)),
            None => not_found("serviceaccounts", name),
        }
    }

    fn bind_role(&self, user: &User, body: &Bytes) -> Response<String> {
        let mut binding: Value = serde_json::from_slice(body).unwrap_or_default();
        if !user.is_admin() {
            return forbidden(
                &format!(
                    "clusterrolebindings.rbac.authorization.k8s.io is forbidden: User {:?} cannot create resource \"clusterrolebindings\" in API group \"rbac.authorization.k8s.io\" at the cluster scope",
                    user.name()
                ),
                json!({ "group": "rbac.authorization.k8s.io", "kind": "clusterrolebindings" }),
            );
        }
        if binding["roleRef"]["name"] == "system:auth-delegator" {
            let subjects = binding["subjects"].as_array().into_iter().flatten();
            let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
            let accounts: Vec<_> = subjects
                .map(|subject| (text(&subject["namespace"]), text(&subject["name"])))
                .collect();
            let accounts = accounts
                .iter()
                .map(|(namespace, name)| (namespace.as_str(), name.as_str()));
            let binding = text(&binding["metadata"]["name"]);
            self.inner().accounts.grant_reviews(&binding, accounts);
        }
        binding["kind"] = "ClusterRoleBinding".into();
        binding["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
        object(StatusCode::CREATED, &binding)
    }

    fn unbind_role(&self, user: &User, name: &str) -> Response<String> {
        if !user.is_admin() {
            return forbidden(
                &format!(
                    "clusterrolebindings.rbac.authorization.k8s.io {name:?} is forbidden: User {:?} cannot delete resource \"clusterrolebindings\" in API group \"rbac.authorization.k8s.io\" at the cluster scope",
                    user.name()
                ),
                json!({ "name": name, "group": "rbac.authorization.k8s.io", "kind": "clusterrolebindings" }),
            );
        }
        if !self.inner().accounts.delete_binding(name) {
            return status(
                StatusCode::NOT_FOUND,
                "NotFound",
                &format!("clusterrolebindings.rbac.authorization.k8s.io {name:?} not found"),
                Some(
                    json!({ "name": name, "group": "rbac.authorization.k8s.io", "kind": "clusterrolebindings" }),
                ),
            );
        }
        object(
            StatusCode::OK,
            &json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": { "name": name, "group": "rbac.authorization.k8s.io", "kind": "clusterrolebindings" },
            }),
        )
    }
}

fn account(namespace: &str, name: &str, uid: &str) -> Value {
    json!({
        "kind": "ServiceAccount",
        "apiVersion": "v1",
        "metadata": { "name": name, "namespace": namespace, "uid": uid },
    })
}

fn not_found(kind: &str, name: &str) -> Response<String> {
    status(
        StatusCode::NOT_FOUND,
        "NotFound",
        &format!("{kind} {name:?} not found"),
        Some(json!({ "name": name, "kind": kind })),
    )
}

fn not_on_accounts(user: &User, verb: &str, name: &str, namespace: &str) -> Response<String> {
    forbidden(
        &format!(
            "serviceaccounts {name:?} is forbidden: User {:?} cannot {verb} resource \"serviceaccounts\" in API group \"\" in the namespace {namespace:?}",
            user.name()
        ),
        json!({ "name": name, "kind": "serviceaccounts" }),
    )
}

fn not_on_path(user: &User, method: &Method, path: &str) -> Response<String> {
    let verb = method.as_str().to_ascii_lowercase();
    forbidden(
        &format!(
            "forbidden: User {:?} cannot {verb} path {path:?}",
            user.name()
        ),
        json!({}),
    )
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
