//! The programs under load while tokens, policies, certificates and keys change, and while the server shuts down.

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::{MAX_POLLS, POLL_INTERVAL, Process};
use crate::support::{
    AUDIENCE, Ca, NO_VARIABLES, SERVER, Server, http_client, path_string, replace_file,
    service_account_token, start_client, trusting,
};

const ALLOW: &str = "allow: [\"system:serviceaccount:id-namespace:gke-sa\"]\n";

fn token(issuer: &TestIssuer) -> String {
    service_account_token(issuer, AUDIENCE).mint()
}

/// Parses the client's lines of JSON. Returns the statuses of the responses, and the number of requests without a response.
fn parse_statuses(lines: &[String]) -> (Vec<u64>, usize) {
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

/// Waits until the client has received so many further responses.
async fn wait_for_responses(client: &Process, count: usize) {
    let before = parse_statuses(&client.lines()).0.len();
    for _ in 0..MAX_POLLS {
        if parse_statuses(&client.lines()).0.len() >= before + count {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    panic!("no further responses: {:?}", client.lines().last());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_response_is_200_while_token_key_policy_certificate_and_server_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, mut issuer) = (Ca::new(), TestIssuer::start().await.unwrap());
    let file = |name: &str| folder.path().join(name);
    let (certificate, key) = ca.issue();
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
        path_string(kubelet.path("policy.yaml")),
        path_string(file("tls.crt")),
        path_string(file("tls.key")),
    );
    let issuer_url = issuer.url().to_owned();
    let files = [
        "--policy-file",
        &policy,
        "--tls-certificate",
        &crt,
        "--tls-key",
        &key,
    ];
    let server = Server::start(&issuer_url, &files).await;
    let (mut process, address) = (server.process, server.address);
    let (url, path, trusted) = (
        format!("https://{address}"),
        path_string(kubelet.path("gke-sa")),
        path_string(file("ca.crt")),
    );
    let client = start_client(&[
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
    wait_for_responses(&client, 20).await;

    for _ in 0..3 {
        kubelet.rotate("gke-sa", token(&issuer)).unwrap();
        wait_for_responses(&client, 20).await;
    }
    // A guard fetches keys for an unknown `kid` at most once in five seconds, and it has fetched them at its start.
    tokio::time::sleep(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    kubelet.rotate("gke-sa", token(&issuer)).unwrap();
    wait_for_responses(&client, 20).await;

    let with_deny_rule = format!("{ALLOW}deny: [\"system:serviceaccounts:other\"]\n");
    kubelet.rotate("policy.yaml", &with_deny_rule).unwrap();
    wait_for_responses(&client, 20).await;

    let (certificate, key) = ca.issue();
    replace_file(&file("tls.crt"), &certificate);
    wait_for_responses(&client, 20).await;
    replace_file(&file("tls.key"), &key);
    wait_for_responses(&client, 20).await;

    issuer.stop().await;
    wait_for_responses(&client, 20).await;
    issuer.restart().await.unwrap();
    wait_for_responses(&client, 20).await;

    let (statuses, failed) = parse_statuses(&client.lines());
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
    assert_eq!(failed, 0, "{:?}", client.lines());

    // The server restarts on the same port, after it was asked to end and after it was killed. Requests in between may get
    // no response, but none may get a wrong one.
    let port = address.rsplit(':').next().unwrap().to_owned();
    let same_port = ["--address", "127.0.0.1", "--port", &port];
    let arguments = [&trusting(&issuer_url, &files)[..], &same_port].concat();
    for (signal, code) in [("-TERM", Some(0)), ("-KILL", None)] {
        process.signal(signal);
        assert_eq!(process.wait_for_exit().await, code, "{signal}");
        process = Process::start(SERVER, &arguments, &NO_VARIABLES);
        process.wait_for_address().await;
        wait_for_responses(&client, 20).await;
    }
    let (statuses, _) = parse_statuses(&client.lines());
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");

    // Finally, a policy that allows no caller.
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
    panic!("the new policy did not take effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_answered_after_sigterm() {
    let issuer = TestIssuer::start().await.unwrap();
    let mut server = Server::start(issuer.url(), &[]).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let incomplete_head = b"GET / HTTP/1.1\r\nhost: a\r\n";
    stream.write_all(incomplete_head).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.process.signal("-TERM");
    let line = "finishing the requests in flight";
    server.process.wait_for_line(line).await;
    stream
        .write_all(b"connection: close\r\n\r\n")
        .await
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.contains("hello-exposed"), "{response}");
    assert_eq!(server.process.wait_for_exit().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_accepts_connections_during_the_drain_period() {
    let issuer = TestIssuer::start().await.unwrap();
    let mut server = Server::start(issuer.url(), &["--drain-seconds", "1"]).await;
    server.process.signal("-TERM");
    let line = "still accepting connections";
    server.process.wait_for_line(line).await;
    let response = http_client().get(server.url("/")).send().await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(server.process.wait_for_exit().await, Some(0));
    assert!(http_client().get(server.url("/")).send().await.is_err());
}
