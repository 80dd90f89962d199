//! Tokens that are fetched from a server, kept, and renewed before they expire.

mod fetcher;
#[cfg(test)]
mod models;
mod timing;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use self::fetcher::Fetcher;
pub(crate) use self::timing::Timing;
#[cfg(feature = "federation")]
use super::http::Endpoint;
use super::{TokenHealth, TokenSource, unexpired};
use crate::error::Error;
#[cfg(feature = "federation")]
use crate::error::FetchError;
use crate::sync::Handle;
use crate::sync::time::timeout_at;
use crate::telemetry;
use crate::token::Token;
use crate::watched_file::ClockFn;

/// Checks that a source is opened within a tokio runtime, which fetches its tokens.
///
/// # Errors
///
/// Returns [`FetchError::NoRuntime`] otherwise.
#[cfg(feature = "federation")]
pub(crate) fn require_runtime(endpoint: &Endpoint) -> Result<(), Error> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Fetch(FetchError::NoRuntime {
            endpoint: endpoint.to_string(),
        })),
    }
}

/// Requests one token from a server.
#[async_trait]
pub(crate) trait Fetch: Send + Sync + 'static {
    /// Requests a token.
    async fn fetch(&self) -> Result<Token, Error>;

    /// Returns how long [`fetch`](Self::fetch) takes at most, with a margin.
    fn limit(&self) -> Duration;
}

/// The kind of server that tokens are fetched from, for log events and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchKind {
    Metadata,
    #[cfg(feature = "federation")]
    TokenExchange,
    #[cfg(feature = "federation")]
    Google,
    #[cfg(feature = "federation")]
    Azure,
    #[cfg(feature = "federation")]
    GitHubActions,
    #[cfg(feature = "federation")]
    TokenRequest,
}

impl FetchKind {
    /// Returns the value of the metric label and of the log field `kind`.
    #[cfg(any(feature = "metrics", feature = "federation"))]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            #[cfg(feature = "federation")]
            Self::TokenExchange => "token_exchange",
            #[cfg(feature = "federation")]
            Self::Google => "google_federation",
            #[cfg(feature = "federation")]
            Self::Azure => "azure_workload_identity",
            #[cfg(feature = "federation")]
            Self::GitHubActions => "github_actions",
            #[cfg(feature = "federation")]
            Self::TokenRequest => "token_request",
        }
    }
}

/// The kind, audience and server of the tokens, for errors, log events and metrics.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    pub(crate) kind: FetchKind,
    /// The audience of the tokens, or their scopes or resources if the request has no audience.
    pub(crate) audience: String,
    /// The server: a host, or a URL without user information and query.
    pub(crate) server: String,
}

impl Description {
    /// Returns the location of the tokens for error messages.
    pub(crate) fn location(&self) -> String {
        format!("{} for {:?}", self.server, self.audience)
    }

    /// Returns the activity of the task for log messages.
    fn activity(&self) -> String {
        match self.kind {
            FetchKind::Metadata => format!("fetching identity tokens for {:?}", self.audience),
            #[cfg(feature = "federation")]
            _ => format!("fetching tokens from {}", self.location()),
        }
    }
}

/// A token source: tokens for one audience that are fetched from a server. Created by [`MetadataServer`], and with the
/// feature `federation` by the other sources that fetch tokens.
///
/// - There is one request to the server at a time, however many requests need a token.
/// - The next token is fetched after 75 to 85 % of the remaining lifetime of the current one, as the server may return a
///   token that it issued some time ago.
/// - Failed requests are retried after 100 ms, doubling up to 5 s, or up to the limit that the source documents; while a request
///   needs a token, up to 5 s. Each delay is shortened by a random part of up to half. A `Retry-After` of the server is
///   respected, up to 5 min.
/// - An expired token is not sent.
/// - A token that has expired when it is received is an error, and so is one for another audience than the requested one, unless
///   the source documents that it does not check it.
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
/// one itself, at most once per second. That blocks for up to 5 s for the metadata server, and for others for several requests of up to
/// their time limit each.
///
/// [`MetadataServer`]: crate::MetadataServer
#[derive(Clone)]
pub struct FetchedToken(Arc<Inner>);

struct Inner {
    /// The server and the audience, for error messages.
    location: String,
    fetcher: Arc<Fetcher>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.fetcher.background().close();
        telemetry::source_dropped(self.fetcher.description());
    }
}

impl FetchedToken {
    /// Creates a source, without waiting for the first token. Spawns the task on the current tokio runtime; outside one, the
    /// first use within one spawns it.
    pub(crate) fn start(fetch: impl Fetch, description: Description, timing: Timing) -> Self {
        Self::start_with_clock(fetch, description, timing, Arc::new(SystemTime::now))
    }

