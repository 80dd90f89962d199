//! A fake of the TokenRequest API of a Kubernetes API server.

mod cluster;
mod responses;

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, StatusCode};
use serde_json::Value;

use self::cluster::Cluster;
use super::http_server::{Answer, HttpFault, HttpServer, text};

/// A fault of a [`FakeTokenRequestServer`]. It affects every request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenRequestFault {
    /// A fault of the HTTP server.
    Http(HttpFault),
    /// Responds with the correct response after this time, by the clock of tokio.
    Delay(Duration),
    /// Responds like a server that is overloaded: 429 with this `Retry-After`, in seconds.
    TooManyRequests(u64),
    /// Responds with 500 and a `Status` whose message repeats the request, with its token.
    EchoedRequest,
    /// Responds with a `TokenRequest` without `status`.
    MissingToken,
    /// Issues this text as the token.
    Token(String),
    /// Issues a token for another audience.
    WrongAudience,
    /// Issues a token that has expired.
    ExpiredToken,
    /// Responds without `status.expirationTimestamp`.
    MissingTimestamp,
    /// Responds with this text as `status.expirationTimestamp`.
    Timestamp(String),
}

/// A token that a [`FakeTokenRequestServer`] has issued.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuedTokenRequest {
    /// The namespace of the service account.
    pub namespace: String,
    /// The name of the service account.
    pub service_account: String,
    /// The audiences.
    pub audiences: Vec<String>,
    /// The lifetime in seconds.
    pub expiration_seconds: u64,
    /// The name of the pod that the token is bound to.
    pub pod: Option<String>,
    /// The subject of the token that the request was authenticated with: `system:serviceaccount:NAMESPACE:NAME`.
    pub requested_by: String,
}

/// A fake of the TokenRequest API of a Kubernetes API server, on loopback, without TLS. It stops when it is dropped.
///
/// Its tokens have the claims of real ones, and a signature that has the length of a valid one but is not valid, unless
/// [`set_token_fn`](Self::set_token_fn) is called.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use reqwest_wi_auth::testing::FakeTokenRequestServer;
/// use reqwest_wi_auth::{FixedToken, Token, TokenRequest, TokenSource as _};
///
/// let server = FakeTokenRequestServer::start().await?;
/// server.create_service_account("shop", "orders");
/// let token_request = TokenRequest::builder()
///     .api_server(server.url())
///     .credentials(FixedToken::new(Token::new(server.own_token("shop", "orders"))?))
///     .build()?;
/// let error = token_request.start("https://stock.example").refresh(None).await.unwrap_err();
/// assert!(error.to_string().contains("--verb=create --resource=serviceaccounts/token"));
///
/// server.grant("shop", "orders", "orders");
/// let token = token_request.open("https://stock.example").await?;
/// assert!(token.current()?.expires_at().is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Behavior and its sources
///
/// As recorded from Kubernetes 1.20, and compared with a real kube-apiserver by the contract tests of this crate's repository. The
/// checks are in this order:
///
/// 1. A request with a bearer token that is not valid gets 401; one without a bearer token is that of `system:anonymous`. The token
///    must have the audience of the API server, and its service account and its pod must exist. Its signature is verified by
///    [`set_credential_fn`](Self::set_credential_fn).
/// 2. A caller without a [role](Self::grant) gets 403, whatever the body is and whether the service account exists. So does a method
///    other than `POST`, since a role grants only `create`.
/// 3. An `Accept` header without JSON gets 406.
/// 4. A body that is not a `TokenRequest` of `authentication.k8s.io/v1` gets 400; its `kind` and its `apiVersion` may be missing. The
///    content type is ignored.
/// 5. `expirationSeconds` of less than 600 or more than 2^32 gets 422. The default is 3600. No audience is that of the API server.
/// 6. A namespace or a service account that does not exist gets 404.
/// 7. A `boundObjectRef` must have the kind `Pod` (400) and a name (400) of a pod that exists (404) and has the same service account
///    (400), and the same uid, if there is one (409).
///
/// The lifetime of a token is that of the request, or that of [`set_max_expiration`](Self::set_max_expiration) if this is shorter,
/// as with `--service-account-max-token-expiration`. Known from the source of Kubernetes only: the text of a response with 429.
///
/// # Differences from the real server
///
/// There are no other resources: service accounts, pods and roles are created with the methods of this type. A real server may
/// accept the token of a service account that was deleted for 10 s. The metadata of a `TokenRequest` lacks `managedFields`. Secrets
/// and nodes cannot be bound.
#[derive(Debug)]
pub struct FakeTokenRequestServer {
    server: HttpServer,
    state: Arc<State>,
}

