//! Verifies tokens of trusted issuers.
//!
//! For each token, in this order:
//!
//! 1. A token in the [cache](TokenCache) is accepted if its times are still valid and its issuer still has the keys that
//!    verified it.
//! 2. The token is decoded, and its `iss` determines the [issuer](TrustedIssuer).
//! 3. The claims are validated, then the signature is verified with the issuer's keys; see [`jose`](crate::jose).
//! 4. If the signature cannot be verified with the available keys, the issuer's keys are fetched again, within limits, and
//!    the token waits for them.
//! 5. If the issuer's tokens are reviewed, the token waits until the cluster's API server has confirmed it; see
//!    [`token_review`](crate::token_review).

mod cache;
mod diagnosis;
mod error;
mod expected;
mod readiness;
mod trusted;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::cache::CacheLimits;
use self::cache::{CacheEntry, TokenCache};
pub(crate) use self::diagnosis::TokenChecks;
pub(crate) use self::error::FailedVerification;
pub use self::error::{NotReady, VerifyError};
pub(crate) use self::expected::alternatives;
pub use self::readiness::ReadyWhen;
pub(crate) use self::readiness::RequiredIssuers;
pub(crate) use self::trusted::{
    IssuerName, PendingReview, PendingToken, TokenStatus, TrustedIssuer,
};
use self::trusted::{PendingKeys, Verification};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::jose::{TokenError, UnverifiedJws, UnverifiedToken};
use crate::keys::health::IssuerHealth;
use crate::keys::store::CurrentKeys;
use crate::keys::{AwaitedFetch, jitter};
use crate::policy::{PolicyIssuer, PolicyIssuers};
use crate::telemetry;
use crate::token_review::{Knowledge, TokenReviews};

/// The longest time that a token waits for newer keys.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The last part of that time, as a fraction, over which the ends of the waits are spread. Requests that arrived together and
/// wait in vain are not all answered at the same moment, which would delay other requests.
const WAIT_JITTER: f64 = 0.05;

/// Verifies tokens of the issuers of one configuration. Cloning it copies a pointer.
#[derive(Clone)]
pub(crate) struct TokenVerifier(Arc<Inner>);

struct Inner {
    issuers: Vec<TrustedIssuer>,
    /// The index of the issuer for each configured `iss`.
    by_issuer: HashMap<String, usize>,
    /// The indices of the issuers that announce their `iss` with their keys.
    announced_with_keys: Vec<usize>,
    /// The issuers that must have usable keys for the guard to be ready.
    required: RequiredIssuers,
    cache: Option<TokenCache>,
    /// The limit on the length of a token.
    max_token_bytes: usize,
    clock: Clock,
}

impl TokenVerifier {
    pub(crate) fn new(
        issuers: Vec<TrustedIssuer>,
        required: RequiredIssuers,
        cache: Option<CacheLimits>,
        max_token_bytes: usize,
        clock: Clock,
    ) -> Self {
        let cache = cache.map(|limits| TokenCache::new(limits, issuers.len()));
        let (mut by_issuer, mut announced_with_keys) = (HashMap::new(), Vec::new());
        for (index, issuer) in issuers.iter().enumerate() {
            match &issuer.issuer {
                IssuerName::Configured(iss) => drop(by_issuer.insert(iss.to_string(), index)),
                IssuerName::FromKeys { .. } => announced_with_keys.push(index),
            }
            let others = issuer.other_issuers.iter();
            by_issuer.extend(others.map(|iss| (iss.clone(), index)));
        }
        Self(Arc::new(Inner {
            issuers,
            by_issuer,
            announced_with_keys,
            required,
            cache,
            max_token_bytes,
            clock,
        }))
    }

    /// Verifies a token that has to wait, without a policy.
    pub(crate) async fn verify_pending(
        &self,
        token: &[u8],
        pending: PendingToken,
    ) -> Result<Identity, FailedVerification> {
        let review = match pending {
            PendingToken::Review(review) => review,
            PendingToken::NewerKeys(pending) => {
                match self.verify_with_newer_keys(token, pending).await? {
                    WithNewerKeys::Verified(identity) => return Ok(identity),
                    WithNewerKeys::Review(review) => review,
                }
            }
        };
        self.confirm(token, review).await
    }

