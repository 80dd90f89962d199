//! Identity tokens from Google's metadata server, for any audience.

mod endpoint;
mod fetcher;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use self::endpoint::Endpoint;
use self::fetcher::{Timing, TokenFetcher};
use super::{TokenHealth, TokenSource, unexpired};
use crate::error::{Error, MetadataError};
use crate::token::Token;

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
    timing: Timing,
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
        Self::with_host(host.as_deref().unwrap_or(endpoint::DEFAULT_HOST))
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
            timing: Timing::default(),
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
    pub async fn open(&self, audience: &str) -> Result<IdentityToken, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            let host = self.endpoint.host();
            return Err(Error::Metadata(MetadataError::NoRuntime { host }));
        }
        let source = self.start(audience);
        let deadline = Instant::now() + self.timing.startup_limit;
        source.wait_for_newer(None, deadline).await?;
        Ok(source)
    }

    /// Opens a source of tokens for an audience, without waiting for the first token. Requests that need it wait for up to
    /// 10 s, or until no connection could be established for 3 s. After that they fail at once, until a connection
    /// succeeds.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self, audience: &str) -> IdentityToken {
        let fetcher = TokenFetcher::new(self.endpoint.clone(), audience.to_owned(), self.timing);
        fetcher.ensure_running();
        IdentityToken(Arc::new(Inner {
            location: format!("{} for {audience:?}", self.endpoint.host()),
            timing: self.timing,
            fetcher,
        }))
    }
}

/// A token source: identity tokens for one audience, signed by Google. Created by [`MetadataServer`].
///
/// - There is one request to the server at a time, however many requests need a token.
/// - The next token is fetched after 75 to 85 % of the remaining lifetime of the current one, as the server may return a
///   token that it issued some time ago.
/// - Failed requests are retried after 100 ms, doubling up to 5 s. Each delay is shortened by a random part of up to half.
/// - An expired token is not sent.
/// - A token for another audience is an error.
/// - A token that expires earlier than the current one does not replace it, unless a server has rejected the current one.
///
/// Clones share the same token and task.
///
/// # Runtimes
///
/// A task on the tokio runtime in which the source was opened fetches the tokens. If that runtime ends, a warning is
/// logged, and the next use within another runtime starts the task there. If it still exists but does not run its tasks,
/// [`refresh`](TokenSource::refresh) and [`changed`](Self::changed) replace the task once it is 10 s late.
///
/// If [`current`](TokenSource::current) is called outside a runtime and there is no token, or it has expired, it fetches
/// one itself, at most once per second. That blocks for up to 5 s.
#[derive(Clone)]
pub struct IdentityToken(Arc<Inner>);

struct Inner {
    /// The host and the audience, for error messages.
    location: String,
    timing: Timing,
    fetcher: Arc<TokenFetcher>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.fetcher.background().close();
    }
}

impl IdentityToken {
    /// Returns the state of the token. Starts no task, and performs no I/O.
    pub fn health(&self) -> TokenHealth {
        let state = self.0.fetcher.state();
        let state = state.borrow();
        let now = SystemTime::now();
        TokenHealth {
            present: state
                .token
                .as_ref()
                .is_some_and(|token| !token.is_expired(now)),
            expires_at: state.token.as_ref().and_then(Token::expires_at),
            last_rotation: state.last_rotation,
            last_error: state.error.clone().map(Error::Metadata),
        }
    }

    /// Waits until the token that is current at the time of the call is replaced, and returns the new one. A change between
    /// two calls is not reported. Cancel safe. Returns `None` after
    /// [`shutdown`](Self::shutdown).
    pub async fn changed(&self) -> Option<Token> {
        let mut events = self.0.fetcher.background().events();
        let before = self.0.fetcher.state().borrow().token.clone();
        loop {
            let is_closed = events.borrow_and_update().is_closed;
            let token = self.0.fetcher.state().borrow().token.clone();
            if token != before {
                return token;
            }
            if is_closed {
                return None;
            }
            // The task may have ended with its runtime.
            self.0.fetcher.ensure_running();
            events.changed().await.ok()?;
        }
    }

    /// Ends the task for all clones, and waits until it has ended, for up to 1 s. The last token is sent until it expires.
    pub async fn shutdown(&self) {
        self.0.fetcher.background().shutdown().await;
    }

    /// Returns the newest token, or an error if there is none or it has expired.
    fn newest(&self) -> Result<Token, Error> {
        match self.0.fetcher.current() {
            Some(token) => unexpired(&token, &self.0.location, "no newer token could be fetched"),
            None => Err(Error::NotFetched {
                location: self.0.location.clone(),
            }),
        }
    }

    /// Waits for a token other than the rejected one, a response of the server without one, or the deadline. Returns the
    /// newest token, which may be the rejected one.
    async fn wait_for_newer(
        &self,
        rejected: Option<&Token>,
        deadline: Instant,
    ) -> Result<Token, Error> {
        let fetcher = &self.0.fetcher;
        // Called even if there is a task, since its runtime may not be driven.
        fetcher.ensure_running();
        let mut state = fetcher.state();
        let before = state.borrow_and_update().attempts;
        // While there is no token, the task fetches one without a request.
        if let Some(rejected) = rejected {
            fetcher.request_attempt(before + 1, rejected);
        }
        let is_newer =
            |token: &Token| Some(token) != rejected && !token.is_expired(SystemTime::now());
        let mut events = fetcher.background().events();
        loop {
            let is_closed = events.borrow_and_update().is_closed;
            let unreachable_since = {
                let state = state.borrow_and_update();
                let is_other_server =
                    matches!(state.error, Some(MetadataError::MissingFlavor { .. }));
                let has_responded =
                    state.attempts > before && (state.error.is_none() || is_other_server);
                if is_closed || has_responded || state.token.as_ref().is_some_and(is_newer) {
                    break;
                }
                state.unreachable_since
            };
            let limit = unreachable_since.map(|since| since + self.0.timing.unreachable_limit);
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
            fetcher.ensure_running();
        }
        let error = fetcher.state().borrow().error.clone();
        self.newest()
            .map_err(|no_token| error.map_or(no_token, Error::Metadata))
    }
}

#[async_trait]
impl TokenSource for IdentityToken {
    fn current(&self) -> Result<Token, Error> {
        match self.newest() {
            Err(_) if self.0.fetcher.fetch_outside_runtime() => self.newest(),
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
        let deadline = Instant::now() + self.0.timing.request_limit;
        self.wait_for_newer(rejected, deadline).await
    }
}

impl fmt::Debug for IdentityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityToken")
            .field("location", &self.0.location)
            .finish_non_exhaustive()
    }
}