type Verification = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type VerifyFn = Arc<dyn Fn(String) -> Verification + Send + Sync>;
type TokenFn = Arc<dyn Fn(&Value) -> String + Send + Sync>;

#[derive(Default)]
struct State {
    cluster: Mutex<Cluster>,
    fault: Mutex<Option<TokenRequestFault>>,
    verify: Mutex<Option<VerifyFn>>,
    token_fn: Mutex<Option<TokenFn>>,
    issued: Mutex<Vec<IssuedTokenRequest>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl FakeTokenRequestServer {
    /// Starts a server on 127.0.0.1, on a port that the operating system chooses. Spawns a task on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the server cannot listen.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, or if the I/O of the runtime is not enabled.
    pub async fn start() -> io::Result<Self> {
        let state = Arc::<State>::default();
        let for_requests = state.clone();
        let server = HttpServer::start(move |request| {
            let state = for_requests.clone();
            async move { respond(&request, &state).await }
        })
        .await?;
        Ok(Self { server, state })
    }

    /// Returns the URL of the API server.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Returns the number of requests so far, including rejected ones.
    pub fn request_count(&self) -> u64 {
        self.server.request_count()
    }

    /// Returns the tokens that were issued since the last call.
    pub fn take_issued(&self) -> Vec<IssuedTokenRequest> {
        std::mem::take(&mut lock(&self.state.issued))
    }

    /// Sets the fault of further responses, or none.
    pub fn set_fault(&self, fault: Option<TokenRequestFault>) {
        *lock(&self.state.fault) = fault;
    }

    /// Creates a service account, and its namespace. A service account that is deleted and created again has another uid, so its
    /// earlier tokens stay invalid.
    pub fn create_service_account(&self, namespace: &str, name: &str) {
        self.cluster().create_account(namespace, name);
    }

    /// Deletes a service account. Its tokens are not valid any more.
    pub fn delete_service_account(&self, namespace: &str, name: &str) {
        self.cluster().delete_account(namespace, name);
    }

    /// Creates a pod of a service account, and returns its uid. A pod of the same name is deleted first.
    pub fn create_pod(&self, namespace: &str, name: &str, service_account: &str) -> String {
        self.cluster().create_pod(namespace, name, service_account)
    }

    /// Deletes a pod. The tokens that are bound to it are not valid any more.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        self.cluster().delete_pod(namespace, name);
    }

    /// Lets a service account create tokens for a service account in its namespace, as a Role with `create` on
    /// `serviceaccounts/token` and a `resourceNames` does.
    pub fn grant(&self, namespace: &str, holder: &str, service_account: &str) {
        self.cluster().grant(namespace, holder, service_account);
    }

    /// Withdraws what [`grant`](Self::grant) grants.
    pub fn revoke(&self, namespace: &str, holder: &str, service_account: &str) {
        self.cluster().revoke(namespace, holder, service_account);
    }

    /// Sets the longest lifetime of tokens (`--service-account-max-token-expiration`). Default: none.
    pub fn set_max_expiration(&self, expiration: Duration) {
        self.cluster().max_expiration = Some(expiration);
    }

    /// Returns a token of a service account for the API server itself, which is valid for 1 h and not bound to a pod. The service
    /// account is created if it does not exist.
    pub fn own_token(&self, namespace: &str, service_account: &str) -> String {
        let claims = self.cluster().own_claims(namespace, service_account, None);
        self.state.sign(&claims)
    }

