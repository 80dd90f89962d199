//! Limits the fetches that requests cause.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket: a burst of fetches, and one more per interval.
///
/// The state is the time at which the bucket is full again (the "theoretical arrival time" of the generic cell rate
/// algorithm), so nothing has to run for it to refill.
#[derive(Debug)]
pub(super) struct FetchLimit {
    burst: u32,
    interval: Duration,
    full_at: Instant,
}

impl FetchLimit {
    /// Creates a limit that is not used up at all.
    pub(super) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            full_at: now,
        }
    }

    /// Returns the earliest time, from `now` on, at which a fetch is permitted.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let used = self.full_at.saturating_duration_since(now);
        let spare = self.interval * self.burst.saturating_sub(1);
        now + used.saturating_sub(spare)
    }

    /// Counts a fetch at that time.
    pub(super) fn take(&mut self, at: Instant) {
        self.full_at = self.full_at.max(at) + self.interval;
    }

    /// Undoes a [`take`](Self::take).
    pub(super) fn give_back(&mut self) {
        self.full_at -= self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_permitted_at_once_and_then_one_fetch_per_interval() {
        let start = Instant::now();
        let mut limit = FetchLimit::new(3, 5 * SECOND, start);
        let mut now = start;
        let mut permitted = Vec::new();
        for _ in 0..6 {
            now = limit.next(now);
            limit.take(now);
            permitted.push((now - start).as_secs());
        }
        assert_eq!(permitted, [0, 0, 0, 5, 10, 15]);
    }

    #[test]
    fn an_unused_limit_saves_no_more_than_its_burst() {
        let start = Instant::now();
        let mut limit = FetchLimit::new(2, 5 * SECOND, start);
        let later = start + 1000 * SECOND;
        for _ in 0..2 {
            assert_eq!(limit.next(later), later);
            limit.take(later);
        }
        assert_eq!(limit.next(later), later + 5 * SECOND);
    }

    #[test]
    fn a_fetch_that_is_given_back_was_never_counted() {
        let start = Instant::now();
        let mut limit = FetchLimit::new(1, 5 * SECOND, start);
        limit.take(start);
        assert_eq!(limit.next(start), start + 5 * SECOND);
        limit.give_back();
        assert_eq!(limit.next(start), start);
    }
}
