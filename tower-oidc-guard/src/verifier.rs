//! One token in; the identity it proves, or the reason why not, out.

mod trusted;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::trusted::{Attempt, Named, NeedsNewerKeys, TrustedIssuer};
use crate::cache::{CacheLimits, Verdict, VerdictCache};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::jose::{Jws, Unverified};
use crate::keys::Patience;
use crate::keys::error::KeysError;
use crate::keys::health::IssuerHealth;
use crate::keys::store::Current;
use crate::policy::{TrustedName, TrustedNames};
use crate::rejection::Rejection;
use crate::telemetry;

/// How long a token waits for newer keys in all.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Verifies tokens of trusted issuers, wherever they come from: requests, queues, sockets.
///
/// Made by [`OidcGuard::verifier`](crate::OidcGuard::verifier). Cloning copies a pointer.
#[derive(Clone)]
pub struct TokenVerifier(Arc<Inner>);

/// Why a token is not taken, and whose it would have been.
pub(crate) struct Refusal {
    pub(crate) rejection: Rejection,
    /// The issuer as it is told, if it is a trusted one.
    pub(crate) issuer: Option<Arc<str>>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let issuer = None;
        Self { rejection, issuer }
    }
}

struct Inner {
    issuers: Vec<TrustedIssuer>,
    /// Which issuer bears a name.
    by_name: HashMap<String, usize>,
    /// Those whose names come with their keys.
    named_by_keys: Vec<usize>,
    cache: Option<VerdictCache>,
    /// The length of the longest token that is accepted.
    max_token_bytes: usize,
    clock: Clock,
}

impl TokenVerifier {
    pub(crate) fn new(
        issuers: Vec<TrustedIssuer>,
        cache: CacheLimits,
        max_token_bytes: usize,
        clock: Clock,
    ) -> Self {
        let cache = VerdictCache::new(cache, issuers.len());
        let (mut by_name, mut named_by_keys) = (HashMap::new(), Vec::new());
        for (index, issuer) in issuers.iter().enumerate() {
            match issuer.named {
                Named::BySettings => drop(by_name.insert(issuer.name.to_string(), index)),
                Named::ByItsKeys { .. } => named_by_keys.push(index),
            }
            by_name.extend(issuer.aliases.iter().map(|alias| (alias.clone(), index)));
        }
        Self(Arc::new(Inner {
            issuers,
            by_name,
            named_by_keys,
            cache,
            max_token_bytes,
            clock,
        }))
    }

    /// Verifies a token: its form, issuer, audience, times, algorithm and signature.
    ///
    /// A token that the current keys verify does not wait for anything. For any other that is acceptable except for its
    /// signature, the issuer is asked once for newer keys, as soon as the limits permit, and the call waits for the
    /// answer: 5 s at most in all. If the signature does not verify although there is a key of the token's `kid`, that is
    /// only done if the limits permit it now. Dropping the future stops nothing that others wait for.
    ///
    /// # Errors
    ///
    /// The reason why the token is refused. It is [`Rejection::KeysUnavailable`] only if there are no usable keys, such as
    /// before they have been fetched. Outside a tokio runtime no keys can be fetched, so it is that then too.
    ///
    /// # Panics
    ///
    /// If it has to wait in a tokio runtime without timers (`enable_time`).
    pub async fn verify(&self, token: impl AsRef<[u8]>) -> Result<Identity, Rejection> {
        let token = token.as_ref();
        let verified = match self.try_verify(token) {
            Ok(Attempt::Verified(identity)) => return Ok(identity),
            Ok(Attempt::NeedsNewerKeys(needs)) => self.verify_with_newer_keys(token, needs).await,
            Err(refusal) => Err(refusal),
        };
        verified.map_err(|refusal| refusal.rejection)
    }

    /// Verifies a token that the current keys have not verified, as soon as there are newer ones.
    pub(crate) async fn verify_with_newer_keys(
        &self,
        token: &[u8],
        needs: NeedsNewerKeys,
    ) -> Result<Identity, Refusal> {
        let deadline = Instant::now() + MAX_WAIT;
        let NeedsNewerKeys {
            issuer: index,
            seen: came,
            mut rejection,
        } = needs;
        let mut seen = came.current.clone();
        loop {
            let issuer = self.0.issuers.get(index);
            let issuer = issuer.ok_or(Rejection::UnknownIssuer)?;
            let newer =
                issuer
                    .keys
                    .newer_than(seen.as_ref(), &came, patience(&rejection), deadline);
            let newer = newer.await;
            let newer = newer.map_err(|none| issuer.refusal(none.rejection(rejection)))?;
            let generation = |current: &Arc<Current>| current.generation;
            if seen.as_ref().map(generation) == Some(newer.generation) {
                // The same keys again: they would say the same of the token.
                seen = Some(newer);
                continue;
            }
            match self.try_verify(token)? {
                Attempt::Verified(identity) => return Ok(identity),
                Attempt::NeedsNewerKeys(needs) => {
                    (seen, rejection) = (needs.seen.current, needs.rejection);
                }
            }
        }
    }

