//! Each thread has copies of the tokens that it uses most. Whatever ends a token ends it on all threads at once.
//!
//! In each test several threads use a token until each has its own copy. Then something happens that ends the token, and the
//! next request of each thread must get what a guard without a cache responds with.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, OidcGuardBuilder, Policy, WhenUnavailable};

use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec, token_status};
use crate::support::reviews::{ReviewingCluster, pass, review};
use crate::support::{AUDIENCE, advance_clock, unix_time};

const THREADS: usize = 3;
/// More uses than it takes until a thread has a copy.
const USES: usize = 10;

type Job = Box<dyn FnOnce(&Handle) + Send>;

/// Threads that live as long as the test, since each has its copies only for as long as it lives.
struct Threads(Vec<(mpsc::Sender<Job>, JoinHandle<()>)>);

impl Threads {
    /// Starts the threads. Their requests use the timers and tasks of the current runtime.
    fn start() -> Self {
        let runtime = Handle::current();
        let start = |_| {
            let (sender, jobs) = mpsc::channel::<Job>();
            let runtime = runtime.clone();
            let thread = std::thread::spawn(move || jobs.iter().for_each(|job| job(&runtime)));
            (sender, thread)
        };
        Self((0..THREADS).map(start).collect())
    }

    /// Calls a function on each thread, one after the other, and returns the results.
    async fn each<T: Send + 'static>(
        &self,
        work: impl Fn(&Handle) -> T + Send + Sync + 'static,
    ) -> Vec<T> {
        let (work, mut results) = (Arc::new(work), Vec::new());
        for (sender, _) in &self.0 {
            let (work, (reply, result)) = (work.clone(), oneshot::channel());
            let job = move |runtime: &Handle| drop(reply.send(work(runtime)));
            sender.send(Box::new(job)).unwrap();
            results.push(result.await.unwrap());
        }
        results
    }

    /// Sends a request from each thread, and returns the status of each response.
    async fn statuses(&self, guard: &OidcGuard, token: &str) -> Vec<u16> {
        let (guard, token) = (guard.clone(), token.to_owned());
        let status = move |runtime: &Handle| {
            // Of the policy in effect, so a layer of the guard, not of `layer_with`.
            runtime.block_on(token_status(guard.layer(), &token))
        };
        self.each(status).await
    }

    /// Uses a token until each thread has a copy of its identity, which is proven here.
    async fn warm(&self, guard: &OidcGuard, token: &str) {
        for _ in 0..USES {
            assert_eq!(self.statuses(guard, token).await, [200; THREADS]);
        }
        let copies = self.addresses(guard, token).await;
        let distinct: HashSet<_> = copies.iter().collect();
        assert_eq!(distinct.len(), THREADS, "each thread has a copy");
        assert_eq!(copies, self.addresses(guard, token).await, "and keeps it");
    }

    /// Returns whether each thread accepts a token without waiting, as it does if the token is known.
    ///
    /// The thread of the test is blocked until all have answered, so no review that one of them starts ends before the next asks.
    fn accepted_at_once(&self, guard: &OidcGuard, token: &str) -> Vec<bool> {
        let (guard, token) = (guard.clone(), token.to_owned());
        let accepts = move |runtime: &Handle| {
            let _inside = runtime.enter();
            let mut verified = pin!(guard.verifier().verify(&token));
            let polled = verified
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            matches!(polled, Poll::Ready(Ok(_)))
        };
        let mut all_accept = pin!(self.each(accepts));
        loop {
            let polled = all_accept
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(accepted) = polled {
                return accepted;
            }
            std::thread::yield_now();
        }
    }

    /// Returns where each thread finds the identity of a token.
    async fn addresses(&self, guard: &OidcGuard, token: &str) -> Vec<usize> {
        let (guard, token) = (guard.clone(), token.to_owned());
        let address = move |runtime: &Handle| {
            let identity = runtime.block_on(guard.verifier().verify(&token)).unwrap();
            identity.subject().as_ptr() as usize
        };
        self.each(address).await
    }
}

