//! The server and the client, each run as a program.

use serde_json::Value;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{
    AUDIENCE, CLIENT, Server, TokenVolume, http_client, service_account_token, start_client,
};

/// Requests a path of the server, with a token or without.
async fn get(server: &Server, path: &str, token: Option<&str>) -> reqwest::Response {
    let request = http_client().get(server.url(path));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap()
}

/// Waits until a program that prints to both streams has ended. Returns its exit code and all that it printed.
async fn wait_for_output(program: &mut Process) -> (Option<i32>, String) {
    let code = program.wait_for_exit().await;
    (code, program.lines().join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_path_responds_to_any_caller() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let response = get(&server, "/", None).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.text().await.unwrap(),
        r#"{"msg": "hello-exposed"}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guarded_path_rejects_requests_without_a_valid_token() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let other = service_account_token(&issuer, "https://other.example").mint();
    for token in [None, Some(other.as_str()), Some("not.a.token")] {
        let response = get(&server, "/private", token).await;
        assert_eq!(response.status(), 401);
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer realm="), "{challenge}");
        assert_eq!(response.text().await.unwrap(), "401 - Unauthorized");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guarded_path_returns_the_caller() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let token = service_account_token(&issuer, AUDIENCE).mint();
    let response = get(&server, "/private", Some(&token)).await;
    assert_eq!(response.status(), 200);
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["msg"], "hello-private");
    assert_eq!(
        body["caller"]["subject"],
        "system:serviceaccount:id-namespace:gke-sa"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_admitted_with_the_token_of_its_volume() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let arguments = [
        "--once",
        "--service-url",
        &server.url(""),
        "--token-path",
        &volume.token_path(),
    ];
    let (code, output) = wait_for_output(&mut start_client(&arguments)).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains("GET /: 200") && output.contains("GET /private: 200"),
        "{output}"
    );
    assert!(
        !output.contains("eyJ"),
        "the client printed a token: {output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_its_token_file_names_the_path() {
    let path = "/nowhere/to/be/found/gke-sa";
    let arguments = [
        "--service-url",
        "https://auth-server.example",
        "--token-path",
        path,
    ];
    let (code, output) = wait_for_output(&mut start_client(&arguments)).await;
    assert_eq!(code, Some(1));
    assert!(output.contains(path), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_with_success_on_sigterm() {
    let issuer = TestIssuer::start().await.unwrap();
    let mut server = Server::start(issuer.url(), &[]).await;
    server.process.signal("-TERM");
    assert_eq!(server.process.wait_for_exit().await, Some(0));
}

/// Returns the value of a metric without labels, or `None` if the response does not contain it.
async fn metric(url: &str, name: &str) -> Option<f64> {
    let text = http_client().get(url).send().await.unwrap();
    let text = text.text().await.unwrap();
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    values.next()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_reports_its_tasks_of_which_each_connection_is_one() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let url = server.url("/metrics");
    let before = metric(&url, "tokio_alive_tasks").await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..20 {
        let connection = tokio::net::TcpStream::connect(&server.address).await;
        connections.push(connection.unwrap());
    }
    // They are accepted in turn, before the connection of this request.
    let after = metric(&url, "tokio_alive_tasks").await.unwrap();
    assert!(after >= before + 15.0, "{before} before, {after} after");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_serves_its_metrics_on_the_admin_port() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let (url, path) = (server.url(""), volume.token_path());
    let arguments = ["--service-url", &url, "--token-path", &path];
    let admin = ["--address", "127.0.0.1", "--admin-port", "0"];
    let arguments = [&arguments[..], &admin].concat();
    let client = Process::start(CLIENT, &arguments, &[("RUST_LOG", "info")]);
    let line = client.wait_for_line("serving /metrics address=").await;
    let (_, address) = line.split_once("address=").unwrap();
    let metrics = format!("http://{}/metrics", address.trim());
    client.wait_for_line("GET /private: 200").await;
    assert!(metric(&metrics, "tokio_alive_tasks").await.unwrap() >= 1.0);
    let text = http_client().get(&metrics).send().await.unwrap();
    let text = text.text().await.unwrap();
    assert!(
        text.contains("reqwest_wi_auth_file_last_read_successful"),
        "{text}"
    );
    assert!(!text.contains("eyJ"), "the metrics contain a token");
}
