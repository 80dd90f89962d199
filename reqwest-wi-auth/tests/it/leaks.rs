//! Sources that are dropped leave nothing behind.
#![cfg(target_os = "linux")]

use std::fs;
use std::time::Duration;

use crate::support::process::is_child_process;
use crate::support::{token, until};
use reqwest_wi_auth::testing::{FakeMetadataServer, Kubelet};
use reqwest_wi_auth::{MetadataServer, ProjectedToken};
use tokio::runtime::Handle;

/// What the process holds: descriptors, tasks of the runtime, threads of the file watcher, watches.
fn held() -> (usize, usize, usize, usize) {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
    let threads = fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|t| name(t).ok());
    let watchers = threads.filter(|name| name.contains("notify")).count();
    (descriptors, tasks, watchers, watches())
}

/// The inotify watches of this process, as its descriptors tell.
fn watches() -> usize {
    let infos = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    texts
        .map(|text| {
            text.lines()
                .filter(|line| line.starts_with("inotify "))
                .count()
        })
        .sum()
}

#[tokio::test]
async fn a_thousand_sources_made_and_dropped_leave_nothing_behind() {
    if !is_child_process("leaks::a_thousand_sources_made_and_dropped_leave_nothing_behind") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let fake = FakeMetadataServer::start().await.unwrap();
    let metadata = MetadataServer::with_host(fake.host()).unwrap();
    let before = held();
    let mut sources = Vec::new();
    for _ in 0..1000 {
        sources.push(ProjectedToken::open(kubelet.path("token")).await.unwrap());
    }
    assert_eq!(held().2, 1, "one watcher for all of them");
    assert_eq!(
        watches(),
        2,
        "the volume's folder and the one behind ..data"
    );
    drop(sources);
    let audiences = (0..100).map(|n| metadata.start(&format!("https://{n}.example")));
    drop(audiences.collect::<Vec<_>>());
    until("all of it is given back", || held() == before).await;
}

#[tokio::test]
async fn an_opening_that_is_given_up_leaves_nothing_behind() {
    if !is_child_process("leaks::an_opening_that_is_given_up_leaves_nothing_behind") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    for _ in 0..50 {
        let opening = ProjectedToken::open(kubelet.path("token"));
        let _ = tokio::time::timeout(Duration::from_millis(2), opening).await;
    }
    let tasks = || Handle::current().metrics().num_alive_tasks();
    until("no watch is left", || tasks() == 0 && held().2 == 0).await;
}
