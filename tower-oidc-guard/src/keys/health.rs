//! Key status per issuer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::{KeysError, excerpt};
use crate::jose::key_set::{KeySet, MAX_CANDIDATES};

/// The key status of an issuer, as returned by [`OidcGuard::health`](crate::OidcGuard::health).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IssuerHealth {
    /// The issuer, as configured.
    pub issuer: String,
    /// Whether its tokens can be verified now: there is a usable key, and the keys are not stale.
    pub is_ready: bool,
    /// How many different keys can verify something.
    pub usable_keys: usize,
    /// The reason of each key that is skipped.
    pub passed_over: Vec<&'static str>,
    /// What is unusual about the key set, for an operator to read: different keys that share a `kid`, or an issuer that
    /// lists no supported algorithm. The keys are used all the same.
    pub warnings: Vec<String>,
    /// A hash of the key set, to tell whether replicas have the same one.
    pub key_set_hash: Option<String>,
    /// When the current keys were fetched.
    pub last_success: Option<SystemTime>,
    /// Why the last fetch failed, or why its keys are of no use; `None` if there is nothing wrong.
    pub last_error: Option<Arc<KeysError>>,
    /// How long it is until the next fetch, or `None` while one is under way and for keys that are given.
    pub next_attempt: Option<Duration>,
}

/// Describes what is unusual about a key set.
pub(super) fn warnings(keys: &KeySet) -> Vec<String> {
    let shared = keys.shared_kids().map(|(kid, count)| {
        format!(
            "{count} different keys share the kid {:?}; a token that names it is verified with the first {MAX_CANDIDATES} of them at most",
            excerpt(kid)
        )
    });
    let none = keys.algorithms.is_empty().then(|| {
        "the issuer lists signature algorithms, but none that is supported, so all its tokens are refused".to_owned()
    });
    none.into_iter().chain(shared).collect()
}
