//! Identity tokens from Google's metadata server, for any audience.

mod endpoint;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::endpoint::Endpoint;
use super::fetched::{Description, Fetch, FetchKind, FetchedToken, Timing};
use super::{TokenProvider, TokenSource};
use crate::error::{Error, MetadataError};
use crate::token::Token;

/// How long a request to the metadata server takes at most. The HTTP client has shorter time limits.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// A client of Google Cloud's metadata server, which issues identity tokens for a workload.
///
/// Requests go to `/computeMetadata/v1/instance/service-accounts/default/identity`, with `format=full`, without a proxy,
/// and redirects are not followed. Connecting may take 1 s, a whole request 5 s, and a response may have 64 KiB. A token
/// without `exp` is replaced every 300 s. A response without the header `Metadata-Flavor: Google` is an error.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, MetadataServer};
///
/// let metadata = MetadataServer::new()?;
/// let orders = metadata.open("https://orders.example").await?;
/// let stock = metadata.open("https://stock.example").await?;
/// let auth = BearerAuth::for_origin("https://orders.example", orders)?
///     .and_origin("https://stock.example", stock)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MetadataServer {
    endpoint: Endpoint,
}

/// A request for an identity token.
struct IdentityRequest {
    endpoint: Endpoint,
    audience: String,
}

impl MetadataServer {
    /// Creates a client of the server at the host in the environment variable `GCE_METADATA_HOST`, or at
    /// `metadata.google.internal` if it is not set or empty. Sends no request.
    ///
    /// # Errors
    ///
    /// Returns [`MetadataError::InvalidHost`] if the variable is not a host, and [`Error::Client`] if the HTTP client cannot
    /// be created.
    pub fn new() -> Result<Self, Error> {
        let host = std::env::var("GCE_METADATA_HOST")
            .ok()
            .filter(|host| !host.is_empty());
        Self::with_configured_host(host.as_deref())
    }

    /// Creates a client of the server at a host, or at `metadata.google.internal` if it is `None`.
    pub(super) fn with_configured_host(host: Option<&str>) -> Result<Self, Error> {
        Self::with_host(host.unwrap_or(endpoint::DEFAULT_HOST))
    }

    /// Creates a client of the server at a host: a name or an address, with an optional port. Sends no request.
    ///
    /// The brackets around an IPv6 address without a port are optional.
    ///
    /// # Errors
    ///
    /// Returns [`MetadataError::InvalidHost`] if the argument is not a host, and [`Error::Client`] if the HTTP client cannot
    /// be created.
    pub fn with_host(host: &str) -> Result<Self, Error> {
        Ok(Self {
            endpoint: Endpoint::new(host)?,
        })
    }

    /// Opens a source of tokens for an audience, and waits for the first token. Errors are retried meanwhile, since the
    /// server may reject requests in the first seconds of a pod.
    ///
    /// Spawns a task on the current tokio runtime that fetches the next token before the current one expires. The task
    /// ends when the last clone of the source is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Metadata`] after 3 s if no connection can be established, at once for
    /// [`MetadataError::MissingFlavor`], and otherwise after 30 s. Returns [`Error::Expired`] if the server returns a token
    /// that has expired. Returns
    /// [`MetadataError::NoRuntime`] outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    pub async fn open(&self, audience: &str) -> Result<FetchedToken, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            let host = self.endpoint.host();
            return Err(Error::Metadata(MetadataError::NoRuntime { host }));
        }
        self.start(audience).opened().await
    }

    /// Opens a source of tokens for an audience, without waiting for the first token. Requests that need it wait for up to
    /// 10 s, or until no connection could be established for 3 s. After that they fail at once, until a connection
    /// succeeds.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self, audience: &str) -> FetchedToken {
        let request = IdentityRequest {
            endpoint: self.endpoint.clone(),
            audience: audience.to_owned(),
        };
        let description = Description {
            kind: FetchKind::Metadata,
            audience: audience.to_owned(),
            server: self.endpoint.host(),
        };
        FetchedToken::start(request, description, Timing::default())
    }
}

#[async_trait]
impl Fetch for IdentityRequest {
    async fn fetch(&self) -> Result<Token, Error> {
        Ok(self.endpoint.fetch(&self.audience).await?)
    }

    fn limit(&self) -> Duration {
        FETCH_LIMIT
    }
}

impl TokenProvider for MetadataServer {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        Ok(Arc::new(self.start(audience)))
    }
}
