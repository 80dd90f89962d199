//! Decides when an issuer's keys are fetched.
//!
//! A state machine without I/O: its caller passes the current time and a random number, and performs the fetches.
//!
//! A fetch has one of three causes:
//!
//! - **The schedule.** The first fetch is due immediately, each further one when the `max-age` of the last response has
//!   passed, within [`FetchTiming::refresh_min`] and [`FetchTiming::refresh_max`], less a random part. A failed fetch is
//!   repeated after a pause that grows exponentially.
//! - **A request** whose token the current keys do not verify: see [`Schedule::request_fetch`]. These fetches are limited
//!   to a burst and then one per interval, and are delayed by a random part of [`FetchTiming::on_demand_jitter`].
//! - **The source** itself, such as a file that has changed.

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use super::fetch::CachePolicy;

/// The last part of a refresh interval, as a fraction, over which refreshes are spread, so that replicas that started
/// together do not fetch together.
const REFRESH_JITTER: f64 = 0.2;

/// How long after its due time a fetch counts as overdue: the task that should start it does not run.
const OVERDUE_AFTER: Duration = Duration::from_secs(1);

/// The durations and limits that control how often keys are fetched, and how long they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchTiming {
    /// The shortest time between a fetch and the next scheduled one, whatever `max-age` the issuer sends.
    pub(crate) refresh_min: Duration,
    /// The longest time between a fetch and the next scheduled one. A key that its issuer withdraws is no longer used
    /// after this time.
    pub(crate) refresh_max: Duration,
    /// How many fetches requests may cause in quick succession.
    pub(crate) on_demand_burst: u32,
    /// How long it takes until one more fetch that a request causes is permitted.
    pub(crate) on_demand_interval: Duration,
    /// The upper bound of the random delay of a fetch that a request causes, so that replicas that see a new key at the
    /// same time do not all fetch at the same time.
    pub(crate) on_demand_jitter: Duration,
    /// The first pause after a failed fetch; doubled after each further failure.
    pub(crate) backoff_min: Duration,
    /// The longest pause after a failed fetch. Short, so that a server that started during an outage of its issuer is
    /// ready within seconds of the issuer's return.
    pub(crate) backoff_max: Duration,
    /// Keys that could not be refreshed for this long are no longer used.
    pub(crate) stale_after: Duration,
}

impl Default for FetchTiming {
    fn default() -> Self {
        Self {
            refresh_min: Duration::from_secs(60),
            refresh_max: Duration::from_secs(3600),
            on_demand_burst: 3,
            on_demand_interval: Duration::from_secs(5),
            on_demand_jitter: Duration::from_secs(2),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            stale_after: Duration::from_secs(24 * 3600),
        }
    }
}

/// The reply to a request that needs newer keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FetchDecision {
    /// The request starts a fetch at that time, and waits for its outcome.
    StartAt(Instant),
    /// The request waits for the outcome of a fetch that is in flight or already planned.
    Join,
    /// The request does not wait, because no fetch is permitted before that time.
    NotBefore(Instant),
}

/// A fetch that has to be performed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// The number of this fetch, counted from 1.
    pub(crate) number: u64,
    /// Whether caches between this process and the issuer may answer.
    pub(crate) cache_policy: CachePolicy,
}

/// The state of one issuer's key fetches.
#[derive(Debug)]
pub(crate) struct Schedule {
    timing: FetchTiming,
    /// A fetch that takes longer than this is considered lost: the runtime that it was started on no longer runs.
    lost_after: Duration,
    /// When the next fetch is due.
    due: Instant,
    in_flight: bool,
    /// Whether a request has brought the next fetch forward.
    is_requested: bool,
    /// Whether the fetch that is planned or in flight was recorded in `limit`.
    is_limited: bool,
    /// The cache policy of the next fetch.
    cache_policy: CachePolicy,
    limit: FetchLimit,
    /// The number of failures since the last success.
    failures: u32,
    has_succeeded: bool,
    /// The number of fetches that were started.
    fetches_started: u64,
    /// When the last of them was started.
    last_start: Instant,
}

impl Schedule {
    /// Creates a schedule whose first fetch is due immediately.
    pub(crate) fn new(timing: FetchTiming, lost_after: Duration, now: Instant) -> Self {
        Self {
            limit: FetchLimit::new(timing.on_demand_burst, timing.on_demand_interval, now),
            timing,
            lost_after,
            due: now,
            in_flight: false,
            is_requested: false,
            is_limited: false,
            cache_policy: CachePolicy::AllowCached,
            failures: 0,
            has_succeeded: false,
            fetches_started: 0,
            last_start: now,
        }
    }

    /// Returns when the next fetch has to be started. If one is in flight, that is when it is considered lost.
    pub(crate) fn due(&self) -> Instant {
        if self.in_flight {
            self.last_start + self.lost_after
        } else {
            self.due
        }
    }

    /// Returns the time from which any request has to start the fetch, because the task that should have started it does
    /// not run.
    pub(crate) fn overdue_at(&self) -> Instant {
        self.due() + OVERDUE_AFTER
    }

