//! `auth-client check`.

use std::time::{Duration, SystemTime};

use reqwest_wi_auth::testing::FakeMetadataServer;
use serde_json::Value;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{
    AUDIENCE, CLIENT, Ca, NO_VARIABLES, ON_LOOPBACK, Server, TokenVolume, path_string,
    service_account_token, trusting,
};

/// The result of `auth-client check`.
struct Checked {
    code: Option<i32>,
    lines: Vec<String>,
}

impl Checked {
    /// Returns the row of a check, with the rows about what was expected and what to do.
    fn row(&self, name: &str) -> String {
        let start = self.lines.iter().position(|line| {
            let mut words = line.splitn(2, "  ");
            let status = words.next().unwrap_or_default();
            let is_status = ["ok", "warning", "FAILED", "skipped"].contains(&status);
            is_status && line[9..].starts_with(name)
        });
        let start = start.unwrap_or_else(|| panic!("no row of {name}: {:#?}", self.lines));
        let details = self.lines[start + 1..].iter();
        let details = details.take_while(|line| line.starts_with(' '));
        let rows: Vec<_> = std::iter::once(&self.lines[start]).chain(details).collect();
        rows.iter()
            .map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join(" | ")
    }

    /// Asserts that the row of a check starts with its result and contains these texts.
    fn assert_row(&self, name: &str, status: &str, texts: &[&str]) {
        let row = self.row(name);
        assert!(row.starts_with(&format!("{status} {name}")), "{row}");
        for text in texts {
            assert!(row.contains(text), "{text:?}: {row}");
        }
    }
}

async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Checked {
    let arguments = [&["check"], arguments].concat();
    let mut client = Process::start(CLIENT, &arguments, variables);
    let code = client.wait_for_exit().await;
    let lines = client.lines();
    let is_token = |line: &&String| line.contains("eyJ");
    assert_eq!(lines.iter().find(is_token), None, "a token was printed");
    Checked { code, lines }
}

