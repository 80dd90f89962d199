//! Fuzz targets for policy and configuration files.
//!
//! For each input:
//!
//! - The parser does not panic, and an error has a position in the text.
//! - The policy of a file that is printed and parsed again is the same.
//! - Its decisions are those of a naive evaluation of the text ([`naive`]), which reads the lists one member at a time.
//! - It is the same as before a list is reversed, and a change from it to itself widens nothing.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};

use super::*;
use crate::config_file::{document_example, parse_document};
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::{ByteEdit, JsonEdit};
use crate::identity::{Identity, Platform};

/// Parses a file and asserts everything that the module states.
fn check(text: &[u8], callers: &[Identity]) {
    let content = match PolicyContent::parse(text) {
        Ok(content) => content,
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("line "), "{error}");
            return;
        }
    };
    let value = parse_document(text).unwrap();
    let printed = value.to_string();
    let again = PolicyContent::parse(printed.as_bytes());
    // YAML has values that JSON does not have, such as floats that are not finite.
    if let Ok(again) = &again {
        assert!(content == *again, "{printed}");
        assert!(content.changes_since(again).widening().is_none());
    }
    let mut reversed = value.clone();
    for name in ["allow", "deny", "audiences", "scopes"] {
        if let Some(Value::Array(list)) = reversed.get_mut(name) {
            list.reverse();
        }
    }
    if let Ok(reversed) = PolicyContent::parse(reversed.to_string().as_bytes()) {
        assert!(content.changes_since(&reversed).widening().is_none());
    }
    let _ = content.config().issuers();
    let _ = content.too_wide(&PolicyIssuers::default());
    let policy = content.policy();
    for caller in callers {
        if let Some(expected) = naive(&value, caller) {
            let decision = policy.explain(caller);
            assert_eq!(
                decision.is_allowed(),
                expected,
                "{}: {value}",
                decision.reason()
            );
            assert_eq!(policy.allows(caller, None), expected);
        }
    }
}

/// Decides on a caller by reading the file's text. Returns `None` for required claims and scopes.
fn naive(file: &Value, caller: &Identity) -> Option<bool> {
    if file.get("claims").is_some() || file.get("scopes").is_some() {
        return None;
    }
    let audiences = file.get("audiences").and_then(Value::as_array);
    let has_audience = audiences.is_none_or(|audiences| {
        let mut own = caller.audiences().iter();
        own.any(|own| audiences.iter().any(|audience| audience == own))
    });
    Some(is_member(file, "allow", caller) && !is_member(file, "deny", caller) && has_audience)
}

fn is_member(file: &Value, list: &str, caller: &Identity) -> bool {
    let entries = file.get(list).and_then(Value::as_array);
    entries.into_iter().flatten().any(|entry| match entry {
        Value::String(member) => matches(member, caller),
        entry => {
            let is_meant = entry["issuer"] == caller.issuer();
            let mut members = entry["members"].as_array().into_iter().flatten();
            is_meant && members.any(|member| matches(member.as_str().unwrap(), caller))
        }
    })
}

fn matches(member: &str, caller: &Identity) -> bool {
    let is_kubernetes = caller.platform() == Platform::Kubernetes;
    let subject = caller.subject();
    let mut parts = subject.split(':');
    let namespace = (parts.next() == Some("system") && parts.next() == Some("serviceaccount"))
        .then(|| parts.next().unwrap());
    let email = caller
        .google()
        .and_then(|google| google.email())
        .map(str::to_lowercase);
    match member {
        "allUsers" | "allAuthenticatedUsers" => true,
        "system:authenticated" | "system:serviceaccounts" => is_kubernetes,
        _ => {
            let is_own_namespace = |own| Some(own) == namespace;
            let group = member.strip_prefix("system:serviceaccounts:");
            is_kubernetes && (member == subject || group.is_some_and(is_own_namespace))
                || member == format!("principal:{}#{subject}", caller.issuer())
                || email.is_some_and(|email| {
                    let address = member
                        .strip_prefix("user:")
                        .or_else(|| member.strip_prefix("serviceAccount:"));
                    address.is_some_and(|address| address.to_lowercase() == email)
                })
        }
    }
}

#[cfg(feature = "testing")]
fn callers() -> Vec<Identity> {
    use crate::testing::TestIdentity;
    vec![
        TestIdentity::kubernetes("shop", "web")
            .audience("https://auth-server.example")
            .build(),
        TestIdentity::kubernetes("shop", "legacy")
            .issuer("https://issuer.example")
            .audience("other")
            .build(),
        TestIdentity::google("A@example.com")
            .audience("https://auth-server.example")
            .build(),
        TestIdentity::oidc("https://issuer.example", "caller")
            .audience("https://auth-server.example")
            .build(),
    ]
}

#[cfg(not(feature = "testing"))]
fn callers() -> Vec<Identity> {
    Vec::new()
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    /// Whether the file has only lists of members and audiences, which the naive evaluation decides on.
    has_only_lists: bool,
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..5))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
}

#[test]
fn edited_policy_files() {
    let whole = document_example();
    let lists = json!({
        "allow": ["system:serviceaccounts:shop", { "issuer": "https://issuer.example", "members": ["system:serviceaccounts"] }, "user:a@example.com"],
        "deny": ["system:serviceaccount:shop:web", "principal:https://issuer.example#caller"],
        "audiences": ["https://auth-server.example", "other"],
    });
    let callers = std::panic::AssertUnwindSafe(callers());
    check!()
        .with_iterations(ITERATIONS / 4)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let base = if recipe.has_only_lists {
                &lists
            } else {
                &whole
            };
            let text = JsonEdit::apply_all(&recipe.edits, base);
            check(&ByteEdit::apply_all(&recipe.bytes, text), &callers);
        });
}

#[test]
fn policy_file_bytes() {
    let callers = std::panic::AssertUnwindSafe(callers());
    check!()
        .with_iterations(ITERATIONS / 4)
        .for_each(|text| check(text, &callers));
}

/// Parses a file and checks its policy, to count the instructions of that.
pub(crate) fn check_policy_content(text: &[u8]) {
    let _ = std::hint::black_box(crate::PolicyFile::check_content("policy.yaml", text));
}
