//! Tokens while the cluster's API server cannot review them.

use std::time::Duration;

use http::{Response, StatusCode, header};
use serde_json::{Value, json};
use tower_oidc_guard::{OidcGuard, TokenReview, TokenReviewError, VerifyError, WhenUnavailable};

use crate::support::reviews::{
    REVOKED, ReviewingCluster, as_time_passes, health, is_unavailable, pass, review, verify,
};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Replaces the responses to TokenReviews.
fn answer(
    cluster: &ReviewingCluster,
    map: impl Fn(Response<String>) -> Response<String> + Send + Sync + 'static,
) {
    cluster.api.map_responses(move |request, response| {
        if request.uri().path() == REVIEWS {
            map(response)
        } else {
            response
        }
    });
}

fn answer_status(cluster: &ReviewingCluster, status: StatusCode) {
    answer(cluster, move |mut response| {
        *response.status_mut() = status;
        response
    });
}

/// Changes the JSON of the response to a TokenReview.
fn edit(response: Response<String>, edit: impl Fn(&mut Value)) -> Response<String> {
    response.map(|body| {
        let mut body: Value = serde_json::from_str(&body).unwrap();
        edit(&mut body);
        body.to_string()
    })
}

fn last_error(guard: &OidcGuard) -> String {
    health(guard).last_error.unwrap().to_string()
}

