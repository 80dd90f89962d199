//! Sources outlive the runtimes that they are used in.
#![cfg(target_os = "linux")]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::support::log::Log;
use crate::support::{bearer, seconds, token, token_from, until};
use reqwest_wi_auth::testing::{FakeMetadataServer, Kubelet};
use reqwest_wi_auth::{
    BearerAuth, Error, FileError, IdentityToken, MetadataError, MetadataServer, ProjectedToken,
    TokenSource as _, WatchedFile,
};
use tokio::runtime::Runtime;

fn current_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn multi_thread() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn volume() -> (tempfile::TempDir, Kubelet) {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    (folder, kubelet)
}

fn sent(source: &ProjectedToken) -> Option<String> {
    let token = source.current().ok()?;
    Some(token.header().to_str().unwrap().to_owned())
}

#[test]
fn a_token_file_is_followed_from_each_runtime_that_uses_it_next() {
    for make in [current_thread, multi_thread] {
        let (_folder, kubelet) = volume();
        let first = make();
        let source = first
            .block_on(ProjectedToken::open(kubelet.path("token")))
            .unwrap();
        assert!(source.file().health().change_notifications);
        drop(first);
        for rotation in 1..=3 {
            let health = source.file().health();
            assert!(
                !health.change_notifications && !health.running,
                "nobody follows it"
            );
            let next = token(&rotation.to_string(), 600);
            kubelet.rotate("token", &next).unwrap();
            let runtime = make();
            runtime.block_on(async {
                until("the new token is there", || sent(&source) == bearer(&next)).await;
                assert!(source.file().health().change_notifications);
                // It is followed, and not only read once.
                let next = token(&format!("{rotation} again"), 600);
                kubelet.rotate("token", &next).unwrap();
                until("the next one too", || sent(&source) == bearer(&next)).await;
            });
            drop(runtime);
        }
    }
}

#[test]
fn a_source_in_a_static_serves_one_runtime_after_another() {
    static SOURCE: OnceLock<ProjectedToken> = OnceLock::new();
    let (_folder, kubelet) = volume();
    for rotation in 0..4 {
        let next = token(&format!("static {rotation}"), 600);
        kubelet.rotate("token", &next).unwrap();
        current_thread().block_on(async {
            let source = match SOURCE.get() {
                Some(source) => source,
                None => {
                    let opened = ProjectedToken::open(kubelet.path("token")).await.unwrap();
                    SOURCE.get_or_init(|| opened)
                }
            };
            until("the token of this test", || sent(source) == bearer(&next)).await;
        });
    }
    current_thread().block_on(SOURCE.get().unwrap().shutdown());
}

#[test]
fn a_rejected_token_is_replaced_though_the_first_runtime_has_ended_or_is_not_driven() {
    for is_dropped in [true, false] {
        let (_folder, kubelet) = volume();
        let first = current_thread();
        let source = first
            .block_on(ProjectedToken::open(kubelet.path("token")))
            .unwrap();
        let rejected = source.current().unwrap();
        let kept = (!is_dropped).then_some(first);
        let next = token("1", 600);
        kubelet.rotate("token", &next).unwrap();
        let refreshed = current_thread().block_on(source.refresh(Some(&rejected)));
        assert_eq!(
            refreshed.unwrap().header().to_str().unwrap(),
            bearer(&next).unwrap()
        );
        drop(kept);
    }
}

