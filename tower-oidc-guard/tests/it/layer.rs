//! What a guarded service does with requests.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::{AUDIENCE, Body, bearer, guard, later, request, text, token, who};
use http::{Request, Response};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tower_oidc_guard::{Identity, testing::TestIssuer};

#[tokio::test]
async fn without_a_token_the_answer_is_a_bare_challenge_and_the_issuer_is_not_asked() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(who));
    let response = service.oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()["www-authenticate"],
        "Bearer realm=\"protected\""
    );
    assert_eq!(text(response).await, "401 - Unauthorized");
    assert_eq!(issuer.key_fetches(), 0);
}

#[tokio::test]
async fn a_valid_token_lets_the_request_in_with_its_identity_in_the_extensions() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(who));
    let response = service.oneshot(bearer(&token(&issuer))).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        text(response).await,
        "system:serviceaccount:id-namespace:gke-sa"
    );
}

#[tokio::test]
async fn a_token_for_another_service_is_refused() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(who));
    let other = issuer.token().audience("https://other.example").mint();
    let response = service.oneshot(bearer(&other)).await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert_eq!(text(response).await, "401 - Unauthorized");
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused() {
    let (trusted, stranger) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let service = guard(trusted.url()).layer().layer(service_fn(who));
    // Of its own name, and in the trusted issuer's name with a key that this one does not have.
    let own = token(&stranger);
    let posing = stranger
        .token()
        .audience(AUDIENCE)
        .claim("iss", trusted.url())
        .mint();
    let response = service.clone().oneshot(bearer(&own)).await.unwrap();
    assert_eq!(response.status(), 401);
    let response = service.oneshot(bearer(&posing)).await.unwrap();
    assert_ne!(response.status(), 200);
}

#[tokio::test]
async fn two_authorization_headers_are_a_bad_request() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(who));
    let bearer = format!("Bearer {}", token(&issuer));
    let response = service.oneshot(request(&[&bearer, &bearer])).await.unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn while_the_issuer_is_away_the_answer_says_when_to_come_back() {
    let issuer = TestIssuer::start().await.unwrap();
    let (token, url) = (token(&issuer), issuer.url().to_owned());
    drop(issuer);
    let service = guard(&url).layer().layer(service_fn(who));
    let response = service.oneshot(bearer(&token)).await.unwrap();
    assert_eq!(response.status(), 503);
    let seconds: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_token_of_a_key_that_is_new_is_let_in_by_the_same_request() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    later(Duration::from_secs(6)).await;
    let old = token(&issuer);
    issuer.rotate_key().unwrap();
    let service = guard.layer().layer(service_fn(who));
    let response = service
        .clone()
        .oneshot(bearer(&token(&issuer)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    // The old key is still published.
    assert_eq!(service.oneshot(bearer(&old)).await.unwrap().status(), 200);
    assert_eq!(issuer.key_fetches(), 2);
}

#[tokio::test]
async fn a_withdrawn_key_is_out_of_use_within_the_hour() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let old = issuer
        .token()
        .audience(AUDIENCE)
        .lifetime(Duration::from_secs(7200))
        .mint();
    let service = guard.layer().layer(service_fn(who));
    assert_eq!(
        service
            .clone()
            .oneshot(bearer(&old))
            .await
            .unwrap()
            .status(),
        200
    );
    issuer.rotate_key().unwrap();
    issuer.withdraw_old_keys();
    later(Duration::from_secs(3600)).await;
    while issuer.key_fetches() < 2 {
        tokio::task::yield_now().await;
    }
    // The fetch has been answered; that it is taken in is waited for by asking for the new key.
    let new = token(&issuer);
    assert_eq!(
        service
            .clone()
            .oneshot(bearer(&new))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_ne!(service.oneshot(bearer(&old)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn many_made_up_keys_at_a_time_cost_the_issuer_one_fetch() {
    let issuer = TestIssuer::start().await.unwrap();
    let forger = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let service = guard.layer().layer(service_fn(who));
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..20 {
        let forged = forger
            .token()
            .audience(AUDIENCE)
            .claim("iss", issuer.url())
            .header("kid", number.to_string())
            .mint();
        flood.spawn(service.clone().oneshot(bearer(&forged)));
    }
    for response in flood.join_all().await {
        assert_eq!(response.unwrap().status(), 401);
    }
    assert_eq!(issuer.key_fetches(), 1);
}

/// A service that must be polled ready before each call, as tower demands, and whose clones start out
/// un-ready.
#[derive(Default)]
struct Particular {
    ready: bool,
}

impl Clone for Particular {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<Body>> for Particular {
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
async fn a_service_is_polled_ready_before_each_call_also_after_a_wait_for_keys() {
    let issuer = TestIssuer::start().await.unwrap();
    let mut service = guard(issuer.url()).layer().layer(Particular::default());
    // The first waits for keys, the second finds them at hand.
    for _ in 0..2 {
        let response = service.ready().await.unwrap().call(bearer(&token(&issuer)));
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn readiness_and_errors_of_the_service_come_through() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let (mock, mut handle) = tower_test::mock::pair::<Request<Body>, Response<String>>();
    let mut service = tower_test::mock::Spawn::new(guard.layer().layer(mock));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    handle.send_error("out of order");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
}

#[tokio::test]
async fn an_identity_from_elsewhere_does_not_pass_the_guard() {
    let (outer, inner) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let identity: Identity = guard(outer.url())
        .verifier()
        .verify(token(&outer))
        .await
        .unwrap();
    let service = guard(inner.url()).layer().layer(service_fn(who));
    let mut forged = request(&[]);
    forged.extensions_mut().insert(identity);
    assert_eq!(service.oneshot(forged).await.unwrap().status(), 401);
}

#[tokio::test]
async fn tower_test_s_mock_sees_the_request_only_once_it_said_that_it_is_ready() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<Body>, Response<String>, _>(guard.layer());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answered = tokio::spawn(service.call(bearer(&token(&issuer))));
    let (request, send) = handle.next_request().await.unwrap();
    assert!(request.extensions().get::<Identity>().is_some());
    send.send_response(Response::new("mock".to_owned()));
    assert_eq!(text(answered.await.unwrap().unwrap()).await, "mock");
}
