//! Sends a request for an identity token to the metadata server.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use zeroize::Zeroizing;

use crate::error::{Error, MetadataError};
use crate::token::Token;
use crate::token::jwt::Audiences;

pub(super) const DEFAULT_HOST: &str = "metadata.google.internal";
const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";
const FLAVOR: &str = "Metadata-Flavor";
const GOOGLE: HeaderValue = HeaderValue::from_static("Google");

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The size limit of a response.
const MAX_BYTES: usize = 64 * 1024;

/// The URL of the metadata server, and the HTTP client for it.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
}

impl Endpoint {
    /// Creates an endpoint for a host with an optional port.
    ///
    /// The HTTP client uses no proxy and follows no redirects: another server could read the token, or respond in place of
    /// the metadata server.
    pub(super) fn new(host: &str) -> Result<Self, Error> {
        let invalid = || MetadataError::InvalidHost {
            host: host.to_owned(),
        };
        // The brackets around an IPv6 address are optional.
        let url = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("http://[{address}]{PATH}"),
            Err(_) => format!("http://{host}{PATH}"),
        };
        let url = Url::parse(&url).map_err(|_| invalid())?;
        if url.path() != PATH || !url.username().is_empty() || url.password().is_some() {
            return Err(invalid().into());
        }
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            // A connection does not outlive the runtime of the task that opened it.
            .pool_max_idle_per_host(0)
            .build();
        Ok(Self {
            client: client.map_err(|error| Error::Client(Arc::new(error)))?,
            url,
        })
    }

    /// Returns the host, with the port if it is not the default one.
    pub(super) fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Requests a token for an audience.
    pub(super) async fn fetch(&self, audience: &str) -> Result<Token, MetadataError> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("audience", audience)
            .append_pair("format", "full");
        let request = self.client.get(url).header(FLAVOR, GOOGLE);
        let response = request
            .send()
            .await
            .map_err(|error| self.request_error(error))?;
        let (host, status) = (self.host(), response.status());
        // The metadata server may omit the header in an error, so a missing header in an error does not prove that this is
        // another server.
        if response.headers().get(FLAVOR) != Some(&GOOGLE) {
            return Err(if status.is_success() || status.is_redirection() {
                MetadataError::MissingFlavor { host }
            } else {
                MetadataError::Status { host, status }
            });
        }
        if !status.is_success() {
            return Err(MetadataError::Status { host, status });
        }
        let body = self.body(response).await?;
        let token = Token::parse_jwt(&body);
        let (token, audiences) = token.map_err(|error| MetadataError::InvalidToken {
            host: host.clone(),
            reason: match error {
                Error::InvalidToken { reason } => reason.to_string(),
                other => other.to_string(),
            },
        })?;
        if !audiences.iter().any(|found| found == audience) {
            return Err(MetadataError::WrongAudience {
                host,
                expected: audience.to_owned(),
                found: Audiences(&audiences).to_string(),
            });
        }
        Ok(token)
    }

    /// Reads the body of a response, up to the size limit.
    async fn body(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, MetadataError> {
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.request_error(error))?
        {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(MetadataError::InvalidToken {
                    host: self.host(),
                    reason: "the response is larger than the limit of 64 KiB".to_owned(),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn request_error(&self, error: reqwest::Error) -> MetadataError {
        let host = self.host();
        let is_connect = error.is_connect();
        // The URL is removed from the message, since the host is sufficient.
        let source = Arc::new(error.without_url());
        if is_connect {
            return MetadataError::Unreachable { host, source };
        }
        MetadataError::NoResponse {
            host,
            limit: TOTAL_TIMEOUT,
            source,
        }
    }
}
