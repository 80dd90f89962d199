//! Performs the fetches that the schedule demands.
//!
//! A background task waits until the next fetch is due or the source reports a change. It is spawned by the first use of the
//! keys, not by a constructor, and ends with the last handle. Each use checks that it still runs, because it ends with the
//! runtime that it was spawned on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::error::KeysError;
use super::health::warnings;
use super::schedule::Fetch;
use super::sources::LoadedKeys;
use super::store::{FetchOutcome, KeyStore};
use crate::telemetry;
use crate::text::log_line;

/// Controls the background task, which ends when this is dropped.
#[derive(Default)]
pub(super) struct Driver {
    wake: Arc<Notify>,
    is_running: Arc<AtomicBool>,
}

impl Driver {
    /// Spawns the task, unless it runs already. Does nothing outside a tokio runtime.
    pub(super) fn ensure_running(&self, store: &Arc<KeyStore>) {
        if self.is_running.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(self.is_running.clone());
        let task = run(Arc::downgrade(store), self.wake.clone());
        runtime.spawn(async move {
            let _running = running;
            task.await;
        });
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

/// Records the end of the task, whether it returns, panics or is dropped with its runtime.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn run(weak: Weak<KeyStore>, wake: Arc<Notify>) {
    while let Some(store) = weak.upgrade() {
        store.fetch_if_due().await;
        let due = store.with_schedule(|schedule| schedule.due());
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
            telemetry::record_keys_age(&self.label, age);
        }
        let Some(fetch) = self.with_schedule(|schedule| schedule.start_if_due(started)) else {
            return;
        };
        let interrupted = InterruptOnDrop { store: self, fetch };
        let fetched_wall = self.clock.since_epoch();
        let loaded = self.source.load(fetch.cache_policy).await;
        std::mem::forget(interrupted);
        if !self.with_schedule(|schedule| schedule.is_in_flight(fetch)) {
            return;
        }
        let error = match loaded {
            Ok(loaded) => self.accept(loaded, fetch, started, fetched_wall),
            Err(error) => {
                self.record_failure(&error);
                Some(error)
            }
        };
        self.outcome.send_replace(FetchOutcome {
            fetch: fetch.number,
            error: error.map(Arc::new),
        });
    }

    fn record_failure(&self, error: &KeysError) {
        telemetry::record_key_fetch(&self.label, None);
        let issuer = &*self.label;
        tracing::warn!(issuer, error = log_line(error), "keys could not be fetched");
        self.with_schedule(|schedule| schedule.failed(Instant::now(), jitter()));
    }

    /// Replaces the current keys. Returns an error if none of the new ones is usable.
    fn accept(
        &self,
        loaded: LoadedKeys,
        fetch: Fetch,
        fetched: Instant,
        fetched_wall: std::time::Duration,
    ) -> Option<KeysError> {
        let issuer = &*self.label;
        telemetry::record_key_fetch(&self.label, Some(&loaded.hash));
        let (usable, max_age) = (loaded.keys.usable(), loaded.max_age);
        let last_success = self.source.may_change().then_some(fetched_wall);
        telemetry::record_keys(&self.label, usable, last_success);
        let location = loaded.location.to_string();
        let is_new = self.replace(loaded, fetch.number, fetched, fetched_wall);
        tracing::info!(issuer, keys = usable, "keys fetched");
        let current = self.load();
        if let Some(current) = current.as_ref()
            && let Some(offset) = current.clock_offset
            && offset.is_large(self.leeway)
        {
            tracing::warn!(
                issuer,
                clock_offset_seconds = offset.seconds(),
                leeway_seconds = self.leeway.as_secs(),
                "the issuer's clock is {offset}, by the `Date` header of its response; its tokens may be rejected because of their times"
            );
        }
        if let Some(current) = current.as_ref().filter(|_| is_new) {
            for (_, reason) in current.keys.skipped() {
                tracing::warn!(issuer, reason, "a key of the issuer is skipped");
            }
            for warning in warnings(&current.keys) {
                tracing::warn!(issuer, "{warning}");
            }
        }
        let now = Instant::now();
        if usable > 0 {
            self.with_schedule(|schedule| schedule.succeeded(now, max_age, jitter()));
            return None;
        }
        self.with_schedule(|schedule| schedule.succeeded_without_usable_key(now, jitter()));
        let error = KeysError::NoUsableKey { location };
        if is_new {
            let error = log_line(&error);
            tracing::warn!(issuer, error, "the issuer has no usable key");
        }
        Some(error)
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
            self.store.outcome.send_replace(FetchOutcome {
                fetch: fetch.number,
                error: Some(Arc::new(KeysError::Interrupted)),
            });
        }
    }
}

/// Returns a random number from 0 to 1. It spreads load and needs no cryptographic quality.
pub(super) fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}