    /// Creates a source like [`start`](Self::start), with another clock than the system's.
    pub(crate) fn start_with_clock(
        fetch: impl Fetch,
        description: Description,
        timing: Timing,
        clock: ClockFn,
    ) -> Self {
        let location = description.location();
        let fetcher = Fetcher::new(Box::new(fetch), description, timing, clock);
        fetcher.ensure_running();
        Self(Arc::new(Inner { location, fetcher }))
    }

    /// Waits for the first token, and returns the source. Failed requests are retried meanwhile.
    ///
    /// # Errors
    ///
    /// Returns the last error after the time limits of the source's [`Timing`], or at once if it is not
    /// [transient](Error::is_transient).
    pub(crate) async fn opened(self) -> Result<Self, Error> {
        let deadline = Instant::now() + self.0.fetcher.timing().startup_limit;
        self.wait_for_newer(None, deadline).await?;
        Ok(self)
    }

    /// Returns the state of the token. Starts no task, and performs no I/O.
    pub fn health(&self) -> TokenHealth {
        let state = self.0.fetcher.state();
        let state = state.borrow();
        let now = self.0.fetcher.now();
        TokenHealth {
            present: state
                .token
                .as_ref()
                .is_some_and(|token| !token.is_expired(now)),
            expires_at: state.token.as_ref().and_then(Token::expires_at),
            last_rotation: state.last_rotation,
            last_error: state.error.clone(),
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
        let fetcher = &self.0.fetcher;
        match fetcher.current() {
            Some(token) => unexpired(
                &token,
                fetcher.now(),
                &self.0.location,
                "no newer token could be fetched",
            ),
            None => Err(Error::NotFetched {
                location: self.0.location.clone(),
            }),
        }
    }

    /// Waits for a token other than the rejected one, a response of the server without one, an error that a later attempt
    /// does not correct, or the deadline. Returns the newest token, which may be the rejected one.
    async fn wait_for_newer(
        &self,
        rejected: Option<&Token>,
        deadline: Instant,
    ) -> Result<Token, Error> {
        let fetcher = &self.0.fetcher;
        let mut events = fetcher.background().events();
        let mut state = fetcher.state();
        let before = state.borrow_and_update().clone();
        // The task may be waiting for the renewal of a token that has expired meanwhile, since its timer does not run while the
        // machine is suspended, or for the end of a long pause after failures.
        let is_expired = |token: &Token| token.is_expired(fetcher.now());
        let is_newer = |token: &Token| Some(token) != rejected && !is_expired(token);
        // Another caller may have caused the request since this one has looked.
        if !before.token.as_ref().is_some_and(is_newer) {
            fetcher.request_attempt(before.attempts + 1, rejected);
        }
        loop {
            let is_closed = events.borrow_and_update().is_closed;
            let (unreachable_since, next_attempt) = {
                let state = state.borrow_and_update();
                let has_responded = state.attempts > before.attempts
                    && state
                        .error
                        .as_ref()
                        .is_none_or(|error| !error.is_transient());
                if is_closed || has_responded || state.token.as_ref().is_some_and(is_newer) {
                    break;
                }
                let next_attempt = state.next_attempt.filter(|_| state.error.is_some());
                (state.unreachable_since, next_attempt)
            };
            // Waiting is of no use if the next attempt comes after the deadline.
            if next_attempt.is_some_and(|next| next > deadline) {
                break;
            }
            // Called even if there is a task, since its runtime may not be driven. The end of a task after the last look at the
            // events wakes this caller, so the task must not be looked for earlier.
            fetcher.ensure_running();
            let limit = unreachable_since.map(|since| since + fetcher.timing().unreachable_limit);
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
        }
        let error = fetcher.state().borrow().error.clone();
        self.newest().map_err(|no_token| error.unwrap_or(no_token))
    }
}

#[async_trait]
impl TokenSource for FetchedToken {
    fn current(&self) -> Result<Token, Error> {
        match self.newest() {
            Err(_) if self.0.fetcher.fetch_outside_runtime() => self.newest(),
            newest => newest,
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        if Handle::try_current().is_err() {
            return self.current();
        }
        let newest = self.newest();
        if newest.as_ref().is_ok_and(|token| Some(token) != rejected) {
            return newest;
        }
        let deadline = Instant::now() + self.0.fetcher.timing().request_limit;
        self.wait_for_newer(rejected, deadline).await
    }
}

impl fmt::Debug for FetchedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedToken")
            .field("location", &self.0.location)
            .finish_non_exhaustive()
    }
}
