//! A fake of Google's Security Token Service and IAM Credentials.

mod iam_credentials;
mod security_tokens;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::http_server::{self, Answer, Body, HttpFault, HttpServer};

const PROJECT_NUMBER: u64 = 123_456_789_012;
const POOL: &str = "pool";
const PROVIDER: &str = "provider";
const EMAIL: &str = "demo@project.iam.gserviceaccount.com";
const ACCOUNT_ID: &str = "100000000000000000000";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// A fault of a [`FakeGoogle`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoogleFault {
    /// A fault of the HTTP server of both services.
    Http(HttpFault),
    /// A fault of the HTTP server of the Security Token Service.
    SecurityTokens(HttpFault),
    /// A fault of the HTTP server of IAM Credentials.
    IamCredentials(HttpFault),
    /// The Security Token Service rejects every request, as if the provider was disabled or deleted.
    ProviderDisabled,
    /// The Security Token Service rejects every subject token, as if it did not meet the attribute condition of the provider.
    AttributeCondition,
    /// The Security Token Service rejects every subject token, since it cannot fetch the keys of the issuer.
    IssuerUnreachable,
    /// The Security Token Service rejects every request with 429, as if the quota was exceeded.
    QuotaExceeded,
    /// The Security Token Service returns a federated token without `expires_in`, as for a subject token that is about to
    /// expire.
    MissingExpiresIn,
    /// The Security Token Service returns a federated token that is not valid.
    InvalidFederatedToken,
    /// IAM Credentials rejects every request with 403, as if the federated identity lacked the role on the service account.
    PermissionDenied,
    /// IAM Credentials rejects every request with 403, as if its API was disabled in the project.
    ApiDisabled,
    /// IAM Credentials rejects every request with 404, as if the service account did not exist.
    ServiceAccountNotFound,
    /// IAM Credentials returns an identity token for another audience.
    WrongAudience,
    /// IAM Credentials returns an identity token that has expired.
    ExpiredToken,
    /// IAM Credentials returns a text that is not a token.
    InvalidToken,
    /// Both services reject every request with a message that contains everything that the client has sent, tokens included.
    EchoedRequest,
}

/// A request for a token of the service account that a [`FakeGoogle`] has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoogleTokenRequest {
    /// `generateIdToken`.
    #[non_exhaustive]
    Identity {
        /// The email address of the service account.
        service_account: String,
        /// `audience`.
        audience: String,
        /// `includeEmail`.
        include_email: bool,
        /// `useEmailAzp`: whether `azp` is the email address instead of the unique ID.
        use_email_azp: bool,
        /// The header `x-goog-user-project`, if it is present.
        quota_project: Option<String>,
    },
    /// `generateAccessToken`.
    #[non_exhaustive]
    Access {
        /// The email address of the service account.
        service_account: String,
        /// `scope`.
        scopes: Vec<String>,
        /// `lifetime`.
        lifetime: Duration,
        /// The header `x-goog-user-project`, if it is present.
        quota_project: Option<String>,
    },
}

