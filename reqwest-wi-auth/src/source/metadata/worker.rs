//! Fetches one audience's tokens: one request at a time, however many wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::endpoint::Endpoint;
use super::timing::Timing;
use crate::background::{Background, TaskGuard};
use crate::error::MetadataError;
use crate::random;
use crate::telemetry;
use crate::token::Token;

/// A request to the metadata server ends within this time, whatever its own limits are.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// What has come of the fetching so far.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) token: Option<Token>,
    pub(super) last_rotation: Option<SystemTime>,
    pub(super) error: Option<MetadataError>,
    pub(super) attempts: u64,
    /// Failed attempts since the last token.
    failures: u32,
    /// When the first of the attempts began that got no response at all, if the last one is among them.
    pub(super) unanswered_since: Option<Instant>,
}

/// One audience's tokens.
pub(super) struct Worker {
    endpoint: Endpoint,
    audience: String,
    timing: Timing,
    token: ArcSwapOption<Token>,
    /// The number of attempts that somebody waits for.
    wanted: watch::Sender<u64>,
    /// The last token that a server has rejected.
    rejected: Mutex<Option<Token>>,
    state: watch::Sender<State>,
    pub(super) background: Arc<Background>,
    last_fetch_on_the_spot: Mutex<Option<std::time::Instant>>,
}

impl Worker {
    pub(super) fn new(endpoint: Endpoint, audience: String, timing: Timing) -> Arc<Self> {
        let activity = format!("fetching identity tokens for {audience:?}");
        Arc::new(Self {
            endpoint,
            audience,
            timing,
            token: ArcSwapOption::empty(),
            wanted: watch::Sender::new(0),
            rejected: Mutex::default(),
            state: watch::Sender::new(State::default()),
            background: Background::new(activity),
            last_fetch_on_the_spot: Mutex::default(),
        })
    }

    /// Starts the task on the current runtime, if there is none that runs.
    pub(super) fn ensure_running(self: &Arc<Self>) {
        self.background
            .ensure_running(|guard| self.clone().run(guard));
    }

    /// Returns the newest token. Starts the task if there is none.
    #[inline]
    pub(super) fn current(self: &Arc<Self>) -> Option<Arc<Token>> {
        if !self.background.has_task() {
            self.ensure_running();
        }
        self.token.load_full()
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Has the server asked until so many attempts are made.
    pub(super) fn want(&self, attempts: u64, rejected: &Token) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = Some(rejected.clone());
        self.wanted.send_if_modified(|wanted| {
            let more = attempts > *wanted;
            *wanted = attempts.max(*wanted);
            more
        });
    }

    async fn run(self: Arc<Self>, guard: TaskGuard) {
        let mut wants = self.wanted.subscribe();
        // A task before this one may have fetched a token already.
        if let Some(token) = self.token.load_full()
            && !token.is_expired(SystemTime::now())
        {
            let pause = self.until_renewal(&token);
            if !self.pause(&guard, &mut wants, Instant::now(), pause).await {
                return;
            }
        }
        while guard.continues(FETCH_LIMIT) {
            let began = Instant::now();
            let fetched = self.endpoint.fetch(&self.audience).await;
            let pause = self.take(fetched, began);
            if !self.pause(&guard, &mut wants, began, pause).await {
                return;
            }
        }
    }

    /// Waits until the server is to be asked again. Returns false if the task is to end.
    async fn pause(
        &self,
        guard: &TaskGuard,
        wants: &mut watch::Receiver<u64>,
        began: Instant,
        pause: Duration,
    ) -> bool {
        let attempts = self.state.borrow().attempts;
        let wanted = async {
            sleep_until(began + self.timing.min_interval).await;
            // The sender lives as long as this worker.
            let _ = wants.wait_for(|wanted| *wanted > attempts).await;
        };
        if !guard.continues(pause) {
            return false;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = wanted => {}
        }
        true
    }

    fn until_renewal(&self, token: &Token) -> Duration {
        let now = SystemTime::now();
        self.timing
            .until_renewal(token.expires_at(), now, random::fraction())
    }

    /// Takes what was fetched, and returns the pause before the next attempt.
    fn take(&self, fetched: Result<Token, MetadataError>, began: Instant) -> Duration {
        let fetched = fetched.map(|token| self.newer_of(token));
        let before = self.state.borrow().clone();
        match &fetched {
            Ok(token) => {
                telemetry::metadata_fetched(&self.audience);
                self.token.store(Some(Arc::new(token.clone())));
            }
            Err(error) => {
                let is_first = before.error.is_none_or(|before| !before.is_like(error));
                telemetry::metadata_failed(&self.audience, error, is_first);
            }
        }
        let failures = match &fetched {
            Ok(_) => 0,
            Err(_) => before.failures.saturating_add(1),
        };
        let pause = match &fetched {
            Ok(token) => self.until_renewal(token),
            Err(_) => self.timing.after_failures(failures, random::fraction()),
        };
        self.state.send_modify(|state| {
            state.attempts += 1;
            state.failures = failures;
            state.unanswered_since = match &fetched {
                Err(MetadataError::Unreachable { .. }) => state.unanswered_since.or(Some(began)),
                _ => None,
            };
            match fetched {
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

    /// Returns the token in use instead of one that expires earlier, unless it has expired or a server has rejected it: the
    /// metadata server has a cache.
    fn newer_of(&self, token: Token) -> Token {
        let Some(current) = self.token.load_full() else {
            return token;
        };
        let rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good =
            !current.is_expired(SystemTime::now()) && rejected.as_ref() != Some(&*current);
        if is_good && token.expires_before(&current) {
            return (*current).clone();
        }
        token
    }

    /// Fetches a token in place, for a caller outside a runtime that has found none, and blocks this thread meanwhile.
    /// Nobody else may fetch it: the runtime of the task may have ended, or not be driven.
    pub(super) fn fetch_on_the_spot(self: &Arc<Self>) -> bool {
        if tokio::runtime::Handle::try_current().is_ok() || self.background.is_closed() {
            return false;
        }
        let now = std::time::Instant::now();
        let mut last = self
            .last_fetch_on_the_spot
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
        let fetched = runtime.block_on(async {
            let began = Instant::now();
            let fetched = self.endpoint.fetch(&self.audience).await;
            self.take(fetched, began)
        });
        // What a name lookup still does is not waited for.
        runtime.shutdown_background();
        let _ = fetched;
        true
    }
}
