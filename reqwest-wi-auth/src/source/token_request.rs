//! Tokens of a service account from the API server of a Kubernetes cluster, without a volume.

mod account;
mod builder;
mod response;
mod target;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};

use self::account::{Account, OwnIdentity, Pod};
pub use self::builder::TokenRequestBuilder;
use self::target::{PodOrigin, Target, describe_expiry};
use super::fetched::{Description, Fetch, FetchKind, FetchedToken, Timing, require_runtime};
use super::http::{Endpoint, HttpClient, Secrets};
use super::subject::Credential;
use super::{TokenProvider, TokenSource};
use crate::error::{Error, FetchError};
use crate::token::Token;

const JSON: &str = "application/json";

/// How long the program's own token may take. Its source has a limit as well.
const CREDENTIAL_LIMIT: Duration = Duration::from_secs(10);

/// A client of the API server of a Kubernetes cluster, which issues tokens of a service account (the TokenRequest API).
///
/// A projected volume has one token for each audience that is known when the pod is created. This source gets a token for an
/// audience that is known only at run time. It authenticates with the program's own token, which is sent to the API server only,
/// and by default requests tokens of the same service account.
///
/// The service account requires a Role with the verb `create` on `serviceaccounts/token`:
///
/// ```yaml
/// apiVersion: rbac.authorization.k8s.io/v1
/// kind: Role
/// metadata:
///   name: token-request-orders
/// rules:
///   - apiGroups: [""]
///     resources: [serviceaccounts/token]
///     resourceNames: [orders]
///     verbs: [create]
/// ```
///
/// # The token
///
/// - It is requested for one audience. A token for another audience, or without an expiry, is an error. The audience of the API
///   server itself, which is that of the program's own token, is refused, since the recipient of such a token could use it at the
///   API server.
/// - It is valid for 1 h, or for [`expiration`](TokenRequestBuilder::expiration). The API server may issue one that is valid for a
///   shorter or a longer time; the earlier of its `exp` and of `status.expirationTimestamp` counts. The next one is requested
///   at 80 % of this time.
/// - It is bound to the program's pod, so that it is not valid any more once the pod is deleted: to the pod in the environment
///   variables `POD_NAME` and `POD_UID`, which a pod's manifest sets by means of the downward API; without `POD_NAME`, to the pod
///   in the claims of the program's own token (`kubernetes.io`), which the tokens of volumes have. It is bound to no pod if it is
///   of another service account than the program's own token, or if the name of the pod is not known. See
///   [`pod`](TokenRequestBuilder::pod) and [`without_pod`](TokenRequestBuilder::without_pod).
///
/// # The request
///
/// `POST /api/v1/namespaces/NAMESPACE/serviceaccounts/NAME/token`, without a proxy, and redirects are not followed. A request takes
/// at most 10 s, and a response has at most 64 KiB. The file of the CA certificates and the program's own token are read again when
/// they are replaced. If the API server rejects the program's own token with 401, its file is read again, and the request is sent
/// once more if the file contains another token. Failed requests are retried after 100 ms, doubling up to 10 s.
///
/// # Examples
///
/// ```no_run
/// # async fn example(audience: &str) -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, TokenRequest};
///
/// let token = TokenRequest::in_cluster()?.open(audience).await?;
/// let auth = BearerAuth::for_origin("https://orders.example", token)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenRequest(Arc<Settings>);

/// The settings of a [`TokenRequest`].
struct Settings {
    /// The API server. Its path, if it has one, precedes the paths of the API.
    api_server: Endpoint,
    http: HttpClient,
    credentials: Arc<dyn TokenSource>,
    /// Where the program's own token comes from, for error messages.
    credential: Arc<str>,
    namespace: Option<String>,
    /// The namespace that is used if it is not set and the claims of the program's own token do not contain one.
    default_namespace: Option<String>,
    service_account: Option<String>,
    expiration: Duration,
    binding: Binding,
}

/// The pod that tokens are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Binding {
    /// The pod of the environment variables if they are set, or else that of the claims of the program's own token. No pod if
    /// the tokens are of another service account.
    Own(Option<Pod>),
    Pod(Pod),
    None,
}

