//! Fuzz targets for the answers of token endpoints, and the header `Retry-After`.
//!
//! For each answer:
//!
//! - The parser does not panic, and an error is one short line without the credentials of the request.
//! - A token is returned only from a JSON object with a 2xx status that contains it, as `serde_json` reads it.
//! - A token expires no later than the answer states.
//! - `Retry-After` is a number of digits, or a date that `httpdate` can print again.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit, NOW};
use crate::fuzz::{ITERATIONS, SECRET, assert_is_safe_message};

const STATUSES: [u16; 8] = [200, 200, 200, 201, 302, 400, 401, 503];

fn check(status: u8, retry_after: &[u8], body: &[u8]) {
    let status = StatusCode::from_u16(STATUSES[usize::from(status) % STATUSES.len()]).unwrap();
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(retry_after) {
        headers.insert(RETRY_AFTER, value);
    }
    let secrets = Secrets::default().with(SECRET);
    let response = Response::for_test(status, &headers, body, secrets);
    let requested_at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let error = response.error();
    assert_is_safe_message(&error.to_string());
    if let Some(delay) = error_delay(&error) {
        let text = str::from_utf8(retry_after).unwrap().trim();
        match text.parse::<u64>() {
            Ok(seconds) => assert!(seconds == delay.as_secs() && !text.starts_with('+')),
            Err(_) => drop(httpdate::parse_http_date(text).unwrap()),
        }
    }
    let parsed = match TokenResponse::parse(&response, requested_at) {
        Ok(parsed) => parsed,
        Err(error) => return assert_is_safe_message(&error.to_string()),
    };
    assert!(status.is_success());
    if let Err(error) = parsed.require_bearer() {
        assert_is_safe_message(&error.to_string());
    }
    if let Err(error) = parsed.require_audience(&["https://auth-server.example"]) {
        assert_is_safe_message(&error.to_string());
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    assert!(value.is_object());
    let text = value["access_token"].as_str().unwrap();
    assert_eq!(parsed.token.text(), text.trim_ascii());
    let token_type = value["token_type"].as_str();
    let is_bearer = token_type.is_some_and(|name| name.eq_ignore_ascii_case("bearer"));
    assert_eq!(parsed.require_bearer().is_ok(), is_bearer);
    let seconds = match &value["expires_in"] {
        Value::Null => return,
        Value::String(text) => text.trim().parse::<f64>().unwrap(),
        number => number.as_f64().unwrap(),
    };
    let lifetime = parsed
        .token
        .expires_at()
        .unwrap()
        .duration_since(requested_at);
    let lifetime = lifetime.map_or(0.0, |lifetime| lifetime.as_secs_f64());
    assert!(
        seconds >= 0.0 && lifetime <= seconds + 1e-6,
        "{lifetime} {seconds}"
    );
}

fn error_delay(error: &FetchError) -> Option<Duration> {
    match error {
        FetchError::OAuth { retry_after, .. } | FetchError::Status { retry_after, .. } => {
            *retry_after
        }
        _ => None,
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    status: u8,
    is_error: bool,
    retry_after: u8,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..3))]
    retry_after_edits: Vec<ByteEdit>,
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..4))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
}

#[test]
fn edited_answers() {
    let delays = [
        "",
        "0",
        "120",
        "Thu, 26 Nov 2026 16:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "18446744073709551615",
        "+5",
        " 7 ",
    ];
    let granted = json!({ "access_token": "a.b.c", "token_type": "Bearer", "expires_in": 3600, "issued_token_type": "N_A", "scope": "a" });
    let refused = json!({
        "error": "invalid_grant", "error_description": format!("the assertion {SECRET} has expired"), "error_codes": [700_024],
        "message": SECRET,
    });
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let delay = delays[usize::from(recipe.retry_after) % delays.len()];
            let delay = ByteEdit::apply_all(&recipe.retry_after_edits, delay);
            let text = JsonEdit::apply_all(
                &recipe.edits,
                if recipe.is_error { &refused } else { &granted },
            );
            check(
                recipe.status,
                &delay,
                &ByteEdit::apply_all(&recipe.bytes, text),
            );
        });
}

/// The input is the status, the header up to the first line break, and the body.
#[test]
fn answer_bytes() {
    check!().with_iterations(ITERATIONS).for_each(|input| {
        let (status, rest) = input.split_first().unwrap_or((&0, &[]));
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        let (header, body) = rest.split_at(end);
        check(*status, header, body.get(1..).unwrap_or_default());
    });
}

#[test]
fn an_array_in_place_of_an_object_contains_no_token() {
    let body = br#"["a.b.c","Bearer",null,3600]"#;
    let response = Response::for_test(StatusCode::OK, &HeaderMap::new(), body, Secrets::default());
    assert!(TokenResponse::parse(&response, SystemTime::UNIX_EPOCH).is_err());
}
