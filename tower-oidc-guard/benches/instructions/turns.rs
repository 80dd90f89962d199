//! Two threads that send requests with one token in turn, so that a tool can tell which of them writes what.
//!
//! `demo/bench/shared_lines.py` runs this under Valgrind's lackey, which prints each memory access, but not the thread. So one
//! thread waits while the other sends its requests, and the begin and the end of a turn are marked by a write to [`MARK`], whose
//! address is printed. Both threads live to the end, as the threads of a server do.

use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use http::HeaderValue;
use tower::Layer as _;
use tower_oidc_guard::Policy;

use crate::case::{es256_without_server, verify};
use crate::service::{Bare, GKE_SA, call, copy, guard, header};

/// The number of turns of each thread before those that are marked. Its last ones write what every further one writes.
const UNMARKED: usize = 3;
const MARKED: usize = 3;

/// Written at the begin and at the end of each marked turn. Alone on its cache lines.
static MARK: Mark = Mark(AtomicU64::new(0));

#[repr(align(128))]
struct Mark(AtomicU64);

/// Sends requests to a guarded service that knows their token.
pub(crate) fn guarded(requests: u32) {
    let case = es256_without_server();
    let guard = guard(&case, Policy::members([GKE_SA]), 1000);
    verify(guard.verifier(), &case.token);
    let service = guard.layer().layer(Bare);
    let request = |sent: &HeaderValue| assert!(call(&service, sent).is_success());
    take_turns(requests, &header(&case.token), &request);
}

/// Sends requests to the service alone.
pub(crate) fn bare(requests: u32) {
    let case = es256_without_server();
    let request = |sent: &HeaderValue| assert!(call(&Bare, sent).is_success());
    take_turns(requests, &header(&case.token), &request);
}

fn take_turns(requests: u32, sent: &HeaderValue, request: &(dyn Fn(&HeaderValue) + Sync)) {
    println!("mark {:p}", &raw const MARK.0);
    std::io::stdout().flush().unwrap();
    // The reader of the trace has to know the address first.
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .unwrap();
    let (to_first, first) = sync_channel(0);
    let (to_second, second) = sync_channel(0);
    thread::scope(|scope| {
        let turns = |own: Receiver<()>, other: SyncSender<()>| {
            // Each connection has its own copy of the header.
            let sent = copy(sent);
            for turn in 0..UNMARKED + MARKED {
                own.recv().unwrap();
                let is_marked = turn >= UNMARKED;
                mark(is_marked);
                (0..requests).for_each(|_| request(black_box(&sent)));
                mark(is_marked);
                // The other thread has ended after its last turn.
                let _ = other.send(());
            }
        };
        scope.spawn({
            let to_second = to_second.clone();
            move || turns(first, to_second)
        });
        scope.spawn({
            let to_first = to_first.clone();
            move || turns(second, to_first)
        });
        to_first.send(()).unwrap();
    });
}

fn mark(is_marked: bool) {
    if is_marked {
        MARK.0.store(1, Ordering::Relaxed);
    }
}
