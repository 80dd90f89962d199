//! Requests with one token on two threads at once, compared with one thread.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

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

/// The times per request in one round.
struct Round {
    /// On one thread, and on each of two.
    bare: [Duration; 2],
    guarded: [Duration; 2],
}

impl Round {
    /// Returns how much longer a request takes on each of two threads than on one.
    fn growth([one, two]: [Duration; 2]) -> f64 {
        two.as_secs_f64() / one.as_secs_f64()
    }

    /// Returns the growth of a guarded request relative to that of one without a guard.
    ///
    /// Two virtual processors may be one core, which is then shared by both threads whatever they do.
    fn relative_growth(&self) -> f64 {
        Self::growth(self.guarded) / Self::growth(self.bare)
    }
}

/// Measures and prints the target. Returns whether it is met.
pub(crate) fn measure(runtime: &tokio::runtime::Runtime, case: &Case) -> bool {
    let guard = guard(case, Policy::members([GKE_SA]), 1000);
    runtime
        .block_on(guard.verifier().verify(&case.token))
        .unwrap();
    let (guarded, sent) = (guard.layer().layer(Bare), header(&case.token));
    // The counters of allocations are themselves shared by the threads.
    pause();
    let bare = |header: &_| assert!(call(&Bare, header).is_success());
    let guarded = |header: &_| assert!(call(&guarded, header).is_success());
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| Round {
            bare: [1, 2].map(|threads| time(threads, &sent, &bare)),
            guarded: [1, 2].map(|threads| time(threads, &sent, &guarded)),
        })
        .collect();
    resume();
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    let bare = of(|round| Round::growth(round.bare));
    let guarded = of(|round| Round::growth(round.guarded));
    let [one, two] = [0, 1].map(|index| {
        median(
            rounds
                .iter()
                .map(|round| round.guarded[index].as_secs_f64() * 1e9),
        )
    });
    println!(
        "cached_request_2_threads_over_1: {one:.0} ns on one thread, {two:.0} ns on each of two"
    );
    println!(
        "cached_request_2_threads_over_1: {guarded:.3} times, {bare:.3} times without a guard"
    );
    target_with(
        "cached_request_2_threads_over_1",
        of(Round::relative_growth),
        "times that without a guard",
        1.15,
        Absolute::new(two, "ns"),
    )
}

/// Returns the time per request on each of this number of threads.
fn time(
    threads: usize,
    sent: &http::HeaderValue,
    request: &(dyn Fn(&http::HeaderValue) + Sync),
) -> Duration {
    let barrier = Barrier::new(threads);
    let measured = thread::scope(|scope| {
        let run = || {
            // Each connection has its own copy of the header.
            let sent = copy(sent);
            (0..REQUESTS / 10).for_each(|_| request(&sent));
            barrier.wait();
            let began = Instant::now();
            (0..REQUESTS).for_each(|_| request(black_box(&sent)));
            began.elapsed()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let times = threads.into_iter().map(|thread| thread.join().unwrap());
        times.sum::<Duration>()
    });
    measured / (threads as u32 * REQUESTS)
}
