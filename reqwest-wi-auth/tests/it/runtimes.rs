//! Sources that are used in several runtimes, or outside a runtime.
#![cfg(target_os = "linux")]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::volume::token_volume;
use crate::support::{
    bearer, current_header, current_thread_runtime, multi_thread_runtime, seconds, token,
    token_from, wait_until,
};
use reqwest_wi_auth::testing::FakeMetadataServer;
use reqwest_wi_auth::{
    BearerAuth, Error, FetchedToken, FileError, MetadataError, MetadataServer, ProjectedToken,
    TokenSource as _, WatchedFile,
};
use tokio::runtime::Runtime;

#[test]
fn a_token_file_is_watched_from_each_runtime_that_uses_it_next() {
    for create_runtime in [current_thread_runtime, multi_thread_runtime] {
        let (_directory, kubelet) = token_volume();
        let first = create_runtime();
        let source = first
            .block_on(ProjectedToken::open(kubelet.path("token")))
            .unwrap();
        assert!(source.file().health().change_notifications);
        drop(first);
        for rotation in 1..=3 {
            let health = source.file().health();
            assert!(
                !health.change_notifications && !health.running,
                "no task is running"
            );
            let next = token(&rotation.to_string(), 600);
            kubelet.rotate("token", &next).unwrap();
            let runtime = create_runtime();
            runtime.block_on(async {
                wait_until("the new token is read", || {
                    current_header(&source) == bearer(&next)
                })
                .await;
                assert!(source.file().health().change_notifications);
                // The file is watched, and not only read once.
                let next = token(&format!("{rotation} again"), 600);
                kubelet.rotate("token", &next).unwrap();
                wait_until("the next token is read", || {
                    current_header(&source) == bearer(&next)
                })
                .await;
            });
            drop(runtime);
        }
    }
}

#[test]
fn a_source_in_a_static_works_in_one_runtime_after_another() {
    static SOURCE: OnceLock<ProjectedToken> = OnceLock::new();
    let (_directory, kubelet) = token_volume();
    for rotation in 0..4 {
        let next = token(&format!("static {rotation}"), 600);
        kubelet.rotate("token", &next).unwrap();
        current_thread_runtime().block_on(async {
            let source = match SOURCE.get() {
                Some(source) => source,
                None => {
                    let opened = ProjectedToken::open(kubelet.path("token")).await.unwrap();
                    SOURCE.get_or_init(|| opened)
                }
            };
            wait_until("the new token is read", || {
                current_header(source) == bearer(&next)
            })
            .await;
        });
    }
    current_thread_runtime().block_on(SOURCE.get().unwrap().shutdown());
}

#[test]
fn a_rejected_token_is_replaced_although_the_first_runtime_has_ended_or_is_not_driven() {
    for is_dropped in [true, false] {
        let (_directory, kubelet) = token_volume();
        let first = current_thread_runtime();
        let source = first
            .block_on(ProjectedToken::open(kubelet.path("token")))
            .unwrap();
        let rejected = source.current().unwrap();
        let kept = (!is_dropped).then_some(first);
        let next = token("1", 600);
        kubelet.rotate("token", &next).unwrap();
        let refreshed = current_thread_runtime().block_on(source.refresh(Some(&rejected)));
        assert_eq!(
            refreshed.unwrap().header().to_str().unwrap(),
            bearer(&next).unwrap()
        );
        drop(kept);
    }
}