/// A fake of Google's Security Token Service and IAM Credentials, on loopback over plain http. It stops when it is dropped.
///
/// It has one workload identity pool with one provider, whose resource name is [`audience`](Self::audience), and one service
/// account, [`service_account`](Self::service_account), whose tokens every federated identity may request.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use reqwest_wi_auth::testing::FakeGoogle;
/// use reqwest_wi_auth::{FixedToken, GoogleFederation, Token, TokenSource as _};
///
/// let google = FakeGoogle::start().await?;
/// let subject = FixedToken::new(Token::new(google.subject_token())?);
/// let federation = GoogleFederation::builder(google.audience(), subject)
///     .service_account_impersonation_url(google.impersonation_url())
///     .token_url(google.token_url())
///     .allow_origin(google.url())
///     .build()?;
/// let token = federation.open("https://auth-server.example").await?;
/// assert!(token.current().is_ok());
/// assert_eq!(google.exchange_count(), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Behavior and its sources
///
/// As documented by Google ([`token`], [`generateIdToken`], [`generateAccessToken`]):
///
/// - An exchange is a `POST` of a form to `/v1/token`. `grant_type`, `requested_token_type` (an access token), `audience` (the
///   provider), `scope`, `subject_token` and `subject_token_type` are required.
/// - The subject token has the issuer and one of the audiences of the provider: by default its resource name, with or without
///   `https:`. The federated token lives as long as the subject token, but for an hour at most.
/// - A request for a token of a service account is a `POST` of JSON to
///   `/v1/projects/-/serviceAccounts/EMAIL:generateIdToken` or `:generateAccessToken`, with a federated token of the scope
///   `cloud-platform`. An identity token requires `audience`, and contains the email address only with `includeEmail`. An
///   access token requires `scope`; its `lifetime` is one hour by default and at most.
///
/// As recorded from the real services in public bug reports and troubleshooting documents, with their texts:
///
/// - Errors of an exchange have the status 400 and the form of OAuth 2.0: another audience of the subject token, another
///   issuer, one that has expired, an invalid signature, an issuer whose keys cannot be fetched (`invalid_grant`), the attribute
///   condition (`unauthorized_client`), a provider that does not exist or is disabled (`invalid_target`), a malformed
///   `audience` (`invalid_request`), and the quota (429, `quota_exceeded`). `expires_in` is missing for less than two seconds.
/// - Errors of IAM Credentials have the form `{"error": {"code", "message", "status", "details"}}`: 401 without or with an
///   invalid token, 403 without the permission or the scope and for a disabled API, 404 for a service account that does not
///   exist, 400 for unknown members.
///
/// Not known: the texts for a missing parameter and for content that is not JSON, and which check comes first.
///
/// # Differences from the real services
///
/// An exchange cannot be sent as JSON. There are no workforce pools, other subject tokens than JWTs, access boundaries,
/// delegates, and longer lifetimes by organization policy. Signatures are verified only with
/// [`set_subject_fn`](Self::set_subject_fn).
///
/// [`token`]: https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token
/// [`generateIdToken`]: https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken
/// [`generateAccessToken`]: https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken
#[derive(Debug)]
pub struct FakeGoogle {
    server: HttpServer,
    url: String,
    state: Arc<State>,
}

type Verification = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type VerifyFn = Arc<dyn Fn(String) -> Verification + Send + Sync>;
type TokenFn = Arc<dyn Fn(&GoogleTokenRequest) -> String + Send + Sync>;
type ClockFn = Arc<dyn Fn() -> SystemTime + Send + Sync>;

#[derive(Default)]
struct State {
    settings: Mutex<Settings>,
    /// The federated tokens.
    federated: Mutex<HashMap<String, FederatedToken>>,
    accepted: Mutex<Vec<GoogleTokenRequest>>,
    exchanges: AtomicU64,
    issued: AtomicU64,
}

struct FederatedToken {
    scope: String,
    expires_at: SystemTime,
}

#[derive(Clone)]
struct Settings {
    fault: Option<GoogleFault>,
    verify_subject: Option<VerifyFn>,
    token_fn: Option<TokenFn>,
    /// The issuer of the provider, or `None` if every issuer is accepted.
    issuer: Option<String>,
    /// The audiences of the provider, or the default if there are none.
    audiences: Vec<String>,
    federated_lifetime: Duration,
    token_lifetime: Duration,
    clock: ClockFn,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fault: None,
            verify_subject: None,
            token_fn: None,
            issuer: None,
            audiences: Vec::new(),
            federated_lifetime: DEFAULT_LIFETIME,
            token_lifetime: DEFAULT_LIFETIME,
            clock: Arc::new(SystemTime::now),
        }
    }
}

