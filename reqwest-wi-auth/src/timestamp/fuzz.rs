//! A fuzz target for times in the format of RFC 3339.
//!
//! The parser does not panic, and accepts exactly the times that the crate `jiff` accepts, as the same second. Exceptions: `jiff` also
//! accepts other formats of ISO 8601, and neither times before 1970 nor after 9999 are needed.

use std::fmt::Write as _;

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::ByteEdit;

fn check(text: &str) {
    let parsed = parse_timestamp(text);
    let expected = text.parse::<Timestamp>().ok();
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(since.as_secs()).unwrap()
    };
    match (parsed, expected) {
        (Some(parsed), Some(expected)) => {
            // A leap second, which `jiff` reads as the second before it.
            let is_leap = text.as_bytes()[17..19] == *b"60";
            // Fractions of a second are ignored, which rounds down, also before 1970.
            let whole = expected.as_nanosecond().div_euclid(1_000_000_000);
            assert_eq!(
                i128::from(seconds(parsed)),
                whole + i128::from(is_leap),
                "{text}"
            );
        }
        // Near the end of year 9999 the offset matters. `jiff` limits a fraction to nine digits.
        (Some(parsed), None) => {
            let fraction = text[19..].bytes().skip(1).take_while(u8::is_ascii_digit);
            let is_known = seconds(parsed) > 253_402_207_200 || fraction.count() > 9;
            assert!(is_known, "accepted: {text}");
        }
        (None, Some(expected)) => {
            let is_plain = text.len() >= 20
                && text.is_ascii()
                && text.as_bytes()[4] == b'-'
                && text.as_bytes()[7] == b'-'
                && matches!(text.as_bytes()[10], b'T' | b't' | b' ')
                && text.as_bytes()[13] == b':'
                && text.as_bytes()[16] == b':'
                && text.ends_with('Z')
                && text[19..text.len() - 1]
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'.');
            assert!(!is_plain || expected.as_second() < 0, "refused: {text}");
        }
        (None, None) => {}
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    fraction: Option<u32>,
    offset: Option<(bool, u8, u8)>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..3))]
    edits: Vec<ByteEdit>,
}

#[test]
fn edited_timestamps() {
    check!()
        .with_iterations(4 * ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let (year, month, day) = (1960 + recipe.year % 200, recipe.month % 14, recipe.day % 33);
            let (hour, minute, second) = (recipe.hour % 25, recipe.minute % 61, recipe.second % 62);
            let mut text =
                format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            if let Some(fraction) = recipe.fraction {
                write!(text, ".{fraction}").unwrap();
            }
            match recipe.offset {
                None => text.push('Z'),
                Some((is_negative, hours, minutes)) => {
                    let sign = if is_negative { '-' } else { '+' };
                    write!(text, "{sign}{:02}:{:02}", hours % 25, minutes % 61).unwrap();
                }
            }
            let edited = ByteEdit::apply_all(&recipe.edits, text);
            check(&String::from_utf8_lossy(&edited));
        });
}

#[test]
fn timestamp_bytes() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(|text| check(&String::from_utf8_lossy(text)));
}
