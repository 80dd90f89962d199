//! What the claims of a verified token must say.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Verified, json};
use crate::rejection::Rejection;

type Check = Arc<dyn Fn(&Map<String, Value>) -> bool + Send + Sync>;

/// Claims that are asked for, and functions that must be content.
#[derive(Clone, Default)]
pub(crate) struct Demands {
    claims: Vec<(String, Value)>,
    checks: Vec<Check>,
}

impl Demands {
    pub(crate) fn claim(&mut self, name: String, value: Value) {
        self.claims.push((name, value));
    }

    pub(crate) fn check(
        &mut self,
        check: impl Fn(&Map<String, Value>) -> bool + Send + Sync + 'static,
    ) {
        self.checks.push(Arc::new(check));
    }

    /// Checks the claims of a verified token, which are read anew if anything is required of them.
    pub(crate) fn meets(&self, token: &Verified<'_>) -> Result<(), Rejection> {
        if first_unmet(&self.claims, token.payload()).is_some() {
            return Err(Rejection::UnmetClaim);
        }
        if self.checks.is_empty() {
            return Ok(());
        }
        let claims = json::to_map(token.payload()).map_err(|_| {
            Rejection::Malformed(
                "the claims are nested more than 128 levels deep, or have a number out of range",
            )
        })?;
        match self.checks.iter().all(|check| check(&claims)) {
            true => Ok(()),
            false => Err(Rejection::UnmetClaim),
        }
    }
}

/// Returns the name of the first of the required claims that verified claims do not have with the required value.
pub(crate) fn first_unmet<'r>(required: &'r [(String, Value)], payload: &[u8]) -> Option<&'r str> {
    let (first, _) = required.first()?;
    let mut are_met = vec![false; required.len()];
    let read = str::from_utf8(payload).map(|payload| {
        json::members(payload, |name, value| {
            for (is_met, (required, expected)) in are_met.iter_mut().zip(required) {
                if *required == name {
                    *is_met = json::equals(value.get(), expected);
                }
            }
        })
    });
    if !matches!(read, Ok(Ok(()))) {
        return Some(first);
    }
    let mut unmet = are_met.iter().zip(required).filter(|(is_met, _)| !**is_met);
    unmet.next().map(|(_, (name, _))| name.as_str())
}

impl fmt::Debug for Demands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demands")
            .field("claims", &self.claims)
            .field("checks", &self.checks.len())
            .finish()
    }
}
