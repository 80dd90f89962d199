//! The life of one issuer's keys: fetched when first needed, refreshed ahead of need, kept through an
//! outage of the issuer.

pub(crate) mod discovery;
mod driver;
pub(crate) mod error;
pub(crate) mod fetch;
pub(crate) mod health;
pub(crate) mod schedule;
pub(crate) mod source;
pub(crate) mod store;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use self::driver::Driver;
use self::error::KeysError;
use self::health::IssuerHealth;
use self::schedule::{Ask, Schedule, Timing};
use self::source::KeySource;
use self::store::{Current, Store};
use crate::clock::Clock;
use crate::verify::key_set::KeySet;

/// How long a request waits for keys before it is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// So many requests may wait for one issuer's keys; more are told to come back at once.
const MAX_WAITING: usize = 1024;

/// One issuer's keys. Nothing is fetched before the first use.
pub(crate) struct Keys {
    shared: Arc<Shared>,
    driver: Driver,
}

/// What requests and the driver share.
pub(crate) struct Shared {
    source: KeySource,
    timing: Timing,
    clock: Clock,
    store: Store,
    schedule: Mutex<Schedule>,
    /// How the last fetch ended; a change of it is the end of a fetch.
    outcome: watch::Sender<Finished>,
    /// How many requests wait for a fetch.
    waiting: AtomicUsize,
}

/// How a fetch ended.
#[derive(Default)]
struct Finished {
    error: Option<Arc<KeysError>>,
}

/// Why there is no newer key set.
pub(crate) enum NoNewer {
    /// The last fetch is too recent for another one.
    TooSoon { retry_after: Duration },
    /// The fetch failed, or took too long.
    Failed { retry_after: Duration },
}

impl Keys {
    pub(crate) fn new(source: KeySource, timing: Timing, clock: Clock) -> Self {
        let shared = Arc::new(Shared {
            source,
            timing,
            clock,
            store: Store::default(),
            schedule: Mutex::new(Schedule::new(timing, Instant::now())),
            outcome: watch::Sender::default(),
            waiting: AtomicUsize::new(0),
        });
        Self {
            shared,
            driver: Driver::default(),
        }
    }

    /// The current keys if they are there and not stale, at once. Keeps the driver going.
    pub(crate) fn current(&self) -> Option<Arc<Current>> {
        self.driver.keep_going(&self.shared);
        self.shared
            .store
            .get()
            .filter(|current| self.shared.is_fresh(current))
    }

    /// Keys newer than those seen, for a request that finds none or not its own. Waits a bounded time
    /// for a fetch; never has one made that the schedule forbids.
    pub(crate) async fn newer_than(
        &self,
        seen: Option<&Arc<Current>>,
    ) -> Result<Arc<Current>, NoNewer> {
        let mut outcome = self.shared.outcome.subscribe();
        if let Some(current) = self.shared.newer_than(seen) {
            return Ok(current);
        }
        let now = Instant::now();
        if let Ask::NotBefore(time) = self.shared.schedule().ask(now) {
            return Err(NoNewer::TooSoon {
                retry_after: time - now,
            });
        }
        let Some(_waiting) = Waiting::begin(&self.shared) else {
            return Err(NoNewer::Failed {
                retry_after: self.shared.timing.backoff_min,
            });
        };
        self.driver.keep_going(&self.shared);
        self.driver.wake();
        // Past the wait, or after a fetch that failed, what the store holds says all there is to say.
        let _ = tokio::time::timeout(MAX_WAIT, outcome.changed()).await;
        let newer = self.shared.newer_than(seen);
        newer.ok_or_else(|| NoNewer::Failed {
            retry_after: self.shared.until_next(),
        })
    }

    /// How the keys fare. Keeps the driver going.
    pub(crate) fn health(&self, issuer: &str) -> IssuerHealth {
        let is_ready = self.current().is_some();
        let current = self.shared.store.get();
        let keys = current.as_ref().map(|current| &current.keys);
        let due = self.shared.schedule().due();
        IssuerHealth {
            issuer: issuer.to_owned(),
            is_ready,
            usable_keys: keys.map_or(0, KeySet::usable),
            passed_over: keys.map_or(Vec::new(), |keys| keys.passed_over().collect()),
            key_set_hash: current.as_ref().map(|current| current.hash.clone()),
            last_success: current.map(|current| SystemTime::UNIX_EPOCH + current.fetched_wall),
            last_error: self.shared.outcome.borrow().error.clone(),
            next_attempt: due.map(|due| due.saturating_duration_since(Instant::now())),
        }
    }

    /// Waits for the keys, or for the next fetch to fail.
    pub(crate) async fn ready(&self) -> Result<(), Arc<KeysError>> {
        let mut outcome = self.shared.outcome.subscribe();
        if self.current().is_some() {
            return Ok(());
        }
        // The sender lives as long as `self` does.
        let ended = outcome.changed().await.is_err();
        match outcome.borrow().error.clone() {
            Some(error) => Err(error),
            None if ended => Err(Arc::new(KeysError::CutOff)),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn newer_than(&self, seen: Option<&Arc<Current>>) -> Option<Arc<Current>> {
        let current = self.store.get()?;
        let is_seen = seen.is_some_and(|seen| Arc::ptr_eq(seen, &current));
        (!is_seen && self.is_fresh(&current)).then_some(current)
    }

    fn is_fresh(&self, current: &Current) -> bool {
        current.fetched.elapsed() < self.timing.stale_after
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_next(&self) -> Duration {
        let due = self.schedule().due();
        due.map_or(self.timing.backoff_min, |due| {
            due.saturating_duration_since(Instant::now())
        })
    }

    /// Fetches once if that is due, and tells those who wait.
    async fn fetch_if_due(&self) {
        let started = Instant::now();
        if !self.schedule().start(started) {
            return;
        }
        let abandoned = Abandoned(self);
        let fetched_wall = self.clock.since_epoch();
        let loaded = self.source.load().await;
        std::mem::forget(abandoned);
        let error = match loaded {
            Ok(loaded) => {
                tracing::info!(
                    issuer = self.source.issuer,
                    keys = loaded.keys.usable(),
                    "keys fetched"
                );
                for reason in loaded.keys.passed_over() {
                    tracing::warn!(issuer = self.source.issuer, reason, "a key is passed over");
                }
                self.store.set(Current {
                    keys: loaded.keys,
                    hash: loaded.hash,
                    fetched: started,
                    fetched_wall,
                });
                self.schedule()
                    .succeeded(Instant::now(), loaded.max_age, dice());
                None
            }
            Err(error) => {
                let source = std::error::Error::source(&error);
                tracing::warn!(issuer = self.source.issuer, %error, source, "keys could not be fetched");
                self.schedule().failed(Instant::now(), dice());
                Some(Arc::new(error))
            }
        };
        self.outcome.send_replace(Finished { error });
    }
}

/// One request that waits for a fetch.
struct Waiting<'s>(&'s Shared);

impl<'s> Waiting<'s> {
    /// Nothing where too many wait already.
    fn begin(shared: &'s Shared) -> Option<Self> {
        let one_more = |waiting| (waiting < MAX_WAITING).then_some(waiting + 1);
        let waiting = &shared.waiting;
        waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self(shared))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives the schedule its slot back if the fetch is dropped half-way, as at the end of a runtime.
struct Abandoned<'s>(&'s Shared);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.0.schedule().abandoned(Instant::now());
    }
}

/// A number from 0 to 1 that differs between processes and calls; it spreads load and guards nothing.
fn dice() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let drawn = RandomState::new().build_hasher().finish();
    drawn as f64 / u64::MAX as f64
}
