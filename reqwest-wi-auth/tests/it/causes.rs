//! A failed read of a file, request to the metadata server or run of a command is one log event with all its causes, and
//! `health()` contains the same text.

use std::time::Duration;

use reqwest_wi_auth::{
    CommandToken, MetadataServer, ProjectedToken, TokenSource as _, WatchedFile,
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::{advance_clock, token, wait_until};

const METADATA: &str = "identity token could not be fetched; retrying";
const COMMAND: &str = "command returned no token";
const FILE: &str = "file could not be loaded; keeping the previous content";

/// The log events of a thread, in the JSON format and in the plain one.
#[derive(Clone, Default)]
struct BothFormats {
    json: Log,
    plain: Log,
}

impl BothFormats {
    fn subscribe(&self) -> tracing::subscriber::DefaultGuard {
        Log::subscribe_both(&self.json, &self.plain)
    }

    /// Returns the field `error` of the only event, which has this message, and which both formats contain as the same string.
    fn error(&self, message: &str) -> String {
        let (json, plain) = (self.json.text(), self.plain.text());
        assert_eq!(
            (json.lines().count(), plain.lines().count()),
            (1, 1),
            "{plain}"
        );
        let event: Value = serde_json::from_str(&json).unwrap();
        let fields = &event["fields"];
        assert_eq!(fields["message"], message);
        let error = fields["error"].as_str().unwrap().to_owned();
        assert!(plain.contains(&format!("error={error:?}")), "{plain}");
        error
    }
}

/// Asserts that a text contains each of these parts once.
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
    }
}

/// Requests tokens from a metadata server on this host until a request has failed, and returns the error in the log.
async fn metadata_error(host: &str) -> String {
    let logs = BothFormats::default();
    let subscribed = logs.subscribe();
    let source = MetadataServer::with_host(host)
        .unwrap()
        .start("https://a.example");
    wait_until("a request has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    let health = source.health().last_error.unwrap().to_string();
    source.shutdown().await;
    drop(subscribed);
    let error = logs.error(METADATA);
    assert_eq!(health, error);
    error
}

#[tokio::test]
async fn a_failed_metadata_request_is_one_event_with_the_innermost_cause() {
    if !is_child_process("causes::a_failed_metadata_request_is_one_event_with_the_innermost_cause")
    {
        return;
    }
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = unused.local_addr().unwrap().to_string();
    drop(unused);
    let refused = metadata_error(&host).await;
    assert_contains(
        &refused,
        &[&host, "Connection refused", "not run on Google Cloud"],
    );

    let unresolved = metadata_error("metadata.invalid").await;
    assert_contains(
        &unresolved,
        &[
            "cannot connect to the metadata server at metadata.invalid",
            "failed to lookup address information",
            "check the host name",
        ],
    );

    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = closing.local_addr().unwrap().to_string();
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    let closed = metadata_error(&host).await;
    assert_contains(&closed, &["no complete response", &host]);
    assert!(
        closed.contains("connection") && !closed.contains("timed out"),
        "{closed}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_metadata_request_without_response_is_reported_as_a_timeout() {
    if !is_child_process("causes::a_metadata_request_without_response_is_reported_as_a_timeout") {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let error = metadata_error(&host).await;
    assert_contains(&error, &["timed out", &host, "network policy"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_failed_run_of_a_command_is_one_event_with_the_innermost_cause() {
    if !is_child_process("causes::a_failed_run_of_a_command_is_one_event_with_the_innermost_cause")
    {
        return;
    }
    let shell = |script| CommandToken::new("sh").args(["-c", script]);
    for (source, parts) in [
        (
            CommandToken::new("no-such-program"),
            &[
                "\"no-such-program\"",
                "No such file or directory",
                "in PATH",
            ][..],
        ),
        (CommandToken::new("/etc"), &["\"/etc\"", "ermission denied"]),
        (
            shell("exit 3"),
            &["\"sh\"", "exit status: 3", "standard error"],
        ),
        (shell("echo not a token"), &["\"sh\"", "space"]),
        (
            shell("sleep 60").timeout(Duration::from_millis(10)),
            &["\"sh\"", "took more than 10ms"],
        ),
    ] {
        let logs = BothFormats::default();
        let subscribed = logs.subscribe();
        let error = source.refresh(None).await.unwrap_err().to_string();
        drop(subscribed);
        assert_eq!(logs.error(COMMAND), error);
        assert_contains(&error, parts);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn further_failures_of_a_command_with_the_same_cause_are_not_logged_as_warnings() {
    if !is_child_process(
        "causes::further_failures_of_a_command_with_the_same_cause_are_not_logged_as_warnings",
    ) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let status = directory.path().join("status");
    let source = CommandToken::new("sh").args([
        "-c",
        "read status < \"$1\"; exit \"$status\"",
        "sh",
        status.to_str().unwrap(),
    ]);
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::WARN);
    for (code, warnings) in [("3\n", 1), ("3\n", 1), ("3\n", 1), ("4\n", 2), ("4\n", 2)] {
        std::fs::write(&status, code).unwrap();
        source.refresh(None).await.unwrap_err();
        assert_eq!(log.text().lines().count(), warnings, "{}", log.text());
        advance_clock(Duration::from_secs(60)).await;
    }
}

/// An error with a cause.
#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the limit is \"not\"\na number")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn a_failed_read_of_a_file_is_one_event_with_the_innermost_cause() {
    if !is_child_process("causes::a_failed_read_of_a_file_is_one_event_with_the_innermost_cause") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limit");
    std::fs::write(&path, "1").unwrap();
    let parse = |bytes: &[u8]| Ok(std::str::from_utf8(bytes)?.parse::<u32>().map_err(Outer)?);
    let file = WatchedFile::open(&path, parse).await.unwrap();
    let logs = BothFormats::default();
    let subscribed = logs.subscribe();
    std::fs::write(&path, "ten").unwrap();
    let error = file.reread().await.unwrap_err().to_string();
    drop(subscribed);
    assert_contains(
        &error,
        &[
            path.to_str().unwrap(),
            "the limit is \"not\"\na number: invalid digit found in string",
        ],
    );
    assert_eq!(logs.error(FILE), error.replace('\n', "\\n"));
    assert_eq!(file.health().last_error.unwrap().to_string(), error);

    let path = directory.path().join("token");
    std::fs::write(&path, token("0", 600)).unwrap();
    let source = ProjectedToken::open(&path).await.unwrap();
    let logs = BothFormats::default();
    let subscribed = logs.subscribe();
    std::fs::remove_file(&path).unwrap();
    source.file().reread().await.unwrap_err();
    drop(subscribed);
    let error = logs.error(FILE);
    assert_contains(
        &error,
        &[path.to_str().unwrap(), "No such file or directory"],
    );
    assert_eq!(source.health().last_error.unwrap().to_string(), error);
}
