//! Claims that a policy requires.

use serde_json::Value;

use crate::identity::Identity;
use crate::jose::demands::first_unmet;

/// Returns the name of the first claim that the caller's token does not have with the required value.
pub(super) fn missing<'c>(required: &'c [(String, Value)], caller: &Identity) -> Option<&'c str> {
    first_unmet(required, caller.payload())
}

/// Returns why a claim cannot be required with that value, if so.
pub(crate) fn fault(name: &str, value: &Value) -> Option<&'static str> {
    if name.is_empty() {
        return Some("its name is empty");
    }
    match value {
        Value::Null => Some("its required value is null; name a value, or leave the claim out"),
        _ => None,
    }
}
