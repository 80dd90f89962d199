//! Exchanges a token for another one (RFC 8693).

mod builder;
mod client;
mod token_type;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;

pub use self::builder::TokenExchangeBuilder;
use self::client::ClientAuthentication;
pub use self::token_type::TokenType;
use super::fetched::{Description, Fetch, FetchKind, FetchedToken, Timing, require_runtime};
use super::http::{Endpoint, HttpClient};
use super::subject::Credential;
use super::token_endpoint::{TokenForm, TokenResponse};
use super::{TokenProvider, TokenSource};
use crate::error::{Error, FetchError};
use crate::token::Token;
use crate::token::jwt::Audiences;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// How long the source of the subject token may take, in addition to the requests to the endpoint.
const SUBJECT_MARGIN: Duration = Duration::from_secs(45);

/// A token endpoint that exchanges the tokens of another source, as defined by OAuth 2.0 Token Exchange (RFC 8693).
///
/// - Each exchange uses the current token of the other source, the subject token. If the endpoint rejects it, the other
///   source is refreshed, and if it has another token, the exchange is tried once more.
/// - The exchanged token is kept until it expires, even if the subject token expires earlier, and is renewed before that; see
///   [`FetchedToken`]. It expires at its `exp`, or after the response's `expires_in`, whichever comes first. Without
///   either, it is replaced every 300 s.
/// - If an audience or a resource is configured and the exchanged token is a JWT, its `aud` has to contain one of them, unless
///   [`accept_any_audience`](TokenExchangeBuilder::accept_any_audience) is set. The audience of an opaque token is not known.
/// - The exchanged token may be opaque. It is sent as a bearer token, so it has to have the `token_type` `Bearer`; for a token
///   whose type was [requested](TokenExchangeBuilder::requested_token_type), `N_A` is accepted as well. A token of another
///   `token_type`, such as `DPoP`, and a refresh token or a SAML assertion, is an error.
/// - The requests go to the endpoint only: redirects are not followed, and no proxy is used unless one is configured. The URL
///   has to be https, or http for a host on loopback.
///
/// # Examples
///
/// A projected service account token is exchanged for an access token:
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, ProjectedToken, TokenExchange};
///
/// let subject = ProjectedToken::open("/var/run/secrets/tokens/sts").await?;
/// let exchange = TokenExchange::builder("https://sts.example/token", subject)
///     .audience("https://orders.example")
///     .build()?;
/// let auth = BearerAuth::for_origin("https://orders.example", exchange.open().await?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenExchange(Arc<Exchange>);

/// The settings of an exchange, and the HTTP client.
#[derive(Clone)]
struct Exchange {
    endpoint: Endpoint,
    http: HttpClient,
    subject: Arc<dyn TokenSource>,
    subject_token_type: TokenType,
    requested_token_type: Option<TokenType>,
    audiences: Vec<String>,
    resources: Vec<String>,
    /// The scopes, separated by spaces.
    scope: Option<String>,
    /// Names and values of parameters that the endpoint defines.
    parameters: Vec<(String, String)>,
    audience_check: AudienceCheck,
    client: ClientAuthentication,
}

/// Whether the audience of an exchanged JWT is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AudienceCheck {
    /// It has to be one of the configured audiences and resources.
    Configured,
    /// It may be any other one.
    Any,
}

impl TokenExchange {
    /// Creates a builder with the URL of the token endpoint, and the source of the tokens to exchange.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{FixedToken, Token, TokenExchange};
    ///
    /// let subject = FixedToken::new(Token::opaque("s3cr3t")?);
    /// let exchange = TokenExchange::builder("https://sts.example/token", subject).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(
        token_endpoint: impl Into<String>,
        subject: impl TokenSource,
    ) -> TokenExchangeBuilder {
        TokenExchangeBuilder::new(token_endpoint.into(), Arc::new(subject))
    }

    /// Opens a source of exchanged tokens, and waits for the first one. Transient errors are retried meanwhile.
    ///
    /// Spawns a task on the current tokio runtime that exchanges the next token before the current one expires. The task
    /// ends when the last clone of the source is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Fetch`] after 3 s if no connection can be established, at once if a later attempt cannot succeed,
    /// and otherwise after 30 s. Returns [`Error::Expired`] if the exchanged token has expired, and
    /// [`FetchError::NoRuntime`] outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    pub async fn open(&self) -> Result<FetchedToken, Error> {
        require_runtime(&self.0.endpoint)?;
        self.start().opened().await
    }

    /// Opens a source of exchanged tokens, without waiting for the first one. Requests that need it wait for up to 10 s, or
    /// until no connection could be established for 3 s.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self) -> FetchedToken {
        let description = Description {
            kind: FetchKind::TokenExchange,
            audience: self.0.target(),
            server: self.0.endpoint.to_string(),
        };
        let timing = Timing::for_shared_service();
        FetchedToken::start(Exchange::clone(&self.0), description, timing)
    }
}

