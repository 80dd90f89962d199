//! What requests and the driver share: the keys, the schedule, and the one place where a fetch is made.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::KeysError;
use super::schedule::{Schedule, Timing};
use super::source::{KeySource, Loaded};
use super::store::{Current, Store};
use crate::clock::Clock;
use crate::telemetry;

/// So many requests may wait for one issuer's keys; more are told to come back at once.
const MAX_WAITING: usize = 1024;

/// What requests and the driver share.
pub(super) struct Shared {
    pub(super) source: KeySource,
    pub(super) timing: Timing,
    pub(super) clock: Clock,
    pub(super) store: Store,
    schedule: Mutex<Schedule>,
    /// When a request has to start the fetch itself, in milliseconds from `born`: to be read without the lock.
    overdue: AtomicU64,
    born: Instant,
    /// How the last fetch ended; a change of it is the end of a fetch.
    pub(super) outcome: watch::Sender<Finished>,
    /// How many requests wait for a fetch.
    pub(super) waiting: AtomicUsize,
}

/// How a fetch ended.
#[derive(Default)]
pub(super) struct Finished {
    pub(super) error: Option<Arc<KeysError>>,
}

impl Shared {
    pub(super) fn new(source: KeySource, timing: Timing, clock: Clock) -> Self {
        let born = Instant::now();
        let schedule = Schedule::new(timing, born);
        Self {
            source,
            timing,
            clock,
            store: Store::default(),
            overdue: AtomicU64::new(milliseconds(schedule.overdue() - born)),
            schedule: Mutex::new(schedule),
            born,
            outcome: watch::Sender::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn newer_than(&self, seen: Option<&Arc<Current>>) -> Option<Arc<Current>> {
        let current = self.store.get()?;
        let is_seen = seen.is_some_and(|seen| Arc::ptr_eq(seen, &current));
        (!is_seen && self.is_fresh(&current, Instant::now())).then_some(current)
    }

    pub(super) fn is_fresh(&self, current: &Current, now: Instant) -> bool {
        now.saturating_duration_since(current.fetched) < self.timing.stale_after
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let now = milliseconds(now.saturating_duration_since(self.born));
        now > self.overdue.load(Ordering::Relaxed)
    }

    /// Looks at the schedule, or moves it on.
    pub(super) fn schedule<R>(&self, act: impl FnOnce(&mut Schedule) -> R) -> R {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut schedule);
        let overdue = milliseconds(schedule.overdue().saturating_duration_since(self.born));
        self.overdue.store(overdue, Ordering::Relaxed);
        result
    }

    pub(super) fn until_next(&self) -> Duration {
        let due = self.schedule(|schedule| schedule.next());
        due.map_or(self.timing.backoff_min, |due| {
            due.saturating_duration_since(Instant::now())
        })
    }

    /// That of the keys at hand, where these are the same and trusted for the same algorithms.
    fn generation(&self, loaded: &Loaded) -> u64 {
        let current = self.store.get();
        current.map_or(1, |current| {
            let is_same = current.hash == loaded.hash
                && current.keys.algorithms == loaded.keys.algorithms
                && current.issuer == loaded.issuer;
            current.generation + u64::from(!is_same)
        })
    }

    /// Fetches once if that is due, and tells those who wait.
    pub(super) async fn fetch_if_due(&self) {
        let started = Instant::now();
        if let Some(current) = self.store.get() {
            let age = started.saturating_duration_since(current.fetched);
            telemetry::keys_age(&self.source.name, age);
        }
        if !self.schedule(|schedule| schedule.start(started)) {
            return;
        }
        let abandoned = Abandoned(self);
        let fetched_wall = self.clock.since_epoch();
        let loaded = self.source.load().await;
        std::mem::forget(abandoned);
        if !self.schedule(|schedule| schedule.awaits(started)) {
            return;
        }
        let error = match loaded {
            Ok(loaded) => {
                tracing::info!(
                    issuer = &*self.source.name,
                    keys = loaded.keys.usable(),
                    "keys fetched"
                );
                for reason in loaded.keys.passed_over() {
                    tracing::warn!(issuer = &*self.source.name, reason, "a key is passed over");
                }
                telemetry::keys_fetched(&self.source.name, Some(&loaded.hash));
                let generation = self.generation(&loaded);
                self.store.set(Current {
                    generation,
                    keys: loaded.keys,
                    hash: loaded.hash,
                    issuer: loaded.issuer,
                    fetched: started,
                    fetched_wall,
                });
                self.schedule(|schedule| {
                    schedule.succeeded(Instant::now(), loaded.max_age, dice());
                });
                None
            }
            Err(error) => {
                telemetry::keys_fetched(&self.source.name, None);
                let source = std::error::Error::source(&error);
                tracing::warn!(issuer = &*self.source.name, %error, source, "keys could not be fetched");
                self.schedule(|schedule| schedule.failed(Instant::now(), dice()));
                Some(Arc::new(error))
            }
        };
        self.outcome.send_replace(Finished { error });
    }
}

/// One request that waits for a fetch.
pub(super) struct Waiting<'s>(&'s Shared);

impl<'s> Waiting<'s> {
    /// Nothing where too many wait already.
    pub(super) fn begin(shared: &'s Shared) -> Option<Self> {
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
        self.0
            .schedule(|schedule| schedule.abandoned(Instant::now()));
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A number from 0 to 1 that differs between processes and calls; it spreads load and guards nothing.
pub(super) fn dice() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let drawn = RandomState::new().build_hasher().finish();
    drawn as f64 / u64::MAX as f64
}
