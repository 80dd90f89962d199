//! A host has few watchers to give; this test takes them all, so it has a program of its own.
#![cfg(all(feature = "testing", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use notify::RecommendedWatcher;
use reqwest_wi_auth::WatchedFile;
use reqwest_wi_auth::testing::Kubelet;
use support::{later, token, until};

/// The instances of a namespace count among its user's outside, so the tests cannot run at the same time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
    let _alone = ALONE.lock().await;
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

/// Runs itself once more in a user namespace of its own that grants two inotify instances: one for another program, one
/// for the file that is followed.
#[test]
fn over_rotations_the_watch_is_kept_though_no_other_instance_is_granted() {
    const INNER: &str = "INNER_RUN_IN_A_NAMESPACE";
    const NAME: &str = "over_rotations_the_watch_is_kept_though_no_other_instance_is_granted";
    if std::env::var_os(INNER).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return runtime.unwrap().block_on(follow_with_one_instance());
    }
    let _alone = ALONE.blocking_lock();
    let script = "echo 2 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
    let namespace = || {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command
    };
    let is_possible = namespace().arg("true").output();
    if !is_possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: no user namespace can be made here");
        return;
    }
    let output = namespace()
        .arg(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("30 rotations seen"), "{text}{errors}");
}

async fn follow_with_one_instance() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let builder = WatchedFile::builder(kubelet.path("token"), |bytes| Ok(bytes.to_vec()));
    let file = builder.open().await.unwrap();
    assert!(file.health().watching);
    let taken: Vec<RecommendedWatcher> = (0..2)
        .map_while(|_| notify::recommended_watcher(|_| {}).ok())
        .collect();
    assert_eq!(taken.len(), 1, "the namespace has two instances");
    for rotation in 1..=30 {
        let next = token(&rotation.to_string(), 600);
        kubelet.rotate("token", &next).unwrap();
        // The timer would be too late for this limit if the watch were lost.
        until("it is picked up", || *file.current() == next.as_bytes()).await;
        assert!(file.health().watching, "after rotation {rotation}");
        if rotation % 10 == 0 {
            kubelet.vanish().unwrap();
            until("the loss is seen", || file.health().last_error.is_some()).await;
            assert!(file.health().watching, "the folder that is left is watched");
            kubelet.write([("token", &next)]).unwrap();
            until("it is back", || file.health().last_error.is_none()).await;
        }
    }
    println!("30 rotations seen");
}
