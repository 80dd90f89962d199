//! The life of one issuer's keys: fetched when first needed, refreshed ahead of need, kept through an
//! outage of the issuer.

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
use tokio::time::{Instant, sleep_until};

use self::driver::Driver;
use self::error::KeysError;
use self::health::IssuerHealth;
use self::schedule::{Ask, Timing};
use self::shared::{Shared, Waiting, dice};
use self::source::KeySource;
use self::store::Current;
use crate::clock::Clock;
use crate::telemetry;
use crate::verify::key_set::KeySet;

/// How long a request waits for keys before it is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// One issuer's keys. Nothing is fetched before the first use.
pub(crate) struct Keys {
    shared: Arc<Shared>,
    driver: Driver,
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
        let shared = Arc::new(Shared::new(source, timing, clock));
        Self {
            shared,
            driver: Driver::default(),
        }
    }

    /// The current keys if they are there and not stale, at once. Keeps the driver going, and does its work
    /// where it does not get to it.
    pub(crate) fn current(&self) -> Option<Arc<Current>> {
        self.look(Arc::clone)
    }

    /// Which key set that is.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.look(|current| current.generation)
    }

    fn look<R>(&self, take: impl FnOnce(&Arc<Current>) -> R) -> Option<R> {
        self.driver.keep_going(&self.shared);
        let now = Instant::now();
        if self.shared.is_overdue(now) {
            self.fetch_from_here(now);
        }
        let current = self.shared.store.look();
        let current = current.as_ref()?;
        self.shared.is_fresh(current, now).then(|| take(current))
    }

    /// The name under which the issuer's tokens go, where the keys came with it.
    pub(crate) fn issuer(&self) -> Option<Arc<str>> {
        self.shared.store.get()?.issuer.clone()
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
        let Some(_waiting) = Waiting::begin(&self.shared) else {
            return Err(NoNewer::Failed {
                retry_after: self.shared.timing.backoff_min,
            });
        };
        let now = Instant::now();
        match self.shared.schedule(|schedule| schedule.ask(now, dice())) {
            Ask::NotBefore(time) => {
                let retry_after = time - now;
                return Err(NoNewer::TooSoon { retry_after });
            }
            Ask::Fetch(at) => self.fetch_from_here(at),
            Ask::Join => {}
        }
        // Past the wait, or after a fetch that failed, what the store holds says all there is to say.
        let _ = tokio::time::timeout(MAX_WAIT, outcome.changed()).await;
        let newer = self.shared.newer_than(seen);
        newer.ok_or_else(|| NoNewer::Failed {
            retry_after: self.shared.until_next(),
        })
    }

    /// Has the fetch started on the runtime of this request: that one runs for certain, while the driver's
    /// may be throttled, or never be polled again.
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

    /// How the keys fare. Keeps the driver going.
    pub(crate) fn health(&self, issuer: &str) -> IssuerHealth {
        let is_ready = self.current().is_some();
        let current = self.shared.store.get();
        let keys = current.as_ref().map(|current| &current.keys);
        if let Some(current) = &current {
            telemetry::keys_age(&self.shared.source.name, current.fetched.elapsed());
        }
        let due = self.shared.schedule(|schedule| schedule.next());
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
