//! Where tokens come from.

pub(crate) mod command;
pub(crate) mod fixed;
pub(crate) mod metadata;
pub(crate) mod projected;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::Error;
use crate::token::Token;

/// A source of tokens. Bring your own by implementing it:
///
/// ```
/// use reqwest_wi_auth::{Error, Token, TokenSource};
///
/// struct FromEnvironment;
///
/// #[async_trait::async_trait]
/// impl TokenSource for FromEnvironment {
///     fn current(&self) -> Result<Token, Error> {
///         Token::new(std::env::var("TOKEN").unwrap_or_default())
///     }
///
///     async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
///         self.current()
///     }
/// }
/// ```
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// The token to send now. Called for every request: it returns at once and does no I/O.
    ///
    /// # Errors
    ///
    /// If there is no token, or none that has not expired.
    fn current(&self) -> Result<Token, Error>;

    /// Looks for a newer token: called without one where [`current`](Self::current) has none, and with
    /// the one that a server has just rejected. Returns the newest there is, which may be the rejected
    /// one again. Looks that follow each other closely should share one result.
    ///
    /// # Errors
    ///
    /// If there is no token, or none that has not expired.
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

/// The token, unless it has expired by the system's clock.
fn unexpired(token: &Token, origin: &str, state: &str) -> Result<Token, Error> {
    match token
        .expires_at()
        .filter(|&expiry| expiry <= SystemTime::now())
    {
        Some(since) => {
            let (origin, state) = (origin.to_owned(), state.to_owned());
            Err(Error::Expired {
                origin,
                since,
                state,
            })
        }
        None => Ok(token.clone()),
    }
}
