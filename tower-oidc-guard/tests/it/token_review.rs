//! Tokens that the cluster's API server confirms.

use std::time::Duration;

use tower_oidc_guard::{TokenError, VerifyError, WhenUnavailable};

use crate::support::reviews::{ReviewingCluster, health, pass, review, settle};

const REVOKED: VerifyError = VerifyError::InvalidToken(TokenError::TokenRevoked);

#[tokio::test(start_paused = true)]
async fn a_token_is_confirmed_once_and_then_accepted_without_a_review() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    for _ in 0..100 {
        guard.verifier().verify(&token).await.unwrap();
    }
    assert_eq!(cluster.api.token_reviews(), 1);
    assert!(health(&guard).is_available);
    assert_eq!(health(&guard).tokens, 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_in_30_s_need_4_reviews_at_a_time_to_live_of_10_s() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    for _ in 0..10_000 {
        guard.verifier().verify(&token).await.unwrap();
        tokio::time::advance(Duration::from_millis(3)).await;
        settle(&guard).await;
    }
    let reviews = cluster.api.token_reviews();
    assert!((3..=4).contains(&reviews), "{reviews} reviews");
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_with_a_token_share_one_review() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    let requests = (0..100).map(|_| {
        let (verifier, token) = (guard.verifier().clone(), token.clone());
        tokio::spawn(async move { verifier.verify(token).await })
    });
    let requests: Vec<_> = requests.collect();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!(cluster.api.token_reviews(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_pod_is_gone_is_refused_within_the_time_to_live() {
    let cluster = ReviewingCluster::new().await;
    for when_unavailable in [WhenUnavailable::Refuse, WhenUnavailable::Accept] {
        let guard = cluster.guard(review(when_unavailable));
        let token = cluster.token("web");
        guard.verifier().verify(&token).await.unwrap();
        cluster.api.delete_pod("shop", "web");
        let mut waited = 0;
        let refused = loop {
            match guard.verifier().verify(&token).await {
                Ok(_) => pass(&guard, Duration::from_secs(1)).await,
                Err(error) => break error,
            }
            waited += 1;
            assert!(waited <= 10, "still accepted after {waited} s");
        };
        assert_eq!(refused, REVOKED);
        let reviews = cluster.api.token_reviews();
        for _ in 0..100 {
            assert_eq!(guard.verifier().verify(&token).await.err(), Some(REVOKED));
            pass(&guard, Duration::from_secs(1)).await;
        }
        // The answer cannot change, so it is not asked for again.
        assert_eq!(cluster.api.token_reviews(), reviews);
    }
}
