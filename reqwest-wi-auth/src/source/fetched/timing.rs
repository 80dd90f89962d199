//! When tokens are fetched, and how long callers wait for one.

use std::time::{Duration, SystemTime};

use crate::backoff::Backoff;

/// The intervals between requests for a token, and how long callers wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// How long `open` waits for the first token.
    pub(crate) startup_limit: Duration,
    /// How long a request waits for a token.
    pub(crate) request_limit: Duration,
    /// How long both wait if no connection to the server can be established.
    pub(crate) unreachable_limit: Duration,
    /// The shortest interval between requests to the server, except for retries.
    pub(crate) min_interval: Duration,
    /// After failed requests.
    pub(crate) retry: Backoff,
    /// The longest interval after a failed request if a caller needs a token, unless the server has asked for a longer one.
    pub(crate) retry_for_callers: Duration,
    /// The interval between requests if a token has no expiry.
    pub(crate) without_expiry: Duration,
    /// The earliest and the latest part of the remaining lifetime of a token after which the next one is fetched.
    pub(crate) renewal: (f64, f64),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            startup_limit: Duration::from_secs(30),
            request_limit: Duration::from_secs(10),
            unreachable_limit: Duration::from_secs(3),
            min_interval: Duration::from_secs(1),
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            retry_for_callers: Duration::from_secs(5),
            without_expiry: Duration::from_secs(300),
            renewal: (0.75, 0.85),
        }
    }
}

#[cfg(feature = "federation")]
impl Timing {
    /// Returns the timing for services that many clients use: the pauses after failed requests grow to 60 s.
    pub(crate) fn for_shared_service() -> Self {
        Self::with_longest_retry(Duration::from_secs(60))
    }

    /// Returns the default timing with another longest pause after failed requests.
    pub(crate) fn with_longest_retry(longest: Duration) -> Self {
        let default = Self::default();
        Self {
            retry: Backoff::new(default.retry.min(), longest),
            ..default
        }
    }
}

impl Timing {
    /// Returns when to fetch the next token, from now on. `jitter` is from 0, the earliest time, to 1.
    pub(super) fn until_renewal(
        &self,
        expires_at: Option<SystemTime>,
        now: SystemTime,
        jitter: f64,
    ) -> Duration {
        let Some(expiry) = expires_at else {
            return self.without_expiry;
        };
        let (earliest, latest) = self.renewal;
        let remaining = expiry.duration_since(now).unwrap_or_default();
        remaining
            .mul_f64(earliest + (latest - earliest) * jitter)
            .max(self.min_interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_next_token_is_fetched_after_75_to_85_percent_of_the_remaining_lifetime() {
        let timing = Timing::default();
        for (remaining, jitter, expected) in [(3600, 0.0, 2700), (3600, 1.0, 3060), (100, 0.0, 75)]
        {
            let expiry = NOW + Duration::from_secs(remaining);
            let pause = timing.until_renewal(Some(expiry), NOW, jitter);
            assert_eq!(pause.as_secs(), expected);
        }
        let expired = timing.until_renewal(Some(NOW), NOW + Duration::from_secs(5), 0.0);
        assert_eq!(expired, Duration::from_secs(1), "not in a busy loop");
    }

    #[test]
    fn failed_requests_are_retried_with_increasing_delays_and_jitter() {
        let retry = Timing::default().retry;
        let longest = |failures| retry.delay_with_jitter(failures, 1.0).as_millis();
        assert_eq!(
            [1, 2, 3, 6, 7, 40].map(longest),
            [100, 200, 400, 3200, 5000, 5000]
        );
        assert_eq!(retry.delay_with_jitter(1, 0.0).as_millis(), 50);
    }
}
