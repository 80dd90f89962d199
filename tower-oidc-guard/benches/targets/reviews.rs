//! The number of TokenReviews that a token in use costs its cluster's API server, in simulated time.

use std::time::{Duration, SystemTime};

use tower_oidc_guard::testing::{FakeApiServer, tokio_clock};
use tower_oidc_guard::{OidcGuard, TokenReview, WhenUnavailable};

use crate::target::target;

const AUDIENCE: &str = "https://auth-server.example";
const REQUESTS: u32 = 10_000;
const TIME: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(10);

/// Measures and prints the target. Returns whether it is met.
pub(crate) fn measure() -> bool {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    let reviews = runtime.block_on(reviews());
    target(
        "token_review_reviews_for_10000_requests",
        reviews as f64,
        "reviews",
        4.0,
    )
}

/// Returns the number of reviews for requests with one token, at regular intervals.
async fn reviews() -> usize {
    // Paused time does not advance by itself while a blocking task runs, so it does not run ahead of the network.
    let (held, wait) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || wait.recv());
    let clock = tokio_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let server = FakeApiServer::start().await.unwrap();
    server.set_clock(clock.clone());
    let volume = tempfile::tempdir().unwrap();
    server.write_pod_volume(&volume, "shop", "guard").unwrap();
    server.grant_token_reviews("shop", "guard");
    let issuer = server.issuer(&volume).unwrap().audience(AUDIENCE);
    let guard = OidcGuard::builder()
        .issuer(issuer.token_review(TokenReview::new(WhenUnavailable::Refuse).ttl(TTL)))
        .clock(clock)
        .any_verified_caller()
        .build()
        .unwrap();
    let token = server.token("shop", "web").audience(AUDIENCE).mint();
    for _ in 0..REQUESTS {
        guard.verifier().verify(&token).await.unwrap();
        tokio::time::advance(TIME / REQUESTS).await;
        let is_under_way = || {
            let health = guard.health().remove(0).token_review;
            health.is_some_and(|reviews| reviews.under_way > 0)
        };
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        while is_under_way() {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    server.token_reviews()
}
