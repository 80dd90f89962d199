//! A cluster whose API server reviews the tokens of a guard's callers, in simulated time.

use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tower_oidc_guard::testing::{FakeApiServer, tokio_clock};
use tower_oidc_guard::{
    Issuer, OidcGuard, OidcGuardBuilder, TokenError, TokenReview, TokenReviewHealth, VerifyError,
    WhenUnavailable,
};

use super::AUDIENCE;

/// The longest real time that a test waits for the network.
const MAX_REAL_WAIT: Duration = Duration::from_secs(30);

/// Keeps tokio's paused time from advancing by itself while the runtime waits for the network, until it is dropped.
///
/// The time is advanced with [`tokio::time::advance`] only.
pub struct HeldTime(Option<std::sync::mpsc::Sender<()>>);

impl HeldTime {
    pub fn new() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        // Paused time does not advance by itself while a blocking task runs.
        tokio::task::spawn_blocking(move || receiver.recv());
        Self(Some(sender))
    }
}

impl Drop for HeldTime {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// A cluster with a guard's pod, whose service account `shop/guard` may create TokenReviews.
pub struct ReviewingCluster {
    pub api: FakeApiServer,
    pub volume: TempDir,
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    _held: HeldTime,
}

impl ReviewingCluster {
    /// Creates the cluster in a runtime whose time is paused.
    pub async fn new() -> Self {
        let held = HeldTime::new();
        let api = FakeApiServer::start().await.unwrap();
        let clock = tokio_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        api.set_clock(clock.clone());
        let volume = tempfile::tempdir().unwrap();
        api.write_pod_volume(&volume, "shop", "guard").unwrap();
        api.grant_token_reviews("shop", "guard");
        Self {
            api,
            volume,
            now: Box::new(clock),
            _held: held,
        }
    }

    pub fn issuer(&self) -> Issuer {
        self.api.issuer(&self.volume).unwrap().audience(AUDIENCE)
    }

    /// Returns a builder that trusts the cluster, with these reviews. It lacks a policy.
    pub fn builder(&self, review: TokenReview) -> OidcGuardBuilder {
        let start = (self.now)();
        OidcGuard::builder()
            .issuer(self.issuer().token_review(review))
            .clock(tokio_clock(start))
    }

    pub fn guard(&self, review: TokenReview) -> OidcGuard {
        let builder = self.builder(review).any_verified_caller();
        builder.build().unwrap()
    }

    /// Mints a token of a service account in the namespace `shop`, bound to a pod of the same name.
    pub fn token(&self, name: &str) -> String {
        let token = self.api.token("shop", name).audience(AUDIENCE);
        token.lifetime(Duration::from_secs(3600)).mint()
    }
}

/// Returns the settings of reviews with a time to live of 10 s.
pub fn review(when_unavailable: WhenUnavailable) -> TokenReview {
    TokenReview::new(when_unavailable).ttl(Duration::from_secs(10))
}

/// Returns the state of the reviews of a guard with one issuer.
pub fn health(guard: &OidcGuard) -> TokenReviewHealth {
    guard.health()[0].token_review.clone().unwrap()
}

/// Waits in real time until no review is under way.
pub async fn settle(guard: &OidcGuard) {
    // What is due now is started by tasks that have not run yet.
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    wait_until(|| health(guard).under_way == 0).await;
}

/// Waits in real time until this condition is met.
pub async fn wait_until(condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < MAX_REAL_WAIT, "the condition is not met");
        tokio::task::yield_now().await;
    }
}

/// The error for a token that the API server has refused.
pub const REVOKED: VerifyError = VerifyError::InvalidToken(TokenError::TokenRevoked);

/// Returns whether a token was refused because it could not be reviewed.
pub fn is_unavailable(result: &Result<(), VerifyError>) -> bool {
    matches!(result, Err(VerifyError::TokenReviewUnavailable { .. }))
}

/// Verifies a token, and discards the identity.
pub async fn verify(guard: &OidcGuard, token: &str) -> Result<(), VerifyError> {
    guard.verifier().verify(token).await.map(drop)
}

/// Waits for a future, and advances the time meanwhile, so that time limits end.
///
/// An answer from the network may come after the limit, if this machine is busy. A test that depends on an answer waits for it while
/// time stands still.
pub async fn as_time_passes<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let step = async || {
        // What needs no answer is done meanwhile.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_millis(50)).await;
    };
    loop {
        tokio::select! {
            biased;
            output = &mut future => return output,
            () = step() => {}
        }
    }
}

/// Advances the time in steps, and makes what is due after each.
pub async fn pass(guard: &OidcGuard, time: Duration) {
    const STEP: Duration = Duration::from_millis(100);
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(STEP);
        tokio::time::advance(step).await;
        settle(guard).await;
        left -= step;
    }
}
