//! The programs' flags and environment variables, and what operators see.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use reqwest_wi_auth::testing::Kubelet;
use serde_json::Value;
use support::{AUDIENCE, Program, server, server_with, strings, text};
use tower_oidc_guard::testing::TestIssuer;

const SERVER: &str = env!("CARGO_BIN_EXE_auth-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_auth-client");

/// Returns the names of all environment variables that a program's help names.
fn variables(binary: &str) -> BTreeSet<String> {
    let help = Command::new(binary).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let names = help.split("[env: ").skip(1);
    names
        .map(|rest| rest.split(['=', ']']).next().unwrap().to_owned())
        .collect()
}

/// Starts a program that cannot start, and returns its exit code and all that it printed.
async fn refused(binary: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut program = Program::start_with(binary, &strings(arguments), variables);
    let code = program.ended().await.unwrap();
    assert_ne!(code, 0, "{arguments:?} {variables:?}");
    // What it printed last may not have been read yet.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    (code, program.lines().join("\n"))
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn service_account(issuer: &TestIssuer, audience: &str) -> tower_oidc_guard::testing::TokenSpec {
    let token = issuer.token().audience(audience);
    token.service_account("id-namespace", "gke-sa")
}

async fn status(url: &str, token: &str) -> u16 {
    let answer = http().get(url).bearer_auth(token).send().await;
    answer.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_environment_variable_is_not_set_whichever_it_is() {
    let issuer = TestIssuer::start().await.unwrap();
    let names = variables(SERVER);
    assert!(names.len() >= 20 && names.contains("OPTIONAL"), "{names:?}");
    for blank in ["", "  "] {
        let blanks: Vec<_> = names.iter().map(|name| (name.as_str(), blank)).collect();
        let arguments = [
            "--issuer",
            issuer.url(),
            "--insecure-loopback-http",
            "--audience",
            AUDIENCE,
        ];
        let (_server, address) = server_with(
            &[&arguments[..], &["--address", "127.0.0.1", "--port", "0"]].concat(),
            &blanks,
        )
        .await;
        let token = service_account(&issuer, AUDIENCE).mint();
        let url = format!("http://{address}");
        assert_eq!(status(&format!("{url}/private"), &token).await, 200);

        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet.write([("gke-sa", token)]).unwrap();
        let names = variables(CLIENT);
        assert!(
            names.contains("JSON") && names.contains("INTERVAL"),
            "{names:?}"
        );
        let blanks: Vec<_> = names.iter().map(|name| (name.as_str(), blank)).collect();
        let path = text(kubelet.path("gke-sa"));
        let arguments = ["--once", "--service-url", &url, "--token-path", &path];
        let mut client = Program::start_with(CLIENT, &strings(&arguments), &blanks);
        assert_eq!(client.ended().await, Some(0), "{:?}", client.lines());
        client.line("##### Projected token client").await;
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
        let (code, said) = refused(SERVER, &[], variables).await;
        assert_eq!(code, 2);
        for part in ["--issuer", "ID_ISSUER", "--audience", "JWT_AUDIENCE"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let (code, said) = refused(CLIENT, &[], variables).await;
        assert_eq!(code, 2);
        assert!(
            said.contains("--service-url") && said.contains("SERVICE_URL"),
            "{said}"
        );
    }
    let only_key = [
        ("ID_ISSUER", "google"),
        ("JWT_AUDIENCE", "me"),
        ("TLS_KEY", "/k"),
    ];
    let (_, said) = refused(SERVER, &[], &only_key).await;
    assert!(
        said.contains("--tls-certificate") && said.contains("TLS_CERTIFICATE"),
        "{said}"
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
    let arguments = [
        "--address",
        "127.0.0.1",
        "--port",
        "0",
        "--insecure-loopback-http",
    ];
    let (_server, address) = server_with(&arguments, &variables).await;
    let url = format!("http://{address}");
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    let token = |audience| {
        service_account(&issuer, audience)
            .header("typ", "JWT")
            .mint()
    };
    kubelet
        .write([("one", token("one")), ("two", token("two"))])
        .unwrap();
    let services = format!(" {url} = one , {url}=two ");
    let paths = format!(
        " {} , {} ",
        text(kubelet.path("one")),
        text(kubelet.path("two"))
    );
    let variables = [("SERVICE_URL", services.as_str()), ("TOKEN_PATH", &paths)];
    let mut client = Program::start_with(CLIENT, &strings(&["--once"]), &variables);
    assert_eq!(client.ended().await, Some(0), "{:?}", client.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_item_of_a_list_is_refused() {
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
            let mut variables = vec![
                ("ID_ISSUER", "google"),
                ("JWT_AUDIENCE", "me"),
                ("SERVICE_URL", "https://a.example"),
            ];
            variables.retain(|(other, _)| *other != name);
            variables.push((name, &list));
            let (code, said) = refused(binary, &[], &variables).await;
            assert_eq!(code, 2, "{name}={list}: {said}");
            assert!(
                said.contains("remove the extra comma"),
                "{name}={list}: {said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_cannot_work_are_refused_by_the_name_of_their_flag() {
    let base = [
        ("ID_ISSUER", "google"),
        ("JWT_AUDIENCE", "me"),
        ("SERVICE_URL", "https://a.example"),
    ];
    for (binary, name, value, flag) in [
        (CLIENT, "INTERVAL", "0", "--interval"),
        (CLIENT, "INTERVAL", "-1", "--interval"),
        (CLIENT, "INTERVAL", "NaN", "--interval"),
        (CLIENT, "GRACE_SECONDS", "99999999999", "--grace-seconds"),
        (CLIENT, "JSON", "maybe", "--json"),
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
    ] {
        let mut variables: Vec<_> = base
            .into_iter()
            .filter(|(other, _)| *other != name)
            .collect();
        variables.push((name, value));
        let (code, said) = refused(binary, &[], &variables).await;
        assert_eq!(code, 2, "{name}={value}: {said}");
        assert!(said.contains(flag), "{name}={value}: {said}");
    }
    // What a library refuses is said in this program's words, too.
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
    ] {
        let (_, said) = refused(SERVER, &[arguments, &["--audience", "me"]].concat(), &[]).await;
        assert!(said.contains(flag), "{said}");
        for method in [
            "insecure_loopback_http",
            "keys_json",
            "Issuer::",
            "api_token_file",
            "`audience`",
        ] {
            assert!(!said.contains(method), "{said}");
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
    let (_, said) = refused(SERVER, &arguments, &variables).await;
    assert!(
        said.contains("/nowhere/token") && said.contains("--api-token-file"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_cas_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        text(path)
    };
    let begin = "-----BEGIN CERTIFICATE-----\n";
    for path in [
        "/nowhere/ca.crt".to_owned(),
        text(folder.path()),
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
        let (code, said) = refused(CLIENT, &arguments, &variables).await;
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains(&path) && said.contains("CA_FILE"),
            "{path}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_can_be_told_types_algorithms_leeway_and_the_cache() {
    use std::time::{Duration, SystemTime};
    let issuer = TestIssuer::start().await.unwrap();
    let base = [
        "--issuer",
        issuer.url(),
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
    ];
    let plain = service_account(&issuer, AUDIENCE).header("typ", "JWT");
    let plain = plain.mint();
    let access = service_account(&issuer, AUDIENCE)
        .header("typ", "at+jwt")
        .mint();
    let expired = service_account(&issuer, AUDIENCE)
        .issued_at(SystemTime::now() - Duration::from_secs(600 + 100))
        .lifetime(Duration::from_secs(600))
        .mint();
    for (more, expected) in [
        (&[][..], [200, 401, 401]),
        (&["--token-types", "at+jwt"], [401, 200, 401]),
        (&["--token-types", "JWT,at+jwt"], [200, 200, 401]),
        (&["--algorithms", "ES256"], [401, 401, 401]),
        (&["--algorithms", "ES256,RS256"], [200, 401, 401]),
        (&["--leeway", "300"], [200, 401, 200]),
    ] {
        let (_server, address) = server(&[&base[..], more].concat()).await;
        let url = format!("http://{address}/private");
        for (token, expected) in [&plain, &access, &expired].into_iter().zip(expected) {
            assert_eq!(status(&url, token).await, expected, "{more:?}");
        }
    }
    for (more, hits) in [
        (&[][..], true),
        (&["--cache-tokens", "0"], false),
        (&["--cache-bytes", "0"], false),
    ] {
        let (_server, address) = server(&[&base[..], more].concat()).await;
        for _ in 0..3 {
            assert_eq!(
                status(&format!("http://{address}/private"), &plain).await,
                200
            );
        }
        let metrics = http()
            .get(format!("http://{address}/metrics"))
            .send()
            .await
            .unwrap();
        let metrics = metrics.text().await.unwrap();
        assert_eq!(
            metrics.contains("oidc_guard_cache_hits_total 2"),
            hits,
            "{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_callers_are_answered_where_the_policy_or_the_mode_admits_them() {
    let issuer = TestIssuer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policy = text(folder.path().join("policy.yaml"));
    std::fs::write(&policy, "allow: [allUsers]\n").unwrap();
    let base = [
        "--issuer",
        issuer.url(),
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
    ];
    for more in [&["--policy-file", &policy][..], &["--optional"]] {
        let (_server, address) = server(&[&base[..], more].concat()).await;
        for (path, key) in [("private", "caller"), ("whoami", "application")] {
            let url = format!("http://{address}/{path}");
            let answer = http().get(&url).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(body[key], Value::Null, "{path}");
            assert_eq!(status(&url, "not.a.token").await, 401, "{path}");
            assert_eq!(
                status(&url, &service_account(&issuer, AUDIENCE).mint()).await,
                200
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_can_have_a_port_of_their_own() {
    let issuer = TestIssuer::start().await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let base = [
        "--issuer",
        issuer.url(),
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
    ];
    let (server, address) = server(&[&base[..], &["--admin-port", &port]].concat()).await;
    server.line("metrics are served at").await;
    let token = service_account(&issuer, AUDIENCE).mint();
    assert_eq!(
        status(&format!("http://{address}/private"), &token).await,
        200
    );
    for path in ["healthz", "readyz", "metrics"] {
        assert_eq!(
            status(&format!("http://{address}/{path}"), &token).await,
            404,
            "{path}"
        );
        let answer = http()
            .get(format!("http://127.0.0.1:{port}/{path}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        if path == "metrics" {
            let metrics = answer.text().await.unwrap();
            assert!(
                metrics.contains("# HELP oidc_guard_decisions_total "),
                "{metrics}"
            );
        }
    }
    assert_eq!(
        status(&format!("http://127.0.0.1:{port}/private"), &token).await,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_requests_while_keys_are_missing_are_no_errors_in_the_log() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let real = TestIssuer::start().await.unwrap();
    let token = service_account(&real, AUDIENCE)
        .claim("iss", issuer.as_str())
        .mint();
    let base = [
        "--issuer",
        &issuer,
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
    ];
    let (server, address) = server(&base).await;
    for _ in 0..5 {
        assert_eq!(
            status(&format!("http://{address}/readyz"), &token).await,
            503
        );
        assert_eq!(
            status(&format!("http://{address}/private"), &token).await,
            503
        );
    }
    let lines = server.lines();
    assert!(
        !lines.iter().any(|line| line.contains("ERROR")),
        "{lines:?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("readyz")),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_query_does_not_reach_the_log() {
    let issuer = TestIssuer::start().await.unwrap();
    let base = [
        "--issuer",
        issuer.url(),
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
    ];
    let arguments = [&base[..], &["--address", "127.0.0.1", "--port", "0"]].concat();
    let (server, address) = server_with(&arguments, &[("RUST_LOG", "trace")]).await;
    let token = service_account(&issuer, AUDIENCE).mint();
    let h2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    for http in [http(), h2.build().unwrap()] {
        for path in ["private", "nowhere", "", "readyz"] {
            let url = format!("http://{address}/{path}?access_token={token}");
            http.get(url).send().await.unwrap();
        }
    }
    server.line("path=\"/private\"").await;
    let lines = server.lines();
    assert!(
        !lines.iter().any(|line| line.contains(&token)),
        "the token is in the log"
    );
    assert!(
        !lines.iter().any(|line| line.contains("access_token")),
        "the query is in the log"
    );
}
