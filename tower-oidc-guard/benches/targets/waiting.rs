//! The latency of requests with known keys while as many others as permitted wait for a slow issuer, compared with that in quiet
//! times.
//!
//! The latency is what a caller of a server sees: from the arrival of a request until its response. A thread starts requests at a
//! fixed rate, whether or not earlier ones have been answered (open loop). With callers that wait for their responses, a pause
//! of the server would delay one request of each, and the others would never be sent.
//!
//! The server has one thread, so that no idle one hides the work of the attack, and no sockets, whose cost is the same with and
//! without a guard. In each round of the attack, one fetch ends and all waiting requests are answered, while a real attack
//! achieves that every five seconds. The senders of these requests wait for their responses, and send the next request at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderValue, Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::limit::ConcurrencyLimit;
use tower::{Layer as _, Service, ServiceExt as _};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, Policy};

use crate::case::AUDIENCE;
use crate::service::{Bare, GKE_SA, header};

const ROUNDS: usize = 7;
/// The number of requests with a known key in each half of a round.
const REQUESTS: usize = 20_000;
/// The least time between two of them.
const MIN_INTERVAL: Duration = Duration::from_micros(50);
/// The part of its time that the server spends on them, at most: one in this number.
const SPARE: u32 = 10;
/// The number of requests that may wait for the keys of one issuer.
const WAITING: usize = 1024;
/// The concurrency limit behind the guard, which is much smaller.
const LIMIT: usize = 32;
/// The latency that is recorded for a request that was refused.
const REFUSED: u64 = u64::MAX;
/// The documents of a fetch: discovery, and keys.
const DOCUMENTS: usize = 2;

/// Measures and prints the targets. Returns whether both are met.
pub(crate) fn measure() -> bool {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let issuer = MemoryIssuer::new("https://cluster.example").unwrap();
    let name = "known_keys_p999_under_attack_over_quiet";
    let alone = compare(name, &runtime, &issuer, |guard| guard.layer().layer(Bare));
    let name = "known_keys_p999_under_attack_over_quiet_behind_concurrency_limit";
    let limited = compare(name, &runtime, &issuer, |guard| {
        guard.layer().layer(ConcurrencyLimit::new(Bare, LIMIT))
    });
    alone && limited
}

/// Measures both halves of each round. Prints the median of their ratios and returns whether the target is met.
fn compare<S, B>(
    name: &str,
    runtime: &Runtime,
    issuer: &MemoryIssuer,
    guarded: impl Fn(&OidcGuard) -> S,
) -> bool
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send,
{
    const LIMIT: f64 = 1.5;
    let (mut ratios, mut quiet_times, mut attack_times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let gate = Arc::new(Semaphore::new(DOCUMENTS));
        let guard = guard(issuer, gate.clone());
        runtime.block_on(guard.ready()).unwrap();
        let service = guarded(&guard);
        let token = token(issuer);
        let known = header(&token);
        let quiet = percentile(&latencies(runtime, &service, &known, || {}));
        let attack = Attack::start(runtime, &service, &token);
        let under_attack = latencies(runtime, &service, &known, || gate.add_permits(DOCUMENTS));
        let under_attack = percentile(&under_attack);
        attack.stop(runtime);
        ratios.push(under_attack.as_secs_f64() / quiet.as_secs_f64());
        quiet_times.push(quiet.as_secs_f64() * 1e6);
        attack_times.push(under_attack.as_secs_f64() * 1e6);
    }
    let ratio = median(ratios);
    let (quiet, attack) = (median(quiet_times), median(attack_times));
    println!(
        "target {name}: {ratio:.3} times (limit {LIMIT}), {attack:.0} over {quiet:.0} us, medians of {ROUNDS} rounds"
    );
    ratio <= LIMIT
}

/// Creates a guard that fetches from this issuer. Each of its documents needs a permit of the gate.
fn guard(issuer: &MemoryIssuer, gate: Arc<Semaphore>) -> OidcGuard {
    let trusted = Issuer::kubernetes(issuer.url()).audience(AUDIENCE);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(Gated(issuer.client(), gate))
        .build();
    OidcGuard::builder()
        // The fetch starts as soon as it is needed, so that the rounds are equal.
        .issuer(trusted.unknown_key_jitter(Duration::ZERO))
        .policy(Policy::members([GKE_SA]))
        .http_client(client)
        .build()
        .unwrap()
}

fn token(issuer: &MemoryIssuer) -> String {
    let spec = issuer.token().audience(AUDIENCE);
    spec.service_account("id-namespace", "gke-sa").mint()
}

