//! `ambient`: the source is chosen by the environment.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::sources::{FailingSource, Tokens};
use crate::support::{advance_clock, client, current_header, signed, wait_until};
use reqwest_wi_auth::testing::{
    FakeEntra, FakeGitHubActions, FakeGoogle, FakeMetadataServer, Fault, Kubelet,
};
use reqwest_wi_auth::{
    Ambient, AmbientBuilder, AmbientError, AmbientSource, AmbientToken, BearerAuth, Error,
    TokenSource as _, ambient,
};
use tempfile::TempDir;

const AUDIENCE: &str = "https://auth-server.example";

/// The token of Kubernetes for other audiences than [`AUDIENCE`] and the secret of GitHub, which no text may contain.
const SECRET: &str = "s3cr3t-of-github";

const ALL: [AmbientSource; 8] = [
    AmbientSource::TokenFile,
    AmbientSource::ProjectedToken,
    AmbientSource::GoogleFederation,
    AmbientSource::Azure,
    AmbientSource::GitHubActions,
    AmbientSource::MetadataServer,
    AmbientSource::TokenRequest,
    AmbientSource::Fallback,
];

/// The sources of which two are ambiguous.
const CONFIGURED: [AmbientSource; 4] = [
    AmbientSource::ProjectedToken,
    AmbientSource::GoogleFederation,
    AmbientSource::Azure,
    AmbientSource::GitHubActions,
];

/// Returns a token for an audience that is valid for a long time.
fn token_for(audience: &str) -> String {
    signed(&format!(
        r#"{{"iat":1700000000,"exp":4000000000,"aud":["{audience}"]}}"#
    ))
}

/// An environment: variables, and a directory in place of `/`. No source in it can be reached.
struct World {
    root: TempDir,
    variables: BTreeMap<String, String>,
    has_fallback: bool,
    off: Vec<AmbientSource>,
}

impl World {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            variables: BTreeMap::new(),
            has_fallback: false,
            off: Vec::new(),
        }
    }

    /// Creates an environment that contains sources.
    fn with(sources: &[AmbientSource]) -> Self {
        let mut world = Self::new();
        for source in sources {
            world.add(*source);
        }
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, content: &str) -> String {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.insert(name.to_owned(), value.into());
    }

    fn add(&mut self, source: AmbientSource) {
        match source {
            AmbientSource::TokenFile => {
                let path = self.write("token", &token_for(AUDIENCE));
                self.set("WI_TOKEN_FILE", path);
            }
            AmbientSource::ProjectedToken => {
                self.write("var/run/secrets/tokens/gke-sa", &token_for(AUDIENCE));
            }
            AmbientSource::GoogleFederation => self.add_google(&google_configuration()),
            AmbientSource::Azure => {
                let path = self.write("azure/token", &token_for("api://AzureADTokenExchange"));
                self.set("AZURE_FEDERATED_TOKEN_FILE", path);
                self.set("AZURE_CLIENT_ID", FakeEntra::CLIENT_ID);
                self.set("AZURE_TENANT_ID", FakeEntra::TENANT_ID);
                self.set("AZURE_AUTHORITY_HOST", "http://127.0.0.1:1/");
            }
            AmbientSource::GitHubActions => {
                self.set(
                    "ACTIONS_ID_TOKEN_REQUEST_URL",
                    "http://127.0.0.1:1/x?api-version=2.0",
                );
                self.set("ACTIONS_ID_TOKEN_REQUEST_TOKEN", SECRET);
                // The variable above has to name a host of this server.
                self.set("GITHUB_SERVER_URL", "http://127.0.0.1");
            }
            AmbientSource::MetadataServer => self.set("GCE_METADATA_HOST", "127.0.0.1:1"),
            AmbientSource::TokenRequest => {
                let directory = "var/run/secrets/kubernetes.io/serviceaccount";
                self.write(&format!("{directory}/token"), &token_for("kubernetes"));
                self.write(&format!("{directory}/namespace"), "id-namespace");
                self.set("KUBERNETES_SERVICE_HOST", "127.0.0.1");
                self.set("KUBERNETES_SERVICE_PORT", "1");
            }
            AmbientSource::Fallback => self.has_fallback = true,
            other => panic!("{other}"),
        }
    }

    fn add_google(&mut self, configuration: &str) {
        let path = self.write("google.json", configuration);
        self.set("GOOGLE_APPLICATION_CREDENTIALS", path);
    }

    fn builder(&self) -> AmbientBuilder {
        let variables = self.variables.clone();
        let mut builder = Ambient::builder()
            .environment(move |name| variables.get(name).cloned())
            .root_directory(self.root.path())
            .allow_google_origin("http://127.0.0.1:1");
        if self.has_fallback {
            builder = builder.fallback(Tokens::one(&token_for(AUDIENCE)));
        }
        for source in &self.off {
            builder = builder.without(*source);
        }
        builder
    }

    /// Returns the source that is chosen, without waiting for its token.
    async fn choice(&self) -> Result<AmbientToken, Error> {
        let token = self.builder().build().start(AUDIENCE);
        let is_chosen = wait_until("a source is chosen", || token.health().source.is_some());
        tokio::select! {
            () = is_chosen => Ok(token),
            result = token.refresh(None) => match token.health().source {
                Some(_) => Ok(token),
                None => Err(result.unwrap_err()),
            }
        }
    }

    async fn source(&self) -> AmbientSource {
        let token = self.choice().await.unwrap();
        token.health().source.unwrap()
    }

    /// Returns the text of the error that no source was chosen. Asserts that it contains no secret.
    async fn error(&self) -> (AmbientError, String) {
        let Err(Error::Ambient(error)) = self.choice().await else {
            panic!("a source was chosen");
        };
        let text = error.to_string();
        self.assert_no_secret(&text);
        self.assert_no_secret(&format!("{error:?}"));
        assert!(!text.contains('\n'), "{text}");
        (error, text)
    }

    async fn unusable(&self, expected: &[&str]) {
        let (error, text) = self.error().await;
        assert!(matches!(error, AmbientError::Unusable { .. }), "{text}");
        assert_contains(&text, expected);
    }

    async fn not_found(&self, expected: &[&str]) {
        let (error, text) = self.error().await;
        assert!(matches!(error, AmbientError::NotFound { .. }), "{text}");
        assert_contains(&text, expected);
    }

    fn assert_no_secret(&self, text: &str) {
        assert!(!text.contains(SECRET), "{text}");
        for audience in [
            AUDIENCE,
            "api://AzureADTokenExchange",
            "kubernetes",
            "other",
        ] {
            for part in token_for(audience).split('.').skip(1) {
                assert!(!text.contains(part), "{text}");
            }
        }
    }
}

