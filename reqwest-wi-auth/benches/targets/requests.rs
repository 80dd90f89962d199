//! Measures the time and the allocations that the middleware adds to a request.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use http::{Extensions, HeaderMap};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{BearerAuth, Error, ProjectedToken, TokenProvider, TokenSource};

use crate::other_clients::{ClientGo, GoogleCloudAuth, KubeRs};
use crate::target::{Target, rounded};
use crate::{allocations, token};

const URL: &str = "https://auth-server.example/private";
const ORIGIN: &str = "https://auth-server.example";
/// The number of requests in a batch. Small, so that a request is still in the CPU's caches when it is sent.
const BATCH: usize = 64;
const BATCHES: usize = 15_000;

/// A middleware that does nothing.
struct Noop;

#[async_trait]
impl Middleware for Noop {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        next.run(request, extensions).await
    }
}

/// Returns a response instead of sending the request.
struct Respond;

#[async_trait]
impl Middleware for Respond {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        drop(black_box(request));
        Ok(http::Response::new("").into())
    }
}

/// Issues the tokens of one source for every audience.
struct OneSource(Arc<dyn TokenSource>);

impl TokenProvider for OneSource {
    fn token_source(&self, _audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        Ok(self.0.clone())
    }
}

/// The lowest nanoseconds and allocations per request of all batches.
struct Best {
    nanoseconds: f64,
    allocations: f64,
}

impl Best {
    fn new() -> Self {
        Self {
            nanoseconds: f64::INFINITY,
            allocations: f64::INFINITY,
        }
    }

    /// Measures a batch.
    fn measure(&mut self, work: impl FnOnce()) {
        let (allocations, began) = (allocations::count(), Instant::now());
        work();
        let elapsed = began.elapsed().as_nanos() as f64 / BATCH as f64;
        let allocated = (allocations::count() - allocations) as f64 / BATCH as f64;
        self.nanoseconds = self.nanoseconds.min(elapsed);
        self.allocations = self.allocations.min(allocated);
    }
}

pub(crate) fn measure() -> Vec<Target> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let kubelet = Kubelet::new(directory.path()).expect("a volume");
    let text = token::text(0);
    kubelet
        .write([("token", &text)])
        .expect("the token is written");
    let source = runtime
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .expect("a token");
    let auth = || BearerAuth::for_origin(ORIGIN, source.clone()).expect("an origin");

    let provider = OneSource(Arc::new(source.clone()));
    let mapped = BearerAuth::for_each_origin(provider, |origin| Some(origin.to_owned()));

    let clients = [
        client(Noop),
        client(auth().without_resend()),
        client(auth()),
        client(mapped.without_resend()),
    ];
    let mut best = clients.each_ref().map(|_| Best::new());
    for _ in 0..BATCHES {
        for (client, best) in clients.iter().zip(&mut best) {
            let requests: Vec<_> = (0..BATCH).map(|_| request(client)).collect();
            best.measure(|| {
                runtime.block_on(async {
                    for request in requests {
                        drop(black_box(client.execute(request).await));
                    }
                });
            });
        }
    }
    let [noop, inject, resend, mapped] = best;
    let cost = inject.nanoseconds - noop.nanoseconds;
    println!(
        "a request through a middleware that does nothing: {:.0} ns",
        noop.nanoseconds
    );
    println!(
        "what a possible resend adds (a clone of the request): {:.0} ns",
        resend.nanoseconds - inject.nanoseconds
    );
    println!(
        "what `for_each_origin` adds to a request to a known origin: {:.0} ns",
        mapped.nanoseconds - inject.nanoseconds
    );
    let hash = compare(&text, cost);
    vec![
        Target::ratio(
            "inject_over_noop",
            cost / hash,
            "times a SHA-256 of the token",
            0.3,
            format!("{cost:.0} ns"),
        ),
        Target::new(
            "allocations_over_noop",
            inject.allocations - noop.allocations,
            "allocations",
            0.0,
        ),
        Target::new(
            "allocations_of_a_known_origin",
            mapped.allocations - noop.allocations,
            "allocations",
            0.0,
        ),
    ]
}

fn client(middleware: impl Middleware) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(middleware)
        .with(Respond)
        .build()
}

/// Returns a request with the headers of a typical service, and capacity for one more, as reqwest allocates.
fn request(client: &ClientWithMiddleware) -> Request {
    let request = client
        .get(URL)
        .header("accept", "application/json")
        .header("user-agent", "bench")
        .header("x-request-id", "0123456789abcdef")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
    request.build().expect("a request")
}

/// Prints the ratio of the cost of adding the header, in nanoseconds, to a hash of the token and to the work of other
/// clients.
///
/// Returns the time of the hash in nanoseconds.
fn compare(text: &str, cost: f64) -> f64 {
    let (client_go, kube_rs) = (ClientGo::new(text), KubeRs::new(text));
    let google = GoogleCloudAuth::new(text);
    let mut best = [(); 4].map(|()| Best::new());
    for _ in 0..BATCHES {
        let maps =
            || -> Vec<HeaderMap> { (0..BATCH).map(|_| HeaderMap::with_capacity(8)).collect() };
        best[0].measure(|| {
            for _ in 0..BATCH {
                black_box(digest(&SHA256, black_box(text.as_bytes())));
            }
        });
        let mut headers = maps();
        best[1].measure(|| {
            headers
                .iter_mut()
                .for_each(|headers| client_go.set_header(headers))
        });
        let mut headers = maps();
        best[2].measure(|| {
            headers
                .iter_mut()
                .for_each(|headers| kube_rs.set_header(headers))
        });
        let mut headers = maps();
        best[3].measure(|| {
            headers
                .iter_mut()
                .for_each(|headers| google.set_header(headers))
        });
    }
    let hash = best[0].nanoseconds;
    let names = [
        "a SHA-256 of the token",
        "the work of client-go",
        "the work of kube-rs",
        "the work of google-cloud-auth",
    ];
    for (
        name,
        Best {
            nanoseconds,
            allocations,
        },
    ) in names.into_iter().zip(best)
    {
        let times = rounded(cost / nanoseconds);
        println!(
            "inject_over_noop is {times} times {name} ({nanoseconds:.0} ns, {allocations} allocations)"
        );
    }
    hash
}
