//! Complete requests through the layer, and the memory that they leave allocated.

use std::hint::black_box;

use aws_lc_rs::digest::{SHA256, digest};
use tower::{Layer as _, ServiceExt as _};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Policy};

use crate::allocations::{count, held};
use crate::case::{Case, mint};
use crate::service::{Bare, GKE_SA, call, call_behind_framework, guard, header};
use crate::shadow::guard_with_shadow_policy;
use crate::target::{Absolute, added_over, best, print_ratio, ratio, target, target_with};

const BATCH: u32 = 200;
/// The number of cached tokens whose memory is measured.
const KEPT: usize = 1000;
/// The number of hostile tokens.
const HOSTILE: usize = 100_000;

/// Measures and prints the targets. Returns whether all are met.
pub(crate) fn measure(runtime: &tokio::runtime::Runtime, issuer: &TestIssuer, case: &Case) -> bool {
    let named = || Policy::members([GKE_SA]);
    let (cached, uncached) = (guard(case, named(), 1000), guard(case, named(), 0));
    let others = (1..100_000).map(|n| format!("system:serviceaccount:shop:account-{n}"));
    let many = Policy::members(others.chain([GKE_SA.to_owned()]));
    let many = guard(case, many, 1000);
    for guard in [&cached, &uncached, &many] {
        let caller: Identity = runtime
            .block_on(guard.verifier().verify(&case.token))
            .unwrap();
        assert!(guard.policy().explain(&caller).is_allowed());
    }
    let sent = header(&case.token);
    let (cached, uncached) = (cached.layer().layer(Bare), uncached.layer().layer(Bare));
    let many = many.layer().layer(Bare);
    let (bare_call, cached_call) = (
        || assert!(call(&Bare, &sent).is_success()),
        || assert!(call(&cached, &sent).is_success()),
    );
    let hashed = || {
        black_box(digest(&SHA256, black_box(case.token.as_bytes())));
    };
    let cached_limit = 0.6;
    let cached_times = best(
        BATCH,
        [&bare_call, &cached_call, &hashed],
        added_over,
        cached_limit,
    );
    let [bare, kept, _] = cached_times;
    println!("cached_guard_over_bare_service: {kept:.2?} over {bare:.2?}");
    let added = kept.saturating_sub(bare).as_secs_f64();
    let uncached_limit = 1.35;
    let [uncached_bare, whole, raw] = best(
        20,
        [
            &bare_call,
            &|| assert!(call(&uncached, &sent).is_success()),
            &|| case.raw(),
        ],
        added_over,
        uncached_limit,
    );
    let shadowed = guard_with_shadow_policy(case);
    let shadowed = shadowed.layer().layer(Bare);
    assert!(call(&shadowed, &sent).is_success());
    let shadowed_call = || assert!(call(&shadowed, &sent).is_success());
    let mut refused = case.token.clone();
    let last = refused.pop();
    refused.push(if last == Some('A') { 'Q' } else { 'A' });
    let refused = header(&refused);
    allocations("bare_service", &bare_call);
    allocations("cached_guard", &cached_call);
    let behind = [
        allocations("bare_service_behind_framework", &|| {
            assert!(call_behind_framework(&Bare, &sent).is_success());
        }),
        allocations("cached_guard_behind_framework", &|| {
            assert!(call_behind_framework(&cached, &sent).is_success());
        }),
    ];
    allocations("cached_guard_with_shadow_policy", &shadowed_call);
    allocations("uncached_guard", &|| {
        assert!(call(&uncached, &sent).is_success());
    });
    allocations("guard_refusing_a_signature", &|| {
        assert!(call(&uncached, &refused).is_client_error());
    });
    let met = [
        target_with(
            "cached_guard_over_bare_service",
            added_over(cached_times),
            "times a SHA-256 of the token",
            // 0.44 to 0.46 on 16 cores. The limit before was 500 ns, on a machine whose SHA-256 took 606 ns to 819 ns.
            cached_limit,
            Absolute::new(added * 1e9, "ns"),
        ),
        target(
            "cached_guard_allocations_over_bare_service",
            behind[1] - behind[0],
            "allocations",
            2.0,
        ),
        print_ratio(
            "uncached_guard_over_bare_service",
            [whole.saturating_sub(uncached_bare), raw],
            uncached_limit,
        ),
        ratio(
            "policy_100k_members_over_1",
            BATCH,
            [&|| assert!(call(&many, &sent).is_success()), &cached_call],
            1.1,
        ),
        ratio(
            "shadow_policy_over_none",
            BATCH,
            [&shadowed_call, &cached_call],
            1.1,
        ),
        kept_bytes(runtime, issuer, case),
        hostile_bytes(runtime, case),
    ];
    met.into_iter().all(|met| met)
}

/// Prints and returns the number of allocations per request.
fn allocations(name: &str, request: &dyn Fn()) -> f64 {
    let before = count();
    (0..BATCH).for_each(|_| request());
    let each = (count() - before) as f64 / f64::from(BATCH);
    println!("allocations {name}: {each:.1} per request");
    each
}

/// Measures the memory that a cached token takes. Returns whether the target is met.
fn kept_bytes(runtime: &tokio::runtime::Runtime, issuer: &TestIssuer, case: &Case) -> bool {
    let guard = guard(case, Policy::any_verified_caller(), 2 * KEPT);
    let tokens: Vec<_> = (0..KEPT).map(|_| mint(issuer)).collect();
    runtime
        .block_on(guard.verifier().verify(&case.token))
        .unwrap();
    let before = held();
    for token in &tokens {
        drop(runtime.block_on(guard.verifier().verify(token)).unwrap());
    }
    let bytes = (held() - before) as f64 / KEPT as f64;
    target("bytes_per_cached_token", bytes, "bytes", 3072.0)
}

/// Measures the memory that rejected tokens leave allocated. Returns whether the target is met.
fn hostile_bytes(runtime: &tokio::runtime::Runtime, case: &Case) -> bool {
    let guard = guard(case, Policy::members([GKE_SA]), 1000);
    runtime
        .block_on(guard.verifier().verify(&case.token))
        .unwrap();
    let mut service = guard.layer().layer(Bare);
    runtime
        .block_on(async { service.ready().await.map(drop) })
        .unwrap();
    let hostile = |number: usize| match number % 4 {
        0 => format!("{}{number}", case.token),
        1 => format!("{number}.{number}.{number}"),
        2 => case.token.replacen('.', &format!("{number}."), 1),
        _ => {
            let (signed, signature) = case.token.rsplit_once('.').unwrap();
            format!("{signed}.{:A>width$}", number, width = signature.len())
        }
    };
    // The first of each kind of refusal begins the summary of the current minute in the log, which has one entry for each kind.
    for number in 0..4 {
        assert!(call(&service, &header(&hostile(number))).is_client_error());
    }
    let before = held();
    for number in 0..HOSTILE {
        assert!(call(&service, &header(&hostile(number))).is_client_error());
    }
    let left = (held() - before) as f64;
    target("bytes_left_by_100k_hostile_tokens", left, "bytes", 0.0)
}
