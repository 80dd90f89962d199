//! What requests and the driver share: the keys, the schedule, and the one place where a fetch is made.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{KeysError, chain};
use super::health::warnings;
use super::schedule::{Fetch, Schedule, Timing};
use super::source::{KeySource, Loaded};
use super::store::{Current, Store};
use crate::clock::Clock;
use crate::telemetry;

/// How many requests may wait for one issuer's keys at a time; further ones are answered at once.
const MAX_WAITING: usize = 1024;

/// How long a fetch may take, beyond the limits of its requests, until it is considered lost.
const LOST_MARGIN: Duration = Duration::from_secs(40);

/// The longest time until a fetch is considered lost, whatever the limits of its requests are.
const LOST_MAX: Duration = Duration::from_secs(24 * 3600);

/// What requests and the driver share.
pub(super) struct Shared {
    pub(super) source: KeySource,
    pub(super) timing: Timing,
    pub(super) clock: Clock,
    pub(super) store: Store,
    schedule: Mutex<Schedule>,
    /// When a request has to start the fetch itself, in milliseconds from `born`: read without the lock.
    overdue: AtomicU64,
    /// How many fetches were started: read without the lock.
    fetches: AtomicU64,
    born: Instant,
    /// How the last fetch ended. Each change of it is the end of a fetch.
    pub(super) outcome: watch::Sender<Finished>,
    /// How many requests wait for a fetch.
    waiting: AtomicUsize,
}

/// How a fetch ended.
#[derive(Default)]
pub(super) struct Finished {
    /// The number of the fetch.
    pub(super) fetch: u64,
    pub(super) error: Option<Arc<KeysError>>,
}

impl Finished {
    /// Returns whether the fetch was dropped before it ended, so that it says nothing about the issuer.
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(self.error.as_deref(), Some(KeysError::CutOff))
    }
}

impl Shared {
    pub(super) fn new(source: KeySource, timing: Timing, clock: Clock) -> Self {
        let born = Instant::now();
        let lost_after = source.time_limit().saturating_add(LOST_MARGIN);
        let schedule = Schedule::new(timing, lost_after.min(LOST_MAX), born);
        Self {
            source,
            timing,
            clock,
            store: Store::default(),
            overdue: AtomicU64::new(milliseconds(schedule.overdue() - born)),
            fetches: AtomicU64::new(schedule.fetches()),
            schedule: Mutex::new(schedule),
            born,
            outcome: watch::Sender::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns how many fetches were started so far: a key set of a later one is new.
    pub(super) fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Acquire)
    }

    pub(super) fn is_fresh(&self, current: &Current, now: Instant) -> bool {
        now.saturating_duration_since(current.fetched) < self.timing.stale_after
            || !self.source.may_change()
    }

    /// Puts keys in force that are given and never change, so that nothing has to be fetched.
    pub(super) fn load_given(&self) {
        let now = Instant::now();
        if let Some(loaded) = self.source.given()
            && let Some(fetch) = self.schedule(|schedule| schedule.start(now))
        {
            self.replace(loaded, fetch, now, self.clock.since_epoch());
        }
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let now = milliseconds(now.saturating_duration_since(self.born));
        now > self.overdue.load(Ordering::Relaxed)
    }

