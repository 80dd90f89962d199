//! The limits on reviews of tokens.

use std::time::Duration;

use tower_oidc_guard::{TokenError, VerifyError, WhenUnavailable};

use crate::support::reviews::{ReviewingCluster, as_time_passes, health, pass, review, verify};

#[tokio::test(start_paused = true)]
async fn a_flood_of_valid_tokens_exceeds_no_rate_and_does_not_end_the_use_of_others() {
    let cluster = ReviewingCluster::new().await;
    let settings = review(WhenUnavailable::Refuse)
        .max_reviews_per_second(5)
        .max_tokens(50)
        .time_limit(Duration::from_secs(1));
    let guard = cluster.guard(settings);
    let used = cluster.token("web");
    verify(&guard, &used).await.unwrap();
    let mut flood = Vec::new();
    for second in 0..40 {
        for number in 0..20 {
            let token = cluster.token(&format!("flood-{second}-{number}"));
            let verifier = guard.verifier().clone();
            flood.push(tokio::spawn(async move { verifier.verify(token).await }));
        }
        for _ in 0..2 {
            // The token in use is confirmed again although others wait.
            verify(&guard, &used).await.unwrap();
            pass(&guard, Duration::from_millis(500)).await;
        }
        assert!(health(&guard).tokens <= 50);
    }
    let reviews = cluster.api.token_reviews();
    assert!(reviews <= 5 * 41, "{reviews} reviews in 40 s");
    assert!(reviews >= 100, "{reviews} reviews in 40 s");
    let mut refused = 0;
    pass(&guard, Duration::from_secs(2)).await;
    for request in flood {
        match request.await.unwrap() {
            Ok(_) => {}
            Err(VerifyError::TokenReviewUnavailable { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 400, "{refused} requests refused");
    // A revoked token is not confirmed by any of this.
    cluster.api.delete_pod("shop", "web");
    pass(&guard, Duration::from_secs(11)).await;
    assert!(verify(&guard, &used).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn no_more_reviews_are_under_way_than_the_limit() {
    let cluster = ReviewingCluster::new().await;
    cluster.api.delay_token_reviews(Duration::from_secs(3600));
    let settings = review(WhenUnavailable::Accept)
        .max_concurrent_reviews(3)
        .time_limit(Duration::from_secs(1));
    let guard = cluster.guard(settings);
    guard.ready().await.unwrap();
    let requests = (0..20).map(|number| {
        let (guard, token) = (guard.clone(), cluster.token(&format!("web-{number}")));
        tokio::spawn(async move { as_time_passes(verify(&guard, &token)).await })
    });
    let requests: Vec<_> = requests.collect();
    let mut highest = 0;
    for request in requests {
        while !request.is_finished() {
            highest = highest.max(health(&guard).under_way);
            tokio::task::yield_now().await;
        }
        request.await.unwrap().unwrap();
    }
    assert_eq!(highest, 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_for_which_there_is_no_room_is_never_accepted_without_a_review() {
    let cluster = ReviewingCluster::new().await;
    for when_unavailable in [WhenUnavailable::Refuse, WhenUnavailable::Accept] {
        let guard = cluster.guard(review(when_unavailable).max_tokens(2));
        for name in ["a", "b"] {
            let token = cluster.token(name);
            for _ in 0..2 {
                verify(&guard, &token).await.unwrap();
            }
        }
        let gone = cluster.token("gone");
        cluster.api.delete_pod("shop", "gone");
        let result = verify(&guard, &gone).await;
        match when_unavailable {
            // It is reviewed nevertheless: the token that was confirmed first makes room.
            WhenUnavailable::Accept => assert_eq!(
                result,
                Err(VerifyError::InvalidToken(TokenError::TokenRevoked))
            ),
            WhenUnavailable::Refuse => assert!(matches!(
                result,
                Err(VerifyError::TokenReviewUnavailable { .. })
            )),
        }
        assert!(health(&guard).tokens <= 2);
        // Tokens that are not used any more make room.
        pass(&guard, Duration::from_secs(21)).await;
        verify(&guard, &cluster.token("c")).await.unwrap();
    }
}
