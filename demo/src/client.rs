//! The client: requests to the open path and to the guarded one, with a token and without.

pub mod rounds;
pub mod settings;
pub(crate) mod tokens;

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, TokenSource};

use crate::Error;

/// A path of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Answers anyone.
    Open,
    /// Answers those with a valid token.
    Private,
}

impl Path {
    /// Returns the path as it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "/",
            Self::Private => "/private",
        }
    }
}

/// The status and the body of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as text, up to 64 KiB of it.
    pub body: String,
    /// Whether the body was longer. The rest was not read.
    pub is_cut: bool,
}

/// So much of a body is kept. A server may send without end.
const MAX_BODY_BYTES: usize = 64 * 1024;

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

    /// Sends a request and reads the response, up to 64 KiB of its body.
    ///
    /// # Errors
    ///
    /// If there is no response, the body cannot be read, or there is no token to send.
    pub async fn get(&self, path: Path) -> Result<Answer, reqwest_middleware::Error> {
        let mut response = self
            .http
            .get(format!("{}{}", self.url, path.as_str()))
            .send()
            .await?;
        let status = response.status().as_u16();
        let (mut body, mut is_cut) = (Vec::new(), false);
        while let Some(chunk) = response.chunk().await? {
            let left = MAX_BODY_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(left)]);
            if chunk.len() > left {
                is_cut = true;
                break;
            }
        }
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
            is_cut,
        })
    }
}
