//! Verdicts worth keeping: identities of tokens that have verified.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::identity::Identity;

/// So many tokens are kept, unless said otherwise.
const DEFAULT_TOKENS: usize = 4096;
/// So many bytes are kept, unless said otherwise.
const DEFAULT_BYTES: u64 = 16 * 1024 * 1024;
/// What an entry takes beside its token and its identity: the table's part, and what the allocator adds.
const OVERHEAD: u64 = 256;

/// How much is kept.
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

/// Identities by the whole token that proved them. It belongs to one verifier, whose rules never change: a
/// verdict under other rules is in another cache.
///
/// Nothing is kept but what has verified, so nobody fills it who cannot have tokens signed.
pub(crate) struct VerdictCache {
    verdicts: Cache<Kept, Verdict, Weight>,
    /// By issuer, which key set the kept verdicts are of.
    generations: Vec<AtomicU64>,
}

/// So many characters of a token are hashed: the end of its signature.
///
/// Signatures that verify do not agree in 192 bits unless they are one, so that tokens that are kept are well apart;
/// and a token made up around the end of a kept one meets that one, and is compared with it whole.
const HASHED: usize = 32;

/// A token that is kept.
struct Kept(Box<[u8]>);

/// A token that may be kept.
struct Sought<'t>(&'t [u8]);

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let start = self.0.len().saturating_sub(HASHED);
        self.0.get(start..).hash(state);
    }
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Sought(&self.0).hash(state);
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Kept {}

impl Equivalent<Kept> for Sought<'_> {
    fn equivalent(&self, kept: &Kept) -> bool {
        *self.0 == *kept.0
    }
}

/// What a token proved.
#[derive(Clone)]
pub(crate) struct Verdict {
    pub(crate) identity: Identity,
    /// The index of its issuer.
    pub(crate) issuer: usize,
    /// Which key set it was verified with.
    pub(crate) generation: u64,
}

#[derive(Clone)]
struct Weight {
    /// So much at least, so that no more than the number of tokens fit in.
    at_least: u64,
}

impl Weighter<Kept, Verdict> for Weight {
    fn weight(&self, token: &Kept, verdict: &Verdict) -> u64 {
        let bytes = token.0.len() + verdict.identity.bytes();
        self.at_least.max(bytes as u64 + OVERHEAD)
    }
}

impl VerdictCache {
    /// Nothing where nothing is to be kept.
    pub(crate) fn new(limits: CacheLimits, issuers: usize) -> Option<Self> {
        if limits.tokens == 0 || limits.bytes == 0 {
            return None;
        }
        let weight = Weight {
            at_least: limits.bytes / limits.tokens as u64,
        };
        Some(Self {
            verdicts: Cache::with_weighter(limits.tokens, limits.bytes, weight),
            generations: (0..issuers).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// What the token proved, the last time that it was verified. Its time has to be looked at again, and its
    /// key set held against the current one.
    pub(crate) fn get(&self, token: &[u8]) -> Option<Verdict> {
        self.verdicts.get(&Sought(token))
    }

    pub(crate) fn insert(&self, token: &[u8], verdict: Verdict) {
        self.forget_other_keys(verdict.issuer, verdict.generation);
        self.verdicts.insert(Kept(token.into()), verdict);
    }

    /// Drops what was verified with another key set than this one: a key of it may have vanished.
    pub(crate) fn forget_other_keys(&self, issuer: usize, generation: u64) {
        let Some(kept) = self.generations.get(issuer) else {
            return;
        };
        if kept.load(Ordering::Relaxed) == generation
            || kept.swap(generation, Ordering::Relaxed) == generation
        {
            return;
        }
        self.verdicts
            .retain(|_, verdict| verdict.issuer != issuer || verdict.generation == generation);
    }

    pub(crate) fn remove(&self, token: &[u8]) {
        self.verdicts.remove(&Sought(token));
    }
}

impl fmt::Debug for VerdictCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerdictCache")
            .field("tokens", &self.verdicts.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn a_token_that_ends_as_a_kept_one_is_not_that_one() {
        let kept = Kept(Box::from(
            &b"a.b.0123456789012345678901234567890123456789"[..],
        ));
        let other = Sought(b"a.c.0123456789012345678901234567890123456789");
        let hasher = std::hash::RandomState::new();
        assert_eq!(hasher.hash_one(&kept), hasher.hash_one(&other));
        assert!(!other.equivalent(&kept));
        assert!(Sought(&kept.0).equivalent(&kept));
    }
}
