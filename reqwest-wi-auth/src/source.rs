//! Token sources.

#[cfg(feature = "federation")]
pub(crate) mod ambient;
#[cfg(feature = "federation")]
pub(crate) mod azure;
pub(crate) mod command;
#[cfg(feature = "federation")]
pub(crate) mod environment;
pub(crate) mod fetched;
pub(crate) mod fixed;
#[cfg(feature = "federation")]
pub(crate) mod github_actions;
#[cfg(feature = "federation")]
pub(crate) mod google;
#[cfg(feature = "federation")]
pub(crate) mod http;
#[cfg(feature = "federation")]
pub(crate) mod json_member;
pub(crate) mod metadata;
pub(crate) mod projected;
#[cfg(feature = "federation")]
pub(crate) mod subject;
#[cfg(feature = "federation")]
pub(crate) mod token_endpoint;
#[cfg(feature = "federation")]
pub(crate) mod token_exchange;
#[cfg(feature = "federation")]
pub(crate) mod token_file;
#[cfg(feature = "federation")]
pub(crate) mod token_request;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::Error;
use crate::token::Token;

/// A source of tokens for one audience.
///
/// Implementations require the macro `async_trait`, which this crate re-exports.
///
/// # Examples
///
/// A source that reads each token from an environment variable:
///
/// ```
/// use reqwest_wi_auth::{BearerAuth, Error, Token, TokenSource};
///
/// struct FromEnvironment;
///
/// #[reqwest_wi_auth::async_trait]
/// impl TokenSource for FromEnvironment {
///     fn current(&self) -> Result<Token, Error> {
///         Token::new(std::env::var("TOKEN").unwrap_or_default())
///     }
///
///     async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
///         self.current()
///     }
/// }
///
/// # fn main() -> Result<(), Error> {
/// let auth = BearerAuth::for_origin("https://auth-server.example", FromEnvironment)?;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Returns the token to send now.
    ///
    /// Called for every request, so it must not block or perform I/O.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no token, or the newest one has expired. The caller then awaits
    /// [`refresh`](Self::refresh).
    fn current(&self) -> Result<Token, Error>;

    /// Gets a newer token, and returns the newest one that is available, which may be the rejected one.
    ///
    /// Called with `None` after [`current`](Self::current) has returned an error, and with the rejected token after a
    /// server has responded with 401. Concurrent calls should share one attempt, and a server that rejects every token
    /// should not cause an attempt for each request.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no token, or the newest one has expired.
    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error>;
}

#[async_trait]
impl<S: TokenSource + ?Sized> TokenSource for Arc<S> {
    fn current(&self) -> Result<Token, Error> {
        (**self).current()
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        (**self).refresh(rejected).await
    }
}

/// A server or service that issues tokens for any audience.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use reqwest_wi_auth::{Error, MetadataServer, TokenProvider, TokenSource};
///
/// # fn main() -> Result<(), Error> {
/// let provider = MetadataServer::new()?;
/// let orders: Arc<dyn TokenSource> = provider.token_source("https://orders.example")?;
/// # Ok(())
/// # }
/// ```
pub trait TokenProvider: Send + Sync + 'static {
    /// Returns a source of tokens for an audience, without waiting for its first token.
    ///
    /// # Errors
    ///
    /// Returns an error if no tokens can be issued for the audience.
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error>;
}

impl<P: TokenProvider + ?Sized> TokenProvider for Arc<P> {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        (**self).token_source(audience)
    }
}

/// The state of a token source, as returned by [`ProjectedToken::health`](crate::ProjectedToken::health) and
/// [`FetchedToken::health`](crate::FetchedToken::health).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenHealth {
    /// Whether there is a token that can be sent now.
    pub present: bool,
    /// When the newest token expires, or `None` if there is no token or it has no `exp` claim.
    pub expires_at: Option<SystemTime>,
    /// When the newest token was first received, or `None` if there is no token.
    pub last_rotation: Option<SystemTime>,
    /// The error of the last attempt to get a token, or `None` if it succeeded.
    pub last_error: Option<Error>,
}

/// Returns the token if it has not expired at a time. `location` and `state` are used in the error otherwise.
fn unexpired(token: &Token, at: SystemTime, location: &str, state: &str) -> Result<Token, Error> {
    match token.expires_at() {
        Some(since) if since <= at => Err(Error::Expired {
            location: location.to_owned(),
            since,
            state: state.to_owned(),
        }),
        _ => Ok(token.clone()),
    }
}
