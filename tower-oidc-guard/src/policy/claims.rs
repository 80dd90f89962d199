//! Claims that a policy requires.

use serde_json::Value;

use crate::identity::Identity;
use crate::verify::demands::first_unmet;

/// Returns the name of the first claim that the caller's token does not have with the required value.
pub(super) fn missing<'c>(wanted: &'c [(String, Value)], caller: &Identity) -> Option<&'c str> {
    first_unmet(wanted, caller.payload())
}
