//! Requirements on the claims of a verified token, beyond those of [`ClaimRules`](super::claim_rules::ClaimRules).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::TokenError;
use super::json;

/// Claims that a token must have, each with its required value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RequiredClaims(Vec<(String, Value)>);

impl RequiredClaims {
    /// Requires a claim to have this value.
    pub(crate) fn push(&mut self, name: String, value: Value) {
        self.0.push((name, value));
    }

    /// Returns whether the list is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of the required claims.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the required claims with their values.
    #[cfg(feature = "policy-file")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns the first claim that cannot be required with its value, and why.
    pub(crate) fn first_invalid(&self) -> Option<(&str, &'static str)> {
        self.0.iter().find_map(|(name, value)| {
            let reason = invalid_requirement(name, value)?;
            Some((name.as_str(), reason))
        })
    }

    /// Returns the name of the first required claim that the payload of a verified token does not have with the required
    /// value, or `None` if the payload meets all requirements.
    pub(crate) fn first_unmet(&self, payload: &[u8]) -> Option<&str> {
        let (first, _) = self.0.first()?;
        let mut are_met = vec![false; self.0.len()];
        let read = str::from_utf8(payload).map(|payload| {
            json::for_each_member(payload, |name, value| {
                for (is_met, (required, expected)) in are_met.iter_mut().zip(&self.0) {
                    if *required == name {
                        *is_met = json::is_equal(value.get(), expected);
                    }
                }
            })
        });
        if !matches!(read, Ok(Ok(()))) {
            return Some(first);
        }
        let mut unmet = are_met.iter().zip(&self.0).filter(|(is_met, _)| !**is_met);
        unmet.next().map(|(_, (name, _))| name.as_str())
    }

    /// Returns all requirements that well-formed claims do not meet.
    pub(crate) fn list_unmet<'c>(&'c self, payload: &'c str) -> Vec<UnmetClaim<'c>> {
        let mut found = vec![None; self.0.len()];
        // An error leaves the claims behind it missing.
        let _ = json::for_each_member(payload, |name, value| {
            for (found, (required, _)) in found.iter_mut().zip(&self.0) {
                if *required == name {
                    *found = Some(value.get());
                }
            }
        });
        let all = self.0.iter().zip(found);
        let is_unmet = |((_, expected), found): &(&(String, Value), Option<&str>)| {
            !found.is_some_and(|found| json::is_equal(found, expected))
        };
        let unmet = all.filter(is_unmet);
        let unmet = unmet.map(|((name, expected), found)| UnmetClaim {
            name,
            expected,
            found,
        });
        unmet.collect()
    }

    /// Returns the number of required claims.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Validates the payload of a verified token.
    pub(crate) fn validate(&self, payload: &[u8]) -> Result<(), TokenError> {
        if self.first_unmet(payload).is_some() {
            return Err(TokenError::UnmetClaim);
        }
        Ok(())
    }
}

/// A required claim that a token does not have with the required value.
pub(crate) struct UnmetClaim<'c> {
    pub(crate) name: &'c str,
    pub(crate) expected: &'c Value,
    /// The JSON text of the claim, or `None` if the token does not have it.
    pub(crate) found: Option<&'c str>,
}

impl FromIterator<(String, Value)> for RequiredClaims {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(claims: I) -> Self {
        Self(claims.into_iter().collect())
    }
}

/// Returns why a claim cannot be required with this value, or `None` if it can.
pub(crate) fn invalid_requirement(name: &str, value: &Value) -> Option<&'static str> {
    if name.is_empty() {
        return Some("its name is empty");
    }
    if value.is_null() {
        return Some("its required value is null; require another value, or leave the claim out");
    }
    None
}

type Predicate = Arc<dyn Fn(&Map<String, Value>) -> bool + Send + Sync>;

/// Functions that must return true for the claims of a token.
#[derive(Clone, Default)]
pub(crate) struct ClaimPredicates(Vec<Predicate>);

impl ClaimPredicates {
    /// Returns whether there are no functions.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether these are the same functions as others, not only functions with the same results.
    #[cfg(feature = "policy-file")]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(own, other)| Arc::ptr_eq(own, other))
    }

    /// Requires a function to return true for the claims.
    pub(crate) fn push(
        &mut self,
        predicate: impl Fn(&Map<String, Value>) -> bool + Send + Sync + 'static,
    ) {
        self.0.push(Arc::new(predicate));
    }

    /// Returns the number of functions.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Validates the payload of a verified token. The payload is not parsed if there are no functions.
    pub(crate) fn validate(&self, payload: &[u8]) -> Result<(), TokenError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let claims = json::parse_map(payload).map_err(|_| {
            TokenError::Malformed(
                "the claims are nested more than 128 levels deep, or have a number out of range",
            )
        })?;
        if self.0.iter().all(|predicate| predicate(&claims)) {
            Ok(())
        } else {
            Err(TokenError::UnmetClaim)
        }
    }
}

impl fmt::Debug for ClaimPredicates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} functions", self.0.len())
    }
}
