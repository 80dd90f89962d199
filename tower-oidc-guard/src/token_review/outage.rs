//! Whether reviews fail, and when the next one is made.

use std::time::Duration;

use tokio::time::Instant;

use crate::keys::jitter;

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The reviews that have failed in succession.
///
/// While they fail, one review at a time is made, at growing intervals, and no request waits for one: the load on the API
/// server does not depend on the number of requests.
#[derive(Default)]
pub(super) struct Outage(Option<Failing>);

struct Failing {
    failed: u32,
    retry_at: Instant,
}

impl Outage {
    /// Records that a review failed. `wait` is the time to wait that the API server asks for.
    pub(super) fn failed(&mut self, now: Instant, wait: Option<Duration>) {
        let failed = self.0.as_ref().map_or(0, |failing| failing.failed);
        let backoff = MIN_BACKOFF
            .saturating_mul(1 << failed.min(5))
            .min(MAX_BACKOFF);
        let backoff = backoff.mul_f64(0.75 + 0.25 * jitter());
        self.0 = Some(Failing {
            failed: failed.saturating_add(1),
            retry_at: now + backoff.max(wait.unwrap_or_default()),
        });
    }

    /// Records that a review was made.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Returns when the next review may be made, or `None` if reviews do not fail.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.0.as_ref().map(|failing| failing.retry_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_grows_to_its_maximum_and_is_at_least_what_the_server_asks_for() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert_eq!(outage.retry_at(), None);
        for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
            outage.failed(now, None);
            let wait = outage.retry_at().unwrap() - now;
            let longest = Duration::from_secs(seconds);
            assert!(wait <= longest && wait >= longest.mul_f64(0.75), "{wait:?}");
        }
        outage.failed(now, Some(Duration::from_secs(50)));
        assert_eq!(outage.retry_at(), Some(now + Duration::from_secs(50)));
        outage.end();
        assert_eq!(outage.retry_at(), None);
    }
}
