//! Copies of the tokens that each thread uses most.
//!
//! Two services have one token at a time between them, so all threads of a server look up the same entry of the cache. Even if each
//! only reads it, the lock of the entry's shard and the reference count of the identity are written at each request, and the
//! cache line that they are on moves from core to core: the more cores, the longer each of them waits. So each thread has a memo:
//! a few entries that it alone reads and writes, each with a separate identity. A request with a token in the memo writes
//! nothing that another thread reads or writes.
//!
//! A memo decides nothing. Its entries are the same as those of the cache and are [checked](TokenCache::find) in the same way at
//! each use: the times against the clock, the generation against the current keys, and the token's reviews. In addition, what was
//! removed from the cache is in no memo any more: the cache [counts](Removals) its removals, and a memo whose count is another is
//! cleared before it is read.
//!
//! Memory is bounded. A memo has room for [`ENTRIES`] tokens, and all memos of a cache together for an eighth of the bytes that the
//! cache is limited to; an empty memo takes a kilobyte for each thread. The memos belong to the cache and end with it. A thread that
//! ends leaves its memo to the next thread.
//!
//! [`TokenCache::find`]: super::TokenCache::find

use std::cell::{RefCell, RefMut};
use std::sync::Arc;

use crate::sync::ThreadLocal;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::CacheEntry;
use crate::identity::Identity;

/// The number of tokens in the memo of a thread.
pub(super) const ENTRIES: usize = 8;
/// The number of tokens in the cache whose uses by a thread are counted, to find those that belong into its memo.
const CANDIDATES: usize = 16;
/// The number of uses after which a token takes the place of another in a full memo. Copying an identity takes longer than a look
/// into the cache, so tokens that are seldom used stay there.
const USES_BEFORE_COPY: u32 = 4;
/// All memos together may use this part of the bytes that the cache is limited to.
const PART_OF_CACHE: u64 = 8;

/// Counts the removals from a cache, so that memos learn of them.
///
/// A removal is counted after the entry has left the cache, and the count is read before an entry is looked up or added there. So
/// a memo with an entry that was removed always has an earlier count than the current one.
#[derive(Debug, Default)]
pub(super) struct Removals(AtomicU64);

/// A number of removals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RemovalCount(u64);

impl Removals {
    /// Counts a removal that has been made. Afterwards no memo returns what was removed.
    pub(super) fn record(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    pub(super) fn count(&self) -> RemovalCount {
        RemovalCount(self.0.load(Ordering::Acquire))
    }
}

/// The memos of all threads.
pub(super) struct ThreadMemos {
    memos: ThreadLocal<Padded>,
    bytes: Arc<MemoBytes>,
}

/// A memo, with nothing else on its cache lines. Processors fetch pairs of lines of 64 bytes.
#[repr(align(128))]
#[derive(Default)]
struct Padded(RefCell<Memo>);

/// The bytes that the memos of one cache use.
struct MemoBytes {
    used: AtomicU64,
    limit: u64,
}

/// Bytes of the limit that an entry uses until it is dropped.
struct ReservedBytes {
    of: Arc<MemoBytes>,
    bytes: u64,
}

impl ReservedBytes {
    /// Returns the bytes, or `None` if the limit does not permit them.
    fn reserve(of: &Arc<MemoBytes>, bytes: u64) -> Option<Self> {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= of.limit);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        of.used.fetch_update(success, failure, more).ok()?;
        let of = of.clone();
        Some(Self { of, bytes })
    }
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The tokens that a thread uses most.
#[derive(Default)]
pub(super) struct Memo {
    /// The removals from the cache when the memo was last used.
    removals: RemovalCount,
    /// The fingerprint of the token of each entry, side by side so that a look at all of them is short.
    fingerprints: [Fingerprint; ENTRIES],
    entries: [Option<Remembered>; ENTRIES],
    candidates: [Candidate; CANDIDATES],
}

/// A token in the memo of a thread.
struct Remembered {
    token: Box<[u8]>,
    /// With an identity that no other thread clones.
    entry: CacheEntry,
    uses: u32,
    _bytes: ReservedBytes,
}

/// The end of a token, by which it is found before it is compared.
///
/// Anyone can make up a token with the same end as another, which is therefore compared as a whole.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Fingerprint(u64);

impl Fingerprint {
    /// Returns the fingerprint of a token, or `None` if it is too short to be one.
    #[inline]
    fn new(token: &[u8]) -> Option<Self> {
        let end = token.last_chunk()?;
        Some(Self(u64::from_ne_bytes(*end)))
    }

