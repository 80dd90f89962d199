//! The mistakes that users make when they set up a client and a server, and the line of the default log that explains each:
//! what was attempted, what was found, what was expected, and what to do.
//!
//! Each test makes one mistake in the settings of the real programs, without `RUST_LOG`, and compares the whole line, as text
//! and as JSON. Numbers that differ between runs are written as `<n>`.

use std::time::{Duration, SystemTime};

use demo::output::{self, LogFormat};
use serde_json::Value;
use tower_oidc_guard::Identity;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{
    AUDIENCE, CLIENT, Ca, NO_VARIABLES, ON_LOOPBACK, SERVER, Server, TokenVolume, http_client,
    path_string, service_account_token, trusting,
};

/// Returns whether a line equals a pattern in which `<n>` stands for any number.
fn matches(line: &str, pattern: &str) -> bool {
    // The resolver's text if no DNS server responds, instead of one that does not know the name.
    let line = line.replace(
        "Temporary failure in name resolution",
        "Name or service not known",
    );
    let mut rest = line.as_str();
    for (index, part) in pattern.split("<n>").enumerate() {
        if index > 0 {
            let digits = rest.trim_start_matches(|character: char| character.is_ascii_digit());
            if digits.len() == rest.len() {
                return false;
            }
            rest = digits;
        }
        let Some(after) = rest.strip_prefix(part) else {
            return false;
        };
        rest = after;
    }
    rest.is_empty()
}

#[test]
fn a_pattern_matches_whole_lines_with_numbers() {
    assert!(matches("a 12 b", "a <n> b") && matches("a", "a"));
    for line in ["a b", "a  b", "a 1 b c", "x a 1 b"] {
        assert!(!matches(line, "a <n> b"), "{line}");
    }
}

/// An event of the log, as it is expected.
struct Event<'e> {
    level: &'e str,
    target: &'e str,
    message: &'e str,
    /// The names and values of the fields, as they are written in text: strings with quotes.
    fields: Vec<(&'e str, &'e str)>,
}

impl Event<'_> {
    /// Returns the line in text, without its time.
    fn text(&self) -> String {
        let fields = self.fields.iter();
        let fields: String = fields
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        let (level, target, message) = (self.level, self.target, self.message);
        format!("{level:>5} {target}: {message}{fields}")
    }

    fn is_text(&self, line: &str) -> bool {
        let without_time = line.split_once("Z ").map(|(_, rest)| rest);
        without_time.is_some_and(|line| matches(line, &self.text()))
    }

    fn is_json(&self, line: &str) -> bool {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return false;
        };
        // Text has no span before the message, so that JSON has none, either.
        let expected = ["fields", "level", "target", "timestamp"];
        let names = line.as_object().map(|line| line.keys());
        if !names.is_some_and(|names| names.eq(expected)) {
            return false;
        }
        let fields = line["fields"].as_object();
        let message = line["fields"]["message"].as_str();
        line["level"] == self.level
            && line["target"] == self.target
            && message.is_some_and(|message| matches(message, self.message))
            && fields.is_some_and(|fields| fields.len() == self.fields.len() + 1)
            && self.fields.iter().all(|(name, value)| {
                let found = match &line["fields"][*name] {
                    Value::String(found) if value.starts_with('"') => format!("{found:?}"),
                    Value::String(found) => found.clone(),
                    found => found.to_string(),
                };
                matches(&found, value)
            })
    }

    /// Waits until the process has logged this event.
    async fn wait_in(&self, process: &Process, format: &str) {
        let is_expected = |line: &String| match format {
            "json" => self.is_json(line),
            _ => self.is_text(line),
        };
        for _ in 0..crate::process::MAX_POLLS {
            if process.lines().iter().any(is_expected) {
                return;
            }
            tokio::time::sleep(crate::process::POLL_INTERVAL).await;
        }
        panic!(
            "expected ({format}):\n{}\nfound:\n{}",
            self.text(),
            process.lines().join("\n")
        );
    }
}

const FORMATS: [&str; 2] = ["text", "json"];

/// Starts a server with these flags, whose log has this format.
async fn start_server(flags: &[&str], format: &str) -> Server {
    let flags = [&ON_LOOPBACK[..], flags, &["--log-format", format]].concat();
    Server::start_with(&flags, &NO_VARIABLES).await
}