/// Returns the status of a response to a request from the thread of the test.
async fn status(guard: &OidcGuard, token: &str) -> u16 {
    token_status(guard.layer(), token).await
}

/// Two guards with the same settings, of which the second has no cache.
fn with_and_without_cache(builder: impl Fn() -> OidcGuardBuilder) -> [OidcGuard; 2] {
    let cached = builder().any_verified_caller().build().unwrap();
    let uncached = builder().any_verified_caller().without_cache();
    [cached, uncached.build().unwrap()]
}

#[tokio::test]
async fn a_token_ends_on_all_threads_when_its_time_has_passed_or_the_clock_is_set_back() {
    let (cluster, now) = (cluster(), Arc::new(AtomicU64::new(1000)));
    let clock = now.clone();
    let builder = || {
        let clock = clock.clone();
        let trusted = Issuer::kubernetes(cluster.url()).audience(AUDIENCE);
        let builder = OidcGuard::builder().issuer(trusted.leeway(Duration::ZERO));
        builder
            .http_client(cluster.client())
            .clock(move || unix_time(clock.load(Ordering::Relaxed)))
    };
    let token = token_spec(&cluster)
        .claim("iat", 950)
        .claim("nbf", 950)
        .claim("exp", 1100)
        .mint();
    let threads = Threads::start();
    let [cached, uncached] = with_and_without_cache(builder);
    for (time, expected) in [
        (1099, 200),
        (1100, 401),
        (949, 401),
        (0, 401),
        (u64::MAX / 4, 401),
    ] {
        now.store(1000, Ordering::Relaxed);
        threads.warm(&cached, &token).await;
        now.store(time, Ordering::Relaxed);
        assert_eq!(
            threads.statuses(&uncached, &token).await,
            [expected; THREADS]
        );
        assert_eq!(
            threads.statuses(&cached, &token).await,
            [expected; THREADS],
            "{time}"
        );
    }
    // Valid again as without a cache: the token ends by the clock alone.
    now.store(1000, Ordering::Relaxed);
    assert_eq!(threads.statuses(&uncached, &token).await, [200; THREADS]);
    assert_eq!(threads.statuses(&cached, &token).await, [200; THREADS]);
}

/// Returns a token that was issued long before the keys were fetched, so that its key is not expected in a newer key set.
fn old_token(cluster: &MemoryIssuer) -> String {
    token_spec(cluster)
        .issued_at(SystemTime::now() - Duration::from_secs(3600))
        .lifetime(Duration::from_secs(48 * 3600))
        .mint()
}

#[tokio::test]
async fn a_token_ends_on_all_threads_when_its_key_is_withdrawn() {
    let cluster = cluster();
    let [cached, uncached] = with_and_without_cache(|| guard_builder(&cluster));
    let (token, threads) = (old_token(&cluster), Threads::start());
    threads.warm(&cached, &token).await;
    assert_eq!(status(&uncached, &token).await, 200);
    cluster.rotate_key().unwrap();
    cluster.withdraw_old_keys();
    advance_clock(Duration::from_secs(3600)).await;
    // The keys are fetched in the background. This thread uses the fetched ones first, without having used the token before.
    let mut left = 1000;
    while status(&cached, &token).await == 200 {
        left -= 1;
        assert!(left > 0, "the token is still accepted");
        tokio::task::yield_now().await;
    }
    // A request would wait for newer keys, and then be refused.
    assert_eq!(threads.accepted_at_once(&cached, &token), [false; THREADS]);
    let renewed = token_spec(&cluster).mint();
    threads.warm(&cached, &renewed).await;
    assert_eq!(threads.accepted_at_once(&cached, &renewed), [true; THREADS]);
    assert_eq!(threads.accepted_at_once(&cached, &token), [false; THREADS]);
}

#[tokio::test]
async fn a_token_survives_on_all_threads_when_its_key_stays_in_a_new_key_set() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let (token, threads) = (old_token(&cluster), Threads::start());
    threads.warm(&guard, &token).await;
    let before = cluster.key_fetches();
    cluster.rotate_key().unwrap();
    advance_clock(Duration::from_secs(3600)).await;
    let mut left = 1000;
    while cluster.key_fetches() == before {
        assert_eq!(status(&guard, &token).await, 200);
        left -= 1;
        assert!(left > 0, "the keys are not fetched");
        tokio::task::yield_now().await;
    }
    threads.warm(&guard, &token).await;
}

