//! A fake of the endpoint from which a job of GitHub Actions requests its ID tokens.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use reqwest::Url;
use serde_json::{Value, json};

use super::http_server::{self, Answer, Body, HttpFault, HttpServer};

const REQUEST_TOKEN: &str =
    "eyJhbGciOiJSUzI1NiJ9.eyJmYWtlIjoicmVxdWVzdCB0b2tlbiJ9.ZmFrZSBzaWduYXR1cmU";
/// The path has an empty segment, as that of the real endpoint.
const PATH: &str =
    "/12//idtoken/7534b9e1-5505-4cff-9f7a-440ad58fadf5/55c239b7-523f-5586-aeb6-60a00c959946";
const API_VERSION: &str = "2.0";

const ISSUER: &str = "https://token.actions.githubusercontent.com";
const OWNER: &str = "octo-org";
const REPOSITORY: &str = "octo-org/octo-repo";
const REF: &str = "refs/heads/main";
const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// The lifetime of a token.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// How long before the time of issue a token becomes valid.
const BACKDATED: u64 = 600;
/// The size in bytes of an RS256 signature by a 2048-bit key.
const SIGNATURE_BYTES: usize = 256;

/// A fault of a [`FakeGitHubActions`]. It affects every request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GitHubActionsFault {
    /// A fault of the HTTP server.
    Http(HttpFault),
    /// Rejects the request token with 401, as after the end of the job.
    JobEnded,
    /// Rejects the request with a message that contains the request token, as a server that quotes what it rejects.
    QuotedToken,
    /// Returns a response without a token.
    MissingToken,
    /// Returns a token that is not a JWT.
    InvalidToken,
    /// Returns a token for the default audience, whatever the request contains.
    OtherAudience,
}

type TokenFn = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// A fake of the endpoint from which a job of GitHub Actions requests its ID tokens, on loopback. It stops when it is dropped.
///
/// Its tokens have the claims of real ones, for a push to the branch `main` of `octo-org/octo-repo`, and a signature that has
/// the length of a valid one but is not valid, unless [`set_token_fn`](Self::set_token_fn) is called.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use reqwest_wi_auth::testing::{FakeGitHubActions, GitHubActionsFault};
/// use reqwest_wi_auth::{GitHubActions, TokenSource as _};
///
/// let fake = FakeGitHubActions::start().await?;
/// let github = GitHubActions::new(fake.request_url(), fake.request_token())?;
/// let token = github.open("https://orders.example").await?;
/// assert!(token.current().is_ok());
///
/// fake.set_fault(Some(GitHubActionsFault::JobEnded));
/// let token = github.start("https://stock.example");
/// # Ok(())
/// # }
/// ```
///
/// # Behavior and its sources
///
/// As documented by GitHub ([OpenID Connect reference][reference]): the request is a `GET` of the URL in
/// `ACTIONS_ID_TOKEN_REQUEST_URL` with the parameter `audience`, and `Authorization: bearer` with the token in
/// `ACTIONS_ID_TOKEN_REQUEST_TOKEN`. Without an audience, the audience is the URL of the repository's owner. The response has
/// the token in `value`. The claims of the token, its lifetime of 5 minutes, and its `nbf`, 10 minutes before `iat`.
///
/// As recorded in public bug reports, from 2021 to 2025: the form of the URL, which has the query `api-version=2.0` and an
/// empty segment in its path, and the member `count` of the response.
///
/// Not known: the bodies of errors, the response to other methods than `GET` (405 here) and to a repeated parameter (400 here),
/// and which check comes first.
///
/// [reference]: https://docs.github.com/actions/reference/security/oidc
pub struct FakeGitHubActions {
    request_url: String,
    state: Arc<State>,
    server: HttpServer,
}

struct State {
    fault: Mutex<Option<GitHubActionsFault>>,
    token_fn: Mutex<Option<TokenFn>>,
    lifetime: Mutex<Duration>,
    tokens: AtomicU64,
}

impl FakeGitHubActions {
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
        let state = Arc::new(State {
            fault: Mutex::default(),
            token_fn: Mutex::default(),
            lifetime: Mutex::new(DEFAULT_LIFETIME),
            tokens: AtomicU64::new(0),
        });
        let handled = state.clone();
        let server = HttpServer::start(move |request| handle(request, handled.clone())).await?;
        Ok(Self {
            request_url: format!("{}{PATH}?api-version={API_VERSION}", server.url()),
            state,
            server,
        })
    }

    /// Returns the URL of the server, without a path.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Returns the URL of the endpoint, for [`GitHubActions::new`](crate::GitHubActions::new) or the environment variable
    /// `ACTIONS_ID_TOKEN_REQUEST_URL`. It contains a query.
    pub fn request_url(&self) -> &str {
        &self.request_url
    }

    /// Returns the token that requests require, for [`GitHubActions::new`](crate::GitHubActions::new) or the environment
    /// variable `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
    pub fn request_token(&self) -> &'static str {
        REQUEST_TOKEN
    }

    /// Returns the number of requests so far.
    pub fn request_count(&self) -> u64 {
        self.server.request_count()
    }

    /// Sets the fault of further responses, or none.
    pub fn set_fault(&self, fault: Option<GitHubActionsFault>) {
        *lock(&self.state.fault) = fault;
    }

    /// Sets the lifetime of tokens. Default: 5 min. Fractions of a second are ignored.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        *lock(&self.state.lifetime) = lifetime;
    }

    /// Sets the function that returns the token for an audience. Default: a token with the claims of real ones, and an invalid
    /// signature.
    pub fn set_token_fn(&self, token: impl Fn(&str) -> String + Send + Sync + 'static) {
        *lock(&self.state.token_fn) = Some(Arc::new(token));
    }
}

