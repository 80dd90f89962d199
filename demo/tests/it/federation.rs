//! A Google identity in exchange for a projected token: `IDENTITY=google` with a credential configuration, against fakes of Google's
//! Security Token Service and IAM Credentials.

use std::path::Path;

use http::StatusCode;
use reqwest_wi_auth::GoogleFederation;
use reqwest_wi_auth::testing::{
    FakeGoogle, FakeMetadataServer, GoogleFault, GoogleTokenRequest, HttpFault, Kubelet,
};
use serde_json::{Value, json};
use tower_oidc_guard::OidcGuard;
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{AUDIENCE, CLIENT, Server, TokenVolume, path_string, service_account_token};

const GATE_AUDIENCE: &str = "https://service.run.example";
const CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// A cluster outside of Google Cloud: a volume with a token for the application and one for Google, Google's servers, which verify the
/// latter with the keys of the cluster's issuer, and a server behind a gate that requires Google's identity.
struct Cluster {
    issuer: TestIssuer,
    _identities: TestIssuer,
    google: FakeGoogle,
    volume: TokenVolume,
    subject: Kubelet,
    folder: tempfile::TempDir,
    server: Server,
}

impl Cluster {
    async fn start() -> Self {
        let issuer = TestIssuer::start().await.unwrap();
        let identities = TestIssuer::start().await.unwrap();
        let google = FakeGoogle::start().await.unwrap();
        google.set_issuer(issuer.url());
        let provider = OidcGuard::builder()
            .issuer(issuer.issuer().audience(google.subject_audience()))
            .any_verified_caller()
            .build()
            .unwrap();
        google.set_subject_fn(move |token| {
            let provider = provider.clone();
            async move {
                let verified = provider.verifier().verify(token).await;
                verified
                    .map(drop)
                    .map_err(|_| "Unable to verify the ID Token signature.".to_owned())
            }
        });
        let account = identities
            .token()
            .google_account("104", google.service_account());
        let account = account.claim("iss", "https://accounts.google.com");
        google.set_token_fn(move |request| match request {
            GoogleTokenRequest::Identity { audience, .. } => {
                account.clone().audience(audience).mint()
            }
            other => panic!("unexpected: {other:?}"),
        });
        let folder = tempfile::tempdir().unwrap();
        let subject = Kubelet::new(folder.path().join("google")).unwrap();
        let member = format!("serviceAccount:{}", google.service_account());
        let keys = format!("{}/openid/v1/jwks", identities.url());
        let gate = [
            "--gate-audience",
            GATE_AUDIENCE,
            "--gate-members",
            &member,
            "--google-keys-url",
            &keys,
        ];
        let server = Server::start(issuer.url(), &gate).await;
        let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
        let cluster = Self {
            issuer,
            _identities: identities,
            google,
            volume,
            subject,
            folder,
            server,
        };
        cluster.write_subject(&cluster.google.subject_audience());
        cluster
    }

    /// Writes the token for Google.
    fn write_subject(&self, audience: &str) {
        let token = service_account_token(&self.issuer, audience).mint();
        self.subject.write([("token", token)]).unwrap();
    }

    /// Writes the credential configuration after an edit. Returns its path.
    fn write_configuration(&self, edit: impl FnOnce(&mut Value)) -> String {
        let configuration = self
            .google
            .credential_configuration(self.subject.path("token"));
        let mut configuration: Value = serde_json::from_str(&configuration).unwrap();
        edit(&mut configuration);
        let path = self.folder.path().join("credential-configuration.json");
        std::fs::write(&path, configuration.to_string()).unwrap();
        path_string(path)
    }

    /// Runs a client with the credential configuration. Returns its exit code and what it printed.
    async fn run(&self, more: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let configuration = self.write_configuration(|_| ());
        let variables = [&[(CREDENTIALS, configuration.as_str())], variables].concat();
        self.run_with(more, &variables).await
    }

    async fn run_with(&self, more: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let url = format!("{}={GATE_AUDIENCE}", self.server.url(""));
        let path = self.volume.token_path();
        let arguments = ["--service-url", &url, "--token-path", &path];
        let subcommand = more.first().filter(|first| **first == "check");
        let flags = &more[usize::from(subcommand.is_some())..];
        let arguments: Vec<_> = subcommand
            .into_iter()
            .copied()
            .chain(arguments)
            .chain(flags.iter().copied())
            .collect();
        let mut client = Process::start(CLIENT, &arguments, variables);
        let code = client.wait_for_exit().await;
        let output = client.lines().join("\n");
        assert!(!output.contains("eyJ"), "a token was printed: {output}");
        (code, output)
    }

