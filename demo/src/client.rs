//! A client of the demo's server: sends requests to its open path and its guarded one, with a token or without.

pub mod challenge;
pub mod check;
pub(crate) mod claims;
pub mod command_line;
pub(crate) mod failure;
pub mod polling;
mod redaction;
pub mod rejection;
pub mod settings;
pub(crate) mod tokens;

use std::time::SystemTime;

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, TokenSource};

use self::redaction::without_tokens;
use self::rejection::ResponseDetails;
use crate::Error;

/// The largest part of a body that is read, since a server may send without end.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A path of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/`, which responds to any caller.
    Open,
    /// `/private`, which responds to callers with a valid token.
    Private,
}

impl Endpoint {
    /// Returns the path as part of a URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Open => "/",
            Self::Private => "/private",
        }
    }
}

/// A response of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body as text, up to 64 KiB, with `(token)` in place of each JWT: a server may send back what it received.
    pub body: String,
    /// Whether the body was longer than that. The rest was not read.
    pub is_truncated: bool,
    /// The details in the headers: the challenge, and when to try again.
    pub details: ResponseDetails,
}

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    http: ClientWithMiddleware,
}

impl Client {
    /// Creates a client that sends its requests with `http`.
    pub fn new(url: &str, http: ClientWithMiddleware) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            http,
        }
    }

    /// Creates a client that sends no token.
    pub fn anonymous(url: &str, http: reqwest::Client) -> Self {
        Self::new(url, ClientBuilder::new(http).build())
    }

    /// Creates a client that sends the source's current token with each request.
    ///
    /// # Errors
    ///
    /// [`Error::Origin`] if tokens must not be sent to that URL.
    pub fn with_token(
        url: &str,
        http: reqwest::Client,
        source: impl TokenSource,
    ) -> Result<Self, Error> {
        let auth = BearerAuth::for_origin(url, source).map_err(Error::Origin)?;
        Ok(Self::new(url, ClientBuilder::new(http).with(auth).build()))
    }

    /// Sends a GET request and reads the response, up to 64 KiB of its body.
    ///
    /// # Errors
    ///
    /// If there is no token to send, no response arrives, or the body cannot be read.
    pub async fn get(&self, endpoint: Endpoint) -> Result<Response, reqwest_middleware::Error> {
        let mut response = self
            .http
            .get(format!("{}{}", self.url, endpoint.path()))
            .send()
            .await?;
        let status = response.status().as_u16();
        let details = ResponseDetails::from_headers(response.headers(), SystemTime::now());
        let (mut body, mut is_truncated) = (Vec::new(), false);
        while let Some(chunk) = response.chunk().await? {
            let remaining = MAX_BODY_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(remaining)]);
            if chunk.len() > remaining {
                is_truncated = true;
                break;
            }
        }
        Ok(Response {
            status,
            body: without_tokens(&String::from_utf8_lossy(&body)).into_owned(),
            is_truncated,
            details,
        })
    }
}
