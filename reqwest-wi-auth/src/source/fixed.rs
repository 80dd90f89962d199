//! A token that never changes: for tests, and for a laptop.

use async_trait::async_trait;

use super::{TokenSource, unexpired};
use crate::error::Error;
use crate::token::Token;

/// One token, sent until it expires.
///
/// ```
/// # fn main() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
///
/// let token = FixedToken::new(Token::opaque("s3cr3t")?);
/// let auth = BearerAuth::for_origin("http://127.0.0.1:8080", token)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FixedToken(Token);

impl FixedToken {
    /// A source of that token.
    pub fn new(token: Token) -> Self {
        Self(token)
    }
}

#[async_trait]
impl TokenSource for FixedToken {
    fn current(&self) -> Result<Token, Error> {
        unexpired(&self.0, "a fixed value", "it is never replaced")
    }

    async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
        self.current()
    }
}
