//! The settings of a token exchange.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use zeroize::Zeroizing;

use super::client::{ClientAuthentication, Method};
use super::{AudienceCheck, Exchange, TokenExchange, TokenType};
use crate::error::Error;
use crate::origins::PlainHttp;
use crate::source::TokenSource;
use crate::source::http::{Endpoint, HttpClient, HttpSettings};

/// Builds a [`TokenExchange`].
///
/// The settings `audience`, `resource`, `scope` and `parameter` add to earlier ones. Of each other setting, the last value is used.
///
/// # Examples
///
/// An exchange at a server that requires an authenticated client:
///
/// ```
/// # fn main() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{FixedToken, Token, TokenExchange, TokenType};
///
/// # let subject = FixedToken::new(Token::opaque("s3cr3t")?);
/// let exchange = TokenExchange::builder("https://sts.example/token", subject)
///     .audience("https://orders.example")
///     .scope("orders.read")
///     .requested_token_type(TokenType::AccessToken)
///     .client_secret_basic("billing", "s3cr3t")
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenExchangeBuilder {
    endpoint: String,
    plain_http: PlainHttp,
    http: HttpSettings,
    proxy: Option<String>,
    subject: Arc<dyn TokenSource>,
    subject_token_type: TokenType,
    requested_token_type: Option<TokenType>,
    audiences: Vec<String>,
    resources: Vec<String>,
    scopes: Vec<String>,
    parameters: Vec<(String, String)>,
    audience_check: AudienceCheck,
    client: ClientAuthentication,
}

/// The parameters that have a setting, or that the exchange sets itself. Actor tokens are not supported.
const RESERVED: [&str; 14] = [
    "grant_type",
    "resource",
    "audience",
    "scope",
    "requested_token_type",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "",
];

impl TokenExchangeBuilder {
    pub(super) fn new(endpoint: String, subject: Arc<dyn TokenSource>) -> Self {
        Self {
            endpoint,
            plain_http: PlainHttp::LoopbackOnly,
            http: HttpSettings::default(),
            proxy: None,
            subject,
            subject_token_type: TokenType::Jwt,
            requested_token_type: None,
            audiences: Vec::new(),
            resources: Vec::new(),
            scopes: Vec::new(),
            parameters: Vec::new(),
            audience_check: AudienceCheck::Configured,
            client: ClientAuthentication {
                id: None,
                method: Method::None,
            },
        }
    }

