//! A host has few watchers to give; this test takes them all, so it has a program of its own.
#![cfg(all(feature = "testing", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use notify::RecommendedWatcher;
use reqwest_wi_auth::WatchedFile;
use reqwest_wi_auth::testing::Kubelet;
use support::{later, token, until};

/// Takes all inotify instances that this user may have, so that no further watcher can be made.
fn take_all_watchers() -> Vec<RecommendedWatcher> {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    (0..=limit)
        .map_while(|_| notify::recommended_watcher(|_| {}).ok())
        .collect()
}

#[tokio::test]
async fn without_a_watcher_to_be_had_the_file_is_polled_and_watched_once_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let taken = take_all_watchers();
    let builder = WatchedFile::builder(kubelet.path("token"), |bytes| Ok(bytes.to_vec()));
    let file = builder.open().await.unwrap();
    assert!(!file.health().watching, "with {} others", taken.len());
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    later(Duration::from_secs(5)).await;
    until("it is polled", || *file.current() == next.as_bytes()).await;
    drop(taken);
    later(Duration::from_secs(5)).await;
    until("it is watched", || file.health().watching).await;
    let next = token("2", 600);
    kubelet.rotate("token", &next).unwrap();
    until("it is picked up", || *file.current() == next.as_bytes()).await;
}
