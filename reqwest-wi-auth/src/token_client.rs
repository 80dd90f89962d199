//! Clients that send tokens in other headers than `Authorization`.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use reqwest::Url;
use reqwest::redirect::Policy;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};

use crate::bearer_auth::BearerAuth;
use crate::error::Error;

/// The number of redirects that reqwest follows by default.
const MAX_REDIRECTS: usize = 10;

/// Builds clients that send tokens in any header, such as `X-Serverless-Authorization`, or in several headers at once.
///
/// At a redirect to another origin, reqwest removes `Authorization` and a few other standard headers from a request, but
/// not headers such as `X-Serverless-Authorization`, and a middleware does not see redirects. Therefore the clients of this
/// builder follow up to 10 redirects within an origin, and return
/// a redirect to another origin as the response.
///
/// # Examples
///
/// A client of a Cloud Run service: the platform verifies one token, and the application another one.
///
/// ```
/// # use reqwest_wi_auth::{BearerAuth, Error, TokenClientBuilder, TokenSource};
/// # fn example(platform: impl TokenSource, application: impl TokenSource) -> Result<(), Error> {
/// use http::HeaderName;
///
/// let origin = "https://auth-server.example";
/// let client = TokenClientBuilder::new(reqwest::Client::builder())
///     .header(
///         HeaderName::from_static("x-serverless-authorization"),
///         BearerAuth::for_origin(origin, platform)?,
///     )
///     .authorization(BearerAuth::for_origin(origin, application)?)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenClientBuilder {
    http: reqwest::ClientBuilder,
    outer: Vec<Arc<dyn Middleware>>,
    auths: Vec<BearerAuth>,
}

impl TokenClientBuilder {
    /// Creates a builder from the settings of an HTTP client. A redirect policy among them is replaced.
    pub fn new(http: reqwest::ClientBuilder) -> Self {
        Self {
            http,
            outer: Vec::new(),
            auths: Vec::new(),
        }
    }

    /// Adds tokens that are sent in `Authorization`.
    ///
    /// If it is called twice, a request carries the token of the first `BearerAuth` that has its origin.
    pub fn authorization(self, auth: BearerAuth) -> Self {
        self.header(http::header::AUTHORIZATION, auth)
    }

    /// Adds tokens that are sent in a header, as `Bearer` and the token.
    ///
    /// If it is called twice with the same header, a request carries the token of the first `BearerAuth` that has its
    /// origin.
    pub fn header(mut self, header: HeaderName, auth: BearerAuth) -> Self {
        self.auths.push(auth.in_header(header));
        self
    }

    /// Adds a middleware that runs before the tokens are attached, such as tracing or retry. Those added first run first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenClientBuilder};
    /// # fn example(auth: BearerAuth) -> Result<(), Error> {
    /// use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
    /// use reqwest_tracing::TracingMiddleware;
    ///
    /// let policy = ExponentialBackoff::builder().build_with_max_retries(3);
    /// let client = TokenClientBuilder::new(reqwest::Client::builder())
    ///     .with(TracingMiddleware::default())
    ///     .with(RetryTransientMiddleware::new_with_policy(policy))
    ///     .authorization(auth)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(mut self, middleware: impl Middleware) -> Self {
        self.outer.push(Arc::new(middleware));
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Client`] if the HTTP client cannot be built from its settings.
    pub fn build(self) -> Result<ClientWithMiddleware, Error> {
        let http = self.http.redirect(same_origin_policy()).build();
        let mut client = ClientBuilder::new(http.map_err(|error| Error::Client(Arc::new(error)))?);
        for middleware in self.outer {
            client = client.with_arc(middleware);
        }
        for auth in self.auths {
            client = client.with(auth);
        }
        Ok(client.build())
    }
}

/// Returns a redirect policy that follows redirects within the origin of the request only.
fn same_origin_policy() -> Policy {
    Policy::custom(|attempt| {
        let origin = attempt.url().origin();
        let is_same_origin = attempt
            .previous()
            .iter()
            .map(Url::origin)
            .all(|before| before == origin);
        if !is_same_origin {
            attempt.stop()
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    })
}

impl fmt::Debug for TokenClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenClientBuilder")
            .field("auths", &self.auths)
            .finish_non_exhaustive()
    }
}
