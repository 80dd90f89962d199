//! Delays between retries.

use std::time::Duration;

/// An exponential backoff: the delay doubles with each consecutive failure, from `min` up to `max`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max }
    }

    /// Returns the shortest delay.
    pub(crate) fn min(&self) -> Duration {
        self.min
    }

    /// Returns the delay before the next attempt, after this number of consecutive failures.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }

    /// Returns [`delay`](Self::delay), shortened by up to half: `jitter` is from 0 (half the delay) to 1 (the whole delay).
    ///
    /// A random jitter keeps many processes that failed at the same time from retrying at the same time.
    pub(crate) fn delay_with_jitter(&self, failures: u32, jitter: f64) -> Duration {
        self.delay(failures).mul_f64(0.5 + 0.5 * jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let delay = |failures| BACKOFF.delay(failures).as_millis();
        assert_eq!(
            [1, 2, 3, 6, 7, 40, u32::MAX].map(delay),
            [100, 200, 400, 3200, 5000, 5000, 5000]
        );
    }

    #[test]
    fn jitter_shortens_the_delay_by_up_to_half() {
        let delay = |jitter| BACKOFF.delay_with_jitter(1, jitter).as_millis();
        assert_eq!([0.0, 0.5, 1.0].map(delay), [50, 75, 100]);
    }
}
