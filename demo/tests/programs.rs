//! The server and the client as programs of their own.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use serde_json::Value;
use tower_oidc_guard::testing::TestIssuer;

const AUDIENCE: &str = "https://auth-server.example";

/// A server that runs until it is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(issuer: &TestIssuer) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_auth-server"))
            .args([
                "--address",
                "127.0.0.1",
                "--port",
                "0",
                "--insecure-loopback-http",
            ])
            .args(["--issuer", issuer.url(), "--audience", AUDIENCE])
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut lines = log.by_ref().map_while(Result::ok);
        let line = lines.find(|line| line.contains("address=")).unwrap();
        let address = line
            .split("address=")
            .nth(1)
            .expect(&line)
            .trim()
            .to_owned();
        // The rest is read, so that the server is never held up by a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            process,
            url: format!("http://{address}"),
        }
    }

    async fn get(&self, path: &str, token: Option<&str>) -> reqwest::Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{}{path}", self.url));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn token(issuer: &TestIssuer, audience: &str) -> String {
    issuer
        .token()
        .audience(audience)
        .service_account("id-namespace", "gke-sa")
        .mint()
}

async fn client(arguments: Vec<String>) -> Output {
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_auth-client"));
        command
            .args(arguments)
            .env("NO_PROXY", "127.0.0.1")
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_path_answers_anyone() {
    let issuer = TestIssuer::start().await.unwrap();
    let response = Server::start(&issuer).get("/", None).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.text().await.unwrap(),
        r#"{"msg": "hello-exposed"}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guarded_path_refuses_who_has_no_valid_token() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(&issuer);
    let other = token(&issuer, "https://other.example");
    for token in [None, Some(other.as_str()), Some("not.a.token")] {
        let response = server.get("/private", token).await;
        assert_eq!(response.status(), 401);
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer realm="), "{challenge}");
        assert_eq!(response.text().await.unwrap(), "401 - Unauthorized");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guarded_path_says_who_called() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(&issuer);
    let response = server
        .get("/private", Some(&token(&issuer, AUDIENCE)))
        .await;
    assert_eq!(response.status(), 200);
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["msg"], "hello-private");
    assert_eq!(
        body["caller"]["subject"],
        "system:serviceaccount:id-namespace:gke-sa"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_let_in_with_the_token_of_its_volume() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(&issuer);
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet
        .write([("gke-sa", token(&issuer, AUDIENCE))])
        .unwrap();
    let path = kubelet.path("gke-sa").display().to_string();
    let output = client(vec![
        "--once".into(),
        "--service-url".into(),
        server.url.clone(),
        "--token-path".into(),
        path,
    ])
    .await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("GET /: 200") && told.contains("GET /private: 200"),
        "{told}"
    );
    assert!(!told.contains("eyJ"), "no token is shown: {told}");
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
    let output = client(arguments.map(String::from).to_vec()).await;
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(path), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_in_good_order_when_it_is_told_to() {
    let issuer = TestIssuer::start().await.unwrap();
    let mut server = Server::start(&issuer);
    let pid = server.process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    for _ in 0..500 {
        if let Some(status) = server.process.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still there after five seconds");
}
