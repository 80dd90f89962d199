//! How a source of tokens fares.

use std::time::SystemTime;

use crate::error::Error;

/// How a source of tokens fares.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenHealth {
    /// Whether there is a token that can be sent now.
    pub present: bool,
    /// When the newest token expires, if there is one and it says.
    pub expires_at: Option<SystemTime>,
    /// When the newest token was taken in, if there is one.
    pub last_rotation: Option<SystemTime>,
    /// What was wrong at the last look for a newer one, if anything.
    pub last_error: Option<Error>,
}
