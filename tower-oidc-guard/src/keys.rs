//! The keys of one issuer: fetched when first needed, refreshed ahead of need, and kept through an outage of the issuer.
//!
//! [`Keys`] is what a request uses. The other modules, from pure to I/O:
//!
//! - [`schedule`] decides when to fetch;
//! - [`location`] is where keys come from, as configured, and [`sources`] loads them from there;
//! - [`fetch`] requests documents over HTTP with the clients of [`http_client`], and [`discovery`] reads the first of them;
//! - [`connection_fault`] states what an operator can do about a failed request;
//! - [`clock_offset`] is the difference between the issuer's clock and this machine's;
//! - [`store`] holds the current keys, [`waiting`] the requests that wait for newer ones, [`driver`] performs the fetches that are
//!   due, and [`health`] reports the status;
//! - [`failures`] decides which failed fetches are warnings.

pub(crate) mod clock_offset;
pub(crate) mod connection_fault;
pub(crate) mod discovery;
mod driver;
pub(crate) mod error;
pub(crate) mod failures;
pub(crate) mod fetch;
pub(crate) mod health;
pub(crate) mod http_client;
pub(crate) mod location;
pub(crate) mod schedule;
pub(crate) mod sources;
pub(crate) mod store;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use self::driver::Driver;
pub(crate) use self::driver::jitter;
use self::error::KeysError;
use self::health::IssuerHealth;
use self::schedule::{FetchDecision, FetchTiming};
use self::sources::KeySource;
use self::store::{CurrentKeys, KeyStore};
use crate::clock::Clock;
use crate::jose::SignatureError;
use crate::jose::algorithm::Algorithm;
use crate::sync::Handle;
use crate::sync::time::timeout;
use crate::telemetry;

/// How often [`Keys::ready`] checks whether the fetch that it waits for has to be started again.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The keys of one issuer. Nothing is fetched before the first use.
pub(crate) struct Keys {
    store: Arc<KeyStore>,
    driver: Driver,
    /// Whether the guard may be ready before these keys have been fetched for the first time.
    is_joining: AtomicBool,
}

/// The keys that a request found when it looked.
pub(crate) struct KeysSnapshot {
    /// The keys, or `None` if there are none or they are stale.
    pub(crate) current: Option<Arc<CurrentKeys>>,
    /// The number of fetches that were started before.
    fetches_started: u64,
}

/// The fetch that a request waits for if there are usable keys, but none of them verifies its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwaitedFetch {
    /// The next fetch, as soon as the limits permit it.
    Next,
    /// A fetch that is in flight or that the limits permit now.
    Current,
}

/// There are no newer keys, and waiting for them is of no use.
pub(crate) struct NoNewerKeys {
    /// Whether there are usable keys, which the request has seen.
    pub(crate) has_usable: bool,
    /// The time until the next fetch, which may return others.
    pub(crate) retry_after: Duration,
}

impl Keys {
    /// Creates the keys of the issuer with that label. `leeway` is the allowed difference between its clock and this machine's.
    pub(crate) fn new(
        label: Arc<str>,
        source: KeySource,
        timing: FetchTiming,
        clock: Clock,
        leeway: Duration,
    ) -> Self {
        telemetry::register_issuer(&label);
        let store = Arc::new(KeyStore::new(label, source, timing, clock, leeway));
        store.load_inline();
        Self {
            store,
            driver: Driver::default(),
            is_joining: AtomicBool::new(false),
        }
    }

    /// Changes the settings that do not affect the keys themselves: the allowed difference between the clocks, and the audiences
    /// that must not be those of the API server.
    #[cfg(feature = "policy-file")]
    pub(crate) fn update(&self, leeway: Duration, audiences: &[String]) {
        self.store.set_leeway(leeway);
        self.store.source.set_audiences(audiences);
    }

