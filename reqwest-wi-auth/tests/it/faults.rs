//! What can happen to a token's file and its folders.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{bearer, seconds, token, until};
use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{ProjectedToken, TokenSource as _, WatchedFile};
use tokio::time::Instant;

fn volume() -> (tempfile::TempDir, Kubelet) {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path().join("volume")).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    (folder, kubelet)
}

fn sent(source: &ProjectedToken) -> Option<String> {
    let token = source.current().ok()?;
    Some(token.header().to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_new_token_of_the_same_size_is_picked_up() {
    let (_folder, kubelet) = volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let next = token("1", 600);
    assert_eq!(next.len(), token("0", 600).len());
    kubelet.rotate("token", &next).unwrap();
    until("it is picked up", || sent(&source) == bearer(&next)).await;
}

#[tokio::test]
async fn a_volume_that_vanishes_and_comes_back_is_followed_again() {
    let (_folder, kubelet) = volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let good = sent(&source);
    for name in ["1", "2"] {
        kubelet.remove_content().unwrap();
        until("the loss is seen", || source.health().last_error.is_some()).await;
        assert!(
            sent(&source).is_some(),
            "the last good token stays: {good:?}"
        );
        let next = token(name, 600);
        kubelet.write([("token", &next)]).unwrap();
        until("it is picked up", || sent(&source) == bearer(&next)).await;
    }
}

#[tokio::test]
async fn a_folder_that_is_removed_and_made_anew_is_watched_again() {
    let (_folder, kubelet) = volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    kubelet.recreate().unwrap();
    until("the loss is seen", || source.health().last_error.is_some()).await;
    for name in ["1", "2", "3"] {
        let next = token(name, 600);
        kubelet.write([("token", &next)]).unwrap();
        until("it is picked up", || sent(&source) == bearer(&next)).await;
    }
    assert!(source.file().health().change_notifications);
}

#[tokio::test]
async fn content_that_is_spoilt_in_place_does_not_replace_the_good_token() {
    let (_folder, kubelet) = volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let good = sent(&source);
    kubelet.overwrite("token", "half.a").unwrap();
    until("the fault is seen", || source.health().last_error.is_some()).await;
    assert_eq!(sent(&source), good);
}

#[tokio::test]
async fn a_folder_that_is_touched_is_no_rotation() {
    let (_folder, kubelet) = volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = source.subscribe();
    let folder = kubelet.path("token").parent().unwrap().to_owned();
    for _ in 0..10 {
        std::fs::File::open(&folder)
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
async fn reading_the_file_does_not_excite_the_watch() {
    let (_folder, kubelet) = volume();
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
        "one at the start, and those that were asked for: {reads}"
    );
}

#[tokio::test]
async fn a_file_whose_mode_forbids_reading_leaves_the_last_good_token() {
    let (_folder, kubelet) = volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let good = sent(&source);
    kubelet.set_mode("token", 0).unwrap();
    // The superuser reads it all the same; anybody else sees the refusal.
    let _ = source.file().reread().await;
    assert_eq!(sent(&source), good);
    kubelet.set_mode("token", 0o644).unwrap();
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    until("it is picked up", || sent(&source) == bearer(&next)).await;
}

/// Times at which a file is read, in whole seconds, with a token whose claims are these.
async fn reads_of(claims: &'static str, from: u64, seconds_long: u64) -> Vec<u64> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    let (reads, begin) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let seen = reads.clone();
    let _source = ProjectedToken::builder("/nowhere/token")
        .reader(move |_| {
            seen.lock().unwrap().push(begin.elapsed().as_secs());
            Ok(format!("e30.{encoded}.c2ln").into_bytes())
        })
        .clock(move || seconds(from) + begin.elapsed())
        .open()
        .await
        .unwrap();
    while begin.elapsed() < Duration::from_secs(seconds_long) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let reads = reads.lock().unwrap();
    reads.clone()
}

#[tokio::test(start_paused = true)]
async fn a_year_long_token_is_looked_after_when_kubernetes_would_warn() {
    let claims = r#"{"iat":1000,"exp":31537000,"kubernetes.io":{"warnafter":1037}}"#;
    let reads = reads_of(claims, 1000, 100).await;
    assert!(reads.contains(&37), "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn without_anything_reported_the_file_is_read_every_minute() {
    let reads = reads_of(r#"{"iat":1000,"exp":31537000}"#, 1000, 200).await;
    assert_eq!(reads, [0, 60, 120, 180]);
}

#[tokio::test]
async fn an_opaque_token_without_expiry_is_followed_by_watch_and_timer() {
    let (_folder, kubelet) = volume();
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
    until("it is picked up", || sent(&source) == bearer("opaque-2")).await;
}

#[tokio::test]
async fn any_file_can_be_followed_and_a_bad_one_keeps_the_last_good_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("limit");
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
