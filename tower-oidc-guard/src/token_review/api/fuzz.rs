//! Fuzz targets for the answers of an API server to a TokenReview.
//!
//! For each input:
//!
//! - The parser does not panic, and no error quotes the token that the answer repeats.
//! - A token is confirmed only by an answer that says so in all parts: `apiVersion`, `kind`, `status.authenticated`, the user and one
//!   of the audiences, as `serde_json` reads them.

use std::panic::AssertUnwindSafe;

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};

use super::*;
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::{ByteEdit, JsonEdit};

const SUBJECT: &str = "system:serviceaccount:shop:web";
const AUDIENCE: &str = "https://auth-server.example";
const TOKEN: &str = "s3cr3t-t0k3n";

fn reviewer() -> AssertUnwindSafe<Reviewer> {
    AssertUnwindSafe(Reviewer::new(ApiServer {
        address: Url::parse("https://10.0.0.1/").unwrap(),
        token_file: "/token".into(),
        ca_file: "/ca".into(),
    }))
}

/// Reads an answer and asserts everything that the module states.
fn check(reviewer: &Reviewer, body: &[u8]) {
    let read = reviewer.read(body, SUBJECT, &[AUDIENCE.to_owned()]);
    if let Some(message) = failure_message(body) {
        assert!(message.len() < 1000 && !message.contains(char::is_control));
    }
    match read {
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.len() < 1000 && !error.contains(char::is_control),
                "{error}"
            );
        }
        Ok(Answer::Refused(Denial { text, .. })) => {
            assert!(
                text.len() < 1000 && !text.contains(char::is_control),
                "{text}"
            );
        }
        Ok(Answer::Confirmed { audiences }) => {
            assert!(audiences.iter().any(|audience| audience == AUDIENCE));
            let Ok(value) = serde_json::from_slice::<Value>(body) else {
                return;
            };
            let status = &value["status"];
            assert_eq!(value["apiVersion"], API_VERSION);
            assert_eq!(value["kind"], KIND);
            assert_eq!(status["authenticated"], true);
            assert_eq!(status["user"]["username"], SUBJECT);
            assert_eq!(status["audiences"], json!(audiences));
        }
    }
}

fn confirmed() -> Value {
    json!({
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": { "managedFields": [] },
        "spec": { "token": TOKEN, "audiences": [AUDIENCE] },
        "status": {
            "authenticated": true,
            "user": { "username": SUBJECT, "uid": "1", "groups": ["system:serviceaccounts"], "extra": { "a": ["b"] } },
            "audiences": [AUDIENCE],
        },
    })
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..5))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
}

#[test]
fn edited_reviews() {
    let (reviewer, base) = (reviewer(), confirmed());
    assert!(
        reviewer
            .read(base.to_string().as_bytes(), SUBJECT, &[AUDIENCE.to_owned()])
            .is_ok()
    );
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &base);
            check(&reviewer, &ByteEdit::apply_all(&recipe.bytes, text));
        });
}

#[test]
fn review_bytes() {
    let reviewer = reviewer();
    check!()
        .with_iterations(ITERATIONS)
        .for_each(|body| check(&reviewer, body));
}

/// A struct must not be read from the elements of an array.
#[test]
fn an_array_in_place_of_an_object_confirms_no_token() {
    let mut answer = confirmed();
    answer["status"] = json!([true, [SUBJECT], [AUDIENCE], ""]);
    let reviewer = reviewer();
    let accepted = [AUDIENCE.to_owned()];
    let read = |answer: &Value| reviewer.read(answer.to_string().as_bytes(), SUBJECT, &accepted);
    assert!(read(&answer).is_err(), "status");
    let mut answer = confirmed();
    answer["status"]["user"] = json!([SUBJECT]);
    assert!(read(&answer).is_err(), "user");
    let answer = json!([API_VERSION, KIND, confirmed()["status"]]);
    assert!(read(&answer).is_err(), "the whole answer");
}
