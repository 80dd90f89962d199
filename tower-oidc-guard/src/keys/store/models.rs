//! Models of the keys of an issuer: requests, fetches, rotations and runtimes in every order that the scheduler chooses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use http::{Extensions, Response};
use openidconnect::JsonWebKeySetUrl;
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use tokio::time::Instant;

use super::CurrentKeys;
use crate::clock::Clock;
use crate::jose::algorithm::Algorithm;
use crate::keys::fetch::{DocumentServer, FetchLimits, Fetcher};
use crate::keys::http_client::AllowedUrls;
use crate::keys::schedule::FetchTiming;
use crate::keys::sources::{KeyRules, KeySource, RemoteKeys};
use crate::keys::{AwaitedFetch, Keys, KeysSnapshot};
use crate::sync::model::{self, assert_finds_fault, explore};
use crate::sync::{ArcSwapOption, ModelRuntime, Mutex, time};

/// How long a request waits for newer keys.
const WAIT: Duration = Duration::from_secs(5);

/// The time after which a fetch is considered lost, and a request starts another one.
const SLOW: Duration = Duration::from_secs(65);

/// An issuer that publishes one key, whose `kid` is its version.
#[derive(Default)]
struct ModelIssuer {
    version: AtomicU64,
    requests: AtomicU64,
    /// The number of requests, of the first ones, that are answered only after [`SLOW`].
    slow_requests: u64,
}

#[async_trait]
impl Middleware for IssuerClient {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let issuer = &self.0;
        let number = issuer.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let version = issuer.version.load(Ordering::Relaxed);
        // The response comes at any time.
        shuttle::future::yield_now().await;
        if number <= issuer.slow_requests {
            time::sleep(SLOW).await;
        }
        let body = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"{version}","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}}]}}"#
        );
        let response = Response::builder().url(request.url().clone()).body(body);
        Ok(response
            .map_err(reqwest_middleware::Error::middleware)?
            .into())
    }
}

struct IssuerClient(Arc<ModelIssuer>);

impl ModelIssuer {
    fn rotate(&self) {
        model::point();
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn keys(self: &Arc<Self>) -> Arc<Keys> {
        static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
        let client = CLIENT.get_or_init(reqwest::Client::new).clone();
        let client = ClientBuilder::new(client)
            .with(IssuerClient(self.clone()))
            .build();
        let limits = FetchLimits {
            time: Duration::from_secs(10),
            ..FetchLimits::default()
        };
        let fetcher = Fetcher::new(
            client,
            AllowedUrls::HttpsOnly,
            limits,
            DocumentServer::Public,
        );
        let url = JsonWebKeySetUrl::new("https://issuer.example/keys".to_owned()).unwrap();
        let rules = KeyRules {
            algorithms: Some([Algorithm::ES256].into_iter().collect()),
            max_keys: 10,
        };
        let source = KeySource::Remote(RemoteKeys::from_jwks_url(url, fetcher, rules));
        let timing = FetchTiming::default();
        let keys = Keys::new("issuer".into(), source, timing, Clock::default(), WAIT);
        Arc::new(keys)
    }
}

/// Returns the generation of the keys that a request with a token of another key than the seen ones waits for, or `None` if it is
/// refused. Waits like [`TokenVerifier::verify_with_newer_keys`](crate::verifier::TokenVerifier).
async fn wait_for_newer(keys: &Keys, arrival: &KeysSnapshot) -> Option<u64> {
    let deadline = Instant::now() + WAIT;
    let generation = |current: &Arc<CurrentKeys>| current.generation;
    let mut seen = arrival.current.clone();
    let first = seen.as_ref().map(generation);
    loop {
        let newer = keys.wait_for_newer(seen.as_ref(), arrival, AwaitedFetch::Next, deadline);
        let newer = newer.await.ok()?;
        if Some(newer.generation) != first {
            return Some(newer.generation);
        }
        seen = Some(newer);
    }
}

/// Sends a request whose token verifies with the keys of this generation, and asserts that it gets them.
async fn request_with_keys(generation: u64, keys: &Keys) {
    let arrival = keys.snapshot();
    let found = arrival.current.as_ref().map(|current| current.generation);
    if found != Some(generation) {
        assert_eq!(wait_for_newer(keys, &arrival).await, Some(generation));
    }
}

/// Returns whether these are the keys after the first rotation.
fn has_key_1(current: &CurrentKeys) -> bool {
    current.keys.kids().any(|kid| kid == Some("1"))
}

/// Asserts that all waiting requests have ended.
fn assert_no_request_waits(keys: &Keys) {
    assert_eq!(keys.store.waiting.count(), 0, "waiting requests");
}

/// Asserts that no request has waited for its deadline. A fetch is delayed by up to 2 s on purpose.
fn assert_woken(began: Instant) {
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_secs(4),
        "a request was not woken for {waited:?}"
    );
}

