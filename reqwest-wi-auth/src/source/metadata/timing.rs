//! When the metadata server is asked.

use std::time::{Duration, SystemTime};

/// The pauses between requests, and how long is waited for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// How long the first token is waited for.
    pub(super) startup_limit: Duration,
    /// How long a request waits for a token.
    pub(super) request_limit: Duration,
    /// Where nothing answered for so long, waiting is over.
    pub(super) unreachable_limit: Duration,
    /// Requests that reject tokens have the server asked no more often.
    pub(super) min_interval: Duration,
    retry_min: Duration,
    retry_max: Duration,
    /// The pause for a token that does not say when it expires.
    without_expiry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            startup_limit: Duration::from_secs(30),
            request_limit: Duration::from_secs(10),
            unreachable_limit: Duration::from_secs(3),
            min_interval: Duration::from_secs(1),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            without_expiry: Duration::from_secs(300),
        }
    }
}

impl Timing {
    /// The pause after that many failures in a row. `dice` is from 0 to 1.
    pub(super) fn after_failures(&self, failures: u32, dice: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let pause = self
            .retry_min
            .saturating_mul(1 << doublings)
            .min(self.retry_max);
        pause.mul_f64(0.5 + 0.5 * dice)
    }

    /// The pause before the next token: 75 to 85 % of what is left of this one.
    pub(super) fn until_renewal(
        &self,
        expires_at: Option<SystemTime>,
        now: SystemTime,
        dice: f64,
    ) -> Duration {
        let Some(expiry) = expires_at else {
            return self.without_expiry;
        };
        let left = expiry.duration_since(now).unwrap_or_default();
        left.mul_f64(0.75 + 0.1 * dice).max(self.min_interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_next_token_is_fetched_by_what_is_left_of_this_one_s_life() {
        let timing = Timing::default();
        for (left, dice, expected) in [(3600, 0.0, 2700), (3600, 1.0, 3060), (100, 0.0, 75)] {
            let expiry = NOW + Duration::from_secs(left);
            let pause = timing.until_renewal(Some(expiry), NOW, dice);
            assert_eq!(pause.as_secs(), expected);
        }
        let expired = timing.until_renewal(Some(NOW), NOW + Duration::from_secs(5), 0.0);
        assert_eq!(
            expired,
            Duration::from_secs(1),
            "never at once again and again"
        );
    }

    #[test]
    fn failures_are_followed_by_growing_pauses_with_jitter() {
        let timing = Timing::default();
        let longest = |failures| timing.after_failures(failures, 1.0).as_millis();
        assert_eq!(
            [1, 2, 3, 6, 7, 40].map(longest),
            [100, 200, 400, 3200, 5000, 5000]
        );
        assert_eq!(timing.after_failures(1, 0.0).as_millis(), 50);
    }
}
