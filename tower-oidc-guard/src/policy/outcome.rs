//! The outcome of evaluating a policy, with or without its reason.

use std::fmt;

use crate::text::printable;

/// The decision of a policy, or of a part of one, on a caller. `R` is the type of its reason.
pub(super) enum Outcome<R> {
    /// A deny list matches the caller, whatever other parts of the policy allow.
    Denied(R),
    /// The caller is allowed.
    Allowed(R),
    /// This part of the policy does not allow the caller. Another part may.
    NotAllowed(R),
}

/// The reason of a decision: a `String` for explanations, `()` for decisions on requests.
///
/// Both use the same evaluation, so an explanation cannot differ from the decision that it explains.
pub(super) trait Reason: Sized {
    /// Creates a reason. The text is composed only if it is needed.
    fn from_text(text: impl FnOnce() -> String) -> Self;

    /// Combines several reasons into one.
    fn join(reasons: Vec<Self>) -> Self;
}

impl Reason for () {
    fn from_text(_: impl FnOnce() -> String) -> Self {}

    fn join(_: Vec<Self>) -> Self {}
}

impl Reason for String {
    fn from_text(text: impl FnOnce() -> String) -> Self {
        text()
    }

    fn join(reasons: Vec<Self>) -> Self {
        if reasons.is_empty() {
            "the policy is empty".to_owned()
        } else {
            reasons.join("; ")
        }
    }
}

impl<R: Reason> Outcome<R> {
    pub(super) fn denied(text: impl FnOnce() -> String) -> Self {
        Self::Denied(R::from_text(text))
    }

    pub(super) fn not_allowed(text: impl FnOnce() -> String) -> Self {
        Self::NotAllowed(R::from_text(text))
    }
}

/// How the decision on a request would change if another policy was enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// It is admitted, and would be rejected.
    WouldReject,
    /// It is rejected, and would be admitted.
    WouldAllow,
}

impl Difference {
    pub(crate) const ALL: [Self; 2] = [Self::WouldReject, Self::WouldAllow];

    /// Returns the value of the metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::WouldReject => "would_reject",
            Self::WouldAllow => "would_allow",
        }
    }

    /// Returns the difference as the end of a sentence about requests.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::WouldReject => "would be rejected",
            Self::WouldAllow => "would be allowed",
        }
    }
}

/// A decision of a policy on a caller, with its reason, for operators. Returned by [`Policy::explain`](crate::Policy::explain).
///
/// Its `Display` form is `allowed: ` or `rejected: ` and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    is_allowed: bool,
    reason: String,
}

impl From<Outcome<String>> for Decision {
    fn from(outcome: Outcome<String>) -> Self {
        let is_allowed = matches!(outcome, Outcome::Allowed(_));
        let (Outcome::Denied(reason) | Outcome::Allowed(reason) | Outcome::NotAllowed(reason)) =
            outcome;
        // The reason contains text from the token.
        let reason = printable(&reason).into_owned();
        Self { is_allowed, reason }
    }
}

impl Decision {
    /// Returns whether the caller is allowed.
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    /// Returns which rule and which member decided. It may contain text from the token, in which characters that are not
    /// printable are escaped.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_allowed {
            "allowed"
        } else {
            "rejected"
        };
        write!(f, "{word}: {}", self.reason)
    }
}
