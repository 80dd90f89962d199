//! Models of token reviews: requests, renewals, refusals and runtimes in every order that the scheduler chooses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::api::{Answer, Denial, DenialKind};
use super::policy::ReviewPolicy;
use super::shared::Shared;
use super::token::digest_of;
use super::{Knowledge, KnownToken, ReviewSettings, ReviewedToken, TokenReviews, WhenUnavailable};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::keys::sources::ApiServer;
use crate::sync::model::{self, assert_finds_fault, explore};
use crate::sync::{ModelRuntime, time};
use crate::testing::TestIdentity;

const TOKEN: &[u8] = b"header.claims.signature";
const AUDIENCE: &str = "https://orders.example";
const TTL: Duration = Duration::from_secs(60);

/// An API server that confirms the token until it is deleted.
#[derive(Default)]
struct Server {
    reviews: AtomicUsize,
    is_deleted: AtomicBool,
}

impl Server {
    fn reviews(self: &Arc<Self>) -> Arc<TokenReviews> {
        let settings = ReviewSettings {
            when_unavailable: WhenUnavailable::Refuse,
            ttl: TTL,
            time_limit: Duration::from_secs(3),
            per_second: 1000,
            concurrent: 8,
            tokens: 16,
            api: ApiServer {
                address: Url::parse("https://api.example").unwrap(),
                token_file: PathBuf::new(),
                ca_file: PathBuf::new(),
            },
        };
        let policy = Arc::new(ReviewPolicy::new(settings, vec![AUDIENCE.to_owned()]));
        let shared = Shared::new("cluster".into(), policy.clone(), Clock::default());
        let server = self.clone();
        let shared = shared.answer_with(Box::new(move || server.answer()));
        Arc::new(TokenReviews::with(Arc::new(shared), policy))
    }

    fn answer(&self) -> Answer {
        self.reviews.fetch_add(1, Ordering::Relaxed);
        if self.is_deleted.load(Ordering::Relaxed) {
            return Answer::Refused(Denial {
                kind: DenialKind::Gone,
                text: String::new(),
            });
        }
        Answer::Confirmed {
            audiences: vec![AUDIENCE.to_owned()],
        }
    }
}

/// Returns the identity that all requests of a model have.
fn identity() -> Identity {
    TestIdentity::kubernetes("shop", "web").build()
}

/// Starts requests that wait for the first confirmation.
fn confirm(
    reviews: &Arc<TokenReviews>,
    runtime: &ModelRuntime,
    requests: usize,
) -> Vec<shuttle::thread::JoinHandle<()>> {
    let identity = identity();
    let confirm = |_| {
        let (reviews, handle, identity) = (reviews.clone(), runtime.handle(), identity.clone());
        model::spawn(move || {
            let confirmed = handle.block_on(reviews.confirm(TOKEN, &identity));
            assert!(matches!(confirmed, Ok(Some(_))), "the token is valid");
        })
    };
    (0..requests).map(confirm).collect()
}

fn join(threads: Vec<shuttle::thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Asserts that no request has waited until it looked again by itself.
fn assert_woken(began: Instant) {
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_millis(200),
        "a request was not woken for {waited:?}"
    );
}

#[test]
fn requests_with_a_new_token_share_one_review_and_a_cancelled_one_stops_no_other() {
    explore(400, || {
        let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
        let (reviews, began) = (server.reviews(), Instant::now());
        let cancelled = model::spawn({
            let (reviews, handle) = (reviews.clone(), runtime.handle());
            let identity = identity();
            move || {
                handle.block_on(async {
                    tokio::select! {
                        biased;
                        _ = reviews.confirm(TOKEN, &identity) => {}
                        () = shuttle::future::yield_now() => {}
                    }
                });
            }
        });
        join(confirm(&reviews, &runtime, 4));
        cancelled.join().unwrap();
        assert_eq!(server.reviews.load(Ordering::Relaxed), 1);
        assert_woken(began);
    });
}

#[test]
fn requests_continue_when_the_runtime_of_the_review_ends() {
    explore(400, || {
        let server = Arc::<Server>::default();
        let (first, second) = (ModelRuntime::new(), ModelRuntime::new());
        let (reviews, began) = (server.reviews(), Instant::now());
        let starting = model::spawn({
            let (reviews, handle) = (reviews.clone(), first.handle());
            move || {
                handle.block_on(async {
                    let identity = identity();
                    tokio::select! {
                        biased;
                        _ = reviews.confirm(TOKEN, &identity) => {}
                        () = shuttle::future::yield_now() => {}
                    }
                });
            }
        });
        let waiting = confirm(&reviews, &second, 2);
        starting.join().unwrap();
        drop(first);
        join(waiting);
        assert_woken(began);
    });
}

/// Whether the token is accepted by a request that arrives now.
fn is_accepted(reviews: &TokenReviews, kept: &Arc<ReviewedToken>) -> bool {
    matches!(reviews.check(kept), Knowledge::Accepted)
}

/// A request that is not admitted by what is known waits for a review, so it must not be admitted by one that was made before the
/// refusal.
fn a_token_is_refused<A>(accepts: A)
where
    A: Fn(&TokenReviews, &Arc<ReviewedToken>) -> bool + Clone + Send + Sync + 'static,
{
    let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
    let reviews = server.reviews();
    let identity = identity();
    let handle = runtime.handle();
    let kept = handle
        .block_on(reviews.confirm(TOKEN, &identity))
        .ok()
        .flatten()
        .unwrap();
    server.is_deleted.store(true, Ordering::Relaxed);
    let is_known = Arc::new(AtomicBool::new(false));
    let requests: Vec<_> = (0..2)
        .map(|_| {
            let (reviews, handle, kept) = (reviews.clone(), runtime.handle(), kept.clone());
            let (is_known, accepts) = (is_known.clone(), accepts.clone());
            model::spawn(move || {
                handle.block_on(async {
                    // Requests at intervals of 10 s keep the token in use, so that it is reviewed again.
                    for _ in 0..8 {
                        let was_known = is_known.load(Ordering::Relaxed);
                        let is_accepted = accepts(&reviews, &kept);
                        assert!(!(was_known && is_accepted), "admitted after the refusal");
                        if matches!(reviews.find(TOKEN), KnownToken::Refused(_)) {
                            is_known.store(true, Ordering::Relaxed);
                        }
                        time::sleep(Duration::from_secs(10)).await;
                    }
                });
            })
        })
        .collect();
    join(requests);
    assert!(
        is_known.load(Ordering::Relaxed),
        "the token in use is reviewed again"
    );
    let refused = handle.block_on(reviews.confirm(TOKEN, &identity));
    assert!(refused.is_err(), "admitted by a review");
    let digest = digest_of(TOKEN);
    assert!(matches!(
        reviews.shared.find(&digest),
        KnownToken::Refused(_)
    ));
}

#[test]
fn a_refused_token_is_not_accepted_by_what_was_known_before() {
    explore(400, || a_token_is_refused(is_accepted));
}

/// The known fault: a confirmation is used until it ends, whatever was found out since.
#[test]
fn the_model_finds_a_confirmation_that_outlives_a_refusal() {
    assert_finds_fault(1_000, || {
        a_token_is_refused(|reviews, kept| {
            let now = reviews.shared.milliseconds(Instant::now());
            is_accepted(reviews, kept) || kept.is_confirmed(now)
        });
    });
}
