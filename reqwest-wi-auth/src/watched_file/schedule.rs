//! When a watched file is read next, although no change was reported.

use std::time::{Duration, SystemTime};

use super::file_reader::Notifications;
use crate::backoff::Backoff;

/// The intervals between reads of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadSchedule {
    /// While the operating system reports changes.
    pub(super) poll_interval: Duration,
    /// While it does not.
    pub(super) fallback_poll_interval: Duration,
    /// After failed reads. It starts short, since the kubelet's swap leaves a file unreadable for a few milliseconds.
    pub(super) retry: Backoff,
}

impl Default for ReadSchedule {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(60),
            fallback_poll_interval: Duration::from_secs(5),
            retry: Backoff::new(Duration::from_millis(5), Duration::from_secs(5)),
        }
    }
}

impl ReadSchedule {
    /// Returns the time until the next read.
    ///
    /// `failures` is the number of failed reads since the last successful one; `requested` is when the current value
    /// requires a read, if it does.
    pub(super) fn until_next_read(
        &self,
        notifications: Notifications,
        failures: u32,
        requested: Option<SystemTime>,
        now: SystemTime,
    ) -> Duration {
        let poll = match notifications {
            Notifications::Active => self.poll_interval,
            Notifications::Unavailable => self.fallback_poll_interval,
        };
        let retry = (failures > 0).then(|| self.retry.delay(failures));
        let requested = requested.map(|time| time.duration_since(now).unwrap_or_default());
        // A clock that was set back, or a value that always requests a read, must not cause a busy loop.
        let requested = requested.map(|pause| pause.max(self.retry.min()));
        [Some(poll), retry, requested]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(poll)
    }
}

#[cfg(test)]
mod tests {
    use super::Notifications::{Active, Unavailable};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_file_is_polled_every_minute_and_more_often_without_notifications() {
        let schedule = ReadSchedule::default();
        assert_eq!(schedule.until_next_read(Active, 0, None, NOW), 60 * SECOND);
        assert_eq!(
            schedule.until_next_read(Unavailable, 0, None, NOW),
            5 * SECOND
        );
    }

    #[test]
    fn a_requested_read_comes_before_the_poll_and_never_after_it() {
        let schedule = ReadSchedule::default();
        let until = |requested, now| schedule.until_next_read(Active, 0, Some(requested), now);
        assert_eq!(until(NOW + 7 * SECOND, NOW), 7 * SECOND);
        assert_eq!(until(NOW + 700 * SECOND, NOW), 60 * SECOND);
        assert!(until(NOW, NOW + SECOND) > Duration::ZERO);
    }

    #[test]
    fn failed_reads_are_retried_with_increasing_delays() {
        let schedule = ReadSchedule::default();
        let until = |failures| schedule.until_next_read(Active, failures, None, NOW);
        let expected = [
            5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000, 5000, 5000, 5000,
        ];
        let delays = (1..16).map(|failures| until(failures).as_millis());
        assert!(delays.eq(expected));
        assert_eq!(until(u32::MAX), 5 * SECOND);
    }
}