impl FakeGoogle {
    /// Starts a server on 127.0.0.1, on a port that the operating system chooses. Spawns a task on the current tokio
    /// runtime.
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
        let server =
            HttpServer::start(move |request| handle(request, for_requests.clone())).await?;
        let url = server.url();
        Ok(Self { server, url, state })
    }

    /// Returns the URL, without a path: the origin that a configuration has to allow.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the Security Token Service: `token_url` of a credential configuration.
    pub fn token_url(&self) -> String {
        format!("{}/v1/token", self.url)
    }

    /// Returns the URL of the access tokens of the service account: `service_account_impersonation_url` of a credential
    /// configuration.
    pub fn impersonation_url(&self) -> String {
        let email = self.service_account();
        format!(
            "{}/v1/projects/-/serviceAccounts/{email}:generateAccessToken",
            self.url
        )
    }

    /// Returns the resource name of the provider: `audience` of a credential configuration.
    pub fn audience(&self) -> String {
        provider()
    }

    /// Returns the audience that a subject token has by default: the resource name of the provider with `https:`.
    pub fn subject_audience(&self) -> String {
        format!("https:{}", provider())
    }

    /// Returns the email address of the service account.
    pub fn service_account(&self) -> &str {
        EMAIL
    }

    /// Returns a subject token that the provider accepts, valid for an hour, unless [`set_subject_fn`](Self::set_subject_fn)
    /// or [`set_issuer`](Self::set_issuer) was called. Its signature is not valid.
    pub fn subject_token(&self) -> String {
        let now = unix_seconds((self.state.settings().clock)());
        sign(
            &json!({
                "iss": "https://kubernetes.default.svc",
                "aud": [self.subject_audience()],
                "sub": "system:serviceaccount:default:default",
                "iat": now,
                "nbf": now,
                "exp": now + DEFAULT_LIFETIME.as_secs(),
            }),
            self.state.issued.fetch_add(1, Ordering::Relaxed),
        )
    }

    /// Returns a credential configuration as `gcloud iam workload-identity-pools create-cred-config` writes it, for a subject
    /// token in a file, with the URLs of this fake.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use reqwest_wi_auth::testing::FakeGoogle;
    ///
    /// let google = FakeGoogle::start().await?;
    /// let json = google.credential_configuration("/var/run/secrets/tokens/google");
    /// assert!(json.contains(r#""type": "external_account""#));
    /// # Ok(())
    /// # }
    /// ```
    pub fn credential_configuration(&self, token_file: impl AsRef<Path>) -> String {
        let file = token_file.as_ref().display().to_string();
        let configuration = json!({
            "universe_domain": "googleapis.com",
            "type": "external_account",
            "audience": self.audience(),
            "subject_token_type": JWT,
            "token_url": self.token_url(),
            "credential_source": { "file": file },
            "service_account_impersonation_url": self.impersonation_url(),
        });
        format!("{configuration:#}\n")
    }

    /// Returns the number of requests so far, including those that were rejected.
    pub fn request_count(&self) -> u64 {
        self.server.request_count()
    }

    /// Returns the number of successful exchanges so far.
    pub fn exchange_count(&self) -> u64 {
        self.state.exchanges.load(Ordering::SeqCst)
    }

    /// Returns the requests for tokens of the service account that were accepted so far.
    pub fn token_requests(&self) -> Vec<GoogleTokenRequest> {
        lock(&self.state.accepted).clone()
    }

    /// Sets the fault of further responses, or none.
    pub fn set_fault(&self, fault: Option<GoogleFault>) {
        lock(&self.state.settings).fault = fault;
    }

    /// Sets the function that verifies a subject token, such as its signature. Its error is the `error_description` of
    /// `invalid_grant`. Issuer, audience and expiry are checked in any case. Default: no function.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use reqwest_wi_auth::testing::FakeGoogle;
    ///
    /// let google = FakeGoogle::start().await?;
    /// google.set_subject_fn(|token: String| async move {
    ///     // Verify it, for example with `tower_oidc_guard::testing::TestIssuer`.
    ///     if token.starts_with("ey") { Ok(()) } else { Err("Unable to verify the ID Token signature.".to_owned()) }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_subject_fn<F>(&self, verify: impl Fn(String) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let verify: VerifyFn = Arc::new(move |token| Box::pin(verify(token)));
        lock(&self.state.settings).verify_subject = Some(verify);
    }

    /// Sets the function that returns the identity token or access token for a request. Default: identity tokens with the
    /// claims of real ones and an invalid signature, and opaque access tokens.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use reqwest_wi_auth::testing::{FakeGoogle, GoogleTokenRequest};
    ///
    /// let google = FakeGoogle::start().await?;
    /// google.set_token_fn(|request| match request {
    ///     GoogleTokenRequest::Identity { audience, .. } => mint(audience),
    ///     _ => "ya29.access-token".to_owned(),
    /// });
    /// # fn mint(audience: &str) -> String { audience.to_owned() }
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_token_fn(
        &self,
        token: impl Fn(&GoogleTokenRequest) -> String + Send + Sync + 'static,
    ) {
        lock(&self.state.settings).token_fn = Some(Arc::new(token));
    }

    /// Sets the issuer of the provider: `iss` of subject tokens. Default: every issuer is accepted.
    pub fn set_issuer(&self, issuer: impl Into<String>) {
        lock(&self.state.settings).issuer = Some(issuer.into());
    }

    /// Sets the allowed audiences of the provider: one of the values of `aud` of a subject token has to equal one of them.
    /// Default: the resource name of the provider, with or without `https:`.
    pub fn set_allowed_audiences<A: Into<String>>(&self, audiences: impl IntoIterator<Item = A>) {
        let audiences = audiences.into_iter().map(Into::into).collect();
        lock(&self.state.settings).audiences = audiences;
    }

    /// Sets the longest lifetime of federated tokens. Default: 1 h.
    pub fn set_federated_lifetime(&self, lifetime: Duration) {
        lock(&self.state.settings).federated_lifetime = lifetime;
    }

    /// Sets the lifetime of the identity tokens that are created without a function. Default: 1 h.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        lock(&self.state.settings).token_lifetime = lifetime;
    }

    /// Sets the function that returns the current time, for the expiry of all tokens. Default: [`SystemTime::now`].
    pub fn set_clock(&self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) {
        lock(&self.state.settings).clock = Arc::new(clock);
    }

    /// Makes all federated tokens invalid, as if the provider had been deleted and created again.
    pub fn revoke_federated_tokens(&self) {
        lock(&self.state.federated).clear();
    }
}

