//! How the cost of a request grows with the number of configured issuers, keys and members, with the number and length of
//! the tokens in use, and with threads. BENCHMARKING.md explains the results.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../shared/allocations.rs"]
mod allocations;
#[path = "../shared/case.rs"]
mod case;
#[path = "../shared/service.rs"]
mod service;
mod settings;
mod tokens;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tower_oidc_guard::OidcGuard;
use tower_oidc_guard::testing::TestIssuer;

use crate::case::{Case, rs256};

/// Creates a case, its issuer, and the runtime on which keys are fetched.
fn case() -> (Runtime, TestIssuer, Case) {
    let runtime = Runtime::new().unwrap();
    let issuer = runtime.block_on(TestIssuer::start()).unwrap();
    let case = runtime.block_on(rs256(&issuer));
    (runtime, issuer, case)
}

/// Verifies a token, after which the guard's keys are available and the token is cached.
fn warm(runtime: &Runtime, guard: &OidcGuard, token: &str) {
    runtime.block_on(guard.verifier().verify(token)).unwrap();
}

/// Returns a configuration for short runs.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
}

criterion_group! {
    name = benches;
    config = short();
    targets = settings::issuers, settings::keys, settings::members, tokens::sizes, tokens::threads, tokens::distinct
}
criterion_main!(benches);
