//! Tokens that the cluster's API server confirms.

use std::time::Duration;

use http::{Request, StatusCode};
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{Policy, TokenReview, WhenUnavailable};

use crate::support::reviews::{
    REVOKED, ReviewingCluster, as_time_passes, health, pass, review, settle, verify, wait_until,
};
use crate::support::{AUDIENCE, bearer_request};

#[tokio::test(start_paused = true)]
async fn a_token_is_confirmed_once_and_then_accepted_without_a_review() {
    let cluster = ReviewingCluster::new().await;
    let builder = || cluster.builder(review(WhenUnavailable::Refuse));
    for builder in [builder(), builder().without_cache()] {
        let guard = builder.any_verified_caller().build().unwrap();
        let (token, before) = (cluster.token("web"), cluster.api.token_reviews());
        for _ in 0..100 {
            verify(&guard, &token).await.unwrap();
        }
        assert_eq!(cluster.api.token_reviews(), before + 1);
        assert!(health(&guard).is_available);
        assert_eq!(health(&guard).tokens, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_in_30_s_need_4_reviews_at_a_time_to_live_of_10_s() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    for _ in 0..10_000 {
        verify(&guard, &token).await.unwrap();
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
    // Requests that are dropped do not end the review that the others wait for.
    settle(&guard).await;
    for request in requests.iter().take(50) {
        request.abort();
    }
    for request in requests.into_iter().skip(50) {
        request.await.unwrap().unwrap();
    }
    assert_eq!(cluster.api.token_reviews(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_pod_or_account_is_gone_is_refused_within_the_time_to_live() {
    let cluster = ReviewingCluster::new().await;
    let delete: [fn(&FakeApiServer); 2] = [
        |api| api.delete_pod("shop", "web"),
        |api| api.delete_service_account("shop", "web"),
    ];
    for delete in delete {
        for when_unavailable in [WhenUnavailable::Refuse, WhenUnavailable::Accept] {
            let guard = cluster.guard(review(when_unavailable));
            let token = cluster.token("web");
            verify(&guard, &token).await.unwrap();
            delete(&cluster.api);
            let mut waited = 0;
            let refused = loop {
                match verify(&guard, &token).await {
                    Ok(()) => pass(&guard, Duration::from_secs(1)).await,
                    Err(error) => break error,
                }
                waited += 1;
                assert!(waited <= 10, "still accepted after {waited} s");
            };
            assert_eq!(refused, REVOKED);
            let before = cluster.api.token_reviews();
            for _ in 0..50 {
                assert_eq!(verify(&guard, &token).await, Err(REVOKED));
                pass(&guard, Duration::from_secs(1)).await;
            }
            // It is asked for again after 10 s and 20 s more: some failures of an API server look like a deleted pod.
            let reviews = cluster.api.token_reviews() - before;
            assert!((1..=2).contains(&reviews), "{reviews} reviews");
            assert_eq!(health(&guard).refused_tokens, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_used_is_not_asked_about_until_it_is_used() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    verify(&guard, &token).await.unwrap();
    pass(&guard, Duration::from_secs(60)).await;
    assert_eq!(cluster.api.token_reviews(), 1);
    verify(&guard, &token).await.unwrap();
    assert_eq!(cluster.api.token_reviews(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_never_wait_for_a_further_review_of_a_token_in_use() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    verify(&guard, &token).await.unwrap();
    for _ in 0..60 {
        pass(&guard, Duration::from_millis(700)).await;
        // A request that has to wait is not ready at its first poll.
        let verifier = guard.verifier();
        let mut request = std::pin::pin!(verifier.verify(&token));
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(request.as_mut().poll(cx).is_ready()));
        assert!(polled.await);
    }
    let reviews = cluster.api.token_reviews();
    assert!((4..=6).contains(&reviews), "{reviews} reviews in 42 s");
}

#[tokio::test(start_paused = true)]
async fn only_valid_tokens_of_callers_that_the_policy_allows_are_reviewed() {
    let cluster = ReviewingCluster::new().await;
    let policy = Policy::members(["system:serviceaccount:shop:web"]);
    let builder = cluster.builder(review(WhenUnavailable::Refuse));
    let guard = builder.policy(policy).build().unwrap();
    // Time passes below, so the keys have to be there.
    guard.ready().await.unwrap();
    let mint = |name: &str| cluster.api.token("shop", name).audience(AUDIENCE);
    let refused = [
        (mint("web").bad_signature().mint(), StatusCode::UNAUTHORIZED),
        (
            cluster.api.token("shop", "web").audience("other").mint(),
            StatusCode::UNAUTHORIZED,
        ),
        (mint("other").mint(), StatusCode::FORBIDDEN),
    ];
    for (token, status) in &refused {
        for _ in 0..3 {
            let mut request: Request<()> = bearer_request(token).map(drop);
            let response = as_time_passes(guard.admit(&mut request)).await.unwrap_err();
            assert_eq!(response.status(), *status);
            assert!(as_time_passes(guard.authorize(token)).await.is_err());
        }
    }
    assert_eq!(cluster.api.token_reviews(), 0);
    guard.authorize(mint("web").mint()).await.unwrap();
    assert_eq!(cluster.api.token_reviews(), 1);
    // The verifier has no policy, so it has the token confirmed.
    verify(&guard, &refused[2].0).await.unwrap();
    assert_eq!(cluster.api.token_reviews(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_without_reviews_asks_nothing() {
    let cluster = ReviewingCluster::new().await;
    let guard = tower_oidc_guard::OidcGuard::builder()
        .issuer(cluster.issuer())
        .any_verified_caller()
        .clock({
            let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            move || now
        })
        .build()
        .unwrap();
    verify(&guard, &cluster.token("web")).await.unwrap();
    assert_eq!(cluster.api.token_reviews(), 0);
    assert!(guard.health()[0].token_review.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_reviews_end_with_the_guard() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    for _ in 0..3 {
        verify(&guard, &token).await.unwrap();
    }
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    drop(guard);
    wait_until(|| tasks() < before).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(cluster.api.token_reviews(), 1);
}

#[test]
fn a_guard_that_several_runtimes_use_reviews_tokens_on_any_of_them() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let servers = tokio::runtime::Runtime::new().unwrap();
    let api = servers.block_on(FakeApiServer::start()).unwrap();
    let volume = tempfile::tempdir().unwrap();
    api.write_pod_volume(&volume, "shop", "guard").unwrap();
    api.grant_token_reviews("shop", "guard");
    let issuer = api.issuer(&volume).unwrap().audience(AUDIENCE);
    let review = TokenReview::new(WhenUnavailable::Refuse);
    let guard = tower_oidc_guard::OidcGuard::builder()
        .issuer(issuer.token_review(review))
        .any_verified_caller()
        .build()
        .unwrap();
    let token = |name: &str| api.token("shop", name).audience(AUDIENCE).mint();
    let (first, second) = (runtime(), runtime());
    first.block_on(verify(&guard, &token("a"))).unwrap();
    // The background task is on the first runtime, which does not run any more.
    second.block_on(verify(&guard, &token("b"))).unwrap();
    drop(first);
    second.block_on(verify(&guard, &token("c"))).unwrap();
    drop(second);
    runtime().block_on(verify(&guard, &token("d"))).unwrap();
    assert_eq!(api.token_reviews(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_only_a_stream_uses_is_confirmed_again_and_the_stream_ends_once_it_is_revoked()
{
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    let caller = guard.verifier().verify(&token).await.unwrap();
    let stream = tokio::spawn(caller.expired());
    pass(&guard, Duration::from_secs(30)).await;
    assert!(!stream.is_finished());
    assert_eq!(cluster.api.token_reviews(), 4);
    cluster.api.delete_pod("shop", "web");
    pass(&guard, Duration::from_secs(10)).await;
    assert!(stream.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_refused_because_of_a_failure_of_the_api_server_recovers() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    cluster.api.map_responses(|request, response| {
        if request.uri().path().ends_with("/tokenreviews") {
            let error = "[invalid bearer token, service account token has been invalidated]";
            let status = serde_json::json!({ "user": {}, "error": error });
            let body = serde_json::json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status });
            response.map(|_| body.to_string())
        } else {
            response
        }
    });
    assert_eq!(verify(&guard, &token).await, Err(REVOKED));
    cluster.api.map_responses(|_, response| response);
    assert_eq!(verify(&guard, &token).await, Err(REVOKED));
    pass(&guard, Duration::from_secs(10)).await;
    verify(&guard, &token).await.unwrap();
}