    /// Returns the place of the token among the candidates.
    fn place(self) -> usize {
        // A multiplicative hash: the upper bits depend on all characters.
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % CANDIDATES
    }
}

/// A token that this thread has found in the cache.
#[derive(Clone, Copy, Default)]
struct Candidate {
    fingerprint: Fingerprint,
    uses: u32,
}

impl ThreadMemos {
    /// Creates the memos of a cache with this limit.
    pub(super) fn new(cache_bytes: u64) -> Self {
        Self {
            memos: ThreadLocal::new(),
            bytes: Arc::new(MemoBytes {
                used: AtomicU64::new(0),
                limit: cache_bytes / PART_OF_CACHE,
            }),
        }
    }

    /// Returns the memo of this thread without the entries that were removed from the cache, of which `removals` is the count.
    ///
    /// Returns `None` if the thread has none yet, and while the memo is in use: a clock or a recorder of metrics that the guard
    /// calls may itself use the guard.
    #[inline]
    pub(super) fn get(&self, removals: RemovalCount) -> Option<RefMut<'_, Memo>> {
        let mut memo = self.memos.get()?.0.try_borrow_mut().ok()?;
        memo.clear_if_outdated(removals);
        Some(memo)
    }

    /// Adds a token to the memo of this thread that it has just verified, if there is room: the identity in `entry` is cloned by
    /// this thread from now on, and by others only to copy it. `removals` is the count before the token was added to the cache.
    pub(super) fn add_verified(&self, token: &[u8], entry: CacheEntry, removals: RemovalCount) {
        let Some(fingerprint) = Fingerprint::new(token) else {
            return;
        };
        let padded = self.memos.get_or_default();
        let Ok(mut memo) = padded.0.try_borrow_mut() else {
            return;
        };
        memo.clear_if_outdated(removals);
        let free = memo.place_of(fingerprint).or_else(|| memo.free_place());
        if let Some(place) = free
            && let Some(bytes) = memo.reserve(place, entry.bytes(token), &self.bytes)
        {
            memo.put(place, fingerprint, token, entry, bytes);
        }
    }

    /// Counts the use of a token that is in the cache but not in the memo of this thread, and adds it if it is used often.
    /// `removals` is the count before the token was found in the cache.
    ///
    /// Returns the copy of the identity that this thread uses from now on, if the token was added.
    pub(super) fn add_used(
        &self,
        token: &[u8],
        entry: &CacheEntry,
        removals: RemovalCount,
    ) -> Option<Identity> {
        let fingerprint = Fingerprint::new(token)?;
        let mut memo = self.memos.get_or_default().0.try_borrow_mut().ok()?;
        memo.clear_if_outdated(removals);
        let place = memo.place_for_used(fingerprint)?;
        // Nothing is copied in vain.
        let bytes = memo.reserve(place, entry.bytes(token), &self.bytes)?;
        let entry = CacheEntry {
            identity: entry.identity.copied(),
            ..entry.clone()
        };
        let identity = entry.identity.clone();
        memo.put(place, fingerprint, token, entry, bytes);
        Some(identity)
    }
}

impl Memo {
    /// Clears the memo if anything was removed from the cache since it was last used.
    #[inline]
    fn clear_if_outdated(&mut self, removals: RemovalCount) {
        if self.removals != removals {
            self.clear();
            self.removals = removals;
        }
    }

    #[cold]
    fn clear(&mut self) {
        self.entries = Default::default();
        self.fingerprints = Default::default();
    }

