//! A rule of a policy: an allow list, a deny list, and further requirements.

use std::fmt;
use std::sync::Arc;

use super::PolicyError;
use super::members::Members;
use super::outcome::{Outcome, Reason};
use super::public_issuer::PublicIssuer;
use super::resolved::PolicyIssuers;
use crate::identity::Identity;
use crate::jose::required_claims::RequiredClaims;
use crate::jose::scopes::scope_fault;
use crate::text::{self, quoted_excerpt};

type Condition = Arc<dyn Fn(&Identity) -> bool + Send + Sync>;

/// A rule that allows the callers on its allow list that meet all requirements, and denies those on its deny list.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(super) allowed: Members,
    pub(super) denied: Members,
    pub(super) claims: RequiredClaims,
    /// The token has to have all of these scopes.
    pub(super) scopes: Vec<String>,
    /// The token has to be for one of these audiences. If the list is empty, any accepted audience is enough.
    pub(super) audiences: Vec<String>,
    pub(super) conditions: Vec<Condition>,
}

impl Rule {
    pub(super) fn allowing(allowed: Members) -> Self {
        Self {
            allowed,
            denied: Members::default(),
            claims: RequiredClaims::default(),
            scopes: Vec::new(),
            audiences: Vec::new(),
            conditions: Vec::new(),
        }
    }

    /// Requires a scope, once.
    pub(super) fn require_scope(&mut self, scope: String) {
        if !self.scopes.contains(&scope) {
            self.scopes.push(scope);
        }
    }

    /// Decides on a caller; `None` is a request without a token.
    pub(super) fn decide<R: Reason>(&self, caller: Option<&Identity>) -> Outcome<R> {
        if self.denies(caller) {
            return Outcome::denied(|| match caller {
                Some(caller) => self.denied.denial(caller),
                None => "a request without a token may be from a caller that is denied".to_owned(),
            });
        }
        match caller {
            Some(caller) => self.decide_verified(caller),
            None => self.decide_anonymous(),
        }
    }

    fn decide_verified<R: Reason>(&self, caller: &Identity) -> Outcome<R> {
        let outcome = self.decide_without_scopes(caller);
        if self.scopes.is_empty() || !matches!(outcome, Outcome::Allowed(_)) {
            return outcome;
        }
        let mut missing = self.scopes.iter().filter(|scope| !has_scope(caller, scope));
        match missing.next() {
            None => outcome,
            Some(first) => Outcome::not_allowed(|| {
                let all = missing.fold(first.clone(), |all, scope| all + " " + scope);
                format!("the token does not have the required scope {all}")
            }),
        }
    }

    /// Returns whether the rule would allow a caller with these claims whose token had all required scopes.
    pub(super) fn allows_but_for_scopes(&self, caller: &Identity) -> bool {
        let is_allowed = matches!(
            self.decide_without_scopes::<()>(caller),
            Outcome::Allowed(())
        );
        is_allowed && !self.denies(Some(caller))
    }

    /// Decides on a caller that is not denied, as if its token had all required scopes.
    fn decide_without_scopes<R: Reason>(&self, caller: &Identity) -> Outcome<R> {
        if !self.allowed.contains(caller) {
            return Outcome::not_allowed(|| {
                let (subject, issuer) = (caller.subject(), caller.issuer());
                format!("{subject} of {issuer} is not an allowed member")
            });
        }
        if !self.has_audience(caller) {
            return Outcome::not_allowed(|| {
                let required = self.audiences.join(", ");
                format!("the token is for none of the audiences {required}")
            });
        }
        if let Some(claim) = self.claims.first_unmet(caller.payload()) {
            return Outcome::not_allowed(|| {
                let (name, expected) = (quoted_excerpt(claim.name()), &claim.matcher);
                format!(
                    "the token does not have the required value of the claim {name}: expected {expected}"
                )
            });
        }
        match self
            .conditions
            .iter()
            .position(|condition| !condition(caller))
        {
            Some(index) => Outcome::not_allowed(|| {
                format!("condition {} of `require` returned false", index + 1)
            }),
            None => Outcome::Allowed(R::from_text(|| {
                let member = self.allowed.find(caller).unwrap_or_default();
                format!("{member} is an allowed member")
            })),
        }
    }

