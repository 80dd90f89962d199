//! `IDENTITY=ambient`: the client sends the token of the one source that its environment has.

use reqwest_wi_auth::testing::{
    EntraTokenVersion, FakeEntra, FakeGitHubActions, FakeGoogle, FakeMetadataServer,
};
use tower_oidc_guard::testing::TestIssuer;

use crate::process::Process;
use crate::support::{AUDIENCE, CLIENT, Server, TokenVolume, path_string, service_account_token};

/// The variables that name a source. A test that has some sets the others to an empty text, which counts as not set.
const VARIABLES: [&str; 13] = [
    "WI_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "GCE_METADATA_HOST",
    "K_SERVICE",
    "CLOUD_RUN_JOB",
    "GAE_SERVICE",
    "KUBERNETES_SERVICE_HOST",
];

/// Runs a client with these variables and no others that name a source. Returns its exit code and what it printed.
async fn run(arguments: &[&str], url: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let service = format!("{url}={AUDIENCE}");
    let arguments = [
        arguments,
        &["--identity", "ambient", "--service-url", &service],
    ]
    .concat();
    let unset = VARIABLES.map(|name| (name, ""));
    let variables = [&unset[..], variables].concat();
    let mut client = Process::start(CLIENT, &arguments, &variables);
    let code = client.wait_for_exit().await;
    let output = client.lines().join("\n");
    assert!(!output.contains("eyJ"), "a token was printed: {output}");
    (code, output)
}

/// Returns the variables of Azure workload identity.
fn azure<'a>(entra: &'a str, token_file: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("AZURE_CLIENT_ID", FakeEntra::CLIENT_ID),
        ("AZURE_TENANT_ID", FakeEntra::TENANT_ID),
        ("AZURE_FEDERATED_TOKEN_FILE", token_file),
        ("AZURE_AUTHORITY_HOST", entra),
    ]
}

/// Returns the variables of a job of GitHub Actions.
fn github(fake: &FakeGitHubActions) -> [(&'static str, &str); 2] {
    [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", fake.request_url()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", fake.request_token()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_admitted_with_the_token_of_each_environment_and_logs_which_it_is() {
    let issuer = std::sync::Arc::new(TestIssuer::start().await.unwrap());
    let server = Server::start(issuer.url(), &[]).await;
    let mint = |issuer: &std::sync::Arc<TestIssuer>| {
        let issuer = issuer.clone();
        move || service_account_token(&issuer, AUDIENCE).mint()
    };
    let file = TokenVolume::new(&mint(&issuer)());
    let subject = TokenVolume::new(&service_account_token(&issuer, FakeEntra::AUDIENCE).mint());
    let entra = FakeEntra::start().await.unwrap();
    entra.set_federated_credential(issuer.url(), "system:serviceaccount:id-namespace:gke-sa");
    entra.add_resource(AUDIENCE, EntraTokenVersion::V2);
    let token = mint(&issuer);
    entra.set_token_fn(move |_| token());
    let job = FakeGitHubActions::start().await.unwrap();
    let token = mint(&issuer);
    job.set_token_fn(move |_| token());
    let metadata = FakeMetadataServer::start().await.unwrap();
    let token = mint(&issuer);
    metadata.set_token_fn(move |_| token());

    let (entra_url, subject_path, file_path) =
        (entra.url(), subject.token_path(), file.token_path());
    for (source, variables) in [
        ("token-file", &[("WI_TOKEN_FILE", file_path.as_str())][..]),
        ("azure", &azure(entra_url, &subject_path)),
        ("github-actions", &github(&job)),
        ("metadata-server", &[("GCE_METADATA_HOST", metadata.host())]),
    ] {
        let (code, output) = run(&["--once"], &server.url(""), variables).await;
        assert_eq!(code, Some(0), "{source}: {output}");
        assert!(output.contains("GET /private: 200"), "{source}: {output}");
        let chosen: Vec<_> = output
            .lines()
            .filter(|line| line.contains("token source chosen"))
            .collect();
        assert_eq!(chosen.len(), 1, "{source}: {output}");
        assert!(
            chosen[0].contains(source) && chosen[0].contains("INFO"),
            "{source}: {output}"
        );

        let (code, output) = run(&["check"], &server.url(""), variables).await;
        assert_eq!(code, Some(0), "{source}: {output}");
        let row = output
            .lines()
            .find(|line| line.starts_with("ok       ambient"));
        let row = row.unwrap_or_else(|| panic!("{source}: {output}"));
        assert!(row.contains(source) && row.contains(AUDIENCE), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_with_several_sources_is_an_error_that_lists_them() {
    let issuer = TestIssuer::start().await.unwrap();
    let subject = TokenVolume::new(&service_account_token(&issuer, FakeEntra::AUDIENCE).mint());
    let entra = FakeEntra::start().await.unwrap();
    let job = FakeGitHubActions::start().await.unwrap();
    let (entra_url, subject_path) = (entra.url(), subject.token_path());
    let variables = [&azure(entra_url, &subject_path)[..], &github(&job)].concat();
    let url = "https://auth-server.invalid";
    for arguments in [&["--once"], &["check"]] {
        let (code, output) = run(arguments, url, &variables).await;
        assert_eq!(code, Some(1), "{output}");
        for part in [
            "azure",
            "AZURE_FEDERATED_TOKEN_FILE",
            "github-actions",
            "ACTIONS_ID_TOKEN_REQUEST_URL",
        ] {
            assert!(output.contains(part), "{part}: {output}");
        }
    }
    assert_eq!((entra.request_count(), job.request_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_configuration_with_other_servers_than_googles_is_used_only_with_the_flag_of_tests()
 {
    let issuer = TestIssuer::start().await.unwrap();
    let google = FakeGoogle::start().await.unwrap();
    let subject =
        TokenVolume::new(&service_account_token(&issuer, &google.subject_audience()).mint());
    let path = subject.kubelet.path("gke-sa");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credential-configuration.json");
    std::fs::write(&file, google.credential_configuration(path)).unwrap();
    let file = path_string(file);
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", file.as_str())];
    let (code, output) = run(&["--once"], "https://auth-server.invalid", &variables).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("token_url") && output.contains(google.url()),
        "{output}"
    );
    assert_eq!(google.request_count(), 0);

    let token = service_account_token(&issuer, AUDIENCE);
    google.set_token_fn(move |_| token.mint());
    let server = Server::start(issuer.url(), &[]).await;
    let arguments = ["--once", "--allow-google-origin", google.url()];
    let (code, output) = run(&arguments, &server.url(""), &variables).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("google-federation"), "{output}");
    let arguments = [&arguments[..], &["--ambient-without", "google-federation"]].concat();
    let without = [("GCE_METADATA_HOST", "127.0.0.1:1"), variables[0]];
    let (code, output) = run(&arguments, &server.url(""), &without).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("metadata-server"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_without_a_source_is_an_error() {
    let product = std::fs::read_to_string("/sys/class/dmi/id/product_name");
    if product.is_ok_and(|product| product.starts_with("Google")) {
        // The metadata server of this machine is a source.
        return;
    }
    let (code, output) = run(&["--once"], "https://auth-server.invalid", &[]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("--identity ambient"), "{output}");
}
