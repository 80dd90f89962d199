//! Tokens do not appear in logs, debug output or responses.

use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;

use crate::support::logs::{CapturedLogs, assert_absent};
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::{AUDIENCE, bearer_request, echo_subject, guard, valid_token};

#[tokio::test]
async fn tokens_appear_neither_in_logs_nor_in_debug_output_nor_in_responses() {
    if !is_child_process() {
        return run_in_child_process(
            "secrecy::tokens_appear_neither_in_logs_nor_in_debug_output_nor_in_responses",
            &[],
        );
    }
    let logs = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(logs.clone())
        .finish();
    let _subscriber = tracing::subscriber::set_default(subscriber);

    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let good = valid_token(&issuer);
    let mut seen = String::new();
    let identity = guard.verifier().verify(&good).await.unwrap();
    seen.push_str(&format!(
        "{identity:?} {:?} {guard:?} {:?}",
        guard.verifier(),
        guard.layer()
    ));
    let bad = issuer
        .token()
        .audience(AUDIENCE)
        .claim("exp", "soon")
        .mint();
    let other = issuer.token().audience("https://other.example").mint();
    let cut = &good[..good.len() - 2];
    for token in [good.as_str(), cut, bad.as_str(), other.as_str()] {
        let service = guard.layer().layer(service_fn(echo_subject));
        let response = service.oneshot(bearer_request(token)).await.unwrap();
        seen.push_str(&format!("{response:?}"));
        if let Err(rejection) = guard.verifier().verify(token).await {
            seen.push_str(&format!("{rejection} {rejection:?}"));
        }
    }
    let logged = logs.text();
    assert!(
        logged.contains("keys fetched") && logged.contains("rejected"),
        "{logged}"
    );
    for token in [&good, &bad, &other] {
        assert_absent(token, &seen);
        assert_absent(token, &logged);
    }
}
