//! A client whose redirects are known to keep a token within its origin.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use reqwest::Url;
use reqwest::redirect::Policy;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};

use crate::bearer_auth::BearerAuth;
use crate::error::Error;

/// As many as reqwest follows by default.
const MAX_REDIRECTS: usize = 10;

/// Makes clients that send tokens in any header, or in several at once.
///
/// At a redirect to another origin reqwest takes `Authorization` off a request, but no other header, and
/// a middleware cannot see that it happens. So clients that send tokens in other headers are made here:
/// they follow redirects within the origin only, and hand any other one to the caller as the answer.
///
/// ```
/// # use reqwest_wi_auth::{BearerAuth, Error, TokenClientBuilder, TokenSource};
/// # fn example(platform: impl TokenSource, application: impl TokenSource) -> Result<(), Error> {
/// let origin = "https://auth-server.example";
/// let client = TokenClientBuilder::new(reqwest::Client::builder())
///     .header("x-serverless-authorization".parse().unwrap(), BearerAuth::for_origin(origin, platform)?)
///     .authorization(BearerAuth::for_origin(origin, application)?)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct TokenClientBuilder {
    http: reqwest::ClientBuilder,
    outer: Vec<Arc<dyn Middleware>>,
    auths: Vec<BearerAuth>,
}

impl TokenClientBuilder {
    /// Starts with the settings of a client; a redirect policy that it has is replaced.
    pub fn new(http: reqwest::ClientBuilder) -> Self {
        Self {
            http,
            outer: Vec::new(),
            auths: Vec::new(),
        }
    }

    /// Sends tokens in `Authorization`.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, TokenClientBuilder};
    /// # fn example(auth: BearerAuth) {
    /// let client = TokenClientBuilder::new(reqwest::Client::builder()).authorization(auth).build();
    /// # }
    /// ```
    pub fn authorization(self, auth: BearerAuth) -> Self {
        self.header(http::header::AUTHORIZATION, auth)
    }

    /// Sends tokens in this header, with `Bearer` before them.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, TokenClientBuilder};
    /// # fn example(auth: BearerAuth) {
    /// let header = http::HeaderName::from_static("x-serverless-authorization");
    /// let client = TokenClientBuilder::new(reqwest::Client::builder()).header(header, auth).build();
    /// # }
    /// ```
    pub fn header(mut self, header: HeaderName, auth: BearerAuth) -> Self {
        self.auths.push(auth.in_header(header));
        self
    }

    /// Adds a middleware before the tokens are put on, such as tracing or retry.
    ///
    /// ```
    /// # use reqwest_wi_auth::TokenClientBuilder;
    /// # fn example(retry: impl reqwest_middleware::Middleware) {
    /// let client = TokenClientBuilder::new(reqwest::Client::builder()).outer(retry).build();
    /// # }
    /// ```
    pub fn outer(mut self, middleware: impl Middleware) -> Self {
        self.outer.push(Arc::new(middleware));
        self
    }

    /// Makes the client.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] if the settings do not make one.
    pub fn build(self) -> Result<ClientWithMiddleware, Error> {
        let http = self.http.redirect(within_origin()).build();
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

fn within_origin() -> Policy {
    Policy::custom(|attempt| {
        let origin = attempt.url().origin();
        let stays = attempt
            .previous()
            .iter()
            .map(Url::origin)
            .all(|before| before == origin);
        if !stays {
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
