//! The task that fetches the tokens for one audience.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::endpoint::Endpoint;
use crate::background::{Background, TaskGuard};
use crate::backoff::Backoff;
use crate::error::MetadataError;
use crate::telemetry;
use crate::token::Token;

/// How long a request to the metadata server takes at most. The HTTP client has shorter time limits.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// The intervals between requests to the metadata server, and how long callers wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// How long `open` waits for the first token.
    pub(super) startup_limit: Duration,
    /// How long a request waits for a token.
    pub(super) request_limit: Duration,
    /// How long both wait if no connection to the server can be established.
    pub(super) unreachable_limit: Duration,
    /// The shortest interval between requests to the metadata server, except for retries.
    min_interval: Duration,
    /// After failed requests.
    retry: Backoff,
    /// The interval between requests if a token has no expiry.
    without_expiry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            startup_limit: Duration::from_secs(30),
            request_limit: Duration::from_secs(10),
            unreachable_limit: Duration::from_secs(3),
            min_interval: Duration::from_secs(1),
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            without_expiry: Duration::from_secs(300),
        }
    }
}

impl Timing {
    /// Returns when to fetch the next token: after 75 to 85 % of the remaining lifetime of this one. `jitter` is from 0 to
    /// 1.
    fn until_renewal(
        &self,
        expires_at: Option<SystemTime>,
        now: SystemTime,
        jitter: f64,
    ) -> Duration {
        let Some(expiry) = expires_at else {
            return self.without_expiry;
        };
        let remaining = expiry.duration_since(now).unwrap_or_default();
        remaining
            .mul_f64(0.75 + 0.1 * jitter)
            .max(self.min_interval)
    }
}

/// The results of the requests so far.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) token: Option<Token>,
    /// When the token was first received.
    pub(super) last_rotation: Option<SystemTime>,
    /// The error of the last request, if it failed.
    pub(super) error: Option<MetadataError>,
    /// The number of requests.
    pub(super) attempts: u64,
    /// The number of failed requests since the last successful one.
    failures: u32,
    /// When the first of the latest requests that could not connect began, if the last one could not connect.
    pub(super) unreachable_since: Option<Instant>,
}

/// Fetches the tokens for one audience.
pub(super) struct TokenFetcher {
    endpoint: Endpoint,
    audience: String,
    timing: Timing,
    token: ArcSwapOption<Token>,
    /// The number of requests to the server that callers wait for.
    requested_attempts: watch::Sender<u64>,
    /// The last token that a server has rejected.
    rejected: Mutex<Option<Token>>,
    state: watch::Sender<State>,
    background: Arc<Background>,
    /// When a token was last fetched outside a runtime.
    last_blocking_fetch: Mutex<Option<std::time::Instant>>,
}

impl TokenFetcher {
    pub(super) fn new(endpoint: Endpoint, audience: String, timing: Timing) -> Arc<Self> {
        telemetry::describe();
        let activity = format!("fetching identity tokens for {audience:?}");
        Arc::new(Self {
            endpoint,
            audience,
            timing,
            token: ArcSwapOption::empty(),
            requested_attempts: watch::Sender::new(0),
            rejected: Mutex::default(),
            state: watch::Sender::new(State::default()),
            background: Background::new(activity),
            last_blocking_fetch: Mutex::default(),
        })
    }

    /// Returns the background task.
    pub(super) fn background(&self) -> &Arc<Background> {
        &self.background
    }

    /// Starts the task on the current runtime, unless there is one that is not stalled. Does nothing outside a runtime.
    pub(super) fn ensure_running(self: &Arc<Self>) {
        self.background
            .ensure_running(|guard| self.clone().run(guard));
    }

    /// Returns the newest token, which may have expired. Starts the task if there is none.
    #[inline]
    pub(super) fn current(self: &Arc<Self>) -> Option<Arc<Token>> {
        if !self.background.has_task() {
            self.ensure_running();
        }
        self.token.load_full()
    }

    /// Returns a receiver of the state.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Requests that the task continues until it has made this number of requests to the server, because a server has
    /// rejected the token.
    pub(super) fn request_attempt(&self, attempts: u64, rejected: &Token) {
        *self.lock_rejected() = Some(rejected.clone());
        self.requested_attempts.send_if_modified(|requested| {
            let is_more = attempts > *requested;
            *requested = attempts.max(*requested);
            is_more
        });
    }

