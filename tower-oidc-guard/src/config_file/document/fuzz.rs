//! Fuzz targets for the documents of policy and configuration files.
//!
//! For each input:
//!
//! - The parser does not panic, and an error is one line, with a position in the text.
//! - It accepts JSON that `serde_json` accepts, and reads the same values from it. Exceptions are repeated names and deep nesting.
//! - The values that it reads are the same after they have been printed as JSON.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::json;

use super::*;
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::{ByteEdit, JsonEdit};

/// Parses a document and asserts everything that the module states.
fn check(text: &[u8]) {
    let parsed = Node::parse(text);
    let own = serde_json::from_slice::<Value>(text);
    let node = match parsed {
        Ok(node) => node,
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
            assert!(error.starts_with("line "), "{error}");
            let is_known = [
                "duplicate",
                "repeated",
                "twice",
                "nested",
                "deep",
                "more than once",
            ];
            if let Ok(value) = &own {
                assert!(
                    is_known.iter().any(|known| error.contains(known)) || !is_common(text, value),
                    "valid JSON is refused: {error}"
                );
            }
            return;
        }
    };
    let value = node.into_json();
    if let Ok(own) = own
        && is_common(text, &own)
    {
        assert_eq!(value, own, "JSON is read differently");
    }
    let printed = value.to_string();
    let again = Node::parse(printed.as_bytes());
    if is_common(printed.as_bytes(), &value) {
        assert_eq!(again.map(Node::into_json).unwrap(), value, "{printed}");
    }
}

/// Returns whether YAML and JSON have to agree about a JSON text: it has no escapes, which differ, no control characters and no
/// numbers with an exponent or many digits.
fn is_common(text: &[u8], value: &Value) -> bool {
    fn has_plain_numbers(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.as_i64().is_some_and(|number| number.abs() < 1 << 53),
            Value::Array(elements) => elements.iter().all(has_plain_numbers),
            Value::Object(members) => members.values().all(has_plain_numbers),
            _ => true,
        }
    }
    let has_only_plain_bytes = text
        .iter()
        .all(|byte| (0x20..0x7f).contains(byte) && *byte != b'\\' || *byte == b'\n');
    has_only_plain_bytes && has_plain_numbers(value)
}

/// A valid configuration of each field.
pub(crate) fn example() -> Value {
    json!({
        "allow": [
            "system:serviceaccount:shop:web",
            { "issuer": "https://issuer.example", "members": ["allAuthenticatedUsers"] },
            "user:a@example.com",
        ],
        "deny": ["system:serviceaccount:shop:legacy"],
        "audiences": ["https://auth-server.example"],
        "scopes": ["read"],
        "claims": { "hd": "example.com", "ref": { "prefix": "refs/tags/" }, "groups": { "contains": "admins" } },
        "issuers": [
            { "url": "https://issuer.example", "audiences": ["https://auth-server.example"], "algorithms": ["ES256"], "leeway_seconds": 5 },
            { "platform": "google", "audiences": ["https://auth-server.example"], "max_keys": 10 },
        ],
    })
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..4))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..4))]
    bytes: Vec<ByteEdit>,
}

#[test]
fn edited_documents() {
    let base = example();
    check!()
        .with_iterations(ITERATIONS / 4)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &base);
            check(&ByteEdit::apply_all(&recipe.bytes, text));
        });
}

#[test]
fn document_bytes() {
    check!().with_iterations(ITERATIONS / 4).for_each(check);
}
