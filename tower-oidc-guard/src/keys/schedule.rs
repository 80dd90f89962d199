//! When to fetch keys: a state machine without I/O, told the time by its caller.

#[cfg(test)]
mod replicas;
mod timing;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::timing::Timing;

/// Refreshes are spread over this last part of their interval, so that replicas that started together
/// do not ask together.
const JITTER: f64 = 0.2;

/// A fetch that takes so long is given up for lost: the runtime that it runs on does not run any more.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// A fetch that is due for so long has nobody who starts it.
const OVERDUE_AFTER: Duration = Duration::from_secs(1);

/// What a request without its key is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// See to it that a fetch is started at that time, and wait for what it brings.
    Fetch(Instant),
    /// A fetch is under way or about to be: wait for what it brings.
    Join,
    /// None will be made before that time.
    NotBefore(Instant),
}

/// The state of one issuer's key fetches.
#[derive(Debug)]
pub(crate) struct Schedule {
    timing: Timing,
    /// When the next fetch is due.
    due: Instant,
    in_flight: bool,
    /// Whether a request has brought the next fetch forward.
    asked: bool,
    failures: u32,
    /// When the last fetch that succeeded was started.
    last_success: Option<Instant>,
    started: Instant,
}

impl Schedule {
    /// The first fetch is due at once.
    pub(crate) fn new(timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            due: now,
            in_flight: false,
            asked: false,
            failures: 0,
            last_success: None,
            started: now,
        }
    }

    /// When the next fetch has to be started.
    pub(crate) fn due(&self) -> Instant {
        match self.in_flight {
            true => self.started + LOST_AFTER,
            false => self.due,
        }
    }

    /// From when on a request that needs nothing has to start the fetch, since nobody else does.
    pub(crate) fn overdue(&self) -> Instant {
        self.due() + OVERDUE_AFTER
    }

    /// When the next fetch is due; nothing while one is under way.
    pub(crate) fn next(&self) -> Option<Instant> {
        (!self.in_flight).then_some(self.due)
    }

    /// Starts a fetch if one is due.
    pub(crate) fn start(&mut self, now: Instant) -> bool {
        let starts = self.due() <= now;
        if starts {
            self.in_flight = true;
            self.asked = false;
            self.started = now;
        }
        starts
    }

    /// Whether the fetch that was started then is the one under way, and not one that was given up.
    pub(crate) fn awaits(&self, started: Instant) -> bool {
        self.in_flight && self.started == started
    }

    /// The fetch brought keys, which the issuer says may be kept for `max_age`. `dice` is a number
    /// from 0 to 1, drawn anew each time.
    pub(crate) fn succeeded(&mut self, now: Instant, max_age: Option<Duration>, dice: f64) {
        let timing = &self.timing;
        let interval = max_age
            .unwrap_or(timing.refresh_max)
            .clamp(timing.refresh_min, timing.refresh_max);
        self.in_flight = false;
        self.failures = 0;
        self.last_success = Some(self.started);
        self.due = now + interval.mul_f64(1.0 - JITTER * dice);
    }

    /// The fetch failed: the next comes after a pause that grows, half of it by chance.
    pub(crate) fn failed(&mut self, now: Instant, dice: f64) {
        let timing = &self.timing;
        let pause = timing
            .backoff_min
            .saturating_mul(1 << self.failures.min(16))
            .min(timing.backoff_max);
        self.in_flight = false;
        self.failures += 1;
        self.due = now + pause.mul_f64(0.5 + 0.5 * dice);
    }

    /// The fetch was dropped before it ended: its slot is free again.
    pub(crate) fn abandoned(&mut self, now: Instant) {
        if self.in_flight {
            self.in_flight = false;
            self.due = now;
        }
    }

    /// The source says that there is something new: the next fetch is due now.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// A request found no key for its token. Brings the next fetch forward where the limit allows.
    pub(crate) fn ask(&mut self, now: Instant, dice: f64) -> Ask {
        if self.in_flight && now < self.due() {
            return Ask::Join;
        }
        if self.due() <= now {
            return Ask::Fetch(now);
        }
        if self.asked {
            return Ask::Join;
        }
        if self.failures > 0 {
            return Ask::NotBefore(self.due);
        }
        match self
            .last_success
            .map(|last| last + self.timing.unknown_kid_interval)
        {
            Some(free) if free > now => Ask::NotBefore(free),
            _ => {
                self.asked = true;
                self.due = self
                    .due
                    .min(now + self.timing.unknown_kid_jitter.mul_f64(dice));
                Ask::Fetch(self.due)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fetched(now: Instant) -> Schedule {
        let mut schedule = Schedule::new(Timing::default(), now);
        assert!(schedule.start(now));
        schedule.succeeded(now, None, 0.0);
        schedule
    }

    #[test]
    fn the_first_fetch_is_due_at_once_and_made_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Timing::default(), now);
        assert_eq!(schedule.due(), now);
        assert!(schedule.start(now));
        assert!(!schedule.start(now), "one at a time");
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.ask(now, 0.0), Ask::Join);
    }

    #[test]
    fn refresh_follows_max_age_within_bounds() {
        let now = Instant::now();
        for (max_age, dice, expected) in [
            (None, 0.0, 3600),
            (Some(600), 0.0, 600),
            (Some(600), 1.0, 480),
            (Some(1), 0.0, 60),
            (Some(1_000_000), 0.0, 3600),
        ] {
            let mut schedule = Schedule::new(Timing::default(), now);
            schedule.start(now);
            schedule.succeeded(now, max_age.map(Duration::from_secs), dice);
            let due = schedule.due() - now;
            assert_eq!(due, expected * SECOND, "{max_age:?}");
        }
    }

    #[test]
    fn an_unknown_kid_fetches_once_in_its_interval() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        for _ in 0..1000 {
            assert_eq!(
                schedule.ask(now + SECOND, 0.0),
                Ask::NotBefore(now + 5 * SECOND)
            );
        }
        let later = now + 5 * SECOND;
        assert_eq!(schedule.ask(later, 0.5), Ask::Fetch(later + SECOND));
        for _ in 0..1000 {
            assert_eq!(schedule.ask(later, 0.9), Ask::Join);
        }
        let later = later + SECOND;
        assert!(schedule.start(later));
        schedule.succeeded(later, None, 0.0);
        assert_eq!(schedule.ask(later, 0.0), Ask::NotBefore(later + 5 * SECOND));
    }

    #[test]
    fn a_failed_fetch_gives_its_slot_back_after_the_backoff() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        let later = now + 5 * SECOND;
        assert_eq!(schedule.ask(later, 0.0), Ask::Fetch(later));
        assert!(schedule.start(later));
        schedule.failed(later, 0.0);
        let again = later + SECOND / 2;
        assert_eq!(schedule.ask(later, 0.0), Ask::NotBefore(again));
        assert_eq!(schedule.ask(again, 0.0), Ask::Fetch(again));
        assert!(schedule.start(again));
    }

    #[test]
    fn pauses_grow_up_to_their_bound() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(Timing::default(), now);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert!(schedule.start(now));
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
        let mut schedule = Schedule::new(Timing::default(), now);
        assert!(schedule.start(now));
        schedule.abandoned(now + SECOND);
        assert!(schedule.start(now + SECOND));
    }

    #[test]
    fn a_fetch_that_never_ends_is_given_up_and_its_result_ignored() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Timing::default(), now);
        assert!(schedule.start(now));
        let later = now + LOST_AFTER;
        assert_eq!(schedule.ask(later - SECOND, 0.0), Ask::Join);
        assert_eq!(schedule.ask(later, 0.0), Ask::Fetch(later));
        assert!(schedule.start(later));
        assert!(!schedule.awaits(now) && schedule.awaits(later));
    }
}
