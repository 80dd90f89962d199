//! One request to the metadata server.

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
const MAX_BYTES: usize = 64 * 1024;

/// The metadata server, and the client that asks it.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
}

impl Endpoint {
    /// A proxy or a redirect could see the token, or answer in the server's place.
    pub(super) fn new(host: &str) -> Result<Self, Error> {
        let none = |reason| Error::Origin {
            url: host.to_owned(),
            reason,
        };
        // An IPv6 address may come without brackets.
        let url = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("http://[{address}]{PATH}"),
            Err(_) => format!("http://{host}{PATH}"),
        };
        let url = Url::parse(&url).map_err(|_| none("it is not a host"))?;
        if url.path() != PATH || !url.username().is_empty() || url.password().is_some() {
            return Err(none("it is not a host, with or without a port"));
        }
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            // A connection would not outlive the runtime of the task that made it.
            .pool_max_idle_per_host(0)
            .build();
        Ok(Self {
            client: client.map_err(|error| Error::Client(Arc::new(error)))?,
            url,
        })
    }

    pub(super) fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub(super) async fn fetch(&self, audience: &str) -> Result<Token, MetadataError> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("audience", audience)
            .append_pair("format", "full");
        let request = self.client.get(url).header(FLAVOR, GOOGLE);
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let (host, status) = (self.host(), response.status());
        // Only a success or a redirect shows that another server is there.
        if response.headers().get(FLAVOR) != Some(&GOOGLE) {
            return Err(if status.is_success() || status.is_redirection() {
                MetadataError::Flavor { host }
            } else {
                MetadataError::Status { host, status }
            });
        }
        if !status.is_success() {
            return Err(MetadataError::Status { host, status });
        }
        let body = self.body(response).await?;
        let token = Token::with_audiences(&body);
        let (token, audiences) = token.map_err(|error| MetadataError::Answer {
            host: host.clone(),
            reason: match error {
                Error::Token { reason } => reason.to_string(),
                other => other.to_string(),
            },
        })?;
        if !audiences.iter().any(|found| found == audience) {
            return Err(MetadataError::Audience {
                host,
                expected: audience.to_owned(),
                found: Audiences(&audiences).to_string(),
            });
        }
        Ok(token)
    }

    async fn body(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, MetadataError> {
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(MetadataError::Answer {
                    host: self.host(),
                    reason: "it is longer than 64 kB".to_owned(),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, error: reqwest::Error) -> MetadataError {
        let host = self.host();
        if error.is_connect() {
            // The URL names the audience, not a secret; the host is enough all the same.
            return MetadataError::Unreachable {
                host,
                source: Arc::new(error.without_url()),
            };
        }
        MetadataError::Silent {
            host,
            limit: TOTAL_TIMEOUT,
        }
    }
}
