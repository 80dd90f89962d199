//! Sources for laptops and tests.
#![cfg(all(feature = "testing", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use reqwest_wi_auth::{CommandToken, Error, FixedToken, Token, TokenSource as _};
use support::{later, token, token_from};

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

/// A command that prints a token, and a line into a file each time it is run.
fn counting(folder: &std::path::Path, text: &str) -> CommandToken {
    let runs = folder.join("runs");
    CommandToken::new("sh").args([
        "-c",
        "echo run >> \"$1\"; printf '%s\\n' \"$2\"",
        "sh",
        runs.to_str().unwrap(),
        text,
    ])
}

fn runs(folder: &std::path::Path) -> usize {
    std::fs::read_to_string(folder.join("runs"))
        .unwrap_or_default()
        .lines()
        .count()
}

#[tokio::test]
async fn a_command_s_token_is_kept_to_its_expiry() {
    let folder = tempfile::tempdir().unwrap();
    let text = token("0", 600);
    let source = counting(folder.path(), &text);
    assert!(matches!(source.current(), Err(Error::NotFetched { .. })));
    for _ in 0..3 {
        let sent = source.refresh(None).await.unwrap();
        assert_eq!(sent.header().to_str().unwrap(), format!("Bearer {text}"));
        assert_eq!(source.current().unwrap(), sent);
    }
    assert_eq!(runs(folder.path()), 1);
}

#[tokio::test]
async fn a_rejected_token_has_the_command_run_again_but_not_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let source = counting(folder.path(), &token("0", 600));
    let rejected = source.refresh(None).await.unwrap();
    for _ in 0..10 {
        source.refresh(Some(&rejected)).await.unwrap();
    }
    assert_eq!(runs(folder.path()), 1);
    later(Duration::from_secs(6)).await;
    source.refresh(Some(&rejected)).await.unwrap();
    assert_eq!(runs(folder.path()), 2);
}

#[tokio::test]
async fn arguments_are_handed_on_without_a_shell() {
    let source = CommandToken::new("echo")
        .args(["$HOME;", "`id`"])
        .allow_opaque();
    let error = source.refresh(None).await.unwrap_err();
    // Two words are no token; had a shell read them, they would be others.
    assert!(
        matches!(&error, Error::Command { program, .. } if program == "echo"),
        "{error:?}"
    );
    let source = CommandToken::new("echo").args(["$HOME"]).allow_opaque();
    assert_eq!(source.refresh(None).await.unwrap().header(), "Bearer $HOME");
}

#[tokio::test]
async fn a_command_that_fails_is_missing_or_hangs_is_a_clear_error() {
    let failing = CommandToken::new("sh").args(["-c", "exit 3"]);
    let missing = CommandToken::new("no-such-program-anywhere");
    let hanging = CommandToken::new("sleep")
        .args(["60"])
        .timeout(Duration::from_millis(20));
    for (source, part) in [(failing, "3"), (missing, "No such file"), (hanging, "20ms")] {
        let told = source.refresh(None).await.unwrap_err().to_string();
        assert!(told.contains(part), "{told}");
    }
}
