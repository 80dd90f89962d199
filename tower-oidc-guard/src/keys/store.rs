//! The keys of one issuer and the state of their fetches, shared by requests and the driver.

#[cfg(test)]
mod models;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::Guard;
use tokio::time::Instant;

use super::clock_offset::ClockOffset;
use super::error::KeysError;
use super::failures::Failures;
use super::schedule::{FetchTiming, Schedule};
use super::sources::{KeySource, LoadedKeys};
use super::waiting::WaitingRequests;
use crate::clock::Clock;
use crate::jose::key_set::KeySet;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{ArcSwapOption, Mutex, watch};

/// How much longer than the time limits of its requests a fetch may take until it is considered lost.
const LOST_MARGIN: Duration = Duration::from_secs(40);

/// The longest time until a fetch is considered lost, whatever the time limits of its requests are.
const LOST_MAX: Duration = Duration::from_secs(24 * 3600);

/// A key set, and the fetch that returned it.
pub(crate) struct CurrentKeys {
    pub(crate) keys: Arc<KeySet>,
    /// The hash of the text that the keys were read from.
    pub(crate) hash: String,
    /// Changes whenever the keys, their algorithms or the issuer's names change, and only then.
    pub(crate) generation: u64,
    /// The `iss` values that came with the keys.
    pub(crate) issuers: Vec<Arc<str>>,
    /// The number of the fetch.
    pub(crate) fetch: u64,
    /// When the fetch was started.
    pub(crate) fetched: Instant,
    /// When the fetch was started by the wall clock, counted from the Unix epoch.
    pub(crate) fetched_wall: Duration,
    /// The URL, file or setting that the keys come from.
    pub(crate) location: String,
    /// The difference between the issuer's clock and this machine's, if the response showed it.
    pub(crate) clock_offset: Option<ClockOffset>,
}

/// The keys of one issuer and the state of their fetches.
pub(super) struct KeyStore {
    /// The issuer's label in logs and metrics.
    pub(super) label: Arc<str>,
    pub(super) source: KeySource,
    pub(super) timing: FetchTiming,
    pub(super) clock: Clock,
    /// The allowed difference between the clocks of the issuer and this machine, in milliseconds.
    leeway: AtomicU64,
    current: ArcSwapOption<CurrentKeys>,
    schedule: Mutex<Schedule>,
    /// When a request has to start the fetch itself, in milliseconds since `created`. Read without the lock.
    overdue_at: AtomicU64,
    /// The number of fetches that were started. Read without the lock.
    fetches_started: AtomicU64,
    created: Instant,
    /// The outcome of the last fetch. Each change of it is the end of a fetch.
    pub(super) outcome: watch::Sender<FetchOutcome>,
    pub(super) waiting: WaitingRequests,
    /// The failures since the last successful fetch.
    failures: Mutex<Failures>,
    /// The number of the fetch whose keys have been reported as stale, or 0.
    reported_stale: AtomicU64,
    /// Whether the guard no longer trusts the issuer, or has replaced its keys. Nothing is recorded in its metrics any more.
    is_retired: AtomicBool,
}

/// The outcome of a fetch.
#[derive(Default)]
pub(super) struct FetchOutcome {
    /// The number of the fetch.
    pub(super) fetch: u64,
    pub(super) error: Option<Arc<KeysError>>,
}

impl FetchOutcome {
    /// Returns whether the fetch was interrupted, so that its outcome does not depend on the issuer.
    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self.error.as_deref(), Some(KeysError::Interrupted))
    }
}

