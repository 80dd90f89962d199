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
use tower_oidc_guard::{Algorithm, Issuer, OidcGuard, Policy};

use crate::case::{AUDIENCE, verify};
use crate::service::{Bare, GKE_SA, call, copy, header};

/// The number of turns of each thread before those that are marked. Its last ones write what every further one writes.
const UNMARKED: usize = 3;
const MARKED: usize = 3;

/// Written at the begin and at the end of each marked turn. Alone on its cache lines.
static MARK: Mark = Mark(AtomicU64::new(0));

#[repr(align(128))]
struct Mark(AtomicU64);

/// The key of an issuer that exists nowhere, and a token of it until 2100. To generate them here would make the trace many times as
/// long.
const KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":"II6szJ4aLPZo5Hv7_L7BlHOcY_0FQYO-9PmXk2PSlJY","y":"LRYvlpmo687sxK_q5EYPwBbTAqhJISZp45X9K3f16VE"}]}"#;
const TOKEN: [&str; 3] = [
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ",
    "eyJpc3MiOiJodHRwczovL2NsdXN0ZXIuZXhhbXBsZSIsInN1YiI6InN5c3RlbTpzZXJ2aWNlYWNjb3VudDppZC1uYW1lc3BhY2U6Z2tlLXNhIiwiYXVkIjpbImh0dHBzOi8vYXV0aC1zZXJ2ZXIuZXhhbXBsZSJdLCJpYXQiOjE3MDAwMDAwMDAsIm5iZiI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwLCJqdGkiOiI1YThmMWMxZS0zYTQ3LTRjOGUtYTdmNi0yZDFmMGM2YjllMTEiLCJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6ImlkLW5hbWVzcGFjZSIsInBvZCI6eyJuYW1lIjoiZ2tlLXNhLTdkOWM4YjZmNS14Mng3ayIsInVpZCI6IjBjNmI5ZTExLTdmNmEtNGM4ZS1hN2Y2LTVhOGYxYzFlM2E0NyJ9LCJzZXJ2aWNlYWNjb3VudCI6eyJuYW1lIjoiZ2tlLXNhIiwidWlkIjoiMmQxZjBjNmItOWUxMS00YzhlLWE3ZjYtM2E0NzVhOGYxYzFlIn19fQ",
    "o-6D3o4P_IH2p22tA7ioAzn4rSyaCE540iZFDqPnnqITDqllCp7SNp36NgbkzQGL_b8bhBNnFJQhS3AOY1YRHg",
];

/// Sends requests to a guarded service that knows their token.
pub(crate) fn guarded(requests: u32) {
    let issuer = Issuer::kubernetes("https://cluster.example").audience(AUDIENCE);
    let issuer = issuer.algorithms([Algorithm::ES256]).keys_json(KEY);
    let guard = OidcGuard::builder().issuer(issuer);
    let guard = guard.policy(Policy::members([GKE_SA])).build().unwrap();
    let token = TOKEN.join(".");
    verify(guard.verifier(), &token);
    let service = guard.layer().layer(Bare);
    let request = |sent: &HeaderValue| assert!(call(&service, sent).is_success());
    take_turns(requests, &header(&token), &request);
}

/// Sends requests to the service alone.
pub(crate) fn bare(requests: u32) {
    let request = |sent: &HeaderValue| assert!(call(&Bare, sent).is_success());
    take_turns(requests, &header(&TOKEN.join(".")), &request);
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
