//! Behaviour when the system grants no further inotify instance.
//!
//! Each test runs in a user namespace with a limit of its own, so that it takes no instance from another test.
#![cfg(target_os = "linux")]

use std::time::Duration;

use crate::support::process::has_inotify_instances;
use crate::support::{later, token, until};
use notify::RecommendedWatcher;
use reqwest_wi_auth::WatchedFile;
use reqwest_wi_auth::testing::Kubelet;

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
    if !has_inotify_instances(
        3,
        "watch_limits::without_a_watcher_to_be_had_the_file_is_polled_and_watched_once_there_is_one",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let taken = take_all_watchers();
    let builder = WatchedFile::builder(kubelet.path("token"), |bytes| Ok(bytes.to_vec()));
    let file = builder.open().await.unwrap();
    assert!(
        !file.health().change_notifications,
        "with {} others",
        taken.len()
    );
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    later(Duration::from_secs(5)).await;
    until("it is polled", || *file.current() == next.as_bytes()).await;
    drop(taken);
    later(Duration::from_secs(5)).await;
    until("it is watched", || file.health().change_notifications).await;
    let next = token("2", 600);
    kubelet.rotate("token", &next).unwrap();
    until("it is picked up", || *file.current() == next.as_bytes()).await;
}

/// Two instances are granted: one for another program, one for the followed file.
#[tokio::test]
async fn over_rotations_the_watch_is_kept_though_no_other_instance_is_granted() {
    if !has_inotify_instances(
        2,
        "watch_limits::over_rotations_the_watch_is_kept_though_no_other_instance_is_granted",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let builder = WatchedFile::builder(kubelet.path("token"), |bytes| Ok(bytes.to_vec()));
    let file = builder.open().await.unwrap();
    assert!(file.health().change_notifications);
    let taken: Vec<RecommendedWatcher> = (0..2)
        .map_while(|_| notify::recommended_watcher(|_| {}).ok())
        .collect();
    assert_eq!(taken.len(), 1, "the namespace has two instances");
    for rotation in 1..=30 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("token", &next).unwrap();
        // The timer would be too late for this limit if the watch were lost.
        until("it is picked up", || *file.current() == next.as_bytes()).await;
        assert!(
            file.health().change_notifications,
            "after rotation {rotation}"
        );
        if rotation % 10 == 0 {
            kubelet.remove_content().unwrap();
            until("the loss is seen", || file.health().last_error.is_some()).await;
            assert!(
                file.health().change_notifications,
                "the folder that is left is watched"
            );
            kubelet.write([("token", &next)]).unwrap();
            until("it is back", || file.health().last_error.is_none()).await;
        }
    }
}
