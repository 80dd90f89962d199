//! Recognizes what operators pass by mistake instead of a token.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// The beginning of every header that is a JSON object, in base64url: `{"`.
const JSON_START: &[u8] = b"eyJ";
/// The beginning of opaque tokens in common use, and what issues them.
const OPAQUE: [(&str, &str); 8] = [
    ("ya29.", "Google"),
    ("ghp_", "GitHub"),
    ("gho_", "GitHub"),
    ("ghs_", "GitHub"),
    ("github_pat_", "GitHub"),
    ("glpat-", "GitLab"),
    ("hvs.", "Vault"),
    ("xoxb-", "Slack"),
];
/// The depth to which a JSON document is searched for a token.
const MAX_DEPTH: usize = 4;

/// Returns what a text that is not a token seems to be, and what to do, or `None` if it is nothing known.
///
/// The result contains nothing from the text, except for names of members of a JSON document.
pub(crate) fn describe(text: &[u8]) -> Option<String> {
    let trimmed = text.trim_ascii();
    let Some(first) = trimmed.first() else {
        return Some("the token is empty".to_owned());
    };
    let lossy = String::from_utf8_lossy(trimmed);
    if has_prefix(trimmed, b"authorization:") {
        return Some("remove `Authorization: Bearer`: the token is what follows it".to_owned());
    }
    if has_prefix(trimmed, b"bearer ") || has_prefix(trimmed, b"bearer:") {
        return Some("remove the prefix `Bearer`: the token is what follows it".to_owned());
    }
    if lossy.starts_with(is_quote) || lossy.ends_with(is_quote) {
        return Some("the token is in quotes; remove them".to_owned());
    }
    if matches!(first, b'{' | b'[') {
        return Some(describe_json(trimmed));
    }
    if trimmed.starts_with(b"-----BEGIN") {
        return Some("this is PEM, a key or a certificate, not a token".to_owned());
    }
    if lossy.contains("apiVersion:") || lossy.contains("\ntoken:") || lossy.starts_with("token:") {
        return Some("this is a YAML document; pass the token in it alone".to_owned());
    }
    let opaque = OPAQUE.iter().find(|(prefix, _)| lossy.starts_with(prefix));
    if let Some((_, issuer)) = opaque {
        let more = match *issuer {
            "Google" => {
                "request an ID token instead, for example with `gcloud auth print-identity-token --audiences=AUDIENCE`"
            }
            _ => "request an ID token (a JWT) instead",
        };
        return Some(format!(
            "this is an opaque access token of {issuer}, which only {issuer} can check; {more}"
        ));
    }
    if trimmed.iter().any(u8::is_ascii_whitespace) {
        let without: Vec<u8> = trimmed
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        return Some(
            if trimmed
                .windows(4)
                .filter(|four| four == b" eyJ" || four == b"\neyJ")
                .count()
                > 0
            {
                "there is more than one token, or text in front of it; pass one token alone"
                    .to_owned()
            } else if without.starts_with(JSON_START) {
                "there is a line break or a space in the token; join its parts".to_owned()
            } else {
                "this is a text of several words or lines, not a token".to_owned()
            },
        );
    }
    if text.len() != trimmed.len() {
        return Some("there is white space around the token; remove it".to_owned());
    }
    if trimmed.iter().any(|byte| !byte.is_ascii_graphic()) {
        return Some(
            "there is an invisible character, or one that is not ASCII, in the token; copy it again".to_owned(),
        );
    }
    if let Some(decoded) = decode_twice(trimmed) {
        return Some(decoded);
    }
    match trimmed.split(|&byte| byte == b'.').count() {
        5 if trimmed.starts_with(JSON_START) => Some(
            "this is an encrypted token (JWE), which has five parts; a guard accepts signed tokens only".to_owned(),
        ),
        1 | 2 if trimmed.starts_with(JSON_START) => Some(
            "the token has been cut off: a signed token has three parts with dots between them".to_owned(),
        ),
        3 if trimmed.ends_with(b".") => Some(
            "the token has no signature; a guard accepts signed tokens only".to_owned(),
        ),
        3 if trimmed.iter().any(|byte| matches!(byte, b'+' | b'/' | b'=')) => Some(
            "the token is in base64 instead of base64url, which has no `+`, `/` and `=`".to_owned(),
        ),
        3 if trimmed.starts_with(JSON_START) => {
            Some("the token may have been cut off or changed; copy it again".to_owned())
        }
        _ if trimmed.contains(&b'%') => {
            Some("the token is percent-encoded, as in a URL; decode it".to_owned())
        }
        _ => Some("this is not a signed token (JWT), which has three parts with dots between them and begins with `eyJ`".to_owned()),
    }
}

