//! The identities that the client can send, and how the gate and the application's guard respond to each.

use reqwest_wi_auth::testing::FakeMetadataServer;
use serde_json::Value;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{
    AUDIENCE, NO_VARIABLES, SERVER, Server, TokenVolume, http_client, service_account_token,
    start_client,
};

const GATE_AUDIENCE: &str = "https://service.run.example";
const ACCOUNT: &str = "gke-sa@project.iam.gserviceaccount.com";

/// A cluster with a volume, Google, and a metadata server that provides Google's tokens.
struct Environment {
    cluster: TestIssuer,
    volume: TokenVolume,
    _google: TestIssuer,
    google_keys_url: String,
    metadata: FakeMetadataServer,
}

impl Environment {
    async fn start() -> Self {
        let cluster = TestIssuer::start().await.unwrap();
        let google = TestIssuer::start().await.unwrap();
        let metadata = FakeMetadataServer::start().await.unwrap();
        let account = google.token().google_account("104", ACCOUNT);
        let account = account.claim("iss", "https://accounts.google.com");
        metadata.set_token_fn(move |audience| account.clone().audience(audience).mint());
        let volume = TokenVolume::new(&service_account_token(&cluster, AUDIENCE).mint());
        Self {
            cluster,
            volume,
            google_keys_url: format!("{}/openid/v1/jwks", google.url()),
            _google: google,
            metadata,
        }
    }

    /// Starts a server that accepts the cluster's tokens, behind a gate that requires Google's.
    async fn start_gated_server(&self) -> Server {
        let member = format!("serviceAccount:{ACCOUNT}");
        let gate = [
            "--gate-audience",
            GATE_AUDIENCE,
            "--gate-members",
            &member,
            "--google-keys-url",
            &self.google_keys_url,
        ];
        Server::start(self.cluster.url(), &gate).await
    }

    /// Runs a client that polls the server once. Returns its exit code and the lines that it printed.
    async fn poll_once(
        &self,
        server: &Server,
        identity: &str,
        more: &[&str],
    ) -> (Option<i32>, Vec<String>) {
        let url = format!("{}={GATE_AUDIENCE}", server.url(""));
        let path = self.volume.token_path();
        let arguments = [
            "--once",
            "--identity",
            identity,
            "--service-url",
            &url,
            "--token-path",
            &path,
            "--metadata-host",
            self.metadata.host(),
        ];
        let mut client = start_client(&[&arguments[..], more].concat());
        let code = client.wait_for_exit().await;
        (code, client.lines())
    }
}

fn contains(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn gate_and_guard_admit_a_request_with_a_token_for_each() {
    let environment = Environment::start().await;
    let server = environment.start_gated_server().await;
    let (code, lines) = environment.poll_once(&server, "both", &[]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(
        contains(&lines, "mapped GCP SvcAccnt via Metadata server")
            && contains(&lines, "GET /private: 200"),
        "{lines:?}"
    );
    assert!(!contains(&lines, "eyJ"), "the client printed a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_rejects_anonymous_callers_and_one_token_is_not_enough_for_gate_and_guard() {
    let environment = Environment::start().await;
    let server = environment.start_gated_server().await;
    for (identity, open, private) in [
        ("none", 403, 403),
        ("cluster", 401, 401),
        ("google", 200, 401),
    ] {
        let (code, lines) = environment.poll_once(&server, identity, &[]).await;
        assert_eq!(code, Some(1), "{identity}");
        assert!(
            contains(&lines, &format!("GET /: {open}")),
            "{identity}: {lines:?}"
        );
        assert!(
            contains(&lines, &format!("GET /private: {private}")),
            "{identity}: {lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_returns_the_callers_of_gate_and_guard() {
    let environment = Environment::start().await;
    let server = environment.start_gated_server().await;
    let google = http_client()
        .get(format!(
            "http://{}/computeMetadata/v1/instance/service-accounts/default/identity?audience={GATE_AUDIENCE}&format=full",
            environment.metadata.host()
        ))
        .header("metadata-flavor", "Google");
    let google = google.send().await.unwrap().text().await.unwrap();
    let projected = std::fs::read_to_string(environment.volume.token_path()).unwrap();
    let response = http_client()
        .get(server.url("/whoami"))
        .header("x-serverless-authorization", format!("Bearer {google}"))
        .bearer_auth(projected);
    let response = response.send().await.unwrap().text().await.unwrap();
    let callers: Value = serde_json::from_str(&response).unwrap();
    assert_eq!(callers["gate"]["google"]["email"], ACCOUNT);
    assert_eq!(
        callers["application"]["kubernetes"]["service_account"]["name"],
        "gke-sa"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_output_has_a_line_for_each_response_of_each_service() {
    let environment = Environment::start().await;
    let gated = environment.start_gated_server().await;
    let ungated = Server::start(environment.cluster.url(), &[]).await;
    let second = format!("{}={AUDIENCE}", ungated.url(""));
    let (code, lines) = environment
        .poll_once(&gated, "both", &["--json", "--service-url", &second])
        .await;
    assert_eq!(code, Some(0), "{lines:?}");
    let responses: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(responses.len(), 4);
    assert!(
        responses
            .iter()
            .all(|response| response["status"] == 200 && response["identity"] == "both")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gated_server_serves_health_readiness_and_metrics_without_a_token() {
    let environment = Environment::start().await;
    let server = environment.start_gated_server().await;
    let (_, lines) = environment.poll_once(&server, "both", &[]).await;
    assert!(contains(&lines, "200"));
    for (path, expected) in [
        ("/healthz", "ok"),
        ("/readyz", "ready"),
        ("/metrics", "oidc_guard_decisions_total"),
    ] {
        let response = http_client().get(server.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let text = response.text().await.unwrap();
        assert!(text.contains(expected), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_reports_invalid_settings_and_does_not_start() {
    for (arguments, message) in [
        (
            &["--issuer", "kubernetes", "--audience", "me"][..],
            "KUBERNETES_SERVICE_HOST",
        ),
        (
            &["--issuer", "nonsense", "--audience", "me"],
            "gke:PROJECT/LOCATION/CLUSTER",
        ),
        (
            &["--issuer", "http://issuer.example", "--audience", "me"],
            "https",
        ),
        (&["--issuer", "https://issuer.example"], "--audience"),
        (
            &[
                "--issuer",
                "https://issuer.example",
                "--audience",
                "me",
                "--policy-file",
                "/nowhere",
            ],
            "/nowhere",
        ),
        (
            &[
                "--issuer",
                "https://issuer.example",
                "--audience",
                "me",
                "--tls-key",
                "/k",
            ],
            "--tls-certificate",
        ),
    ] {
        let mut server = Process::start(SERVER, arguments, &NO_VARIABLES);
        assert_ne!(server.wait_for_exit().await, Some(0));
        server.wait_for_line(message).await;
    }
}
