//! `CommandToken` and `FixedToken`.
#![cfg(unix)]

use std::time::Duration;

use crate::support::{advance_clock, seconds, token, token_from, wait_until};
use reqwest_wi_auth::{CommandToken, Error, FixedToken, Token, TokenSource as _};

#[tokio::test]
async fn a_fixed_token_is_sent_until_it_expires() {
    let source = FixedToken::new(Token::new(token("0", 600)).unwrap());
    assert_eq!(
        source.current().unwrap(),
        source.refresh(None).await.unwrap()
    );
    let source = FixedToken::new(Token::new(token_from("0", 1000, 600)).unwrap());
    assert!(matches!(source.current(), Err(Error::Expired { .. })));
}

/// Returns a command that prints a text, and counts its runs in a file.
fn counting_command(directory: &std::path::Path, text: &str) -> CommandToken {
    let runs = directory.join("runs");
    CommandToken::new("sh").args([
        "-c",
        "echo run >> \"$1\"; printf '%s\\n' \"$2\"",
        "sh",
        runs.to_str().unwrap(),
        text,
    ])
}

/// Returns the number of runs of a command.
fn runs(directory: &std::path::Path) -> usize {
    std::fs::read_to_string(directory.join("runs"))
        .unwrap_or_default()
        .lines()
        .count()
}

#[tokio::test]
async fn the_token_of_a_command_is_kept_until_it_expires() {
    let directory = tempfile::tempdir().unwrap();
    let text = token("0", 600);
    let source = counting_command(directory.path(), &text);
    assert!(matches!(source.current(), Err(Error::NotFetched { .. })));
    for _ in 0..3 {
        let sent = source.refresh(None).await.unwrap();
        assert_eq!(sent.header().to_str().unwrap(), format!("Bearer {text}"));
        assert_eq!(source.current().unwrap(), sent);
    }
    assert_eq!(runs(directory.path()), 1);
}

#[tokio::test]
async fn rejected_tokens_cause_one_run_of_the_command_every_5_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let source = counting_command(directory.path(), &token("0", 600));
    let rejected = source.refresh(None).await.unwrap();
    for _ in 0..10 {
        source.refresh(Some(&rejected)).await.unwrap();
    }
    assert_eq!(runs(directory.path()), 1);
    advance_clock(Duration::from_secs(6)).await;
    source.refresh(Some(&rejected)).await.unwrap();
    assert_eq!(runs(directory.path()), 2);
}

#[tokio::test]
async fn arguments_are_not_interpreted_by_a_shell() {
    let source = CommandToken::new("echo")
        .args(["$HOME;", "`id`"])
        .allow_opaque();
    let error = source.refresh(None).await.unwrap_err();
    // Two words are not a token. A shell would have replaced them.
    assert!(
        matches!(&error, Error::Command { program, .. } if program == "echo"),
        "{error:?}"
    );
    let source = CommandToken::new("echo").args(["$HOME"]).allow_opaque();
    assert_eq!(source.refresh(None).await.unwrap().header(), "Bearer $HOME");
}

#[tokio::test]
async fn commands_that_fail_are_missing_or_take_too_long_are_errors() {
    let failing = CommandToken::new("sh").args(["-c", "exit 3"]);
    let missing = CommandToken::new("no-such-program-anywhere");
    let hanging = CommandToken::new("sleep")
        .args(["60"])
        .timeout(Duration::from_millis(20));
    for (source, part) in [(failing, "3"), (missing, "No such file"), (hanging, "20ms")] {
        let error = source.refresh(None).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// Returns a command that fails, and counts its runs in a file.
fn failing_command(directory: &std::path::Path) -> CommandToken {
    let runs = directory.join("runs");
    let script = "echo run >> \"$1\"; exit 3";
    CommandToken::new("sh").args(["-c", script, "sh", runs.to_str().unwrap()])
}

#[tokio::test]
async fn a_failing_command_is_run_with_increasing_delays_and_its_error_is_shared() {
    let directory = tempfile::tempdir().unwrap();
    let source = failing_command(directory.path());
    let mut expected = 0;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        expected += 1;
        for _ in 0..50 {
            let error = source.refresh(None).await.unwrap_err();
            assert!(error.to_string().contains('3'), "{error}");
        }
        assert_eq!(runs(directory.path()), expected);
        advance_clock(Duration::from_millis(pause * 1000 + 10)).await;
    }
}

#[tokio::test]
async fn concurrent_callers_share_one_run_and_its_result() {
    let directory = tempfile::tempdir().unwrap();
    let text = token("0", 600);
    for (source, succeeds) in [
        (counting_command(directory.path(), &text), true),
        (failing_command(directory.path()), false),
    ] {
        let before = runs(directory.path());
        let source = std::sync::Arc::new(source);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let source = source.clone();
                tokio::spawn(async move { source.refresh(None).await })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().is_ok(), succeeds);
        }
        assert_eq!(runs(directory.path()), before + 1);
    }
}