    /// Decides on a request without a token. It is allowed only if the rule requires nothing that a token would have to
    /// contain.
    fn decide_anonymous<R: Reason>(&self) -> Outcome<R> {
        let requires_nothing = self.claims.is_empty()
            && self.scopes.is_empty()
            && self.conditions.is_empty()
            && self.audiences.is_empty();
        if self.allowed.has_anyone() && requires_nothing {
            Outcome::Allowed(R::from_text(|| "allUsers is an allowed member".to_owned()))
        } else {
            Outcome::not_allowed(|| "a token is required".to_owned())
        }
    }

    /// Returns whether the deny list matches a caller. A request without a token may be from any of the denied callers.
    pub(super) fn denies(&self, caller: Option<&Identity>) -> bool {
        match caller {
            Some(caller) => self.denied.denies(caller),
            None => !self.denied.is_empty(),
        }
    }

    /// Returns whether the rule allows anyone who can get a token of a public issuer. `is_meant` returns whether an issuer is that
    /// one; it gets `None` for every issuer.
    pub(super) fn allows_everyone_of(
        &self,
        public: PublicIssuer,
        is_meant: impl Fn(Option<&str>) -> bool,
    ) -> bool {
        self.admits_outsiders(public) && self.allowed.has_any_verified(is_meant)
    }

    /// Returns whether anyone who can get a token of a public issuer can get one that meets the requirements.
    pub(super) fn admits_outsiders(&self, public: PublicIssuer) -> bool {
        !public.is_restricted_by(&self.claims)
            && self.scopes.is_empty()
            && self.conditions.is_empty()
    }

    /// Checks everything that can be checked without the trusted issuers.
    pub(super) fn check_syntax(&self) -> Result<(), PolicyError> {
        for audience in &self.audiences {
            check_audience(audience)?;
        }
        for scope in &self.scopes {
            check_scope(scope)?;
        }
        if let Some((name, reason)) = self.claims.first_invalid() {
            return Err(PolicyError::InvalidClaim {
                claim: name.to_owned(),
                reason,
            });
        }
        Ok(())
    }

    /// Checks the rule against the issuers that a guard trusts.
    pub(super) fn check_issuers(&self, trusted: &PolicyIssuers) -> Result<(), PolicyError> {
        self.check_syntax()?;
        let mut audiences = self.audiences.iter();
        if let Some(audience) = audiences.find(|audience| !trusted.accepts_audience(audience)) {
            return Err(PolicyError::UnknownAudience {
                audience: audience.clone(),
            });
        }
        self.allowed.check_issuers(trusted)?;
        self.denied.check_issuers(trusted)
    }

    fn has_audience(&self, caller: &Identity) -> bool {
        let mut own = caller.audiences().iter();
        self.audiences.is_empty() || own.any(|audience| self.audiences.contains(audience))
    }
}

/// Checks that a token can have an audience.
pub(super) fn check_audience(audience: &str) -> Result<(), PolicyError> {
    match text::audience_fault(audience) {
        None => Ok(()),
        Some(reason) => Err(PolicyError::InvalidAudience {
            audience: audience.to_owned(),
            reason,
        }),
    }
}

/// Checks that a token can have a scope.
pub(super) fn check_scope(scope: &str) -> Result<(), PolicyError> {
    match scope_fault(scope) {
        None => Ok(()),
        Some(reason) => Err(PolicyError::InvalidScope {
            scope: scope.to_owned(),
            reason: reason.to_owned(),
        }),
    }
}

/// Returns whether a caller's token has a scope.
pub(super) fn has_scope(caller: &Identity, scope: &str) -> bool {
    caller.scopes().any(|own| own == scope)
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("allowed", &self.allowed)
            .field("denied", &self.denied)
            .field("claims", &self.claims)
            .field("scopes", &self.scopes)
            .field("audiences", &self.audiences)
            .field("conditions", &self.conditions.len())
            .finish()
    }
}
