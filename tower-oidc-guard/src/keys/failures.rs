//! Decides which failed fetches are warnings.
//!
//! A fetch is repeated every few seconds while an issuer is not available, and a warning for each attempt would hide all others.

use std::time::Duration;

use tokio::time::Instant;

/// The time after the last warning from which a failure that lasts is a warning again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);

/// How many different errors are warnings until the next reminder, for an error whose text differs in each attempt.
const MAX_TEXTS: usize = 8;

/// The failures since the last successful fetch.
#[derive(Default)]
pub(crate) struct Failures(Option<Streak>);

struct Streak {
    /// When the first of the fetches failed.
    since: Instant,
    attempts: u64,
    /// When the last warning was logged.
    warned: Instant,
    /// The errors that need no warning until the next reminder.
    texts: Vec<String>,
}

/// The fetches that have failed in succession.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailureCount {
    pub(crate) attempts: u64,
    /// The time since the first of them failed.
    pub(crate) lasting: Duration,
}

impl Failures {
    /// Records a failed fetch. Returns how many have failed in succession, and whether this one is a warning: its error
    /// differs from those logged before, or they were logged a while ago.
    pub(crate) fn record(&mut self, error: &str, now: Instant) -> (FailureCount, bool) {
        let streak = self.0.get_or_insert_with(|| Streak {
            since: now,
            attempts: 0,
            warned: now,
            texts: Vec::new(),
        });
        streak.attempts += 1;
        if now.saturating_duration_since(streak.warned) >= REMINDER_INTERVAL {
            streak.texts.clear();
        }
        let is_warning =
            streak.texts.len() < MAX_TEXTS && !streak.texts.iter().any(|text| text == error);
        if is_warning {
            streak.warned = now;
            streak.texts.push(error.to_owned());
        }
        (streak.count(now), is_warning)
    }

    /// Returns how many fetches have failed in succession, if any.
    pub(crate) fn count(&self, now: Instant) -> Option<FailureCount> {
        self.0.as_ref().map(|streak| streak.count(now))
    }

    /// Records a successful fetch. Returns how many have failed before it in succession, if any.
    pub(crate) fn end(&mut self, now: Instant) -> Option<FailureCount> {
        self.0.take().map(|streak| streak.count(now))
    }
}

impl Streak {
    fn count(&self, now: Instant) -> FailureCount {
        FailureCount {
            attempts: self.attempts,
            lasting: now.saturating_duration_since(self.since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records a failure every 10 s for an hour, and returns the times of the warnings in seconds.
    fn warnings(error: impl Fn(u64) -> String) -> Vec<u64> {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let seconds = (0..3600).step_by(10);
        let is_warning = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            failures.record(&error(*second), now).1
        };
        seconds.filter(is_warning).collect()
    }

    #[test]
    fn an_error_is_a_warning_once_and_then_every_five_minutes() {
        let expected: Vec<_> = (0..3600).step_by(300).collect();
        assert_eq!(warnings(|_| "refused".to_owned()), expected);
    }

    #[test]
    fn each_other_error_is_a_warning_at_once_up_to_a_limit() {
        let changed = warnings(|second| if second < 100 { "refused" } else { "reset" }.to_owned());
        assert_eq!(changed[..3], [0, 100, 400]);
        let alternating = warnings(|second| (second / 10 % 2).to_string());
        assert_eq!(alternating[..4], [0, 10, 310, 320]);
        let different = warnings(|second| second.to_string());
        assert_eq!(different[MAX_TEXTS - 1..=MAX_TEXTS], [70, 370]);
    }

    #[test]
    fn a_success_ends_the_failures() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        assert_eq!(failures.end(start), None);
        for second in [0, 1, 2] {
            failures.record("refused", start + Duration::from_secs(second));
        }
        let count = FailureCount {
            attempts: 3,
            lasting: Duration::from_secs(5),
        };
        let now = start + Duration::from_secs(5);
        assert_eq!(failures.count(now), Some(count));
        assert_eq!(failures.end(now), Some(count));
        assert_eq!(failures.count(now), None);
        assert!(failures.record("refused", now).1);
    }
}