impl fmt::Debug for FakeGitHubActions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeGitHubActions")
            .field("request_url", &self.request_url)
            .finish_non_exhaustive()
    }
}

async fn handle(request: Request<Bytes>, state: Arc<State>) -> Answer {
    let fault = lock(&state.fault).clone();
    match &fault {
        Some(GitHubActionsFault::Http(fault)) => return fault.clone().respond().await,
        Some(GitHubActionsFault::JobEnded) => return Ok(unauthorized("The job has ended.")),
        Some(GitHubActionsFault::QuotedToken) => {
            return Ok(unauthorized(&format!(
                "The token {REQUEST_TOKEN} is invalid."
            )));
        }
        _ => {}
    }
    let audience = match requested_audience(&request) {
        Ok(audience) => audience,
        Err(response) => return Ok(*response),
    };
    let default_audience = || format!("https://github.com/{OWNER}");
    let audience = match (audience, &fault) {
        (Some(audience), None) => audience,
        (Some(audience), Some(fault)) if *fault != GitHubActionsFault::OtherAudience => audience,
        _ => default_audience(),
    };
    let token = match fault {
        Some(GitHubActionsFault::MissingToken) => {
            return Ok(json_response(StatusCode::OK, &json!({ "count": 0 })));
        }
        Some(GitHubActionsFault::InvalidToken) => "not-a-jwt".to_owned(),
        _ => create_token(&state, &audience),
    };
    let body = json!({ "count": token.len(), "value": token });
    Ok(json_response(StatusCode::OK, &body))
}

/// Returns the audience of a valid request, if it has one, or the response to an invalid one.
fn requested_audience(request: &Request<Bytes>) -> Result<Option<String>, Box<Response<Body>>> {
    let reject = |status, message: &str| Err(Box::new(error(status, message)));
    if request.uri().path() != PATH {
        return reject(StatusCode::NOT_FOUND, "The resource cannot be found.");
    }
    // The name of the scheme is case-insensitive.
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| value.split_once(' '));
    let is_authorized = token.is_some_and(|(scheme, token)| {
        scheme.eq_ignore_ascii_case("bearer") && token == REQUEST_TOKEN
    });
    if !is_authorized {
        return Err(Box::new(unauthorized("The token is missing or invalid.")));
    }
    if request.method() != Method::GET {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed.");
        let allow = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, allow);
        return Err(Box::new(response));
    }
    let Ok(url) = Url::parse(&format!("http://github{}", request.uri())) else {
        return reject(StatusCode::BAD_REQUEST, "The URL is malformed.");
    };
    let values = |name: &str| -> Vec<String> {
        let pairs = url.query_pairs();
        let values = pairs.filter(|(found, _)| found == name);
        values.map(|(_, value)| value.into_owned()).collect()
    };
    if values("api-version") != [API_VERSION] {
        return reject(
            StatusCode::BAD_REQUEST,
            "The request has no or another api-version.",
        );
    }
    let mut audiences = values("audience").into_iter();
    match (audiences.next(), audiences.next()) {
        (_, Some(_)) => reject(
            StatusCode::BAD_REQUEST,
            "The request has several audiences.",
        ),
        (audience, None) => Ok(audience.filter(|audience| !audience.is_empty())),
    }
}

fn unauthorized(message: &str) -> Response<Body> {
    let mut response = error(StatusCode::UNAUTHORIZED, message);
    let challenge = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    json_response(
        status,
        &json!({ "$id": "1", "message": message, "errorCode": 0 }),
    )
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    http_server::text(status, "application/json; charset=utf-8", body.to_string())
}

fn create_token(state: &State, audience: &str) -> String {
    let token_fn = lock(&state.token_fn).clone();
    match token_fn {
        Some(token_fn) => token_fn(audience),
        None => {
            let lifetime = *lock(&state.lifetime);
            id_token(
                audience,
                lifetime,
                state.tokens.fetch_add(1, Ordering::Relaxed),
            )
        }
    }
}

/// Returns a token with the claims of real ID tokens. Its signature has the length of a valid one, but is not valid. `count`
/// makes it differ from other tokens of the same second.
fn id_token(audience: &str, lifetime: Duration, count: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let workflow = format!("{REPOSITORY}/.github/workflows/deploy.yml@{REF}");
    let claims = json!({
        "jti": format!("00000000-0000-4000-8000-{count:012}"),
        "sub": format!("repo:{REPOSITORY}:ref:{REF}"),
        "aud": audience,
        "ref": REF,
        "sha": SHA,
        "repository": REPOSITORY,
        "repository_owner": OWNER,
        "repository_owner_id": "65",
        "run_id": "30433642",
        "run_number": "10",
        "run_attempt": "1",
        "repository_visibility": "private",
        "repository_id": "74",
        "actor_id": "12",
        "actor": "octocat",
        "workflow": "deploy",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": "branch",
        "workflow_ref": workflow,
        "workflow_sha": SHA,
        "job_workflow_ref": workflow,
        "job_workflow_sha": SHA,
        "runner_environment": "github-hosted",
        "iss": ISSUER,
        "nbf": now.saturating_sub(BACKDATED),
        "exp": now.saturating_add(lifetime.as_secs()),
        "iat": now,
    });
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5t": "fake", "kid": "fake" });
    let mut signature = [0xa5; SIGNATURE_BYTES];
    signature[..8].copy_from_slice(&count.to_be_bytes());
    let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signature = URL_SAFE_NO_PAD.encode(signature);
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
