//! A token shows nowhere.

use std::io;
use std::sync::{Arc, Mutex};

use crate::support::{AUDIENCE, bearer_request, echo_subject, guard, valid_token};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;

/// Everything that is logged, at any level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails where any part of the token stands in the text.
fn assert_absent(token: &str, text: &str) {
    for part in token.split('.') {
        assert!(!text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn tokens_appear_neither_in_logs_nor_in_debug_output_nor_in_responses() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

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
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("keys fetched") && logged.contains("refused"),
        "{logged}"
    );
    for token in [&good, &bad, &other] {
        assert_absent(token, &seen);
        assert_absent(token, &logged);
    }
}
