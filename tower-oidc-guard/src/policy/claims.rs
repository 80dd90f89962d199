//! Claims that a policy asks for.

use serde_json::{Map, Value};

use crate::identity::Identity;

/// The first claim that the caller's token does not have with the value that is asked for.
pub(super) fn missing<'c>(wanted: &'c [(String, Value)], caller: &Identity) -> Option<&'c str> {
    let (first, _) = wanted.first()?;
    let Ok(claims) = caller.claims::<Map<String, Value>>() else {
        return Some(first);
    };
    let mut missing = wanted
        .iter()
        .filter(|(name, value)| claims.get(name) != Some(value));
    missing.next().map(|(name, _)| name.as_str())
}
