//! The life of one issuer's keys: fetched when first needed, refreshed ahead of need, and kept through an outage of the
//! issuer.

pub(crate) mod client;
pub(crate) mod discovery;
mod driver;
pub(crate) mod error;
pub(crate) mod fetch;
pub(crate) mod health;
pub(crate) mod schedule;
mod shared;
pub(crate) mod source;
pub(crate) mod store;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::driver::Driver;
use self::error::KeysError;
use self::health::{IssuerHealth, warnings};
use self::schedule::{Ask, Timing};
use self::shared::{Shared, Waiting, jitter};
use self::source::KeySource;
use self::store::Current;
use crate::clock::Clock;
use crate::jose::SignatureError;
use crate::jose::key_set::KeySet;
use crate::telemetry;

/// How often [`Keys::ready`] looks whether the fetch that it waits for has to be started again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One issuer's keys. Nothing is fetched before the first use.
pub(crate) struct Keys {
    shared: Arc<Shared>,
    driver: Driver,
}

/// What a request found when it looked for keys.
pub(crate) struct Seen {
    /// The keys, unless there are none or they are stale.
    pub(crate) current: Option<Arc<Current>>,
    /// How many fetches were started before.
    fetches: u64,
}

/// The fetch that a request waits for if there are usable keys, but not for its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwaitedFetch {
    /// The next fetch, as soon as the limits permit it.
    Next,
    /// A fetch that is in progress or that the limits permit now.
    Current,
}

/// There are no newer keys, and waiting for them is of no use.
pub(crate) struct NoNewerKeys {
    /// Whether there are usable keys, which the request has seen.
    pub(crate) has_usable: bool,
    /// When the next fetch may bring others.
    pub(crate) retry_after: Duration,
}

impl Keys {
    pub(crate) fn new(source: KeySource, timing: Timing, clock: Clock) -> Self {
        let shared = Arc::new(Shared::new(source, timing, clock));
        shared.load_given();
        Self {
            shared,
            driver: Driver::default(),
        }
    }

    /// Returns the current keys, without waiting. Keeps the driver running, and starts a fetch that it has neglected.
    pub(crate) fn look(&self) -> Seen {
        // A fetch that is started from here on is one that this request has seen start.
        let fetches = self.shared.fetches();
        Seen {
            current: self.peek(Arc::clone),
            fetches,
        }
    }

