//! Requirements on the claims of a verified token, beyond those of [`ClaimRules`](super::claim_rules::ClaimRules).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::claim_matcher::ClaimMatcher;
use super::claim_path::ClaimPath;
use super::error::TokenError;
use super::json;

/// Claims that a token must have, each with a requirement on its value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RequiredClaims(Vec<RequiredClaim>);

/// A claim that a token must have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RequiredClaim {
    pub(crate) path: ClaimPath,
    pub(crate) matcher: ClaimMatcher,
}

impl RequiredClaim {
    pub(crate) fn new(name: impl Into<String>, matcher: ClaimMatcher) -> Self {
        Self {
            path: ClaimPath::parse(name),
            matcher,
        }
    }

    /// Returns the name as configured.
    pub(crate) fn name(&self) -> &str {
        self.path.as_str()
    }

    /// Returns the name if the claim is not nested.
    pub(crate) fn top_level_name(&self) -> Option<&str> {
        self.path.is_top_level().then(|| self.path.top())
    }

    /// Returns why the claim cannot be required, or `None` if it can.
    pub(crate) fn fault(&self) -> Option<String> {
        let fault = self.path.fault().map(str::to_owned);
        fault.or_else(|| self.matcher.fault())
    }

    /// Returns whether the requirement is met, given the JSON text of the top-level claim.
    fn is_met_by(&self, top: &str) -> bool {
        let found = self.path.resolve(top);
        found.is_some_and(|found| self.matcher.matches(found))
    }
}

impl RequiredClaims {
    /// Requires a claim.
    pub(crate) fn push(&mut self, claim: RequiredClaim) {
        self.0.push(claim);
    }

    /// Returns whether the list is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of the required claims.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(RequiredClaim::name)
    }

    /// Returns the required claims.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RequiredClaim> {
        self.0.iter()
    }

    /// Returns the first claim that cannot be required, and why.
    pub(crate) fn first_invalid(&self) -> Option<(&str, String)> {
        let mut all = self.0.iter();
        all.find_map(|claim| Some((claim.name(), claim.fault()?)))
    }

    /// Returns the first required claim that the payload of a verified token does not have as required, or `None` if the payload
    /// meets all requirements.
    ///
    /// The payload is read once, and the value of a nested claim once for each part of its name.
    pub(crate) fn first_unmet(&self, payload: &[u8]) -> Option<&RequiredClaim> {
        let first = self.0.first()?;
        let Ok(payload) = str::from_utf8(payload) else {
            return Some(first);
        };
        // The names of claims in a verified payload are different, so each requirement is met at most once.
        let mut met = 0;
        let read = json::for_each_member(payload, |name, value| {
            let of_claim = self.0.iter().filter(|claim| *claim.path.top() == *name);
            met += of_claim
                .filter(|claim| claim.is_met_by(value.get()))
                .count();
        });
        if read.is_err() {
            return Some(first);
        }
        if met == self.0.len() {
            return None;
        }
        let unmet = self.list_unmet(payload).into_iter().next();
        Some(unmet.map_or(first, |unmet| unmet.claim))
    }

    /// Returns all requirements that well-formed claims do not meet.
    pub(crate) fn list_unmet<'c, 'p>(&'c self, payload: &'p str) -> Vec<UnmetClaim<'c, 'p>> {
        let mut found = vec![None; self.0.len()];
        // An error leaves the claims behind it missing.
        let _ = json::for_each_member(payload, |name, value| {
            for (found, claim) in found.iter_mut().zip(&self.0) {
                if *claim.path.top() == *name {
                    *found = claim.path.resolve(value.get());
                }
            }
        });
        let all = self.0.iter().zip(found);
        let all = all.map(|(claim, found)| UnmetClaim { claim, found });
        let is_unmet = |unmet: &UnmetClaim<'_, '_>| {
            let matcher = &unmet.claim.matcher;
            !unmet.found.is_some_and(|found| matcher.matches(found))
        };
        all.filter(is_unmet).collect()
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

/// A required claim that a token does not have as required.
pub(crate) struct UnmetClaim<'c, 'p> {
    pub(crate) claim: &'c RequiredClaim,
    /// The JSON text of the claim, or `None` if the token does not have it.
    pub(crate) found: Option<&'p str>,
}

impl FromIterator<RequiredClaim> for RequiredClaims {
    fn from_iter<I: IntoIterator<Item = RequiredClaim>>(claims: I) -> Self {
        Self(claims.into_iter().collect())
    }
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