/// Exchanges tokens for an audience, which replaces the audiences and resources of the settings.
impl TokenProvider for TokenExchange {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        builder::check_audience(audience)?;
        let exchange = Exchange {
            audiences: vec![audience.to_owned()],
            // A token for a resource of the settings is not one for this audience.
            resources: Vec::new(),
            ..Exchange::clone(&self.0)
        };
        Ok(Arc::new(Self(Arc::new(exchange)).start()))
    }
}

impl fmt::Debug for TokenExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenExchange")
            .field("endpoint", &self.0.endpoint)
            .field("audiences", &self.0.audiences)
            .field("resources", &self.0.resources)
            .field("scope", &self.0.scope)
            .field("parameters", &self.0.parameters)
            .field("subject_token_type", &self.0.subject_token_type)
            .field("requested_token_type", &self.0.requested_token_type)
            .field("client", &self.0.client)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// Returns what the tokens are for: the audiences and resources, or else the scopes.
    fn target(&self) -> String {
        let targets: Vec<_> = self.audiences.iter().chain(&self.resources).collect();
        let targets: Vec<_> = targets.into_iter().map(String::as_str).collect();
        match (&targets[..], &self.scope) {
            ([], Some(scope)) => scope.clone(),
            ([], None) => "(the default of the endpoint)".to_owned(),
            (targets, _) => targets.join(" "),
        }
    }

    async fn exchange(
        &self,
        subject: &Token,
        assertion: Option<&Token>,
    ) -> Result<Token, FetchError> {
        let form = TokenForm::new(GRANT_TYPE)
            .with_all("audience", &self.audiences)
            .with_all("resource", &self.resources)
            .with_optional("scope", self.scope.as_deref())
            .with_optional(
                "requested_token_type",
                self.requested_token_type.as_ref().map(TokenType::as_str),
            )
            .with_token("subject_token", subject)
            .with("subject_token_type", self.subject_token_type.as_str());
        let parameters = self.parameters.iter();
        let form = parameters.fold(form, |form, (name, value)| form.with(name, value));
        let form = self.client.add_to(form, assertion);
        let response = form.send(&self.http, &self.endpoint).await;
        let response = response.map_err(|error| self.with_advice(error, subject))?;
        self.check(&response)?;
        Ok(response.token)
    }

    /// Checks that the token can be sent as a bearer token, and has the requested type and audience.
    fn check(&self, response: &TokenResponse) -> Result<(), FetchError> {
        if self.audience_check == AudienceCheck::Configured {
            let expected = self.audiences.iter().chain(&self.resources);
            let expected: Vec<_> = expected.map(String::as_str).collect();
            response.require_audience(&expected)?;
        }
        let issued = response.issued_token_type.as_ref();
        if let Some(issued) = issued
            && !TokenType::from_uri(&issued.text).can_be_bearer()
        {
            return Err(response.invalid(format!(
                "a token with the `issued_token_type` {:?}, which cannot be sent as a bearer token",
                issued.shown
            )));
        }
        let requested = self.requested_token_type.as_ref();
        if let (Some(requested), Some(issued)) = (requested, issued)
            && requested.as_str() != issued.text
        {
            return Err(response.invalid(format!(
                "a token with the `issued_token_type` {:?}, expected the requested {:?}",
                issued.shown,
                requested.as_str()
            )));
        }
        // `N_A` states that the token is not an access token, as an ID token is not. If the caller has requested its type,
        // it knows that the recipient accepts it.
        let is_requested = requested.is_some() && issued.is_some();
        let is_not_applicable = response
            .token_type
            .as_ref()
            .is_some_and(|name| name.text.eq_ignore_ascii_case("N_A"));
        if is_requested && is_not_applicable {
            return Ok(());
        }
        response.require_bearer()
    }

    /// Adds what to do to an error of the endpoint.
    fn with_advice(&self, error: FetchError, subject: &Token) -> FetchError {
        let code = match &error {
            // Some servers return an error of OAuth for any path.
            FetchError::OAuth { status, .. } | FetchError::Status { status, .. }
                if [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(status) =>
            {
                return error.with_advice("check the URL of the token endpoint");
            }
            FetchError::OAuth { error, .. } => error.as_str(),
            _ => return error,
        };
        let advice = match code {
            "invalid_client" => {
                let encoding = if self.client.is_encoded() {
                    ", form-encoded (RFC 6749, section 2.3.1); some servers do not decode them, use `client_secret_post` there"
                } else {
                    ""
                };
                format!(
                    "check the identifier and the credentials of the client; sent {}{encoding}",
                    self.client
                )
            }
            "unauthorized_client" => {
                "allow this client to exchange tokens at the endpoint".to_owned()
            }
            "unsupported_grant_type" => {
                "the endpoint does not exchange tokens (RFC 8693); check its URL".to_owned()
            }
            "invalid_target" => format!(
                "check the audience and resource; sent audience {:?} and resource {:?}",
                self.audiences, self.resources
            ),
            "invalid_scope" => format!(
                "check the scope; sent {:?}",
                self.scope.as_deref().unwrap_or_default()
            ),
            "invalid_grant" | "invalid_request" => format!(
                "check that the endpoint trusts the issuer of the subject token and accepts its audience; sent {} as {}",
                describe(subject),
                self.subject_token_type.as_str()
            ),
            _ => return error,
        };
        error.with_advice(advice)
    }
}