    /// Waits until the cluster's API server has confirmed a token that has passed all other checks.
    pub(crate) async fn confirm(
        &self,
        token: &[u8],
        pending: PendingReview,
    ) -> Result<Identity, FailedVerification> {
        let PendingReview {
            issuer: index,
            generation,
            mut identity,
        } = pending;
        let issuer = self.0.issuers.get(index);
        let issuer = issuer.ok_or(TokenError::UnknownIssuer)?;
        let Some(reviews) = &issuer.reviews else {
            return Ok(identity);
        };
        let review = match reviews.confirm(token, &identity).await {
            Ok(review) => review,
            Err(error) => {
                if let (VerifyError::InvalidToken(_), Some(cache)) = (&error, &self.0.cache) {
                    cache.remove(token);
                }
                return Err(issuer.failed_caller(error, identity));
            }
        };
        // Requests that arrive with a new token at the same time have an identity each, of which one learns of a revocation.
        if let Some(review) = &review
            && !identity.shares_revocation(review.identity())
        {
            identity = review.identity().clone();
        }
        if let Some(cache) = &self.0.cache {
            let entry = CacheEntry {
                identity: identity.clone(),
                issuer: index,
                generation,
                review,
            };
            cache.insert(token, entry);
        }
        Ok(identity)
    }

    /// Verifies a token that the available keys do not verify, as soon as there are newer keys.
    pub(crate) async fn verify_with_newer_keys(
        &self,
        token: &[u8],
        pending: PendingKeys,
    ) -> Result<WithNewerKeys, FailedVerification> {
        let deadline = Instant::now() + MAX_WAIT.mul_f64(1.0 - WAIT_JITTER * jitter());
        let PendingKeys {
            issuer: index,
            seen: first_seen,
            mut error,
        } = pending;
        let mut seen = first_seen.current.clone();
        loop {
            let issuer = self.0.issuers.get(index);
            let issuer = issuer.ok_or(TokenError::UnknownIssuer)?;
            let awaited = awaited_fetch(error);
            let newer = issuer
                .keys
                .wait_for_newer(seen.as_ref(), &first_seen, awaited, deadline);
            let newer = newer
                .await
                .map_err(|none| issuer.failed(none.into_error(error)))?;
            let generation = |current: &Arc<CurrentKeys>| current.generation;
            if seen.as_ref().map(generation) == Some(newer.generation) {
                // The fetch returned the same keys, so the result for the token would be the same.
                seen = Some(newer);
                continue;
            }
            match self.try_verify(token)? {
                TokenStatus::Verified(identity) => return Ok(WithNewerKeys::Verified(identity)),
                TokenStatus::Pending(PendingToken::Review(review)) => {
                    return Ok(WithNewerKeys::Review(review));
                }
                TokenStatus::Pending(PendingToken::NewerKeys(pending)) => {
                    (seen, error) = (pending.seen.current, pending.error);
                }
            }
        }
    }

    /// Verifies a token with the cache and the available keys, without waiting.
    pub(crate) fn try_verify(&self, token: &[u8]) -> Result<TokenStatus, FailedVerification> {
        let now = self.now();
        if let Some(cached) = self.verify_cached(token, now) {
            return cached;
        }
        let _timed = telemetry::VerificationTimer::start();
        let jws = UnverifiedJws::parse(token, self.0.max_token_bytes)?;
        let unverified = UnverifiedToken::parse(&jws)?;
        let index = self.index_of_issuer(unverified.issuer());
        let index = index.ok_or(TokenError::UnknownIssuer)?;
        let issuer = self.0.issuers.get(index);
        let issuer = issuer.ok_or(TokenError::UnknownIssuer)?;
        let Verification {
            status,
            generation,
            review,
        } = issuer.verify(index, token, unverified, now)?;
        let Some(cache) = &self.0.cache else {
            return Ok(status);
        };
        let entry = |identity: &Identity| CacheEntry {
            identity: identity.clone(),
            issuer: index,
            generation,
            review,
        };
        match &status {
            TokenStatus::Verified(identity) => cache.insert_verified(token, entry(identity)),
            TokenStatus::Pending(PendingToken::Review(pending)) => {
                cache.insert(token, entry(pending.identity()));
            }
            TokenStatus::Pending(PendingToken::NewerKeys(_)) => {}
        }
        Ok(status)
    }

    /// Returns the time since the Unix epoch by the clock that tokens are verified with.
    pub(crate) fn now(&self) -> Duration {
        self.0.clock.since_epoch()
    }

