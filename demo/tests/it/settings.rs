//! The programs' flags and environment variables, and what operators see in logs, metrics and probes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{
    AUDIENCE, CLIENT, ON_LOOPBACK, SERVER, Server, TokenVolume, get_status, http_client,
    path_string, service_account_token, trusting,
};

/// Returns the names of the environment variables in a program's help.
fn variable_names(binary: &str) -> BTreeSet<String> {
    let help = Command::new(binary).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let names = help.split("[env: ").skip(1);
    names
        .map(|rest| rest.split(['=', ']']).next().unwrap().to_owned())
        .collect()
}

/// A flag's environment variable and default, if it has any.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flag {
    variable: Option<String>,
    default: Option<String>,
}

/// Parses a program's help into its flags, by name.
fn flags_in_help(binary: &str) -> BTreeMap<String, Flag> {
    let help = Command::new(binary).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let value = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!("[{name}: "))?;
        Some(rest.split([']', '=']).next().unwrap().to_owned())
    };
    let mut flags = BTreeMap::<String, Flag>::new();
    let mut current = String::new();
    for line in help.lines() {
        // Descriptions are indented further than flags, and short flags less.
        if let Some(flag) = line.strip_prefix("      --") {
            current = format!("--{}", flag.split(' ').next().unwrap());
            flags.insert(current.clone(), Flag::default());
        } else if let Some(flag) = flags.get_mut(&current) {
            flag.variable = flag.variable.take().or(value(line, "env"));
            flag.default = flag.default.take().or(value(line, "default"));
        }
    }
    flags
}

