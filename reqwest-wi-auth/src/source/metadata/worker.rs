//! The task that fetches one audience's tokens: one request at a time, however many wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::endpoint::Endpoint;
use super::timing::Timing;
use crate::error::MetadataError;
use crate::random;
use crate::telemetry;
use crate::token::Token;

/// What has come of the fetching so far.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) token: Option<Token>,
    pub(super) last_rotation: Option<SystemTime>,
    pub(super) error: Option<MetadataError>,
    pub(super) attempts: u64,
    /// Waiting longer will hardly help: nothing answers, or somebody else does.
    pub(super) is_hopeless: bool,
}

/// The handle to the task, which ends when it is dropped.
pub(super) struct Worker {
    token: Arc<ArcSwapOption<Token>>,
    wanted: watch::Sender<u64>,
    state: watch::Receiver<State>,
    task: Mutex<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn spawn(endpoint: Endpoint, audience: String, timing: Timing) -> Self {
        let (sender, state) = watch::channel(State::default());
        let (wanted, wants) = watch::channel(0);
        let token = Arc::<ArcSwapOption<Token>>::default();
        let work = Work {
            endpoint,
            audience,
            timing,
            token: token.clone(),
            wants,
            state: sender,
            failures: 0,
            unanswered_since: None,
        };
        let task = Mutex::new(tokio::spawn(work.run()));
        Self {
            token,
            wanted,
            state,
            task,
        }
    }

    pub(super) fn current(&self) -> Option<Arc<Token>> {
        self.token.load_full()
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Has the server asked until so many attempts are made.
    pub(super) fn want(&self, attempts: u64) {
        self.wanted.send_if_modified(|wanted| {
            let more = attempts > *wanted;
            *wanted = attempts.max(*wanted);
            more
        });
    }

    pub(super) async fn shutdown(&self) {
        self.abort();
        // The sender goes with the task.
        let mut state = self.state();
        while state.changed().await.is_ok() {}
    }

    fn abort(&self) {
        self.task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.abort();
    }
}

/// What the task works with.
struct Work {
    endpoint: Endpoint,
    audience: String,
    timing: Timing,
    token: Arc<ArcSwapOption<Token>>,
    wants: watch::Receiver<u64>,
    state: watch::Sender<State>,
    failures: u32,
    unanswered_since: Option<Instant>,
}

impl Work {
    async fn run(mut self) {
        loop {
            let began = Instant::now();
            let fetched = self.endpoint.fetch(&self.audience).await;
            let pause = match &fetched {
                Ok(token) => {
                    self.failures = 0;
                    let now = SystemTime::now();
                    self.timing
                        .until_renewal(token.expires_at(), now, random::fraction())
                }
                Err(_) => {
                    self.failures = self.failures.saturating_add(1);
                    self.timing
                        .after_failures(self.failures, random::fraction())
                }
            };
            self.take(fetched);
            let attempts = self.state.borrow().attempts;
            let wanted = async {
                sleep_until(began + self.timing.min_interval).await;
                self.wants
                    .wait_for(|wanted| *wanted > attempts)
                    .await
                    .is_ok()
            };
            tokio::select! {
                () = sleep(pause) => {}
                true = wanted => {}
            }
        }
    }

    fn take(&mut self, fetched: Result<Token, MetadataError>) {
        match &fetched {
            Ok(token) => {
                telemetry::metadata_fetched(&self.audience);
                self.token.store(Some(Arc::new(token.clone())));
            }
            Err(error) => telemetry::metadata_failed(&self.audience, error),
        }
        let is_hopeless = match &fetched {
            Err(MetadataError::Unreachable { .. }) => {
                let since = *self.unanswered_since.get_or_insert_with(Instant::now);
                since.elapsed() >= self.timing.unreachable_limit
            }
            other => {
                self.unanswered_since = None;
                matches!(other, Err(MetadataError::Flavor { .. }))
            }
        };
        self.state.send_modify(|state| {
            state.attempts += 1;
            state.is_hopeless = is_hopeless;
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
    }
}
