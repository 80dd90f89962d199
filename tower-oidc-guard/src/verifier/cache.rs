//! The cache of verified tokens.
//!
//! 1. Only tokens that were verified are cached, so only a caller with valid tokens can fill the cache.
//! 2. An entry is found by the whole token.
//! 3. The times of the token are validated again at each hit.
//! 4. An entry is used only as long as its issuer's keys are those that verified the token.
//!
//! Each thread has [copies](memo) of the entries that it uses most, to which the same applies.
//!
//! A cache belongs to one verifier, whose rules never change. The verifier that replaces it gets the entries of the issuers whose
//! rules and keys are the same, so that their tokens need not be verified again at once.

mod memo;
#[cfg(feature = "testing")]
#[cfg(test)]
mod models;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use self::memo::{RemovalCount, Removals, ThreadMemos};
use crate::identity::Identity;
use crate::sync::atomic::{AtomicU64, Ordering};
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
    removals: Removals,
    memos: ThreadMemos,
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

impl CacheEntry {
    /// Returns the approximate number of bytes that the entry uses with its token.
    fn bytes(&self, token: &[u8]) -> u64 {
        let bytes = token.len() + self.identity.size_in_memory();
        bytes as u64 + ENTRY_OVERHEAD
    }
}

#[derive(Clone)]
struct EntryWeight {
    /// The minimum weight of an entry, which keeps the number of entries within the limit.
    min: u64,
}

impl Weighter<CachedToken, CacheEntry> for EntryWeight {
    fn weight(&self, token: &CachedToken, entry: &CacheEntry) -> u64 {
        self.min.max(entry.bytes(&token.0))
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
            removals: Removals::default(),
            memos: ThreadMemos::new(limits.bytes),
        }
    }

    /// Returns the identity of a token that is in the cache, unless `check` returns why its entry cannot be used. Returns `None` if
    /// the token is not in the cache.
    ///
    /// `check` must check everything that may have changed since the token was verified. It is called for the entry in this
    /// thread's memo, and unless it accepts that, for the one that all threads share. So a memo only ever saves the way to an
    /// entry that is accepted.
    #[inline]
    pub(crate) fn find<E>(
        &self,
        token: &[u8],
        check: impl Fn(&CacheEntry) -> Result<(), E>,
    ) -> Option<Result<Identity, E>> {
        let removals = self.removals.count();
        if let Some(mut memo) = self.memos.get(removals)
            && let Some((place, entry)) = memo.find(token)
        {
            if check(entry).is_ok() {
                return Some(Ok(entry.identity.clone()));
            }
            memo.remove(place);
        }
        self.find_shared(token, removals, check)
    }

    /// Returns the identity of a token that the memo of this thread does not have. `removals` is a count from before.
    fn find_shared<E>(
        &self,
        token: &[u8],
        removals: RemovalCount,
        check: impl Fn(&CacheEntry) -> Result<(), E>,
    ) -> Option<Result<Identity, E>> {
        let entry = self.entries.get(&LookupToken(token))?;
        if let Err(error) = check(&entry) {
            return Some(Err(error));
        }
        let own = self.memos.add_used(token, &entry, removals);
        Some(Ok(own.unwrap_or(entry.identity)))
    }

    /// Adds the entry of a token that this thread has just verified, and whose identity no other thread has.
    pub(crate) fn insert_verified(&self, token: &[u8], entry: CacheEntry) {
        let removals = self.insert(token, entry.clone());
        self.memos.add_verified(token, entry, removals);
    }

    /// Adds the entry of a token. Returns the number of removals before.
    pub(crate) fn insert(&self, token: &[u8], entry: CacheEntry) -> RemovalCount {
        self.retain_generation(entry.issuer, entry.generation);
        let removals = self.removals.count();
        self.entries.insert(CachedToken(token.into()), entry);
        removals
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
        self.removals.record();
    }

    /// Removes the entry of a token.
    pub(crate) fn remove(&self, token: &[u8]) {
        self.entries.remove(&LookupToken(token));
        self.removals.record();
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

#[cfg(test)]
#[cfg(feature = "testing")]
mod removal_tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::testing::TestIdentity;

    const TOKEN: &[u8] = b"header.claims.signature";
    const THREADS: usize = 3;

    fn cache() -> TokenCache {
        TokenCache::new(CacheLimits::default(), 1)
    }

    fn entry(generation: u64) -> CacheEntry {
        CacheEntry {
            identity: TestIdentity::kubernetes("shop", "web").build(),
            issuer: 0,
            generation,
            review: None,
        }
    }

    fn is_found(cache: &TokenCache, token: &[u8]) -> bool {
        cache.find(token, |_| Ok::<_, ()>(())).is_some()
    }

    /// Finds a token on several threads, then removes it, and finds it on none of them.
    fn assert_removed_everywhere(remove: impl Fn(&TokenCache)) {
        let (cache, barrier) = (cache(), Barrier::new(THREADS + 1));
        cache.insert_verified(TOKEN, entry(1));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert!(is_found(&cache, TOKEN));
                    }
                    barrier.wait();
                    barrier.wait();
                    assert!(!is_found(&cache, TOKEN));
                });
            }
            barrier.wait();
            remove(&cache);
            barrier.wait();
        });
    }

    #[test]
    fn a_removed_token_is_found_on_no_thread() {
        assert_removed_everywhere(|cache| cache.remove(TOKEN));
    }

    #[test]
    fn a_token_of_another_generation_is_found_on_no_thread() {
        assert_removed_everywhere(|cache| cache.retain_generation(0, 2));
        assert_removed_everywhere(|cache| {
            cache.insert(b"another.token.signature", entry(2));
        });
    }

    #[test]
    fn a_token_that_the_cache_has_evicted_is_removed_from_the_memos_too() {
        assert_removed_everywhere(|cache| {
            cache.entries.clear();
            cache.remove(TOKEN);
        });
    }

    #[test]
    fn no_thread_finds_a_token_after_its_removal_in_any_order() {
        for _ in 0..200 {
            let (cache, removed) = (cache(), AtomicBool::new(false));
            cache.insert_verified(TOKEN, entry(1));
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        loop {
                            let was_removed = removed.load(Ordering::Acquire);
                            let is_found = is_found(&cache, TOKEN);
                            assert!(!(was_removed && is_found), "found after its removal");
                            if was_removed {
                                break;
                            }
                        }
                    });
                }
                cache.remove(TOKEN);
                removed.store(true, Ordering::Release);
            });
        }
    }

    #[test]
    fn each_use_is_checked_and_a_copy_never_replaces_a_newer_entry() {
        let cache = cache();
        cache.insert_verified(TOKEN, entry(1));
        assert!(is_found(&cache, TOKEN));
        let refused = cache.find(TOKEN, |_| Err("not now"));
        assert!(matches!(refused, Some(Err("not now"))));
        assert!(is_found(&cache, TOKEN));
        // The entry of this thread's memo is of an earlier generation than the one that all threads share.
        cache.insert(TOKEN, entry(2));
        let newer = |entry: &CacheEntry| {
            if entry.generation == 2 {
                Ok(())
            } else {
                Err(())
            }
        };
        assert!(matches!(cache.find(TOKEN, newer), Some(Ok(_))));
    }

    #[test]
    fn a_check_may_use_the_cache_itself() {
        let cache = cache();
        cache.insert_verified(TOKEN, entry(1));
        let found = cache.find(TOKEN, |_| {
            if is_found(&cache, TOKEN) {
                Ok(())
            } else {
                Err(())
            }
        });
        assert!(matches!(found, Some(Ok(_))));
    }
}