    /// Returns the entry of a token, with its place. It must be checked before it is used.
    #[inline]
    pub(super) fn find(&mut self, token: &[u8]) -> Option<(usize, &CacheEntry)> {
        let fingerprint = Fingerprint::new(token)?;
        let place = self.place_of(fingerprint)?;
        let remembered = self.entries.get_mut(place)?.as_mut()?;
        if *remembered.token != *token {
            return None;
        }
        remembered.uses = remembered.uses.saturating_add(1);
        Some((place, &remembered.entry))
    }

    /// Removes the entry at this place.
    pub(super) fn remove(&mut self, place: usize) {
        if let (Some(entry), Some(fingerprint)) = (
            self.entries.get_mut(place),
            self.fingerprints.get_mut(place),
        ) {
            *entry = None;
            *fingerprint = Fingerprint::default();
        }
    }

    #[inline]
    fn place_of(&self, fingerprint: Fingerprint) -> Option<usize> {
        let mut fingerprints = self.fingerprints.iter();
        fingerprints.position(|own| *own == fingerprint)
    }

    fn free_place(&self) -> Option<usize> {
        self.entries.iter().position(Option::is_none)
    }

    /// Returns the place for a token that was used once more: a free one, or that of the token that is used least if this one is
    /// used often.
    fn place_for_used(&mut self, fingerprint: Fingerprint) -> Option<usize> {
        let free = self.place_of(fingerprint).or_else(|| self.free_place());
        if free.is_some() {
            return free;
        }
        let candidate = self.candidates.get_mut(fingerprint.place())?;
        if candidate.fingerprint != fingerprint {
            *candidate = Candidate {
                fingerprint,
                uses: 0,
            };
        }
        candidate.uses += 1;
        if candidate.uses < USES_BEFORE_COPY {
            return None;
        }
        candidate.uses = 0;
        let uses = |entry: &Option<Remembered>| entry.as_ref().map_or(0, |entry| entry.uses);
        let all = self.entries.iter().enumerate();
        let least = all.min_by_key(|(_, entry)| uses(entry));
        let place = least.map(|(place, _)| place);
        // Tokens that were used often some time ago give way to those that are used now.
        for entry in self.entries.iter_mut().flatten() {
            entry.uses /= 2;
        }
        place
    }

    /// Removes the entry at this place, and returns the memory for another one, or `None` if the limit does not permit it.
    fn reserve(&mut self, place: usize, bytes: u64, of: &Arc<MemoBytes>) -> Option<ReservedBytes> {
        self.remove(place);
        ReservedBytes::reserve(of, bytes)
    }

