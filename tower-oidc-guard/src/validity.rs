//! How long a verified token may be used.

use std::time::Duration;

use crate::clock::Clock;
use crate::revocation::Revocation;

/// When a token ends: by its time, or because it is revoked.
#[derive(Debug, Clone)]
#[allow(dead_code)]
pub(crate) struct Validity {
    /// The time since the Unix epoch from which the token is refused: `exp` plus the issuer's leeway.
    pub(crate) end: Duration,
    /// The clock that the token was verified with.
    pub(crate) clock: Clock,
    /// Whether the token is revoked; `None` if nothing would tell.
    pub(crate) revocation: Option<Revocation>,
}