fn google_configuration() -> String {
    google_configuration_with(
        r#""service_account_impersonation_url":"http://127.0.0.1:1/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken","#,
    )
}

fn google_configuration_with(members: &str) -> String {
    format!(
        r#"{{"type":"external_account","audience":"//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type":"urn:ietf:params:oauth:token-type:jwt","token_url":"http://127.0.0.1:1/v1/token",
        {members}"credential_source":{{"file":"/nonexistent/token"}}}}"#
    )
}

fn assert_contains(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "expected {part:?} in {text}");
    }
}

#[tokio::test]
async fn each_source_is_chosen_if_it_is_the_only_one() {
    for source in ALL {
        let world = World::with(&[source]);
        let token = world.choice().await.unwrap();
        let health = token.health();
        assert_eq!(health.source, Some(source));
        assert!(!health.reason.is_empty());
        assert_eq!(health.not_chosen.len(), ALL.len() - 1, "{source}");
        assert!(health.not_chosen.iter().all(|other| other.source != source));
        world.assert_no_secret(&format!("{health:?} {token:?} {:?}", world.builder()));
    }
}

#[tokio::test]
async fn of_two_sources_the_one_of_the_earlier_step_is_chosen_and_two_configured_ones_are_ambiguous()
 {
    for (index, &first) in ALL.iter().enumerate() {
        for &second in &ALL[index + 1..] {
            let world = World::with(&[second, first]);
            if CONFIGURED.contains(&first) && CONFIGURED.contains(&second) {
                let (error, text) = world.error().await;
                let AmbientError::Ambiguous { audience, found } = error else {
                    panic!("{first} {second}: {text}");
                };
                assert_eq!(audience, AUDIENCE);
                let sources: Vec<_> = found.iter().map(|found| found.source).collect();
                assert_eq!(sources, [first, second]);
                let names = [first.to_string(), second.to_string()];
                let hints = [
                    "2 sources",
                    "WI_TOKEN_FILE",
                    "`Ambient::builder().without(…)`",
                ];
                assert_contains(&text, &names.each_ref().map(String::as_str));
                assert_contains(&text, &hints);
                continue;
            }
            let token = world.choice().await.unwrap();
            let health = token.health();
            assert_eq!(health.source, Some(first), "before {second}");
            let other = health
                .not_chosen
                .iter()
                .find(|other| other.source == second);
            let reason = &other.unwrap().reason;
            let expected = if second == AmbientSource::Fallback {
                "another source was found".to_owned()
            } else {
                format!(", but {first} has precedence")
            };
            assert!(reason.ends_with(&expected), "{first} {second}: {reason}");
        }
    }
}

