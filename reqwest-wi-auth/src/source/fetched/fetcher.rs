//! The task that fetches the tokens of one source.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Description, Fetch, Timing};
use crate::background::{self, Background, TaskGuard};
use crate::error::Error;
use crate::source::unexpired;
use crate::sync::time::{sleep, sleep_until, timeout};
use crate::sync::{ArcSwapOption, Handle, Mutex, MutexGuard, watch};
use crate::telemetry;
use crate::token::Token;
use crate::watched_file::ClockFn;

/// How often an error that lasts is logged again as a warning.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);

/// The results of the requests so far.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) token: Option<Token>,
    /// When the token was first received.
    pub(super) last_rotation: Option<SystemTime>,
    /// The error of the last request, if it failed.
    pub(super) error: Option<Error>,
    /// The number of requests.
    pub(super) attempts: u64,
    /// When an error was last logged as a warning, if the last request failed.
    last_warning: Option<Instant>,
    /// The number of failed requests since the last successful one.
    failures: u32,
    /// When the first of the latest requests that could not connect began, if the last one could not connect.
    pub(super) unreachable_since: Option<Instant>,
    /// How long after the beginning of the last request a caller can cause the next one.
    callers_wait: Duration,
    /// When the next request is due, at the latest, if a caller needs it.
    pub(super) next_attempt: Option<Instant>,
}

impl State {
    /// Returns whether an error of the same cause was logged as a warning a short time ago.
    fn is_logged(&self, error: Option<&Error>) -> bool {
        let is_same = |(before, error): (&Error, &Error)| before.has_same_cause(error);
        let is_recent = |logged: Instant| logged.elapsed() < REMINDER_INTERVAL;
        self.error.as_ref().zip(error).is_some_and(is_same)
            && self.last_warning.is_some_and(is_recent)
    }
}

