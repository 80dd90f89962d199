//! A projected token is followed.
#![cfg(unix)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{bearer, seconds, token, token_from, until};
use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{Error, FileError, ProjectedToken, TokenSource as _};

fn volume() -> (tempfile::TempDir, Kubelet) {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    (folder, kubelet)
}

fn sent(source: &ProjectedToken) -> Option<String> {
    let token = source.current().ok()?;
    Some(token.header().to_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_rotation_is_picked_up_and_not_the_first_only() {
    let (_folder, kubelet) = volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    assert!(source.file().health().change_notifications);
    for rotation in 1..=5 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("token", &next).unwrap();
        until("the rotation is picked up", || {
            sent(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn a_token_at_a_nested_path_is_followed_by_the_swap_folders_above_it() {
    let (_folder, kubelet) = volume();
    kubelet
        .write([("nested/dir/token", token("0", 600))])
        .unwrap();
    let source = ProjectedToken::open(kubelet.path("nested/dir/token"))
        .await
        .unwrap();
    for rotation in 1..=3 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("nested/dir/token", &next).unwrap();
        until("the rotation is picked up", || {
            sent(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn a_plain_file_is_followed_through_renames_and_rewrites() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, token("0", 600)).unwrap();
    let source = ProjectedToken::open(&path).await.unwrap();
    for rotation in 1..=4 {
        let next = token(&rotation.to_string(), 600);
        if rotation % 2 == 0 {
            let new = folder.path().join("new");
            std::fs::write(&new, &next).unwrap();
            std::fs::rename(&new, &path).unwrap();
        } else {
            std::fs::write(&path, &next).unwrap();
        }
        until("the change is picked up", || sent(&source) == bearer(&next)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_missing_at_the_start_is_an_error_naming_the_path() {
    let path = "/nowhere/to/be/found/token";
    let builder = ProjectedToken::builder(path).startup_limit(Duration::from_millis(50));
    let error = builder.open().await.unwrap_err();
    assert!(
        matches!(&error, Error::File(FileError::StartupTimeout { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains(path), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_file_that_comes_a_little_later_is_waited_for() {
    let (_folder, kubelet) = volume();
    let opening = tokio::spawn(ProjectedToken::open(kubelet.path("token")));
    tokio::task::yield_now().await;
    let text = token("late", 600);
    kubelet.write([("token", &text)]).unwrap();
    let source = opening.await.unwrap().unwrap();
    assert_eq!(sent(&source), bearer(&text));
}

#[tokio::test]
async fn a_token_with_a_line_break_at_its_end_is_sent_without_it() {
    let (_folder, kubelet) = volume();
    let text = token("0", 600);
    kubelet.write([("token", format!("{text}\n"))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    assert_eq!(sent(&source), bearer(&text));
}

#[tokio::test]
async fn the_last_good_token_stays_over_an_empty_half_written_or_vanished_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let good = token("0", 600);
    std::fs::write(&path, &good).unwrap();
    let source = ProjectedToken::open(&path).await.unwrap();
    for bad in [
        Some(""),
        Some("  \n"),
        Some("eyJhbGciOiJSUzI1NiJ9.eyJ"),
        Some("<html>"),
        None,
    ] {
        match bad {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        until("the fault is seen", || source.health().last_error.is_some()).await;
        assert_eq!(sent(&source), bearer(&good), "{bad:?}");
        std::fs::write(&path, &good).unwrap();
        until("the fault is over", || source.health().last_error.is_none()).await;
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_read_for_a_moment_is_tried_again_soon() {
    let (_folder, kubelet) = volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let refused = Arc::new(AtomicBool::new(false));
    let refuses = refused.clone();
    let source = ProjectedToken::builder(kubelet.path("token"))
        .reader(move |path| match refuses.load(Ordering::SeqCst) {
            true => Err(std::io::ErrorKind::PermissionDenied.into()),
            false => std::fs::read(path),
        })
        .open()
        .await
        .unwrap();
    refused.store(true, Ordering::SeqCst);
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    until("the refusal is seen", || {
        source.health().last_error.is_some()
    })
    .await;
    // No event tells that the file can be read now.
    refused.store(false, Ordering::SeqCst);
    until("the new token is there", || sent(&source) == bearer(&next)).await;
}

#[tokio::test]
async fn an_expired_token_is_not_sent_and_the_error_says_since_when_and_why() {
    let (_folder, kubelet) = volume();
    let text = token_from("0", 1000, 600);
    kubelet.write([("token", &text)]).unwrap();
    let now = Arc::new(AtomicU64::new(1599));
    let clock = now.clone();
    let open = |builder: reqwest_wi_auth::ProjectedTokenBuilder| {
        let clock = clock.clone();
        builder
            .clock(move || seconds(clock.load(Ordering::SeqCst)))
            .open()
    };
    let source = open(ProjectedToken::builder(kubelet.path("token")))
        .await
        .unwrap();
    let careless = open(ProjectedToken::builder(kubelet.path("token")).send_expired())
        .await
        .unwrap();
    assert_eq!(sent(&source), bearer(&text));
    now.store(1600, Ordering::SeqCst);
    let error = source.current().unwrap_err();
    assert!(
        matches!(&error, Error::Expired { since, .. } if *since == seconds(1600)),
        "{error:?}"
    );
    let told = error.to_string();
    assert!(
        told.contains("token") && told.contains("same token"),
        "{told}"
    );
    assert!(source.refresh(None).await.is_err());
    assert_eq!(sent(&careless), bearer(&text), "by choice");
    let next = token_from("1", 1600, 600);
    kubelet.rotate("token", &next).unwrap();
    until("the new token is sent", || sent(&source) == bearer(&next)).await;
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_at_80_percent_of_the_token_s_life_though_nothing_is_reported() {
    // On a path that cannot be watched, with a poll that would come too late.
    let reads = Arc::new(Mutex::new(Vec::new()));
    let (seen, begin) = (reads.clone(), tokio::time::Instant::now());
    let now = move || seconds(1000) + begin.elapsed();
    let _source = ProjectedToken::builder("/nowhere/token")
        .reader(move |_| {
            seen.lock().unwrap().push(begin.elapsed().as_secs());
            Ok(token_from("0", 1000, 40).into_bytes())
        })
        .clock(now)
        .open()
        .await
        .unwrap();
    while begin.elapsed() < Duration::from_secs(61) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let reads = reads.lock().unwrap();
    assert_eq!(
        reads[..3],
        [0, 32, 40],
        "at the start, at 80 %, at the end: {reads:?}"
    );
    assert!(
        reads.len() > 15,
        "and every second while it is expired: {reads:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_always_says_401_does_not_have_the_file_read_again_and_again() {
    let reads = Arc::new(AtomicU64::new(0));
    let count = reads.clone();
    let source = ProjectedToken::builder("/nowhere/token")
        .reader(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(token("0", 600).into_bytes())
        })
        .open()
        .await
        .unwrap();
    let rejected = source.current().unwrap();
    for _ in 0..100 {
        assert_eq!(source.refresh(Some(&rejected)).await.unwrap(), rejected);
    }
    assert_eq!(
        reads.load(Ordering::SeqCst),
        2,
        "at the start, and once for all of them"
    );
}

#[tokio::test]
async fn a_change_can_be_awaited_and_the_following_be_ended() {
    let (_folder, kubelet) = volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = source.subscribe();
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    let changed = changes.next().await.expect("is followed");
    assert_eq!(changed.header().to_str().unwrap(), bearer(&next).unwrap());
    source.shutdown().await;
    assert!(changes.next().await.is_none());
    assert_eq!(sent(&source), bearer(&next), "the last token stays");
}
