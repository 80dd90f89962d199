//! The names that the kubelet gives its folders.

use std::time::{Duration, SystemTime};

/// `..YYYY_MM_DD_hh_mm_ss.`, in UTC; the kubelet puts a random number behind.
pub(super) fn prefix(time: SystemTime) -> String {
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let (days, seconds) = (
        since_epoch.as_secs() / 86_400,
        since_epoch.as_secs() % 86_400,
    );
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("..{year}_{month:02}_{day:02}_{hour:02}_{minute:02}_{second:02}.")
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_by_date_and_time_in_utc() {
        for (seconds, expected) in [
            (0, "..1970_01_01_00_00_00."),
            (951_827_696, "..2000_02_29_12_34_56."),
            (1_795_463_091, "..2026_11_23_19_44_51."),
            (1_798_761_599, "..2026_12_31_23_59_59."),
        ] {
            assert_eq!(
                prefix(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                expected
            );
        }
    }
}