/// Fetches the tokens of one source.
pub(super) struct Fetcher {
    fetch: Box<dyn Fetch>,
    description: Description,
    timing: Timing,
    clock: ClockFn,
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

impl Fetcher {
    pub(super) fn new(
        fetch: Box<dyn Fetch>,
        description: Description,
        timing: Timing,
        clock: ClockFn,
    ) -> Arc<Self> {
        telemetry::describe();
        telemetry::source_created(&description);
        let activity = description.activity();
        Arc::new(Self {
            fetch,
            description,
            timing,
            clock,
            token: ArcSwapOption::empty(),
            requested_attempts: watch::Sender::new(0),
            rejected: Mutex::default(),
            state: watch::Sender::new(State::default()),
            background: Background::new(activity),
            last_blocking_fetch: Mutex::default(),
        })
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Returns the current time.
    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
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

    /// Requests that the task continues until it has made this number of requests to the server, because the token has
    /// expired, or because a server has rejected it.
    pub(super) fn request_attempt(&self, attempts: u64, rejected: Option<&Token>) {
        if let Some(rejected) = rejected {
            *self.lock_rejected() = Some(rejected.clone());
        }
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
            && !token.is_expired(self.now())
        {
            let pause = self.until_renewal(&token);
            if !self
                .pause(&guard, &mut requested, Instant::now(), pause)
                .await
            {
                return;
            }
        }
        while guard.continues(self.fetch.limit()) {
            let began = Instant::now();
            let result = self.fetch().await;
            let pause = self.record(result, began);
            if !self.pause(&guard, &mut requested, began, pause).await {
                return;
            }
        }
    }

    /// Requests a token. Ends after the time limit even if it waits for a lock that the task of another runtime holds, which
    /// may not be driven.
    async fn fetch(&self) -> Result<Token, Error> {
        let limit = self.fetch.limit();
        match timeout(limit, self.fetch.fetch()).await {
            Ok(result) => result,
            Err(_) => Err(Error::Abandoned {
                location: self.description.location(),
                limit,
            }),
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
        let (attempts, callers_wait) = {
            let state = self.state.borrow();
            (state.attempts, state.callers_wait)
        };
        let is_requested = async {
            sleep_until(began + callers_wait.max(self.timing.min_interval)).await;
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

    /// Returns when the token should have been renewed, if it has an expiry.
    fn renewal_due(&self, token: &Token) -> Option<SystemTime> {
        let (_, latest) = self.timing.renewal;
        let now = self.now();
        let remaining = token.expires_at()?.duration_since(now).ok()?;
        now.checked_add(remaining.mul_f64(latest))
    }

    fn until_renewal(&self, token: &Token) -> Duration {
        self.timing
            .until_renewal(token.expires_at(), self.now(), fastrand::f64())
    }

    /// Records the result of a request, and returns how long to wait before the next one.
    fn record(&self, result: Result<Token, Error>, began: Instant) -> Duration {
        let result = result.and_then(|token| self.unexpired(token));
        let result = result.map(|token| self.choose(token));
        let before = self.state.borrow().clone();
        let is_logged = before.is_logged(result.as_ref().err());
        match &result {
            Ok(token) => {
                telemetry::token_fetched(&self.description);
                telemetry::fetched_token_in_use(&self.description, token, self.renewal_due(token));
                self.token.store(Some(Arc::new(token.clone())));
            }
            Err(error) if is_logged => telemetry::token_still_not_fetched(&self.description, error),
            Err(error) => telemetry::token_not_fetched(&self.description, error),
        }
        let failures = match &result {
            Ok(_) => 0,
            Err(_) => before.failures.saturating_add(1),
        };
        let (pause, callers_wait) = match &result {
            Ok(token) => (self.until_renewal(token), Duration::ZERO),
            Err(error) => {
                let retry = self.timing.retry;
                let retry = retry.delay_with_jitter(failures, fastrand::f64());
                let requested = error.retry_after().unwrap_or_default();
                let callers_wait = retry.min(self.timing.retry_for_callers);
                (retry.max(requested), callers_wait.max(requested))
            }
        };
        self.state.send_modify(|state| {
            state.attempts += 1;
            state.failures = failures;
            state.unreachable_since = match &result {
                Err(error) if error.is_unreachable() => state.unreachable_since.or(Some(began)),
                _ => None,
            };
            state.callers_wait = callers_wait;
            state.last_warning = match &result {
                Ok(_) => None,
                Err(_) if is_logged => state.last_warning,
                Err(_) => Some(Instant::now()),
            };
            let latest = pause.min(callers_wait.max(self.timing.min_interval));
            state.next_attempt = Instant::now().checked_add(latest);
            match result {
                Ok(token) => {
                    if state.token.as_ref() != Some(&token) {
                        state.last_rotation = Some(self.now());
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

    /// Returns the fetched token, or an error if it has expired already.
    fn unexpired(&self, token: Token) -> Result<Token, Error> {
        let state = "it had expired when it was received; check the clock of this machine";
        unexpired(&token, self.now(), &self.description.location(), state)
    }

    /// Returns the fetched token, or the current one if it expires later, since a server may return a cached token. Returns
    /// the fetched one if the current one has expired or a server has rejected it.
    fn choose(&self, fetched: Token) -> Token {
        let Some(current) = self.token.load_full() else {
            return fetched;
        };
        let is_usable =
            !current.is_expired(self.now()) && self.lock_rejected().as_ref() != Some(&*current);
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
        if Handle::try_current().is_ok() || self.background.is_closed() {
            return false;
        }
        let now = std::time::Instant::now();
        let mut last = self
            .last_blocking_fetch
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let callers_wait = self.state.borrow().callers_wait;
        let interval = callers_wait.max(self.timing.min_interval);
        if last.is_some_and(|last| now - last < interval) {
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
        background::within_temporary_runtime(|| {
            runtime.block_on(async {
                let began = Instant::now();
                let result = self.fetch().await;
                self.record(result, began);
            })
        });
        // A name lookup may still be running.
        runtime.shutdown_background();
        true
    }
}
