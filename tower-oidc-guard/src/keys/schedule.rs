//! When to fetch keys: a state machine without I/O that is told the time by its caller.
//!
//! A fetch has one of three causes:
//!
//! - **The schedule.** The first fetch is due at once, each further one when the last answer's `max-age` has passed,
//!   within bounds, less a random part. A failed fetch is repeated after a pause that grows.
//! - **A request** whose token the keys at hand do not verify: see [`Schedule::ask`]. These fetches are limited to a
//!   burst and then one per interval, and are delayed by a random part of the jitter.
//! - **The source** itself, such as a file that has changed.

mod limit;
#[cfg(test)]
mod replicas;
mod timing;

use std::time::Duration;

use tokio::time::Instant;

use self::limit::FetchLimit;
pub(crate) use self::timing::Timing;
use super::fetch::Freshness;

/// Refreshes are spread over this last part of their interval, so that replicas that started together do not ask
/// together.
const JITTER: f64 = 0.2;

/// How long after its due time a fetch counts as neglected: the task that should start it does not run.
const OVERDUE_AFTER: Duration = Duration::from_secs(1);

/// What a request that needs newer keys has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Start a fetch at that time, and wait for its outcome.
    Fetch(Instant),
    /// Wait for the outcome of a fetch that is under way or planned already.
    Join,
    /// Do not wait: no fetch is permitted before that time.
    NotBefore(Instant),
}

/// A fetch that has to be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// Its number, counted from 1.
    pub(crate) number: u64,
    /// Whether caches on the way may answer it.
    pub(crate) freshness: Freshness,
}

/// The state of one issuer's key fetches.
#[derive(Debug)]
pub(crate) struct Schedule {
    timing: Timing,
    /// A fetch that takes so long is considered lost: the runtime that it was started on does not run any more.
    lost_after: Duration,
    /// When the next fetch is due.
    due: Instant,
    in_flight: bool,
    /// Whether a request has brought the next fetch forward.
    asked: bool,
    /// Whether the fetch that is planned or under way counts against `limit`.
    counted: bool,
    /// Whether the next fetch has to bypass caches.
    freshness: Freshness,
    limit: FetchLimit,
    failures: u32,
    has_succeeded: bool,
    /// How many fetches were started.
    fetches: u64,
    /// When the last of them was started.
    started: Instant,
}

impl Schedule {
    /// Creates a schedule whose first fetch is due at once.
    pub(crate) fn new(timing: Timing, lost_after: Duration, now: Instant) -> Self {
        Self {
            limit: FetchLimit::new(timing.on_demand_burst, timing.on_demand_interval, now),
            timing,
            lost_after,
            due: now,
            in_flight: false,
            asked: false,
            counted: false,
            freshness: Freshness::MayBeCached,
            failures: 0,
            has_succeeded: false,
            fetches: 0,
            started: now,
        }
    }

    /// Returns when the next fetch has to be started.
    pub(crate) fn due(&self) -> Instant {
        match self.in_flight {
            true => self.started + self.lost_after,
            false => self.due,
        }
    }

    /// Returns the time from which on any request has to start the fetch, since the task that should have done so does
    /// not run.
    pub(crate) fn overdue(&self) -> Instant {
        self.due() + OVERDUE_AFTER
    }

    /// Returns when the next fetch is due, or `None` while one is under way.
    pub(crate) fn next(&self) -> Option<Instant> {
        (!self.in_flight).then_some(self.due)
    }

    /// Returns how many fetches were started.
    pub(crate) fn fetches(&self) -> u64 {
        self.fetches
    }

