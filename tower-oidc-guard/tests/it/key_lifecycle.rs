//! The keys of an issuer from the first fetch until they are stale: health, readiness, outages and rotations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, Issuer, OidcGuard, TokenError, VerifyError};

use crate::support::mock_client::mock_client;
use crate::support::signer::Signer;
use crate::support::{
    AUDIENCE, HEADER, ISSUER_URL, advance_clock, bearer_request, body_text, claims, echo_subject,
    guard, guard_with_client, guard_with_keys, request, trusted_issuer, valid_token,
};

const HOUR: Duration = Duration::from_secs(3600);

fn long_token(issuer: &TestIssuer) -> String {
    issuer.token().audience(AUDIENCE).lifetime(48 * HOUR).mint()
}

#[tokio::test]
async fn building_a_guard_sends_no_request() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(issuer.key_fetches(), 0);
    guard.ready().await.unwrap();
    assert_eq!(issuer.key_fetches(), 1);
}

/// Gives spawned tasks and sockets time to do what they would do.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn health_starts_no_fetch_and_prefetch_fetches_the_keys_of_every_issuer() {
    let issuers = [
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    ];
    let builder = issuers
        .iter()
        .fold(OidcGuard::builder(), |builder, issuer| {
            builder.issuer(trusted_issuer(issuer.url()))
        });
    let guard = builder.any_verified_caller().build().unwrap();
    let fetches = || issuers.each_ref().map(TestIssuer::key_fetches);
    assert!(guard.health().iter().all(|issuer| !issuer.is_ready));
    pause().await;
    assert_eq!(fetches(), [0, 0]);
    guard.prefetch();
    for _ in 0..1000 {
        if guard.health().iter().all(|issuer| issuer.is_ready) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(guard.health().iter().all(|issuer| issuer.is_ready));
    guard.prefetch();
    pause().await;
    assert_eq!(fetches(), [1, 1], "a second call fetches nothing");
}

#[tokio::test]
async fn readiness_probes_alone_make_a_server_ready() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    for _ in 0..1000 {
        let response = guard.readiness().oneshot(request(&[])).await.unwrap();
        if response.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", guard.health());
}

#[tokio::test]
async fn known_keys_work_for_a_day_without_the_issuer_and_then_become_stale() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let known = long_token(&issuer);
    guard.ready().await.unwrap();
    drop(issuer);
    for hour in 0..23 {
        assert!(guard.verifier().verify(&known).await.is_ok(), "hour {hour}");
        advance_clock(HOUR).await;
    }
    assert!(guard.health()[0].is_ready);
    advance_clock(2 * HOUR).await;
    let result = guard.verifier().verify(&known).await;
    assert!(
        matches!(result, Err(VerifyError::KeysUnavailable { .. })),
        "{result:?}"
    );
    let health = guard.health().remove(0);
    assert!(!health.is_ready);
    let text = health.to_string();
    assert!(
        text.contains("too old to be used (`stale_after`): GET "),
        "{text}"
    );
}

#[tokio::test]
async fn stale_after_is_configurable() {
    let issuer = TestIssuer::start().await.unwrap();
    let trusted = trusted_issuer(issuer.url()).stale_after(2 * HOUR);
    let guard = OidcGuard::builder()
        .issuer(trusted)
        .any_verified_caller()
        .build()
        .unwrap();
    let known = long_token(&issuer);
    guard.ready().await.unwrap();
    drop(issuer);
    advance_clock(HOUR).await;
    assert!(guard.verifier().verify(&known).await.is_ok());
    advance_clock(HOUR).await;
    assert!(guard.verifier().verify(&known).await.is_err());
}

#[tokio::test]
async fn health_reports_keys_and_the_last_error() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    assert!(!guard.health()[0].is_ready);
    guard.ready().await.unwrap();
    let before = guard.health().remove(0);
    assert_eq!(before.issuer, issuer.url());
    assert_eq!((before.is_ready, before.usable_keys), (true, 1));
    assert!(before.last_success.is_some() && before.last_error.is_none());
    assert!(
        before
            .next_attempt
            .is_some_and(|pause| pause > Duration::from_secs(60))
    );
    issuer.rotate_key().unwrap();
    advance_clock(Duration::from_secs(6)).await;
    guard.verifier().verify(valid_token(&issuer)).await.unwrap();
    let after = guard.health().remove(0);
    assert_eq!(after.usable_keys, 2);
    assert_ne!(after.key_set_hash, before.key_set_hash);
    drop(issuer);
    advance_clock(HOUR).await;
    while guard.health()[0].last_error.is_none() {
        tokio::task::yield_now().await;
    }
    let during_outage = guard.health().remove(0);
    assert!(during_outage.is_ready, "ready during an outage");
    let texts = [before, after, during_outage].map(|health| health.to_string());
    assert!(texts[0].ends_with(": 1 usable"), "{}", texts[0]);
    assert!(texts[1].ends_with(": 2 usable"), "{}", texts[1]);
    let failed = ": 2 usable, but the last fetch failed: GET ";
    assert!(texts[2].contains(failed), "{}", texts[2]);
}