#[tokio::test]
async fn a_token_is_not_accepted_on_any_thread_while_the_keys_are_stale() {
    let cluster = cluster();
    let stale_after = Duration::from_secs(7200);
    let builder = || {
        let trusted = Issuer::kubernetes(cluster.url()).audience(AUDIENCE);
        let builder = OidcGuard::builder().issuer(trusted.stale_after(stale_after));
        builder.http_client(cluster.client())
    };
    let [cached, uncached] = with_and_without_cache(builder);
    let (token, threads) = (old_token(&cluster), Threads::start());
    threads.warm(&cached, &token).await;
    assert_eq!(status(&uncached, &token).await, 200);
    cluster.fail(http::StatusCode::SERVICE_UNAVAILABLE);
    advance_clock(stale_after + Duration::from_secs(1)).await;
    assert_eq!(threads.statuses(&cached, &token).await, [503; THREADS]);
    assert_eq!(threads.statuses(&uncached, &token).await, [503; THREADS]);
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_on_all_threads_when_its_api_server_refuses_it() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let (token, threads) = (cluster.token("web"), Threads::start());
    // The first request waits for the review, on the thread that drives the network.
    guard.verifier().verify(&token).await.unwrap();
    threads.warm(&guard, &token).await;
    cluster.api.delete_pod("shop", "web");
    let mut waited = 0;
    while guard.verifier().verify(&token).await.is_ok() {
        pass(&guard, Duration::from_secs(1)).await;
        waited += 1;
        assert!(waited <= 10, "still accepted after {waited} s");
    }
    assert_eq!(threads.statuses(&guard, &token).await, [401; THREADS]);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_confirmation_has_ended_is_not_accepted_on_any_thread() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    let (token, threads) = (cluster.token("web"), Threads::start());
    guard.verifier().verify(&token).await.unwrap();
    threads.warm(&guard, &token).await;
    let reviews = cluster.api.token_reviews();
    // Nothing renews the confirmation meanwhile.
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(threads.accepted_at_once(&guard, &token), [false; THREADS]);
    guard.verifier().verify(&token).await.unwrap();
    assert!(cluster.api.token_reviews() > reviews);
    threads.warm(&guard, &token).await;
}

#[tokio::test]
async fn another_guard_or_layer_decides_for_itself_on_all_threads() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(Policy::members([GKE_SA]))
        .build()
        .unwrap();
    let (token, threads) = (token_spec(&cluster).mint(), Threads::start());
    threads.warm(&guard, &token).await;
    let trusted = Issuer::kubernetes(cluster.url()).audience("https://other.example");
    let other_audience = OidcGuard::builder()
        .issuer(trusted)
        .http_client(cluster.client());
    let other_audience = other_audience.any_verified_caller().build().unwrap();
    let nobody = Policy::members(["system:serviceaccount:id-namespace:other"]);
    let other_policy = guard_builder(&cluster)
        .policy(nobody.clone())
        .build()
        .unwrap();
    for _ in 0..USES {
        assert_eq!(
            threads.statuses(&other_audience, &token).await,
            [401; THREADS]
        );
        assert_eq!(
            threads.statuses(&other_policy, &token).await,
            [403; THREADS]
        );
        assert_eq!(threads.statuses(&guard, &token).await, [200; THREADS]);
        let (layer, sent) = (guard.layer_with(nobody.clone()).unwrap(), token.clone());
        let of_layer =
            threads.each(move |runtime| runtime.block_on(token_status(layer.clone(), &sent)));
        assert_eq!(of_layer.await, [403; THREADS]);
    }
}