    /// Starts a fetch if one is due.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Fetch> {
        if self.due() > now {
            return None;
        }
        self.in_flight = true;
        self.asked = false;
        self.started = now;
        self.fetches += 1;
        Some(Fetch {
            number: self.fetches,
            freshness: self.freshness,
        })
    }

    /// Returns whether this fetch is the one under way, and not one that was considered lost.
    pub(crate) fn awaits(&self, fetch: Fetch) -> bool {
        self.in_flight && self.fetches == fetch.number
    }

    /// Records that the fetch brought keys, which the issuer says may be kept for `max_age`. `jitter` is a random
    /// number from 0 to 1.
    pub(crate) fn succeeded(&mut self, now: Instant, max_age: Option<Duration>, jitter: f64) {
        let timing = &self.timing;
        let interval = max_age
            .unwrap_or(timing.refresh_max)
            .clamp(timing.refresh_min, timing.refresh_max);
        self.answered(now + interval.mul_f64(1.0 - JITTER * jitter));
    }

    /// Records that the fetch brought a set without a usable key. The issuer is asked again soon: a server that is not
    /// ready gets no requests that would have it asked.
    pub(crate) fn emptied(&mut self, now: Instant, jitter: f64) {
        let pause = self.timing.backoff_max;
        self.answered(now + pause.mul_f64(1.0 - JITTER * jitter));
    }

    fn answered(&mut self, due: Instant) {
        self.in_flight = false;
        self.counted = false;
        self.freshness = Freshness::MayBeCached;
        self.failures = 0;
        self.has_succeeded = true;
        self.due = due;
    }

    /// Records that the fetch failed: the next comes after a pause that grows, half of it random.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64) {
        let timing = &self.timing;
        let pause = timing
            .backoff_min
            .saturating_mul(1 << self.failures.min(16))
            .min(timing.backoff_max);
        if std::mem::take(&mut self.counted) {
            self.limit.give_back();
        }
        self.in_flight = false;
        self.failures = self.failures.saturating_add(1);
        self.due = now + pause.mul_f64(0.5 + 0.5 * jitter);
    }

    /// Records that the fetch was dropped before it ended: the next is due at once.
    pub(crate) fn abandoned(&mut self, now: Instant) {
        if self.in_flight {
            self.in_flight = false;
            self.due = now;
        }
    }

    /// Records that the source has something new: the next fetch is due now.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// Answers a request whose token the keys at hand do not verify, and that waits for a fetch which starts within the
    /// jitter or before `latest`. Brings the next fetch forward if the limit permits.
    pub(crate) fn ask(&mut self, now: Instant, latest: Instant, jitter: f64) -> Ask {
        if self.in_flight && now < self.due() {
            return Ask::Join;
        }
        if self.due() <= now {
            self.bypass_caches();
            return Ask::Fetch(now);
        }
        if self.asked {
            let is_soon = self.due <= now + self.timing.on_demand_jitter || self.due < latest;
            return match is_soon {
                true => Ask::Join,
                false => Ask::NotBefore(self.due),
            };
        }
        let permitted = match self.failures {
            0 => self.limit.next(now),
            _ => self.due,
        };
        let permitted = permitted.min(self.due);
        if permitted > now && permitted >= latest {
            return Ask::NotBefore(permitted);
        }
        self.asked = true;
        self.bypass_caches();
        // A fetch that has to wait for its turn is spread already: its turn comes an interval after an earlier one's
        // random time.
        let at = match permitted > now {
            true => permitted,
            false => now + self.timing.on_demand_jitter.mul_f64(jitter),
        };
        if at < self.due {
            self.limit.take(at);
            self.counted = true;
            self.due = at;
        }
        Ask::Fetch(self.due)
    }

    /// The first fetch may be answered by a cache: there are no keys yet that a cache could repeat.
    fn bypass_caches(&mut self) {
        if self.has_succeeded {
            self.freshness = Freshness::Revalidate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LOST_AFTER: Duration = Duration::from_secs(60);

    fn schedule(now: Instant) -> Schedule {
        Schedule::new(Timing::default(), LOST_AFTER, now)
    }

    fn fetched(now: Instant) -> Schedule {
        let mut schedule = schedule(now);
        assert!(schedule.start(now).is_some());
        schedule.succeeded(now, None, 0.0);
        schedule
    }

    /// Has a request fetch, at once and with success.
    fn fetch_on_demand(schedule: &mut Schedule, now: Instant) {
        assert_eq!(schedule.ask(now, now, 0.0), Ask::Fetch(now));
        assert!(schedule.start(now).is_some());
        schedule.succeeded(now, None, 0.0);
    }

    #[test]
    fn the_first_fetch_is_due_at_once_and_made_once() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        assert_eq!(schedule.due(), now);
        assert!(schedule.start(now).is_some());
        assert!(schedule.start(now).is_none(), "one at a time");
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.ask(now, now, 0.0), Ask::Join);
    }

    #[test]
    fn refresh_follows_max_age_within_bounds() {
        let now = Instant::now();
        for (max_age, jitter, expected) in [
            (None, 0.0, 3600),
            (Some(600), 0.0, 600),
            (Some(600), 1.0, 480),
            (Some(1), 0.0, 60),
            (Some(1_000_000), 0.0, 3600),
        ] {
            let mut schedule = schedule(now);
            schedule.start(now);
            schedule.succeeded(now, max_age.map(Duration::from_secs), jitter);
            let due = schedule.due() - now;
            assert_eq!(due, expected * SECOND, "{max_age:?}");
        }
    }

    #[test]
    fn an_issuer_without_usable_keys_is_asked_again_within_seconds() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        schedule.start(now);
        schedule.emptied(now, 0.0);
        assert_eq!(schedule.due() - now, 10 * SECOND);
    }

    #[test]
    fn right_after_a_fetch_a_request_gets_another_one() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        assert_eq!(schedule.ask(now, now, 0.5), Ask::Fetch(now + SECOND));
        for _ in 0..1000 {
            assert_eq!(schedule.ask(now, now, 0.9), Ask::Join, "one for all");
        }
    }

    #[test]
    fn requests_get_a_burst_of_fetches_and_then_one_per_interval() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        for _ in 0..3 {
            fetch_on_demand(&mut schedule, now);
        }
        let next = now + 5 * SECOND;
        for _ in 0..1000 {
            let impatient = schedule.ask(now, now + 4 * SECOND, 0.0);
            assert_eq!(impatient, Ask::NotBefore(next));
        }
        let patient = next + SECOND;
        assert_eq!(schedule.ask(now, patient, 1.0), Ask::Fetch(next));
        assert_eq!(schedule.ask(now, patient, 1.0), Ask::Join);
        assert_eq!(schedule.ask(now, now, 1.0), Ask::NotBefore(next));
        assert!(schedule.start(next).is_some());
        schedule.succeeded(next, None, 0.0);
        assert_eq!(
            schedule.ask(next, next, 0.0),
            Ask::NotBefore(next + 5 * SECOND)
        );
    }

    #[test]
    fn a_fetch_on_demand_bypasses_caches_until_it_has_succeeded() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        assert_eq!(schedule.ask(now, now, 0.0), Ask::Fetch(now));
        let fetch = |schedule: &mut Schedule| schedule.start(schedule.due()).unwrap().freshness;
        assert_eq!(fetch(&mut schedule), Freshness::MayBeCached, "the first");
        schedule.succeeded(now, None, 0.0);
        assert_eq!(schedule.ask(now, now, 0.0), Ask::Fetch(now));
        assert_eq!(fetch(&mut schedule), Freshness::Revalidate);
        schedule.failed(now, 0.0);
        assert_eq!(fetch(&mut schedule), Freshness::Revalidate);
        schedule.succeeded(now, None, 0.0);
        assert_eq!(fetch(&mut schedule), Freshness::MayBeCached, "a refresh");
    }

    #[test]
    fn a_failed_fetch_gives_its_slot_back_after_the_backoff() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        fetch_on_demand(&mut schedule, now);
        fetch_on_demand(&mut schedule, now);
        assert_eq!(schedule.ask(now, now, 0.0), Ask::Fetch(now));
        assert!(schedule.start(now).is_some());
        schedule.failed(now, 0.0);
        let again = now + SECOND / 2;
        assert_eq!(schedule.ask(now, now, 0.0), Ask::NotBefore(again));
        assert_eq!(schedule.ask(now, again + SECOND, 0.0), Ask::Fetch(again));
        assert!(schedule.start(again).is_some());
        schedule.succeeded(again, None, 0.0);
        // The last of the burst is still there.
        assert_eq!(schedule.ask(again, again, 0.0), Ask::Fetch(again));
    }

    #[test]
    fn pauses_grow_up_to_their_bound() {
        let mut now = Instant::now();
        let mut schedule = schedule(now);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert!(schedule.start(now).is_some());
            schedule.failed(now, 1.0);
            let due = schedule.due();
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses[..6], [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses.last(), Some(&10));
    }

    #[test]
    fn an_abandoned_fetch_is_due_again() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        assert!(schedule.start(now).is_some());
        schedule.abandoned(now + SECOND);
        assert!(schedule.start(now + SECOND).is_some());
    }

    #[test]
    fn a_fetch_that_never_ends_is_given_up_and_its_result_ignored() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        let first = schedule.start(now).unwrap();
        let later = now + LOST_AFTER;
        assert_eq!(schedule.ask(later - SECOND, later, 0.0), Ask::Join);
        assert_eq!(schedule.ask(later, later, 0.0), Ask::Fetch(later));
        let second = schedule.start(later).unwrap();
        assert!(!schedule.awaits(first) && schedule.awaits(second));
    }
}
