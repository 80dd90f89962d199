//! A fake of an OAuth 2.0 token endpoint.

mod client;
mod form;
mod grant;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use self::client::ClientPolicy;
use self::form::Form;
use self::grant::Issued;
use super::http_server::{self, Answer, Body, HttpFault, HttpServer};
use crate::token::Token;

const PATH: &str = "/token";
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// A fault of a [`FakeTokenEndpoint`]. It affects every request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenEndpointFault {
    /// A fault of the HTTP server.
    Http(HttpFault),
    /// Responds with the correct response after this time, by the clock of tokio.
    Delay(Duration),
    /// Rejects the request with an error as defined by RFC 6749, section 5.2.
    Error {
        /// The status of the response, such as 400.
        status: StatusCode,
        /// `error`, such as `invalid_grant`.
        error: String,
        /// `error_description`.
        description: String,
    },
    /// Rejects the request with `invalid_request` and an `error_description` that contains everything that the client has
    /// sent, secrets and tokens included, as some servers do.
    EchoedRequest,
    /// Responds without `access_token`.
    MissingAccessToken,
    /// Responds with this text as `access_token`.
    AccessToken(String),
    /// Responds without `token_type`.
    MissingTokenType,
    /// Responds with this `token_type`, such as `N_A` or `DPoP`.
    TokenType(String),
    /// Responds without `issued_token_type`, as a server that does not implement RFC 8693 does.
    MissingIssuedTokenType,
    /// Responds with this `issued_token_type`.
    IssuedTokenType(String),
    /// Responds without `expires_in`, which is optional.
    MissingExpiresIn,
    /// Responds with a text instead of a number in `expires_in`, such as `"3600"`.
    TextInExpiresIn(String),
    /// Responds with this number in `expires_in`.
    ExpiresIn(i64),
}

/// An accepted request to a [`FakeTokenEndpoint`].
///
/// `Debug` does not show the tokens.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenEndpointRequest {
    /// `grant_type`.
    pub grant_type: String,
    /// The identifier of the client, if it has sent one.
    pub client_id: Option<String>,
    /// `subject_token`, in an exchange.
    pub subject_token: Option<String>,
    /// `subject_token_type`, in an exchange.
    pub subject_token_type: Option<String>,
    /// `requested_token_type`.
    pub requested_token_type: Option<String>,
    /// Each `audience`.
    pub audiences: Vec<String>,
    /// Each `resource`.
    pub resources: Vec<String>,
    /// `scope`.
    pub scope: Option<String>,
    /// The names and values of parameters that the RFCs do not define.
    pub other: Vec<(String, String)>,
}

impl fmt::Debug for TokenEndpointRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpointRequest")
            .field("grant_type", &self.grant_type)
            .field("client_id", &self.client_id)
            .field("subject_token_type", &self.subject_token_type)
            .field("requested_token_type", &self.requested_token_type)
            .field("audiences", &self.audiences)
            .field("resources", &self.resources)
            .field("scope", &self.scope)
            .field("other", &self.other)
            .finish_non_exhaustive()
    }
}

