//! Behaviour when the operating system grants no further inotify instance.
//!
//! Each test runs in a user namespace with a separate limit, so that it does not affect other tests.
#![cfg(target_os = "linux")]

use std::time::Duration;

use crate::support::process::has_inotify_instances;
use crate::support::volume::token_volume;
use crate::support::{advance_clock, token, wait_until};
use notify::RecommendedWatcher;
use reqwest_wi_auth::WatchedFile;

/// Opens as many watchers as the operating system grants.
fn open_all_watchers() -> Vec<RecommendedWatcher> {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    (0..=limit)
        .map_while(|_| notify::recommended_watcher(|_| {}).ok())
        .collect()
}

#[tokio::test]
async fn without_inotify_instances_the_file_is_polled_until_one_is_available() {
    if !has_inotify_instances(
        3,
        "watch_limits::without_inotify_instances_the_file_is_polled_until_one_is_available",
    ) {
        return;
    }
    let (_directory, kubelet) = token_volume();
    let others = open_all_watchers();
    let builder = WatchedFile::builder(kubelet.path("token"), |bytes| Ok(bytes.to_vec()));
    let file = builder.open().await.unwrap();
    assert!(
        !file.health().change_notifications,
        "with {} other watchers",
        others.len()
    );
    let next = token("1", 600);
    kubelet.rotate("token", &next).unwrap();
    advance_clock(Duration::from_secs(5)).await;
    wait_until("the file is polled", || *file.current() == next.as_bytes()).await;
    drop(others);
    advance_clock(Duration::from_secs(5)).await;
    wait_until("the file is watched", || file.health().change_notifications).await;
    let next = token("2", 600);
    kubelet.rotate("token", &next).unwrap();
    wait_until("the rotation is detected", || {
        *file.current() == next.as_bytes()
    })
    .await;
}

/// The namespace has two instances: one for the watched file, and one that another program holds.
#[tokio::test]
async fn rotations_require_no_further_inotify_instance() {
    if !has_inotify_instances(
        2,
        "watch_limits::rotations_require_no_further_inotify_instance",
    ) {
        return;
    }
    let (_directory, kubelet) = token_volume();
    let builder = WatchedFile::builder(kubelet.path("token"), |bytes| Ok(bytes.to_vec()));
    let file = builder.open().await.unwrap();
    assert!(file.health().change_notifications);
    let others: Vec<RecommendedWatcher> = (0..2)
        .map_while(|_| notify::recommended_watcher(|_| {}).ok())
        .collect();
    assert_eq!(others.len(), 1, "the namespace has two instances");
    for rotation in 1..=30 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("token", &next).unwrap();
        // Polling would be too late if the watch were lost.
        wait_until("the rotation is detected", || {
            *file.current() == next.as_bytes()
        })
        .await;
        assert!(
            file.health().change_notifications,
            "after rotation {rotation}"
        );
        if rotation % 10 == 0 {
            kubelet.remove_content().unwrap();
            wait_until("the error is detected", || {
                file.health().last_error.is_some()
            })
            .await;
            assert!(
                file.health().change_notifications,
                "the remaining directory is watched"
            );
            kubelet.write([("token", &next)]).unwrap();
            wait_until("the error is resolved", || {
                file.health().last_error.is_none()
            })
            .await;
        }
    }
}
