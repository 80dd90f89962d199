//! Fuzz targets for files that contain a token in a member of a JSON object.
//!
//! For each input, the parser does not panic, an error does not quote the content, and the text is that of the only member with the
//! name, as `serde_json` reads it.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit};
use crate::fuzz::{ITERATIONS, SECRET, assert_is_safe_message, may_be_ignored};

fn check(text: &[u8]) {
    let found = find_member(text, "token");
    let value = serde_json::from_slice::<Value>(text);
    match (&found, &value) {
        (Ok(found), Ok(value)) => assert_eq!(value["token"], found.as_str()),
        (Ok(_), Err(error)) => assert!(may_be_ignored(error), "accepted: {error}"),
        (Err(error), _) => {
            assert_is_safe_message(error);
            if let Ok(Value::Object(members)) = &value {
                // `Value` keeps the last of repeated members.
                let is_once = String::from_utf8_lossy(text).matches("token").count() == 1;
                let is_text = members.get("token").is_some_and(Value::is_string);
                assert!(
                    !(is_once && is_text) || text.contains(&b'\\'),
                    "refused: {error}"
                );
            }
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
fn edited_members() {
    let base = json!({ "a": 1, "token": SECRET, "status": { "token": "other" } });
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &base);
            check(&ByteEdit::apply_all(&recipe.bytes, text));
        });
}

#[test]
fn member_bytes() {
    check!().with_iterations(ITERATIONS).for_each(check);
}