/// Sends a token to a server that trusts an issuer, and waits for the event in each format of the log.
async fn expect_refusal(trusted: &str, token: &str, status: u16, event: &Event<'_>) {
    for format in FORMATS {
        let server = start_server(&trusting(trusted, &[]), format).await;
        assert_eq!(server.status("/private", token).await, status);
        event.wait_in(&server.process, format).await;
    }
}

/// The event of a guard about one refused request.
fn refused<'e>(message: &'e str, reasons: &'e str) -> Event<'e> {
    Event {
        level: "WARN",
        target: "tower_oidc_guard::guard::refusal_summary",
        message,
        fields: vec![("count", "1"), ("reasons", reasons)],
    }
}

/// The event of a guard that cannot fetch the keys of an issuer.
fn keys_not_fetched<'e>(issuer: &'e str, error: &'e str) -> Event<'e> {
    Event {
        level: "WARN",
        target: "tower_oidc_guard::keys::driver",
        message: "keys could not be fetched",
        fields: vec![
            ("issuer", issuer),
            ("error", error),
            ("consequence", "\"no keys: the issuer's tokens get 503\""),
            ("attempts", "<n>"),
            ("failing_for_seconds", "<n>"),
        ],
    }
}

/// Starts a server with these flags, and waits for the event in each format of the log.
async fn expect_event(flags: &[&str], event: &Event<'_>) {
    for format in FORMATS {
        let server = start_server(flags, format).await;
        event.wait_in(&server.process, format).await;
    }
}

/// Runs a client once that is expected to fail. Returns the lines that it printed.
async fn run_client(url: &str, token_path: &str, more: &[&str]) -> Vec<String> {
    let flags = ["--once", "--service-url", url, "--token-path", token_path];
    let mut client = Process::start(CLIENT, &[&flags[..], more].concat(), &NO_VARIABLES);
    assert_eq!(
        client.wait_for_exit().await,
        Some(1),
        "{:?}",
        client.lines()
    );
    client.lines()
}

/// Asserts that one of the lines is exactly the expected one.
fn assert_line(lines: &[String], expected: &str) {
    let is_expected = |line: &String| matches(line, expected);
    assert!(
        lines.iter().any(is_expected),
        "expected:\n{expected}\nfound:\n{}",
        lines.join("\n")
    );
}

/// Asserts that a client with this token prints the expected line about a server that trusts an issuer.
async fn expect_client_line(issuer: &str, token: &str, expected: &str) {
    let server = Server::start(issuer, &[]).await;
    let volume = TokenVolume::new(token);
    let lines = run_client(&server.url(""), &volume.token_path(), &[]).await;
    assert_line(&lines, expected);
}