    /// Starts a client with the credential configuration that polls often.
    fn start_client(&self, identity: &str) -> Process {
        let configuration = self.write_configuration(|_| ());
        let url = format!("{}={GATE_AUDIENCE}", self.server.url(""));
        let path = self.volume.token_path();
        let arguments = [
            &[
                "--service-url",
                &url,
                "--token-path",
                &path,
                "--identity",
                identity,
            ],
            &["--interval", "0.05"][..],
            &self.allowed(),
        ];
        Process::start(
            CLIENT,
            &arguments.concat(),
            &[(CREDENTIALS, &configuration)],
        )
    }

    /// Returns the flag that accepts the fakes in place of Google's servers.
    fn allowed(&self) -> [&str; 2] {
        ["--allow-google-origin", self.google.url()]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projected_token_is_exchanged_for_googles_identity_which_the_gate_admits() {
    let cluster = Cluster::start().await;
    let flags = [&["--once", "--identity", "google"][..], &cluster.allowed()].concat();
    let (_, output) = cluster.run(&flags, &[]).await;
    assert!(
        output.contains("##### GCP SvcAccnt via workload identity federation"),
        "{output}"
    );
    // The gate has removed the signature, which the guard requires.
    assert!(
        output.contains("GET /: 200") && output.contains("GET /private: 401"),
        "{output}"
    );

    let flags = [&["--once", "--identity", "both"][..], &cluster.allowed()].concat();
    let (code, output) = cluster.run(&flags, &[]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("GET /private: 200"), "{output}");
    for request in cluster.google.token_requests() {
        let GoogleTokenRequest::Identity {
            audience,
            include_email,
            ..
        } = request
        else {
            panic!("{request:?}");
        };
        assert_eq!((audience.as_str(), include_email), (GATE_AUDIENCE, true));
    }

    let flags = [&["check", "--identity", "both"][..], &cluster.allowed()].concat();
    let (code, output) = cluster.run(&flags, &[]).await;
    assert_eq!(code, Some(0), "{output}");
    let found =
        format!("Google's workload identity federation returned a token for \"{GATE_AUDIENCE}\"");
    assert!(output.contains(&found), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_other_than_googles_receive_no_token_without_the_flag_of_tests() {
    let cluster = Cluster::start().await;
    for (flags, variables) in [
        (&["--once", "--identity", "google"][..], &[][..]),
        // Only the flag allows another server.
        (
            &["--once", "--identity", "google"],
            &[("ALLOW_GOOGLE_ORIGIN", cluster.google.url())],
        ),
        (
            &[
                "--once",
                "--identity",
                "both",
                "--allow-google-origin",
                "http://127.0.0.1:1",
            ],
            &[],
        ),
    ] {
        let (code, output) = cluster.run(flags, variables).await;
        assert_eq!(code, Some(1), "{output}");
        for part in [
            CREDENTIALS,
            "credential-configuration.json",
            cluster.google.url(),
            "--allow-google-origin",
        ] {
            assert!(output.contains(part), "{part}: {output}");
        }
    }
    assert_eq!(cluster.google.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_google_documents_as_dangerous_and_other_credentials_are_refused() {
    let cluster = Cluster::start().await;
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 4] = [
        (
            |json| json["credential_source"] = json!({ "executable": { "command": "/bin/true" } }),
            "executable",
        ),
        (
            |json| {
                json["token_url"] = "https://sts.googleapis.com.attacker.example/v1/token".into()
            },
            "token_url",
        ),
        (
            |json| json["credential_source"] = json!({ "url": "http://169.254.169.254/token" }),
            "credential_source.url",
        ),
        (
            |json| json["type"] = "service_account".into(),
            "service_account",
        ),
    ];
    for (edit, part) in edits {
        let path = cluster.write_configuration(edit);
        let flags = [&["--once", "--identity", "google"][..], &cluster.allowed()].concat();
        let (code, output) = cluster.run_with(&flags, &[(CREDENTIALS, &path)]).await;
        assert_eq!(code, Some(1), "{part}: {output}");
        assert!(
            output.contains(part) && output.contains(CREDENTIALS),
            "{part}: {output}"
        );
    }
    let path = path_string(cluster.folder.path().join("missing.json"));
    let (code, output) = cluster
        .run_with(&["--once", "--identity", "google"], &[(CREDENTIALS, &path)])
        .await;
    assert_eq!(code, Some(1));
    assert!(output.contains("missing.json"), "{output}");
    assert_eq!(cluster.google.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_metadata_server_precedes_the_credential_configuration() {
    let cluster = Cluster::start().await;
    let metadata = FakeMetadataServer::start().await.unwrap();
    let variables = [("METADATA_HOST", metadata.host())];
    let (_, output) = cluster
        .run(&["--once", "--identity", "google"], &variables)
        .await;
    assert!(
        output.contains("mapped GCP SvcAccnt via Metadata server"),
        "{output}"
    );
    let warning = "GOOGLE_APPLICATION_CREDENTIALS) is not used, because --metadata-host (METADATA_HOST) is set";
    assert!(output.contains(warning), "{output}");
    assert!(metadata.request_count() > 0);
    assert_eq!(cluster.google.request_count(), 0);

    // The address of the platform's metadata server is not a choice of it.
    let variables = [
        ("GCE_METADATA_HOST", metadata.host()),
        ("METADATA_HOST", ""),
    ];
    let before = metadata.request_count();
    let flags = [&["--once", "--identity", "both"][..], &cluster.allowed()].concat();
    let (code, output) = cluster.run(&flags, &variables).await;
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(metadata.request_count(), before);
}

/// Returns the rows of the guide's table of errors, without the first cell's service.
fn documented_errors() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("**What each error means.**").unwrap();
    let rows = rest.lines().skip_while(|line| !line.starts_with("| ---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with("| "));
    // The last row is about the service that is called.
    let rows = rows.filter(|row| row.starts_with("| STS") || row.starts_with("| IAM"));
    rows.filter_map(|row| Some(row.split('`').nth(1)?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_the_client_has_each_error_of_the_guide_at_its_default_level() {
    let cluster = Cluster::start().await;
    let documented = documented_errors();
    assert!(documented.len() >= 9, "{documented:?}");
    let mut logged = Vec::new();
    let mut log = async || {
        let client = cluster.start_client("google");
        let line = client.wait_for_line("token could not be fetched").await;
        assert!(line.contains("WARN") && !line.contains("eyJ"), "{line}");
        logged.push(line);
    };
    for fault in [
        GoogleFault::AttributeCondition,
        GoogleFault::IssuerUnreachable,
        GoogleFault::PermissionDenied,
        GoogleFault::ApiDisabled,
        GoogleFault::ProviderDisabled,
    ] {
        cluster.google.set_fault(Some(fault));
        log().await;
    }
    cluster.google.set_fault(None);
    cluster.write_subject("https://other.example");
    log().await;
    cluster.write_subject(&cluster.google.subject_audience());
    cluster.google.set_issuer("https://other.example");
    log().await;
    cluster.google.set_issuer(cluster.issuer.url());
    let token = service_account_token(&cluster.issuer, &cluster.google.subject_audience());
    let forged = token.bad_signature().mint();
    cluster.subject.write([("token", forged)]).unwrap();
    log().await;
    for error in documented {
        // The client itself does not send a token that has expired by its clock.
        if error.contains("is stale to sign-in") {
            continue;
        }
        let parts: Vec<_> = error.split('…').map(str::trim).collect();
        let is_logged = logged
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(is_logged, "{error:?}: {logged:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_continue_while_google_cannot_be_reached() {
    let cluster = Cluster::start().await;
    let client = cluster.start_client("both");
    client.wait_for_line("GET /private: 200").await;
    cluster
        .google
        .set_fault(Some(GoogleFault::Http(HttpFault::Status(
            StatusCode::SERVICE_UNAVAILABLE,
        ))));
    let before = client.lines().len();
    while client.lines().len() < before + 20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let lines = client.lines();
    let failed = lines
        .iter()
        .find(|line| line.starts_with("GET /") && !line.contains(": 200"));
    assert_eq!(failed, None, "{lines:?}");
}

#[test]
fn the_credential_configuration_of_the_component_is_accepted() {
    let component =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/components/google-federation");
    GoogleFederation::from_file(component.join("credential-configuration.json")).unwrap();
}