impl TokenRequest {
    /// Creates a client of the API server of the cluster that this program runs in. Sends no request.
    ///
    /// The address is that of the environment variables `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`. The program's own
    /// token and the CA certificate of the API server are the files `token` and `ca.crt` in
    /// `/var/run/secrets/kubernetes.io/serviceaccount`, which Kubernetes mounts into each container unless
    /// `automountServiceAccountToken` is false. The namespace and the name of the service account are those of the token's
    /// claims.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if the two variables do not contain an address, or `POD_NAME` is not the name of a pod.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::in_cluster()?;
    /// let orders = api_server.open("https://orders.example").await?;
    /// let stock = api_server.open("https://stock.example").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_cluster() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Returns a builder. A setting that is not set is that of [`in_cluster`](Self::in_cluster).
    pub fn builder() -> TokenRequestBuilder {
        TokenRequestBuilder::new()
    }

    /// Opens a source of tokens for an audience, and waits for the first token. Errors that a later attempt may correct are retried
    /// meanwhile.
    ///
    /// Spawns a task on the current tokio runtime that requests the next token before the current one expires. The task
    /// ends when the last clone of the source is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Fetch`] after 3 s if no connection can be established, at once for an error that a later attempt does not
    /// correct, such as a service account that does not exist, and otherwise after 30 s. Returns [`Error::Configuration`] for an
    /// empty audience or that of the API server, or if the service account is not known. Returns [`FetchError::NoRuntime`] outside
    /// a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    pub async fn open(&self, audience: &str) -> Result<FetchedToken, Error> {
        check_audience(audience)?;
        require_runtime(&self.0.api_server)?;
        self.start(audience).opened().await
    }

    /// Opens a source of tokens for an audience, without waiting for the first token. Requests that need it wait for up to
    /// 10 s, or until no connection could be established for 3 s. After that they fail at once, until a connection
    /// succeeds.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self, audience: &str) -> FetchedToken {
        let request = Request {
            settings: self.0.clone(),
            audience: audience.to_owned(),
        };
        let description = Description {
            kind: FetchKind::TokenRequest,
            audience: audience.to_owned(),
            server: self.0.api_server.to_string(),
        };
        let timing = Timing {
            // The API server issues each token when it is requested, so its whole lifetime remains. The kubelet renews at 80 %, too.
            renewal: (0.8, 0.81),
            ..Timing::with_longest_retry(Duration::from_secs(10))
        };
        FetchedToken::start(request, description, timing)
    }
}

impl TokenProvider for TokenRequest {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        check_audience(audience)?;
        Ok(Arc::new(self.start(audience)))
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("api_server", &self.0.api_server)
            .field("credential", &self.0.credential)
            .field("namespace", &self.0.namespace)
            .field("service_account", &self.0.service_account)
            .field("expiration", &self.0.expiration)
            .finish_non_exhaustive()
    }
}

/// Returns an error for an empty audience. The API server would issue a token for itself for no audience, and one that no recipient
/// should accept for an empty one.
fn check_audience(audience: &str) -> Result<(), Error> {
    if audience.is_empty() {
        return Err(Error::Configuration {
            location: "the audience \"\"".to_owned(),
            reason: "expected the audience that the recipient of the token requires".to_owned(),
        });
    }
    Ok(())
}

/// A request for tokens for one audience.
struct Request {
    settings: Arc<Settings>,
    audience: String,
}

#[async_trait]
impl Fetch for Request {
    async fn fetch(&self) -> Result<Token, Error> {
        check_audience(&self.audience)?;
        let own = self.own_token().await?;
        let result = self.request(&own).await;
        if !is_unauthorized(&result) {
            return result;
        }
        match self.replacement(&own).await {
            Some(newer) => self.request(&newer).await,
            None => result,
        }
    }

    fn limit(&self) -> Duration {
        // The time limit of a request may be any duration.
        let attempt = CREDENTIAL_LIMIT.saturating_add(self.settings.http.limit());
        attempt.saturating_mul(2)
    }
}

fn is_unauthorized(result: &Result<Token, Error>) -> bool {
    matches!(
        result,
        Err(Error::Fetch(FetchError::Status { status, .. })) if *status == StatusCode::UNAUTHORIZED
    )
}

