//! Requests with one token on two threads at once that share a guard, compared with two threads that share nothing.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tower::Layer as _;
use tower_oidc_guard::Policy;

use crate::allocations::{pause, resume};
use crate::case::Case;
use crate::service::{Bare, GKE_SA, call, copy, guard, header};
use crate::target::{Absolute, median, target_with};

/// The number of requests of a thread in one measurement: a few milliseconds, so that the threads run side by side for nearly all
/// of it.
const REQUESTS: u32 = 20_000;
const ROUNDS: usize = 61;

/// Sends a request with this header.
type Send<'r> = &'r (dyn Fn(&HeaderValue) + Sync);

/// The times per request in one round.
struct Round {
    one: Duration,
    /// On each of two threads with one guard.
    sharing: Duration,
    /// On each of two threads with separate guards.
    apart: Duration,
}

impl Round {
    /// Returns how much longer a request takes because another thread uses the same guard.
    ///
    /// Two virtual processors may be one core, which both threads share in either case.
    fn cost_of_sharing(&self) -> f64 {
        self.sharing.as_secs_f64() / self.apart.as_secs_f64()
    }
}

/// Measures and prints the target. Returns whether it is met.
pub(crate) fn measure(runtime: &tokio::runtime::Runtime, case: &Case) -> bool {
    let [first, second] = [(); 2].map(|()| {
        let guard = guard(case, Policy::members([GKE_SA]), 1000);
        let verified = runtime.block_on(guard.verifier().verify(&case.token));
        verified.unwrap();
        guard.layer().layer(Bare)
    });
    let first: Send<'_> = &|header| assert!(call(&first, header).is_success());
    let second: Send<'_> = &|header| assert!(call(&second, header).is_success());
    let sent = header(&case.token);
    // The counters of allocations are themselves shared by the threads.
    pause();
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| Round {
            one: time(&[first], &sent),
            sharing: time(&[first, first], &sent),
            apart: time(&[first, second], &sent),
        })
        .collect();
    resume();
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    let one = of(|round| round.one.as_secs_f64() * 1e9);
    let sharing = of(|round| round.sharing.as_secs_f64() * 1e9);
    let apart = of(|round| round.apart.as_secs_f64() * 1e9);
    println!(
        "cached_request_2_threads_over_1: {one:.0} ns on one thread, {sharing:.0} ns on each of two, {apart:.0} ns with separate guards"
    );
    // When both threads wrote a lock and a reference count, a request on two threads took twice as long as on one.
    target_with(
        "cached_request_2_threads_over_1",
        of(Round::cost_of_sharing),
        "times that with a guard for each thread",
        1.15,
        Absolute::new(sharing, "ns"),
    )
}

/// Returns the time per request if each of these functions sends requests on a separate thread.
fn time(send: &[Send<'_>], header: &HeaderValue) -> Duration {
    let barrier = Barrier::new(send.len());
    let run = |send: Send<'_>| {
        // Each connection has its own copy of the header.
        let header = copy(header);
        (0..REQUESTS / 10).for_each(|_| send(&header));
        barrier.wait();
        let began = Instant::now();
        (0..REQUESTS).for_each(|_| send(black_box(&header)));
        began.elapsed()
    };
    let measured = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = send
            .iter()
            .map(|send| scope.spawn(move || run(*send)))
            .collect();
        let times = threads.into_iter().map(|thread| thread.join().unwrap());
        times.sum::<Duration>()
    });
    measured / (send.len() as u32 * REQUESTS)
}
