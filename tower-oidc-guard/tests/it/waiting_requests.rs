//! Requests with known keys, while as many others as permitted wait for a slow issuer.
//!
//! Time is paused in these tests, which use no sockets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use serde_json::json;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, advance};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer as _, Service, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard};

use crate::support::in_memory::{cluster, token_spec};
use crate::support::mock_client::delayed_client;
use crate::support::signer::base64url;
use crate::support::{AUDIENCE, Body, bearer_request, echo_subject};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The number of requests that may wait for the keys of one issuer.
const WAITING: usize = 1024;
/// The longest time that a request waits for keys.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// The highest number of waiting requests that are answered before a request with a known key.
const ANSWERED_BEFORE: usize = 16;

/// A guarded service, which returns the status of its response.
type Guarded = BoxCloneService<Request<Body>, u16, BoxError>;

/// A guard, and its issuer, which responds with a delay once the guard has its keys.
struct SlowIssuer {
    issuer: MemoryIssuer,
    guard: OidcGuard,
    /// The delay of each of the two documents that a fetch consists of.
    delay: Arc<Mutex<Duration>>,
}

impl SlowIssuer {
    async fn with_delay(delay: Duration) -> Self {
        let issuer = cluster();
        let shared = Arc::new(Mutex::new(Duration::ZERO));
        let trusted = Issuer::kubernetes(issuer.url()).audience(AUDIENCE);
        let guard = OidcGuard::builder()
            .issuer(trusted.unknown_key_jitter(Duration::ZERO))
            .http_client(delayed_client(issuer.client(), shared.clone()))
            .any_verified_caller()
            .build()
            .unwrap();
        guard.ready().await.unwrap();
        *shared.lock().unwrap() = delay;
        Self {
            issuer,
            guard,
            delay: shared,
        }
    }

    /// Returns a service behind the guard.
    fn guarded<S, B>(&self, inner: S) -> Guarded
    where
        S: Service<Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        let service = self.guard.layer().layer(inner);
        let status = service.map_response(|response| response.status().as_u16());
        status.map_err(Into::into).boxed_clone()
    }

    /// Mints a token with the current key.
    fn token(&self) -> String {
        token_spec(&self.issuer).mint()
    }
}

/// Requests with unknown keys that wait, each in its own task, as in a server.
struct Waiting {
    /// The status of each response and how long the request waited.
    responses: JoinSet<(u16, Duration)>,
    answered: Arc<AtomicUsize>,
}

impl Waiting {
    /// Sends this number of requests, each with another unknown key, and returns when all of them wait.
    async fn send(service: &Guarded, known: &str, number: usize) -> Self {
        let (_, signed) = known.split_once('.').unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let mut responses = JoinSet::new();
        for number in 0..number {
            let header = json!({ "alg": "RS256", "kid": format!("unknown-{number}") });
            let token = format!("{}.{signed}", base64url(header.to_string().as_bytes()));
            let (service, answered) = (service.clone(), answered.clone());
            responses.spawn(async move {
                let began = Instant::now();
                let response = service.oneshot(bearer_request(&token)).await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
                (response, began.elapsed())
            });
        }
        settle().await;
        assert_eq!(answered.load(Ordering::Relaxed), 0, "not all wait");
        Self {
            responses,
            answered,
        }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn join(self) -> Vec<(u16, Duration)> {
        self.responses.join_all().await
    }
}

/// Lets the tasks run until all of them wait.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// Sends a request with a known key in its own task, and asserts that it is admitted without time passing.
async fn assert_served_at_once(service: &Guarded, token: &str) {
    let began = Instant::now();
    let response = service.clone().oneshot(bearer_request(token));
    assert_eq!(tokio::spawn(response).await.unwrap().unwrap(), 200);
    assert_eq!(began.elapsed(), Duration::ZERO, "it waited");
}

/// Asserts that requests with known keys are served while others wait, for as long as they wait.
async fn assert_known_keys_are_served<S, B>(inner: S)
where
    S: Service<Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    let slow = SlowIssuer::with_delay(2 * SECOND).await;
    let service = slow.guarded(inner);
    let known = slow.token();
    let waiting = Waiting::send(&service, &known, WAITING).await;
    for _ in 0..30 {
        // One token that is cached, and one that is not.
        assert_served_at_once(&service, &known).await;
        assert_served_at_once(&service, &slow.token()).await;
        assert_eq!(waiting.answered(), 0);
        advance(100 * MILLISECOND).await;
    }
    for (status, _) in waiting.join().await {
        assert_eq!(status, 401);
    }
    assert_eq!(slow.issuer.key_fetches(), 2, "one fetch for all of them");
}

#[tokio::test(start_paused = true)]
async fn known_keys_are_served_while_1024_requests_wait_for_a_slow_issuer() {
    assert_known_keys_are_served(service_fn(echo_subject)).await;
}

#[tokio::test(start_paused = true)]
async fn known_keys_are_served_behind_a_concurrency_limit_while_1024_requests_wait() {
    assert_known_keys_are_served(ConcurrencyLimit::new(service_fn(echo_subject), 4)).await;
}