/// A fake of an OAuth 2.0 token endpoint, on loopback, for token exchanges and client credentials. It stops when it is
/// dropped.
///
/// Its tokens have the claims `iss`, `sub`, `aud`, `client_id`, `scope`, `iat`, `exp` and `jti`, and a signature that has the
/// length of a valid one but is not valid, unless [`set_token_fn`](Self::set_token_fn) is called. `sub` is that of the subject
/// token.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use reqwest_wi_auth::testing::FakeTokenEndpoint;
///
/// let endpoint = FakeTokenEndpoint::start().await?;
/// // Without a function, every JWT that has not expired is accepted.
/// endpoint.set_subject_fn(|token: String| async move {
///     // Verify it, for example with `tower_oidc_guard::testing::TestIssuer`.
///     if token.starts_with("ey") { Ok(()) } else { Err("not a JWT".to_owned()) }
/// });
/// assert!(endpoint.url().ends_with("/token"));
/// assert_eq!(endpoint.request_count(), 0);
/// # Ok(())
/// # }
/// ```
///
/// # Behavior and its sources
///
/// As required by OAuth 2.0 ([RFC 6749]):
///
/// - A request is a `POST` with parameters of the type `application/x-www-form-urlencoded` (section 3.2). A parameter without
///   a value is ignored, as is an unknown one. A parameter that is included twice is an error (`invalid_request`).
/// - A client authenticates with one method: HTTP Basic, whose parts are form-encoded (section 2.3.1), or the parameters
///   `client_id` and `client_secret`, or an assertion ([RFC 7523], section 2.2). More than one is `invalid_request`, and a
///   client that is unknown or has the wrong credentials is `invalid_client`, with 401 and, if it used HTTP Basic,
///   `WWW-Authenticate`.
/// - `client_credentials` is only for a client with credentials. An unknown grant type is `unsupported_grant_type`.
/// - A response has `Cache-Control: no-store` and `Pragma: no-cache` (section 5.1). An error has the status 400 unless stated
///   otherwise, `error` and `error_description` (section 5.2).
///
/// As required by token exchange ([RFC 8693]):
///
/// - `audience` and `resource` may be included several times; a `resource` is an absolute URI without a fragment (section
///   2.1). One that the endpoint does not serve is `invalid_target` (section 2.2.2).
/// - `subject_token` and `subject_token_type` are required. `actor_token_type` is required if, and only if, there is an
///   `actor_token`. A subject token that is not accepted is `invalid_request` (section 2.2.2); many servers return
///   `invalid_grant` instead, which [`set_subject_error`](Self::set_subject_error) selects.
/// - A response has `issued_token_type`, and the `token_type` is `N_A` for a token that is not an access token: an ID token
///   (section 2.2.1).
///
/// Not specified, so a choice of this fake: the responses to other methods (405 with `Allow`) and paths (404), and which check
/// comes first.
///
/// # Differences from real servers
///
/// There are no actor tokens, and tokens of other types than JWTs, access tokens and ID tokens: requests with or for them are
/// `invalid_request`.
///
/// [RFC 6749]: https://www.rfc-editor.org/rfc/rfc6749
/// [RFC 7523]: https://www.rfc-editor.org/rfc/rfc7523
/// [RFC 8693]: https://www.rfc-editor.org/rfc/rfc8693
#[derive(Debug)]
pub struct FakeTokenEndpoint {
    server: HttpServer,
    state: Arc<State>,
}

type Verification = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type VerifyFn = Arc<dyn Fn(String) -> Verification + Send + Sync>;
type TokenFn = Arc<dyn Fn(&TokenEndpointRequest) -> String + Send + Sync>;

#[derive(Default)]
struct State {
    settings: Mutex<Settings>,
    accepted: Mutex<Vec<TokenEndpointRequest>>,
    tokens: AtomicU64,
}

#[derive(Clone)]
struct Settings {
    fault: Option<TokenEndpointFault>,
    client: ClientPolicy,
    verify_subject: VerifyFn,
    /// The error code for a subject token that is not accepted.
    subject_error: String,
    /// The accepted values of `audience` and `resource`, or `None` if all are accepted.
    targets: Option<Vec<String>>,
    /// The accepted scopes, or `None` if all are accepted.
    scopes: Option<Vec<String>>,
    lifetime: Duration,
    token_fn: Option<TokenFn>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fault: None,
            client: ClientPolicy::Anonymous,
            verify_subject: verify_fn(verify_format),
            subject_error: "invalid_request".to_owned(),
            targets: None,
            scopes: None,
            lifetime: DEFAULT_LIFETIME,
            token_fn: None,
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings and requests contain secrets and tokens.
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl FakeTokenEndpoint {
    /// Starts an endpoint on 127.0.0.1, on a port that the operating system chooses. Spawns a task on the current tokio
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
        let server = HttpServer::start(move |request| {
            let state = for_requests.clone();
            async move { respond(&request, &state).await }
        })
        .await?;
        Ok(Self { server, state })
    }