#[test]
fn requests_without_keys_share_one_fetch() {
    explore(400, || {
        let (issuer, runtime) = (Arc::<ModelIssuer>::default(), ModelRuntime::new());
        let (keys, began) = (issuer.keys(), Instant::now());
        let requests: Vec<_> = (0..6)
            .map(|_| {
                let (keys, handle) = (keys.clone(), runtime.handle());
                model::spawn(move || handle.block_on(request_with_keys(1, &keys)))
            })
            .collect();
        for request in requests {
            request.join().unwrap();
        }
        assert_eq!(issuer.requests(), 1);
        assert_woken(began);
        assert_no_request_waits(&keys);
    });
}

/// Requests with a token of a new key, while one of them is cancelled and the background task may fetch, too.
#[test]
fn requests_with_a_new_key_get_it_and_a_cancelled_one_stops_no_other() {
    explore(400, || {
        let (issuer, runtime) = (Arc::<ModelIssuer>::default(), ModelRuntime::new());
        let keys = issuer.keys();
        runtime.handle().block_on(keys.ready()).unwrap();
        issuer.rotate();
        let began = Instant::now();
        let cancelled = model::spawn({
            let (keys, handle) = (keys.clone(), runtime.handle());
            move || {
                handle.block_on(async {
                    let arrival = keys.snapshot();
                    tokio::select! {
                        biased;
                        _ = wait_for_newer(&keys, &arrival) => {}
                        () = shuttle::future::yield_now() => {}
                    }
                });
            }
        });
        let requests: Vec<_> = (0..5)
            .map(|_| {
                let (keys, handle) = (keys.clone(), runtime.handle());
                model::spawn(move || handle.block_on(request_with_keys(2, &keys)))
            })
            .collect();
        for request in requests {
            request.join().unwrap();
        }
        cancelled.join().unwrap();
        assert_eq!(issuer.requests(), 2);
        assert_woken(began);
        assert_no_request_waits(&keys);
    });
}

/// The issuer rotates its key while a fetch is under way: a request that arrives afterwards waits for another fetch.
#[test]
fn a_request_that_arrives_after_a_rotation_gets_the_new_key_although_a_fetch_was_under_way() {
    explore(400, || {
        let (issuer, runtime) = (Arc::<ModelIssuer>::default(), ModelRuntime::new());
        let (keys, began) = (issuer.keys(), Instant::now());
        let first = model::spawn({
            let (keys, handle) = (keys.clone(), runtime.handle());
            move || drop(handle.block_on(keys.ready()))
        });
        issuer.rotate();
        runtime.handle().block_on(async {
            let arrival = keys.snapshot();
            let mut seen = arrival.current.clone();
            while !seen.as_deref().is_some_and(has_key_1) {
                let deadline = began + WAIT;
                let newer =
                    keys.wait_for_newer(seen.as_ref(), &arrival, AwaitedFetch::Next, deadline);
                match newer.await {
                    Ok(newer) => seen = Some(newer),
                    Err(_) => panic!("refused although the issuer has the key"),
                }
            }
        });
        first.join().unwrap();
        assert_woken(began);
        assert_no_request_waits(&keys);
    });
}

