//! Dropped sources leave no descriptors, tasks, threads or watches.
#![cfg(target_os = "linux")]

use std::fs;
use std::time::Duration;

use crate::support::process::is_child_process;
use crate::support::volume::{empty_volume, token_volume};
use crate::support::wait_until;
use reqwest_wi_auth::testing::FakeMetadataServer;
use reqwest_wi_auth::{MetadataServer, ProjectedToken};
use tokio::runtime::Handle;

/// The resources that the process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Resources {
    descriptors: usize,
    /// Tasks of the runtime.
    tasks: usize,
    /// Threads that read inotify events.
    watcher_threads: usize,
    /// Watched directories.
    watches: usize,
}

fn resources() -> Resources {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
    let threads = fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|t| name(t).ok());
    let watcher_threads = threads.filter(|name| name.contains("notify")).count();
    Resources {
        descriptors,
        tasks,
        watcher_threads,
        watches: watches(),
    }
}

/// Returns the number of inotify watches of this process.
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
async fn a_thousand_dropped_sources_leave_no_descriptors_tasks_or_watches() {
    if !is_child_process(
        "resource_leaks::a_thousand_dropped_sources_leave_no_descriptors_tasks_or_watches",
    ) {
        return;
    }
    let (_directory, kubelet) = token_volume();
    let fake = FakeMetadataServer::start().await.unwrap();
    let metadata = MetadataServer::with_host(fake.host()).unwrap();
    let before = resources();
    let mut sources = Vec::new();
    for _ in 0..1000 {
        sources.push(ProjectedToken::open(kubelet.path("token")).await.unwrap());
    }
    assert_eq!(resources().watcher_threads, 1, "one watcher for all files");
    assert_eq!(
        watches(),
        2,
        "the root of the volume, and the directory that ..data points to"
    );
    drop(sources);
    let audiences = (0..100).map(|n| metadata.start(&format!("https://{n}.example")));
    drop(audiences.collect::<Vec<_>>());
    wait_until("all resources are released", || resources() == before).await;
}

#[tokio::test]
async fn a_cancelled_open_leaves_no_tasks_or_watches() {
    if !is_child_process("resource_leaks::a_cancelled_open_leaves_no_tasks_or_watches") {
        return;
    }
    let (_directory, kubelet) = empty_volume();
    for _ in 0..50 {
        let opening = ProjectedToken::open(kubelet.path("token"));
        let _ = tokio::time::timeout(Duration::from_millis(2), opening).await;
    }
    let tasks = || Handle::current().metrics().num_alive_tasks();
    wait_until("no task or watcher is left", || {
        tasks() == 0 && resources().watcher_threads == 0
    })
    .await;
}