#[tokio::test]
async fn a_caller_that_stops_waiting_does_not_end_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let source = counting_command(directory.path(), &token("0", 600));
    for _ in 0..20 {
        let refresh = source.refresh(None);
        let _ = tokio::time::timeout(Duration::ZERO, refresh).await;
    }
    source.refresh(None).await.unwrap();
    assert_eq!(runs(directory.path()), 1);
}

#[tokio::test]
async fn output_above_the_size_limit_is_an_error() {
    for bytes in [65_537, 100_000, 10_000_000] {
        let script = format!("head -c {bytes} /dev/zero | tr '\\0' a");
        let source = CommandToken::new("sh").args(["-c", &script]).allow_opaque();
        let error = source.refresh(None).await.unwrap_err().to_string();
        assert!(error.contains("64 KiB"), "{error}");
    }
    let script = "head -c 20000 /dev/zero | tr '\\0' a";
    let source = CommandToken::new("sh").args(["-c", script]).allow_opaque();
    source.refresh(None).await.unwrap();
}

/// Returns whether a process is running, and not a zombie.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn child_processes_are_killed_at_the_timeout_and_with_the_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & echo $! > \"$1.new\"; mv \"$1.new\" \"$1\"; wait";
    let command = |name: &str| {
        let pid = directory.path().join(name);
        let source = CommandToken::new("sh").args(["-c", script, "sh", pid.to_str().unwrap()]);
        (source, pid)
    };
    let (source, pid) = command("timeout");
    let source = source.timeout(Duration::from_millis(300));
    let error = source.refresh(None).await.unwrap_err().to_string();
    assert!(error.contains("300ms"), "{error}");
    let pid = std::fs::read_to_string(pid).unwrap();
    wait_until("the child process has ended", || !is_running(pid.trim())).await;

    let (source, pid) = command("runtime");
    let file = pid.clone();
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            tokio::select! {
                _ = source.refresh(None) => panic!("the command has ended"),
                () = wait_until("the command runs", || file.exists()) => {}
            }
        });
    })
    .await
    .unwrap();
    let pid = std::fs::read_to_string(pid).unwrap();
    wait_until("the child process has ended", || !is_running(pid.trim())).await;
}

#[tokio::test]
async fn an_exec_credential_is_kept_until_its_expiry() {
    let directory = tempfile::tempdir().unwrap();
    let credential = |expiry: &str| {
        let json = format!(
            r#"{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"s3cr3t","expirationTimestamp":"{expiry}"}}}}"#
        );
        counting_command(directory.path(), &json)
    };
    let source = credential("2096-10-02T07:06:40Z");
    for _ in 0..3 {
        let token = source.refresh(None).await.unwrap();
        assert_eq!(token.header(), "Bearer s3cr3t");
        assert_eq!(token.expires_at(), Some(seconds(4_000_000_000)));
    }
    assert_eq!(runs(directory.path()), 1);
    let source = credential("2001-09-09T01:46:40Z");
    let error = source.refresh(None).await.unwrap_err();
    assert!(matches!(error, Error::Expired { .. }), "{error:?}");
}