    /// Returns when the next fetch is due, or `None` if one is in flight.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        (!self.in_flight).then_some(self.due)
    }

    /// Returns the number of fetches that were started.
    pub(crate) fn fetches_started(&self) -> u64 {
        self.fetches_started
    }

    /// Starts a fetch if one is due.
    pub(crate) fn start_if_due(&mut self, now: Instant) -> Option<Fetch> {
        if self.due() > now {
            return None;
        }
        self.in_flight = true;
        self.is_requested = false;
        self.last_start = now;
        self.fetches_started += 1;
        Some(Fetch {
            number: self.fetches_started,
            cache_policy: self.cache_policy,
        })
    }

    /// Returns whether `fetch` is the one in flight, and not one that was considered lost.
    pub(crate) fn is_in_flight(&self, fetch: Fetch) -> bool {
        self.in_flight && self.fetches_started == fetch.number
    }

    /// Records that the fetch succeeded. `max_age` is how long the issuer allows the keys to be cached; `jitter` is a
    /// random number from 0 to 1.
    pub(crate) fn succeeded(&mut self, now: Instant, max_age: Option<Duration>, jitter: f64) {
        let timing = &self.timing;
        let interval = max_age
            .unwrap_or(timing.refresh_max)
            .clamp(timing.refresh_min, timing.refresh_max);
        self.record_success(now + interval.mul_f64(1.0 - REFRESH_JITTER * jitter));
    }

    /// Records that the fetch returned a key set without a usable key. The next fetch is due soon: a server that is not
    /// ready gets no requests that could cause one.
    pub(crate) fn succeeded_without_usable_key(&mut self, now: Instant, jitter: f64) {
        let pause = self.timing.backoff_max;
        self.record_success(now + pause.mul_f64(1.0 - REFRESH_JITTER * jitter));
    }

    fn record_success(&mut self, due: Instant) {
        self.in_flight = false;
        self.is_limited = false;
        self.cache_policy = CachePolicy::AllowCached;
        self.failures = 0;
        self.has_succeeded = true;
        self.due = due;
    }

    /// Records that the fetch failed. The next one is due after a pause that grows exponentially; half of it is random.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64) {
        let timing = &self.timing;
        let pause = timing
            .backoff_min
            .saturating_mul(1 << self.failures.min(16))
            .min(timing.backoff_max);
        if std::mem::take(&mut self.is_limited) {
            self.limit.refund();
        }
        self.in_flight = false;
        self.failures = self.failures.saturating_add(1);
        self.due = now + pause.mul_f64(0.5 + 0.5 * jitter);
    }

    /// Records that the fetch was dropped before it finished. The next one is due immediately.
    pub(crate) fn interrupted(&mut self, now: Instant) {
        if self.in_flight {
            self.in_flight = false;
            self.due = now;
        }
    }

    /// Records that the source has new content. The next fetch is due immediately.
    pub(crate) fn source_changed(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// Requests a fetch for a token that the current keys do not verify.
    ///
    /// Brings the next fetch forward if the limit permits. The request waits only for a fetch that starts within
    /// [`FetchTiming::on_demand_jitter`] or before `latest_start`. `jitter` is a random number from 0 to 1.
    pub(crate) fn request_fetch(
        &mut self,
        now: Instant,
        latest_start: Instant,
        jitter: f64,
    ) -> FetchDecision {
        if self.in_flight && now < self.due() {
            return FetchDecision::Join;
        }
        if self.due() <= now {
            self.bypass_caches();
            return FetchDecision::StartAt(now);
        }
        if self.is_requested {
            let starts_soon =
                self.due <= now + self.timing.on_demand_jitter || self.due < latest_start;
            return if starts_soon {
                FetchDecision::Join
            } else {
                FetchDecision::NotBefore(self.due)
            };
        }
        let permitted = match self.failures {
            0 => self.limit.earliest(now),
            _ => self.due,
        };
        let permitted = permitted.min(self.due);
        if permitted > now && permitted >= latest_start {
            return FetchDecision::NotBefore(permitted);
        }
        self.is_requested = true;
        self.bypass_caches();
        // A fetch that the limit delays needs no jitter: it starts one interval after an earlier fetch, whose time was
        // random.
        let start = if permitted > now {
            permitted
        } else {
            now + self.timing.on_demand_jitter.mul_f64(jitter)
        };
        if start < self.due {
            self.limit.record(start);
            self.is_limited = true;
            self.due = start;
        }
        FetchDecision::StartAt(self.due)
    }

    /// Makes the next fetch bypass caches, unless it is the first one: there are no keys yet that a cache could repeat.
    fn bypass_caches(&mut self) {
        if self.has_succeeded {
            self.cache_policy = CachePolicy::Revalidate;
        }
    }
}

/// Limits the fetches that requests cause: a token bucket that permits a burst, and then one fetch per interval.
///
/// The state is the time at which the bucket is full again (the "theoretical arrival time" of the generic cell rate
/// algorithm), so nothing has to run to refill it.
#[derive(Debug)]
struct FetchLimit {
    burst: u32,
    interval: Duration,
    full_at: Instant,
}

impl FetchLimit {
    /// Creates a limit that permits a whole burst.
    fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            full_at: now,
        }
    }

    /// Returns the earliest time, not before `now`, at which a fetch is permitted.
    fn earliest(&self, now: Instant) -> Instant {
        let used = self.full_at.saturating_duration_since(now);
        let spare = self.interval * self.burst.saturating_sub(1);
        now + used.saturating_sub(spare)
    }

    /// Records a fetch at `start`.
    fn record(&mut self, start: Instant) {
        self.full_at = self.full_at.max(start) + self.interval;
    }

    /// Reverts the last [`record`](Self::record).
    fn refund(&mut self) {
        self.full_at -= self.interval;
    }
}