    /// Verifies a token with the cache. Returns `None` if it has no current entry for the token.
    fn verify_cached(
        &self,
        token: &[u8],
        now: Duration,
    ) -> Option<Result<TokenStatus, FailedVerification>> {
        // A token over the limit is never cached, so it need not be hashed.
        let is_within_limit = token.len() <= self.0.max_token_bytes;
        let cache = self.0.cache.as_ref().filter(|_| is_within_limit)?;
        let checked = cache.find(token, |entry| self.check_cached(entry, now))?;
        let unusable = match checked {
            Ok(identity) => {
                telemetry::record_cache_hit();
                return Some(Ok(TokenStatus::Verified(identity)));
            }
            Err(unusable) => unusable,
        };
        match unusable {
            Unusable::NoKeys => None,
            Unusable::OtherKeys { issuer, generation } => {
                cache.retain_generation(issuer, generation);
                None
            }
            Unusable::NotConfirmed(review) => {
                telemetry::record_cache_hit();
                Some(Ok(TokenStatus::Pending(PendingToken::Review(review))))
            }
            Unusable::Revoked(failed) => {
                telemetry::record_cache_hit();
                cache.remove(token);
                Some(Err(*failed))
            }
            Unusable::NotNow(failed) => {
                cache.remove(token);
                Some(Err(*failed))
            }
        }
    }

    /// Checks everything about a cached token that may have changed since it was verified. Writes nothing that threads share.
    #[inline]
    fn check_cached(&self, entry: &CacheEntry, now: Duration) -> Result<(), Unusable> {
        let issuer = self.0.issuers.get(entry.issuer).ok_or(Unusable::NoKeys)?;
        let generation = issuer.keys.generation().ok_or(Unusable::NoKeys)?;
        if generation != entry.generation {
            return Err(Unusable::OtherKeys {
                issuer: entry.issuer,
                generation,
            });
        }
        let times = entry.identity.times();
        if let Err(error) = issuer.claim_rules.validate_times(times, now) {
            return Err(Unusable::NotNow(Box::new(FailedVerification {
                caller: Some(entry.identity.clone()),
                ..issuer.failed_at(error, times, now)
            })));
        }
        let Some(reviews) = &issuer.reviews else {
            return Ok(());
        };
        let review = entry.review.as_ref();
        match review.map_or(Knowledge::Unknown, |token| reviews.check(token)) {
            Knowledge::Accepted => Ok(()),
            Knowledge::Refused(error) => {
                let failed = issuer.failed_caller(error.into(), entry.identity.clone());
                Err(Unusable::Revoked(Box::new(failed)))
            }
            Knowledge::Unknown => Err(Unusable::NotConfirmed(PendingReview {
                issuer: entry.issuer,
                generation,
                identity: entry.identity.clone(),
            })),
        }
    }

    /// Returns the index of the only issuer that may have issued a token with this `iss`.
    ///
    /// The cluster that this process runs in may have changed its `iss` to one that is not known yet, so it is that issuer if
    /// no other has the name.
    fn index_of_issuer(&self, iss: &str) -> Option<usize> {
        let inner = &self.0;
        let mut announced = inner.announced_with_keys.iter().copied();
        let accepts = |index: &usize| {
            let issuer = inner.issuers.get(*index);
            issuer.is_some_and(|issuer| issuer.accepts_issuer(iss))
        };
        let configured = inner.by_issuer.get(iss).copied();
        let known = configured.or_else(|| announced.clone().find(accepts));
        known.or_else(|| announced.next())
    }

