//! The cache of verified tokens.
//!
//! 1. Only tokens that were verified are cached, so only a caller with valid tokens can fill the cache.
//! 2. An entry is found by the whole token.
//! 3. The times of the token are validated again at each hit.
//! 4. An entry is used only as long as its issuer's keys are those that verified the token.
//!
//! A cache belongs to one verifier, whose rules never change. The verifier that replaces it gets the entries of the issuers whose
//! rules and keys are the same, so that their tokens need not be verified again at once.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::identity::Identity;
use crate::token_review::ReviewedToken;

/// The default limit on the number of tokens.
const DEFAULT_TOKENS: usize = 4096;
/// The default limit on the memory in use.
const DEFAULT_BYTES: u64 = 16 * 1024 * 1024;
/// The memory that an entry uses in addition to its token and its identity: its place in the table and the allocator's overhead.
const ENTRY_OVERHEAD: u64 = 256;

/// The limits on the size of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheLimits {
    pub(crate) tokens: usize,
    pub(crate) bytes: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            tokens: DEFAULT_TOKENS,
            bytes: DEFAULT_BYTES,
        }
    }
}

/// A cache of the identities of verified tokens.
pub(crate) struct TokenCache {
    entries: Cache<CachedToken, CacheEntry, EntryWeight>,
    /// For each issuer, the generation of the keys that the cached tokens were verified with.
    generations: Vec<AtomicU64>,
}

/// The number of bytes at the end of a token that are hashed: a part of its signature.
///
/// Valid signatures do not agree in 192 bits unless they are equal, so the hashes of cached tokens differ. A token that was
/// made up with the end of a cached one has the same hash, but is compared as a whole.
const HASHED_BYTES: usize = 32;

/// A token in the cache.
#[derive(Clone)]
struct CachedToken(Arc<[u8]>);

/// A token that is looked up in the cache.
struct LookupToken<'t>(&'t [u8]);

impl Hash for LookupToken<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let start = self.0.len().saturating_sub(HASHED_BYTES);
        self.0.get(start..).hash(state);
    }
}

impl Hash for CachedToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        LookupToken(&self.0).hash(state);
    }
}

impl PartialEq for CachedToken {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for CachedToken {}

impl Equivalent<CachedToken> for LookupToken<'_> {
    fn equivalent(&self, cached: &CachedToken) -> bool {
        *self.0 == *cached.0
    }
}

/// The result of verifying a token.
#[derive(Clone)]
pub(crate) struct CacheEntry {
    pub(crate) identity: Identity,
    /// The index of the token's issuer.
    pub(crate) issuer: usize,
    /// The generation of the keys that verified the token.
    pub(crate) generation: u64,
    /// The state of the token's reviews, if the cluster's API server was asked.
    pub(crate) review: Option<Arc<ReviewedToken>>,
}

#[derive(Clone)]
struct EntryWeight {
    /// The minimum weight of an entry, which keeps the number of entries within the limit.
    min: u64,
}

impl Weighter<CachedToken, CacheEntry> for EntryWeight {
    fn weight(&self, token: &CachedToken, entry: &CacheEntry) -> u64 {
        let bytes = token.0.len() + entry.identity.size_in_memory();
        self.min.max(bytes as u64 + ENTRY_OVERHEAD)
    }
}

impl TokenCache {
    /// Creates a cache with these limits, which are not zero.
    pub(crate) fn new(limits: CacheLimits, issuers: usize) -> Self {
        let weight = EntryWeight {
            min: limits.bytes / limits.tokens as u64,
        };
        Self {
            entries: Cache::with_weighter(limits.tokens, limits.bytes, weight),
            generations: (0..issuers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Returns the entry of a token. Its times and its generation must be checked before it is used.
    pub(crate) fn get(&self, token: &[u8]) -> Option<CacheEntry> {
        self.entries.get(&LookupToken(token))
    }

    /// Adds the entry of a token that has just been verified.
    pub(crate) fn insert(&self, token: &[u8], entry: CacheEntry) {
        self.retain_generation(entry.issuer, entry.generation);
        self.entries.insert(CachedToken(token.into()), entry);
    }

    /// Adds the entries of another cache whose issuers verify tokens exactly like those of this one. `index_of` returns the index
    /// of such an issuer. The tokens are shared, not copied.
    #[cfg(feature = "policy-file")]
    pub(crate) fn adopt(&self, other: &Self, index_of: impl Fn(usize) -> Option<usize>) {
        let load = |generations: &[AtomicU64], issuer: usize| {
            let generation = generations.get(issuer)?;
            Some(generation.load(Ordering::Relaxed))
        };
        for (token, entry) in other.entries.iter() {
            // The keys that verified it may have been withdrawn.
            if load(&other.generations, entry.issuer) != Some(entry.generation) {
                continue;
            }
            let Some(issuer) = index_of(entry.issuer) else {
                continue;
            };
            if let Some(generation) = self.generations.get(issuer) {
                generation.store(entry.generation, Ordering::Relaxed);
                self.entries.insert(token, CacheEntry { issuer, ..entry });
            }
        }
    }

    /// Removes the entries of an issuer that were verified with keys of another generation: a key of those may have been
    /// withdrawn.
    pub(crate) fn retain_generation(&self, issuer: usize, generation: u64) {
        let Some(cached) = self.generations.get(issuer) else {
            return;
        };
        if cached.load(Ordering::Relaxed) == generation
            || cached.swap(generation, Ordering::Relaxed) == generation
        {
            return;
        }
        self.entries
            .retain(|_, entry| entry.issuer != issuer || entry.generation == generation);
    }

    /// Removes the entry of a token.
    pub(crate) fn remove(&self, token: &[u8]) {
        self.entries.remove(&LookupToken(token));
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("tokens", &self.entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn a_token_with_the_end_of_a_cached_token_is_not_found() {
        let cached = CachedToken(Arc::from(
            &b"a.b.0123456789012345678901234567890123456789"[..],
        ));
        let other = LookupToken(b"a.c.0123456789012345678901234567890123456789");
        let hasher = std::hash::RandomState::new();
        assert_eq!(hasher.hash_one(&cached), hasher.hash_one(&other));
        assert!(!other.equivalent(&cached));
        assert!(LookupToken(&cached.0).equivalent(&cached));
    }
}
