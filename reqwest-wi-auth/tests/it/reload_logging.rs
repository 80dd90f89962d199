//! Which failed and successful reads of a watched file are logged, and at which level.
#![cfg(unix)]

use std::sync::{Arc, Mutex};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::volume::token_volume;
use crate::support::{token, wait_until};
use reqwest_wi_auth::{FileError, ProjectedToken, WatchedFile};

/// Returns the level of each logged event above the level debug, and whether it contains a text.
fn levels(log: &Log) -> Vec<String> {
    let text = log.text();
    let lines = text.lines().map(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().unwrap_or_default().to_owned()
    });
    lines.filter(|level| level != "DEBUG").collect()
}

#[tokio::test]
async fn each_different_error_of_a_token_file_is_a_warning_once_until_the_file_is_valid() {
    if !is_child_process(
        "reload_logging::each_different_error_of_a_token_file_is_a_warning_once_until_the_file_is_valid",
    ) {
        return;
    }
    let (_directory, kubelet) = token_volume();
    let content = std::fs::read_to_string(kubelet.path("token")).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::DEBUG);
    let failed = async |content: &str| {
        kubelet.rotate("token", content).unwrap();
        source.file().reread().await.unwrap_err();
    };
    failed("").await;
    failed("").await;
    assert_eq!(levels(&log), ["WARN"]);
    failed("not a token").await;
    assert_eq!(levels(&log), ["WARN"; 2], "a second kind of error");
    failed("").await;
    failed("not a token").await;
    assert_eq!(levels(&log), ["WARN"; 2], "both are known");
    kubelet.remove_content().unwrap();
    source.file().reread().await.unwrap_err();
    assert_eq!(levels(&log), ["WARN"; 3], "the file is missing");
    kubelet.write([("token", content)]).unwrap();
    source.file().reread().await.unwrap();
    assert_eq!(levels(&log), ["WARN", "WARN", "WARN", "INFO"], "recovery");
    let text = log.text();
    assert!(
        text.contains("file loaded again after an error; its content has not changed"),
        "{text}"
    );
    failed("").await;
    assert_eq!(
        levels(&log).len(),
        5,
        "after a valid content, the first error is new again"
    );
    kubelet.rotate("token", token("1", 600)).unwrap();
    source.file().reread().await.unwrap();
    assert_eq!(
        levels(&log),
        ["WARN", "WARN", "WARN", "INFO", "WARN", "INFO"]
    );
    assert!(log.text().contains("file changed; using the new content"));
}

#[tokio::test]
async fn a_function_for_changes_gets_both_values_and_replaces_the_event() {
    if !is_child_process(
        "reload_logging::a_function_for_changes_gets_both_values_and_replaces_the_event",
    ) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limit");
    std::fs::write(&path, "10").unwrap();
    let changes: Arc<Mutex<Vec<(u32, u32)>>> = Arc::default();
    let seen = changes.clone();
    let parse = |bytes: &[u8]| Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?);
    let file = WatchedFile::builder(&path, parse)
        .on_change(move |old, new| seen.lock().unwrap().push((*old, *new)))
        .open()
        .await
        .unwrap();
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::INFO);
    for value in [" 10", "20", "20 ", "30"] {
        let new = directory.path().join("new");
        std::fs::write(&new, value).unwrap();
        std::fs::rename(&new, &path).unwrap();
        file.reread().await.unwrap();
    }
    wait_until("both changes are reported", || {
        changes.lock().unwrap().len() == 2
    })
    .await;
    assert_eq!(
        *changes.lock().unwrap(),
        [(10, 20), (20, 30)],
        "equal values are no change"
    );
    assert_eq!(log.text(), "");
}

#[test]
fn a_file_is_read_once_without_a_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limit");
    let read = || {
        WatchedFile::read_once(&path, |bytes| {
            Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?)
        })
    };
    assert!(matches!(read(), Err(FileError::Read { .. })));
    std::fs::write(&path, "ten").unwrap();
    assert!(matches!(read(), Err(FileError::InvalidContent { .. })));
    std::fs::write(&path, "10\n").unwrap();
    assert_eq!(read().unwrap(), 10);
}
