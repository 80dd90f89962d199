//! Whose tokens the client sends, and what both gates make of them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use reqwest_wi_auth::testing::{FakeMetadataServer, Kubelet};
use serde_json::Value;
use support::{AUDIENCE, Program, client, server, text};
use tower_oidc_guard::testing::TestIssuer;

const GATE_AUDIENCE: &str = "https://service.run.example";
const ACCOUNT: &str = "gke-sa@project.iam.gserviceaccount.com";

/// A cluster, Google, and a metadata server that has its tokens.
struct World {
    cluster: TestIssuer,
    keys_url: String,
    _google: TestIssuer,
    metadata: FakeMetadataServer,
    kubelet: Kubelet,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (cluster, google) = (
            TestIssuer::start().await.unwrap(),
            TestIssuer::start().await.unwrap(),
        );
        let metadata = FakeMetadataServer::start().await.unwrap();
        let account = google.token().google_account("104", ACCOUNT);
        let account = account.claim("iss", "https://accounts.google.com");
        metadata.set_token_fn(move |audience| account.clone().audience(audience).mint());
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path()).unwrap();
        let token = cluster
            .token()
            .audience(AUDIENCE)
            .service_account("id-namespace", "gke-sa");
        kubelet.write([("gke-sa", token.mint())]).unwrap();
        let keys_url = format!("{}/openid/v1/jwks", google.url());
        Self {
            cluster,
            keys_url,
            _google: google,
            metadata,
            kubelet,
            _folder: folder,
        }
    }

    /// A server that the cluster's tokens open, behind a gate that Google's do.
    async fn gated(&self) -> (Program, String) {
        let members = format!("serviceAccount:{ACCOUNT}");
        server(&[
            "--issuer",
            self.cluster.url(),
            "--insecure-loopback-http",
            "--audience",
            AUDIENCE,
            "--gate-audience",
            GATE_AUDIENCE,
            "--gate-members",
            &members,
            "--google-keys-url",
            &self.keys_url,
        ])
        .await
    }

    /// The exit code and the lines of a client that asks once.
    async fn once(
        &self,
        address: &str,
        identity: &str,
        more: &[&str],
    ) -> (Option<i32>, Vec<String>) {
        let (url, path) = (
            format!("http://{address}={GATE_AUDIENCE}"),
            text(self.kubelet.path("gke-sa")),
        );
        let arguments = [
            &[
                "--once",
                "--identity",
                identity,
                "--service-url",
                &url,
                "--token-path",
                &path,
                "--metadata-host",
                self.metadata.host(),
            ][..],
            more,
        ];
        let mut client = client(&arguments.concat());
        let code = client.ended().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        (code, client.lines())
    }
}

fn has(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_passes_the_platform_s_gate_and_the_application_s_guard_with_a_token_for_each() {
    let world = World::new().await;
    let (_server, address) = world.gated().await;
    let (code, lines) = world.once(&address, "both", &[]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(
        has(&lines, "mapped GCP SvcAccnt via Metadata server") && has(&lines, "GET /private: 200"),
        "{lines:?}"
    );
    assert!(!has(&lines, "eyJ"), "no token is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_callers_get_a_403_at_the_gate_and_one_token_does_not_open_both() {
    let world = World::new().await;
    let (_server, address) = world.gated().await;
    for (identity, open, private) in [
        ("none", 403, 403),
        ("cluster", 401, 401),
        ("google", 200, 401),
    ] {
        let (code, lines) = world.once(&address, identity, &[]).await;
        assert_eq!(code, Some(1), "{identity}");
        assert!(
            has(&lines, &format!("GET /: {open}")),
            "{identity}: {lines:?}"
        );
        assert!(
            has(&lines, &format!("GET /private: {private}")),
            "{identity}: {lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_tells_of_both_callers_and_the_used_token_has_lost_its_signature() {
    let world = World::new().await;
    let (_server, address) = world.gated().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = world.metadata.host().to_owned();
    let google = http
        .get(format!("http://{url}/computeMetadata/v1/instance/service-accounts/default/identity?audience={GATE_AUDIENCE}&format=full"))
        .header("metadata-flavor", "Google");
    let google = google.send().await.unwrap().text().await.unwrap();
    let own = std::fs::read_to_string(world.kubelet.path("gke-sa")).unwrap();
    let answer = http
        .get(format!("http://{address}/whoami"))
        .header("x-serverless-authorization", format!("Bearer {google}"))
        .bearer_auth(own);
    let answer: Value =
        serde_json::from_str(&answer.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(answer["gate"]["google"]["email"], ACCOUNT);
    assert_eq!(
        answer["application"]["kubernetes"]["service_account"]["name"],
        "gke-sa"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_there_is_a_line_for_each_answer_of_each_service() {
    let world = World::new().await;
    let (_gated, gated) = world.gated().await;
    let (_open, open) = server(&[
        "--issuer",
        world.cluster.url(),
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
    ])
    .await;
    let second = format!("http://{open}={AUDIENCE}");
    let (code, lines) = world
        .once(&gated, "both", &["--json", "--service-url", &second])
        .await;
    assert_eq!(code, Some(0), "{lines:?}");
    let answers: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 4);
    assert!(
        answers
            .iter()
            .all(|answer| answer["status"] == 200 && answer["identity"] == "both")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_find_health_readiness_and_metrics() {
    let world = World::new().await;
    let (_server, address) = world.gated().await;
    let (_, lines) = world.once(&address, "both", &[]).await;
    assert!(has(&lines, "200"));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, expected) in [
        ("healthz", "ok"),
        ("readyz", "ready"),
        ("metrics", "oidc_guard_decisions_total"),
    ] {
        let response = http
            .get(format!("http://{address}/{path}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let text = response.text().await.unwrap();
        assert!(text.contains(expected), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_are_told_and_the_server_does_not_start() {
    for (arguments, told) in [
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
        let mut server = Program::start(
            env!("CARGO_BIN_EXE_auth-server"),
            &support::strings(arguments),
        );
        assert_ne!(server.ended().await, Some(0));
        server.line(told).await;
    }
}