#[tokio::test]
async fn a_token_file_overrides_everything_else() {
    let world = World::with(&ALL);
    assert_eq!(world.source().await, AmbientSource::TokenFile);
}

#[tokio::test]
async fn each_source_can_be_switched_off() {
    for source in ALL {
        let mut world = World::with(&[source]);
        world.off = vec![source, source];
        world.not_found(&[&format!("{source}: switched off")]).await;
        world.off = ALL
            .iter()
            .copied()
            .filter(|other| *other != source)
            .collect();
        let token = world.choice().await.unwrap();
        assert_eq!(token.health().source, Some(source));
        for other in token.health().not_chosen {
            assert_eq!(other.reason, "switched off");
        }
    }
    // An error or an ambiguity of a source that is switched off has no effect.
    let mut world = World::with(&CONFIGURED);
    world.set("WI_TOKEN_FILE", token_for(AUDIENCE));
    world.off = vec![
        AmbientSource::TokenFile,
        AmbientSource::ProjectedToken,
        AmbientSource::GoogleFederation,
        AmbientSource::GitHubActions,
    ];
    assert_eq!(world.source().await, AmbientSource::Azure);
}

#[tokio::test]
async fn three_configured_sources_are_all_listed() {
    let (_, text) = World::with(&CONFIGURED).error().await;
    assert_contains(&text, &["4 sources"]);
    assert_contains(
        &text,
        &CONFIGURED
            .map(|source| format!("{source}: "))
            .each_ref()
            .map(String::as_str),
    );
}

#[tokio::test]
async fn without_any_source_the_error_lists_what_was_looked_for_and_how_to_provide_it() {
    let world = World::new();
    let (error, text) = world.error().await;
    let AmbientError::NotFound { looked_for, .. } = &error else {
        panic!("{text}");
    };
    let sources: Vec<_> = looked_for.iter().map(|found| found.source).collect();
    assert_eq!(sources, ALL);
    assert!(!Error::from(error).is_transient());
    assert_contains(
        &text,
        &[
            "https://auth-server.example",
            "token-file: WI_TOKEN_FILE is not set (set it to the path",
            "/var/run/secrets/tokens does not exist (mount a projected volume there",
            "google-federation: GOOGLE_APPLICATION_CREDENTIALS is not set (",
            "azure: AZURE_FEDERATED_TOKEN_FILE is not set (label the pod",
            "github-actions: ACTIONS_ID_TOKEN_REQUEST_URL is not set (give the job `permissions: id-token: write`)",
            "metadata-server: GCE_METADATA_HOST is not set, and neither Cloud Run nor",
            "token-request: KUBERNETES_SERVICE_HOST is not set (",
            "fallback: none is set (for a workstation, call `Ambient::builder().fallback(…)`)",
        ],
    );
}

#[tokio::test]
async fn tokens_for_other_audiences_and_other_files_are_reported() {
    let world = World::new();
    world.write("var/run/secrets/tokens/orders", &token_for("other"));
    world.write(
        "var/run/secrets/tokens/ca.crt",
        "-----BEGIN CERTIFICATE-----",
    );
    world.write("var/run/secrets/tokens/below/token", &token_for(AUDIENCE));
    world.write("var/run/secrets/tokens/..data/token", &token_for(AUDIENCE));
    let text = &[
        "orders is for the audience \"other\"",
        "ca.crt is not a token",
    ];
    world.not_found(text).await;
    world.write("var/run/secrets/tokens/gke-sa", &token_for(AUDIENCE));
    assert_eq!(world.source().await, AmbientSource::ProjectedToken);
    let (_, text) = {
        world.write("var/run/secrets/tokens/copy", &token_for(AUDIENCE));
        world.error().await
    };
    assert_contains(
        &text,
        &["2 sources", "tokens/copy has", "tokens/gke-sa has"],
    );
}

