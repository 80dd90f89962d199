//! Fuzz targets for the output of commands: tokens and `ExecCredential` objects.
//!
//! For each input, the parser does not panic, an error is one line without the token, and a token is returned only from an output
//! that contains it where it belongs, as `serde_json` reads it.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit};
use crate::fuzz::{ITERATIONS, SECRET, assert_is_safe_message};

fn check(output: &[u8]) {
    let token = match parse(output, TokenFormat::Opaque) {
        Ok(token) => token,
        Err(error) => {
            // Names in the output are quoted, but escaped and shortened.
            let own_words: String = error.split('"').step_by(2).collect();
            assert_is_safe_message(&own_words);
            assert!(
                error.len() < 1000 && !error.contains(char::is_control),
                "{error:?}"
            );
            return;
        }
    };
    let sent = token.header().as_bytes().strip_prefix(b"Bearer ").unwrap();
    if output.trim_ascii_start().first() != Some(&b'{') {
        assert_eq!(sent, output.trim_ascii());
        return;
    }
    let Ok(value) = serde_json::from_slice::<Value>(output) else {
        return;
    };
    assert_eq!(value["kind"], "ExecCredential");
    assert!(
        VERSIONS
            .iter()
            .any(|version| value["apiVersion"] == *version)
    );
    let text = value["status"]["token"].as_str().unwrap();
    assert_eq!(sent, text.as_bytes().trim_ascii());
    match &value["status"]["expirationTimestamp"] {
        Value::Null => {}
        time => {
            let time = parse_timestamp(time.as_str().unwrap()).unwrap();
            assert!(token.expires_at().is_some_and(|expiry| expiry <= time));
        }
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..4))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
}

#[test]
fn edited_credentials() {
    let base = json!({
        "apiVersion": VERSIONS[0],
        "kind": "ExecCredential",
        "spec": { "interactive": false },
        "status": { "token": SECRET, "expirationTimestamp": "2026-11-26T16:00:00Z" },
    });
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &base);
            check(&ByteEdit::apply_all(&recipe.bytes, text));
        });
}

#[test]
fn credential_bytes() {
    check!().with_iterations(ITERATIONS).for_each(check);
}

#[test]
fn an_array_in_place_of_an_object_is_not_a_credential() {
    let output = json!({
        "apiVersion": VERSIONS[0],
        "kind": "ExecCredential",
        "status": [SECRET, null],
    });
    assert!(parse(output.to_string().as_bytes(), TokenFormat::Opaque).is_err());
}

#[test]
fn a_token_in_place_of_a_time_is_not_quoted() {
    let output = json!({
        "apiVersion": VERSIONS[0],
        "kind": "ExecCredential",
        "status": { "token": "2026-11-26T16:00:00Z", "expirationTimestamp": SECRET },
    });
    let error = parse(output.to_string().as_bytes(), TokenFormat::Opaque).unwrap_err();
    assert_is_safe_message(&error);
    assert!(error.contains("RFC 3339"), "{error}");
}
