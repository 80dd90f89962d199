//! Times in the format of RFC 3339.

use std::time::{Duration, SystemTime};

/// Parses a time in the format of RFC 3339. Fractions of a second are ignored.
pub(crate) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = parse_numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = parse_numbers(time, ':', [2, 2, 2])?;
    let is_valid_date = (1..=12).contains(&month) && day >= 1 && day <= days_in(year, month);
    if !is_valid_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if rest.len() == fraction.len() {
                return None;
            }
            rest
        }
        None => rest,
    };
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let [hours, minutes] = parse_numbers(rest.get(1..)?, ':', [2, 2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 3600 + minutes * 60)
        }
    };
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let seconds = u64::try_from(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Parses numbers with a fixed number of digits, and a separator between them.
fn parse_numbers<const N: usize>(
    text: &str,
    separator: char,
    widths: [usize; N],
) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next()?;
        let is_number = part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = is_number.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the number of days from 1970-01-01 in the proleptic Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400;
    let days_of_months: i64 = (1..month).map(|month| days_in(year, month)).sum();
    // 719,162 days precede 1970-01-01.
    before * 365 + leap_days + days_of_months + day - 1 - 719_162
}

/// Formats a time in the format of RFC 3339, in UTC and in whole seconds. A time before 1970 is formatted as the first second of it.
#[cfg(all(feature = "testing", feature = "federation"))]
pub(crate) fn format_timestamp(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since_epoch.unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let days = i64::try_from(days).unwrap_or(i64::MAX / 2);
    let mut year = 1970;
    while days_since_epoch(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_since_epoch(year, month + 1, 1) <= days {
        month += 1;
    }
    let day = days - days_since_epoch(year, month, 1) + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let time = parse_timestamp(text)?;
        Some(
            time.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
    }

    #[test]
    fn timestamps_of_rfc_3339_are_parsed() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2026-11-23T19:44:51Z", 1_795_463_091),
            ("2026-11-23T19:44:51.123456789Z", 1_795_463_091),
            ("2026-11-23T21:14:51+01:30", 1_795_463_091),
            ("2026-11-23t11:44:51-08:00", 1_795_463_091),
            ("2026-12-31T23:59:59z", 1_798_761_599),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T19:44:51",
            "2026-11-23T19:44:51.Z",
            "2026-11-23T19:44Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T19:44:51+0100",
            "+026-11-23T19:44:51Z",
            "1795463091",
            "ä026-11-23T19:44:51Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[cfg(all(feature = "testing", feature = "federation"))]
    #[test]
    fn a_formatted_time_is_parsed_as_the_same_time() {
        for text in [
            "1970-01-01T00:00:00Z",
            "1999-12-31T23:59:59Z",
            "2000-02-29T12:34:56Z",
            "2026-11-23T19:44:51Z",
            "2163-01-02T18:50:30Z",
        ] {
            let time = parse_timestamp(text).unwrap();
            assert_eq!(format_timestamp(time), text);
        }
    }
}