#[test]
fn outside_a_runtime_an_expired_token_is_read_by_whoever_finds_it() {
    for is_dropped in [true, false] {
        let (_folder, kubelet) = volume();
        kubelet
            .write([("token", token_from("0", 1000, 600))])
            .unwrap();
        let (now, reads) = (Arc::new(AtomicU64::new(1000)), Arc::new(AtomicU64::new(0)));
        let (clock, count) = (now.clone(), reads.clone());
        let first = current_thread();
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
        // Not at each use, if it does not help.
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
fn the_error_of_an_expired_token_does_not_claim_that_the_file_was_read() {
    let (_folder, kubelet) = volume();
    kubelet
        .write([("token", token_from("0", 1000, 600))])
        .unwrap();
    let now = Arc::new(AtomicU64::new(1000));
    let clock = now.clone();
    let first = current_thread();
    let opening = ProjectedToken::builder(kubelet.path("token"))
        .clock(move || seconds(clock.load(Ordering::SeqCst)))
        .open();
    let source = first.block_on(opening).unwrap();
    first.block_on(source.shutdown());
    drop(first);
    kubelet.rotate("token", token_from("1", 1500, 600)).unwrap();
    now.store(1700, Ordering::SeqCst);
    let told = current_thread().block_on(async { source.current() });
    let told = told.unwrap_err().to_string();
    assert!(!told.contains("same token"), "{told}");
}

#[test]
fn changes_are_received_though_the_runtime_of_the_task_ends_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "0").unwrap();
    let first = multi_thread();
    let opening = WatchedFile::open(&path, |bytes| Ok(bytes.to_vec()));
    let file = first.block_on(opening).unwrap();
    let second = multi_thread();
    let mut changes = file.subscribe();
    let waiting = second.spawn(async move { changes.next().await });
    std::thread::sleep(Duration::from_millis(20));
    drop(first);
    std::fs::write(&path, "1").unwrap();
    let changed = second.block_on(waiting).unwrap();
    assert!(changed.is_some());
    second.block_on(async { until("it is read", || *file.current() == b"1").await });
}

#[test]
fn opening_outside_a_runtime_is_an_error_and_not_an_endless_wait() {
    fn poll<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ready) => ready,
            Poll::Pending => panic!("waits, though nobody would wake it"),
        }
    }
    let error = poll(ProjectedToken::open("/nowhere/token")).unwrap_err();
    assert!(
        matches!(error, Error::File(FileError::NoRuntime { .. })),
        "{error:?}"
    );
    let opening = WatchedFile::open("/nowhere/file", |bytes| Ok(bytes.to_vec()));
    assert!(matches!(poll(opening), Err(FileError::NoRuntime { .. })));
    let metadata = MetadataServer::with_host("127.0.0.1:1").unwrap();
    let error = poll(metadata.open("a")).unwrap_err();
    let is_typed = matches!(error, Error::Metadata(MetadataError::NoRuntime { .. }));
    assert!(is_typed, "{error:?}");
    assert!(!error.is_transient());
}

#[test]
fn one_warning_is_logged_when_a_task_ends_while_handles_are_left() {
    let (_folder, kubelet) = volume();
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::WARN);
    let first = current_thread();
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
    // None if the last handle goes first, or the following was ended.
    let second = current_thread();
    second.block_on(async {
        until("it is followed", || {
            source.file().health().running || source.current().is_err()
        })
        .await;
    });
    drop(source);
    drop(second);
    let third = current_thread();
    let source = third
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .unwrap();
    third.block_on(source.shutdown());
    drop(third);
    assert_eq!(log.text(), warnings);
}

/// A metadata server on a runtime that lives as long as it.
fn metadata() -> (Runtime, FakeMetadataServer) {
    let runtime = multi_thread();
    let fake = runtime.block_on(FakeMetadataServer::start()).unwrap();
    (runtime, fake)
}

fn short_lived(fake: &FakeMetadataServer, runtime: &Runtime) -> IdentityToken {
    fake.set_token_lifetime(Duration::from_secs(3));
    let server = MetadataServer::with_host(fake.host()).unwrap();
    runtime.block_on(server.open("https://a.example")).unwrap()
}

#[test]
fn identity_tokens_are_fetched_from_each_runtime_that_uses_them_next() {
    let (_runtime, fake) = metadata();
    let first = current_thread();
    let source = short_lived(&fake, &first);
    drop(first);
    let requests = fake.request_count();
    std::thread::sleep(Duration::from_millis(3100));
    assert_eq!(fake.request_count(), requests, "nobody fetches");
    assert!(!source.health().present);
    for _ in 0..2 {
        current_thread().block_on(async {
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
fn outside_a_runtime_an_identity_token_is_fetched_by_whoever_finds_none() {
    let (_runtime, fake) = metadata();
    let server = MetadataServer::with_host(fake.host()).unwrap();
    // Started outside a runtime as well.
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
fn outside_a_runtime_the_metadata_server_is_not_asked_at_each_use() {
    let (_runtime, fake) = metadata();
    fake.set_fault(Some(reqwest_wi_auth::testing::Fault::InvalidToken));
    let source = MetadataServer::with_host(fake.host()).unwrap().start("a");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        assert!(source.current().is_err());
    }
    assert_eq!(fake.request_count(), 1);
}