#[tokio::test]
async fn health_lists_skipped_keys() {
    let signer = Signer::new();
    let unsupported = json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA" });
    let guard = guard_with_keys(&[unsupported, signer.jwk()]);
    guard.ready().await.unwrap();
    let health = guard.health().remove(0);
    assert_eq!((health.usable_keys, health.skipped_keys.len()), (1, 1));
}

#[tokio::test]
async fn readiness_returns_200_once_keys_are_available() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(body_text(response).await.contains(issuer.url()));
    guard.ready().await.unwrap();
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn thousand_unknown_kids_cause_one_fetch_and_a_rotation_is_still_picked_up() {
    let (issuer, signer) = (TestIssuer::start().await.unwrap(), Signer::new());
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "iss": issuer.url(), "sub": "x", "aud": AUDIENCE, "iat": now, "exp": now + 600,
    });
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let header = format!(r#"{{"alg":"RS256","kid":"made-up-{number}"}}"#);
        let (verifier, forged) = (
            guard.verifier().clone(),
            signer.sign(&header, &claims.to_string()),
        );
        flood.spawn(async move { verifier.verify(forged).await.is_err() });
    }
    assert!(
        guard.verifier().verify(valid_token(&issuer)).await.is_ok(),
        "a valid token among them"
    );
    assert!(flood.join_all().await.into_iter().all(|refused| refused));
    assert_eq!(
        issuer.key_fetches(),
        2,
        "the first fetch and one for all unknown kids"
    );
}

/// As on a platform that gives a process no CPU time between requests.
#[test]
fn requests_drive_the_refresh_if_the_background_task_is_not_polled() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let servers = servers.unwrap();
    let issuer = servers.block_on(TestIssuer::start()).unwrap();
    let (guard, known) = (guard(issuer.url()), long_token(&issuer));
    let throttled = runtime();
    throttled.block_on(guard.ready()).unwrap();
    assert_eq!(issuer.key_fetches(), 1);
    let awake = runtime();
    awake.block_on(async {
        advance_clock(2 * HOUR).await;
        for _ in 0..1000 {
            assert!(guard.verifier().verify(&known).await.is_ok());
            if issuer.key_fetches() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the keys were not refreshed");
    });
    drop(throttled);
}

#[tokio::test]
async fn kubernetes_142012_failed_fetch_for_an_unknown_key_is_401_and_does_not_use_up_the_limit() {
    let fails = Arc::new(AtomicBool::new(false));
    let (old, new) = (Signer::new(), Signer::new());
    let (published, failing) = (json!({ "keys": [new.jwk()] }), fails.clone());
    let first = json!({ "keys": [{ "kty": "EC", "kid": "old", "crv": "P-256", "x": old.jwk()["x"], "y": old.jwk()["y"] }] });
    let requests = AtomicUsize::new(0);
    let client = mock_client(move |_| {
        let is_first = requests.fetch_add(1, Ordering::Relaxed) == 0;
        let fails = failing.load(Ordering::Relaxed);
        let body = if is_first { &first } else { &published };
        let response = http::Response::builder().status(if fails { 500 } else { 200 });
        response.body(body.to_string().into_bytes()).unwrap()
    });
    let issuer = Issuer::oidc(ISSUER_URL)
        .algorithms([Algorithm::ES256])
        .unknown_key_jitter(Duration::ZERO)
        .jwks_url("https://keys.example/jwks");
    let guard = guard_with_client(issuer, client);
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    let token = new.sign(HEADER, &claims(json!({})));
    fails.store(true, Ordering::Relaxed);
    let result = guard.verifier().verify(&token).await;
    assert_eq!(
        result.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownKey))
    );
    let next = guard.health()[0].next_attempt.unwrap();
    assert!(next <= Duration::from_secs(1), "{next:?}");
    fails.store(false, Ordering::Relaxed);
    advance_clock(Duration::from_secs(1)).await;
    assert!(
        guard.verifier().verify(&token).await.is_ok(),
        "the failed fetch does not delay the next one"
    );
}

#[tokio::test]
async fn openfga_3101_first_request_after_a_key_rotation_is_admitted() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service
        .oneshot(bearer_request(&valid_token(&issuer)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn unreachable_issuer_does_not_block_startup_and_is_reported_by_health() {
    let guard = guard("http://127.0.0.1:1");
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service.oneshot(request(&[])).await.unwrap();
    assert_eq!(
        response.status(),
        401,
        "a request without a token does not wait"
    );
    assert!(guard.ready().await.is_err());
    let health = guard.health().remove(0);
    assert!(!health.is_ready && health.last_error.is_some());
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert!(body_text(response).await.contains("http://127.0.0.1:1"));
}
