//! The pace at which requests are sent.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much a pace that was delayed catches up, so that a machine that was busy does not get many requests at once.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Points in time at a fixed rate.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    due: Instant,
}

impl Pace {
    /// Creates a pace of `rate` points per second, which begins now.
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            interval: Duration::from_secs_f64(1.0 / rate),
            due: Instant::now(),
        }
    }

    /// Waits for the next point in time.
    pub(crate) async fn next(&mut self) {
        let earliest = Instant::now().checked_sub(CATCH_UP);
        let next = self.due + self.interval;
        self.due = earliest.map_or(next, |earliest| next.max(earliest));
        sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_catches_up_at_most_one_second() {
        let mut pace = Pace::new(10.0);
        let began = Instant::now();
        for _ in 0..20 {
            pace.next().await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(60)).await;
        let resumed = Instant::now();
        for _ in 0..30 {
            pace.next().await;
        }
        // Eleven points at once, the last of which is due now, and then one every tenth of a second.
        assert_eq!(resumed.elapsed(), Duration::from_millis(1900));
    }
}