/// Sends requests with another client, each when there is a permit for it.
struct Gated(ClientWithMiddleware, Arc<Semaphore>);

#[async_trait]
impl Middleware for Gated {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let permit = self.1.acquire().await;
        permit
            .map_err(reqwest_middleware::Error::middleware)?
            .forget();
        self.0.execute(request).await
    }
}

/// Requests with unknown keys, each in its own task, as in a server. An answered request is followed by another one.
struct Attack {
    senders: JoinSet<()>,
    answered: Arc<AtomicUsize>,
}

impl Attack {
    /// Starts the attack, and returns when the permitted number of requests wait.
    fn start<S>(runtime: &Runtime, service: &S, known: &str) -> Self
    where
        S: Service<Request<()>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        S::Response: Send,
    {
        let (_, signed) = known.split_once('.').unwrap();
        let (waiting, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut senders = JoinSet::new();
        for number in 0..WAITING {
            let kid = format!(r#"{{"alg":"RS256","kid":"unknown-{number}"}}"#);
            let token = format!("{}.{signed}", URL_SAFE_NO_PAD.encode(kid));
            let (sent, service) = (header(&token), service.clone());
            let (waiting, answered) = (waiting.clone(), answered.clone());
            let send = async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                loop {
                    drop(service.clone().oneshot(request(&sent)).await);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            };
            senders.spawn_on(send, runtime.handle());
        }
        while waiting.load(Ordering::Relaxed) < WAITING {
            thread::sleep(Duration::from_millis(10));
        }
        // The last one has been polled, too.
        runtime
            .block_on(runtime.spawn(tokio::task::yield_now()))
            .unwrap();
        assert_eq!(answered.load(Ordering::Relaxed), 0, "not all wait");
        Self { senders, answered }
    }

    /// Stops the attack once all requests of its beginning have been answered.
    fn stop(mut self, runtime: &Runtime) {
        while self.answered.load(Ordering::Relaxed) < WAITING {
            thread::sleep(Duration::from_millis(1));
        }
        runtime.block_on(self.senders.shutdown());
    }
}

fn request(authorization: &HeaderValue) -> Request<()> {
    let mut request = Request::new(());
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, authorization.clone());
    request
}

/// Returns the time that the server needs for a request.
fn cost<S, B>(runtime: &Runtime, service: &S, authorization: &HeaderValue) -> Duration
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send,
{
    const SAMPLE: u32 = 1000;
    let (service, authorization) = (service.clone(), authorization.clone());
    let sample = async move {
        let began = Instant::now();
        for _ in 0..SAMPLE {
            drop(service.clone().oneshot(request(&authorization)).await);
        }
        began.elapsed() / SAMPLE
    };
    runtime.block_on(runtime.spawn(sample)).unwrap()
}

/// Sends requests at a fixed rate, and calls `halfway` after half of them. Returns their latencies in nanoseconds.
fn latencies<S, B>(
    runtime: &Runtime,
    service: &S,
    authorization: &HeaderValue,
    halfway: impl FnOnce(),
) -> Vec<u64>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send,
{
    let latencies: Arc<[AtomicU64]> = (0..REQUESTS).map(|_| AtomicU64::new(0)).collect();
    let interval = MIN_INTERVAL.max(SPARE * cost(runtime, service, authorization));
    let mut halfway = Some(halfway);
    let mut due = Instant::now();
    for number in 0..REQUESTS {
        if number == REQUESTS / 2
            && let Some(halfway) = halfway.take()
        {
            halfway();
        }
        due += interval;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let (latencies, service) = (latencies.clone(), service.clone());
        let request = request(authorization);
        let arrived = Instant::now();
        // If this thread was interrupted, the requests that it has not sent are not made up for.
        due = due.max(arrived);
        runtime.spawn(async move {
            let Ok(response) = service.oneshot(request).await;
            let took = arrived.elapsed().as_nanos().max(1) as u64;
            let is_admitted = response.status().is_success();
            latencies[number].store(if is_admitted { took } else { REFUSED }, Ordering::Relaxed);
        });
    }
    let read = |latency: &AtomicU64| latency.load(Ordering::Relaxed);
    while latencies.iter().any(|latency| read(latency) == 0) {
        thread::sleep(Duration::from_millis(1));
    }
    let latencies: Vec<_> = latencies.iter().map(read).collect();
    assert!(!latencies.contains(&REFUSED), "a known key was refused");
    latencies
}

/// Returns the 99.9th percentile.
fn percentile(latencies: &[u64]) -> Duration {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    Duration::from_nanos(sorted[sorted.len() - 1 - sorted.len() / 1000])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