/// Parses the rows of the first table with flags in a section of the README. The cells of each flag are returned by its
/// name.
fn flags_in_readme(section: &str) -> BTreeMap<String, Vec<String>> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once(&format!("\n### {section}\n")).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `--"));
    let cells = |row: &str| -> Vec<String> {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    rows.map(|row| {
        let mut cells = cells(row);
        (cells.remove(0), cells)
    })
    .collect()
}

/// Runs a program that must not start. Returns its exit code and all that it printed.
async fn run_invalid(
    binary: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (i32, String) {
    let mut program = Process::start(binary, arguments, variables);
    let code = program.wait_for_exit().await.unwrap();
    assert_ne!(code, 0, "{arguments:?} {variables:?}");
    (code, program.lines().join("\n"))
}

/// Returns the variables with one of them set to another value.
fn with_variable<'a>(
    variables: &[(&'a str, &'a str)],
    name: &'a str,
    value: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let others = variables.iter().filter(|(other, _)| *other != name);
    others.copied().chain([(name, value)]).collect()
}

/// Values for all variables that are required.
const REQUIRED: [(&str, &str); 3] = [
    ("ID_ISSUER", "google"),
    ("JWT_AUDIENCE", "me"),
    ("SERVICE_URL", "https://a.example"),
];

#[test]
fn the_readme_lists_each_flag_with_its_variable_and_default() {
    let demo = env!("CARGO_BIN_EXE_demo");
    for (binary, section) in [
        (SERVER, "auth-server"),
        (CLIENT, "auth-client"),
        (demo, "demo"),
    ] {
        let (flags, rows) = (flags_in_help(binary), flags_in_readme(section));
        assert!(flags.len() >= 4, "{section}: {flags:?}");
        let names: Vec<_> = flags.keys().collect();
        assert_eq!(rows.keys().collect::<Vec<_>>(), names, "{section}");
        for (name, Flag { variable, default }) in flags {
            let cells = &rows[&name];
            if binary != demo {
                let variable = variable.unwrap_or("none".to_owned());
                assert_eq!(cells[0], variable, "{section} {name}");
            }
            if let Some(default) = default {
                assert_eq!(cells.last(), Some(&default), "{section} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_environment_variable_is_treated_as_not_set() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let volume = TokenVolume::new(&token);
    let server_names = variable_names(SERVER);
    assert!(
        server_names.len() >= 20 && server_names.contains("OPTIONAL"),
        "{server_names:?}"
    );
    let client_names = variable_names(CLIENT);
    assert!(
        client_names.contains("JSON") && client_names.contains("INTERVAL"),
        "{client_names:?}"
    );
    for blank in ["", "  "] {
        let set_blank = |names: &BTreeSet<String>| -> Vec<(String, &str)> {
            names.iter().map(|name| (name.clone(), blank)).collect()
        };
        let variables = set_blank(&server_names);
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let arguments = [&ON_LOOPBACK[..], &trusting(issuer.url(), &[])].concat();
        let server = Server::start_with(&arguments, &variables).await;
        assert_eq!(server.status("/private", &token).await, 200);

        let variables = set_blank(&client_names);
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let (url, path) = (server.url(""), volume.token_path());
        let arguments = ["--once", "--service-url", &url, "--token-path", &path];
        let mut client = Process::start(CLIENT, &arguments, &variables);
        assert_eq!(
            client.wait_for_exit().await,
            Some(0),
            "{:?}",
            client.lines()
        );
        client.wait_for_line("##### Projected token client").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_variable_that_is_empty_or_missing_is_named_with_its_flag() {
    for variables in [
        &[][..],
        &[
            ("ID_ISSUER", ""),
            ("JWT_AUDIENCE", " "),
            ("SERVICE_URL", ""),
        ],
    ] {
        let (code, printed) = run_invalid(SERVER, &[], variables).await;
        assert_eq!(code, 2);
        for part in ["--issuer", "ID_ISSUER", "--audience", "JWT_AUDIENCE"] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        let (code, printed) = run_invalid(CLIENT, &[], variables).await;
        assert_eq!(code, 2);
        assert!(
            printed.contains("--service-url") && printed.contains("SERVICE_URL"),
            "{printed}"
        );
    }
    let key_without_certificate = with_variable(&REQUIRED, "TLS_KEY", "/k");
    let (_, printed) = run_invalid(SERVER, &[], &key_without_certificate).await;
    assert!(
        printed.contains("--tls-certificate") && printed.contains("TLS_CERTIFICATE"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_lists_are_trimmed() {
    let issuer = TestIssuer::start().await.unwrap();
    let issuers = format!(" {} , https://other.example\t", issuer.url());
    let variables = [
        ("ID_ISSUER", issuers.as_str()),
        ("JWT_AUDIENCE", " one ,\n two "),
        ("TOKEN_TYPES", " JWT , at+jwt "),
        ("ALGORITHMS", " RS256 , ES256 "),
    ];
    let arguments = [&ON_LOOPBACK[..], &["--insecure-loopback-http"]].concat();
    let server = Server::start_with(&arguments, &variables).await;
    let url = server.url("");
    let token = |audience| {
        service_account_token(&issuer, audience)
            .header("typ", "JWT")
            .mint()
    };
    let volume = TokenVolume::new("");
    volume
        .kubelet
        .write([("one", token("one")), ("two", token("two"))])
        .unwrap();
    let services = format!(" {url} = one , {url}=two ");
    let paths = format!(
        " {} , {} ",
        path_string(volume.kubelet.path("one")),
        path_string(volume.kubelet.path("two"))
    );
    let variables = [("SERVICE_URL", services.as_str()), ("TOKEN_PATH", &paths)];
    let mut client = Process::start(CLIENT, &["--once"], &variables);
    assert_eq!(
        client.wait_for_exit().await,
        Some(0),
        "{:?}",
        client.lines()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_item_of_a_list_is_rejected() {
    let lists = [
        (SERVER, "ID_ISSUER", "google"),
        (SERVER, "JWT_AUDIENCE", "me"),
        (SERVER, "TOKEN_TYPES", "JWT"),
        (SERVER, "ALGORITHMS", "RS256"),
        (SERVER, "GATE_AUDIENCE", "me"),
        (SERVER, "GATE_MEMBERS", "allUsers"),
        (CLIENT, "SERVICE_URL", "https://a.example"),
        (CLIENT, "TOKEN_PATH", "/a"),
    ];
    for (binary, name, item) in lists {
        for list in [
            format!("{item},"),
            format!(",{item}"),
            format!("{item}, ,{item}"),
        ] {
            let variables = with_variable(&REQUIRED, name, &list);
            let (code, printed) = run_invalid(binary, &[], &variables).await;
            assert_eq!(code, 2, "{name}={list}: {printed}");
            assert!(
                printed.contains("remove the extra comma"),
                "{name}={list}: {printed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_values_are_rejected_with_the_name_of_their_flag() {
    for (binary, name, value, flag) in [
        (CLIENT, "INTERVAL", "0", "--interval"),
        (CLIENT, "INTERVAL", "-1", "--interval"),
        (CLIENT, "INTERVAL", "NaN", "--interval"),
        (CLIENT, "GRACE_SECONDS", "99999999999", "--grace-seconds"),
        (CLIENT, "JSON", "maybe", "--json"),
        (CLIENT, "LOG_FORMAT", "xml", "--log-format"),
        (SERVER, "LOG_FORMAT", "xml", "--log-format"),
        (CLIENT, "SERVICE_URL", "https://a.example=", "--service-url"),
        (CLIENT, "SERVICE_URL", "ftp://a.example", "--service-url"),
        (CLIENT, "SERVICE_URL", "a.example", "--service-url"),
        (SERVER, "GOOGLE_KEYS_URL", "nonsense", "--google-keys-url"),
        (SERVER, "GATE_MEMBERS", "allUsers", "--gate-audience"),
        (SERVER, "GATE_POLICY_FILE", "/policy", "--gate-audience"),
        (SERVER, "LEEWAY", "301", "--leeway"),
        (SERVER, "ALGORITHMS", "none", "--algorithms"),
        (SERVER, "ALGORITHMS", "HS256", "--algorithms"),
        (SERVER, "MAX_CONNECTIONS", "0", "--max-connections"),
        (
            SERVER,
            "HEADER_TIMEOUT_SECONDS",
            "0",
            "--header-timeout-seconds",
        ),
        (
            SERVER,
            "HANDSHAKE_TIMEOUT_SECONDS",
            "0",
            "--handshake-timeout-seconds",
        ),
        (
            SERVER,
            "GRACE_SECONDS",
            "18446744073709551615",
            "--grace-seconds",
        ),
        (SERVER, "OPTIONAL", "maybe", "--optional"),
        (SERVER, "TOKEN_REVIEW", "maybe", "--token-review"),
        (SERVER, "TOKEN_REVIEW_TTL", "0", "--token-review-ttl"),
        (SERVER, "TOKEN_REVIEW_TTL", "601", "--token-review-ttl"),
    ] {
        let variables = with_variable(&REQUIRED, name, value);
        let (code, printed) = run_invalid(binary, &[], &variables).await;
        assert_eq!(code, 2, "{name}={value}: {printed}");
        assert!(printed.contains(flag), "{name}={value}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_libraries_name_flags_instead_of_methods() {
    for (arguments, flag) in [
        (
            &["--issuer", "http://issuer.example"][..],
            "--insecure-loopback-http",
        ),
        (&["--issuer", "kubernetes"], "--issuer"),
        (&["--issuer", "nonsense"], "--issuer (ID_ISSUER)"),
        (&["--issuer", "oidc:nonsense"], "--issuer (ID_ISSUER)"),
        (
            &["--issuer", "oidc:ftp://a.example"],
            "--issuer (ID_ISSUER)",
        ),
        (
            &["--issuer", "https://a:b@a.example"],
            "--issuer (ID_ISSUER)",
        ),
        (
            &["--issuer", "google", "--token-review", "refuse"],
            "--token-review (TOKEN_REVIEW)",
        ),
    ] {
        let (_, printed) =
            run_invalid(SERVER, &[arguments, &["--audience", "me"]].concat(), &[]).await;
        assert!(printed.contains(flag), "{printed}");
        for method in [
            "insecure_loopback_http",
            "keys_json",
            "Issuer::",
            "api_token_file",
            "`audience`",
        ] {
            assert!(!printed.contains(method), "{printed}");
        }
    }
    let variables = [
        ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", "1"),
    ];
    let arguments = [
        "--issuer",
        "kubernetes",
        "--audience",
        "me",
        "--api-token-file",
        "/nowhere/token",
    ];
    let (_, printed) = run_invalid(SERVER, &arguments, &variables).await;
    assert!(
        printed.contains("/nowhere/token") && printed.contains("--api-token-file"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_does_not_send_a_token_over_plain_http() {
    let issuer = TestIssuer::start().await.unwrap();
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let path = volume.token_path();
    let arguments = [
        "--once",
        "--service-url",
        "http://a.example",
        "--token-path",
        &path,
    ];
    let (code, printed) = run_invalid(CLIENT, &arguments, &[]).await;
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("use https"), "{printed}");
    assert!(!printed.contains("insecure_http"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_of_ca_certificates_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path_string(path)
    };
    let begin = "-----BEGIN CERTIFICATE-----\n";
    for path in [
        "/nowhere/ca.crt".to_owned(),
        path_string(folder.path()),
        file("empty", ""),
        file("other", "no certificate\n"),
        file("cut", &format!("{begin}MIIB")),
        file(
            "wrong",
            &format!("{begin}AAAA\n-----END CERTIFICATE-----\n"),
        ),
    ] {
        let variables = [("CA_FILE", path.as_str()), ("IDENTITY", "none")];
        let arguments = ["--once", "--service-url", "https://127.0.0.1:1"];
        let (code, printed) = run_invalid(CLIENT, &arguments, &variables).await;
        assert_eq!(code, 1, "{printed}");
        assert!(
            printed.contains(&path) && printed.contains("CA_FILE"),
            "{path}: {printed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_types_algorithms_and_leeway_can_be_configured() {
    let issuer = TestIssuer::start().await.unwrap();
    let jwt = service_account_token(&issuer, AUDIENCE)
        .header("typ", "JWT")
        .mint();
    let access_token = service_account_token(&issuer, AUDIENCE)
        .header("typ", "at+jwt")
        .mint();
    let expired = service_account_token(&issuer, AUDIENCE)
        .issued_at(SystemTime::now() - Duration::from_secs(600 + 100))
        .lifetime(Duration::from_secs(600))
        .mint();
    for (flags, expected) in [
        (&[][..], [200, 401, 401]),
        (&["--token-types", "at+jwt"], [401, 200, 401]),
        (&["--token-types", "JWT,at+jwt"], [200, 200, 401]),
        (&["--algorithms", "ES256"], [401, 401, 401]),
        (&["--algorithms", "ES256,RS256"], [200, 401, 401]),
        (&["--leeway", "300"], [200, 401, 200]),
    ] {
        let server = Server::start(issuer.url(), flags).await;
        for (token, expected) in [&jwt, &access_token, &expired].into_iter().zip(expected) {
            let status = server.status("/private", token).await;
            assert_eq!(status, expected, "{flags:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_can_be_disabled() {
    let issuer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    for (flags, has_hits) in [
        (&[][..], true),
        (&["--cache-tokens", "0"], false),
        (&["--cache-bytes", "0"], false),
    ] {
        let server = Server::start(issuer.url(), flags).await;
        for _ in 0..3 {
            assert_eq!(server.status("/private", &token).await, 200);
        }
        let metrics = http_client().get(server.url("/metrics")).send().await;
        let metrics = metrics.unwrap().text().await.unwrap();
        assert_eq!(
            metrics.contains("oidc_guard_cache_hits_total 2"),
            has_hits,
            "{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_token_are_admitted_if_the_policy_or_optional_mode_allows_it() {
    let issuer = TestIssuer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policy = path_string(folder.path().join("policy.yaml"));
    std::fs::write(&policy, "allow: [allUsers]\n").unwrap();
    let token = service_account_token(&issuer, AUDIENCE).mint();
    for flags in [&["--policy-file", &policy][..], &["--optional"]] {
        let server = Server::start(issuer.url(), flags).await;
        for (path, key) in [("/private", "caller"), ("/whoami", "application")] {
            let response = http_client().get(server.url(path)).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            assert_eq!(body[key], Value::Null, "{path}");
            assert_eq!(server.status(path, "not.a.token").await, 401, "{path}");
            assert_eq!(server.status(path, &token).await, 200);
        }
    }
}

/// Returns an address of 127.0.0.1 on which nothing listens.
fn unused_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_can_be_served_on_a_separate_port() {
    let issuer = TestIssuer::start().await.unwrap();
    let admin = unused_address();
    let port = admin.port().to_string();
    let server = Server::start(issuer.url(), &["--admin-port", &port]).await;
    let line = "serving /healthz, /readyz and /metrics";
    server.process.wait_for_line(line).await;
    let token = service_account_token(&issuer, AUDIENCE).mint();
    assert_eq!(server.status("/private", &token).await, 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.status(path, &token).await, 404, "{path}");
        let response = http_client().get(format!("http://{admin}{path}")).send();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        if path == "/metrics" {
            let metrics = response.text().await.unwrap();
            assert!(
                metrics.contains("# HELP oidc_guard_decisions_total "),
                "{metrics}"
            );
        }
    }
    let private = format!("http://{admin}/private");
    assert_eq!(get_status(&private, &token).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_requests_are_not_logged_as_errors_while_keys_are_missing() {
    let is_probe = |line: &&String| line.contains("/readyz");
    let issuer = format!("http://{}", unused_address());
    let signer = TestIssuer::start().await.unwrap();
    let token = service_account_token(&signer, AUDIENCE)
        .claim("iss", issuer.as_str())
        .mint();
    let server = Server::start(&issuer, &[]).await;
    for _ in 0..5 {
        assert_eq!(server.status("/readyz", &token).await, 503);
        assert_eq!(server.status("/private", &token).await, 503);
    }
    let line = server.process.wait_for_line("/readyz").await;
    for part in [" WARN ", "status=503", "reason=", issuer.as_str()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let lines = server.process.lines();
    assert!(
        !lines.iter().any(|line| line.contains("ERROR")),
        "{lines:?}"
    );
    assert_eq!(lines.iter().filter(is_probe).count(), 1, "{lines:?}");
}

/// Returns the status and the body of the response to `/readyz`.
async fn readiness(server: &Server) -> (u16, String) {
    let response = http_client().get(server.url("/readyz")).send();
    let response = response.await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_requires_the_keys_of_the_issuers_in_ready_issuers() {
    let issuer = TestIssuer::start().await.unwrap();
    let unreachable = format!("oidc:http://{}", unused_address());
    let issuers = format!("{},{unreachable}", issuer.url());
    let no_keys = format!(
        "no keys of {}: GET ",
        unreachable.trim_start_matches("oidc:")
    );
    for (ready_issuers, status) in [
        ("", 503),
        ("all", 503),
        (unreachable.as_str(), 503),
        ("any", 200),
        (issuer.url(), 200),
    ] {
        let arguments = [&ON_LOOPBACK[..], &trusting(&issuers, &[])].concat();
        let variables = [("READY_ISSUERS", ready_issuers)];
        let server = Server::start_with(&arguments, &variables).await;
        server
            .process
            .wait_for_line("keys could not be fetched")
            .await;
        server.process.wait_for_line("keys fetched").await;
        let expected = if status == 200 { "ready\n" } else { "" };
        let (found, body) = readiness(&server).await;
        assert_eq!(found, status, "{ready_issuers}: {body}");
        assert!(body.starts_with(&format!("{expected}{no_keys}")), "{body}");
        assert!(body.contains("Connection refused"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_issuer_that_is_not_trusted_is_an_error() {
    for issuers in ["oidc:https://id.example", "all,google", "google,"] {
        let flags = ["--ready-issuers", issuers];
        let arguments = [&trusting("google", &flags)[..], &ON_LOOPBACK].concat();
        let (_, printed) = run_invalid(SERVER, &arguments, &[]).await;
        assert!(printed.contains("--ready-issuers"), "{issuers}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_query_is_not_logged() {
    let issuer = TestIssuer::start().await.unwrap();
    let arguments = [&ON_LOOPBACK[..], &trusting(issuer.url(), &[])].concat();
    let server = Server::start_with(&arguments, &[("RUST_LOG", "trace")]).await;
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let http2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    for http in [http_client(), http2.build().unwrap()] {
        for path in ["/private", "/nowhere", "/", "/readyz"] {
            let url = server.url(&format!("{path}?access_token={token}"));
            http.get(url).send().await.unwrap();
        }
    }
    server.process.wait_for_line("path=\"/private\"").await;
    let lines = server.process.lines();
    for (text, message) in [
        (token.as_str(), "the token is in the log"),
        ("access_token", "the query is in the log"),
    ] {
        assert!(!lines.iter().any(|line| line.contains(text)), "{message}");
    }
}