    /// Adds the name of a service that the token is for (`audience`). Default: none, so the endpoint decides.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.audience("https://orders.example").audience("https://stock.example");
    /// # }
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Adds the URI of a service that the token is for (`resource`): an absolute URI without a fragment. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.resource("https://orders.example/v1");
    /// # }
    /// ```
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resources.push(resource.into());
        self
    }

    /// Accepts exchanged JWTs whose `aud` contains none of the configured audiences and resources, for endpoints that know a
    /// service under one name and write another one into the token. An endpoint that ignores the requested audience may then
    /// return a token that is valid at other services too, and the service that it is sent to can use it there. Default: such a
    /// token is an error.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.audience("orders").accept_any_audience();
    /// # }
    /// ```
    pub fn accept_any_audience(mut self) -> Self {
        self.audience_check = AudienceCheck::Any;
        self
    }

    /// Adds a scope of the token (`scope`), or several, separated by spaces. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.scope("orders.read").scope("orders.write");
    /// # }
    /// ```
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Sets the type of token that the endpoint issues (`requested_token_type`). A token of another type is an error.
    /// Default: the endpoint decides.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// use reqwest_wi_auth::TokenType;
    ///
    /// let builder = builder.requested_token_type(TokenType::IdToken);
    /// # }
    /// ```
    pub fn requested_token_type(mut self, token_type: TokenType) -> Self {
        self.requested_token_type = Some(token_type);
        self
    }

    /// Sets the type of the tokens that are exchanged (`subject_token_type`). Default: [`TokenType::Jwt`].
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// use reqwest_wi_auth::TokenType;
    ///
    /// let builder = builder.subject_token_type(TokenType::AccessToken);
    /// # }
    /// ```
    pub fn subject_token_type(mut self, token_type: TokenType) -> Self {
        self.subject_token_type = token_type;
        self
    }

    /// Adds a parameter that the endpoint defines in addition to those of RFC 8693. It must not be secret, since it may appear
    /// in errors that repeat it. Default: none.
    ///
    /// # Examples
    ///
    /// The connector that verifies the subject token, at Dex:
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.parameter("connector_id", "kubernetes");
    /// # }
    /// ```
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Sets the identifier of the client (`client_id`). Without a secret or an assertion, the client does not authenticate.
    /// Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.client_id("billing");
    /// # }
    /// ```
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client.id = Some(client_id.into());
        self
    }

    /// Authenticates the client with a secret, by HTTP Basic authentication (`client_secret_basic`). Replaces other
    /// credentials. Default: no authentication.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder, secret: &str) {
    /// let builder = builder.client_secret_basic("billing", secret);
    /// # }
    /// ```
    pub fn client_secret_basic(mut self, client_id: impl Into<String>, secret: &str) -> Self {
        self.client = ClientAuthentication {
            id: Some(client_id.into()),
            method: Method::Basic(Zeroizing::new(secret.to_owned())),
        };
        self
    }

    /// Authenticates the client with a secret in the body of the request (`client_secret_post`), for servers that do not
    /// accept [`client_secret_basic`](Self::client_secret_basic). Replaces other credentials. Default: no authentication.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder, secret: &str) {
    /// let builder = builder.client_secret_post("billing", secret);
    /// # }
    /// ```
    pub fn client_secret_post(mut self, client_id: impl Into<String>, secret: &str) -> Self {
        self.client = ClientAuthentication {
            id: Some(client_id.into()),
            method: Method::Post(Zeroizing::new(secret.to_owned())),
        };
        self
    }

    /// Authenticates the client with the tokens of a source, as assertions (`client_assertion`, RFC 7523). Each request uses
    /// the current token. If the endpoint rejects the client, the source is refreshed, and if it has another token, the
    /// request is sent once more. Replaces other credentials. The identifier of the client is sent if
    /// [`client_id`](Self::client_id) is set. Default: no authentication.
    ///
    /// # Examples
    ///
    /// A projected service account token whose audience is the endpoint:
    ///
    /// ```no_run
    /// # async fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::ProjectedToken;
    ///
    /// let assertions = ProjectedToken::open("/var/run/secrets/tokens/sts").await?;
    /// let builder = builder.client_assertion(assertions);
    /// # Ok(())
    /// # }
    /// ```
    pub fn client_assertion(mut self, assertions: impl TokenSource) -> Self {
        self.client.method = Method::Assertion(Arc::new(assertions));
        self
    }

    /// Trusts the CA certificates in a PEM file, in addition to those of the system. The file is read for each exchange, so
    /// it can be replaced while in use. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.ca_file("/etc/sts/ca.crt");
    /// # }
    /// ```
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.http.set_ca_file(path.into());
        self
    }

    /// Sends the requests through a proxy. An https request is tunnelled, so the proxy cannot read the tokens. Default: no
    /// proxy, whatever the environment contains.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.proxy("http://proxy.example:3128");
    /// # }
    /// ```
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Sends the requests through the proxy in the environment variable `HTTPS_PROXY`, or `HTTP_PROXY` for plain http, except
    /// to hosts that `NO_PROXY` lists. Default: no proxy.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.proxy_from_environment();
    /// # }
    /// ```
    pub fn proxy_from_environment(mut self) -> Self {
        self.proxy = None;
        self.http.set_proxy_from_environment();
        self
    }

    /// Sets how long a request may take, including the connection and the body of the response. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(builder: reqwest_wi_auth::TokenExchangeBuilder) {
    /// let builder = builder.time_limit(std::time::Duration::from_secs(3));
    /// # }
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.http.set_time_limit(limit);
        self
    }

    /// Allows a token endpoint over plain http on other hosts than loopback. Anyone on the path can then read the tokens and
    /// credentials. Default: https is required.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{FixedToken, Token, TokenExchange};
    ///
    /// # let subject = FixedToken::new(Token::opaque("s3cr3t")?);
    /// let exchange = TokenExchange::builder("http://sts.identity.svc/token", subject)
    ///     .insecure_http()
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn insecure_http(mut self) -> Self {
        self.plain_http = PlainHttp::Allowed;
        self
    }

    /// Creates the exchange. Sends no request.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if tokens cannot be sent to the URL of the endpoint, [`Error::Configuration`] if
    /// another setting is not valid, and [`Error::Client`] if the HTTP client cannot be created.
    pub fn build(mut self) -> Result<TokenExchange, Error> {
        let endpoint = Endpoint::parse(&self.endpoint, self.plain_http)?;
        if let Some(proxy) = &self.proxy {
            self.http.set_proxy(proxy)?;
        }
        for audience in &self.audiences {
            check_audience(audience)?;
        }
        for resource in &self.resources {
            check_resource(resource)?;
        }
        let scopes = self.scopes.iter().flat_map(|scope| scope.split(' '));
        let scopes: Vec<_> = scopes.filter(|scope| !scope.is_empty()).collect();
        for scope in &scopes {
            check_scope(scope)?;
        }
        for (name, _) in &self.parameters {
            check_parameter(name)?;
        }
        check_client(&self.client)?;
        check_type("subject_token_type", &self.subject_token_type)?;
        if let Some(requested) = &self.requested_token_type {
            check_type("requested_token_type", requested)?;
            if !requested.can_be_bearer() {
                return Err(invalid(
                    "requested_token_type",
                    format!("found {requested}, whose tokens cannot be sent as bearer tokens"),
                ));
            }
        }
        Ok(TokenExchange(Arc::new(Exchange {
            endpoint,
            http: HttpClient::new(self.http)?,
            scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
            subject: self.subject,
            subject_token_type: self.subject_token_type,
            requested_token_type: self.requested_token_type,
            audiences: self.audiences,
            resources: self.resources,
            parameters: self.parameters,
            audience_check: self.audience_check,
            client: self.client,
        })))
    }
}

