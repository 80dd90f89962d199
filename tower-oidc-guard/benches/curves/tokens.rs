//! Growth with the length of tokens, the number of tokens in use, and the number of threads.

use std::thread;
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion};
use tower::Layer as _;
use tower_oidc_guard::Policy;

use crate::allocations::{held, pause, resume};
use crate::case::{AUDIENCE, es256, verify};
use crate::service::{Bare, GKE_SA, call, copy, guard, header};
use crate::{case, warm};

/// Measures a complete verification for each token length, and a request with the cached token.
pub(crate) fn sizes(c: &mut Criterion) {
    let (runtime, issuer, case) = case();
    let _inside = runtime.enter();
    let verifier = case.verifier(1, 1);
    let guard = guard(&case, Policy::any_verified_caller(), 1000);
    let guarded = guard.layer().layer(Bare);
    let spec = |padding: usize| {
        // An RS256 signature and its header leave little room below a kilobyte.
        let spec = issuer
            .token()
            .audience(AUDIENCE)
            .without_claim("kubernetes.io");
        spec.claim("padding", "x".repeat(padding)).mint()
    };
    let least = spec(0).len();
    for bytes in [768_usize, 1024, 2048, 4096, 8192, 15_000] {
        let token = spec(bytes.saturating_sub(least) * 3 / 4);
        runtime.block_on(verifier.verify(&token)).unwrap();
        warm(&runtime, &guard, &token);
        let sent = header(&token);
        let mut group = c.benchmark_group("verification_by_token_bytes");
        let cold = |b: &mut Bencher<'_>| b.iter(|| verify(&verifier, &token));
        group.bench_function(BenchmarkId::from_parameter(bytes), cold);
        group.finish();
        let mut group = c.benchmark_group("request_by_token_bytes");
        let cached = |b: &mut Bencher<'_>| b.iter(|| call(&guarded, &sent));
        group.bench_function(BenchmarkId::from_parameter(bytes), cached);
        group.finish();
    }
}

/// Measures a request with one cached token on several threads at once: the time per thread.
pub(crate) fn threads(c: &mut Criterion) {
    pause();
    let (runtime, _issuer, case) = case();
    let _inside = runtime.enter();
    for (name, tokens) in [
        ("request_by_threads", 1000),
        ("uncached_request_by_threads", 0),
    ] {
        let guard = guard(&case, Policy::members([GKE_SA]), tokens);
        warm(&runtime, &guard, &case.token);
        let guarded = guard.layer().layer(Bare);
        let sent = header(&case.token);
        let mut group = c.benchmark_group(name);
        for count in [1, 2] {
            let side_by_side = |iterations| {
                let began = Instant::now();
                thread::scope(|scope| {
                    for _ in 0..count {
                        // Each connection has its own copy of the header.
                        let (guarded, sent) = (guarded.clone(), copy(&sent));
                        scope.spawn(move || {
                            (0..iterations)
                                .for_each(|_| assert!(call(&guarded, &sent).is_success()))
                        });
                    }
                });
                began.elapsed()
            };
            let work = |b: &mut Bencher<'_>| b.iter_custom(side_by_side);
            group.bench_function(BenchmarkId::from_parameter(count), work);
        }
        group.finish();
    }
    resume();
}

/// Measures a request with the next of several cached tokens, and the memory that they take, including the tokens.
pub(crate) fn distinct(c: &mut Criterion) {
    let (runtime, _issuer, like) = case();
    let (case, signer) = es256(&like);
    let _inside = runtime.enter();
    let mut group = c.benchmark_group("request_by_distinct_tokens");
    group.measurement_time(Duration::from_secs(3));
    for count in [1, 10, 100, 1000, 10_000, 100_000, 1_000_000] {
        let builder = case.settings(1, 1).policy(Policy::members([GKE_SA]));
        let guard = builder.cache(2 * count, 8 << 30).build().unwrap();
        warm(&runtime, &guard, &case.token);
        let headers: Vec<_> = (0..count).map(|_| header(&signer.token())).collect();
        let guarded = guard.layer().layer(Bare);
        let before = held();
        for sent in &headers {
            assert!(call(&guarded, sent).is_success());
        }
        println!(
            "memory_by_distinct_tokens/{count}: {} bytes",
            held() - before
        );
        // An order that a prefetcher cannot predict. The stride is coprime to the counts, so it reaches every token.
        let mut next = 0;
        let work = |b: &mut Bencher<'_>| {
            b.iter(|| {
                next = (next + 7_368_787) % count;
                call(&guarded, &headers[next])
            });
        };
        group.bench_function(BenchmarkId::from_parameter(count), work);
    }
    group.finish();
}