    /// Stores an entry at this place.
    fn put(
        &mut self,
        place: usize,
        fingerprint: Fingerprint,
        token: &[u8],
        entry: CacheEntry,
        bytes: ReservedBytes,
    ) {
        if let (Some(slot), Some(own)) = (
            self.entries.get_mut(place),
            self.fingerprints.get_mut(place),
        ) {
            *own = fingerprint;
            *slot = Some(Remembered {
                token: token.into(),
                entry,
                uses: 1,
                _bytes: bytes,
            });
        }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::thread;

    use super::*;
    use crate::testing::TestIdentity;

    const LIMIT: u64 = 1 << 20;

    fn entry() -> CacheEntry {
        CacheEntry {
            identity: TestIdentity::kubernetes("shop", "web").build(),
            issuer: 0,
            generation: 1,
            review: None,
        }
    }

    fn token(number: usize) -> Vec<u8> {
        format!("header.claims.signature-{number:08}").into_bytes()
    }

    fn is_remembered(memos: &ThreadMemos, token: &[u8], removals: RemovalCount) -> bool {
        let memo = memos.get(removals);
        memo.is_some_and(|mut memo| memo.find(token).is_some())
    }

    #[test]
    fn a_memo_of_another_count_of_removals_is_empty() {
        let (memos, removals) = (ThreadMemos::new(LIMIT), Removals::default());
        let before = removals.count();
        memos.add_verified(&token(1), entry(), before);
        assert!(is_remembered(&memos, &token(1), removals.count()));
        removals.record();
        assert!(!is_remembered(&memos, &token(1), removals.count()));
        // What was found in the cache before the removal may be what was removed.
        memos.add_verified(&token(1), entry(), before);
        assert!(!is_remembered(&memos, &token(1), removals.count()));
        assert!(memos.add_used(&token(1), &entry(), before).is_some());
        assert!(!is_remembered(&memos, &token(1), removals.count()));
        assert_eq!(memos.bytes.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_token_that_is_used_often_takes_the_place_of_one_that_is_not() {
        let (memos, removals) = (ThreadMemos::new(LIMIT), RemovalCount::default());
        for number in 0..ENTRIES {
            assert!(memos.add_used(&token(number), &entry(), removals).is_some());
        }
        for number in 1..ENTRIES {
            assert!(is_remembered(&memos, &token(number), removals));
        }
        let new = token(ENTRIES);
        for use_number in 1..=USES_BEFORE_COPY {
            let added = memos.add_used(&new, &entry(), removals).is_some();
            assert_eq!(added, use_number == USES_BEFORE_COPY);
        }
        assert!(is_remembered(&memos, &new, removals));
        assert!(
            !is_remembered(&memos, &token(0), removals),
            "it was used least"
        );
    }

    #[test]
    fn tokens_that_are_used_in_turn_are_not_copied_over_and_over() {
        let (memos, removals) = (ThreadMemos::new(LIMIT), RemovalCount::default());
        let mut copied = 0;
        for _ in 0..10 {
            for number in 0..1000 {
                if !is_remembered(&memos, &token(number), removals) {
                    let added = memos.add_used(&token(number), &entry(), removals);
                    copied += usize::from(added.is_some());
                }
            }
        }
        assert!(copied <= 2 * ENTRIES, "{copied} copies");
    }

    #[test]
    fn the_memos_of_all_threads_stay_within_an_eighth_of_the_bytes_of_the_cache() {
        let size = entry().bytes(&token(0));
        let memos = ThreadMemos::new(PART_OF_CACHE * size * 10);
        let bytes = memos.bytes.clone();
        let used = || bytes.used.load(Ordering::Relaxed);
        thread::scope(|scope| {
            for thread in 0..8 {
                let memos = &memos;
                scope.spawn(move || {
                    for number in 0..1000 {
                        memos.add_verified(
                            &token(thread * 1000 + number),
                            entry(),
                            RemovalCount(0),
                        );
                        let token = token(number % 20);
                        memos.add_used(&token, &entry(), RemovalCount(0));
                        assert!(memos.bytes.used.load(Ordering::Relaxed) <= memos.bytes.limit);
                    }
                });
            }
        });
        assert!(used() > 0 && used() <= size * 10, "{} bytes", used());
        drop(memos);
        assert_eq!(used(), 0);
    }

    #[test]
    fn no_limit_permits_an_entry_that_is_larger() {
        let memos = ThreadMemos::new(PART_OF_CACHE);
        memos.add_verified(&token(1), entry(), RemovalCount(0));
        assert!(
            memos
                .add_used(&token(1), &entry(), RemovalCount(0))
                .is_none()
        );
        assert!(!is_remembered(&memos, &token(1), RemovalCount(0)));
    }

    #[test]
    fn tokens_with_the_same_end_are_different_tokens() {
        let (memos, removals) = (ThreadMemos::new(LIMIT), RemovalCount::default());
        let (one, other) = (b"a.b.0123456789".to_vec(), b"a.c.0123456789".to_vec());
        memos.add_verified(&one, entry(), removals);
        assert!(!is_remembered(&memos, &other, removals));
        assert!(memos.add_used(&other, &entry(), removals).is_some());
        assert!(is_remembered(&memos, &other, removals));
        assert!(!is_remembered(&memos, &one, removals));
    }
}