/// Returns the token in a text that has something around it or in it that does not belong to it: white space, quotes, or
/// `Bearer`.
pub(crate) fn unwrap(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let mut token = text.as_ref();
    loop {
        let mut shorter = token.trim().trim_matches(is_quote);
        for prefix in ["authorization:", "bearer ", "bearer:"] {
            if has_prefix(shorter.as_bytes(), prefix.as_bytes()) {
                shorter = shorter.get(prefix.len()..).unwrap_or_default();
            }
        }
        if shorter.len() == token.len() {
            break;
        }
        token = shorter;
    }
    token
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect()
}

fn is_quote(character: char) -> bool {
    matches!(
        character,
        '"' | '\'' | '`' | '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}'
    )
}

fn has_prefix(text: &[u8], prefix: &[u8]) -> bool {
    let start = text.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Describes a text that is the base64 of a token, as in the `data` of a Kubernetes Secret.
fn decode_twice(text: &[u8]) -> Option<String> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'=').collect();
    let standard = || STANDARD.decode(pad(&text));
    let decoded = URL_SAFE_NO_PAD.decode(&text).or_else(|_| standard()).ok()?;
    is_token(&decoded).then(|| {
        "the token is in base64 once more, as in the `data` of a Secret; decode it with `base64 -d`"
            .to_owned()
    })
}

fn pad(text: &[u8]) -> Vec<u8> {
    let mut padded = text.to_vec();
    padded.resize(text.len().next_multiple_of(4), b'=');
    padded
}

fn describe_json(text: &[u8]) -> String {
    const WHAT: &str = "this is a JSON document";
    match serde_json::from_slice::<Value>(text) {
        Ok(document) => match find_token(&document, MAX_DEPTH) {
            Some(path) if !path.is_empty() => {
                format!("{WHAT} that contains a token; pass the value of `{path}` alone")
            }
            _ => format!("{WHAT}, not a token"),
        },
        Err(_) => format!("{WHAT} or something similar; pass the token in it alone"),
    }
}

/// Returns the path of a token in a document, such as `status.token`.
fn find_token(value: &Value, depth: usize) -> Option<String> {
    let below = |name: String, value: &Value| {
        let path = find_token(value, depth.checked_sub(1)?)?;
        let separator = if path.is_empty() || path.starts_with('[') {
            ""
        } else {
            "."
        };
        Some(format!("{name}{separator}{path}"))
    };
    match value {
        Value::String(text) => is_token(text.trim().as_bytes()).then(String::new),
        Value::Object(members) => members.iter().find_map(|(name, value)| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            // A longer name may be anything, even a token.
            let is_name = name.len() <= 40 && name.bytes().all(is_plain);
            let name = if is_name { name.as_str() } else { "…" };
            below(name.to_owned(), value)
        }),
        Value::Array(elements) => {
            let mut elements = elements.iter().enumerate();
            elements.find_map(|(index, value)| below(format!("[{index}]"), value))
        }
        _ => None,
    }
}