#[test]
fn requests_continue_when_the_runtime_that_fetches_ends() {
    explore(400, || {
        let issuer = Arc::<ModelIssuer>::default();
        let (first, second) = (ModelRuntime::new(), ModelRuntime::new());
        let (keys, began) = (issuer.keys(), Instant::now());
        first.handle().block_on(async { keys.prefetch() });
        let requests: Vec<_> = (0..2)
            .map(|_| {
                let (keys, handle) = (keys.clone(), second.handle());
                model::spawn(move || handle.block_on(request_with_keys(1, &keys)))
            })
            .collect();
        drop(first);
        for request in requests {
            request.join().unwrap();
        }
        assert_woken(began);
        assert_no_request_waits(&keys);
    });
}

/// A fetch is considered lost and another one made, and then both end at the same time.
#[test]
fn the_keys_of_a_lost_fetch_neither_replace_newer_ones_nor_share_their_generation() {
    explore(400, || {
        let issuer = Arc::new(ModelIssuer {
            slow_requests: 1,
            ..ModelIssuer::default()
        });
        let runtime = ModelRuntime::new();
        let keys = issuer.keys();
        runtime.handle().block_on(async { keys.prefetch() });
        let observer = model::spawn({
            let (keys, handle) = (keys.clone(), runtime.handle());
            move || {
                let mut hashes = HashMap::new();
                handle.block_on(async {
                    for _ in 0..20 {
                        // A request starts the fetch that is overdue.
                        if let Some(current) = keys.snapshot().current {
                            let hash = hashes
                                .entry(current.generation)
                                .or_insert(current.hash.clone());
                            assert_eq!(*hash, current.hash, "one generation of different keys");
                            time::sleep(Duration::from_millis(1)).await;
                        } else {
                            time::sleep(Duration::from_secs(5)).await;
                        }
                    }
                });
            }
        });
        // The first fetch has been started, and returns these keys late.
        model::block_on(time::sleep(Duration::from_secs(1)));
        issuer.rotate();
        observer.join().unwrap();
        let current = keys.store.current().unwrap();
        assert_eq!(
            current.fetch,
            keys.store.fetches_started(),
            "the newest keys stay"
        );
        assert_eq!(has_key_1(&current), current.fetch == 2);
    });
}

/// The known fault: a request registers for the outcome of a fetch after it has looked for the keys.
#[test]
fn the_model_finds_a_request_that_registers_after_it_has_looked() {
    assert_finds_fault(1_000, || {
        let (issuer, runtime) = (Arc::<ModelIssuer>::default(), ModelRuntime::new());
        let (keys, began) = (issuer.keys(), Instant::now());
        runtime.handle().block_on(async {
            while keys.snapshot().current.is_none() {
                let mut outcome = keys.store.outcome.subscribe();
                let _ = time::timeout(WAIT, outcome.changed()).await;
            }
        });
        assert_woken(began);
    });
}

/// The known fault: the generation is computed from the keys that were current some time ago.
#[test]
fn the_model_finds_two_sets_of_keys_of_one_generation() {
    assert_finds_fault(1_000, || {
        let current = Arc::new(ArcSwapOption::<(u64, u64)>::empty());
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let fetches: Vec<_> = (0..2)
            .map(|keys| {
                let (current, seen) = (current.clone(), seen.clone());
                model::spawn(move || {
                    let previous = current.load_full();
                    let generation = previous.map_or(1, |previous| previous.0 + 1);
                    current.store(Some(Arc::new((generation, keys))));
                    let stored = seen.lock().unwrap().insert(generation, keys);
                    assert!(
                        stored.is_none_or(|other| other == keys),
                        "one generation of different keys"
                    );
                })
            })
            .collect();
        for fetch in fetches {
            fetch.join().unwrap();
        }
    });
}