#[tokio::test]
async fn a_token_that_differs_in_one_character_is_refused_on_all_threads() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let (token, threads) = (token_spec(&cluster).mint(), Threads::start());
    threads.warm(&guard, &token).await;
    // The end of the signature is the same.
    for changed in [token.len() - 20, token.len() / 2, 10] {
        let mut other = token.clone().into_bytes();
        other[changed] = if other[changed] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        assert_eq!(
            threads.statuses(&guard, &other).await,
            [401; THREADS],
            "{changed}"
        );
    }
    assert_eq!(threads.statuses(&guard, &token).await, [200; THREADS]);
}

#[tokio::test]
async fn threads_have_no_copies_if_the_cache_is_turned_off() {
    let cluster = cluster();
    let [_, uncached] = with_and_without_cache(|| guard_builder(&cluster));
    let (token, threads) = (token_spec(&cluster).mint(), Threads::start());
    let verified = {
        let (guard, token) = (uncached.clone(), token.clone());
        move |runtime: &Handle| {
            // Both are alive, so their addresses differ unless they are the same.
            let verify = || runtime.block_on(guard.verifier().verify(&token)).unwrap();
            let (first, second) = (verify(), verify());
            first.subject().as_ptr() == second.subject().as_ptr()
        }
    };
    uncached.verifier().verify(&token).await.unwrap();
    assert_eq!(threads.each(verified).await, [false; THREADS]);
}

#[cfg(all(feature = "policy-file", unix))]
mod followed {
    use reqwest_wi_auth::testing::Kubelet;
    use tower_oidc_guard::PolicyFile;

    use super::*;
    use crate::support::wait_until;

    const ALLOWED: &str = "allow: [\"system:serviceaccounts:id-namespace\"]\n";
    const OTHERS: &str = "allow: [\"system:serviceaccounts:other\"]\n";

    #[tokio::test]
    async fn a_caller_that_a_policy_file_allows_no_more_is_refused_on_all_threads() {
        let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet.write([("shop.yaml", ALLOWED)]).unwrap();
        let file = PolicyFile::open(kubelet.path("shop.yaml")).await.unwrap();
        let guard = guard_builder(&cluster)
            .policy(file.policy())
            .build()
            .unwrap();
        let (token, threads) = (token_spec(&cluster).mint(), Threads::start());
        for _ in 0..2 {
            threads.warm(&guard, &token).await;
            kubelet.write([("shop.yaml", OTHERS)]).unwrap();
            wait_until(async || status(&guard, &token).await == 403).await;
            assert_eq!(threads.statuses(&guard, &token).await, [403; THREADS]);
            kubelet.write([("shop.yaml", ALLOWED)]).unwrap();
            wait_until(async || status(&guard, &token).await == 200).await;
        }
    }

    #[tokio::test]
    async fn a_token_that_a_configuration_file_accepts_no_more_is_refused_on_all_threads() {
        let (cluster, folder) = (cluster(), tempfile::tempdir().unwrap());
        let kubelet = Kubelet::new(folder.path()).unwrap();
        let content = |audience: &str, more: &str| {
            format!(
                "issuers: [{{ url: \"{}\", platform: kubernetes, audiences: [\"{audience}\"]{more} }}]\nallow: [allAuthenticatedUsers]\n",
                cluster.url()
            )
        };
        let write = |content: String| kubelet.write([("guard.yaml", content)]).unwrap();
        write(content(AUDIENCE, ""));
        let builder = OidcGuardBuilder::from_file(kubelet.path("guard.yaml"))
            .await
            .unwrap();
        let guard = builder.http_client(cluster.client()).build().unwrap();
        let (token, threads) = (token_spec(&cluster).mint(), Threads::start());
        for narrower in [
            content("https://other.example", ""),
            content(AUDIENCE, ", claims: { tenant: shop }"),
            content(AUDIENCE, ", max_lifetime_seconds: 1"),
        ] {
            threads.warm(&guard, &token).await;
            write(narrower);
            wait_until(async || status(&guard, &token).await == 401).await;
            assert_eq!(threads.statuses(&guard, &token).await, [401; THREADS]);
            write(content(AUDIENCE, ""));
            wait_until(async || status(&guard, &token).await == 200).await;
        }
    }
}
