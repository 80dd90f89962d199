//! Performs the fetches that the schedule demands.
//!
//! A background task waits until the next fetch is due or the source reports a change. It is spawned by the first use of the
//! keys, not by a constructor, and ends with the last handle. Each use checks that it still runs, because it ends with the
//! runtime that it was spawned on.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::clock_offset::ClockOffset;
use super::error::KeysError;
use super::health::warnings;
use super::schedule::Fetch;
use super::sources::LoadedKeys;
use super::store::{FetchOutcome, KeyStore};
use crate::background_task::BackgroundTask;
use crate::sync::time::sleep_until;
use crate::sync::{Handle, Notify};
use crate::telemetry::{self, KeyTimes};
use crate::text::log_line;

/// Controls the background task, which ends when this is dropped.
#[derive(Default)]
pub(super) struct Driver {
    wake: Arc<Notify>,
    task: BackgroundTask,
}

impl Driver {
    /// Spawns the task, unless it runs already. Does nothing outside a tokio runtime.
    pub(super) fn ensure_running(&self, store: &Arc<KeyStore>) {
        self.task
            .ensure_running(|| run(Arc::downgrade(store), self.wake.clone()));
    }

    /// Spawns a fetch at `start` on the runtime of the caller, which is certain to run, while the background task's runtime
    /// may be throttled or never be polled again. Does nothing outside a tokio runtime.
    pub(super) fn spawn_fetch(&self, store: &Arc<KeyStore>, start: Instant) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (store, wake) = (store.clone(), self.wake.clone());
        runtime.spawn(async move {
            sleep_until(start).await;
            store.fetch_if_due().await;
            // The task has to look at the new schedule.
            wake.notify_one();
        });
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

async fn run(weak: Weak<KeyStore>, wake: Arc<Notify>) {
    while let Some(store) = weak.upgrade() {
        store.fetch_if_due().await;
        store.report_stale(Instant::now());
        let due = store.with_schedule(|schedule| schedule.due());
        let stale_at = store.not_reported_stale().map(|(_, stale_at)| stale_at);
        let due = stale_at.map_or(due, |stale_at| stale_at.min(due));
        let source_changed = store.source.changed();
        drop(store);
        tokio::select! {
            () = sleep_until(due) => {}
            () = wake.notified() => {}
            () = source_changed => {
                if let Some(store) = weak.upgrade() {
                    store.with_schedule(|schedule| schedule.source_changed(Instant::now()));
                }
            }
        }
    }
}

impl KeyStore {
    /// Stores the keys of an inline source, which need no fetch.
    pub(super) fn load_inline(&self) {
        let now = Instant::now();
        if let Some(loaded) = self.source.inline_keys()
            && let Some(fetch) = self.with_schedule(|schedule| schedule.start_if_due(now))
        {
            self.accept(loaded, fetch, now, self.clock.since_epoch());
        }
    }

    /// Performs a fetch if one is due, and notifies the requests that wait for it.
    async fn fetch_if_due(&self) {
        let started = Instant::now();
        if let Some(current) = self.current() {
            let age = started.saturating_duration_since(current.fetched);
            if let Some(label) = self.metrics_label() {
                telemetry::record_keys_age(label, age);
            }
        }
        let Some(fetch) = self.with_schedule(|schedule| schedule.start_if_due(started)) else {
            return;
        };
        let interrupted = InterruptOnDrop { store: self, fetch };
        let fetched_wall = self.clock.since_epoch();
        let loaded = self.source.load(fetch.cache_policy).await;
        std::mem::forget(interrupted);
        let result = match loaded {
            Ok(loaded) => self.accept(loaded, fetch, started, fetched_wall),
            Err(error) => self.record_failure(error, fetch),
        };
        // Another fetch may have been started since, because this one was considered lost.
        let Some(result) = result else { return };
        let outcome = FetchOutcome {
            fetch: fetch.number,
            error: result.err().map(Arc::new),
        };
        self.end_fetch(outcome).await;
    }

    /// Records that a fetch has failed, and returns its error. Returns `None` if the fetch is no longer the one in flight.
    fn record_failure(&self, failure: KeysError, fetch: Fetch) -> Option<Result<(), KeysError>> {
        let now = Instant::now();
        self.with_schedule(|schedule| {
            let is_in_flight = schedule.is_in_flight(fetch);
            is_in_flight.then(|| schedule.failed(now, jitter()))
        })?;
        if let Some(label) = self.metrics_label() {
            telemetry::record_key_fetch(label, None);
        }
        let issuer = &*self.label;
        let error = log_line(&failure);
        let (failed, is_warning) = self.with_failures(|failures| failures.record(&error, now));
        let attempts = failed.attempts;
        let failing_for_seconds = failed.lasting.as_secs();
        let consequence = self.consequence(now);
        if is_warning {
            tracing::warn!(
                issuer,
                error,
                consequence,
                attempts,
                failing_for_seconds,
                "keys could not be fetched"
            );
        } else {
            tracing::debug!(
                issuer,
                error,
                consequence,
                attempts,
                failing_for_seconds,
                "keys still could not be fetched"
            );
        }
        Some(Err(failure))
    }

    /// Returns what a failed fetch means for the tokens of the issuer.
    fn consequence(&self, now: Instant) -> String {
        let current = self.load();
        let Some(current) = current.as_ref().filter(|current| current.keys.usable() > 0) else {
            return "no keys: the issuer's tokens get 503".to_owned();
        };
        let age = now.saturating_duration_since(current.fetched);
        let remaining = self.timing.stale_after.saturating_sub(age).as_secs();
        let age = age.as_secs();
        if self.is_fresh(current, now) {
            format!("the keys fetched {age} s ago are used for at most {remaining} s longer")
        } else {
            format!("the keys fetched {age} s ago are stale: the issuer's tokens get 503")
        }
    }

