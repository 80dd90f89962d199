//! A decision, in words.

use std::fmt;

/// Whether a caller may call, and by which rule: for the operator. Made by
/// [`Policy::explain`](crate::Policy::explain).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    is_allowed: bool,
    reason: String,
}

impl Decision {
    pub(super) fn allowed(reason: String) -> Self {
        Self {
            is_allowed: true,
            reason,
        }
    }

    pub(super) fn refused(reason: String) -> Self {
        Self {
            is_allowed: false,
            reason,
        }
    }

    /// Whether the caller may call.
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }

    /// Which rule and which member decided.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn into_reason(self) -> String {
        self.reason
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_allowed {
            "allowed"
        } else {
            "refused"
        };
        write!(f, "{verdict}: {}", self.reason)
    }
}
