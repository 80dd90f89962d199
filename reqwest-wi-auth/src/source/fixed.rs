//! A token that is never replaced, for tests and local development.

use std::time::SystemTime;

use async_trait::async_trait;

use super::{TokenSource, unexpired};
use crate::error::Error;
use crate::token::Token;

/// A source of one token, which is sent until it expires and never replaced. For tests and local development.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
///
/// let source = FixedToken::new(Token::opaque("s3cr3t")?);
/// let auth = BearerAuth::for_origin("http://127.0.0.1:8080", source)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FixedToken(Token);

impl FixedToken {
    /// Creates a source of this token.
    pub fn new(token: Token) -> Self {
        Self(token)
    }
}

#[async_trait]
impl TokenSource for FixedToken {
    fn current(&self) -> Result<Token, Error> {
        unexpired(
            &self.0,
            SystemTime::now(),
            "a fixed value",
            "it is never replaced",
        )
    }

    async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
        self.current()
    }
}