#[tokio::test]
async fn an_audience_has_to_equal_one_of_the_audiences_of_the_token() {
    let world = World::new();
    let audiences = format!(r#"{{"exp":4000000000,"aud":["other","{AUDIENCE}"]}}"#);
    for (claims, is_found) in [
        (audiences.as_str(), true),
        (r#"{"aud":"https://auth-server.example"}"#, true),
        (r#"{"aud":"https://auth-server.example/"}"#, false),
        (r#"{"aud":["https://Auth-Server.example"]}"#, false),
        (r#"{"aud":[]}"#, false),
        ("{}", false),
    ] {
        world.write("var/run/secrets/tokens/token", &signed(claims));
        assert_eq!(world.choice().await.is_ok(), is_found, "{claims}");
    }
}

#[tokio::test]
async fn an_audience_that_is_empty_is_an_error() {
    let error = World::with(&ALL).builder().open("").await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error}");
}

#[tokio::test]
async fn the_token_directory_is_a_setting() {
    let world = World::new();
    let path = world.write("identity/token", &token_for(AUDIENCE));
    let directory = Path::new(&path).parent().unwrap();
    let builder = || world.builder().token_directory(directory);
    let token = builder().open(AUDIENCE).await.unwrap();
    assert_eq!(token.health().source, Some(AmbientSource::ProjectedToken));
    let error = builder().open("other").await.unwrap_err().to_string();
    assert_contains(
        &error,
        &["identity has no token for the audience: token is for"],
    );
}

#[tokio::test]
async fn variables_that_are_empty_are_not_set() {
    let mut world = World::new();
    for name in [
        "WI_TOKEN_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID",
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        "GCE_METADATA_HOST",
        "K_SERVICE",
        "CLOUD_RUN_JOB",
        "GAE_SERVICE",
        "KUBERNETES_SERVICE_HOST",
    ] {
        for value in ["", " \n"] {
            world.set(name, value);
            world.not_found(&[]).await;
        }
    }
}

#[tokio::test]
async fn an_incomplete_configuration_is_an_error_and_not_another_identity() {
    let with_platform = |source| {
        World::with(&[
            source,
            AmbientSource::MetadataServer,
            AmbientSource::Fallback,
        ])
    };
    for name in ["AZURE_CLIENT_ID", "AZURE_TENANT_ID"] {
        let mut world = with_platform(AmbientSource::Azure);
        world.variables.remove(name);
        let text = format!("but {name} is not set or empty; correct it, or switch it off");
        world
            .unusable(&["azure: AZURE_FEDERATED_TOKEN_FILE is ", &text])
            .await;
        world.set(name, "");
        world.unusable(&[&text]).await;
    }
    for (name, other) in [
        (
            "ACTIONS_ID_TOKEN_REQUEST_URL",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        ),
        (
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
            "ACTIONS_ID_TOKEN_REQUEST_URL",
        ),
    ] {
        let mut world = with_platform(AmbientSource::GitHubActions);
        world.variables.remove(name);
        world
            .unusable(&[&format!("{other} is set, but {name} is not set or empty")])
            .await;
    }
    let mut world = with_platform(AmbientSource::GitHubActions);
    world.set("ACTIONS_ID_TOKEN_REQUEST_URL", "not a URL");
    world.unusable(&["github-actions: "]).await;
    let mut world = with_platform(AmbientSource::Azure);
    world.set("AZURE_AUTHORITY_HOST", "http://login.example");
    world.unusable(&["azure: "]).await;
    // Another source of the same step can be used.
    world.add(AmbientSource::ProjectedToken);
    let token = world.choice().await.unwrap();
    assert_eq!(token.health().source, Some(AmbientSource::ProjectedToken));
    let not_chosen = token.health().not_chosen;
    let azure = not_chosen
        .iter()
        .find(|other| other.source == AmbientSource::Azure);
    assert!(
        azure
            .unwrap()
            .reason
            .contains("AZURE_FEDERATED_TOKEN_FILE is")
    );
}

#[tokio::test]
async fn variables_of_azure_without_a_token_file_are_no_configuration_of_this_source() {
    let mut world = World::with(&[AmbientSource::Azure]);
    world.variables.remove("AZURE_FEDERATED_TOKEN_FILE");
    let text =
        "AZURE_CLIENT_ID and AZURE_TENANT_ID are set, but AZURE_FEDERATED_TOKEN_FILE is not set";
    world.not_found(&[text]).await;
}

#[tokio::test]
async fn a_job_in_github_without_the_permission_is_reported() {
    let mut world = World::new();
    world.set("GITHUB_ACTIONS", "true");
    let text = "ACTIONS_ID_TOKEN_REQUEST_URL is not set, although GITHUB_ACTIONS is (give the job `permissions: id-token: write`)";
    world.not_found(&[text]).await;
}

#[tokio::test]
async fn files_that_cannot_be_read_or_have_other_content_are_errors() {
    let mut world = World::new();
    world.set("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/google.json");
    world
        .unusable(&[
            "google-federation: GOOGLE_APPLICATION_CREDENTIALS is /nonexistent/google.json: ",
            "No such file",
        ])
        .await;
    for content in [
        "",
        "{",
        "[]",
        "null",
        r#""external_account""#,
        r#"{"kind":"external_account"}"#,
        r#"{"type":1}"#,
    ] {
        world.add_google(content);
        world
            .unusable(&["which is not a JSON object with a `type`"])
            .await;
    }
    world.add_google(&google_configuration_with(""));
    world
        .unusable(&["has no `service_account_impersonation_url`"])
        .await;
    world.add_google(r#"{"type":"external_account","service_account_impersonation_url":"https://iamcredentials.googleapis.com/x"}"#);
    world.unusable(&["google-federation: "]).await;

    let mut world = World::with(&[AmbientSource::Azure]);
    for (content, expected) in [
        ("", "does not contain a token"),
        ("not a token", "does not contain a token"),
    ] {
        world.write("azure/token", content);
        world.unusable(&[expected]).await;
    }
    world.set("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent/token");
    world
        .unusable(&[
            "AZURE_FEDERATED_TOKEN_FILE is /nonexistent/token: ",
            "No such file",
        ])
        .await;

    let mut world = World::new();
    world.set("GCE_METADATA_HOST", "not a host/");
    world.unusable(&["metadata-server: "]).await;
}

#[tokio::test]
async fn a_file_in_the_token_directory_that_cannot_be_read_is_an_error() {
    let world = World::with(&[AmbientSource::Fallback]);
    world.write("var/run/secrets/tokens/token", "");
    // A symbolic link to itself cannot be read by any user.
    let path = world.path("var/run/secrets/tokens/loop");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    world.unusable(&["projected-token: ", "tokens/loop"]).await;
    let world = World::new();
    world.write("var/run/secrets/tokens", "a file");
    world
        .unusable(&["projected-token: the directory", "could not be read"])
        .await;
}

/// It may be the token for the audience, which a program other than the kubelet is about to write.
#[tokio::test]
async fn a_token_file_that_is_empty_or_truncated_does_not_lead_to_another_identity() {
    let world = World::with(&[AmbientSource::Fallback, AmbientSource::MetadataServer]);
    let token = token_for(AUDIENCE);
    for content in ["", " \n", &token[..20], &token[..token.len() - 1]] {
        world.write("var/run/secrets/tokens/orders", content);
        world
            .unusable(&["tokens/orders is empty or truncated"])
            .await;
    }
    world.write("var/run/secrets/tokens/orders", &token);
    assert_eq!(world.source().await, AmbientSource::ProjectedToken);
}

#[tokio::test]
async fn all_audiences_share_one_exchange_of_googles_federation() {
    let google = FakeGoogle::start().await.unwrap();
    let mut world = World::new();
    let subject = world.write("subject", &google.subject_token());
    world.add_google(&google.credential_configuration(&subject));
    let builder = world.builder().allow_google_origin(google.url());
    let ambient = builder.build();
    for number in 0..5 {
        let audience = format!("https://service-{number}.example");
        ambient.open(&audience).await.unwrap();
    }
    assert_eq!(
        google.request_count(),
        1 + 5,
        "one exchange, and a token for each audience"
    );
}

#[tokio::test]
async fn credentials_of_other_types_are_reported_and_skipped() {
    for kind in [
        "service_account",
        "authorized_user",
        "external_account_authorized_user",
    ] {
        let mut world = World::new();
        let key = format!(r#"{{"type":"{kind}","private_key":"{SECRET}"}}"#);
        world.add_google(&key);
        let text = format!("which has the type \"{kind}\"; expected \"external_account\"");
        world.not_found(&[&text]).await;
        world.add(AmbientSource::MetadataServer);
        assert_eq!(world.source().await, AmbientSource::MetadataServer);
    }
}

#[tokio::test]
async fn a_variable_that_contains_a_credential_instead_of_a_path_is_an_error_without_it() {
    let values = [
        token_for(AUDIENCE),
        format!(r#"{{"type":"service_account","private_key":"{SECRET}"}}"#),
        format!("{SECRET}\n{SECRET}"),
        SECRET.repeat(500),
    ];
    for name in [
        "WI_TOKEN_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_FEDERATED_TOKEN_FILE",
    ] {
        for value in &values {
            let mut world = World::with(&[AmbientSource::Fallback]);
            world.set(name, value);
            let text = format!("{name} contains something other than a path");
            world.unusable(&[&text, "write that to a file"]).await;
        }
    }
}

#[tokio::test]
async fn googles_platforms_are_detected_without_a_request() {
    for name in ["K_SERVICE", "CLOUD_RUN_JOB", "GAE_SERVICE"] {
        let mut world = World::new();
        world.set(name, "orders");
        assert_eq!(
            world.source().await,
            AmbientSource::MetadataServer,
            "{name}"
        );
    }
    for product in ["Google Compute Engine\n", "Google\n"] {
        let world = World::new();
        world.write("sys/class/dmi/id/product_name", product);
        assert_eq!(
            world.source().await,
            AmbientSource::MetadataServer,
            "{product}"
        );
    }
    let world = World::with(&[AmbientSource::TokenRequest]);
    world.write(
        "sys/class/dmi/id/product_name",
        "Standard PC (Q35 + ICH9, 2009)\n",
    );
    assert_eq!(world.source().await, AmbientSource::TokenRequest);
    let mut world = World::with(&[AmbientSource::TokenRequest]);
    world.set("K_SERVICE", "a service of Knative");
    assert_eq!(world.source().await, AmbientSource::TokenRequest, "Knative");
}

#[tokio::test]
async fn a_pod_without_the_token_of_its_service_account_is_reported() {
    let mut world = World::new();
    world.set("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    world.set("KUBERNETES_SERVICE_PORT", "443");
    let text = "KUBERNETES_SERVICE_HOST is set, but ";
    world
        .not_found(&[
            text,
            "serviceaccount/token does not exist",
            "automountServiceAccountToken",
        ])
        .await;
    world.add(AmbientSource::Fallback);
    assert_eq!(world.source().await, AmbientSource::Fallback);
}

#[tokio::test]
async fn the_token_file_has_to_have_a_token_for_the_audience() {
    let mut world = World::new();
    for (content, expected) in [
        (token_for("other"), "expected the audience"),
        ("opaque".to_owned(), "not a JWT"),
    ] {
        let path = world.write("token", &content);
        world.set("WI_TOKEN_FILE", path);
        let token = world.builder().build().start(AUDIENCE);
        let error = token.refresh(None).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::File(_)), "{text}");
        assert_contains(&text, &[expected]);
        world.assert_no_secret(&text);
        let health = token.health();
        assert_eq!((health.source, health.reason), (None, text));
        assert!(health.token.last_error.is_some());
    }
}

#[tokio::test]
async fn a_token_file_is_followed_and_reported_in_health() {
    let world = World::new();
    let kubelet = Kubelet::new(world.path("var/run/secrets/tokens")).unwrap();
    kubelet.write([("gke-sa", token_for(AUDIENCE))]).unwrap();
    let token = world.builder().open(AUDIENCE).await.unwrap();
    assert!(token.health().token.present);
    let first = token.current().unwrap();
    let renewed = signed(&format!(r#"{{"exp":4000000001,"aud":"{AUDIENCE}"}}"#));
    kubelet.rotate("gke-sa", &renewed).unwrap();
    wait_until("the new token is in use", || {
        token.current().unwrap() != first
    })
    .await;
    token.shutdown().await;
    assert_eq!(current_header(&token), Some(format!("Bearer {renewed}")));
}

#[tokio::test]
async fn tokens_are_fetched_from_the_chosen_server() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    let mut world = World::new();
    world.set("GCE_METADATA_HOST", metadata.host());
    let token = world.builder().open(AUDIENCE).await.unwrap();
    assert!(token.current().is_ok() && token.health().token.present);
    assert_eq!(metadata.request_count(), 1);

    let github = FakeGitHubActions::start().await.unwrap();
    let mut world = World::new();
    world.set("ACTIONS_ID_TOKEN_REQUEST_URL", github.request_url());
    world.set("ACTIONS_ID_TOKEN_REQUEST_TOKEN", github.request_token());
    world.set("GITHUB_SERVER_URL", github.url());
    let token = world.builder().open(AUDIENCE).await.unwrap();
    assert!(token.current().is_ok());
    assert_eq!(token.health().source, Some(AmbientSource::GitHubActions));

    let entra = FakeEntra::start().await.unwrap();
    entra.set_federated_credential("https://issuer.example", "pod");
    let mut world = World::with(&[AmbientSource::Azure]);
    let claims = format!(
        r#"{{"iss":"https://issuer.example","sub":"pod","aud":"{}","exp":4000000000}}"#,
        FakeEntra::AUDIENCE
    );
    world.write("azure/token", &signed(&claims));
    world.set("AZURE_AUTHORITY_HOST", entra.url());
    let token = world.builder().open("api://orders").await.unwrap();
    assert!(token.current().is_ok());
    assert_eq!(token.health().source, Some(AmbientSource::Azure));
}

#[tokio::test]
async fn tokens_are_exchanged_with_the_credential_configuration_of_google() {
    let google = FakeGoogle::start().await.unwrap();
    let mut world = World::new();
    let subject = world.write("subject", &google.subject_token());
    world.add_google(&google.credential_configuration(&subject));
    let error = world.builder().open(AUDIENCE).await.unwrap_err();
    assert!(
        matches!(error, Error::Ambient(AmbientError::Unusable { .. })),
        "{error}"
    );
    assert_eq!(
        google.request_count(),
        0,
        "the server is not one of Google's"
    );
    let builder = world.builder().allow_google_origin(google.url());
    let token = builder.open(AUDIENCE).await.unwrap();
    assert!(token.current().is_ok());
    assert_eq!(token.health().source, Some(AmbientSource::GoogleFederation));
}

#[tokio::test]
async fn the_error_of_the_chosen_source_is_returned() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    metadata.set_fault(Some(Fault::MissingFlavor));
    let mut world = World::new();
    world.set("GCE_METADATA_HOST", metadata.host());
    let error = world.builder().open(AUDIENCE).await.unwrap_err();
    assert!(matches!(error, Error::Metadata(_)), "{error}");

    let failing = FailingSource::transient();
    let builder = World::new().builder().fallback(failing);
    let error = builder.open(AUDIENCE).await.unwrap_err();
    assert!(matches!(error, Error::NotFetched { .. }), "{error}");
}

#[tokio::test]
async fn a_fallback_reports_its_token_in_health() {
    let world = World::with(&[AmbientSource::Fallback]);
    let token = world.builder().open(AUDIENCE).await.unwrap();
    let health = token.health();
    assert!(health.token.present);
    assert!(health.token.expires_at.is_some());
    assert_eq!(health.reason, "no other source was found");
}

#[tokio::test]
async fn the_choice_is_one_line_of_the_log() {
    if !is_child_process("ambient::the_choice_is_one_line_of_the_log") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::INFO);
    let world = World::with(&[
        AmbientSource::ProjectedToken,
        AmbientSource::TokenRequest,
        AmbientSource::Fallback,
    ]);
    let token = world.builder().open(AUDIENCE).await.unwrap();
    for _ in 0..3 {
        token.current().unwrap();
        token.refresh(None).await.unwrap();
    }
    let text = log.text();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("token source chosen"))
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_contains(
        lines[0],
        &[
            "INFO reqwest_wi_auth::ambient: ",
            "audience=\"https://auth-server.example\"",
            "source=projected-token",
            "tokens/gke-sa has a token for the audience",
            "not_chosen=\"token-file: WI_TOKEN_FILE is not set; google-federation: ",
            "azure: AZURE_FEDERATED_TOKEN_FILE is not set; github-actions: ",
            "serviceaccount/token exists, but projected-token has precedence; fallback: another source was found\"",
        ],
    );
    world.assert_no_secret(&text);
}

#[tokio::test]
async fn a_choice_whose_source_cannot_be_opened_is_logged_once() {
    if !is_child_process("ambient::a_choice_whose_source_cannot_be_opened_is_logged_once") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::INFO);
    let mut world = World::new();
    let path = world.write("token", &token_for("other"));
    world.set("WI_TOKEN_FILE", &path);
    let token = world.builder().build().start(AUDIENCE);
    for _ in 0..3 {
        token.refresh(None).await.unwrap_err();
        advance_clock(Duration::from_secs(2)).await;
    }
    std::fs::write(&path, token_for(AUDIENCE)).unwrap();
    token.refresh(None).await.unwrap();
    let text = log.text();
    assert_eq!(text.matches("token source chosen").count(), 1, "{text}");
}

#[tokio::test]
async fn without_waiting_the_first_request_chooses_the_source() {
    let world = World::new();
    let path = world.path("var/run/secrets/tokens");
    let server = Server::start().await;
    let token = world.builder().build().start(AUDIENCE);
    assert_eq!(token.health().source, None);
    assert!(matches!(token.current(), Err(Error::NotFetched { .. })));
    let client = client(BearerAuth::for_origin(&server.url, token.clone()).unwrap());
    let error = client.get(&server.url).send().await.unwrap_err();
    assert!(
        matches!(Error::find(&error), Some(Error::Ambient(_))),
        "{error}"
    );
    assert!(token.health().reason.contains("no source of tokens"));

    let kubelet = Kubelet::new(path).unwrap();
    kubelet.write([("gke-sa", token_for(AUDIENCE))]).unwrap();
    let error = client.get(&server.url).send().await.unwrap_err();
    assert!(
        matches!(Error::find(&error), Some(Error::Ambient(_))),
        "within a second"
    );
    advance_clock(Duration::from_secs(2)).await;
    client.get(&server.url).send().await.unwrap();
    let expected = Some(format!("Bearer {}", token_for(AUDIENCE)));
    assert_eq!(server.take_authorization(), [expected]);
    assert_eq!(token.health().source, Some(AmbientSource::ProjectedToken));
    assert!(token.health().token.last_error.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_requests_inspect_the_environment_once() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    let reads = Arc::new(Mutex::new(0));
    let (counted, host) = (reads.clone(), metadata.host().to_owned());
    let root = tempfile::tempdir().unwrap();
    let ambient = Ambient::builder()
        .root_directory(root.path())
        .environment(move |name| {
            if name == "WI_TOKEN_FILE" {
                *counted.lock().unwrap() += 1;
            }
            (name == "GCE_METADATA_HOST").then(|| host.clone())
        })
        .build();
    let token = ambient.start(AUDIENCE);
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let token = token.clone();
            tokio::spawn(async move { token.refresh(None).await })
        })
        .collect();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!(*reads.lock().unwrap(), 1);
    assert_eq!(metadata.request_count(), 1);
}

#[tokio::test]
async fn as_a_provider_it_chooses_for_each_audience() {
    let (orders, stock) = (Server::start().await, Server::start().await);
    let world = World::new();
    for (name, server) in [("orders", &orders), ("stock", &stock)] {
        world.write(
            &format!("var/run/secrets/tokens/{name}"),
            &token_for(&server.url),
        );
    }
    let auth =
        BearerAuth::for_each_origin(world.builder().build(), |origin| Some(origin.to_owned()));
    let client = client(auth);
    for _ in 0..2 {
        for server in [&orders, &stock] {
            client.get(&server.url).send().await.unwrap();
            let expected = Some(format!("Bearer {}", token_for(&server.url)));
            assert_eq!(server.take_authorization(), [expected]);
        }
    }
}

#[test]
fn outside_a_runtime_it_is_an_error() {
    let world = World::with(&[AmbientSource::ProjectedToken]);
    let token = world.builder().build().start(AUDIENCE);
    let mut refresh = token.refresh(None);
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let std::task::Poll::Ready(result) = refresh.as_mut().poll(&mut context) else {
        panic!("it waits");
    };
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::Ambient(AmbientError::NoRuntime)),
        "{error}"
    );
}

#[tokio::test]
async fn the_environment_of_the_process_is_used_by_default() {
    const TEST: &str = "ambient::the_environment_of_the_process_is_used_by_default";
    if std::env::var_os("WI_TOKEN_FILE").is_some() {
        let token = ambient(AUDIENCE).await.unwrap();
        assert_eq!(token.health().source, Some(AmbientSource::TokenFile));
        return;
    }
    let world = World::new();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([TEST, "--exact"])
        .env("WI_TOKEN_FILE", world.write("token", &token_for(AUDIENCE)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
