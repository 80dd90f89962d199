//! Requests that wait for keys do not occupy the service behind the guard.
//!
//! Time is paused in these tests, which use no sockets.

use std::fmt::Debug;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::buffer::Buffer;
use tower::limit::{ConcurrencyLimit, RateLimit};
use tower::load_shed::LoadShed;
use tower::{BoxError, Layer as _, Service, ServiceExt as _, service_fn};
use tower_oidc_guard::OidcGuard;
use tower_oidc_guard::testing::MemoryIssuer;

use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec};
use crate::support::{Body, bearer_request, body_text, echo_subject};

const SECOND: Duration = Duration::from_secs(1);

async fn guard(cluster: &MemoryIssuer) -> OidcGuard {
    let guard = guard_builder(cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    guard.ready().await.unwrap();
    guard
}

/// Mints a token with a `kid` that is not published.
fn token_with_unknown_kid(cluster: &MemoryIssuer, number: usize) -> String {
    token_spec(cluster).header("kid", number.to_string()).mint()
}

/// Asserts that requests waiting for keys do not delay others.
///
/// Sends 64 requests that wait for keys, then one with a known key, which must not wait, and finally one with a new key,
/// which waits and is admitted.
async fn assert_known_keys_do_not_wait<S>(inner: S)
where
    S: Service<Request<Body>, Response = Response<String>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Debug + Send,
{
    let cluster = cluster();
    let guard = guard(&cluster).await;
    let service = guard.layer().layer(inner);
    let known = token_spec(&cluster).mint();
    let mut waiting = JoinSet::new();
    for number in 0..64 {
        let mut service = service.clone();
        let request = bearer_request(&token_with_unknown_kid(&cluster, number));
        // Like a server: polls the service ready, calls it, and polls the returned future later.
        let response = service.ready().await.unwrap().call(request);
        waiting.spawn(async move { response.await.unwrap().status() });
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let response = service
        .clone()
        .oneshot(bearer_request(&known))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "a request with a known key waited"
    );
    cluster.rotate_key().unwrap();
    let new = token_spec(&cluster).mint();
    let response = service.clone().oneshot(bearer_request(&new)).await.unwrap();
    assert_eq!(body_text(response).await, GKE_SA);
    for status in waiting.join_all().await {
        assert_eq!(status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_waiting_for_keys_hold_no_concurrency_limit_permit() {
    let inner = ConcurrencyLimit::new(service_fn(echo_subject), 1);
    assert_known_keys_do_not_wait(inner).await;
}

#[tokio::test(start_paused = true)]
async fn requests_waiting_for_keys_hold_no_buffer_slot() {
    let inner = Buffer::new(service_fn(echo_subject), 1);
    assert_known_keys_do_not_wait(inner).await;
}

#[tokio::test(start_paused = true)]
async fn requests_waiting_for_keys_cause_no_load_shedding() {
    let inner = LoadShed::new(ConcurrencyLimit::new(service_fn(echo_subject), 1));
    assert_known_keys_do_not_wait(inner).await;
}

#[tokio::test(start_paused = true)]
async fn rejected_requests_that_waited_for_keys_do_not_count_against_a_rate_limit() {
    // Two requests in an hour: the one with the known key and the one with the new key.
    let rate = tower::limit::rate::Rate::new(2, 3600 * SECOND);
    let inner = Buffer::new(RateLimit::new(service_fn(echo_subject), rate), 8);
    assert_known_keys_do_not_wait(inner).await;
}

/// A service that is ready only while `open` is true, and panics if it is called when it is not ready.
#[derive(Clone)]
struct Gated {
    open: tokio::sync::watch::Receiver<bool>,
    is_ready: bool,
    fails: bool,
}

impl Service<Request<Body>> for Gated {
    type Response = Response<String>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<String>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.fails {
            return Poll::Ready(Err("service failed".into()));
        }
        if *self.open.borrow() {
            self.is_ready = true;
            return Poll::Ready(Ok(()));
        }
        // Polls again soon instead of waiting for a change, which is enough for this test.
        let waker = cx.waker().clone();
        tokio::spawn(async move {
            tokio::time::sleep(SECOND / 10).await;
            waker.wake();
        });
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.is_ready),
            "called without being ready"
        );
        std::future::ready(Ok(Response::new("called".to_owned())))
    }
}

#[tokio::test(start_paused = true)]
async fn after_waiting_for_keys_a_request_waits_until_the_service_is_ready_again() {
    let cluster = cluster();
    let guard = guard(&cluster).await;
    let (gate, open) = tokio::sync::watch::channel(true);
    let inner = Gated {
        open,
        is_ready: false,
        fails: false,
    };
    let mut service = guard.layer().layer(inner);
    cluster.rotate_key().unwrap();
    let request = bearer_request(&token_spec(&cluster).mint());
    let response = tokio::spawn(service.ready().await.unwrap().call(request));
    gate.send_replace(false);
    tokio::time::sleep(60 * SECOND).await;
    assert!(!response.is_finished());
    gate.send_replace(true);
    assert_eq!(body_text(response.await.unwrap().unwrap()).await, "called");
}

#[tokio::test(start_paused = true)]
async fn readiness_error_after_waiting_for_keys_is_returned() {
    let cluster = cluster();
    let guard = guard(&cluster).await;
    let (_gate, open) = tokio::sync::watch::channel(true);
    // Its clones fail.
    struct FailingClones(Gated);

    impl Clone for FailingClones {
        fn clone(&self) -> Self {
            Self(Gated {
                fails: true,
                ..self.0.clone()
            })
        }
    }
    impl Service<Request<Body>> for FailingClones {
        type Response = Response<String>;
        type Error = BoxError;
        type Future = <Gated as Service<Request<Body>>>::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            self.0.call(request)
        }
    }
    let inner = FailingClones(Gated {
        open,
        is_ready: false,
        fails: false,
    });
    let mut service = guard.layer().layer(inner);
    cluster.rotate_key().unwrap();
    let request = bearer_request(&token_spec(&cluster).mint());
    let response = service.ready().await.unwrap().call(request).await;
    assert_eq!(response.err().unwrap().to_string(), "service failed");
}
