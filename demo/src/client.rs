//! The client: requests to the open path and to the guarded one, with a token and without.

pub mod rounds;
pub mod settings;
pub(crate) mod tokens;

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, TokenSource};

use crate::Error;

/// A path of the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Answers anyone.
    Open,
    /// Answers those with a valid token.
    Private,
}

impl Path {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "/",
            Self::Private => "/private",
        }
    }
}

/// What a request came to: a status and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    http: ClientWithMiddleware,
}

impl Client {
    /// A client that sends what `http` puts on its requests.
    pub fn new(url: &str, http: ClientWithMiddleware) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            http,
        }
    }

    /// A client that sends no token.
    pub fn anonymous(url: &str, http: reqwest::Client) -> Self {
        Self::new(url, ClientBuilder::new(http).build())
    }

    /// A client that sends the source's token with every request.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] if no token may be sent to that URL.
    pub fn with_token(
        url: &str,
        http: reqwest::Client,
        source: impl TokenSource,
    ) -> Result<Self, Error> {
        let auth = BearerAuth::for_origin(url, source)?;
        Ok(Self::new(url, ClientBuilder::new(http).with(auth).build()))
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    ///
    /// Where there is no answer, or there was no token to send.
    pub async fn get(&self, path: Path) -> Result<Answer, reqwest_middleware::Error> {
        let response = self
            .http
            .get(format!("{}{}", self.url, path.as_str()))
            .send()
            .await?;
        let status = response.status().as_u16();
        Ok(Answer {
            status,
            body: response.text().await?,
        })
    }
}
