//! Key status per issuer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::clock_offset::ClockOffset;
use super::error::KeysError;
use super::store::KeyStore;
use crate::jose::key_set::{KeySet, MAX_CANDIDATES};
use crate::telemetry;
use crate::text::{excerpt, printable, shorten_middle};
use crate::token_review::TokenReviewHealth;

/// The longest text of an error in the `Display` form of an [`IssuerHealth`], in bytes.
const MAX_ERROR_BYTES: usize = 500;

/// The key status of an issuer, as returned by [`OidcGuard::health`](crate::OidcGuard::health).
///
/// Its `Display` form is one line with the number of keys and, if the last fetch failed, the whole chain of causes, such as
/// `no keys of https://id.example: GET https://id.example/.well-known/openid-configuration failed: …: Connection refused (os
/// error 111); check host and port, …`. Control characters are escaped, and a longer cause is shortened to about 500 bytes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IssuerHealth {
    /// The issuer's label, as in logs and metrics: the configured issuer, or `kubernetes (in cluster)` for a cluster whose
    /// issuer is known to its API server only.
    pub issuer: String,
    /// Whether the issuer's tokens can be verified now: at least one key is usable, and the keys are not stale.
    pub is_ready: bool,
    /// Whether the guard is ready only while this issuer [is](Self::is_ready), whatever other issuers are; see
    /// [`ready_when`](crate::OidcGuardBuilder::ready_when).
    pub is_required: bool,
    /// The number of different keys that can verify signatures.
    pub usable_keys: usize,
    /// The keys of the set that cannot be used.
    pub skipped_keys: Vec<SkippedKey>,
    /// Unusual properties of the key set, for an operator to read: different keys that share a `kid`, or an issuer that
    /// lists no supported algorithm. The keys are used nevertheless.
    pub warnings: Vec<String>,
    /// The first 16 hexadecimal digits of a hash of the key set, or `None` before the first successful fetch. It is equal for
    /// replicas that have the same keys.
    pub key_set_hash: Option<String>,
    /// When the current keys were fetched, or `None` before the first success.
    pub last_success: Option<SystemTime>,
    /// Why the last fetch failed, or why its keys cannot be used; `None` if it succeeded. Its text contains the whole chain of
    /// causes.
    pub last_error: Option<Arc<KeysError>>,
    /// The difference between the issuer's clock and this machine's at the last success. `None` before that, for keys that did
    /// not come over HTTP, and if the response had no `Date` header.
    pub clock_offset: Option<ClockOffset>,
    /// The time until the next fetch, or `None` while one is in flight and for keys that never change.
    pub next_attempt: Option<Duration>,
    /// The state of the reviews of the issuer's tokens, or `None` if they are not reviewed.
    pub token_review: Option<TokenReviewHealth>,
}

/// A key of a key set that cannot be used, and the reason. Other keys of the set are not affected.
///
/// ```
/// # fn main() -> Result<(), tower_oidc_guard::KeysError> {
/// use tower_oidc_guard::{Algorithm, JwkSet};
///
/// let symmetric = r#"{"keys":[{"kty":"oct","kid":"hmac","k":"AAAA"}]}"#;
/// let keys = JwkSet::from_json(symmetric, [Algorithm::ES256])?;
/// let skipped = &keys.skipped_keys()[0];
/// assert_eq!(skipped.kid.as_deref(), Some("hmac"));
/// assert_eq!(skipped.to_string(), format!("key \"hmac\": {}", skipped.reason));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedKey {
    /// The `kid` of the key, shortened to 100 characters, or `None` if it has none.
    pub kid: Option<String>,
    /// Why the key cannot be used: one of a fixed set of texts.
    pub reason: &'static str,
}

impl SkippedKey {
    /// Returns the skipped keys of a set.
    pub(crate) fn list(keys: &KeySet) -> Vec<Self> {
        let skipped = keys.skipped().map(|(kid, reason)| Self {
            kid: kid.map(excerpt),
            reason,
        });
        skipped.collect()
    }
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "key {kid:?}: {}", self.reason),
            None => write!(f, "key without kid: {}", self.reason),
        }
    }
}

impl fmt::Display for IssuerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuer = printable(&self.issuer);
        let error = self.last_error.as_ref().map(|error| {
            let error = error.to_string();
            shorten_middle(&printable(&error), MAX_ERROR_BYTES)
        });
        self.fmt_keys(f, &issuer, error)?;
        match &self.token_review {
            Some(reviews) => write!(f, "; {reviews}"),
            None => Ok(()),
        }
    }
}

impl IssuerHealth {
    fn fmt_keys(
        &self,
        f: &mut fmt::Formatter<'_>,
        issuer: &str,
        error: Option<String>,
    ) -> fmt::Result {
        match (self.is_ready, error) {
            (true, None) => write!(f, "keys of {issuer}: {} usable", self.usable_keys),
            (true, Some(error)) => write!(
                f,
                "keys of {issuer}: {} usable, but the last fetch failed: {error}",
                self.usable_keys
            ),
            (false, None) if self.last_success.is_none() => {
                write!(f, "no keys of {issuer}: they have not been fetched yet")
            }
            (false, Some(error)) if self.usable_keys == 0 => {
                write!(f, "no keys of {issuer}: {error}")
            }
            (false, error) => {
                write!(
                    f,
                    "no keys of {issuer}: those fetched last are too old to be used (`stale_after`)"
                )?;
                error.map_or(Ok(()), |error| write!(f, ": {error}"))
            }
        }
    }
}

impl KeyStore {
    /// Returns the status of the keys. Starts no fetch.
    pub(super) fn health(&self) -> IssuerHealth {
        let now = Instant::now();
        let current = self.current();
        let keys = current.as_ref().map(|current| &*current.keys);
        if let Some(current) = &current {
            let age = now.saturating_duration_since(current.fetched);
            if let Some(label) = self.metrics_label() {
                telemetry::record_keys_age(label, age);
            }
        }
        let is_fresh = current
            .as_ref()
            .is_some_and(|current| self.is_fresh(current, now));
        let usable_keys = keys.map_or(0, KeySet::usable);
        let due = self.with_schedule(|schedule| schedule.next_due());
        let due = due.filter(|_| self.source.may_change());
        IssuerHealth {
            issuer: self.label.to_string(),
            is_ready: is_fresh && usable_keys > 0,
            // Set by the verifier, which knows the settings.
            is_required: false,
            usable_keys,
            skipped_keys: keys.map_or(Vec::new(), SkippedKey::list),
            warnings: keys.map_or(Vec::new(), warnings),
            key_set_hash: current.as_ref().map(|current| current.hash.clone()),
            clock_offset: current.as_ref().and_then(|current| current.clock_offset),
            last_success: current.map(|current| SystemTime::UNIX_EPOCH + current.fetched_wall),
            last_error: self.outcome.borrow().error.clone(),
            next_attempt: due.map(|due| due.saturating_duration_since(now)),
            // Set by the verifier, which has the reviews.
            token_review: None,
        }
    }
}

/// Describes what is unusual about a key set.
pub(super) fn warnings(keys: &KeySet) -> Vec<String> {
    let shared = keys.shared_kids().map(|(kid, count)| {
        format!(
            "{count} different keys have the kid {:?}; a token with this kid is verified with the first {MAX_CANDIDATES} of them at most",
            excerpt(kid)
        )
    });
    let none_supported = keys.algorithms.is_empty().then(|| {
        "none of the signature algorithms that the issuer lists is supported, so all its tokens are rejected".to_owned()
    });
    none_supported.into_iter().chain(shared).collect()
}