impl Request {
    fn credential(&self) -> Credential<'_> {
        Credential {
            source: &*self.settings.credentials,
            endpoint: &self.settings.api_server,
            name: "the program's own token",
        }
    }

    /// Returns the program's own token.
    async fn own_token(&self) -> Result<Token, FetchError> {
        let credential = self.credential();
        let token = tokio::time::timeout(CREDENTIAL_LIMIT, credential.token()).await;
        token.unwrap_or_else(|_| {
            Err(FetchError::Credential {
                endpoint: credential.endpoint.to_string(),
                credential: credential.name,
                source: Arc::new(Error::NotFetched {
                    location: self.settings.credential.to_string(),
                }),
            })
        })
    }

    /// Returns a token that replaces the program's own one, which the API server has rejected, or `None` if there is no other one.
    async fn replacement(&self, rejected: &Token) -> Option<Token> {
        let credential = self.credential();
        let token = tokio::time::timeout(CREDENTIAL_LIMIT, credential.replacement(rejected)).await;
        token.ok().flatten()
    }

    /// Requests a token with the program's own one.
    async fn request(&self, own: &Token) -> Result<Token, Error> {
        let target = self.settings.target(own, &self.audience)?;
        let body = Bytes::from(self.settings.body(&target).to_string());
        let response = self
            .settings
            .http
            .send(
                &target.endpoint,
                Secrets::default().with_token(own),
                |client| {
                    client
                        .post(target.endpoint.url().clone())
                        .header(AUTHORIZATION, own.header().clone())
                        .header(CONTENT_TYPE, JSON)
                        .header(ACCEPT, JSON)
                        .body(body)
                },
            )
            .await?;
        Ok(response::token(&response, &target)?)
    }
}

impl Settings {
    /// Returns what the token for an audience is requested for with the program's own token.
    fn target(&self, own: &Token, audience: &str) -> Result<Target, Error> {
        let identity = OwnIdentity::from_claims(own);
        if identity.audiences.iter().any(|own| own == audience) {
            return Err(Error::Configuration {
                location: format!("the audience {audience:?}"),
                reason: format!(
                    "it is the audience of the program's own token from {}, so it is that of the API server; the recipient of a token for it could use it at the API server",
                    self.credential
                ),
            });
        }
        let account = self.account(&identity)?;
        let pod = self.pod(&identity, &account);
        let path = self.api_server.url().path().trim_end_matches('/');
        // The names are valid DNS names, so they do not change the path.
        let Account { namespace, name } = &account;
        let path = format!("{path}/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        Ok(Target {
            endpoint: self.api_server.with_path(&path),
            audience: audience.to_owned(),
            credential_expiry: describe_expiry(own, SystemTime::now()),
            credential: self.credential.clone(),
            own: identity,
            account,
            pod,
        })
    }

    /// Returns the service account whose tokens are requested.
    fn account(&self, own: &OwnIdentity) -> Result<Account, Error> {
        let own = own.account.as_ref();
        let missing = |setting: &str, what: &str| Error::Configuration {
            location: format!("the program's own token from {}", self.credential),
            reason: format!(
                "its claims do not state the {what} of a service account; set it with `{setting}`"
            ),
        };
        let namespace = self
            .namespace
            .as_ref()
            .or(own.map(|own| &own.namespace))
            .or(self.default_namespace.as_ref());
        let name = self.service_account.as_ref().or(own.map(|own| &own.name));
        Ok(Account {
            name: name
                .ok_or_else(|| missing("service_account", "name"))?
                .clone(),
            namespace: namespace
                .ok_or_else(|| missing("namespace", "namespace"))?
                .clone(),
        })
    }

    /// Returns the pod that tokens of an account are bound to.
    fn pod(&self, own: &OwnIdentity, account: &Account) -> Option<(Pod, PodOrigin)> {
        let is_own = own.account.as_ref().is_none_or(|own| own == account);
        match &self.binding {
            Binding::None => None,
            Binding::Pod(pod) => Some((pod.clone(), PodOrigin::Setting)),
            Binding::Own(_) if !is_own => None,
            Binding::Own(Some(pod)) => {
                let mut pod = pod.clone();
                if let Some(claimed) = own.pod.as_ref().filter(|claimed| claimed.name == pod.name) {
                    pod.uid = pod.uid.or_else(|| claimed.uid.clone());
                }
                Some((pod, PodOrigin::Environment))
            }
            Binding::Own(None) => own.pod.clone().map(|pod| (pod, PodOrigin::Claims)),
        }
    }

    /// Returns the body of a request.
    fn body(&self, target: &Target) -> Value {
        let mut spec = json!({
            "audiences": [target.audience],
            "expirationSeconds": self.expiration.as_secs(),
        });
        if let Some((pod, _)) = &target.pod {
            spec["boundObjectRef"] = json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name });
            if let Some(uid) = &pod.uid {
                spec["boundObjectRef"]["uid"] = uid.as_str().into();
            }
        }
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        })
    }
}