    /// Returns the number of the current key set, which changes with it.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.peek(|current| current.generation)
    }

    /// Starts the fetch that is due, if any, without waiting for it, and keeps the driver running.
    ///
    /// Does nothing outside a tokio runtime, or if the keys cannot change.
    pub(crate) fn prefetch(&self) {
        self.start_due_fetch(Instant::now());
    }

    fn start_due_fetch(&self, now: Instant) {
        if self.shared.source.may_change() {
            self.driver.keep_going(&self.shared);
            if self.shared.is_overdue(now) {
                self.fetch_from_here(now);
            }
        }
    }

    fn peek<R>(&self, take: impl FnOnce(&Arc<Current>) -> R) -> Option<R> {
        let now = Instant::now();
        self.start_due_fetch(now);
        let current = self.shared.store.peek();
        let current = current.as_ref()?;
        self.shared.is_fresh(current, now).then(|| take(current))
    }

    /// Returns whether the issuer has a name by what came with its keys, or `None` if there are no keys yet.
    pub(crate) fn has_name(&self, name: &str) -> Option<bool> {
        let current = self.shared.store.peek();
        let names = &current.as_ref()?.names;
        Some(names.iter().any(|own| **own == *name))
    }

    /// Returns the names of the issuer that came with the keys, or `None` if there are no keys yet.
    pub(crate) fn names(&self) -> Option<Vec<Arc<str>>> {
        let current = self.shared.store.peek();
        current.as_ref().map(|current| current.names.clone())
    }

    /// Returns whether a signature that the available keys do not verify may verify with newer keys.
    pub(crate) fn may_fix(&self, error: SignatureError) -> bool {
        let source = &self.shared.source;
        match error {
            SignatureError::UnknownKey | SignatureError::BadSignature => source.may_change(),
            SignatureError::AlgorithmNotAllowed => source.lists_algorithms(),
        }
    }

    /// Waits until `deadline` for keys other than those that a request has seen last.
    ///
    /// A request is served by at most one fetch that is started after it came, so `came` is what it found when it came.
    /// The fetch is made as soon as the schedule permits. `awaited` says whether a request that finds usable keys waits for
    /// that. One that finds none does not, so that requests do not pile up while the issuer is away.
    ///
    /// # Panics
    ///
    /// In a tokio runtime without timers.
    pub(crate) async fn newer_than(
        &self,
        seen: Option<&Arc<Current>>,
        came: &Seen,
        awaited: AwaitedFetch,
        deadline: Instant,
    ) -> Result<Arc<Current>, NoNewerKeys> {
        let mut outcome = self.shared.outcome.subscribe();
        let mut place = None;
        loop {
            let now = Instant::now();
            let current = self.shared.store.get();
            let current = current.filter(|current| self.shared.is_fresh(current, now));
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
                if current.fetch > came.fetches {
                    return Err(give_up(self.shared.until_next()));
                }
            }
            if place.is_none() {
                place = Waiting::begin(&self.shared);
            }
            if place.is_none() || now >= deadline || Handle::try_current().is_err() {
                return Err(give_up(self.shared.until_next()));
            }
            let latest = match awaited {
                AwaitedFetch::Next if has_usable => deadline,
                _ => now,
            };
            let ask = |schedule: &mut schedule::Schedule| schedule.ask(now, latest, jitter());
            match self.shared.schedule(ask) {
                Ask::NotBefore(time) => return Err(give_up(time - now)),
                Ask::Fetch(at) => self.fetch_from_here(at),
                Ask::Join => {}
            }
            if timeout_at(deadline, outcome.changed()).await.is_err() {
                return Err(give_up(self.shared.until_next()));
            }
            let finished = outcome.borrow_and_update();
            let is_answer = finished.fetch > came.fetches && !finished.is_cut_off();
            if finished.error.is_some() && is_answer && !self.has_newer_than(seen) {
                drop(finished);
                return Err(give_up(self.shared.until_next()));
            }
        }
    }

    fn has_newer_than(&self, seen: Option<&Arc<Current>>) -> bool {
        let current = self.shared.store.get();
        current.is_some_and(|current| !seen.is_some_and(|seen| Arc::ptr_eq(seen, &current)))
    }

    /// Has the fetch started on the runtime of this request. That one runs for certain, while the driver's may be
    /// throttled, or never be polled again.
    fn fetch_from_here(&self, at: Instant) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (shared, driver) = (self.shared.clone(), self.driver.waker());
        runtime.spawn(async move {
            sleep_until(at).await;
            shared.fetch_if_due().await;
            driver.notify_one();
        });
    }

    /// Returns the status of the keys. Starts no fetch.
    pub(crate) fn health(&self, issuer: &str) -> IssuerHealth {
        let current = self.shared.store.get();
        let now = Instant::now();
        let is_fresh = current
            .as_ref()
            .is_some_and(|current| self.shared.is_fresh(current, now));
        let keys = current.as_ref().map(|current| &current.keys);
        if let Some(current) = &current {
            telemetry::keys_age(&self.shared.source.name, current.fetched.elapsed());
        }
        let due = self.shared.schedule(|schedule| schedule.next());
        let due = due.filter(|_| self.shared.source.may_change());
        let usable_keys = keys.map_or(0, KeySet::usable);
        IssuerHealth {
            issuer: issuer.to_owned(),
            is_ready: is_fresh && usable_keys > 0,
            usable_keys,
            passed_over: keys.map_or(Vec::new(), |keys| keys.skipped().collect()),
            warnings: keys.map_or(Vec::new(), warnings),
            key_set_hash: current.as_ref().map(|current| current.hash.clone()),
            last_success: current.map(|current| SystemTime::UNIX_EPOCH + current.fetched_wall),
            last_error: self.shared.outcome.borrow().error.clone(),
            next_attempt: due.map(|due| due.saturating_duration_since(now)),
        }
    }

    /// Waits until there are usable keys, or the next fetch has failed or brought none.
    ///
    /// # Panics
    ///
    /// In a tokio runtime without timers.
    pub(crate) async fn ready(&self) -> Result<(), Arc<KeysError>> {
        let mut outcome = self.shared.outcome.subscribe();
        loop {
            let current = self.look().current;
            if current.is_some_and(|current| current.keys.usable() > 0) {
                return Ok(());
            }
            if Handle::try_current().is_err() {
                return Err(Arc::new(KeysError::NoRuntime));
            }
            // The sender lives as long as `self` does.
            if let Ok(Ok(())) = timeout(LOOK_AGAIN, outcome.changed()).await
                && let Some(error) = outcome.borrow_and_update().error.clone()
            {
                return Err(error);
            }
        }
    }
}
