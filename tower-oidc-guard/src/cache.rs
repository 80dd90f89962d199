//! Verdicts worth keeping: identities of tokens that have verified.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

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
    verdicts: Cache<Box<[u8]>, Verdict, Weight>,
    /// By issuer, which key set the kept verdicts are of.
    generations: Vec<AtomicU64>,
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

impl Weighter<Box<[u8]>, Verdict> for Weight {
    fn weight(&self, token: &Box<[u8]>, verdict: &Verdict) -> u64 {
        let bytes = token.len() + verdict.identity.bytes();
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
        self.verdicts.get(token)
    }

    pub(crate) fn insert(&self, token: &[u8], verdict: Verdict) {
        self.forget_other_keys(verdict.issuer, verdict.generation);
        self.verdicts.insert(token.into(), verdict);
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
        self.verdicts.remove(token);
    }
}

impl fmt::Debug for VerdictCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerdictCache")
            .field("tokens", &self.verdicts.len())
            .finish_non_exhaustive()
    }
}