impl KeyStore {
    pub(super) fn new(
        label: Arc<str>,
        source: KeySource,
        timing: FetchTiming,
        clock: Clock,
        leeway: Duration,
    ) -> Self {
        let created = Instant::now();
        let lost_after = source.time_limit().saturating_add(LOST_MARGIN);
        let schedule = Schedule::new(timing, lost_after.min(LOST_MAX), created);
        Self {
            label,
            source,
            timing,
            clock,
            leeway: AtomicU64::new(milliseconds(leeway)),
            current: ArcSwapOption::empty(),
            overdue_at: AtomicU64::new(milliseconds(schedule.overdue_at() - created)),
            fetches_started: AtomicU64::new(schedule.fetches_started()),
            schedule: Mutex::new(schedule),
            created,
            outcome: watch::Sender::default(),
            waiting: WaitingRequests::new(),
            failures: Mutex::default(),
            reported_stale: AtomicU64::new(0),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Returns the allowed difference between the clocks of the issuer and this machine.
    pub(super) fn leeway(&self) -> Duration {
        Duration::from_millis(self.leeway.load(Ordering::Relaxed))
    }

    /// Replaces the allowed difference between the clocks of the issuer and this machine.
    #[cfg(feature = "policy-file")]
    pub(super) fn set_leeway(&self, leeway: Duration) {
        self.leeway.store(milliseconds(leeway), Ordering::Relaxed);
    }

    /// Ends the metrics of the keys, which no request uses any more.
    #[cfg(feature = "policy-file")]
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Returns the label of the keys in metrics, or `None` if nothing is to be recorded.
    pub(super) fn metrics_label(&self) -> Option<&Arc<str>> {
        (!self.is_retired.load(Ordering::Relaxed)).then_some(&self.label)
    }

    /// Returns the current keys without changing their reference count, which all threads share.
    pub(super) fn load(&self) -> Guard<Option<Arc<CurrentKeys>>> {
        self.current.load()
    }

    /// Returns the current keys.
    pub(super) fn current(&self) -> Option<Arc<CurrentKeys>> {
        self.current.load_full()
    }

    /// Returns how far the issuer's clock is from the guard's, if the issuer has stated its time.
    pub(super) fn clock_offset(&self, loaded: &LoadedKeys) -> Option<ClockOffset> {
        let time = loaded.issuer_time?;
        Some(time.offset(self.clock.since_epoch()))
    }

    /// Replaces the current keys. Returns whether the new ones differ from them. The caller has locked the schedule.
    pub(super) fn replace(
        &self,
        loaded: LoadedKeys,
        fetch: u64,
        fetched: Instant,
        fetched_wall: Duration,
        clock_offset: Option<ClockOffset>,
    ) -> bool {
        let previous = self.current();
        let is_new = !previous.as_ref().is_some_and(|previous| {
            previous.hash == loaded.hash
                && previous.keys.algorithms == loaded.keys.algorithms
                && previous.issuers == loaded.issuers
        });
        let generation = previous.map_or(1, |previous| previous.generation + u64::from(is_new));
        self.current.store(Some(Arc::new(CurrentKeys {
            keys: Arc::new(loaded.keys),
            hash: loaded.hash,
            generation,
            issuers: loaded.issuers,
            fetch,
            fetched,
            fetched_wall,
            location: loaded.location.to_string(),
            clock_offset,
        })));
        is_new
    }

    /// Uses the keys of another store, from the same place, until the first fetch. Their age is kept.
    #[cfg(feature = "policy-file")]
    pub(super) fn inherit(&self, earlier: &Self) {
        let Some(current) = earlier.current() else {
            return;
        };
        self.current.store(Some(Arc::new(CurrentKeys {
            keys: current.keys.clone(),
            hash: current.hash.clone(),
            generation: current.generation,
            issuers: current.issuers.clone(),
            // Older than the first fetch of this store.
            fetch: 0,
            fetched: current.fetched,
            fetched_wall: current.fetched_wall,
            location: current.location.clone(),
            clock_offset: current.clock_offset,
        })));
    }

    /// Returns whether the keys may still be used.
    pub(super) fn is_fresh(&self, current: &CurrentKeys, now: Instant) -> bool {
        now.saturating_duration_since(current.fetched) < self.timing.stale_after
            || !self.source.may_change()
    }

    /// Returns the keys that become stale, or became stale, without a report, and the time at which they do. Returns `None` if
    /// there are no usable keys, or if they never become stale.
    pub(super) fn not_reported_stale(&self) -> Option<(Arc<CurrentKeys>, Instant)> {
        let current = self.current().filter(|current| {
            self.source.may_change()
                && current.keys.usable() > 0
                && current.fetch != self.reported_stale.load(Ordering::Relaxed)
        })?;
        let stale_at = current.fetched.checked_add(self.timing.stale_after)?;
        Some((current, stale_at))
    }

    /// Remembers that these keys have been reported as stale.
    pub(super) fn set_reported_stale(&self, current: &CurrentKeys) {
        self.reported_stale.store(current.fetch, Ordering::Relaxed);
    }

    /// Calls `access` with the failures since the last successful fetch.
    pub(super) fn with_failures<R>(&self, access: impl FnOnce(&mut Failures) -> R) -> R {
        access(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `access` with the locked schedule.
    pub(super) fn with_schedule<R>(&self, access: impl FnOnce(&mut Schedule) -> R) -> R {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let result = access(&mut schedule);
        let overdue_at = schedule
            .overdue_at()
            .saturating_duration_since(self.created);
        self.overdue_at
            .store(milliseconds(overdue_at), Ordering::Relaxed);
        self.fetches_started
            .store(schedule.fetches_started(), Ordering::Release);
        result
    }

    /// Returns whether the fetch that is due should have been started a while ago.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let now = milliseconds(now.saturating_duration_since(self.created));
        now > self.overdue_at.load(Ordering::Relaxed)
    }

    /// Returns the number of fetches that were started. The keys of a fetch with a greater number are newer.
    pub(super) fn fetches_started(&self) -> u64 {
        self.fetches_started.load(Ordering::Acquire)
    }

    /// Publishes the outcome of a fetch, and wakes the requests that wait for it one by one.
    pub(super) async fn end_fetch(&self, outcome: FetchOutcome) {
        self.outcome.send_replace(outcome);
        self.waiting.wake_one_by_one().await;
    }

    /// Publishes the outcome of a fetch, and wakes all requests that wait for it at once.
    pub(super) fn end_fetch_now(&self, outcome: FetchOutcome) {
        self.outcome.send_replace(outcome);
        self.waiting.wake_all();
    }

    /// Returns the time until the next fetch is due.
    pub(super) fn until_next_fetch(&self) -> Duration {
        let due = self.with_schedule(|schedule| schedule.next_due());
        due.map_or(self.timing.backoff_min, |due| {
            due.saturating_duration_since(Instant::now())
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
