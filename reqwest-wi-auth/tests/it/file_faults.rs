//! Faults of a token file and its directories.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::volume::token_volume;
use crate::support::{bearer, current_header, seconds, token, wait_until};
use reqwest_wi_auth::{ProjectedToken, WatchedFile};
use tokio::time::Instant;

#[tokio::test]
async fn a_new_token_of_the_same_size_is_detected() {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let next = token("1", 600);
    assert_eq!(next.len(), token("0", 600).len());
    kubelet.rotate("token", &next).unwrap();
    wait_until("the token is detected", || {
        current_header(&source) == bearer(&next)
    })
    .await;
}

#[tokio::test]
async fn a_volume_that_is_unmounted_and_mounted_again_is_watched_again() {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let valid = current_header(&source);
    for name in ["1", "2"] {
        kubelet.remove_content().unwrap();
        wait_until("the error is detected", || {
            source.health().last_error.is_some()
        })
        .await;
        assert!(
            current_header(&source).is_some(),
            "the last valid token is kept: {valid:?}"
        );
        let next = token(name, 600);
        kubelet.write([("token", &next)]).unwrap();
        wait_until("the token is detected", || {
            current_header(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn a_directory_that_is_removed_and_recreated_is_watched_again() {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    kubelet.recreate().unwrap();
    wait_until("the error is detected", || {
        source.health().last_error.is_some()
    })
    .await;
    for name in ["1", "2", "3"] {
        let next = token(name, 600);
        kubelet.write([("token", &next)]).unwrap();
        wait_until("the token is detected", || {
            current_header(&source) == bearer(&next)
        })
        .await;
    }
    assert!(source.file().health().change_notifications);
}

#[tokio::test]
async fn invalid_content_written_in_place_does_not_replace_the_token() {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let valid = current_header(&source);
    kubelet.overwrite("token", "half.a").unwrap();
    wait_until("the error is detected", || {
        source.health().last_error.is_some()
    })
    .await;
    assert_eq!(current_header(&source), valid);
}

#[tokio::test]
async fn touching_the_directory_is_not_a_rotation() {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = source.subscribe();
    let directory = kubelet.path("token").parent().unwrap().to_owned();
    for _ in 0..10 {
        std::fs::File::open(&directory)
            .unwrap()
            .set_modified(seconds(1000))
            .unwrap();
        kubelet.rotate("token", token("0", 600)).unwrap();
        source.file().reread().await.unwrap();
    }
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    let first = changes.next().await.unwrap();
    assert_eq!(first.header().to_str().unwrap(), bearer(&next).unwrap());
}

#[tokio::test]
async fn reading_the_file_does_not_trigger_the_watch() {
    let (_directory, kubelet) = token_volume();
    let reads = Arc::new(AtomicU64::new(0));
    let count = reads.clone();
    let source = ProjectedToken::builder(kubelet.path("token"))
        .reader(move |path| {
            count.fetch_add(1, Ordering::SeqCst);
            std::fs::read(path)
        })
        .open()
        .await
        .unwrap();
    for _ in 0..50 {
        source.file().reread().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let reads = reads.load(Ordering::SeqCst);
    assert!(
        reads <= 52,
        "one at the start, and the requested ones: {reads}"
    );
}

#[tokio::test]
async fn the_last_valid_token_is_kept_while_the_file_is_not_readable() {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let valid = current_header(&source);
    kubelet.set_mode("token", 0).unwrap();
    // The superuser can read it nevertheless, so an error is not asserted.
    let _ = source.file().reread().await;
    assert_eq!(current_header(&source), valid);
    kubelet.set_mode("token", 0o644).unwrap();
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    wait_until("the token is detected", || {
        current_header(&source) == bearer(&next)
    })
    .await;
}

/// Returns the times at which a file with a token is read, in seconds since it was opened.
async fn read_times(claims: &'static str, now: u64, duration: u64) -> Vec<u64> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    let (reads, begin) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let times = reads.clone();
    let _source = ProjectedToken::builder("/nonexistent/token")
        .reader(move |_| {
            times.lock().unwrap().push(begin.elapsed().as_secs());
            Ok(format!("e30.{encoded}.c2ln").into_bytes())
        })
        .clock(move || seconds(now) + begin.elapsed())
        .open()
        .await
        .unwrap();
    while begin.elapsed() < Duration::from_secs(duration) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let reads = reads.lock().unwrap();
    reads.clone()
}

#[tokio::test(start_paused = true)]
async fn a_token_with_warnafter_is_read_again_at_that_time() {
    let claims = r#"{"iat":1000,"exp":31537000,"kubernetes.io":{"warnafter":1037}}"#;
    let reads = read_times(claims, 1000, 100).await;
    assert!(reads.contains(&37), "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_every_minute_without_notifications() {
    let reads = read_times(r#"{"iat":1000,"exp":31537000}"#, 1000, 200).await;
    assert_eq!(reads, [0, 60, 120, 180]);
}

#[tokio::test]
async fn an_opaque_token_is_accepted_only_on_request_and_replaced_when_the_file_changes() {
    let (_directory, kubelet) = token_volume();
    kubelet.write([("token", "opaque-1")]).unwrap();
    assert!(
        ProjectedToken::builder(kubelet.path("token"))
            .startup_limit(Duration::from_millis(50))
            .open()
            .await
            .is_err()
    );
    let builder = ProjectedToken::builder(kubelet.path("token")).allow_opaque();
    let source = builder.open().await.unwrap();
    assert_eq!(source.health().expires_at, None);
    kubelet.rotate("token", "opaque-2").unwrap();
    wait_until("the token is detected", || {
        current_header(&source) == bearer("opaque-2")
    })
    .await;
}

#[tokio::test]
async fn a_watched_file_keeps_its_last_valid_value() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limit");
    std::fs::write(&path, "10").unwrap();
    let parse = |bytes: &[u8]| Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?);
    let limit = WatchedFile::open(&path, parse).await.unwrap();
    let mut changes = limit.subscribe();
    std::fs::write(&path, "20").unwrap();
    while *changes.next().await.unwrap() != 20 {}
    std::fs::write(&path, "many").unwrap();
    assert!(
        limit
            .reread()
            .await
            .unwrap_err()
            .to_string()
            .contains("limit")
    );
    assert_eq!(*limit.current(), 20);
    limit.shutdown().await;
    assert!(limit.reread().await.is_err());
}
