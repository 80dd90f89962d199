//! How long a verified token may be used.

use std::time::Duration;

use crate::clock::Clock;
use crate::identity::TokenEnd;
use crate::revocation::Revocation;

/// When a token ends: by its time, or because it is revoked.
#[derive(Debug, Clone)]
pub(crate) struct Validity {
    /// The time since the Unix epoch from which the token is refused: `exp` plus the issuer's leeway.
    pub(crate) end: Duration,
    /// The clock that the token was verified with.
    pub(crate) clock: Clock,
    /// Whether the token is revoked; `None` if nothing would tell.
    pub(crate) revocation: Option<Revocation>,
}

impl Validity {
    /// Returns the time until the token expires, or why it is not valid any longer.
    pub(crate) fn remaining(&self) -> Result<Duration, TokenEnd> {
        if let Some(revocation) = &self.revocation
            && revocation.is_revoked()
        {
            return Err(TokenEnd::Revoked);
        }
        let remaining = self.end.saturating_sub(self.clock.since_epoch());
        if remaining.is_zero() {
            return Err(TokenEnd::Expired);
        }
        Ok(remaining)
    }
}