fn is_token(text: &[u8]) -> bool {
    let is_graphic = text.iter().all(u8::is_ascii_graphic);
    is_graphic
        && text.starts_with(JSON_START)
        && text.iter().filter(|byte| **byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";

    #[test]
    fn what_is_passed_instead_of_a_token_is_recognized_and_not_quoted() {
        let base64 = STANDARD.encode(TOKEN);
        for (text, expected) in [
            (String::new(), "empty"),
            (" \n".to_owned(), "empty"),
            (format!("\"{TOKEN}\""), "in quotes"),
            (format!("'{TOKEN}'\n"), "in quotes"),
            (format!("{TOKEN}\""), "in quotes"),
            (format!("\u{201c}{TOKEN}\u{201d}"), "in quotes"),
            (format!("Bearer {TOKEN}"), "remove the prefix `Bearer`"),
            (format!("bearer: {TOKEN}"), "remove the prefix `Bearer`"),
            (
                format!("Authorization: Bearer {TOKEN}"),
                "remove `Authorization",
            ),
            (format!("{TOKEN}\n"), "white space around"),
            (format!(" {TOKEN}"), "white space around"),
            (TOKEN.replace(".c2", "\n.c2"), "line break or a space"),
            (TOKEN.replace("WIi", " WIi"), "line break or a space"),
            (format!("{TOKEN} {TOKEN}"), "more than one token"),
            (format!("id: {TOKEN}"), "text in front of it"),
            (
                format!("{{\"id_token\":\"{TOKEN}\"}}"),
                "value of `id_token`",
            ),
            (
                format!("{{\"kind\":\"TokenRequest\",\"status\":{{\"token\":\"{TOKEN}\"}}}}"),
                "value of `status.token`",
            ),
            (
                format!("[1,[{{\"t\":\"{TOKEN}\"}}]]"),
                "value of `[1][0].t`",
            ),
            ("{\"a\":1}".to_owned(), "JSON document, not a token"),
            ("{nonsense".to_owned(), "JSON document"),
            (format!("{TOKEN}.a.b"), "encrypted token (JWE)"),
            ("ya29.a0AfB_byC".to_owned(), "opaque access token of Google"),
            ("ghp_abcdef".to_owned(), "opaque access token of GitHub"),
            (base64.clone(), "base64 once more"),
            (base64.trim_end_matches('=').to_owned(), "base64 once more"),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END".to_owned(),
                "PEM",
            ),
            (format!("apiVersion: v1\ndata:\n  token: {TOKEN}"), "YAML"),
            (
                "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.".to_owned(),
                "no signature",
            ),
            ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIi".to_owned(), "cut off"),
            (
                "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0=.AA".to_owned(),
                "base64url",
            ),
            (
                "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOi.AA".to_owned(),
                "cut off or changed",
            ),
            ("a%2Eb".to_owned(), "percent-encoded"),
            ("some text of an error".to_owned(), "several words"),
            ("hunter2".to_owned(), "three parts"),
            ("é".to_owned(), "not ASCII"),
        ] {
            let found = describe(text.as_bytes()).unwrap();
            assert!(found.contains(expected), "{text:?}: {found}");
            for part in ["hbGciOi", "zdWIi", "c2lnbmF", "hunter2", "abcdef", "a0Af"] {
                assert!(!found.contains(part), "{text:?}: {found}");
            }
        }
        let named_by_token = describe(format!("{{\"{TOKEN}\":\"{TOKEN}\"}}").as_bytes());
        assert!(!named_by_token.unwrap().contains("eyJ"));
    }

    #[test]
    fn the_token_in_quotes_white_space_or_a_header_is_found() {
        for text in [
            TOKEN.to_owned(),
            format!(" {TOKEN}\r\n"),
            format!("\"Bearer {TOKEN}\""),
            format!("Authorization: bearer '{TOKEN}'"),
            format!("\u{201c}{TOKEN}\u{201d}"),
            TOKEN.replace('.', "\n.\t"),
        ] {
            assert_eq!(unwrap(text.as_bytes()), TOKEN.as_bytes(), "{text:?}");
        }
        for text in ["", "\"", "''", "Bearer ", "authorization: bearer"] {
            assert!(unwrap(text.as_bytes()).len() < 7, "{text:?}");
        }
    }

    #[test]
    fn any_bytes_are_described() {
        for byte in 0..=u8::MAX {
            for text in [
                vec![byte],
                vec![byte; 3],
                vec![b'e', b'y', b'J', byte, b'.', b'.'],
            ] {
                assert!(describe(&text).is_some());
            }
        }
    }
}
