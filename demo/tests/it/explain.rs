//! `auth-server explain`.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tower_oidc_guard::testing::TestIssuer;

use crate::support::{AUDIENCE, SERVER, path_string, service_account_token, trusting};

/// The output of `auth-server` with a subcommand, and its exit code.
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

/// Explains a token to a server that trusts this issuer. Asserts that nothing that is printed contains a part of the token.
async fn explain(issuer: &str, flags: &[&str], input: &str) -> Explained {
    let arguments = [&["explain"], &trusting(issuer, flags)[..]].concat();
    let explained = run_with(&arguments, &[], input).await;
    let printed = [&explained.stdout, &explained.stderr].map(String::as_str);
    for part in input
        .split(['.', '"', ' ', '\n'])
        .filter(|part| part.len() > 16)
    {
        let is_printed = printed.iter().any(|text| text.contains(part));
        assert!(!is_printed, "a part of the token was printed: {printed:?}");
    }
    assert!(!printed.concat().contains("eyJ"), "{printed:?}");
    explained
}

impl Explained {
    /// Asserts that the token is rejected, and that there is a line that contains these texts in this order.
    fn assert_rejected(&self, texts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        let contains_all = |line: &&str| {
            let mut rest = *line;
            texts.iter().all(|text| match rest.split_once(text) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        };
        let found = self.stdout.lines().find(contains_all);
        assert!(found.is_some(), "no line with {texts:?}:\n{}", self.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_token_is_explained_with_a_line_for_each_check_and_0() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let folder = tempfile::tempdir().unwrap();
    let file = path_string(folder.path().join("token"));
    for (content, is_noted) in [
        (token.clone(), false),
        (format!("{token}\n"), false),
        (format!("{token}\r\n"), false),
        (format!("  {token}\n\n"), true),
    ] {
        std::fs::write(&file, &content).unwrap();
        let from_file = explain(issuer.url(), &[&file], "").await;
        let explained = explain(issuer.url(), &[], &content).await;
        for explained in [&from_file, &explained] {
            assert_eq!(explained.code, Some(0), "{}", explained.stdout);
            let note = "white space around the token was ignored";
            assert_eq!(explained.stdout.contains(note), is_noted, "{content:?}");
        }
        let last = explained.stdout.lines().last().unwrap();
        assert!(
            last.starts_with("admitted: \"system:serviceaccount:id-namespace:gke-sa\""),
            "{last}"
        );
        for name in [
            "format",
            "issuer",
            "audience",
            "expiry",
            "keys",
            "signature",
            "policy",
        ] {
            let mut lines = explained.stdout.lines();
            let line = lines.find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains("  passed  "), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_explained_in_one_line_and_with_1() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE);
    let valid = token.mint();
    let url = issuer.url();

    let wrong_audience = service_account_token(&issuer, "https://b.example").mint();
    explain(url, &[], &wrong_audience).await.assert_rejected(&[
        "audience",
        "FAILED",
        r#"found ["https://b.example"]"#,
        r#"expected one of ["https://auth-server.example"]"#,
    ]);

    let with_slash = format!("{url}/");
    explain(&with_slash, &[], &valid).await.assert_rejected(&[
        "issuer",
        "FAILED",
        &format!("found {url:?}"),
        &format!("expected one of the trusted issuers [{with_slash:?}]"),
    ]);
    explain(&with_slash, &[], &valid)
        .await
        .assert_rejected(&["hint: differs from the trusted", "by a trailing slash"]);

    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let expired = token
        .clone()
        .issued_at(hour_ago)
        .lifetime(Duration::from_secs(600))
        .mint();
    explain(url, &[], &expired).await.assert_rejected(&[
        "expiry",
        "FAILED",
        "expired 30",
        " s ago by this clock (leeway 60 s)",
        "the issuer's clock, by its `Date` header, is ",
    ]);

    explain(url, &[], &format!("\"{valid}\"\n"))
        .await
        .assert_rejected(&["hint: the token is in quotes; remove them"]);
    let document = format!(r#"{{"status":{{"token":"{valid}"}}}}"#);
    explain(url, &[], &document)
        .await
        .assert_rejected(&["hint: this is a JSON document", "`status.token`"]);

    let unknown = token.clone().header("kid", "other").mint();
    explain(url, &[], &unknown).await.assert_rejected(&[
        "key",
        "FAILED",
        r#"kid "other", which is not among the 1 key fetched"#,
        &format!("from {url}/openid/v1/jwks"),
    ]);

    let folder = tempfile::tempdir().unwrap();
    let policy = path_string(folder.path().join("policy.yaml"));
    std::fs::write(
        &policy,
        "allow: ['system:serviceaccount:id-namespace:gke-sb']\n",
    )
    .unwrap();
    let denied = explain(url, &["--policy-file", &policy], &valid).await;
    denied.assert_rejected(&[
        "policy",
        "FAILED",
        "system:serviceaccount:id-namespace:gke-sa of ",
        "is not an allowed member",
    ]);
    denied.assert_rejected(&[
        "hint: the policy allows",
        "system:serviceaccount:id-namespace:gke-sb",
    ]);
    denied.assert_rejected(&["rejected with 403", "(not_allowed)"]);

    let typed = explain(url, &["--token-types", "at+jwt"], &valid).await;
    typed.assert_rejected(&["hint: ", "--token-types (TOKEN_TYPES)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_is_explained_with_the_cause() {
    let mut issuer = TestIssuer::start().await.unwrap();
    let url = issuer.url().to_owned();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    issuer.stop().await;
    let explained = explain(&url, &[], &token).await;
    let request = format!("GET {url}/.well-known/openid-configuration failed");
    explained.assert_rejected(&["keys", "FAILED", &request, "refused"]);
    explained.assert_rejected(&["rejected with 503", "(keys_unavailable)"]);
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