    /// Logs that the current keys are stale, once.
    fn report_stale(&self, now: Instant) {
        let Some((current, stale_at)) = self.not_reported_stale() else {
            return;
        };
        if now < stale_at {
            return;
        }
        self.set_reported_stale(&current);
        let failed = self.with_failures(|failures| failures.count(now));
        let issuer = &*self.label;
        tracing::error!(
            issuer,
            age_seconds = now.saturating_duration_since(current.fetched).as_secs(),
            attempts = failed.map(|failed| failed.attempts),
            failing_for_seconds = failed.map(|failed| failed.lasting.as_secs()),
            "the keys are stale (`stale_after`) and no longer used: the issuer's tokens get 503 until keys can be fetched"
        );
    }

    /// Logs a large difference between the issuer's clock and this machine's, and its end.
    fn report_clock(&self, previous: Option<ClockOffset>, current: Option<ClockOffset>) {
        let Some(offset) = current else { return };
        let issuer = &*self.label;
        let (clock_offset_seconds, leeway_seconds) = (offset.seconds(), self.leeway().as_secs());
        let reported = previous.filter(|previous| previous.is_large(self.leeway()));
        match (reported, offset.is_large(self.leeway())) {
            (Some(reported), true)
                if reported.seconds().signum() == clock_offset_seconds.signum() => {}
            (_, true) => tracing::warn!(
                issuer,
                clock_offset_seconds,
                leeway_seconds,
                "the issuer's clock is {offset}, by the `Date` header of its response; its tokens may be rejected because of their times"
            ),
            (Some(_), false) => tracing::info!(
                issuer,
                clock_offset_seconds,
                leeway_seconds,
                "the issuer's clock is {offset}, by the `Date` header of its response, and no longer differs much"
            ),
            (None, false) => {}
        }
    }

    /// Replaces the current keys. The result is an error if none of the new ones is usable. Returns `None` if the fetch is no longer
    /// the one in flight.
    fn accept(
        &self,
        loaded: LoadedKeys,
        fetch: Fetch,
        fetched: Instant,
        fetched_wall: std::time::Duration,
    ) -> Option<Result<(), KeysError>> {
        let issuer = &*self.label;
        let (usable, max_age) = (loaded.keys.usable(), loaded.max_age);
        let (hash, location) = (loaded.hash.clone(), loaded.location.to_string());
        let previous_clock = self.current().and_then(|previous| previous.clock_offset);
        // A clock of the application is not called under the lock, since it may use the guard.
        let clock_offset = self.clock_offset(&loaded);
        let now = Instant::now();
        // Under one lock, so that two fetches, of which one was considered lost, neither replace newer keys by older ones nor give
        // the same generation to different keys.
        let is_new = self.with_schedule(|schedule| {
            if !schedule.is_in_flight(fetch) {
                return None;
            }
            let is_new = self.replace(loaded, fetch.number, fetched, fetched_wall, clock_offset);
            if usable > 0 {
                schedule.succeeded(now, max_age, jitter());
            } else {
                schedule.succeeded_without_usable_key(now, jitter());
            }
            Some(is_new)
        })?;
        let times = self.source.may_change().then(|| KeyTimes {
            fetched: fetched_wall,
            stale: fetched_wall.saturating_add(self.timing.stale_after),
        });
        if let Some(label) = self.metrics_label() {
            telemetry::record_key_fetch(label, Some(&hash));
            telemetry::record_keys(label, usable, times);
        }
        let failed = self.with_failures(|failures| failures.end(Instant::now()));
        tracing::info!(
            issuer,
            keys = usable,
            failed_attempts = failed.map(|failed| failed.attempts),
            failed_for_seconds = failed.map(|failed| failed.lasting.as_secs()),
            "keys fetched"
        );
        let current = self.load();
        let clock = current.as_ref().and_then(|current| current.clock_offset);
        self.report_clock(previous_clock, clock);
        if let Some(current) = current.as_ref().filter(|_| is_new) {
            for (_, reason) in current.keys.skipped() {
                tracing::warn!(issuer, reason, "a key of the issuer is skipped");
            }
            for warning in warnings(&current.keys) {
                tracing::warn!(issuer, "{warning}");
            }
        }
        if usable > 0 {
            return Some(Ok(()));
        }
        let error = KeysError::NoUsableKey { location };
        if is_new {
            let error = log_line(&error);
            tracing::warn!(issuer, error, "the issuer has no usable key");
        }
        Some(Err(error))
    }
}

/// Makes the next fetch due immediately if this one is dropped before it finishes, as at the shutdown of a runtime.
struct InterruptOnDrop<'s> {
    store: &'s KeyStore,
    fetch: Fetch,
}

impl Drop for InterruptOnDrop<'_> {
    fn drop(&mut self) {
        let fetch = self.fetch;
        let was_in_flight = self.store.with_schedule(|schedule| {
            let is_in_flight = schedule.is_in_flight(fetch);
            if is_in_flight {
                schedule.interrupted(Instant::now());
            }
            is_in_flight
        });
        if was_in_flight {
            self.store.end_fetch_now(FetchOutcome {
                fetch: fetch.number,
                error: Some(Arc::new(KeysError::Interrupted)),
            });
        }
    }
}

/// Returns a random number from 0 to 1. It spreads load and needs no cryptographic quality.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    #[cfg(test)]
    if let Some(random) = crate::sync::random() {
        return random;
    }
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}