    /// Verifies a token with what is at hand, without waiting.
    pub(crate) fn try_verify(&self, token: &[u8]) -> Result<Attempt, Refusal> {
        let now = self.0.clock.since_epoch();
        if let Some(verdict) = self.cached(token, now) {
            return verdict.map(Attempt::Verified);
        }
        let _timed = telemetry::Verification::begin();
        let jws = Jws::parse(token, self.0.max_token_bytes)?;
        let unverified = Unverified::read(&jws)?;
        let index = self.issuer(unverified.issuer());
        let index = index.ok_or(Rejection::UnknownIssuer)?;
        let issuer = self.0.issuers.get(index);
        let issuer = issuer.ok_or(Rejection::UnknownIssuer)?;
        let attempt = issuer.attempt(index, unverified, now);
        let (verified, generation) = attempt.map_err(|rejection| issuer.refusal(rejection))?;
        if let (Attempt::Verified(identity), Some(cache)) = (&verified, &self.0.cache) {
            let verdict = Verdict {
                identity: identity.clone(),
                issuer: index,
                generation,
            };
            cache.insert(token, verdict);
        }
        Ok(verified)
    }

    /// What is kept of the token, if it holds still: by its time, and by the keys of its issuer.
    fn cached(&self, token: &[u8], now: Duration) -> Option<Result<Identity, Refusal>> {
        // What is too long was never kept; it is not worth a hash.
        let cache = self
            .0
            .cache
            .as_ref()
            .filter(|_| token.len() <= self.0.max_token_bytes)?;
        let verdict = cache.get(token)?;
        let issuer = self.0.issuers.get(verdict.issuer)?;
        let generation = issuer.keys.generation()?;
        if generation != verdict.generation {
            cache.forget_other_keys(verdict.issuer, generation);
            return None;
        }
        if let Err(rejection) = issuer.rules.check_times(verdict.identity.times(), now) {
            cache.remove(token);
            return Some(Err(issuer.refusal(rejection)));
        }
        telemetry::cache_hit();
        Some(Ok(verdict.identity))
    }

    /// Returns the one issuer that a token of that `iss` can be from. The cluster that this process runs in may have got
    /// another name than those that are known, so it is that one if there is no other.
    fn issuer(&self, name: &str) -> Option<usize> {
        let inner = &self.0;
        let mut named_by_keys = inner.named_by_keys.iter().copied();
        let is_called = |index: &usize| {
            let issuer = inner.issuers.get(*index);
            issuer.is_some_and(|issuer| issuer.is_called(name))
        };
        let named = inner.by_name.get(name).copied();
        let named = named.or_else(|| named_by_keys.clone().find(is_called));
        named.or_else(|| named_by_keys.next())
    }

    /// The issuers as policies name them.
    pub(crate) fn trusted_names(&self) -> TrustedNames {
        let trusted = |issuer: &TrustedIssuer| TrustedName {
            names: issuer.policy_names.to_vec(),
            platform: issuer.platform,
            audiences: issuer.rules.audiences.clone(),
        };
        let issuers = self.0.issuers.iter().map(trusted).collect();
        TrustedNames { issuers }
    }

    /// The issuers' names, as far as they are known.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.0.issuers.iter().filter_map(TrustedIssuer::known_name);
        names.map(|name| name.to_string()).collect()
    }

    /// Starts fetching the keys of every issuer, without waiting.
    pub(crate) fn prefetch(&self) {
        for issuer in &self.0.issuers {
            issuer.keys.prefetch();
        }
    }

    /// Returns the key status of each issuer. Starts no fetch.
    pub(crate) fn health(&self) -> Vec<IssuerHealth> {
        self.0
            .issuers
            .iter()
            .map(|issuer| issuer.keys.health(&issuer.name))
            .collect()
    }

    /// Waits for the keys of every issuer, or for the next fetch of one to fail.
    pub(crate) async fn ready(&self) -> Result<(), NotReady> {
        // The fetches of all issuers run concurrently.
        self.prefetch();
        for issuer in &self.0.issuers {
            let failed = |source| NotReady {
                issuer: issuer.name.to_string(),
                source,
            };
            issuer.keys.ready().await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Anyone can send bad signatures under a published `kid`, and tokens of any issuer, while issuers hardly ever replace a
/// key without a new `kid`, or change their name. So these have newer keys fetched if the limit permits, but do not wait
/// for their turn.
fn patience(rejection: &Rejection) -> Patience {
    match rejection {
        Rejection::BadSignature | Rejection::UnknownIssuer => Patience::CurrentFetch,
        _ => Patience::NextFetch,
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("issuers", &self.0.by_name.keys())
            .finish_non_exhaustive()
    }
}

/// There are no usable keys of an issuer. The guard keeps trying, with pauses that grow to 10 s.
#[derive(Debug, thiserror::Error)]
#[error("there are no usable keys of the issuer {issuer:?}")]
pub struct NotReady {
    issuer: String,
    #[source]
    source: Arc<KeysError>,
}

impl NotReady {
    /// The issuer, as configured.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns why the keys are not available.
    pub fn cause(&self) -> &KeysError {
        &self.source
    }
}