    /// Reads or changes the schedule.
    pub(super) fn schedule<R>(&self, act: impl FnOnce(&mut Schedule) -> R) -> R {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut schedule);
        let overdue = milliseconds(schedule.overdue().saturating_duration_since(self.born));
        self.overdue.store(overdue, Ordering::Relaxed);
        self.fetches.store(schedule.fetches(), Ordering::Release);
        result
    }

    pub(super) fn until_next(&self) -> Duration {
        let due = self.schedule(|schedule| schedule.next());
        due.map_or(self.timing.backoff_min, |due| {
            due.saturating_duration_since(Instant::now())
        })
    }

    /// Makes a fetch if one is due, and notifies the requests that wait for it.
    pub(super) async fn fetch_if_due(&self) {
        let started = Instant::now();
        if let Some(current) = self.store.get() {
            let age = started.saturating_duration_since(current.fetched);
            telemetry::keys_age(&self.source.name, age);
        }
        let Some(fetch) = self.schedule(|schedule| schedule.start(started)) else {
            return;
        };
        let cut_off = CutOff {
            shared: self,
            fetch,
        };
        let fetched_wall = self.clock.since_epoch();
        let loaded = self.source.load(fetch.freshness).await;
        std::mem::forget(cut_off);
        if !self.schedule(|schedule| schedule.awaits(fetch)) {
            return;
        }
        let error = match loaded {
            Ok(loaded) => self.replace(loaded, fetch, started, fetched_wall),
            Err(error) => {
                telemetry::keys_fetched(&self.source.name, None);
                // It may quote what the issuer sent.
                let text = chain(&error);
                let text = telemetry::printable(&text);
                tracing::warn!(
                    issuer = &*self.source.name,
                    error = &*text,
                    "keys could not be fetched"
                );
                self.schedule(|schedule| schedule.failed(Instant::now(), jitter()));
                Some(error)
            }
        };
        self.outcome.send_replace(Finished {
            fetch: fetch.number,
            error: error.map(Arc::new),
        });
    }

    /// Puts a new key set in force, and returns what is wrong with it, if anything is.
    fn replace(
        &self,
        loaded: Loaded,
        fetch: Fetch,
        fetched: Instant,
        fetched_wall: Duration,
    ) -> Option<KeysError> {
        let Loaded {
            keys,
            from,
            hash,
            max_age,
            names,
        } = loaded;
        telemetry::keys_fetched(&self.source.name, Some(&hash));
        let (name, usable) = (&*self.source.name, keys.usable());
        let previous = self.store.get();
        let is_same = previous.as_ref().is_some_and(|previous| {
            previous.hash == hash
                && previous.keys.algorithms == keys.algorithms
                && previous.names == names
        });
        let generation = previous.map_or(1, |previous| previous.generation + u64::from(!is_same));
        tracing::info!(issuer = name, keys = usable, "keys fetched");
        if !is_same {
            for reason in keys.skipped() {
                tracing::warn!(issuer = name, reason, "a key of the issuer is skipped");
            }
            for warning in warnings(&keys) {
                tracing::warn!(issuer = name, "{warning}");
            }
        }
        self.store.set(Current {
            generation,
            keys,
            hash,
            names,
            fetch: fetch.number,
            fetched,
            fetched_wall,
        });
        let now = Instant::now();
        if usable > 0 {
            self.schedule(|schedule| schedule.succeeded(now, max_age, jitter()));
            return None;
        }
        self.schedule(|schedule| schedule.emptied(now, jitter()));
        let error = KeysError::NoUsableKey { url: from };
        if !is_same {
            tracing::warn!(issuer = name, %error, "the issuer has no usable key");
        }
        Some(error)
    }
}

/// A place among the requests that wait for a fetch.
pub(super) struct Waiting<'s>(&'s Shared);

impl<'s> Waiting<'s> {
    /// Takes a place, or returns `None` if all are taken.
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

/// Makes the next fetch due if this one is dropped before it ends, as at the end of a runtime.
struct CutOff<'s> {
    shared: &'s Shared,
    fetch: Fetch,
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        let fetch = self.fetch;
        let was_awaited = self.shared.schedule(|schedule| {
            let is_awaited = schedule.awaits(fetch);
            if is_awaited {
                schedule.abandoned(Instant::now());
            }
            is_awaited
        });
        if was_awaited {
            self.shared.outcome.send_replace(Finished {
                fetch: fetch.number,
                error: Some(Arc::new(KeysError::CutOff)),
            });
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a number from 0 to 1 that differs between processes and calls. It spreads load, and protects nothing.
pub(super) fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let drawn = RandomState::new().build_hasher().finish();
    drawn as f64 / u64::MAX as f64
}