    /// Uses the keys of the same place that have been fetched with other limits, until the first fetch.
    #[cfg(feature = "policy-file")]
    pub(crate) fn inherit(&self, earlier: &Self) {
        if self.store.source.may_change() {
            self.store.inherit(&earlier.store);
        }
    }

    /// Marks the keys of an issuer that a guard in use has begun to trust: the guard stays ready until they are fetched.
    #[cfg(feature = "policy-file")]
    pub(crate) fn join(&self) {
        self.is_joining.store(true, Ordering::Relaxed);
    }

    /// Returns whether the guard may be ready although these keys have not been fetched yet.
    pub(crate) fn is_joining(&self) -> bool {
        self.is_joining.load(Ordering::Relaxed) && self.store.load().is_none()
    }

    /// Ends the metrics of the keys, which are no longer used for new requests.
    #[cfg(feature = "policy-file")]
    pub(crate) fn retire(&self) {
        self.store.retire();
    }

    /// Returns the current keys, without waiting. Starts the fetch that is due, if any.
    pub(crate) fn snapshot(&self) -> KeysSnapshot {
        // A fetch that is started from here on counts as started after this request arrived.
        let fetches_started = self.store.fetches_started();
        KeysSnapshot {
            current: self.with_fresh(Arc::clone),
            fetches_started,
        }
    }