impl State {
    fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("fault", &self.settings().fault)
            .field("accepted", &lock(&self.accepted).len())
            .finish_non_exhaustive()
    }
}

async fn handle(request: Request<Bytes>, state: Arc<State>) -> Answer {
    let settings = state.settings();
    let is_exchange = request.uri().path() == "/v1/token";
    let http_fault = match &settings.fault {
        Some(GoogleFault::Http(fault)) => Some(fault),
        Some(GoogleFault::SecurityTokens(fault)) if is_exchange => Some(fault),
        Some(GoogleFault::IamCredentials(fault)) if !is_exchange => Some(fault),
        _ => None,
    };
    if let Some(fault) = http_fault {
        return fault.clone().respond().await;
    }
    if is_exchange {
        Ok(security_tokens::respond(&request, &state, &settings).await)
    } else {
        Ok(iam_credentials::respond(&request, &state, &settings))
    }
}

/// Returns the page of Google's servers for a path or method that does not exist.
fn not_found(request: &Request<Bytes>) -> Response<Body> {
    let path = request
        .uri()
        .path()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let page = format!(
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error 404 (Not Found)!!1</title>\n  \
         <p><b>404.</b> <ins>That’s an error.</ins>\n  <p>The requested URL <code>{path}</code> was not found on this \
         server.  <ins>That’s all we know.</ins>\n"
    );
    http_server::text(StatusCode::NOT_FOUND, "text/html; charset=UTF-8", page)
}

/// Returns everything that a client has sent: the headers and the body.
fn echo(request: &Request<Bytes>) -> String {
    let mut text = String::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push_str(&String::from_utf8_lossy(request.body()));
    text
}

/// Returns the content type of a request without parameters, in lower case.
fn content_type(request: &Request<Bytes>) -> String {
    let value = request.headers().get(http::header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let value = value.and_then(|value| value.split(';').next());
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Returns the resource name of the provider.
fn provider() -> String {
    format!(
        "//iam.googleapis.com/projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{POOL}/providers/{PROVIDER}"
    )
}

/// Returns a JWT with these claims and a signature that has the length of a valid one but is not valid. `count` makes it
/// differ from other tokens.
fn sign(claims: &Value, count: u64) -> String {
    let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = json!({ "alg": "RS256", "kid": "fake", "typ": "JWT" });
    let mut signature = [0xa5; 256];
    signature[..8].copy_from_slice(&count.to_be_bytes());
    format!(
        "{}.{}.{}",
        encode(&header),
        encode(claims),
        URL_SAFE_NO_PAD.encode(signature)
    )
}

fn unix_seconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
