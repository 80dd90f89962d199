//! When to fetch keys: a state machine without I/O, told the time by its caller.

use std::time::Duration;

use tokio::time::Instant;

/// How often keys are asked for, and how long they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A refresh comes no sooner after the last, whatever `max-age` says.
    pub(crate) refresh_min: Duration,
    /// A refresh comes no later after the last: a key the issuer withdraws is out of use by then.
    pub(crate) refresh_max: Duration,
    /// Fetches for a `kid` that is not known lie at least so far apart.
    pub(crate) unknown_kid_interval: Duration,
    /// The first pause after a failed fetch; doubled at each further one.
    pub(crate) backoff_min: Duration,
    /// The longest pause after a failed fetch.
    pub(crate) backoff_max: Duration,
    /// Keys that could not be refreshed for so long are not used any more.
    pub(crate) stale_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            refresh_min: Duration::from_secs(60),
            refresh_max: Duration::from_secs(3600),
            unknown_kid_interval: Duration::from_secs(5),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            stale_after: Duration::from_secs(24 * 3600),
        }
    }
}

/// Refreshes are spread over this last part of their interval, so that replicas that started together
/// do not ask together.
const JITTER: f64 = 0.2;

/// What a request without its key is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A fetch is under way or due: wait for what it brings.
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
            failures: 0,
            last_success: None,
            started: now,
        }
    }

    /// When the driver has to start a fetch; nothing while one is under way.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.in_flight).then_some(self.due)
    }

    /// Starts a fetch if one is due.
    pub(crate) fn start(&mut self, now: Instant) -> bool {
        let starts = !self.in_flight && self.due <= now;
        if starts {
            self.in_flight = true;
            self.started = now;
        }
        starts
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

    /// A request found no key for its token. Brings the next fetch forward where the limit allows.
    pub(crate) fn ask(&mut self, now: Instant) -> Ask {
        if self.in_flight || self.due <= now {
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
                self.due = now;
                Ask::Join
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
        assert_eq!(schedule.due(), Some(now));
        assert!(schedule.start(now));
        assert!(!schedule.start(now), "one at a time");
        assert_eq!(schedule.due(), None);
        assert_eq!(schedule.ask(now), Ask::Join);
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
            let due = schedule.due().map(|due| due - now);
            assert_eq!(due, Some(expected * SECOND), "{max_age:?}");
        }
    }

    #[test]
    fn an_unknown_kid_fetches_once_in_its_interval() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        for _ in 0..1000 {
            assert_eq!(schedule.ask(now + SECOND), Ask::NotBefore(now + 5 * SECOND));
        }
        let later = now + 5 * SECOND;
        for _ in 0..1000 {
            assert_eq!(schedule.ask(later), Ask::Join);
        }
        assert!(schedule.start(later));
        schedule.succeeded(later, None, 0.0);
        assert_eq!(schedule.ask(later), Ask::NotBefore(later + 5 * SECOND));
    }

    #[test]
    fn a_failed_fetch_gives_its_slot_back_after_the_backoff() {
        let now = Instant::now();
        let mut schedule = fetched(now);
        let later = now + 5 * SECOND;
        assert_eq!(schedule.ask(later), Ask::Join);
        assert!(schedule.start(later));
        schedule.failed(later, 0.0);
        let again = later + SECOND / 2;
        assert_eq!(schedule.ask(later), Ask::NotBefore(again));
        assert_eq!(schedule.ask(again), Ask::Join);
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
            let due = schedule.due().expect("not in flight");
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.last(), Some(&60));
    }

    #[test]
    fn an_abandoned_fetch_is_due_again() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Timing::default(), now);
        assert!(schedule.start(now));
        schedule.abandoned(now + SECOND);
        assert!(schedule.start(now + SECOND));
    }
}
