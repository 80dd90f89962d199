//! The pace at which requests are sent.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much a pace that was delayed catches up. Timers are often late by some milliseconds; a machine that is busy gets fewer requests,
/// so that it is not kept busy by requests that were missed.
const CATCH_UP: Duration = Duration::from_millis(20);

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
    async fn a_pace_catches_up_only_a_little() {
        let mut pace = Pace::new(200.0);
        let began = Instant::now();
        for _ in 0..400 {
            pace.next().await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(60)).await;
        let resumed = Instant::now();
        for _ in 0..25 {
            pace.next().await;
        }
        // Five points at once, the last of which is due now, and then one every 5 ms.
        assert_eq!(resumed.elapsed(), Duration::from_millis(100));
    }
}
