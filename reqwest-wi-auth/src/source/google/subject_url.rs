//! A subject token that a server returns.

use std::fmt;

use async_trait::async_trait;
use http::HeaderMap;

use super::config::ContentFormat;
use crate::error::{Error, FetchError};
use crate::source::TokenSource;
use crate::source::http::{Endpoint, HttpClient, Secrets};
use crate::source::json_member::find_member;
use crate::token::{Token, TokenFormat};

/// A token source: the response to a `GET` request, which is sent whenever a token is needed.
pub(super) struct SubjectUrl {
    pub(super) http: HttpClient,
    pub(super) endpoint: Endpoint,
    /// May contain credentials.
    pub(super) headers: HeaderMap,
    pub(super) content: ContentFormat,
    pub(super) format: TokenFormat,
}

impl SubjectUrl {
    async fn fetch(&self) -> Result<Token, FetchError> {
        let mut secrets = Secrets::default();
        for value in self.headers.values() {
            let value = value.to_str().unwrap_or_default();
            // A credential follows the name of a scheme, such as `Bearer`.
            secrets = value.split(' ').fold(secrets, Secrets::with).with(value);
        }
        for (_, value) in self.endpoint.url().query_pairs() {
            secrets = secrets.with(&value);
        }
        let response = self
            .http
            .send(&self.endpoint, secrets, |client| {
                client
                    .get(self.endpoint.url().clone())
                    .headers(self.headers.clone())
            })
            .await?;
        if !response.status().is_success() {
            return Err(response.error());
        }
        let token = match self.content.field() {
            None => Token::parse(response.body(), self.format),
            Some(field) => {
                let member = find_member(response.body(), field);
                let member = member.map_err(|reason| response.invalid(reason))?;
                Token::parse(member.as_bytes(), self.format)
            }
        };
        token.map_err(|error| {
            response.invalid(format!("the response is not a subject token: {error}"))
        })
    }
}

#[async_trait]
impl TokenSource for SubjectUrl {
    /// Returns an error, so that each exchange requests a new token: exchanges are rare.
    fn current(&self) -> Result<Token, Error> {
        Err(Error::NotFetched {
            location: self.endpoint.to_string(),
        })
    }

    async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
        Ok(self.fetch().await?)
    }
}

impl fmt::Debug for SubjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectUrl")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
