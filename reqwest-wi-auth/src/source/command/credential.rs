//! Parses the output of a command: a token, or an `ExecCredential` of Kubernetes.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::token::{Token, TokenFormat};

/// The supported versions of `ExecCredential`.
const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential<'o> {
    kind: Option<String>,
    api_version: Option<String>,
    #[serde(borrow)]
    status: Option<Status<'o>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status<'o> {
    /// Borrowed from the output, so that no copy of the token stays in memory.
    #[serde(borrow)]
    token: Option<Cow<'o, str>>,
    expiration_timestamp: Option<String>,
}

/// Parses the output. The error describes what is wrong with it, without quoting it.
pub(super) fn parse(output: &[u8], format: TokenFormat) -> Result<Token, String> {
    if output.trim_ascii_start().first() == Some(&b'{') {
        return parse_credential(output);
    }
    Token::parse(output, format).map_err(|error| error.to_string())
}

fn parse_credential(output: &[u8]) -> Result<Token, String> {
    let credential: ExecCredential = serde_json::from_slice(output).map_err(|error| {
        // The message of the error may quote the output.
        let (line, column) = (error.line(), error.column());
        format!("it printed JSON that is not an ExecCredential: line {line}, column {column}")
    })?;
    let kind = credential.kind.unwrap_or_default();
    if kind != "ExecCredential" {
        return Err(format!(
            "it printed JSON of kind {kind:?}, expected \"ExecCredential\""
        ));
    }
    let version = credential.api_version.unwrap_or_default();
    if !VERSIONS.contains(&version.as_str()) {
        return Err(format!(
            "it printed an ExecCredential of version {version:?}, expected {:?}",
            VERSIONS[0]
        ));
    }
    let Some(Status {
        token: Some(token),
        expiration_timestamp,
    }) = credential.status
    else {
        return Err(
            "it printed an ExecCredential without status.token; client certificates are not supported"
                .to_owned(),
        );
    };
    let token = Token::opaque(token.as_bytes()).map_err(|error| error.to_string())?;
    let Some(text) = expiration_timestamp else {
        return Ok(token);
    };
    let Some(expires_at) = parse_timestamp(&text) else {
        return Err(format!(
            "it printed an ExecCredential whose status.expirationTimestamp is {text:?}, expected a time in the format of RFC 3339"
        ));
    };
    Ok(token.with_max_expiry(expires_at))
}

/// Parses a time in the format of RFC 3339. Fractions of a second are ignored.
fn parse_timestamp(text: &str) -> Option<SystemTime> {
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

    #[test]
    fn an_exec_credential_is_parsed_with_its_expiry() {
        let credential = |version: &str, status: &str| {
            let text = format!(
                r#" {{"kind":"ExecCredential","apiVersion":"{version}","spec":{{}},"status":{status}}}"#
            );
            parse(text.as_bytes(), TokenFormat::Jwt)
        };
        let status = r#"{"token":"s3cr3t","expirationTimestamp":"2026-11-23T19:44:51Z"}"#;
        for version in VERSIONS {
            let token = credential(version, status).unwrap();
            assert_eq!(token.header(), "Bearer s3cr3t");
            let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_463_091);
            assert_eq!(token.expires_at(), Some(expiry));
        }
        let token = credential(VERSIONS[0], r#"{"token":"s3cr3t"}"#).unwrap();
        assert_eq!(token.expires_at(), None);
        for (version, status, part) in [
            ("client.authentication.k8s.io/v1alpha1", status, "v1alpha1"),
            (VERSIONS[0], "null", "status.token"),
            (
                VERSIONS[0],
                r#"{"clientCertificateData":"x"}"#,
                "client certificates",
            ),
            (VERSIONS[0], r#"{"token":"two words"}"#, "space"),
            (VERSIONS[0], r#"{"token":""}"#, "empty"),
            (
                VERSIONS[0],
                r#"{"token":"s3cr3t","expirationTimestamp":"soon"}"#,
                "soon",
            ),
            (VERSIONS[0], r#"{"token":1}"#, "line 1"),
        ] {
            let error = credential(version, status).unwrap_err();
            assert!(error.contains(part) && !error.contains("s3cr3t"), "{error}");
        }
        assert!(
            parse(b"{}", TokenFormat::Opaque)
                .unwrap_err()
                .contains("ExecCredential")
        );
        assert!(parse(b"{", TokenFormat::Opaque).is_err());
    }
}
