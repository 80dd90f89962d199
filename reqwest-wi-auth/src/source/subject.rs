//! The tokens that a request to a token endpoint authenticates with: the subject of an exchange, or an assertion.

use std::sync::Arc;

use super::TokenSource;
use super::http::Endpoint;
use crate::error::FetchError;
use crate::token::Token;

/// A source of a credential for an endpoint.
pub(crate) struct Credential<'c> {
    pub(crate) source: &'c dyn TokenSource,
    pub(crate) endpoint: &'c Endpoint,
    /// The kind of credential, for error messages, such as `the subject token`.
    pub(crate) name: &'static str,
}

impl Credential<'_> {
    /// Returns the current token. Waits for one if there is none, or it has expired.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError::Credential`] if there is no token.
    pub(crate) async fn token(&self) -> Result<Token, FetchError> {
        let token = match self.source.current() {
            Ok(token) => Ok(token),
            Err(_) => self.source.refresh(None).await,
        };
        token.map_err(|error| FetchError::Credential {
            endpoint: self.endpoint.to_string(),
            credential: self.name,
            source: Arc::new(error),
        })
    }

    /// Returns a token that replaces one that the endpoint has rejected, or `None` if there is no other one.
    pub(crate) async fn replacement(&self, rejected: &Token) -> Option<Token> {
        let token = self.source.refresh(Some(rejected)).await.ok()?;
        (token != *rejected).then_some(token)
    }

    /// Sends a request with the current token. If the endpoint rejects the token, and its source has another one, sends the
    /// request once more.
    ///
    /// `is_rejection` returns whether an error may be caused by the token.
    pub(crate) async fn send<T, F>(
        &self,
        is_rejection: impl Fn(&FetchError) -> bool,
        request: impl Fn(Token) -> F,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>>,
    {
        let token = self.token().await?;
        match request(token.clone()).await {
            Err(error) if is_rejection(&error) => match self.replacement(&token).await {
                Some(newer) => request(newer).await,
                None => Err(error),
            },
            result => result,
        }
    }
}
