//! Measures the performance targets of this crate in one run. Prints one line per target, and exits with a non-zero code if
//! one is missed. BENCHMARKING.md explains the results.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../shared/allocations.rs"]
mod allocations;
#[path = "../shared/case.rs"]
mod case;
mod requests;
mod reviews;
#[path = "../shared/service.rs"]
mod service;
#[path = "../shared/shadow.rs"]
mod shadow;
mod streams;
mod target;
mod threads;
mod waiting;

use std::process::ExitCode;
use std::time::Instant;

use tower_oidc_guard::testing::TestIssuer;

use crate::case::{es256, rs256, verify};
use crate::target::ratio;

const BATCH: u32 = 20;

fn main() -> ExitCode {
    // `cargo bench … -- waiting` measures this group only.
    if std::env::args().any(|argument| argument == "waiting") {
        return exit_code(waiting::measure());
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let began = Instant::now();
    let issuer = runtime.block_on(TestIssuer::start()).unwrap();
    let rs256 = runtime.block_on(rs256(&issuer));
    let (es256, _) = es256(&rs256);
    let _inside = runtime.enter();
    let (one, many) = (rs256.verifier(1, 1), rs256.verifier(1, 1000));
    let (keys, curve) = (rs256.verifier(100, 1), es256.verifier(1, 1));
    for (verifier, case) in [
        (&one, &rs256),
        (&many, &rs256),
        (&keys, &rs256),
        (&curve, &es256),
    ] {
        runtime.block_on(verifier.verify(&case.token)).unwrap();
    }
    println!("a token of {} bytes", rs256.token.len());
    let with_one = || verify(&one, &rs256.token);
    let met = [
        // 1.16 to 1.18 on an Intel Xeon, and 1.22 to 1.23 on an AMD EPYC, where the signature takes less time compared with the rest.
        ratio(
            "cold_verify_over_raw_rs256",
            BATCH,
            [&with_one, &|| rs256.raw()],
            1.25,
        ),
        ratio(
            "cold_verify_over_raw_es256",
            BATCH,
            [&|| verify(&curve, &es256.token), &|| es256.raw()],
            1.25,
        ),
        ratio(
            "cold_verify_1000_issuers_over_1",
            BATCH,
            [&|| verify(&many, &rs256.token), &with_one],
            1.1,
        ),
        ratio(
            "cold_verify_100_keys_over_1",
            BATCH,
            [&|| verify(&keys, &rs256.token), &with_one],
            1.1,
        ),
        requests::measure(&runtime, &issuer, &rs256),
        threads::measure(&runtime, &rs256),
        reviews::measure(),
        streams::measure(&rs256),
        waiting::measure(),
    ];
    println!("in {:.1?}", began.elapsed());
    exit_code(met.into_iter().all(|met| met))
}

fn exit_code(met: bool) -> ExitCode {
    if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