#[test]
fn outside_a_runtime_an_expired_token_is_read_by_its_caller() {
    for is_dropped in [true, false] {
        let (_directory, kubelet) = token_volume();
        kubelet
            .write([("token", token_from("0", 1000, 600))])
            .unwrap();
        let (now, reads) = (Arc::new(AtomicU64::new(1000)), Arc::new(AtomicU64::new(0)));
        let (clock, count) = (now.clone(), reads.clone());
        let first = current_thread_runtime();
        let opening = ProjectedToken::builder(kubelet.path("token"))
            .clock(move || seconds(clock.load(Ordering::SeqCst)))
            .reader(move |path| {
                count.fetch_add(1, Ordering::SeqCst);
                std::fs::read(path)
            })
            .open();
        let source = first.block_on(opening).unwrap();
        let kept = (!is_dropped).then_some(first);
        let next = token_from("1", 1500, 600);
        kubelet.rotate("token", &next).unwrap();
        now.store(1700, Ordering::SeqCst);
        let auth = BearerAuth::for_origin("https://a.example", source.clone()).unwrap();
        let found = auth.token_for("https://a.example/").unwrap().unwrap();
        assert_eq!(found.header().to_str().unwrap(), bearer(&next).unwrap());
        // The file is not read at each use.
        now.store(3000, Ordering::SeqCst);
        let before = reads.load(Ordering::SeqCst);
        for _ in 0..100 {
            let error = source.current().unwrap_err();
            assert!(matches!(error, Error::Expired { .. }), "{error:?}");
        }
        assert!(reads.load(Ordering::SeqCst) <= before + 1);
        drop(kept);
    }
}

#[test]
fn the_error_of_an_expired_token_states_that_the_file_is_no_longer_read() {
    let (_directory, kubelet) = token_volume();
    kubelet
        .write([("token", token_from("0", 1000, 600))])
        .unwrap();
    let now = Arc::new(AtomicU64::new(1000));
    let clock = now.clone();
    let first = current_thread_runtime();
    let opening = ProjectedToken::builder(kubelet.path("token"))
        .clock(move || seconds(clock.load(Ordering::SeqCst)))
        .open();
    let source = first.block_on(opening).unwrap();
    first.block_on(source.shutdown());
    drop(first);
    kubelet.rotate("token", token_from("1", 1500, 600)).unwrap();
    now.store(1700, Ordering::SeqCst);
    let error = current_thread_runtime().block_on(async { source.current() });
    let error = error.unwrap_err().to_string();
    assert!(!error.contains("same token"), "{error}");
    assert!(error.contains("no longer read"), "{error}");
}

#[test]
fn changes_are_received_although_the_runtime_of_the_task_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "0").unwrap();
    let first = multi_thread_runtime();
    let opening = WatchedFile::open(&path, |bytes| Ok(bytes.to_vec()));
    let file = first.block_on(opening).unwrap();
    let second = multi_thread_runtime();
    let mut changes = file.subscribe();
    let waiting = second.spawn(async move { changes.next().await });
    std::thread::sleep(Duration::from_millis(20));
    drop(first);
    std::fs::write(&path, "1").unwrap();
    let changed = second.block_on(waiting).unwrap();
    assert!(changed.is_some());
    second.block_on(async { wait_until("the file is read", || *file.current() == b"1").await });
}

#[test]
fn opening_outside_a_runtime_is_an_error() {
    fn poll<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ready) => ready,
            Poll::Pending => panic!("the future waits, but nothing would wake it"),
        }
    }
    let error = poll(ProjectedToken::open("/nonexistent/token")).unwrap_err();
    assert!(
        matches!(error, Error::File(FileError::NoRuntime { .. })),
        "{error:?}"
    );
    let opening = WatchedFile::open("/nonexistent/file", |bytes| Ok(bytes.to_vec()));
    assert!(matches!(poll(opening), Err(FileError::NoRuntime { .. })));
    let metadata = MetadataServer::with_host("127.0.0.1:1").unwrap();
    let error = poll(metadata.open("a")).unwrap_err();
    let is_typed = matches!(error, Error::Metadata(MetadataError::NoRuntime { .. }));
    assert!(is_typed, "{error:?}");
    assert!(!error.is_transient());
}

