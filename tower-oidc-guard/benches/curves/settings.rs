//! Growth with the configuration.

use criterion::{BenchmarkId, Criterion};
use tower::Layer as _;
use tower_oidc_guard::Policy;

use crate::case::verify;
use crate::service::{Bare, GKE_SA, call, guard, header};
use crate::{case, warm};

/// Measures a complete verification for each number of trusted issuers.
pub(crate) fn issuers(c: &mut Criterion) {
    verification(c, "verification_by_issuers", &[1, 10, 100, 1000], |n| {
        (1, n)
    });
}

/// Measures a complete verification for each number of keys in the issuer's key set.
pub(crate) fn keys(c: &mut Criterion) {
    verification(c, "verification_by_keys", &[1, 10, 100], |n| (n, 1));
}

/// Measures a complete verification for each of these counts.
fn verification(
    c: &mut Criterion,
    name: &str,
    counts: &[usize],
    keys_and_issuers: fn(usize) -> (usize, usize),
) {
    let (runtime, _issuer, case) = case();
    let _inside = runtime.enter();
    let mut group = c.benchmark_group(name);
    for &count in counts {
        let (keys, issuers) = keys_and_issuers(count);
        let verifier = case.verifier(keys, issuers);
        runtime.block_on(verifier.verify(&case.token)).unwrap();
        let work = |b: &mut criterion::Bencher<'_>| b.iter(|| verify(&verifier, &case.token));
        group.bench_function(BenchmarkId::from_parameter(count), work);
    }
    group.finish();
}

/// Measures a request with a cached token for each number of members in the policy.
pub(crate) fn members(c: &mut Criterion) {
    let (runtime, _issuer, case) = case();
    let _inside = runtime.enter();
    let sent = header(&case.token);
    let mut group = c.benchmark_group("request_by_members");
    for count in [1, 10, 100, 1000, 10_000, 100_000] {
        let others = (1..count).map(|n| format!("system:serviceaccount:shop:account-{n}"));
        let policy = Policy::members(others.chain([GKE_SA.to_owned()]));
        let guard = guard(&case, policy, 1000);
        warm(&runtime, &guard, &case.token);
        let guarded = guard.layer().layer(Bare);
        let work = |b: &mut criterion::Bencher<'_>| b.iter(|| call(&guarded, &sent));
        group.bench_function(BenchmarkId::from_parameter(count), work);
    }
    group.finish();
}
