//! Rotations, expiry and errors of a `ProjectedToken`.
#![cfg(unix)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::volume::empty_volume;
use crate::support::{bearer, current_header, seconds, token, token_from, wait_until};
use reqwest_wi_auth::{Error, FileError, ProjectedToken, TokenSource as _};

#[tokio::test]
async fn every_rotation_is_detected() {
    let (_directory, kubelet) = empty_volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    assert!(source.file().health().change_notifications);
    for rotation in 1..=5 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("token", &next).unwrap();
        wait_until("the rotation is detected", || {
            current_header(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn rotations_of_a_token_at_a_nested_path_are_detected() {
    let (_directory, kubelet) = empty_volume();
    kubelet
        .write([("nested/dir/token", token("0", 600))])
        .unwrap();
    let source = ProjectedToken::open(kubelet.path("nested/dir/token"))
        .await
        .unwrap();
    for rotation in 1..=3 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("nested/dir/token", &next).unwrap();
        wait_until("the rotation is detected", || {
            current_header(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn renames_and_rewrites_of_a_plain_file_are_detected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, token("0", 600)).unwrap();
    let source = ProjectedToken::open(&path).await.unwrap();
    for rotation in 1..=4 {
        let next = token(&rotation.to_string(), 600);
        if rotation % 2 == 0 {
            let new = directory.path().join("new");
            std::fs::write(&new, &next).unwrap();
            std::fs::rename(&new, &path).unwrap();
        } else {
            std::fs::write(&path, &next).unwrap();
        }
        wait_until("the change is detected", || {
            current_header(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn opening_a_missing_file_fails_with_an_error_that_contains_the_path() {
    let path = "/nonexistent/token";
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
async fn opening_waits_for_a_file_that_appears_later() {
    let (_directory, kubelet) = empty_volume();
    let opening = tokio::spawn(ProjectedToken::open(kubelet.path("token")));
    tokio::task::yield_now().await;
    let text = token("late", 600);
    kubelet.write([("token", &text)]).unwrap();
    let source = opening.await.unwrap().unwrap();
    assert_eq!(current_header(&source), bearer(&text));
}

#[tokio::test]
async fn a_trailing_newline_is_removed() {
    let (_directory, kubelet) = empty_volume();
    let text = token("0", 600);
    kubelet.write([("token", format!("{text}\n"))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    assert_eq!(current_header(&source), bearer(&text));
}

#[tokio::test]
async fn the_last_valid_token_is_kept_while_the_file_is_empty_truncated_or_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let valid = token("0", 600);
    std::fs::write(&path, &valid).unwrap();
    let source = ProjectedToken::open(&path).await.unwrap();
    for invalid in [
        Some(""),
        Some("  \n"),
        Some("eyJhbGciOiJSUzI1NiJ9.eyJ"),
        Some("<html>"),
        None,
    ] {
        match invalid {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        wait_until("the error is detected", || {
            source.health().last_error.is_some()
        })
        .await;
        assert_eq!(current_header(&source), bearer(&valid), "{invalid:?}");
        std::fs::write(&path, &valid).unwrap();
        wait_until("the error is resolved", || {
            source.health().last_error.is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn a_read_that_fails_temporarily_is_retried() {
    let (_directory, kubelet) = empty_volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let is_denied = Arc::new(AtomicBool::new(false));
    let denies = is_denied.clone();
    let source = ProjectedToken::builder(kubelet.path("token"))
        .reader(move |path| {
            if denies.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
            std::fs::read(path)
        })
        .open()
        .await
        .unwrap();
    is_denied.store(true, Ordering::SeqCst);
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    wait_until("the error is detected", || {
        source.health().last_error.is_some()
    })
    .await;
    // No event reports that the file is readable again.
    is_denied.store(false, Ordering::SeqCst);
    wait_until("the new token is read", || {
        current_header(&source) == bearer(&next)
    })
    .await;
}

#[tokio::test]
async fn an_expired_token_is_not_sent_and_the_error_states_since_when_and_why() {
    let (_directory, kubelet) = empty_volume();
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
    let lenient = open(ProjectedToken::builder(kubelet.path("token")).send_expired())
        .await
        .unwrap();
    assert_eq!(current_header(&source), bearer(&text));
    now.store(1600, Ordering::SeqCst);
    let error = source.current().unwrap_err();
    assert!(
        matches!(&error, Error::Expired { since, .. } if *since == seconds(1600)),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(
        message.contains("token") && message.contains("same token"),
        "{message}"
    );
    assert!(source.refresh(None).await.is_err());
    assert_eq!(current_header(&lenient), bearer(&text));
    let next = token_from("1", 1600, 600);
    kubelet.rotate("token", &next).unwrap();
    wait_until("the new token is sent", || {
        current_header(&source) == bearer(&next)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_at_80_percent_of_the_lifetime_and_at_expiry_without_notifications() {
    // The path cannot be watched, and the interval of polling is too long.
    let reads = Arc::new(Mutex::new(Vec::new()));
    let (times, begin) = (reads.clone(), tokio::time::Instant::now());
    let now = move || seconds(1000) + begin.elapsed();
    let _source = ProjectedToken::builder("/nonexistent/token")
        .reader(move |_| {
            times.lock().unwrap().push(begin.elapsed().as_secs());
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
        "at the start, at 80 % and at the expiry: {reads:?}"
    );
    assert!(
        reads.len() > 15,
        "every second while the token has expired: {reads:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn repeated_401s_cause_one_read_of_the_file() {
    let reads = Arc::new(AtomicU64::new(0));
    let count = reads.clone();
    let source = ProjectedToken::builder("/nonexistent/token")
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
        "one at the start and one for all refreshes"
    );
}

#[tokio::test]
async fn changes_are_received_until_shutdown() {
    let (_directory, kubelet) = empty_volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = source.subscribe();
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    let changed = changes.next().await.expect("the file is watched");
    assert_eq!(changed.header().to_str().unwrap(), bearer(&next).unwrap());
    source.shutdown().await;
    assert!(changes.next().await.is_none());
    assert_eq!(
        current_header(&source),
        bearer(&next),
        "the last token is kept"
    );
}
