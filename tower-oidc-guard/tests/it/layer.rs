//! Requests through the layer: admission, rejection, and the tower contract of the guarded service.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tower_oidc_guard::{Identity, testing::TestIssuer};

use crate::support::{
    AUDIENCE, Body, advance_clock, bearer_request, body_text, echo_subject, guard, request,
    valid_token,
};

#[tokio::test]
async fn missing_token_gets_a_challenge_and_causes_no_fetch() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(echo_subject));
    let response = service.oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()["www-authenticate"],
        "Bearer realm=\"protected\""
    );
    assert_eq!(body_text(response).await, "401 - Unauthorized");
    assert_eq!(issuer.key_fetches(), 0);
}

#[tokio::test]
async fn valid_token_admits_the_request_with_an_identity_in_its_extensions() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(echo_subject));
    let response = service
        .oneshot(bearer_request(&valid_token(&issuer)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        body_text(response).await,
        "system:serviceaccount:id-namespace:gke-sa"
    );
}

#[tokio::test]
async fn token_for_another_audience_is_rejected() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(echo_subject));
    let other = issuer.token().audience("https://other.example").mint();
    let response = service.oneshot(bearer_request(&other)).await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert_eq!(body_text(response).await, "401 - Unauthorized");
}

#[tokio::test]
async fn token_of_an_untrusted_issuer_is_rejected() {
    let (trusted, stranger) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let service = guard(trusted.url()).layer().layer(service_fn(echo_subject));
    // One token with its own issuer, and one with the trusted issuer but signed with the wrong key.
    let own = valid_token(&stranger);
    let posing = stranger
        .token()
        .audience(AUDIENCE)
        .claim("iss", trusted.url())
        .mint();
    let response = service.clone().oneshot(bearer_request(&own)).await.unwrap();
    assert_eq!(response.status(), 401);
    let response = service.oneshot(bearer_request(&posing)).await.unwrap();
    assert_ne!(response.status(), 200);
}

#[tokio::test]
async fn two_authorization_headers_get_400() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(echo_subject));
    let bearer = format!("Bearer {}", valid_token(&issuer));
    let response = service.oneshot(request(&[&bearer, &bearer])).await.unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn unreachable_issuer_causes_503_with_retry_after() {
    let issuer = TestIssuer::start().await.unwrap();
    let (token, url) = (valid_token(&issuer), issuer.url().to_owned());
    drop(issuer);
    let service = guard(&url).layer().layer(service_fn(echo_subject));
    let response = service.oneshot(bearer_request(&token)).await.unwrap();
    assert_eq!(response.status(), 503);
    let seconds: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn first_token_with_a_new_key_is_admitted() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    let old = valid_token(&issuer);
    issuer.rotate_key().unwrap();
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service
        .clone()
        .oneshot(bearer_request(&valid_token(&issuer)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    // The old key is still published.
    assert_eq!(
        service
            .oneshot(bearer_request(&old))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(issuer.key_fetches(), 2);
}

#[tokio::test]
async fn withdrawn_key_is_rejected_within_an_hour() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let old = issuer
        .token()
        .audience(AUDIENCE)
        .lifetime(Duration::from_secs(7200))
        .mint();
    let service = guard.layer().layer(service_fn(echo_subject));
    assert_eq!(
        service
            .clone()
            .oneshot(bearer_request(&old))
            .await
            .unwrap()
            .status(),
        200
    );
    issuer.rotate_key().unwrap();
    issuer.withdraw_old_keys();
    advance_clock(Duration::from_secs(3600)).await;
    while issuer.key_fetches() < 2 {
        tokio::task::yield_now().await;
    }
    // The response of the fetch was sent. Verifying with the new key waits until it is processed.
    let new = valid_token(&issuer);
    assert_eq!(
        service
            .clone()
            .oneshot(bearer_request(&new))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_ne!(
        service
            .oneshot(bearer_request(&old))
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn concurrent_unknown_kids_cause_one_fetch() {
    let issuer = TestIssuer::start().await.unwrap();
    let forger = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let service = guard.layer().layer(service_fn(echo_subject));
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..20 {
        let forged = forger
            .token()
            .audience(AUDIENCE)
            .claim("iss", issuer.url())
            .header("kid", number.to_string())
            .mint();
        flood.spawn(service.clone().oneshot(bearer_request(&forged)));
    }
    for response in flood.join_all().await {
        assert_eq!(response.unwrap().status(), 401);
    }
    assert_eq!(issuer.key_fetches(), 1);
}

/// A service that panics if it is called without being polled ready first. Clones of it are not ready.
#[derive(Default)]
struct ReadinessChecked {
    ready: bool,
}

impl Clone for ReadinessChecked {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<Body>> for ReadinessChecked {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn service_is_polled_ready_before_each_call() {
    let issuer = TestIssuer::start().await.unwrap();
    let mut service = guard(issuer.url())
        .layer()
        .layer(ReadinessChecked::default());
    // The first request waits for keys; the second does not.
    for _ in 0..2 {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(bearer_request(&valid_token(&issuer)));
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn readiness_and_errors_of_the_service_are_forwarded() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let (mock, mut handle) = tower_test::mock::pair::<Request<Body>, Response<String>>();
    let mut service = tower_test::mock::Spawn::new(guard.layer().layer(mock));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    handle.send_error("service failed");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
}

#[tokio::test]
async fn identity_inserted_by_an_earlier_layer_does_not_admit_a_request() {
    let (outer, inner) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let identity: Identity = guard(outer.url())
        .verifier()
        .verify(valid_token(&outer))
        .await
        .unwrap();
    let service = guard(inner.url()).layer().layer(service_fn(echo_subject));
    let mut forged = request(&[]);
    forged.extensions_mut().insert(identity);
    assert_eq!(service.oneshot(forged).await.unwrap().status(), 401);
}

#[tokio::test]
async fn mock_service_receives_the_request_only_after_it_is_ready() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<Body>, Response<String>, _>(guard.layer());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answered = tokio::spawn(service.call(bearer_request(&valid_token(&issuer))));
    let (request, send) = handle.next_request().await.unwrap();
    assert!(request.extensions().get::<Identity>().is_some());
    send.send_response(Response::new("mock".to_owned()));
    assert_eq!(body_text(answered.await.unwrap().unwrap()).await, "mock");
}
