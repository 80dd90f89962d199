//! Parses the output of a command: a token, or an `ExecCredential` of Kubernetes.

use std::borrow::Cow;

use serde::Deserialize;

use crate::json_object::optional_object;
use crate::text::shorten_middle;
use crate::timestamp::parse_timestamp;
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
    #[serde(borrow, default, deserialize_with = "optional_object")]
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

/// The longest name that an error quotes, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The longest text that is quoted although it is not a time. A token is longer.
const MAX_OTHER_BYTES: usize = 15;

/// Parses the output. The error describes what is wrong with it, and quotes at most short texts that are no token.
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
            "it printed JSON of kind {:?}, expected \"ExecCredential\"",
            shorten_middle(&kind, MAX_NAME_BYTES)
        ));
    }
    let version = credential.api_version.unwrap_or_default();
    if !VERSIONS.contains(&version.as_str()) {
        return Err(format!(
            "it printed an ExecCredential of version {:?}, expected {:?}",
            shorten_middle(&version, MAX_NAME_BYTES),
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
        let found = if may_be_shown(&text) {
            format!("{text:?}")
        } else {
            "another text".to_owned()
        };
        return Err(format!(
            "it printed an ExecCredential whose status.expirationTimestamp is {found}, expected a time in the format of RFC 3339"
        ));
    };
    Ok(token.with_max_expiry(expires_at))
}

/// Returns whether a text that should be a time can be no token, for example because a program has exchanged the two members.
fn may_be_shown(text: &str) -> bool {
    let is_part_of_time = |byte: u8| byte.is_ascii_digit() || b"-:.+TtZz ".contains(&byte);
    text.len() <= MAX_OTHER_BYTES
        || text.len() <= MAX_NAME_BYTES && text.bytes().all(is_part_of_time)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

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
