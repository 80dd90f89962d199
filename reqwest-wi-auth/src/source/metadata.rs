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
use crate::error::{Error, MetadataError};
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
    /// Creates a client of the server at `GCE_METADATA_HOST`, or at `metadata.google.internal` if that is not set or
    /// empty. Makes no request.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Client`] if the HTTP client cannot be built, and [`Error::Origin`] if the variable is not a host.
    pub fn new() -> Result<Self, Error> {
        let host = std::env::var("GCE_METADATA_HOST")
            .ok()
            .filter(|host| !host.is_empty());
        Self::with_host(host.as_deref().unwrap_or(endpoint::DEFAULT_HOST))
    }

    /// Creates a client of the server at a host: a name or an address, with a port or without. An IPv6 address without a
    /// port may lack its brackets.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_host(host: &str) -> Result<Self, Error> {
        Ok(Self {
            endpoint: Endpoint::new(host)?,
            timing: Timing::default(),
        })
    }

    /// Opens a source of tokens for an audience, and waits for the first token: through the first seconds of a pod too, in
    /// which the server may refuse. Spawns a task on the current tokio runtime, which fetches the next token before one
    /// expires, and ends with the source's last clone.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Metadata`] after 3 s if nothing responds at all, otherwise after 30 s; at once outside a tokio
    /// runtime.
    ///
    /// # Panics
    ///
    /// Panics if the runtime's timer or I/O is not enabled.
    pub async fn open(&self, audience: &str) -> Result<IdentityToken, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            let host = self.endpoint.host();
            return Err(Error::Metadata(MetadataError::NoRuntime { host }));
        }
        let source = self.start(audience);
        let deadline = Instant::now() + self.timing.startup_limit;
        source.newer_than(None, deadline).await?;
        Ok(source)
    }

    /// Opens a source of tokens for an audience without waiting: requests wait for the first token together, for up to
    /// 10 s. Outside a tokio runtime, fetching begins with the first use.
    pub fn start(&self, audience: &str) -> IdentityToken {
        let worker = Worker::new(self.endpoint.clone(), audience.to_owned(), self.timing);
        worker.ensure_running();
        IdentityToken(Arc::new(Inner {
            origin: format!("{} for {audience:?}", self.endpoint.host()),
            timing: self.timing,
            worker,
        }))
    }
}

/// Identity tokens for one audience, signed by Google. Created by [`MetadataServer`].
///
/// However many requests wait, there is one request to the server at a time. The next token is fetched after 75 to 85 % of
/// the remaining life of a token when it arrives, by its `exp`: the server may return one of which most is gone. A token
/// for another audience is an error. One that expires earlier than the one in use does not replace it, unless a server has
/// rejected the one in use. An expired token is not sent.
///
/// # Runtimes
///
/// A task fetches the tokens, on the tokio runtime that the source was opened in. If that runtime ends or is not driven, a
/// warning is logged, and the next use of the source within another runtime continues from there. Outside a runtime, a
/// use that finds no token, or an expired one, fetches one in place: it blocks for up to 5 s, at most once a second.
#[derive(Clone)]
pub struct IdentityToken(Arc<Inner>);

struct Inner {
    origin: String,
    timing: Timing,
    worker: Arc<Worker>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.worker.background.close();
    }
}

impl IdentityToken {
    /// Returns the state of the token.
    pub fn health(&self) -> TokenHealth {
        let present = self.newest().is_ok();
        let state = self.0.worker.state();
        let state = state.borrow();
        TokenHealth {
            present,
            expires_at: state.token.as_ref().and_then(Token::expires_at),
            last_rotation: state.last_rotation,
            last_error: state.error.clone().map(Error::Metadata),
        }
    }

    /// Waits for a token other than the current one. `None` if no more will come, since the source was shut down.
    pub async fn changed(&self) -> Option<Token> {
        let mut events = self.0.worker.background.events();
        let before = self.0.worker.state().borrow().token.clone();
        loop {
            let is_closed = events.borrow_and_update().is_closed;
            let token = self.0.worker.state().borrow().token.clone();
            if token != before {
                return token;
            }
            if is_closed {
                return None;
            }
            // The task may have ended with its runtime.
            self.0.worker.ensure_running();
            events.changed().await.ok()?;
        }
    }

    /// Ends the fetching for all clones, and waits until it has ended. The last token stays until it
    /// expires.
    pub async fn shutdown(&self) {
        self.0.worker.background.end().await;
    }

    /// Returns the newest token that was fetched, unless it has expired.
    fn newest(&self) -> Result<Token, Error> {
        match self.0.worker.current() {
            Some(token) => unexpired(&token, &self.0.origin, "no newer one could be fetched"),
            None => Err(Error::NotFetched {
                origin: self.0.origin.clone(),
            }),
        }
    }

    /// Waits for a token other than the rejected one, for the server to say that there is none, or for
    /// the end of the time.
    async fn newer_than(
        &self,
        rejected: Option<&Token>,
        deadline: Instant,
    ) -> Result<Token, Error> {
        let worker = &self.0.worker;
        // Even if there is a task: nobody may drive it.
        worker.ensure_running();
        let mut state = worker.state();
        let before = state.borrow_and_update().attempts;
        // Without a token the task is at it anyway.
        if let Some(rejected) = rejected {
            worker.want(before + 1, rejected);
        }
        let is_newer =
            |token: &Token| Some(token) != rejected && !token.is_expired(SystemTime::now());
        let mut events = worker.background.events();
        loop {
            let is_closed = events.borrow_and_update().is_closed;
            let unanswered = {
                let state = state.borrow_and_update();
                let is_elsewhere = matches!(state.error, Some(MetadataError::Flavor { .. }));
                let has_answered =
                    state.attempts > before && (state.error.is_none() || is_elsewhere);
                if is_closed || has_answered || state.token.as_ref().is_some_and(is_newer) {
                    break;
                }
                state.unanswered_since
            };
            let limit = unanswered.map(|since| since + self.0.timing.unreachable_limit);
            let limit = limit.map_or(deadline, |limit| limit.min(deadline));
            let changed = async {
                tokio::select! {
                    _ = state.changed() => {}
                    _ = events.changed() => {}
                }
            };
            if timeout_at(limit, changed).await.is_err() {
                break;
            }
            // The task may have ended with its runtime.
            worker.ensure_running();
        }
        // However this ended, the state holds what there is.
        let error = worker.state().borrow().error.clone();
        self.newest()
            .map_err(|stale| error.map_or(stale, Error::Metadata))
    }
}

#[async_trait]
impl TokenSource for IdentityToken {
    fn current(&self) -> Result<Token, Error> {
        match self.newest() {
            Err(_) if self.0.worker.fetch_on_the_spot() => self.newest(),
            newest => newest,
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            return self.current();
        }
        let newest = self.newest();
        if newest.as_ref().is_ok_and(|token| Some(token) != rejected) {
            return newest;
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
