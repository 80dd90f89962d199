//! Google's metadata server: identity tokens for any audience.

mod endpoint;
mod timing;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use self::endpoint::Endpoint;
use self::timing::Timing;
use self::worker::Worker;
use super::{TokenSource, unexpired};
use crate::error::Error;
use crate::health::TokenHealth;
use crate::token::Token;

/// The metadata server of Google Cloud, from which a workload gets identity tokens.
///
/// It is asked by a client of its own, without proxy and redirects, at
/// `/computeMetadata/v1/instance/service-accounts/default/identity`; both the request and the answer
/// carry `Metadata-Flavor: Google`.
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, MetadataServer};
///
/// let google = MetadataServer::new()?;
/// let orders = google.open("https://orders.example").await?;
/// let stock = google.open("https://stock.example").await?;
/// let auth = BearerAuth::for_origin("https://orders.example", orders)?
///     .and_origin("https://stock.example", stock)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MetadataServer {
    endpoint: Endpoint,
    timing: Timing,
}

impl MetadataServer {
    /// The server at `GCE_METADATA_HOST`, a host with or without a port, or at
    /// `metadata.google.internal` where that is not set. Asks nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] if the HTTP client cannot be made; [`Error::Origin`] if the host is none.
    pub fn new() -> Result<Self, Error> {
        let host = std::env::var("GCE_METADATA_HOST")
            .ok()
            .filter(|host| !host.is_empty());
        Self::at(host.as_deref().unwrap_or(endpoint::DEFAULT_HOST))
    }

    /// The server at this host, with or without a port.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn at(host: &str) -> Result<Self, Error> {
        Ok(Self {
            endpoint: Endpoint::new(host)?,
            timing: Timing::default(),
        })
    }

    /// A source of tokens for an audience, once the first is there: waits through the first seconds of a
    /// pod, in which the server may refuse. Spawns one task on the current tokio runtime, which has the
    /// next token ready before one expires, and ends with the source's last clone.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`]: after 3 s where nothing answers at all, otherwise after 30 s.
    pub async fn open(&self, audience: &str) -> Result<IdentityToken, Error> {
        let source = self.start(audience);
        let deadline = Instant::now() + self.timing.startup_limit;
        source.newer_than(None, deadline).await?;
        Ok(source)
    }

    /// The same without waiting: requests wait for the first token, together, for 10 s at most.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(&self, audience: &str) -> IdentityToken {
        let worker = Worker::spawn(self.endpoint.clone(), audience.to_owned(), self.timing);
        IdentityToken(Arc::new(Inner {
            origin: format!("{} for {audience:?}", self.endpoint.host()),
            timing: self.timing,
            worker,
        }))
    }
}

/// Identity tokens for one audience, signed by Google. Made by [`MetadataServer`].
///
/// However many requests wait, there is one request to the server at a time. The next token is fetched
/// at about 80 % of what is left of a token's life when it comes, by its `exp`: the server may hand out
/// one of which most is gone. An expired token is not sent.
#[derive(Clone)]
pub struct IdentityToken(Arc<Inner>);

struct Inner {
    origin: String,
    timing: Timing,
    worker: Worker,
}

impl IdentityToken {
    /// How the token fares.
    pub fn health(&self) -> TokenHealth {
        let state = self.0.worker.state();
        let state = state.borrow();
        TokenHealth {
            present: self.current().is_ok(),
            expires_at: state.token.as_ref().and_then(Token::expires_at),
            last_rotation: state.last_rotation,
            last_error: state.error.clone().map(Error::Metadata),
        }
    }

    /// Waits for a token other than the current one; nothing when no more will come.
    pub async fn changed(&self) -> Option<Token> {
        let mut state = self.0.worker.state();
        let before = state.borrow().token.clone();
        let changed = state.wait_for(|state| state.token != before).await;
        changed.ok()?.token.clone()
    }

    /// Ends the fetching for all clones, and waits until it has ended. The last token stays until it
    /// expires.
    pub async fn shutdown(&self) {
        self.0.worker.shutdown().await;
    }

    /// Waits for a token other than the rejected one, for the server to say that there is none, or for
    /// the end of the time.
    async fn newer_than(
        &self,
        rejected: Option<&Token>,
        deadline: Instant,
    ) -> Result<Token, Error> {
        let mut state = self.0.worker.state();
        let before = state.borrow_and_update().attempts;
        // Without a token the task is at it anyway.
        if rejected.is_some() {
            self.0.worker.want(before + 1);
        }
        let is_newer =
            |token: &Token| Some(token) != rejected && !token.is_expired(SystemTime::now());
        let done = state.wait_for(|state| {
            let attempted = state.attempts > before && (state.error.is_none() || state.is_hopeless);
            attempted || state.token.as_ref().is_some_and(is_newer)
        });
        // However this ended, the state says what there is.
        let _ = timeout_at(deadline, done).await;
        let error = self.0.worker.state().borrow().error.clone();
        self.current()
            .map_err(|stale| error.map_or(stale, Error::Metadata))
    }
}

#[async_trait]
impl TokenSource for IdentityToken {
    fn current(&self) -> Result<Token, Error> {
        match self.0.worker.current() {
            Some(token) => unexpired(&token, &self.0.origin, "no newer one could be fetched"),
            None => Err(Error::NotFetched {
                origin: self.0.origin.clone(),
            }),
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let current = self.current();
        if current.as_ref().is_ok_and(|token| Some(token) != rejected) {
            return current;
        }
        self.newer_than(rejected, Instant::now() + self.0.timing.request_limit)
            .await
    }
}

impl fmt::Debug for IdentityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityToken")
            .field("origin", &self.0.origin)
            .finish_non_exhaustive()
    }
}