    /// Returns the generation of the current keys. Starts the fetch that is due, if any.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.with_fresh(|current| current.generation)
    }

    /// Calls `read` with the current keys. Returns `None` if there are none or they are stale.
    fn with_fresh<R>(&self, read: impl FnOnce(&Arc<CurrentKeys>) -> R) -> Option<R> {
        if !self.store.source.may_change() {
            // The time is of no interest, since the keys never become stale.
            return self.store.load().as_ref().map(read);
        }
        let now = Instant::now();
        self.start_due_fetch(now);
        let current = self.store.load();
        let current = current.as_ref()?;
        self.store.is_fresh(current, now).then(|| read(current))
    }

    /// Starts the fetch that is due, if any, without waiting for it.
    ///
    /// Does nothing outside a tokio runtime, or if the keys cannot change.
    pub(crate) fn prefetch(&self) {
        self.start_due_fetch(Instant::now());
    }

    fn start_due_fetch(&self, now: Instant) {
        if self.store.source.may_change() {
            self.driver.ensure_running(&self.store);
            if self.store.is_overdue(now) {
                self.driver.spawn_fetch(&self.store, now);
            }
        }
    }

    /// Returns the names of the algorithms that are allowed for the current keys, or `None` if there are no keys yet.
    pub(crate) fn algorithms(&self) -> Option<Vec<&'static str>> {
        let current = self.store.load();
        let allowed = current.as_ref()?.keys.algorithms;
        let all = Algorithm::ALL.into_iter();
        let allowed = all.filter(|algorithm| allowed.contains(*algorithm));
        Some(allowed.map(Algorithm::name).collect())
    }

    /// Returns whether `iss` came with the keys, or `None` if there are no keys yet.
    pub(crate) fn has_issuer(&self, iss: &str) -> Option<bool> {
        let current = self.store.load();
        let issuers = &current.as_ref()?.issuers;
        Some(issuers.iter().any(|issuer| **issuer == *iss))
    }

    /// Returns the `iss` values that came with the keys, or `None` if there are no keys yet.
    pub(crate) fn issuers(&self) -> Option<Vec<Arc<str>>> {
        let current = self.store.load();
        current.as_ref().map(|current| current.issuers.clone())
    }

    /// Returns whether a signature that the current keys do not verify may verify with newer keys.
    pub(crate) fn may_fix(&self, error: SignatureError) -> bool {
        let source = &self.store.source;
        match error {
            SignatureError::UnknownKey | SignatureError::BadSignature => source.may_change(),
            SignatureError::AlgorithmNotAllowed => source.provides_algorithms(),
        }
    }

    /// Waits until `deadline` for keys other than `seen`, the ones that the request has seen last.
    ///
    /// A request waits for at most one fetch that is started after it arrived; `on_arrival` is what it found then. The fetch
    /// is made as soon as the schedule permits; `awaited` states whether a request that has usable keys waits for that. One that
    /// has none does not, so that requests do not accumulate during an outage of the issuer.
    ///
    /// # Panics
    ///
    /// In a tokio runtime without timers.
    pub(crate) async fn wait_for_newer(
        &self,
        seen: Option<&Arc<CurrentKeys>>,
        on_arrival: &KeysSnapshot,
        awaited: AwaitedFetch,
        deadline: Instant,
    ) -> Result<Arc<CurrentKeys>, NoNewerKeys> {
        let store = &self.store;
        let mut outcome = store.outcome.subscribe();
        let mut slot = None;
        loop {
            let now = Instant::now();
            let current = store.current();
            let current = current.filter(|current| store.is_fresh(current, now));
            let has_usable = current
                .as_ref()
                .is_some_and(|current| current.keys.usable() > 0);
            let give_up = |retry_after| NoNewerKeys {
                has_usable,
                retry_after,
            };
            if let Some(current) = current {
                if !seen.is_some_and(|seen| Arc::ptr_eq(seen, &current)) {
                    return Ok(current);
                }
                if current.fetch > on_arrival.fetches_started {
                    return Err(give_up(store.until_next_fetch()));
                }
            }
            if slot.is_none() {
                slot = store.waiting.acquire_slot();
            }
            if slot.is_none() || now >= deadline || Handle::try_current().is_err() {
                return Err(give_up(store.until_next_fetch()));
            }
            let latest_start = match awaited {
                AwaitedFetch::Next if has_usable => deadline,
                _ => now,
            };
            let decision =
                store.with_schedule(|schedule| schedule.request_fetch(now, latest_start, jitter()));
            match decision {
                FetchDecision::NotBefore(time) => return Err(give_up(time - now)),
                FetchDecision::StartAt(time) => self.driver.spawn_fetch(store, time),
                FetchDecision::Join => {}
            }
            if !store.waiting.wait_for_outcome(&mut outcome, deadline).await {
                return Err(give_up(store.until_next_fetch()));
            }
            let finished = outcome.borrow();
            let is_conclusive =
                finished.fetch > on_arrival.fetches_started && !finished.is_interrupted();
            if finished.error.is_some() && is_conclusive && !self.has_newer_than(seen) {
                drop(finished);
                return Err(give_up(store.until_next_fetch()));
            }
        }
    }

    fn has_newer_than(&self, seen: Option<&Arc<CurrentKeys>>) -> bool {
        let current = self.store.current();
        current.is_some_and(|current| !seen.is_some_and(|seen| Arc::ptr_eq(seen, &current)))
    }

    /// Returns the longest time that a fetch takes.
    pub(crate) fn time_limit(&self) -> Duration {
        self.store.source.time_limit()
    }

    /// Returns the status of the keys. Starts no fetch.
    pub(crate) fn health(&self) -> IssuerHealth {
        self.store.health()
    }

    /// Waits until there are usable keys, or the next fetch has failed or returned none.
    ///
    /// # Panics
    ///
    /// In a tokio runtime without timers.
    pub(crate) async fn ready(&self) -> Result<(), Arc<KeysError>> {
        let mut outcome = self.store.outcome.subscribe();
        loop {
            let current = self.snapshot().current;
            if current.is_some_and(|current| current.keys.usable() > 0) {
                return Ok(());
            }
            if Handle::try_current().is_err() {
                return Err(Arc::new(KeysError::NoRuntime));
            }
            // The sender lives as long as `self`.
            if let Ok(Ok(())) = timeout(CHECK_INTERVAL, outcome.changed()).await
                && let Some(error) = outcome.borrow_and_update().error.clone()
            {
                return Err(error);
            }
        }
    }
}