/// Asserts that the error that ends a program is exactly the expected one, in each format of the log.
async fn expect_fatal(binary: &str, program: &str, flags: &[&str], expected: &str) {
    for format in FORMATS {
        let flags = [flags, &["--log-format", format]].concat();
        let mut process = Process::start(binary, &flags, &NO_VARIABLES);
        assert_eq!(
            process.wait_for_exit().await,
            Some(1),
            "{:?}",
            process.lines()
        );
        let lines = process.lines();
        if format == "text" {
            assert_line(&lines, &format!("{program}: {expected}"));
            continue;
        }
        let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["fields"]["program"], program);
        assert_eq!(line["fields"].as_object().unwrap().len(), 2, "{line}");
        assert_line(
            &[line["fields"]["message"].as_str().unwrap().to_owned()],
            expected,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_audience() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, "https://other.example").mint();
    let message = "1 request refused: 1 wrong_audience, expected https://auth-server.example";
    let event = refused(message, "\"wrong_audience=1\"");
    expect_refusal(issuer.url(), &token, 401, &event).await;

    expect_client_line(
        issuer.url(),
        &token,
        "GET /private: 401 Unauthorized: the token is for another audience (invalid_token); the token's audience is [\"https://other.example\"]: set the audience of the projected volume to one that the server accepts with --audience (JWT_AUDIENCE)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_at_the_end_of_the_issuer() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let with_slash = format!("{}/", issuer.url());
    let label = format!("{with_slash:?}");
    let error = format!(
        "{:?}",
        format!(
            "the discovery document {}/.well-known/openid-configuration has the issuer \"{}\"; expected exactly \"{with_slash}\" (they differ in the slash at the end)",
            issuer.url(),
            issuer.url()
        )
    );
    let event = keys_not_fetched(&label, &error);
    expect_event(&trusting(&with_slash, &[]), &event).await;
    let message = format!(
        "1 request refused: 1 unknown_issuer, expected {with_slash}, compared exactly, with any slash at the end"
    );
    let event = refused(&message, "\"unknown_issuer=1\"");
    expect_refusal(&with_slash, &token, 401, &event).await;

    let expected = format!(
        "GET /private: 401 Unauthorized: the token's issuer is not trusted (invalid_token); the token's issuer is \"{}\": the server's --issuer (ID_ISSUER) must equal it exactly, including a slash at the end",
        issuer.url()
    );
    expect_client_line(&with_slash, &token, &expected).await;
}

/// Returns a token as it is issued by an issuer whose clock is ahead.
fn issued_in_future(issuer: &TestIssuer, ahead: u64) -> String {
    let now = SystemTime::now() + Duration::from_secs(ahead);
    service_account_token(issuer, AUDIENCE)
        .issued_at(now)
        .mint()
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = issued_in_future(&issuer, 300);
    let message = "1 request refused: 1 not_yet_valid, leeway 60 s: compare this machine's clock with the issuer's";
    let event = refused(message, "\"not_yet_valid=1\"");
    expect_refusal(issuer.url(), &token, 401, &event).await;

    expect_client_line(
        issuer.url(),
        &token,
        "GET /private: 401 Unauthorized: the token is not valid yet (invalid_token); by this machine's clock, it is issued <n> s in the future and expires in <n> s; the server's clock agrees with this machine's, by its `Date`: check the issuer's clock, and that the token is replaced in time",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_token_file() {
    let path = "/nowhere/gke-sa";
    let flags = [
        "--service-url",
        "https://auth-server.example",
        "--token-path",
        path,
    ];
    expect_fatal(
        CLIENT,
        "auth-client",
        &flags,
        "cannot use the token file of --token-path (TOKEN_PATH): /nowhere/gke-sa had no valid content within 5s; check that the volume is mounted and that the path is correct; last error: reading /nowhere/gke-sa failed: No such file or directory (os error 2)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quoted_token() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let volume = TokenVolume::new(&format!("\"{token}\""));
    let path = volume.token_path();
    let flags = [
        "--service-url",
        "https://auth-server.example",
        "--token-path",
        &path,
    ];
    let expected = format!(
        "cannot use the token file of --token-path (TOKEN_PATH): {path} had no valid content within 5s; last error: the content of {path} is not valid: invalid token: found a double quote (\") at byte 1, which a token cannot contain; expected the token alone, without quotes, a prefix or a line break in it"
    );
    expect_fatal(CLIENT, "auth-client", &flags, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_ca() {
    let issuer = TestIssuer::start().await.unwrap();
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = ca.issue();
    let [certificate, key] = [("tls.crt", certificate), ("tls.key", key)].map(|(name, content)| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path_string(path)
    });
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key];
    let server = start_server(&trusting(issuer.url(), &flags), "text").await;
    let url = format!("https://{}", server.address);
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let lines = run_client(&url, &volume.token_path(), &[]).await;
    let expected = format!(
        "GET /private: failed: the certificate of {} is from a CA that is not trusted: error sending request for url ({url}/private): client error (Connect): invalid peer certificate: UnknownIssuer; set --ca-file (CA_FILE) to the CA certificate that issued it",
        server.address
    );
    assert_line(&lines, &expected);

    // The same mistake between the server and its issuer.
    let error = format!(
        "\"GET {url}/.well-known/openid-configuration failed: error sending request: client error (Connect): invalid peer certificate: UnknownIssuer; the certificate is not signed by a CA that this process trusts: add the CA's certificate to the system's root certificates (or to the file of SSL_CERT_FILE), or to the client of `http_client`\""
    );
    let label = format!("{url:?}");
    expect_event(&trusting(&url, &[]), &keys_not_fetched(&label, &error)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_does_not_resolve() {
    let issuer = TestIssuer::start().await.unwrap();
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let url = "https://auth-server.invalid";
    let lines = run_client(url, &volume.token_path(), &[]).await;
    assert_line(
        &lines,
        "GET /private: failed: the name of auth-server.invalid:443 cannot be resolved (DNS): error sending request for url (https://auth-server.invalid/private): client error (Connect): dns error: error resolving DNS: failed to lookup address information: Name or service not known; check the host in --service-url (SERVICE_URL); within a cluster, a Service in another namespace is NAME.NAMESPACE",
    );
    // The same mistake between the server and its issuer.
    let url = "https://issuer.invalid";
    let event = keys_not_fetched(
        "\"https://issuer.invalid\"",
        "\"GET https://issuer.invalid/.well-known/openid-configuration failed: error sending request: client error (Connect): dns error: error resolving DNS: failed to lookup address information: Name or service not known; check the host name, and that this process can reach a DNS server\"",
    );
    expect_event(&trusting(url, &[]), &event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typing_error_in_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_string(folder.path().join("policy.yaml"));
    std::fs::write(&path, "alow:\n  - system:serviceaccount:a:b\n").unwrap();
    let flags = [
        "--issuer",
        "google",
        "--audience",
        AUDIENCE,
        "--policy-file",
        &path,
    ];
    let expected = format!(
        "cannot load the file of --policy-file (POLICY_FILE): {path} had no valid content within 5s; last error: the content of {path} is not valid: line 1, column 1: unknown field \"alow\"; did you mean \"allow\"? The fields of the file are `allow`, `deny`, `audiences`, `scopes`, `claims` and `issuers`"
    );
    expect_fatal(SERVER, "auth-server", &flags, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_shadow_policy_that_no_trusted_issuer_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_string(folder.path().join("shadow.yaml"));
    std::fs::write(&path, "allow:\n  - system:serviceaccount:a:b\n").unwrap();
    let flags = ["--issuer", "google", "--audience", AUDIENCE];
    let flags = [&flags[..], &["--shadow-policy", &path]].concat();
    let expected = format!(
        "cannot configure the guard: the shadow policy is invalid: {path}:2:5: the policy has members of Kubernetes, and no trusted issuer is of that platform; add such an issuer to the guard, or remove the members"
    );
    expect_fatal(SERVER, "auth-server", &flags, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_policy_file() {
    let flags = ["--issuer", "google", "--audience", AUDIENCE];
    let flags = [&flags[..], &["--policy-file", "/nowhere/policy.yaml"]].concat();
    let expected = "cannot load the file of --policy-file (POLICY_FILE): /nowhere/policy.yaml had no valid content within 5s; check that the volume is mounted and that the path is correct; last error: reading /nowhere/policy.yaml failed: No such file or directory (os error 2)";
    expect_fatal(SERVER, "auth-server", &flags, expected).await;
}

/// Starts a server with this `RUST_LOG`, and waits for the event in each format of the log.
async fn expect_with_filter(filter: &str, flags: &[&str], event: &Event<'_>) {
    for format in FORMATS {
        let flags = [&ON_LOOPBACK[..], flags, &["--log-format", format]].concat();
        let process = Process::start(SERVER, &flags, &[("RUST_LOG", filter)]);
        event.wait_in(&process, format).await;
    }
}

/// The event about settings that would otherwise have no visible effect. No value of `RUST_LOG` hides it.
fn warned(message: &str) -> Event<'_> {
    Event {
        level: "WARN",
        target: "demo::output",
        message,
        fields: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_not_valid() {
    let issuer = TestIssuer::start().await.unwrap();
    let flags = trusting(issuer.url(), &[]);
    let message = "RUST_LOG is \"demo=nonsense=x\", which cannot be used: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number <n>-<n>; using \"info\" instead";
    expect_with_filter("demo=nonsense=x", &flags, &warned(message)).await;
    let message = "RUST_LOG is \"warm\", in which \"warm\" is not a level, so that it is used as a target, of which this program has none; expected off, error, warn, info, debug, trace, or TARGET=LEVEL";
    expect_with_filter("warm", &flags, &warned(message)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_the_filter_hides() {
    let issuer = TestIssuer::start().await.unwrap();
    let flags = trusting(issuer.url(), &["--audit"]);
    let message = "--audit is set, but RUST_LOG hides the target oidc_guard::audit; add oidc_guard::audit=info to it";
    for filter in ["tower_oidc_guard=debug", "off"] {
        expect_with_filter(filter, &flags, &warned(message)).await;
    }
    let filter = [("RUST_LOG", "info,tower_oidc_guard=debug")];
    let flags = [&ON_LOOPBACK[..], &flags].concat();
    let server = Server::start_with(&flags, &filter).await;
    let lines = server.process.lines();
    assert!(
        lines.iter().all(|line| !line.contains("--audit")),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_policy() {
    let issuer = TestIssuer::start().await.unwrap();
    let admitted =
        "no --policy-file (POLICY_FILE) is set, so any caller with a valid token is admitted";
    let google =
        format!("{admitted}; with the issuer google, that is anyone with a Google account");
    let with_google = [issuer.url(), "google"].join(",");
    for (issuers, level, message) in [
        (issuer.url(), "INFO", admitted),
        (&with_google, "WARN", &google),
    ] {
        let label = format!("{issuers:?}");
        let configured = Event {
            level: "INFO",
            target: "demo::server::guard",
            message: "the guard is configured",
            fields: vec![
                ("issuers", &label),
                ("audiences", "\"https://auth-server.example\""),
                ("policy", "\"any verified caller\""),
                ("ready_issuers", "\"all\""),
                ("token_review", "\"off\""),
            ],
        };
        let admits_all = Event {
            level,
            target: "demo::server::guard",
            message,
            fields: Vec::new(),
        };
        for event in [configured, admits_all] {
            expect_event(&trusting(issuers, &[]), &event).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_ca_as_the_servers_own() {
    let issuer = TestIssuer::start().await.unwrap();
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let [certificate, key] =
        [("tls.crt", ca.pem()), ("tls.key", ca.key_pem())].map(|(name, content)| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path_string(path)
        });
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key];
    let server = start_server(&trusting(issuer.url(), &flags), "text").await;
    let url = format!("https://{}", server.address);
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let expected = format!(
        "GET /private: failed: the server presents a CA certificate (a self-signed one) as its own certificate, which is not accepted even with --ca-file: error sending request for url ({url}/private): client error (Connect): invalid peer certificate: Other(OtherError(CaUsedAsEndEntity)); give the server a certificate that a CA has issued (CA:FALSE)"
    );
    for flags in [&["--ca-file", &certificate][..], &[]] {
        let lines = run_client(&url, &volume.token_path(), flags).await;
        assert_line(&lines, &expected);
    }
}

const UNGUARDED: &str = "mistakes::serves_a_route_without_the_layer";

/// Serves a handler that extracts the caller's identity, without a guard. Run as a child process.
#[tokio::test]
#[ignore = "serves until it is killed; run by `a_route_without_the_layer`"]
async fn serves_a_route_without_the_layer() {
    let format = match std::env::var("UNGUARDED_LOG_FORMAT").as_deref() {
        Ok("json") => LogFormat::Json,
        Ok(_) => LogFormat::Text,
        Err(_) => return,
    };
    output::init_logging("info", format);
    let private = |caller: Identity| async move { caller.subject().to_owned() };
    let routes = axum::Router::new().route("/private", axum::routing::get(private));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tracing::info!(%address, "listening");
    demo::server::serve(listener, routes, std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_the_layer() {
    let message = "the request has no identity, because no guard's layer was applied to this route; add `.route_layer(guard.layer())` to the router after the route: it applies to the routes that were added before it";
    let event = Event {
        level: "ERROR",
        target: "tower_oidc_guard::guard::extractors",
        message,
        fields: vec![
            ("extracted", "\"Identity\""),
            ("path", "\"/private\""),
            ("requests", "1"),
        ],
    };
    let binary = path_string(std::env::current_exe().unwrap());
    let arguments = ["--exact", UNGUARDED, "--ignored", "--nocapture"];
    for format in FORMATS {
        let process = Process::start(&binary, &arguments, &[("UNGUARDED_LOG_FORMAT", format)]);
        let url = format!("http://{}/private", process.wait_for_address().await);
        let response = http_client().get(url).send().await.unwrap();
        assert_eq!(response.status(), 500);
        let body = format!("cannot extract `Identity` on the route /private: {message}");
        assert_eq!(response.text().await.unwrap(), body);
        event.wait_in(&process, format).await;
    }
}

/// The compiler reports this mistake. `.ci/quick_start` compiles programs with it and compares the compiler's errors with the
/// READMEs; this test verifies that each of the messages that the libraries define is in a README, with what to do.
#[test]
fn a_missing_feature() {
    let libraries = [
        (
            include_str!("../../../tower-oidc-guard/src/missing_feature.rs"),
            include_str!("../../../tower-oidc-guard/README.md"),
        ),
        (
            include_str!("../../../reqwest-wi-auth/src/missing_feature.rs"),
            include_str!("../../../reqwest-wi-auth/README.md"),
        ),
    ];
    for (source, readme) in libraries {
        let messages = source.split("message = \"").skip(1);
        let messages: Vec<_> = messages
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        assert!(!messages.is_empty());
        for message in messages {
            let row = readme.lines().find(|line| line.contains(message));
            let row = row.unwrap_or_else(|| panic!("{message:?} is not in the README"));
            assert!(
                row.contains("cargo add ") && row.contains("--features"),
                "{row}"
            );
        }
    }
}