#[tokio::test(start_paused = true)]
async fn whether_unconfirmed_tokens_are_accepted_is_the_setting() {
    let cluster = ReviewingCluster::new().await;
    answer_status(&cluster, StatusCode::INTERNAL_SERVER_ERROR);
    let strict = cluster.guard(review(WhenUnavailable::Refuse));
    let result = verify(&strict, &cluster.token("web")).await;
    assert!(is_unavailable(&result), "{result:?}");
    let Err(error) = result else { unreachable!() };
    assert!(error.is_transient());
    assert_eq!(error.reason(), "token_review_unavailable");
    let lenient = cluster.guard(review(WhenUnavailable::Accept));
    verify(&lenient, &cluster.token("web")).await.unwrap();
    for guard in [&strict, &lenient] {
        let health = health(guard);
        assert!(!health.is_available && guard.health()[0].is_ready);
        assert!(last_error(guard).contains("returned 500 Internal Server Error"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_token_stays_accepted_in_an_outage_for_the_time_to_live_or_until_its_end() {
    let cluster = ReviewingCluster::new().await;
    let (strict, lenient) = (
        cluster.guard(review(WhenUnavailable::Refuse)),
        cluster.guard(review(WhenUnavailable::Accept)),
    );
    let token = cluster.token("web");
    for guard in [&strict, &lenient] {
        verify(guard, &token).await.unwrap();
    }
    answer_status(&cluster, StatusCode::SERVICE_UNAVAILABLE);
    for second in 0..60 {
        let result = verify(&strict, &token).await;
        assert_eq!(
            is_unavailable(&result),
            second >= 10,
            "{second} s: {result:?}"
        );
        verify(&lenient, &token).await.unwrap();
        for guard in [&strict, &lenient] {
            pass(guard, Duration::from_millis(500)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_asked_at_growing_intervals_whatever_the_number_of_requests() {
    let cluster = ReviewingCluster::new().await;
    answer_status(&cluster, StatusCode::BAD_GATEWAY);
    for when_unavailable in [WhenUnavailable::Refuse, WhenUnavailable::Accept] {
        let before = cluster.api.token_reviews();
        let guard = cluster.guard(review(when_unavailable));
        for second in 0..60 {
            for request in 0..20 {
                let token = cluster.token(&format!("web-{}", (second + request) % 7));
                assert_eq!(
                    is_unavailable(&verify(&guard, &token).await),
                    when_unavailable == WhenUnavailable::Refuse
                );
            }
            pass(&guard, Duration::from_secs(1)).await;
        }
        let reviews = cluster.api.token_reviews() - before;
        assert!((4..=9).contains(&reviews), "{reviews} reviews in 60 s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_stays_refused_in_an_outage() {
    let cluster = ReviewingCluster::new().await;
    // Only one token is kept, and four refusals.
    let settings = || review(WhenUnavailable::Accept).max_tokens(1);
    let builder = cluster.builder(settings()).without_cache();
    let guard = builder.any_verified_caller().build().unwrap();
    let mut revoked = Vec::new();
    for number in 0..6 {
        let name = format!("gone-{number}");
        let token = cluster.token(&name);
        cluster.api.delete_pod("shop", &name);
        assert_eq!(verify(&guard, &token).await, Err(REVOKED));
        revoked.push(token);
    }
    answer_status(&cluster, StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..30 {
        for token in &revoked {
            // Those whose refusal is forgotten are not accepted without a review either.
            let result = verify(&guard, token).await;
            assert!(result.is_err(), "accepted");
        }
        assert_eq!(verify(&guard, &revoked[5]).await, Err(REVOKED));
        pass(&guard, Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn reviews_go_on_after_an_outage() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Accept));
    let token = cluster.token("web");
    answer_status(&cluster, StatusCode::INTERNAL_SERVER_ERROR);
    verify(&guard, &token).await.unwrap();
    cluster.api.delete_pod("shop", "web");
    answer(&cluster, |response| response);
    // No request is necessary.
    pass(&guard, Duration::from_secs(2)).await;
    assert!(health(&guard).is_available);
    assert_eq!(verify(&guard, &token).await, Err(REVOKED));
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_delays_a_request_by_the_time_limit() {
    let cluster = ReviewingCluster::new().await;
    cluster.api.delay_token_reviews(Duration::from_secs(3600));
    let guard = cluster.guard(review(WhenUnavailable::Refuse).time_limit(Duration::from_secs(2)));
    // The keys are there when the time begins.
    guard.ready().await.unwrap();
    let began = tokio::time::Instant::now();
    let result = as_time_passes(verify(&guard, &cluster.token("web"))).await;
    assert!(is_unavailable(&result), "{result:?}");
    let waited = began.elapsed();
    assert!(waited <= Duration::from_millis(2500), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_about_the_token_are_no_confirmation_and_no_refusal() {
    let cluster = ReviewingCluster::new().await;
    type Change = fn(Response<String>) -> Response<String>;
    let changes: [(Change, &str); 10] = [
        (
            |r| edit(r, |b| b["kind"] = "Status".into()),
            "not a TokenReview",
        ),
        (
            |r| {
                edit(r, |b| {
                    b["apiVersion"] = "authentication.k8s.io/v1beta1".into()
                })
            },
            "not a TokenReview of authentication.k8s.io/v1",
        ),
        (
            |r| edit(r, |b| drop(b.as_object_mut().unwrap().remove("status"))),
            "not a TokenReview with a `status`",
        ),
        (
            |r| edit(r, |b| b["status"] = json!({})),
            "neither `authenticated` nor `error`",
        ),
        (
            |r| edit(r, |b| b["status"]["authenticated"] = "true".into()),
            "not a TokenReview with a `status`",
        ),
        (
            |r| {
                edit(r, |b| {
                    b["status"]["user"]["username"] = "system:serviceaccount:a:b".into()
                })
            },
            "about another user",
        ),
        (|r| r.map(|_| "<html>".to_owned()), "not a TokenReview"),
        (|r| r.map(|_| String::new()), "not a TokenReview"),
        (
            |r| edit(r, |b| b["padding"] = "a".repeat(300_000).into()),
            "larger than 262144 bytes",
        ),
        (
            |r| {
                let error = "[invalid bearer token, etcdserver: request timed out]";
                edit(r, |b| b["status"] = json!({ "user": {}, "error": error }))
            },
            "could not check the token: [invalid bearer token, etcdserver: request timed out]",
        ),
    ];
    for (change, expected) in changes {
        answer(&cluster, change);
        let guard = cluster.guard(review(WhenUnavailable::Refuse));
        let token = cluster.token("web");
        let result = verify(&guard, &token).await;
        assert!(is_unavailable(&result), "{expected}: {result:?}");
        let error = last_error(&guard);
        assert!(error.contains(expected), "{error}");
        assert!(
            token.split('.').all(|part| !error.contains(part)),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_of_the_api_server_come_with_what_to_do() {
    let cluster = ReviewingCluster::new().await;
    for (status, expected) in [
        (
            StatusCode::UNAUTHORIZED,
            "did not accept the guard's own token",
        ),
        (StatusCode::NOT_FOUND, "no API `authentication.k8s.io/v1`"),
        (
            StatusCode::TOO_MANY_REQUESTS,
            "lower `max_reviews_per_second`",
        ),
        (StatusCode::TEMPORARY_REDIRECT, "redirects are not followed"),
        (StatusCode::SERVICE_UNAVAILABLE, "returned 503"),
    ] {
        answer(&cluster, move |mut response| {
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert(header::LOCATION, "/elsewhere".parse().unwrap());
            headers.insert(header::RETRY_AFTER, "7".parse().unwrap());
            response
        });
        let guard = cluster.guard(review(WhenUnavailable::Refuse));
        let result = verify(&guard, &cluster.token("web")).await;
        let Err(VerifyError::TokenReviewUnavailable { retry_after }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(retry_after.as_secs(), 7);
        let error = last_error(&guard);
        assert!(error.contains(expected), "{error}");
    }
    assert!(
        cluster
            .api
            .requests()
            .iter()
            .all(|request| request.path != "/elsewhere")
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_role_is_named_with_the_command_that_grants_it() {
    let cluster = ReviewingCluster::new().await;
    cluster.api.withdraw_token_reviews("shop", "guard");
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let token = cluster.token("web");
    assert!(is_unavailable(&verify(&guard, &token).await));
    let error = health(&guard).last_error.unwrap();
    assert!(
        matches!(*error, TokenReviewError::MissingRole { .. }),
        "{error}"
    );
    for part in [
        "403 Forbidden (tokenreviews.authentication.k8s.io is forbidden",
        "`system:auth-delegator`",
        "kubectl create clusterrolebinding shop-guard-auth-delegator --clusterrole=system:auth-delegator --serviceaccount=shop:guard",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let shown = guard.health()[0].to_string();
    assert!(shown.contains("token reviews fail"), "{shown}");
    cluster.api.grant_token_reviews("shop", "guard");
    pass(&guard, Duration::from_secs(2)).await;
    verify(&guard, &token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_rotated_token_and_ca_are_used() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    verify(&guard, &cluster.token("a")).await.unwrap();
    cluster.api.replace_ca().unwrap();
    cluster
        .api
        .write_pod_volume(&cluster.volume, "shop", "guard")
        .unwrap();
    verify(&guard, &cluster.token("b")).await.unwrap();
    let requests = cluster.api.requests();
    let own = std::fs::read_to_string(cluster.volume.path().join("token")).unwrap();
    assert_eq!(requests.last().unwrap().bearer_token(), Some(own.trim()));
    std::fs::write(cluster.volume.path().join("ca.crt"), "not a certificate").unwrap();
    assert!(is_unavailable(&verify(&guard, &cluster.token("c")).await));
    assert!(last_error(&guard).contains("ca.crt does not contain a certificate"));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_api_server_does_not_recognize_is_refused_and_asked_about_again() {
    let cluster = ReviewingCluster::new().await;
    for error in [
        "invalid bearer token",
        "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]",
    ] {
        answer(&cluster, move |r| {
            edit(r, |b| b["status"] = json!({ "user": {}, "error": error }))
        });
        let guard = cluster.guard(review(WhenUnavailable::Accept));
        let token = cluster.token("web");
        assert_eq!(verify(&guard, &token).await, Err(REVOKED));
        // An outage does not make it valid.
        answer_status(&cluster, StatusCode::INTERNAL_SERVER_ERROR);
        pass(&guard, Duration::from_secs(11)).await;
        assert_eq!(verify(&guard, &token).await, Err(REVOKED));
        answer(&cluster, |response| response);
        pass(&guard, Duration::from_secs(2)).await;
        verify(&guard, &token).await.unwrap();
    }
    // Confirmed, but for another audience.
    answer(&cluster, |r| {
        edit(r, |b| b["status"]["audiences"] = json!(["other"]))
    });
    let guard = cluster.guard(TokenReview::new(WhenUnavailable::Accept));
    assert_eq!(verify(&guard, &cluster.token("web")).await, Err(REVOKED));
}

#[tokio::test(start_paused = true)]
async fn another_spelling_of_the_signature_of_a_revoked_token_is_not_accepted_in_an_outage() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    /// The order of P-256.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let cluster = ReviewingCluster::new().await;
    cluster
        .api
        .rotate_key_to(tower_oidc_guard::Algorithm::ES256)
        .unwrap();
    let guard = cluster.guard(review(WhenUnavailable::Accept));
    let token = cluster.token("web");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for index in (0..32).rev() {
        let difference = i16::from(ORDER[index]) - i16::from(signature[32 + index]) - borrow;
        borrow = i16::from(difference < 0);
        signature[32 + index] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let other = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert_ne!(token, other);
    cluster.api.delete_pod("shop", "web");
    assert_eq!(verify(&guard, &token).await, Err(REVOKED));
    answer_status(&cluster, StatusCode::INTERNAL_SERVER_ERROR);
    verify(&guard, &cluster.token("other")).await.unwrap();
    assert_eq!(verify(&guard, &other).await, Err(REVOKED));
    assert_eq!(verify(&guard, &token).await, Err(REVOKED));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_reviewed_again_by_the_first_request_after_an_outage() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Accept));
    let token = cluster.token("web");
    answer_status(&cluster, StatusCode::INTERNAL_SERVER_ERROR);
    verify(&guard, &token).await.unwrap();
    pass(&guard, Duration::from_secs(120)).await;
    answer(&cluster, |response| response);
    cluster.api.delete_pod("shop", "web");
    pass(&guard, Duration::from_secs(60)).await;
    assert_eq!(verify(&guard, &token).await, Err(REVOKED));
}
