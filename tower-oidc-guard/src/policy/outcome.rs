//! What a policy, or a part of one, says of a caller.

use std::fmt;

use crate::text::printable;

/// What a policy, or a part of one, says of a caller, with the reason if it is asked for.
pub(super) enum Outcome<R> {
    /// A deny list keeps the caller out, whatever other parts of the policy say.
    Denied(R),
    /// The caller is allowed.
    Allowed(R),
    /// The caller is not allowed here; another part of the policy may allow it.
    NotAllowed(R),
}

/// A reason: text if a person is to read it, nothing if only the decision counts.
///
/// One evaluation serves both, so that an explanation cannot differ from the decision that it explains.
pub(super) trait Reason: Sized {
    /// Makes a reason of a text that is composed only if it is read.
    fn from_text(text: impl FnOnce() -> String) -> Self;

    /// Makes one reason of several.
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
        match reasons.is_empty() {
            true => "no policy is named".to_owned(),
            false => reasons.join("; "),
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

/// Whether a caller may call, and why: for the operator. Returned by [`Policy::explain`](crate::Policy::explain).
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
        // The reason names the caller as its token does.
        let reason = printable(&reason).into_owned();
        Self { is_allowed, reason }
    }
}

impl Decision {
    /// Returns whether the caller may call.
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    /// Returns which rule and which member decided. Characters that are not printable are escaped: text of a token may be
    /// part of it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.is_allowed {
            true => "allowed",
            false => "refused",
        };
        write!(f, "{word}: {}", self.reason)
    }
}
