//! The cache of verified tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, Policy, TokenError, VerifyError};

use crate::support::in_memory::{cluster, guard_builder, token_spec, token_status};
use crate::support::{AUDIENCE, advance_clock, unix_time};

fn guard(issuer: &MemoryIssuer) -> OidcGuard {
    guard_builder(issuer).any_verified_caller().build().unwrap()
}

/// Verifies a token twice and returns whether the second result came from the cache, as the same `Identity`.
async fn is_cached(guard: &OidcGuard, token: &str) -> bool {
    let identity = || async { guard.verifier().verify(token).await.unwrap() };
    let address = |identity: &tower_oidc_guard::Identity| identity.subject().as_ptr();
    let first = identity().await;
    address(&first) == address(&identity().await)
}

#[tokio::test]
async fn verified_token_is_cached_unless_the_cache_is_disabled() {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    assert!(is_cached(&guard(&cluster), &token).await);
    let without = guard_builder(&cluster)
        .any_verified_caller()
        .without_cache();
    assert!(!is_cached(&without.build().unwrap(), &token).await);
}

#[tokio::test]
async fn times_of_a_cached_token_are_checked_at_each_use() {
    let (cluster, now) = (cluster(), Arc::new(AtomicU64::new(1000)));
    let clock = now.clone();
    let trusted = Issuer::kubernetes(cluster.url())
        .audience(AUDIENCE)
        .leeway(Duration::ZERO);
    let builder = OidcGuard::builder()
        .issuer(trusted)
        .http_client(cluster.client());
    let builder = builder.clock(move || unix_time(clock.load(Ordering::Relaxed)));
    let guard = builder.any_verified_caller().build().unwrap();
    let token = token_spec(&cluster)
        .claim("iat", 900)
        .claim("nbf", 900)
        .claim("exp", 1100)
        .mint();
    assert!(is_cached(&guard, &token).await);
    for (time, expected) in [
        (1099, None),
        (1100, Some(VerifyError::InvalidToken(TokenError::Expired))),
        (
            899,
            Some(VerifyError::InvalidToken(TokenError::NotYetValid)),
        ),
    ] {
        now.store(time, Ordering::Relaxed);
        assert_eq!(
            guard.verifier().verify(&token).await.err(),
            expected,
            "{time}"
        );
    }
}

#[tokio::test]
async fn cached_token_is_dropped_when_its_key_is_withdrawn() {
    let cluster = cluster();
    let guard = guard(&cluster);
    // Issued before the keys are fetched, so that its key is not expected in a newer key set.
    let token = token_spec(&cluster)
        .issued_at(std::time::SystemTime::now() - Duration::from_secs(3600))
        .lifetime(Duration::from_secs(48 * 3600))
        .mint();
    assert!(is_cached(&guard, &token).await);
    cluster.rotate_key().unwrap();
    cluster.withdraw_old_keys();
    advance_clock(Duration::from_secs(3600)).await;
    for _ in 0..1000 {
        if let Err(rejection) = guard.verifier().verify(&token).await {
            assert_eq!(rejection, VerifyError::InvalidToken(TokenError::UnknownKey));
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the token is still accepted");
}

#[tokio::test]
async fn cached_token_survives_a_refresh_that_changes_nothing() {
    let cluster = cluster();
    let guard = guard(&cluster);
    let token = token_spec(&cluster)
        .lifetime(Duration::from_secs(48 * 3600))
        .mint();
    let before = guard.verifier().verify(&token).await.unwrap();
    advance_clock(Duration::from_secs(3600)).await;
    while cluster.key_fetches() < 2 {
        guard.verifier().verify(&token).await.unwrap();
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    let after = guard.verifier().verify(&token).await.unwrap();
    assert_eq!(before.subject().as_ptr(), after.subject().as_ptr());
}

#[tokio::test]
async fn whole_token_is_the_cache_key() {
    let cluster = cluster();
    let guard = guard(&cluster);
    let token = token_spec(&cluster).mint();
    assert!(is_cached(&guard, &token).await);
    for end in [token.len() - 1, token.len() / 2] {
        let mut other = token.clone().into_bytes();
        other[end - 2] = if other[end - 2] == b'A' { b'B' } else { b'A' };
        assert!(guard.verifier().verify(&other).await.is_err());
    }
}

#[tokio::test]
async fn cached_tokens_are_not_shared_between_guards_with_different_audiences() {
    let cluster = cluster();
    let (here, token) = (guard(&cluster), token_spec(&cluster).mint());
    let trusted = Issuer::kubernetes(cluster.url()).audience("https://other.example");
    let builder = OidcGuard::builder()
        .issuer(trusted)
        .http_client(cluster.client());
    let there = builder.any_verified_caller().build().unwrap();
    assert!(is_cached(&here, &token).await);
    assert_eq!(
        there.verifier().verify(&token).await.err(),
        Some(VerifyError::InvalidToken(TokenError::WrongAudience))
    );
}

#[tokio::test]
async fn policy_decisions_are_not_cached() {
    let cluster = cluster();
    let (guard, token) = (guard(&cluster), token_spec(&cluster).mint());
    assert_eq!(token_status(guard.layer(), &token).await, 200);
    let narrow = guard.layer_with(Policy::any_verified_caller().require_claim("sub", "other"));
    assert_eq!(token_status(narrow.unwrap(), &token).await, 403);
    let closed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asks = closed.clone();
    let policy = Policy::any_verified_caller().require(move |_| !asks.load(Ordering::Relaxed));
    let layer = guard.layer_with(policy).unwrap();
    assert_eq!(token_status(layer.clone(), &token).await, 200);
    closed.store(true, Ordering::Relaxed);
    assert_eq!(token_status(layer, &token).await, 403);
}

#[tokio::test]
async fn cache_holds_no_more_tokens_than_its_limits_allow() {
    let cluster = cluster();
    for (tokens, bytes) in [(10, 1 << 30), (1 << 20, 40_000)] {
        let guard = guard_builder(&cluster)
            .any_verified_caller()
            .cache(tokens, bytes)
            .build()
            .unwrap();
        let all: Vec<_> = (0..100).map(|_| token_spec(&cluster).mint()).collect();
        let mut first = Vec::new();
        for token in &all {
            first.push(guard.verifier().verify(token).await.unwrap());
        }
        let mut kept = 0;
        for (token, first) in all.iter().zip(&first).rev() {
            let again = guard.verifier().verify(token).await.unwrap();
            kept += usize::from(again.subject().as_ptr() == first.subject().as_ptr());
        }
        assert!(kept <= 20, "{kept}");
    }
}
