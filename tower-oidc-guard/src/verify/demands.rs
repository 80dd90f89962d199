//! What the claims of a verified token must say.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Verified;
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

    /// Reads the claims once more, whole, where anything is asked for.
    pub(crate) fn meets(&self, token: &Verified<'_>) -> Result<(), Rejection> {
        if self.claims.is_empty() && self.checks.is_empty() {
            return Ok(());
        }
        let claims: Map<String, Value> = serde_json::from_slice(token.payload())
            .map_err(|_| Rejection::Malformed("the claims"))?;
        let has = |(name, value): &(String, Value)| claims.get(name) == Some(value);
        if self.claims.iter().all(has) && self.checks.iter().all(|check| check(&claims)) {
            Ok(())
        } else {
            Err(Rejection::UnmetClaim)
        }
    }
}

impl fmt::Debug for Demands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demands")
            .field("claims", &self.claims)
            .field("checks", &self.checks.len())
            .finish()
    }
}
