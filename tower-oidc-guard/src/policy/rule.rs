//! One rule: who may, who may not, and what else is asked.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::bound::TrustedNames;
use super::members::Members;
use super::{Decision, PolicyError, claims};
use crate::identity::Identity;

type Check = Arc<dyn Fn(&Identity) -> bool + Send + Sync>;

/// Lets in whom it allows, and does not deny, and who has all that is asked for.
pub(crate) struct Rule {
    pub(super) allowed: Members,
    pub(super) denied: Members,
    pub(super) claims: Vec<(String, Value)>,
    pub(super) audiences: Vec<String>,
    pub(super) checks: Vec<Check>,
}

impl Rule {
    pub(super) fn allowing(allowed: Members) -> Self {
        Self {
            allowed,
            denied: Members::default(),
            claims: Vec::new(),
            audiences: Vec::new(),
            checks: Vec::new(),
        }
    }

    pub(super) fn allows(&self, caller: &Identity) -> bool {
        self.allowed.contains(caller)
            && !self.denied.contains(caller)
            && self.has_audience(caller)
            && claims::missing(&self.claims, caller).is_none()
            && self.checks.iter().all(|check| check(caller))
    }

    /// The same in words.
    pub(super) fn explain(&self, caller: &Identity) -> Decision {
        if let Some(member) = self.denied.find(caller) {
            return Decision::refused(format!("{member} is denied"));
        }
        let Some(member) = self.allowed.find(caller) else {
            let (subject, issuer) = (caller.subject(), caller.issuer());
            return Decision::refused(format!("{subject} of {issuer} is no allowed member"));
        };
        if !self.has_audience(caller) {
            let wanted = self.audiences.join(", ");
            return Decision::refused(format!("the token is for none of the audiences {wanted}"));
        }
        if let Some(claim) = claims::missing(&self.claims, caller) {
            return Decision::refused(format!("the claim {claim} is not what is asked for"));
        }
        match self.checks.iter().position(|check| !check(caller)) {
            Some(index) => Decision::refused(format!("check {} is not content", index + 1)),
            None => Decision::allowed(format!("{member} is an allowed member")),
        }
    }

    /// Whether a request without a token may pass: nothing is asked that only a token can say.
    pub(super) fn allows_anyone(&self) -> bool {
        self.allowed.has_anyone()
            && !self.denied.has_anyone()
            && self.claims.is_empty()
            && self.audiences.is_empty()
            && self.checks.is_empty()
    }

    pub(super) fn lets_all_verified_in(&self) -> bool {
        let asks_nothing = self.claims.is_empty() && self.checks.is_empty();
        self.allowed.has_any_verified() && asks_nothing
    }

    pub(super) fn check(&self, trusted: &TrustedNames) -> Result<(), PolicyError> {
        self.allowed.check(trusted)?;
        self.denied.check(trusted)
    }

    fn has_audience(&self, caller: &Identity) -> bool {
        let mut own = caller.audiences().iter();
        self.audiences.is_empty() || own.any(|audience| self.audiences.contains(audience))
    }
}

/// Functions cannot be compared: two rules with any differ.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.allowed == other.allowed
            && self.denied == other.denied
            && self.claims == other.claims
            && self.audiences == other.audiences
            && self.checks.is_empty()
            && other.checks.is_empty()
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("allowed", &self.allowed)
            .field("denied", &self.denied)
            .field("claims", &self.claims)
            .field("audiences", &self.audiences)
            .field("checks", &self.checks.len())
            .finish()
    }
}