#[test]
fn one_warning_is_logged_when_a_task_ends_before_its_handles() {
    if !is_child_process("runtimes::one_warning_is_logged_when_a_task_ends_before_its_handles") {
        return;
    }
    let (_directory, kubelet) = token_volume();
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::WARN);
    let first = current_thread_runtime();
    let source = first
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .unwrap();
    drop(first);
    for _ in 0..10 {
        let _ = source.current();
        let _ = source.health();
    }
    let warnings = log.text();
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(
        warnings.contains("token") && warnings.contains("runtime"),
        "{warnings}"
    );
    // Nothing is logged if the last handle is dropped first, or the source was shut down.
    let second = current_thread_runtime();
    second.block_on(async {
        wait_until("the file is watched", || {
            source.file().health().running || source.current().is_err()
        })
        .await;
    });
    drop(source);
    drop(second);
    let third = current_thread_runtime();
    let source = third
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .unwrap();
    third.block_on(source.shutdown());
    drop(third);
    assert_eq!(log.text(), warnings);
}

/// Starts a fake metadata server, and returns it with its runtime.
fn metadata_server() -> (Runtime, FakeMetadataServer) {
    let runtime = multi_thread_runtime();
    let fake = runtime.block_on(FakeMetadataServer::start()).unwrap();
    (runtime, fake)
}

/// Opens a source whose tokens live for 3 s.
fn open_short_lived(fake: &FakeMetadataServer, runtime: &Runtime) -> FetchedToken {
    fake.set_token_lifetime(Duration::from_secs(3));
    let server = MetadataServer::with_host(fake.host()).unwrap();
    runtime.block_on(server.open("https://a.example")).unwrap()
}

#[test]
fn identity_tokens_are_fetched_from_each_runtime_that_uses_them_next() {
    let (_runtime, fake) = metadata_server();
    let first = current_thread_runtime();
    let source = open_short_lived(&fake, &first);
    drop(first);
    let requests = fake.request_count();
    std::thread::sleep(Duration::from_millis(3100));
    assert_eq!(fake.request_count(), requests, "no task fetches a token");
    assert!(!source.health().present);
    for _ in 0..2 {
        current_thread_runtime().block_on(async {
            source.refresh(None).await.expect("a token on this runtime");
            let before = source.current().unwrap();
            let changed = source.changed();
            fake.set_token_lifetime(Duration::from_secs(600));
            let rejected = source.refresh(Some(&before));
            let (changed, rejected) = tokio::join!(changed, rejected);
            assert_eq!(changed.unwrap(), rejected.unwrap());
        });
        fake.set_token_lifetime(Duration::from_secs(3));
    }
}

#[test]
fn outside_a_runtime_an_identity_token_is_fetched_by_its_caller() {
    let (_runtime, fake) = metadata_server();
    let server = MetadataServer::with_host(fake.host()).unwrap();
    // The source is started outside a runtime too.
    let source = server.start("https://a.example");
    let auth = BearerAuth::for_origin("https://a.example", source.clone()).unwrap();
    let token = auth
        .token_for("https://a.example/")
        .unwrap()
        .expect("a token");
    assert_eq!(source.current().unwrap(), token);
    assert_eq!(fake.request_count(), 1);
}

#[test]
fn outside_a_runtime_the_metadata_server_is_contacted_at_most_once_a_second() {
    let (_runtime, fake) = metadata_server();
    fake.set_fault(Some(reqwest_wi_auth::testing::Fault::InvalidToken));
    let source = MetadataServer::with_host(fake.host()).unwrap().start("a");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        assert!(source.current().is_err());
    }
    assert_eq!(fake.request_count(), 1);
}

#[test]
fn health_starts_no_task() {
    let (_directory, kubelet) = token_volume();
    let (_runtime, fake) = metadata_server();
    let first = current_thread_runtime();
    let file = first
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .unwrap();
    let server = MetadataServer::with_host(fake.host()).unwrap();
    let identity = first.block_on(server.open("https://a.example")).unwrap();
    drop(first);
    let requests = fake.request_count();
    current_thread_runtime().block_on(async {
        for _ in 0..10 {
            assert!(file.health().present && identity.health().present);
            assert!(format!("{file:?} {identity:?}").contains("token"));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!file.file().health().running, "no task was started");
        assert_eq!(fake.request_count(), requests);
        assert!(file.current().is_ok());
        assert!(file.file().health().running, "`current` starts the task");
    });
}