    /// Returns the URL of the endpoint.
    pub fn url(&self) -> String {
        format!("{}{PATH}", self.server.url())
    }

    /// Returns the number of requests so far, including rejected ones.
    pub fn request_count(&self) -> u64 {
        self.server.request_count()
    }

    /// Returns the accepted requests since the last call.
    pub fn take_requests(&self) -> Vec<TokenEndpointRequest> {
        std::mem::take(&mut lock(&self.state.accepted))
    }

    /// Sets the fault of further responses, or none.
    pub fn set_fault(&self, fault: Option<TokenEndpointFault>) {
        self.settings().fault = fault;
    }

    /// Sets the function that verifies subject tokens: it returns the reason why a token is not accepted. Default: a JWT that
    /// has not expired is accepted.
    pub fn set_subject_fn<F>(&self, verify: impl Fn(String) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.settings().verify_subject = verify_fn(verify);
    }

    /// Sets the error code for subject tokens that are not accepted. Default: `invalid_request`, as required by RFC 8693.
    pub fn set_subject_error(&self, error: &str) {
        error.clone_into(&mut self.settings().subject_error);
    }

    /// Accepts only a client with this identifier and secret. Default: a client without an identifier.
    pub fn require_client_secret(&self, client_id: &str, secret: &str) {
        self.settings().client = ClientPolicy::Secret {
            id: client_id.to_owned(),
            secret: secret.to_owned(),
        };
    }

    /// Accepts only a client with this identifier, which does not authenticate. Default: a client without an identifier.
    pub fn require_public_client(&self, client_id: &str) {
        self.settings().client = ClientPolicy::Public {
            id: client_id.to_owned(),
        };
    }

    /// Accepts only a client that authenticates with an assertion. The function verifies it: it returns the reason why it is
    /// not accepted. If the client includes a `client_id` as well, it has to be this one. Default: a client without an
    /// identifier.
    pub fn require_client_assertion<F>(
        &self,
        client_id: &str,
        verify: impl Fn(String) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.settings().client = ClientPolicy::Assertion {
            id: client_id.to_owned(),
            verify: verify_fn(verify),
        };
    }

    /// Accepts only these values of `audience` and `resource`. Default: all.
    pub fn set_targets<'t>(&self, targets: impl IntoIterator<Item = &'t str>) {
        let targets = targets.into_iter().map(str::to_owned).collect();
        self.settings().targets = Some(targets);
    }

    /// Accepts only these scopes. Default: all.
    pub fn set_scopes<'s>(&self, scopes: impl IntoIterator<Item = &'s str>) {
        let scopes = scopes.into_iter().map(str::to_owned).collect();
        self.settings().scopes = Some(scopes);
    }

    /// Sets the lifetime of tokens: `expires_in`, and `exp` unless [`set_token_fn`](Self::set_token_fn) is called. Default:
    /// 1 h. Fractions of a second are ignored.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.settings().lifetime = lifetime;
    }

    /// Sets the function that returns the token for a request, such as one that is signed by a test issuer, or an opaque one.
    pub fn set_token_fn(
        &self,
        token: impl Fn(&TokenEndpointRequest) -> String + Send + Sync + 'static,
    ) {
        self.settings().token_fn = Some(Arc::new(token));
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.state.settings)
    }
}