impl fmt::Debug for TokenExchangeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs are not shown, since they may contain passwords until they are checked.
        f.debug_struct("TokenExchangeBuilder")
            .field("audiences", &self.audiences)
            .field("resources", &self.resources)
            .field("scopes", &self.scopes)
            .field("parameters", &self.parameters)
            .field("subject_token_type", &self.subject_token_type)
            .field("requested_token_type", &self.requested_token_type)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Returns an error if an audience is empty.
pub(super) fn check_audience(audience: &str) -> Result<(), Error> {
    if audience.trim().is_empty() {
        return Err(invalid("audience", "it is empty".to_owned()));
    }
    Ok(())
}

/// Returns an error if a resource is not an absolute URI without a fragment (RFC 8693, section 2.1).
fn check_resource(resource: &str) -> Result<(), Error> {
    if Url::parse(resource).is_ok_and(|url| url.fragment().is_none()) {
        return Ok(());
    }
    Err(invalid(
        "resource",
        format!("found {resource:?}, expected an absolute URI without a fragment"),
    ))
}

/// Returns an error if a scope contains a character that RFC 6749, section 3.3, does not allow.
fn check_scope(scope: &str) -> Result<(), Error> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if scope.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(invalid(
        "scope",
        format!(
            "found {scope:?}, expected visible ASCII characters other than double quotes and backslashes"
        ),
    ))
}

/// Returns an error if a parameter is one that has a setting, or has no name.
fn check_parameter(name: &str) -> Result<(), Error> {
    if RESERVED.contains(&name) {
        return Err(invalid(
            "parameter",
            format!("found the name {name:?}, expected one that RFC 8693 does not define"),
        ));
    }
    Ok(())
}

/// Returns an error if the identifier or the secret of a client is empty.
fn check_client(client: &ClientAuthentication) -> Result<(), Error> {
    if client.id.as_deref() == Some("") {
        return Err(invalid("client_id", "it is empty".to_owned()));
    }
    match &client.method {
        Method::Basic(secret) if secret.is_empty() => Err(invalid(
            "client_secret_basic",
            "the secret is empty".to_owned(),
        )),
        Method::Post(secret) if secret.is_empty() => Err(invalid(
            "client_secret_post",
            "the secret is empty".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Returns an error if a type of token is not an absolute URI.
fn check_type(setting: &str, token_type: &TokenType) -> Result<(), Error> {
    if Url::parse(token_type.as_str()).is_ok() {
        return Ok(());
    }
    Err(invalid(
        setting,
        format!("found {:?}, expected an absolute URI", token_type.as_str()),
    ))
}

fn invalid(setting: &str, reason: String) -> Error {
    Error::Configuration {
        location: format!("the setting `{setting}` of the token exchange"),
        reason,
    }
}