#[tokio::test(start_paused = true)]
async fn known_keys_are_served_behind_a_buffer_while_1024_requests_wait() {
    assert_known_keys_are_served(Buffer::new(service_fn(echo_subject), 4)).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_that_are_verified_in_the_end_respect_the_concurrency_limit() {
    const LIMIT: usize = 4;
    let slow = SlowIssuer::with_delay(SECOND).await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, highest) = (running.clone(), most.clone());
    let inner = service_fn(move |request| {
        highest.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let now = now.clone();
        async move {
            tokio::time::sleep(MILLISECOND).await;
            now.fetch_sub(1, Ordering::Relaxed);
            echo_subject(request).await
        }
    });
    let service = slow.guarded(ConcurrencyLimit::new(inner, LIMIT));
    slow.issuer.rotate_key().unwrap();
    let new = slow.token();
    let mut requests = JoinSet::new();
    for _ in 0..WAITING {
        requests.spawn(service.clone().oneshot(bearer_request(&new)));
    }
    for status in requests.join_all().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(most.load(Ordering::Relaxed), LIMIT);
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

/// Asserts that at the end of a fetch a request with a known key is not served after all that have waited for it.
async fn assert_served_between_waiting_requests(slow: &SlowIssuer, service: Guarded) {
    let known = slow.token();
    assert_served_at_once(&service, &known).await;
    let waiting = Waiting::send(&service, &known, WAITING).await;
    while waiting.answered() == 0 {
        advance(100 * MILLISECOND).await;
        yield_now().await;
    }
    let mut served = 0;
    while waiting.answered() < WAITING {
        let before = waiting.answered();
        assert_served_at_once(&service, &known).await;
        let answered = waiting.answered() - before;
        assert!(
            answered <= ANSWERED_BEFORE,
            "{answered} were answered before it"
        );
        served += 1;
    }
    assert!(served >= WAITING / ANSWERED_BEFORE, "{served}");
    for (status, _) in waiting.join().await {
        assert_eq!(status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_a_fetch_known_keys_are_served_between_waiting_requests() {
    let slow = SlowIssuer::with_delay(SECOND).await;
    let service = slow.guarded(service_fn(echo_subject));
    assert_served_between_waiting_requests(&slow, service).await;
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_a_fetch_known_keys_are_served_between_waiting_requests_behind_a_concurrency_limit()
 {
    let slow = SlowIssuer::with_delay(SECOND).await;
    let service = slow.guarded(ConcurrencyLimit::new(service_fn(echo_subject), 4));
    assert_served_between_waiting_requests(&slow, service).await;
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_a_failed_fetch_known_keys_are_served_between_waiting_requests() {
    let slow = SlowIssuer::with_delay(SECOND).await;
    slow.issuer.fail(http::StatusCode::BAD_GATEWAY);
    let service = slow.guarded(service_fn(echo_subject));
    assert_served_between_waiting_requests(&slow, service).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_all_waiting_requests_are_admitted_at_the_end_of_the_fetch() {
    let slow = SlowIssuer::with_delay(SECOND).await;
    let service = slow.guarded(service_fn(echo_subject));
    slow.issuer.rotate_key().unwrap();
    let new = slow.token();
    let mut requests = JoinSet::new();
    let began = Instant::now();
    for _ in 0..WAITING {
        requests.spawn(service.clone().oneshot(bearer_request(&new)));
    }
    for status in requests.join_all().await {
        assert_eq!(status.unwrap(), 200);
    }
    // The discovery document and the keys.
    assert_eq!(began.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_in_vain_are_not_all_answered_at_the_same_moment() {
    let slow = SlowIssuer::with_delay(10 * SECOND).await;
    let service = slow.guarded(service_fn(echo_subject));
    let waiting = Waiting::send(&service, &slow.token(), WAITING).await;
    let mut answered_at = HashMap::<_, usize>::new();
    for (status, waited) in waiting.join().await {
        assert_eq!(status, 401);
        assert!(waited <= MAX_WAIT, "{waited:?}");
        assert!(waited >= MAX_WAIT - SECOND / 2, "{waited:?}");
        *answered_at.entry(waited.as_millis()).or_default() += 1;
    }
    let most = answered_at.values().max().copied().unwrap_or_default();
    assert!(most <= ANSWERED_BEFORE * 2, "{most} within one millisecond");
    // The fetch has not ended.
    assert_eq!(*slow.delay.lock().unwrap(), 10 * SECOND);
    assert_eq!(slow.issuer.key_fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_that_are_cancelled_keep_no_place() {
    let slow = SlowIssuer::with_delay(SECOND).await;
    let service = slow.guarded(service_fn(echo_subject));
    let known = slow.token();
    let cancelled = Waiting::send(&service, &known, WAITING).await;
    drop(cancelled);
    settle().await;
    // None of these is refused at once, so all places are free again.
    let waiting = Waiting::send(&service, &known, WAITING).await;
    let began = Instant::now();
    for (status, _) in waiting.join().await {
        assert_eq!(status, 401);
    }
    assert!(began.elapsed() > Duration::ZERO);
}

#[test]
fn requests_on_another_runtime_are_answered_although_that_of_the_fetch_ends_meanwhile() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (fetching, serving) = (runtime(), runtime());
    let slow = fetching.block_on(SlowIssuer::with_delay(SECOND / 2));
    let service = slow.guarded(service_fn(echo_subject));
    let known = slow.token();
    // The first request starts the fetch, on its runtime.
    let first = fetching.block_on(Waiting::send(&service, &known, WAITING / 8));
    let mut others = serving.block_on(Waiting::send(&service, &known, WAITING / 2));
    fetching.block_on(async {
        while first.answered() == 0 {
            yield_now().await;
        }
    });
    assert!(first.answered() < WAITING / 8);
    drop(fetching);
    serving.block_on(async {
        while let Some(response) = others.responses.join_next().await {
            let (status, waited) = response.unwrap();
            assert_eq!(status, 401);
            assert!(waited < MAX_WAIT - SECOND / 2, "{waited:?}");
        }
    });
}