#[async_trait]
impl Fetch for Exchange {
    async fn fetch(&self) -> Result<Token, Error> {
        let credential = |source, name| Credential {
            source,
            endpoint: &self.endpoint,
            name,
        };
        let subject_source = credential(&*self.subject, "the subject token");
        let assertion_source = self
            .client
            .assertion()
            .map(|source| credential(source, "the client assertion"));
        let subject = subject_source.token().await?;
        let assertion = match &assertion_source {
            Some(source) => Some(source.token().await?),
            None => None,
        };
        let error = match self.exchange(&subject, assertion.as_ref()).await {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        // Tried once more with a newer token, if there is one.
        if let (Some(source), Some(rejected)) = (&assertion_source, &assertion)
            && is_about_client(&error)
        {
            if let Some(newer) = source.replacement(rejected).await {
                return Ok(self.exchange(&subject, Some(&newer)).await?);
            }
        } else if is_about_subject(&error)
            && let Some(newer) = subject_source.replacement(&subject).await
        {
            return Ok(self.exchange(&newer, assertion.as_ref()).await?);
        }
        Err(error.into())
    }

    fn limit(&self) -> Duration {
        2 * self.http.limit() + SUBJECT_MARGIN
    }
}

/// Returns whether an error may be caused by the subject token. RFC 8693 defines `invalid_request` for it, but many servers
/// return `invalid_grant`, `invalid_token`, or 401 without an error.
fn is_about_subject(error: &FetchError) -> bool {
    match error {
        FetchError::OAuth { status, error, .. } => {
            let is_code = ["invalid_request", "invalid_grant", "invalid_token"];
            is_code.contains(&error.as_str())
                || *status == StatusCode::UNAUTHORIZED && error != "invalid_client"
        }
        FetchError::Status { status, .. } => *status == StatusCode::UNAUTHORIZED,
        _ => false,
    }
}

/// Returns whether an error may be caused by the client's credentials.
fn is_about_client(error: &FetchError) -> bool {
    matches!(error, FetchError::OAuth { error, .. } if error == "invalid_client")
}

/// Describes a token without its text.
fn describe(token: &Token) -> String {
    match Token::parse_jwt(token.text().as_bytes()) {
        Ok((_, audiences)) => format!("a JWT for {}", Audiences(&audiences)),
        Err(_) => "a token that is not a JWT".to_owned(),
    }
}