    fn lock_rejected(&self) -> MutexGuard<'_, Option<Token>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, guard: TaskGuard) {
        let mut requested = self.requested_attempts.subscribe();
        // An earlier task may have fetched a token.
        if let Some(token) = self.token.load_full()
            && !token.is_expired(SystemTime::now())
        {
            let pause = self.until_renewal(&token);
            if !self
                .pause(&guard, &mut requested, Instant::now(), pause)
                .await
            {
                return;
            }
        }
        while guard.continues(FETCH_LIMIT) {
            let began = Instant::now();
            let result = self.endpoint.fetch(&self.audience).await;
            let pause = self.record(result, began);
            if !self.pause(&guard, &mut requested, began, pause).await {
                return;
            }
        }
    }

    /// Waits until the next request is due, or a caller needs it. Returns false if the task has to end.
    async fn pause(
        &self,
        guard: &TaskGuard,
        requested: &mut watch::Receiver<u64>,
        began: Instant,
        pause: Duration,
    ) -> bool {
        let attempts = self.state.borrow().attempts;
        let is_requested = async {
            sleep_until(began + self.timing.min_interval).await;
            // The sender lives as long as this fetcher.
            let _ = requested.wait_for(|requested| *requested > attempts).await;
        };
        if !guard.continues(pause) {
            return false;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = is_requested => {}
        }
        true
    }

    fn until_renewal(&self, token: &Token) -> Duration {
        let now = SystemTime::now();
        self.timing
            .until_renewal(token.expires_at(), now, fastrand::f64())
    }

    /// Records the result of a request, and returns how long to wait before the next one.
    fn record(&self, result: Result<Token, MetadataError>, began: Instant) -> Duration {
        let result = result.map(|token| self.choose(token));
        let before = self.state.borrow().clone();
        match &result {
            Ok(token) => {
                telemetry::metadata_fetched(&self.audience);
                telemetry::token_in_use(&self.audience, token);
                self.token.store(Some(Arc::new(token.clone())));
            }
            Err(error) => match before.error {
                Some(before) if before.has_same_cause(error) => {
                    telemetry::metadata_still_failed(&self.audience, error);
                }
                _ => telemetry::metadata_failed(&self.audience, error),
            },
        }
        let failures = match &result {
            Ok(_) => 0,
            Err(_) => before.failures.saturating_add(1),
        };
        let pause = match &result {
            Ok(token) => self.until_renewal(token),
            Err(_) => self
                .timing
                .retry
                .delay_with_jitter(failures, fastrand::f64()),
        };
        self.state.send_modify(|state| {
            state.attempts += 1;
            state.failures = failures;
            state.unreachable_since = match &result {
                Err(MetadataError::Unreachable { .. }) => state.unreachable_since.or(Some(began)),
                _ => None,
            };
            match result {
                Ok(token) => {
                    if state.token.as_ref() != Some(&token) {
                        state.last_rotation = Some(SystemTime::now());
                    }
                    state.token = Some(token);
                    state.error = None;
                }
                Err(error) => state.error = Some(error),
            }
        });
        self.background.notify_changed();
        pause
    }

    /// Returns the fetched token, or the current one if it expires later, since the metadata server may return a cached
    /// token. Returns the fetched one if the current one has expired or a server has rejected it.
    fn choose(&self, fetched: Token) -> Token {
        let Some(current) = self.token.load_full() else {
            return fetched;
        };
        let is_usable = !current.is_expired(SystemTime::now())
            && self.lock_rejected().as_ref() != Some(&*current);
        if is_usable && fetched.expires_before(&current) {
            return (*current).clone();
        }
        fetched
    }

    /// Fetches a token and blocks the current thread, for a caller outside a runtime that has found none. Returns whether
    /// it did.
    ///
    /// There may be no task that fetches one, since its runtime may have ended, or may not be driven.
    pub(super) fn fetch_outside_runtime(self: &Arc<Self>) -> bool {
        if tokio::runtime::Handle::try_current().is_ok() || self.background.is_closed() {
            return false;
        }
        let now = std::time::Instant::now();
        let mut last = self
            .last_blocking_fetch
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now - last < self.timing.min_interval) {
            return false;
        }
        *last = Some(now);
        drop(last);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else {
            return false;
        };
        runtime.block_on(async {
            let began = Instant::now();
            let result = self.endpoint.fetch(&self.audience).await;
            self.record(result, began);
        });
        // A name lookup may still be running.
        runtime.shutdown_background();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_next_token_is_fetched_after_75_to_85_percent_of_the_remaining_lifetime() {
        let timing = Timing::default();
        for (remaining, jitter, expected) in [(3600, 0.0, 2700), (3600, 1.0, 3060), (100, 0.0, 75)]
        {
            let expiry = NOW + Duration::from_secs(remaining);
            let pause = timing.until_renewal(Some(expiry), NOW, jitter);
            assert_eq!(pause.as_secs(), expected);
        }
        let expired = timing.until_renewal(Some(NOW), NOW + Duration::from_secs(5), 0.0);
        assert_eq!(expired, Duration::from_secs(1), "not in a busy loop");
    }

    #[test]
    fn failed_requests_are_retried_with_increasing_delays_and_jitter() {
        let retry = Timing::default().retry;
        let longest = |failures| retry.delay_with_jitter(failures, 1.0).as_millis();
        assert_eq!(
            [1, 2, 3, 6, 7, 40].map(longest),
            [100, 200, 400, 3200, 5000, 5000]
        );
        assert_eq!(retry.delay_with_jitter(1, 0.0).as_millis(), 50);
    }
}
