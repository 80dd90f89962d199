//! `auth-server explain`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use tower_oidc_guard::testing::TestIssuer;

use crate::support::{AUDIENCE, SERVER, service_account_token, trusting};

/// What `auth-server` with a subcommand printed, and its exit code.
struct Explained {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `auth-server` with these arguments and environment variables, and this text as standard input.
async fn run_with(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Explained {
    let mut command = Command::new(SERVER);
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("RUST_LOG", "trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // Fails if the program ends without reading it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    Explained {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_explain_are_flags_behind_it_or_environment_variables() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let flags = [&["explain"], &trusting(issuer.url(), &[])[..]].concat();
    let explained = run_with(&flags, &[], &token).await;
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    let variables = [("ID_ISSUER", issuer.url()), ("JWT_AUDIENCE", AUDIENCE)];
    let arguments = ["explain", "--insecure-loopback-http", "-"];
    let explained = run_with(&arguments, &variables, &token).await;
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    assert!(explained.stdout.contains("allowed"), "{}", explained.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_of_explain_end_it_with_2() {
    let missing = run_with(&["explain"], &[("JWT_AUDIENCE", " ")], "").await;
    assert_eq!(missing.code, Some(2));
    for part in ["--issuer", "ID_ISSUER", "--audience", "JWT_AUDIENCE"] {
        assert!(missing.stderr.contains(part), "{part}: {}", missing.stderr);
    }
    let issuer = "https://issuer.example";
    let before = ["--issuer", issuer, "--audience", "a", "explain"];
    let before = run_with(&before, &[], "").await;
    assert_eq!(before.code, Some(2));
    assert!(before.stderr.contains("explain"), "{}", before.stderr);
    let required = ["explain", "--issuer", issuer, "--audience", "a"];
    for more in [
        &["/nowhere/to/be/found"][..],
        &["a", "b"],
        &["--leeway", "301"],
        &["--policy-file", "/nowhere/to/be/found"],
    ] {
        let invalid = run_with(&[&required, more].concat(), &[], "").await;
        assert_eq!(invalid.code, Some(2), "{more:?} {}", invalid.stderr);
        assert!(!invalid.stderr.is_empty(), "{more:?}");
    }
}
