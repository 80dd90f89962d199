//! ID tokens of a job of GitHub Actions.

mod builder;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION};
use serde::Deserialize;

pub use self::builder::GitHubActionsBuilder;
use super::fetched::{Description, Fetch, FetchKind, FetchedToken, Timing, require_runtime};
use super::http::{Endpoint, HttpClient, Secrets};
use super::{TokenProvider, TokenSource};
use crate::error::{Error, FetchError};
use crate::token::Token;
use crate::token::jwt::Audiences;

const REQUEST_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const REQUEST_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// A client of the endpoint from which a job of GitHub Actions requests ID tokens, which identify its repository and workflow.
///
/// The job requires a permission in its workflow:
///
/// ```yaml
/// permissions:
///   contents: read
///   id-token: write
/// ```
///
/// GitHub's tokens expire after 5 to 10 minutes. The next one is fetched after 75 to 85 % of that. The token that
/// authenticates the requests is valid until the end of the job.
///
/// Requests follow no redirects and use no proxy unless [one is set](GitHubActionsBuilder::proxy). A request may take 10 s, and a
/// response may have 64 KiB. A token for another audience is an error.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, GitHubActions};
///
/// let github = GitHubActions::from_env()?;
/// let orders = github.open("https://orders.example").await?;
/// let stock = github.open("https://stock.example").await?;
/// let auth = BearerAuth::for_origin("https://orders.example", orders)?
///     .and_origin("https://stock.example", stock)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct GitHubActions {
    http: HttpClient,
    endpoint: Endpoint,
    request_token: Token,
}

impl GitHubActions {
    /// Creates a client with the URL and the token in the environment variables `ACTIONS_ID_TOKEN_REQUEST_URL` and
    /// `ACTIONS_ID_TOKEN_REQUEST_TOKEN`, which the runner sets in a job with the permission `id-token: write`. Sends no request.
    ///
    /// The request token is sent to GitHub only: the host of the URL has to be one of `*.actions.githubusercontent.com`, that of
    /// `GITHUB_SERVER_URL` (GitHub Enterprise Server) or one of its subdomains (GitHub Enterprise Cloud with data residency), or
    /// on loopback. A step can set variables for later steps, but not those with the prefix `GITHUB_`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if a variable is not set, the URL is not https or it has another host, and [`Error::Client`] if the HTTP client cannot be created.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Creates a client with a URL and a request token. Sends no request.
    ///
    /// The URL is https, or http for a host on loopback. Its host can be any.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if the URL is not https or the token contains anything other than visible ASCII
    /// characters, and [`Error::Client`] if the HTTP client cannot be created.
    pub fn new(request_url: &str, request_token: &str) -> Result<Self, Error> {
        Self::builder()
            .request_url(request_url)
            .request_token(request_token)
            .build()
    }

    /// Returns a builder, which uses the environment for settings that are not set.
    pub fn builder() -> GitHubActionsBuilder {
        GitHubActionsBuilder::new()
    }

    /// Opens a source of tokens for an audience, and waits for the first token. Failed requests are retried meanwhile.
    ///
    /// Spawns a task on the current tokio runtime that fetches the next token before the current one expires. The task ends when
    /// the last clone of the source is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Fetch`] after 3 s if no connection can be established, and otherwise after 30 s, or at once if a retry
    /// cannot help. Returns [`Error::Configuration`] if the audience is empty.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    pub async fn open(&self, audience: &str) -> Result<FetchedToken, Error> {
        require_runtime(&self.endpoint)?;
        self.start(audience).opened().await
    }

    /// Opens a source of tokens for an audience, without waiting for the first token. Requests that need it wait for up to 10 s,
    /// or until no connection could be established for 3 s.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self, audience: &str) -> FetchedToken {
        let description = Description {
            kind: FetchKind::GitHubActions,
            audience: audience.to_owned(),
            server: self.endpoint.to_string(),
        };
        let request = TokenRequest {
            github: self.clone(),
            audience: audience.to_owned(),
        };
        FetchedToken::start(request, description, Timing::for_shared_service())
    }
}

impl TokenProvider for GitHubActions {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        check_audience(audience)?;
        Ok(Arc::new(self.start(audience)))
    }
}

impl fmt::Debug for GitHubActions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHubActions")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Returns an error if the audience is empty, for which GitHub would issue a token for a default audience.
fn check_audience(audience: &str) -> Result<(), Error> {
    if audience.trim().is_empty() {
        return Err(Error::Configuration {
            location: "the audience".to_owned(),
            reason: "it is empty; expected the audience that the server requires".to_owned(),
        });
    }
    Ok(())
}

/// A request for a token for one audience.
struct TokenRequest {
    github: GitHubActions,
    audience: String,
}

#[derive(Deserialize)]
struct Answer<'b> {
    #[serde(borrow)]
    value: Option<Cow<'b, str>>,
}

#[async_trait]
impl Fetch for TokenRequest {
    async fn fetch(&self) -> Result<Token, Error> {
        check_audience(&self.audience)?;
        let GitHubActions {
            http,
            endpoint,
            request_token,
        } = &self.github;
        // The URL has a query already.
        let mut url = endpoint.url().clone();
        url.query_pairs_mut()
            .append_pair("audience", &self.audience);
        let secrets = Secrets::default().with_token(request_token);
        let send = |client: &reqwest::Client| {
            client
                .get(url)
                .header(ACCEPT, "application/json")
                .header(AUTHORIZATION, request_token.header().clone())
        };
        let response = http.send(endpoint, secrets, send).await?;
        let status = response.status();
        let answer = response.json::<Answer<'_>>();
        let answer = answer.map_err(|error| match advice(status) {
            Some(advice) => error.with_advice(advice),
            None => error,
        })?;
        let Some(token) = answer.value else {
            return Err(response.invalid("expected the token in `value`").into());
        };
        let token = Token::parse_jwt(token.as_bytes());
        let (token, audiences) = token.map_err(|error| response.invalid(error.to_string()))?;
        if !audiences.contains(&self.audience) {
            return Err(FetchError::WrongAudience {
                endpoint: endpoint.to_string(),
                expected: self.audience.clone(),
                found: response.redacted(&Audiences(&audiences).to_string()),
            }
            .into());
        }
        Ok(token)
    }

    fn limit(&self) -> Duration {
        self.github.http.limit()
    }
}

/// Returns what to do about an error of this status.
fn advice(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(
            "check that the job has `permissions: id-token: write`, and that it has not ended: the token in \
             ACTIONS_ID_TOKEN_REQUEST_TOKEN is valid until then",
        ),
        StatusCode::NOT_FOUND => {
            Some("check that the URL is the whole value of ACTIONS_ID_TOKEN_REQUEST_URL")
        }
        _ => None,
    }
}
