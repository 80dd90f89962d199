//! Models of the cache: requests, key rotations and removals in every order that the scheduler chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{CacheEntry, CacheLimits, LookupToken, TokenCache};
use crate::sync::model::{self, assert_finds_fault, explore, point};
use crate::testing::TestIdentity;

const TOKEN: &[u8] = b"header.claims.signature-of-a-token";

fn cache() -> Arc<TokenCache> {
    Arc::new(TokenCache::new(CacheLimits::default(), 1))
}

fn entry(generation: u64) -> CacheEntry {
    CacheEntry {
        identity: TestIdentity::kubernetes("shop", "web").build(),
        issuer: 0,
        generation,
        review: None,
    }
}

/// The issuer's keys: those of the first generation verify the token, later ones do not.
struct Keys(AtomicU64);

impl Keys {
    fn generation(&self) -> u64 {
        point();
        self.0.load(Ordering::Relaxed)
    }

    fn withdraw(&self) {
        point();
        self.0.store(2, Ordering::Relaxed);
    }
}

/// How a request decides whether an entry of the cache can be used.
type Check = fn(&Keys, &CacheEntry) -> bool;

/// The check of the verifier: the entry was verified with the current keys.
fn has_current_keys(keys: &Keys, entry: &CacheEntry) -> bool {
    keys.generation() == entry.generation
}

/// Admits or refuses a request in the same steps as the verifier.
fn admits(cache: &TokenCache, keys: &Keys, check: Check) -> bool {
    let checked = cache.find(TOKEN, |entry| check(keys, entry).then_some(()).ok_or(()));
    match checked {
        Some(Ok(_)) => return true,
        Some(Err(())) => cache.retain_generation(0, keys.generation()),
        None => {}
    }
    let generation = keys.generation();
    if generation != 1 {
        return false;
    }
    // The signature is verified with the keys of that generation. They may be replaced before the entry is added.
    point();
    cache.insert_verified(TOKEN, entry(generation));
    true
}

/// The key that has signed the token is withdrawn while requests with the token arrive on several threads.
fn withdraws_a_key(check: Check) {
    let (cache, keys) = (cache(), Arc::new(Keys(AtomicU64::new(1))));
    let is_withdrawn = Arc::new(AtomicBool::new(false));
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let (cache, keys, is_withdrawn) = (cache.clone(), keys.clone(), is_withdrawn.clone());
            model::spawn(move || {
                for _ in 0..4 {
                    let was_withdrawn = is_withdrawn.load(Ordering::Relaxed);
                    let is_admitted = admits(&cache, &keys, check);
                    assert!(
                        !(was_withdrawn && is_admitted),
                        "admitted with a withdrawn key"
                    );
                }
            })
        })
        .collect();
    keys.withdraw();
    is_withdrawn.store(true, Ordering::Relaxed);
    for request in requests {
        request.join().unwrap();
    }
}

#[test]
fn no_request_is_admitted_with_a_withdrawn_key() {
    explore(2_000, || withdraws_a_key(has_current_keys));
}

/// The known fault: what is in the cache is used without a look at the generation of the keys.
#[test]
fn the_model_finds_an_entry_that_is_used_without_a_comparison_of_generations() {
    assert_finds_fault(2_000, || withdraws_a_key(|_, _| true));
}

/// The known fault: an entry gets the generation of the keys at the time at which it is added.
#[test]
fn the_model_finds_an_entry_that_is_added_with_a_later_generation() {
    assert_finds_fault(2_000, || {
        let (cache, keys) = (cache(), Arc::new(Keys(AtomicU64::new(1))));
        let request = model::spawn({
            let (cache, keys) = (cache.clone(), keys.clone());
            move || {
                if keys.generation() == 1 {
                    cache.insert_verified(TOKEN, entry(keys.generation()));
                }
            }
        });
        keys.withdraw();
        request.join().unwrap();
        assert!(
            !admits(&cache, &keys, has_current_keys),
            "admitted with a withdrawn key"
        );
    });
}

/// A token is removed, since it was revoked or has expired, while requests find it on several threads. They have it in the memos of
/// their threads.
fn removes_a_token(remove: fn(&TokenCache)) {
    let cache = cache();
    cache.insert(TOKEN, entry(1));
    let is_removed = Arc::new(AtomicBool::new(false));
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let (cache, is_removed) = (cache.clone(), is_removed.clone());
            model::spawn(move || {
                for _ in 0..4 {
                    let was_removed = is_removed.load(Ordering::Relaxed);
                    let found = cache.find(TOKEN, |_| Ok::<_, ()>(()));
                    assert!(!(was_removed && found.is_some()), "found after the removal");
                }
            })
        })
        .collect();
    remove(&cache);
    is_removed.store(true, Ordering::Relaxed);
    for request in requests {
        request.join().unwrap();
    }
}

#[test]
fn no_thread_finds_a_removed_token() {
    explore(2_000, || removes_a_token(|cache| cache.remove(TOKEN)));
}

/// The known fault: memos learn of a removal before the token has left the cache that they are filled from.
#[test]
fn the_model_finds_a_removal_that_is_counted_before_it_is_made() {
    assert_finds_fault(2_000, || {
        removes_a_token(|cache| {
            cache.removals.record();
            point();
            cache.entries.remove(&LookupToken(TOKEN));
        });
    });
}