/// Responds to a request: with the fault, the token, or the error.
async fn respond(request: &Request<Bytes>, state: &State) -> Answer {
    let settings = lock(&state.settings).clone();
    match &settings.fault {
        Some(TokenEndpointFault::Http(fault)) => return fault.clone().respond().await,
        Some(TokenEndpointFault::Delay(delay)) => tokio::time::sleep(*delay).await,
        _ => {}
    }
    if request.uri().path() != PATH {
        return Ok(http_server::empty(StatusCode::NOT_FOUND));
    }
    if request.method() != Method::POST {
        let mut response = http_server::empty(StatusCode::METHOD_NOT_ALLOWED);
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let result = match settings.fault.clone() {
        Some(TokenEndpointFault::Error {
            status,
            error,
            description,
        }) => Err(Rejection {
            status,
            error,
            description,
        }),
        Some(TokenEndpointFault::EchoedRequest) => Err(echo(request)),
        _ => accept(request, &settings, state).await,
    };
    Ok(match result {
        Ok(issued) => no_store(http_server::json(
            StatusCode::OK,
            &issued.into_json(settings.fault.as_ref()),
        )),
        Err(rejection) => {
            let used_basic = request.headers().contains_key(AUTHORIZATION);
            rejection.into_response(used_basic)
        }
    })
}

/// Checks a request in the order of the sections of RFC 6749 and RFC 8693, and issues a token.
async fn accept(
    request: &Request<Bytes>,
    settings: &Settings,
    state: &State,
) -> Result<Issued, Rejection> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next());
    if !media_type.is_some_and(|media_type| {
        media_type
            .trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    }) {
        return Err(Rejection::invalid_request(
            "the content type is not application/x-www-form-urlencoded",
        ));
    }
    let form = Form::parse(request.body())?;
    let client_id = settings.client.authenticate(request, &form).await?;
    let accepted = grant::check(&form, client_id, settings).await?;
    let token = match &settings.token_fn {
        Some(token_fn) => token_fn(&accepted),
        None => {
            let number = state.tokens.fetch_add(1, Ordering::Relaxed);
            let host = request.headers().get("host");
            let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
            grant::token(&accepted, host, settings.lifetime, number)
        }
    };
    let issued = Issued::new(&accepted, token, settings.lifetime);
    lock(&state.accepted).push(accepted);
    Ok(issued)
}

/// An error as defined by RFC 6749, section 5.2.
struct Rejection {
    status: StatusCode,
    error: String,
    description: String,
}

impl Rejection {
    fn new(error: &str, description: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: error.to_owned(),
            description: description.into(),
        }
    }

    fn invalid_request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    fn invalid_client(description: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            ..Self::new("invalid_client", description)
        }
    }

    fn into_response(self, used_basic: bool) -> Response<Body> {
        let body = json!({ "error": self.error, "error_description": self.description });
        let mut response = no_store(http_server::json(self.status, &body));
        if self.status == StatusCode::UNAUTHORIZED && used_basic {
            let challenge = HeaderValue::from_static("Basic realm=\"token\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Returns an error that contains everything that the client has sent: the header, the encoded body, and each value.
fn echo(request: &Request<Bytes>) -> Rejection {
    let body = String::from_utf8_lossy(request.body());
    let header = request.headers().get(AUTHORIZATION);
    let header = header
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .unwrap_or_default();
    let values: Vec<_> = form_urlencoded::parse(request.body())
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    Rejection::invalid_request(format!(
        "cannot process the request {body} ({}) with Authorization: {header}",
        values.join(", ")
    ))
}

fn no_store(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

fn verify_fn<F>(verify: impl Fn(String) -> F + Send + Sync + 'static) -> VerifyFn
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    Arc::new(move |token| Box::pin(verify(token)))
}

/// Accepts a JWT that has not expired.
async fn verify_format(token: String) -> Result<(), String> {
    let token = Token::new(token).map_err(|error| error.to_string())?;
    if token.is_expired(std::time::SystemTime::now()) {
        return Err("the token has expired".to_owned());
    }
    Ok(())
}

/// Inserts a member into a JSON object, or removes it.
fn set_member(object: &mut Value, name: &str, value: Option<Value>) {
    if let Value::Object(members) = object {
        match value {
            Some(value) => {
                members.insert(name.to_owned(), value);
            }
            None => {
                members.remove(name);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
