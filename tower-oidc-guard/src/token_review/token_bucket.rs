//! Limits the rate of reviews.

use std::time::Duration;

use tokio::time::Instant;

/// Permits a number of reviews per second. What is not used in one second may be made up for in the next.
pub(super) struct TokenBucket {
    per_second: f64,
    permits: f64,
    /// When `permits` was computed.
    updated: Instant,
}

impl TokenBucket {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            permits: per_second,
            updated: now,
        }
    }

    /// Takes a permit. Returns whether there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let has_permit = self.permits >= 1.0;
        if has_permit {
            self.permits -= 1.0;
        }
        has_permit
    }

    /// Returns when there is a permit.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let missing = (1.0 - self.permits).max(0.0) / self.per_second;
        // Timers have a resolution of 1 ms, and a timer that fires early would find no permit.
        now + Duration::from_secs_f64(missing) + Duration::from_millis(1)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.permits = (self.permits + elapsed * self.per_second).min(self.per_second);
        self.updated = self.updated.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_limited_per_second_and_never_exceed_those_of_one_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 10);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(300)), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn there_is_a_permit_at_the_returned_time() {
        let mut now = Instant::now();
        let mut bucket = TokenBucket::new(3, now);
        for _ in 0..1000 {
            now = bucket.next(now);
            assert!(bucket.take(now));
        }
    }
}