    /// Returns the label of each issuer.
    pub(crate) fn issuer_labels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.issuers.iter().map(|issuer| &issuer.label)
    }

    /// Returns the issuers by the names that policies use for them.
    pub(crate) fn policy_issuers(&self) -> PolicyIssuers {
        let trusted = |issuer: &TrustedIssuer| PolicyIssuer {
            iss: issuer.configured_issuers.to_vec(),
            platform: issuer.platform,
            audiences: issuer.claim_rules.audiences.clone(),
            public: issuer.public(),
        };
        let issuers = self.0.issuers.iter().map(trusted).collect();
        PolicyIssuers { issuers }
    }

    /// Returns the `iss` of each issuer's new tokens, except for issuers for which it is not known yet.
    pub(crate) fn current_issuers(&self) -> Vec<String> {
        let issuers = self.0.issuers.iter();
        issuers
            .filter_map(TrustedIssuer::current_issuer)
            .map(|issuer| issuer.to_string())
            .collect()
    }

    /// Returns the trusted issuers.
    pub(crate) fn issuers(&self) -> &[TrustedIssuer] {
        &self.0.issuers
    }

    /// Takes over from another verifier: its cached tokens of issuers that are the same, and its place in metrics.
    ///
    /// Called before the first token is verified.
    #[cfg(feature = "policy-file")]
    pub(crate) fn succeed(&self, previous: &Self) {
        for issuer in &self.0.issuers {
            if let Some(reviews) = &issuer.reviews {
                reviews.take_effect();
            }
        }
        let (own, earlier) = (self.issuers(), previous.issuers());
        let was_ready = previous.is_ready(&previous.health());
        for issuer in own {
            let audiences = issuer.settings.audiences_to_check();
            issuer.keys.update(issuer.claim_rules.leeway, audiences);
            let is_kept = |earlier: &TrustedIssuer| Arc::ptr_eq(&earlier.keys, &issuer.keys);
            if was_ready && !earlier.iter().any(is_kept) {
                issuer.keys.join();
            }
        }
        for issuer in earlier {
            if own.iter().any(|own| Arc::ptr_eq(&own.keys, &issuer.keys)) {
                continue;
            }
            issuer.keys.retire();
            if !own.iter().any(|own| own.label == issuer.label) {
                telemetry::record_issuer_removed(&issuer.label);
            }
        }
        if let (Some(cache), Some(previous_cache)) = (&self.0.cache, &previous.0.cache) {
            let index_of =
                |earlier: &TrustedIssuer| own.iter().position(|own| own.verifies_like(earlier));
            let indices: Vec<_> = earlier.iter().map(index_of).collect();
            cache.adopt(previous_cache, |index| {
                indices.get(index).copied().flatten()
            });
        }
    }

    /// Starts fetching the keys of every issuer, without waiting.
    pub(crate) fn prefetch(&self) {
        for issuer in &self.0.issuers {
            issuer.keys.prefetch();
        }
    }

    /// Returns the key status of each issuer. Starts no fetch.
    pub(crate) fn health(&self) -> Vec<IssuerHealth> {
        let issuers = self.0.issuers.iter().enumerate();
        let health = |(index, issuer): (usize, &TrustedIssuer)| IssuerHealth {
            is_required: self.0.required.contains(index),
            token_review: issuer.reviews.as_deref().map(TokenReviews::health),
            ..issuer.keys.health()
        };
        let mut all: Vec<_> = issuers.map(health).collect();
        if all.iter().any(|issuer| issuer.is_ready) {
            for (issuer, health) in self.0.issuers.iter().zip(&mut all) {
                health.is_required &= !issuer.keys.is_joining();
            }
        }
        all
    }

    /// Returns whether the issuers with this status have the keys that the settings require.
    pub(crate) fn is_ready(&self, health: &[IssuerHealth]) -> bool {
        // Without the keys of any issuer, no request can be served.
        let may_join = health.iter().any(|issuer| issuer.is_ready);
        let is_ready = |index: usize| {
            let is_joining = |issuer: &TrustedIssuer| issuer.keys.is_joining();
            health.get(index).is_some_and(|issuer| issuer.is_ready)
                || may_join
                    && self.0.required.contains(index)
                    && self.0.issuers.get(index).is_some_and(is_joining)
        };
        self.0.required.are_ready(health.len(), is_ready)
    }

    /// Waits until the issuers that the settings require have usable keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the next fetch for such an issuer fails.
    pub(crate) async fn ready(&self) -> Result<(), NotReady> {
        // The fetches of all issuers run concurrently.
        self.prefetch();
        self.0.required.wait(&self.0.issuers).await
    }
}

/// Why the entry of a token in the cache cannot be used.
enum Unusable {
    /// Its issuer has no keys that may be used.
    NoKeys,
    /// The current keys of its issuer are not those that verified it.
    OtherKeys { issuer: usize, generation: u64 },
    /// The token is not valid at this time.
    NotNow(Box<FailedVerification>),
    /// The cluster's API server has to confirm the token.
    NotConfirmed(PendingReview),
    /// The cluster's API server has refused the token.
    Revoked(Box<FailedVerification>),
}

/// The status of a token that newer keys verify.
pub(crate) enum WithNewerKeys {
    /// The token is valid.
    Verified(Identity),
    /// The cluster's API server has to confirm it.
    Review(PendingReview),
}

/// Returns the fetch that a token with this error waits for.
///
/// Anyone can send bad signatures with a published `kid`, and tokens with any `iss`, while issuers hardly ever replace a key
/// without a new `kid` or change their name. Such tokens start a fetch if the limits permit it now, but do not wait for the
/// next one.
fn awaited_fetch(error: TokenError) -> AwaitedFetch {
    match error {
        TokenError::BadSignature | TokenError::UnknownIssuer => AwaitedFetch::Current,
        _ => AwaitedFetch::Next,
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("issuers", &self.0.by_issuer.keys())
            .finish_non_exhaustive()
    }
}
