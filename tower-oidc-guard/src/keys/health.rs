//! How an issuer's keys fare.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::KeysError;

/// How an issuer's keys fare. Made by [`OidcGuard::health`](crate::OidcGuard::health).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IssuerHealth {
    /// The issuer, as configured.
    pub issuer: String,
    /// Whether its tokens can be verified now: its keys are there, and not stale.
    pub is_ready: bool,
    /// How many keys can verify something.
    pub usable_keys: usize,
    /// Why keys are passed over, a reason for each.
    pub passed_over: Vec<&'static str>,
    /// A hash of the key set, to tell whether replicas have the same one.
    pub key_set_hash: Option<String>,
    /// When the keys at hand were asked for.
    pub last_success: Option<SystemTime>,
    /// What went wrong at the last attempt, if anything did.
    pub last_error: Option<Arc<KeysError>>,
    /// How long it is until the next attempt; nothing while one is under way.
    pub next_attempt: Option<Duration>,
}
