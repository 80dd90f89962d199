//! When to read again, though nothing was reported.

use std::time::{Duration, SystemTime};

/// The pauses between reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// While the system reports changes.
    pub(super) poll: Duration,
    /// While it does not.
    pub(super) poll_unwatched: Duration,
    /// After the first failed read: the kubelet's swap leaves a file unreadable for some milliseconds.
    retry_min: Duration,
    /// The longest pause after failed reads.
    retry_max: Duration,
    /// How long a read may take.
    pub(super) read_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(60),
            poll_unwatched: Duration::from_secs(5),
            retry_min: Duration::from_millis(5),
            retry_max: Duration::from_secs(5),
            read_limit: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// The pause after that many failed reads before this one.
    pub(super) fn after_failure(&self, failures_before: u32) -> Duration {
        self.retry_min
            .saturating_mul(1 << failures_before.min(16))
            .min(self.retry_max)
    }

    /// The pause before the next read. `renewal` is when the value itself wants one.
    pub(super) fn pause(
        &self,
        watching: bool,
        failures: u32,
        renewal: Option<SystemTime>,
        now: SystemTime,
    ) -> Duration {
        let poll = if watching {
            self.poll
        } else {
            self.poll_unwatched
        };
        let retry = failures
            .checked_sub(1)
            .map(|before| self.after_failure(before));
        let renewal = renewal.map(|time| time.duration_since(now).unwrap_or_default());
        // A clock that is set back or a value that always wants to be read must not keep the reader busy.
        let renewal = renewal.map(|pause| pause.max(self.retry_min));
        [Some(poll), retry, renewal]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_timer_runs_every_minute_and_faster_without_a_watch() {
        let timing = Timing::default();
        assert_eq!(timing.pause(true, 0, None, NOW), 60 * SECOND);
        assert_eq!(timing.pause(false, 0, None, NOW), 5 * SECOND);
    }

    #[test]
    fn a_renewal_comes_before_the_timer_and_never_later_than_it() {
        let timing = Timing::default();
        assert_eq!(
            timing.pause(true, 0, Some(NOW + 7 * SECOND), NOW),
            7 * SECOND
        );
        assert_eq!(
            timing.pause(true, 0, Some(NOW + 700 * SECOND), NOW),
            60 * SECOND
        );
        assert!(timing.pause(true, 0, Some(NOW), NOW + SECOND) > Duration::ZERO);
    }

    #[test]
    fn a_failed_read_is_tried_again_soon_then_ever_later() {
        let timing = Timing::default();
        let pauses = (1..16).map(|failures| timing.pause(true, failures, None, NOW).as_millis());
        let expected = [
            5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000, 5000, 5000, 5000,
        ];
        assert!(pauses.eq(expected));
        assert_eq!(timing.pause(true, u32::MAX, None, NOW), 5 * SECOND);
    }
}