    /// Returns a token like [`own_token`](Self::own_token), which is bound to a pod. The pod is created if it does not exist.
    pub fn own_token_of_pod(&self, namespace: &str, service_account: &str, pod: &str) -> String {
        let claims = self
            .cluster()
            .own_claims(namespace, service_account, Some(pod));
        self.state.sign(&claims)
    }

    /// Writes the files `token` and `namespace` into a directory, for
    /// [`service_account_directory`](crate::TokenRequestBuilder::service_account_directory). Each file is replaced, so calling this
    /// again rotates the token. There is no `ca.crt`, since the server does not use TLS.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be written.
    pub fn write_volume(
        &self,
        directory: impl AsRef<Path>,
        namespace: &str,
        service_account: &str,
    ) -> io::Result<()> {
        let token = self.own_token(namespace, service_account);
        for (name, content) in [("namespace", namespace), ("token", &token)] {
            let path = directory.as_ref().join(name);
            let written = path.with_extension("new");
            std::fs::write(&written, content)?;
            std::fs::rename(&written, &path)?;
        }
        Ok(())
    }

    /// Sets the function that verifies the signatures of the tokens in requests: it returns the reason why a token is not accepted.
    /// Default: signatures are not verified.
    pub fn set_credential_fn<F>(&self, verify: impl Fn(String) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        *lock(&self.state.verify) = Some(Arc::new(move |token| Box::pin(verify(token))));
    }

    /// Sets the function that returns the token with these claims, such as one that is signed by a test issuer.
    pub fn set_token_fn(&self, token: impl Fn(&Value) -> String + Send + Sync + 'static) {
        *lock(&self.state.token_fn) = Some(Arc::new(token));
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.state.cluster)
    }
}

impl State {
    /// Returns a token with these claims.
    fn sign(&self, claims: &Value) -> String {
        let token_fn = lock(&self.token_fn).clone();
        match token_fn {
            Some(token_fn) => token_fn(claims),
            None => cluster::unsigned_token(claims),
        }
    }
}

/// Responds to a request: with the fault, or like a real server.
async fn respond(request: &Request<Bytes>, state: &State) -> Answer {
    let fault = lock(&state.fault).clone();
    match &fault {
        Some(TokenRequestFault::Http(fault)) => return fault.clone().respond().await,
        Some(TokenRequestFault::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(TokenRequestFault::TooManyRequests(seconds)) => {
            let message = "Too many requests, please try again later.\n";
            let mut response = text(
                StatusCode::TOO_MANY_REQUESTS,
                "text/plain; charset=utf-8",
                message,
            );
            let seconds = HeaderValue::from(*seconds);
            response.headers_mut().insert(RETRY_AFTER, seconds);
            return Ok(response);
        }
        Some(TokenRequestFault::EchoedRequest) => {
            let body = String::from_utf8_lossy(request.body()).into_owned();
            let message = format!("panic in handler: {:?} {body}", sent_headers(request));
            return Ok(responses::failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                &message,
                None,
            ));
        }
        _ => {}
    }
    let token = responses::bearer_token(request).map(str::to_owned);
    let verify = lock(&state.verify).clone();
    let is_verified = match (&token, verify) {
        (Some(token), Some(verify)) => verify(token.clone()).await.is_ok(),
        _ => true,
    };
    let granted = {
        let cluster = lock(&state.cluster);
        let caller = match &token {
            None => Ok(cluster::Caller::Anonymous),
            Some(token) if is_verified => cluster.authenticate(token),
            Some(_) => Err(()),
        };
        match caller {
            Ok(caller) => responses::check(request, &caller, &cluster),
            Err(()) => Err(responses::unauthorized()),
        }
    };
    let granted = match granted {
        Ok(granted) => granted,
        Err(response) => return Ok(*response),
    };
    let response = responses::issue(&granted, fault.as_ref(), |claims| state.sign(claims));
    lock(&state.issued).push(granted.record());
    Ok(response)
}

/// Returns the values of the headers of a request, with its credentials.
fn sent_headers(request: &Request<Bytes>) -> Vec<String> {
    let values = request.headers().values();
    values
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
