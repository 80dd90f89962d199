//! The difference between an issuer's clock and this machine's, as far as the issuer's responses show it.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;
use tokio::time::Instant;

/// The largest difference that is not worth a warning, whatever the leeway: a token may still be rejected if the issuer's
/// leeway was used up otherwise.
const MAX_UNREPORTED: Duration = Duration::from_secs(30);

/// The smallest difference that is worth a warning, whatever the leeway. `Date` has a resolution of one second, and a response
/// takes a while.
const MIN_REPORTED: Duration = Duration::from_secs(5);

/// The difference between an issuer's clock and this machine's.
///
/// It is computed from the `Date` header (RFC 9110, section 6.6.1) of the response that contained the issuer's keys, so it is
/// exact to about two seconds. If the keys are served by another machine than the one that issues the tokens, such as a
/// content delivery network, it is the difference to that machine's clock.
///
/// Its `Display` form completes a sentence such as "the issuer's clock is 121 s behind this machine's".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    seconds: i64,
}

impl ClockOffset {
    /// Returns by how many seconds the issuer's clock is ahead of this machine's. Negative if it is behind.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Returns whether an operator should know of the difference, for an issuer whose tokens are validated with this leeway.
    pub(super) fn is_large(self, leeway: Duration) -> bool {
        let unreported = leeway.clamp(MIN_REPORTED, MAX_UNREPORTED);
        self.seconds.unsigned_abs() > unreported.as_secs()
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.seconds, self.seconds.unsigned_abs()) {
            (_, 0 | 1) => f.write_str("within a second of this machine's"),
            (..0, seconds) => write!(f, "{seconds} s behind this machine's"),
            (_, seconds) => write!(f, "{seconds} s ahead of this machine's"),
        }
    }
}

/// The time by an issuer's clock when it sent a response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IssuerTime {
    /// The time since the Unix epoch.
    time: Duration,
    /// When the response was received.
    received: Instant,
}

impl IssuerTime {
    /// Reads the header `Date` of a response that has just been received and that caches have stored for this long. Returns
    /// `None` if the response has no such header, or one that is not a date.
    pub(super) fn read(headers: &HeaderMap, age: Duration) -> Option<Self> {
        let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
        let created = date
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .ok()?;
        Some(Self {
            time: created.saturating_add(age),
            received: Instant::now(),
        })
    }

    /// Returns the difference to a clock that shows `now`, the time since the Unix epoch.
    pub(super) fn offset(self, now: Duration) -> ClockOffset {
        let local = now.saturating_sub(self.received.elapsed());
        let seconds = if self.time >= local {
            rounded_seconds(self.time - local)
        } else {
            -rounded_seconds(local - self.time)
        };
        ClockOffset { seconds }
    }
}

fn rounded_seconds(difference: Duration) -> i64 {
    let rounded = difference.saturating_add(Duration::from_millis(500));
    i64::try_from(rounded.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn offset(date: &'static str, age: u64, now: u64) -> Option<ClockOffset> {
        let headers = HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))]);
        let time = IssuerTime::read(&headers, Duration::from_secs(age))?;
        Some(time.offset(Duration::from_secs(now) + Duration::from_millis(100)))
    }

    #[test]
    fn the_offset_is_that_of_the_date_header_and_the_age() {
        const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const SECONDS: u64 = 784_111_777;
        for (age, now, expected, text) in [
            (0, SECONDS, 0, "within a second of this machine's"),
            (0, SECONDS + 1, -1, "within a second of this machine's"),
            (0, SECONDS + 121, -121, "121 s behind this machine's"),
            (0, SECONDS - 40, 40, "40 s ahead of this machine's"),
            (3600, SECONDS + 3600, 0, "within a second of this machine's"),
        ] {
            let offset = offset(DATE, age, now).expect("a date");
            assert_eq!(offset.seconds(), expected);
            assert_eq!(offset.to_string(), text);
        }
    }

    #[test]
    fn a_header_that_is_not_a_date_is_ignored() {
        for date in [
            "",
            "now",
            "784111777",
            "Sun, 06 Nov 1994",
            "Thu, 01 Jan 1969 00:00:00 GMT",
        ] {
            assert_eq!(offset(date, 0, 0), None, "{date}");
        }
        assert!(IssuerTime::read(&HeaderMap::new(), Duration::ZERO).is_none());
        assert!(offset("Fri, 31 Dec 9999 23:59:59 GMT", u64::MAX, 0).is_some());
    }

    #[test]
    fn a_difference_is_large_above_the_leeway_within_bounds() {
        let is_large =
            |seconds, leeway| ClockOffset { seconds }.is_large(Duration::from_secs(leeway));
        for sign in [1, -1] {
            assert!(!is_large(5 * sign, 0) && is_large(6 * sign, 0));
            assert!(!is_large(20 * sign, 20) && is_large(21 * sign, 20));
            assert!(!is_large(30 * sign, 60) && is_large(31 * sign, 60));
        }
    }
}
