//! Runs one code path repeatedly, for tools that count instructions or memory accesses.
//!
//! The arguments are `<path> <requests>`. The path is `raw` (verifies only the signature), `cold` (a complete verification),
//! `bare` (a service without a guard), `uncached` or `cached` (the service with a guard), or `shadow` (`cached` with a shadow policy). Count only the instructions in
//! `measured`.
//!
//! `bare-behind-framework` and `cached-behind-framework` are the same with requests as they arrive behind axum or tonic.
//!
//! With the path `two-threads` or `two-threads-bare`, two threads send requests with one token in turn, with or without a guard;
//! see [`turns`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "shared/case.rs"]
mod case;
#[path = "shared/service.rs"]
mod service;
#[path = "shared/shadow.rs"]
mod shadow;
#[path = "instructions/turns.rs"]
mod turns;

use tower::Layer as _;
use tower_oidc_guard::Policy;
use tower_oidc_guard::testing::TestIssuer;

use crate::case::{rs256, verify};
use crate::service::{Bare, GKE_SA, call, call_behind_framework, guard, header};
use crate::shadow::guard_with_shadow_policy;

#[inline(never)]
fn measured(requests: u32, request: &dyn Fn()) {
    (0..requests).for_each(|_| request());
}

fn main() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    // `cargo bench` passes one argument itself. Without further arguments there is nothing to do.
    let [path, requests, ..] = given.as_slice() else {
        return println!("<path> <requests>");
    };
    let requests = requests
        .parse()
        .expect("the second argument must be a number of requests");
    match path.as_str() {
        "two-threads" => return turns::guarded(requests),
        "two-threads-bare" => return turns::bare(requests),
        _ => {}
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let issuer = runtime.block_on(TestIssuer::start()).unwrap();
    let case = runtime.block_on(rs256(&issuer));
    let _inside = runtime.enter();
    let verifier = case.verifier(1, 1);
    let sent = header(&case.token);
    let guarded = |tokens| {
        let guard = guard(&case, Policy::members([GKE_SA]), tokens);
        runtime
            .block_on(guard.verifier().verify(&case.token))
            .unwrap();
        guard.layer().layer(Bare)
    };
    let (cached, uncached) = (guarded(1000), guarded(0));
    runtime.block_on(verifier.verify(&case.token)).unwrap();
    let shadowed = guard_with_shadow_policy(&case);
    runtime
        .block_on(shadowed.verifier().verify(&case.token))
        .unwrap();
    let shadowed = shadowed.layer().layer(Bare);
    let request: &dyn Fn() = match path.as_str() {
        "raw" => &|| case.raw(),
        "cold" => &|| verify(&verifier, &case.token),
        "bare" => &|| assert!(call(&Bare, &sent).is_success()),
        "bare-behind-framework" => &|| assert!(call_behind_framework(&Bare, &sent).is_success()),
        "cached-behind-framework" => {
            &|| assert!(call_behind_framework(&cached, &sent).is_success())
        }
        "uncached" => &|| assert!(call(&uncached, &sent).is_success()),
        "cached" => &|| assert!(call(&cached, &sent).is_success()),
        "shadow" => &|| assert!(call(&shadowed, &sent).is_success()),
        other => panic!("unknown path {other}"),
    };
    request();
    measured(requests, request);
}
