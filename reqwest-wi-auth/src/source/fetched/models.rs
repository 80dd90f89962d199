//! Models of a fetched token: callers, renewals, cancellation and runtimes in every order that the scheduler chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Description, Fetch, FetchKind, FetchedToken, Timing};
use crate::error::Error;
use crate::source::TokenSource as _;
use crate::sync::model::{self, assert_finds_fault, explore};
use crate::sync::{ArcSwapOption, ModelRuntime, time, watch};
use crate::token::Token;

/// A server that issues a new token at each request.
#[derive(Default)]
struct Server {
    requests: AtomicUsize,
    in_flight: AtomicUsize,
}

impl Server {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Opens a source on a runtime, without waiting for the first token.
    fn source(self: &Arc<Self>, runtime: &ModelRuntime) -> FetchedToken {
        let description = Description {
            kind: FetchKind::Metadata,
            audience: "https://orders.example".to_owned(),
            server: "server".to_owned(),
        };
        let fetch = ServerFetch(self.clone());
        let timing = Timing::default();
        // The clock of the model is that of tokio.
        let (start, began) = (SystemTime::UNIX_EPOCH, Instant::now());
        let clock = Arc::new(move || start + began.elapsed());
        runtime
            .handle()
            .block_on(async { FetchedToken::start_with_clock(fetch, description, timing, clock) })
    }
}

struct ServerFetch(Arc<Server>);

#[async_trait]
impl Fetch for ServerFetch {
    async fn fetch(&self) -> Result<Token, Error> {
        struct InFlight<'s>(&'s Server);
        impl Drop for InFlight<'_> {
            fn drop(&mut self) {
                self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let server = &*self.0;
        let in_flight = server.in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(server);
        assert_eq!(in_flight, 0, "one request at a time");
        let number = server.requests.fetch_add(1, Ordering::Relaxed) + 1;
        // The response comes at any time.
        shuttle::future::yield_now().await;
        Token::new(format!("eyJhbGciOiJub25lIn0.e30.{number:04}"))
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// Refreshes a source on this number of threads, and asserts that each gets another token than the rejected one.
fn refresh(
    source: &FetchedToken,
    runtime: &ModelRuntime,
    callers: usize,
    rejected: Option<&Token>,
) -> Vec<shuttle::thread::JoinHandle<()>> {
    let refresh = |_| {
        let (source, handle, rejected) = (source.clone(), runtime.handle(), rejected.cloned());
        model::spawn(move || {
            let refreshed = handle.block_on(source.refresh(rejected.as_ref())).unwrap();
            assert_ne!(Some(refreshed), rejected);
        })
    };
    (0..callers).map(refresh).collect()
}

fn join(threads: Vec<shuttle::thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn callers_without_a_token_share_one_request() {
    explore(600, || {
        let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
        let (source, began) = (server.source(&runtime), Instant::now());
        join(refresh(&source, &runtime, 4, None));
        assert_eq!(server.requests(), 1);
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "no wake-up is lost"
        );
        runtime.handle().block_on(source.shutdown());
    });
}

#[test]
fn callers_with_a_rejected_token_share_one_request() {
    explore(600, || {
        let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
        let source = server.source(&runtime);
        let rejected = runtime.handle().block_on(source.refresh(None)).unwrap();
        let began = Instant::now();
        join(refresh(&source, &runtime, 4, Some(&rejected)));
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "no wake-up is lost"
        );
        // The task has the time for a request that nobody needs.
        model::block_on(time::sleep(Duration::from_secs(5)));
        assert_eq!(server.requests(), 2);
    });
}

#[test]
fn a_cancelled_caller_stops_no_other() {
    explore(600, || {
        let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
        let (source, began) = (server.source(&runtime), Instant::now());
        let cancelled = model::spawn({
            let (source, handle) = (source.clone(), runtime.handle());
            move || {
                handle.block_on(async {
                    tokio::select! {
                        biased;
                        _ = source.refresh(None) => {}
                        () = shuttle::future::yield_now() => {}
                    }
                });
            }
        });
        join(refresh(&source, &runtime, 2, None));
        cancelled.join().unwrap();
        assert_eq!(server.requests(), 1);
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "no wake-up is lost"
        );
    });
}

#[test]
fn callers_on_another_runtime_continue_when_that_of_the_task_ends() {
    explore(600, || {
        let server = Arc::<Server>::default();
        let (first, second) = (ModelRuntime::new(), ModelRuntime::new());
        let (source, began) = (server.source(&first), Instant::now());
        let callers = refresh(&source, &second, 2, None);
        let ending = model::spawn(move || drop(first));
        join(callers);
        ending.join().unwrap();
        assert!(server.requests() <= 2, "one on each runtime");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "no wake-up is lost"
        );
        assert!(source.current().is_ok());
    });
}

#[test]
fn a_receiver_gets_the_next_token_and_ends_with_the_source() {
    explore(600, || {
        let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
        let source = server.source(&runtime);
        let first = runtime.handle().block_on(source.refresh(None)).unwrap();
        let waiting = model::spawn({
            let (source, handle) = (source.clone(), runtime.handle());
            move || {
                handle.block_on(async {
                    let before = source.current().unwrap();
                    let after = source.changed().await;
                    assert_ne!(after, Some(before));
                    // The source is shut down before the next renewal.
                    while source.changed().await.is_some() {}
                });
            }
        });
        join(refresh(&source, &runtime, 1, Some(&first)));
        model::block_on(time::sleep(Duration::from_secs(400)));
        runtime.handle().block_on(source.shutdown());
        waiting.join().unwrap();
    });
}

/// The known fault: a caller looks for a token before it registers for changes.
#[test]
fn the_model_finds_a_caller_that_registers_after_it_has_looked() {
    assert_finds_fault(2_000, || {
        let (server, runtime) = (Arc::<Server>::default(), ModelRuntime::new());
        let (source, began) = (server.source(&runtime), Instant::now());
        runtime.handle().block_on(async {
            loop {
                if source.0.fetcher.current().is_some() {
                    break;
                }
                let mut state = source.0.fetcher.state();
                if state.changed().await.is_err() {
                    break;
                }
            }
        });
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "a wake-up is lost"
        );
    });
}

/// The known fault: a change is reported before the token is stored.
#[test]
fn the_model_finds_a_change_that_is_reported_before_it_is_made() {
    struct Published {
        token: ArcSwapOption<u64>,
        changes: watch::Sender<u64>,
    }
    assert_finds_fault(2_000, || {
        let published = Arc::new(Published {
            token: ArcSwapOption::empty(),
            changes: watch::Sender::new(0),
        });
        let caller = model::spawn({
            let published = published.clone();
            move || {
                model::block_on(async {
                    let mut changes = published.changes.subscribe();
                    while published.token.load_full().is_none() {
                        changes.changed().await.unwrap();
                    }
                });
            }
        });
        published.changes.send_modify(|changes| *changes += 1);
        published.token.store(Some(Arc::new(1)));
        caller.join().unwrap();
    });
}