/// Checks a server with a token in a volume.
async fn check(url: &str, token: &str, more: &[&str]) -> Checked {
    let volume = TokenVolume::new(token);
    let path = volume.token_path();
    let arguments = ["--service-url", url, "--token-path", &path];
    run(&[&arguments[..], more].concat(), &NO_VARIABLES).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_checks_pass_for_a_client_that_is_admitted() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let checked = check(&server.url(""), &token, &[]).await;
    assert_eq!(checked.code, Some(0), "{:#?}", checked.lines);
    for (name, texts) in [
        ("token file", &["bytes", "mode"][..]),
        ("token mount", &["a volume of Kubernetes"]),
        ("token format", &["a JWT"]),
        ("issuer", &[issuer.url(), "RS256"]),
        ("subject", &["system:serviceaccount:id-namespace:gke-sa"]),
        ("audience", &[AUDIENCE]),
        ("expiry", &["expires in", "lifetime"]),
        ("rotation", &["used at once"]),
        ("origin", &["plain http"]),
        ("DNS", &["127.0.0.1 is an address"]),
        ("TCP", &["accepts connections"]),
        ("clock", &["agrees"]),
        ("open path", &["GET /: 200 OK"]),
        ("guarded path", &["GET /private: 200 OK"]),
    ] {
        checked.assert_row(name, "ok", texts);
    }
    checked.assert_row("TLS", "skipped", &["http"]);
    let signature = token.rsplit('.').next().unwrap();
    assert!(!checked.lines.concat().contains(&signature[..16]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_the_server_is_in_the_row_of_the_guarded_path() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let token = service_account_token(&issuer, "https://other.example").mint();
    let checked = check(&server.url(""), &token, &[]).await;
    assert_eq!(checked.code, Some(1), "{:#?}", checked.lines);
    checked.assert_row("open path", "ok", &["200"]);
    checked.assert_row(
        "guarded path",
        "FAILED",
        &[
            "GET /private: 401 Unauthorized: the token is for another audience (invalid_token)",
            "expected 200",
            "to do",
            "[\"https://other.example\"]",
            "JWT_AUDIENCE",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_a_failed_check_is_skipped() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let url = server.url("");
    let arguments = ["--service-url", &url, "--token-path", "/nowhere/gke-sa"];
    let checked = run(&arguments, &NO_VARIABLES).await;
    assert_eq!(checked.code, Some(1), "{:#?}", checked.lines);
    checked.assert_row(
        "token file",
        "FAILED",
        &["/nowhere/gke-sa does not exist", "TOKEN_PATH"],
    );
    checked.assert_row("open path", "ok", &["200"]);
    checked.assert_row("guarded path", "skipped", &["no token"]);

    let expired = service_account_token(&issuer, AUDIENCE)
        .issued_at(SystemTime::now() - Duration::from_secs(718))
        .lifetime(Duration::from_secs(600))
        .mint();
    let checked = check(&url, &expired, &[]).await;
    assert_eq!(checked.code, Some(1));
    checked.assert_row(
        "expiry",
        "FAILED",
        &["expired 1", " s ago", "lifetime of 600 s"],
    );
    checked.assert_row("guarded path", "skipped", &["no token"]);

    let quoted = format!("\"{}\"", service_account_token(&issuer, AUDIENCE).mint());
    let checked = check(&url, &quoted, &[]).await;
    assert_eq!(checked.code, Some(1));
    checked.assert_row(
        "token format",
        "FAILED",
        &["double quote (\") at byte 1", "remove the quotes"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_the_connection_has_its_own_row() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let unresolved = check("https://auth-server.invalid", &token, &[]).await;
    assert_eq!(unresolved.code, Some(1));
    unresolved.assert_row("DNS", "FAILED", &["auth-server.invalid", "SERVICE_URL"]);
    for name in ["TCP", "TLS", "clock", "open path", "guarded path"] {
        unresolved.assert_row(name, "skipped", &[]);
    }

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let refused = check(&refused, &token, &[]).await;
    assert_eq!(refused.code, Some(1));
    refused.assert_row("TCP", "FAILED", &["refused", "to do"]);

    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = ca.issue();
    let files = [
        ("tls.crt", certificate),
        ("tls.key", key),
        ("ca.crt", ca.pem()),
    ];
    let [certificate, key, ca_file] = files.map(|(name, content)| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path_string(path)
    });
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let arguments = [&ON_LOOPBACK[..], &trusting(issuer.url(), &tls)].concat();
    let server = Server::start_with(&arguments, &NO_VARIABLES).await;
    let url = format!("https://{}", server.address);
    let unknown = check(&url, &token, &[]).await;
    assert_eq!(unknown.code, Some(1));
    unknown.assert_row(
        "TLS",
        "FAILED",
        &[
            "is from a CA that is not trusted",
            "UnknownIssuer",
            "CA_FILE",
        ],
    );
    let known = check(&url, &token, &["--ca-file", &ca_file]).await;
    assert_eq!(known.code, Some(0), "{:#?}", known.lines);
    known.assert_row("TLS", "ok", &["valid and trusted"]);
    let missing = check(&url, &token, &["--ca-file", "/nowhere/ca.crt"]).await;
    assert_eq!(missing.code, Some(1));
    missing.assert_row("CA file", "FAILED", &["/nowhere/ca.crt", "CA_FILE"]);
    let plain = format!("http://{}", server.address);
    let plain = check(&plain, &token, &[]).await;
    assert_eq!(plain.code, Some(1));
    plain.assert_row("open path", "FAILED", &["https"]);

    let no_tls = Server::start(issuer.url(), &[]).await;
    let no_tls = check(&format!("https://{}", no_tls.address), &token, &[]).await;
    assert_eq!(no_tls.code, Some(1));
    no_tls.assert_row(
        "TLS",
        "FAILED",
        &["does not speak TLS on that port", "http"],
    );
    let remote = check("http://auth-server.invalid", &token, &[]).await;
    remote.assert_row("origin", "FAILED", &["plain http exposes the token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_googles_identity_the_metadata_server_is_checked() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let metadata = FakeMetadataServer::start().await.unwrap();
    let token = issuer.token();
    metadata.set_token_fn(move |audience| token.clone().audience(audience).mint());
    let url = format!("{}={AUDIENCE}", server.url(""));
    let arguments = ["--service-url", &url, "--identity", "google"];
    let with_host = |host| [&arguments[..], &["--metadata-host", host]].concat();
    let checked = run(&with_host(metadata.host()), &NO_VARIABLES).await;
    assert_eq!(checked.code, Some(0), "{:#?}", checked.lines);
    checked.assert_row("metadata", "ok", &["returned a token", AUDIENCE]);
    checked.assert_row("audience", "ok", &[AUDIENCE]);
    let checked = run(&with_host("metadata.invalid"), &NO_VARIABLES).await;
    assert_eq!(checked.code, Some(1));
    checked.assert_row(
        "metadata",
        "FAILED",
        &[
            "cannot connect to the metadata server at metadata.invalid",
            "IDENTITY",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_flags_behind_check_or_environment_variables_and_the_output_can_be_json() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let (url, path) = (server.url(""), volume.token_path());
    let variables = [
        ("SERVICE_URL", url.as_str()),
        ("TOKEN_PATH", &path),
        ("JSON", "true"),
        ("IDENTITY", ""),
    ];
    let checked = run(&[], &variables).await;
    assert_eq!(checked.code, Some(0), "{:#?}", checked.lines);
    let lines: Vec<Value> = checked
        .lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let guarded = lines.iter().find(|line| line["check"] == "guarded path");
    let guarded = guarded.unwrap();
    assert_eq!(
        (&guarded["result"], &guarded["service"]),
        (&"ok".into(), &url.into())
    );
    assert_eq!(lines.last().unwrap()["failed"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_end_check_with_2() {
    for (arguments, part) in [
        (&[][..], "SERVICE_URL"),
        (&["--service-url", "a.example"], "--service-url"),
        (
            &["--service-url", "https://a.example", "--identity", "me"],
            "--identity",
        ),
        (&["--nonsense"], "--nonsense"),
    ] {
        let checked = run(arguments, &NO_VARIABLES).await;
        assert_eq!(checked.code, Some(2), "{:#?}", checked.lines);
        assert!(
            checked.lines.concat().contains(part),
            "{:#?}",
            checked.lines
        );
    }
}
