//! The programs as black boxes while everything that can change does.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use serde_json::Value;
use support::{AUDIENCE, Ca, Program, client, replace, server, text};
use tower_oidc_guard::testing::TestIssuer;

const ALLOW: &str = "allow: [\"system:serviceaccount:id-namespace:gke-sa\"]\n";

fn token(issuer: &TestIssuer) -> String {
    let token = issuer.token().audience(AUDIENCE);
    token.service_account("id-namespace", "gke-sa").mint()
}

/// What the client's lines of JSON say: answers by status, and how many requests got none.
fn answers(lines: &[String]) -> (Vec<u64>, usize) {
    let lines: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let statuses: Vec<_> = lines
        .iter()
        .filter_map(|line| line["status"].as_u64())
        .collect();
    let failed = lines.len() - statuses.len();
    (statuses, failed)
}

/// Waits until the client has got so many more answers.
async fn more_answers(client: &Program, count: usize) {
    let before = answers(&client.lines()).0.len();
    for _ in 0..2000 {
        if answers(&client.lines()).0.len() >= before + count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no more answers: {:?}", client.lines().last());
}

#[tokio::test(flavor = "multi_thread")]
async fn token_policy_certificate_issuer_and_server_change_under_load_without_an_unexpected_answer()
{
    let folder = tempfile::tempdir().unwrap();
    let (ca, mut issuer) = (Ca::new(), TestIssuer::start().await.unwrap());
    let file = |name: &str| folder.path().join(name);
    let (certificate, key) = ca.certificate();
    std::fs::write(file("ca.crt"), ca.pem()).unwrap();
    std::fs::write(file("tls.crt"), certificate).unwrap();
    std::fs::write(file("tls.key"), key).unwrap();
    let kubelet = Kubelet::new(file("volume")).unwrap();
    kubelet
        .write([
            ("gke-sa", token(&issuer)),
            ("policy.yaml", ALLOW.to_owned()),
        ])
        .unwrap();

    let (policy, crt, key) = (
        text(kubelet.path("policy.yaml")),
        text(file("tls.crt")),
        text(file("tls.key")),
    );
    let issuer_url = issuer.url().to_owned();
    let settings = [
        "--issuer",
        &issuer_url,
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
        "--policy-file",
        &policy,
        "--tls-certificate",
        &crt,
        "--tls-key",
        &key,
    ];
    let (mut running, address) = server(&settings).await;
    let (url, path, trusted) = (
        format!("https://{address}"),
        text(kubelet.path("gke-sa")),
        text(file("ca.crt")),
    );
    let client = client(&[
        "--service-url",
        &url,
        "--token-path",
        &path,
        "--ca-file",
        &trusted,
        "--json",
        "--interval",
        "0.001",
    ]);
    more_answers(&client, 20).await;

    for _ in 0..3 {
        kubelet.rotate("gke-sa", token(&issuer)).unwrap();
        more_answers(&client, 20).await;
    }
    // A guard asks for an unknown key once in five seconds at most; the first time was at its start.
    tokio::time::sleep(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    kubelet.rotate("gke-sa", token(&issuer)).unwrap();
    more_answers(&client, 20).await;

    let both = format!("{ALLOW}deny: [\"system:serviceaccounts:other\"]\n");
    kubelet.rotate("policy.yaml", &both).unwrap();
    more_answers(&client, 20).await;

    let (certificate, secret) = ca.certificate();
    replace(&file("tls.crt"), &certificate);
    more_answers(&client, 20).await;
    replace(&file("tls.key"), &secret);
    more_answers(&client, 20).await;

    issuer.stop().await;
    more_answers(&client, 20).await;
    issuer.restart().await.unwrap();
    more_answers(&client, 20).await;

    let (statuses, failed) = answers(&client.lines());
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
    assert_eq!(failed, 0, "{:?}", client.lines());

    // The server restarts at its port, told to and killed. Requests between the two get no answer, but none gets a
    // wrong one.
    let port = address.rsplit(':').next().unwrap().to_owned();
    let again = [&settings[..], &["--address", "127.0.0.1", "--port", &port]].concat();
    for (signal, code) in [("-TERM", Some(0)), ("-KILL", None)] {
        running.signal(signal);
        assert_eq!(running.ended().await, code, "{signal}");
        running = Program::start(env!("CARGO_BIN_EXE_auth-server"), &support::strings(&again));
        running.line("listening").await;
        more_answers(&client, 20).await;
    }
    let (statuses, _) = answers(&client.lines());
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");

    // And last, the policy that lets nobody in.
    kubelet.rotate("policy.yaml", "allow: []\n").unwrap();
    for _ in 0..2000 {
        let lines = client.lines();
        if lines
            .last()
            .is_some_and(|line| line.contains("\"status\":403"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the new policy was not heeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_finished_at_the_end() {
    let issuer = TestIssuer::start().await.unwrap();
    let (mut server, address) = server(&[
        "--issuer",
        issuer.url(),
        "--insecure-loopback-http",
        "--audience",
        "me",
    ])
    .await;
    // A request whose head is not whole yet.
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.signal("-TERM");
    server.line("finishes what is under way").await;
    stream
        .write_all(b"connection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("hello-exposed"), "{answer}");
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_the_server_takes_connections_still() {
    let issuer = TestIssuer::start().await.unwrap();
    let (mut server, address) = server(&[
        "--issuer",
        issuer.url(),
        "--insecure-loopback-http",
        "--audience",
        "me",
        "--drain-seconds",
        "1",
    ])
    .await;
    server.signal("-TERM");
    server.line("takes no more connections soon").await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(format!("http://{address}/")).send().await;
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(server.ended().await, Some(0));
    assert!(http.get(format!("http://{address}/")).send().await.is_err());
}
