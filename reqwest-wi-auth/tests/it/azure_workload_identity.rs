//! Access tokens of Microsoft Entra ID for a workload's token.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use reqwest_wi_auth::testing::{
    EntraError, EntraFault, EntraTokenVersion, FakeEntra, FakeGitHubActions, HttpFault,
};
use reqwest_wi_auth::{
    AzureWorkloadIdentity, AzureWorkloadIdentityBuilder, BearerAuth, Error, FetchError,
    FetchedToken, GitHubActions, Token, TokenProvider as _, TokenSource,
};
use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Issuer, OidcGuard};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::sources::{FailingSource, Tokens};
use crate::support::{advance_clock, client, signed, wait_until};

const SCOPE: &str = "api://orders";
const ISSUER: &str = "https://issuer.example";
const SUBJECT: &str = "system:serviceaccount:shop:orders";

/// Returns a workload's token with a name and a subject.
fn assertion(name: &str, subject: &str) -> String {
    let claims = json!({
        "iss": ISSUER,
        "sub": subject,
        "aud": FakeEntra::AUDIENCE,
        "exp": 4_000_000_000_u64,
        "jti": name,
    });
    signed(&claims.to_string())
}

/// Starts a fake server with a federated credential.
async fn entra() -> FakeEntra {
    let entra = FakeEntra::start().await.unwrap();
    entra.set_federated_credential(ISSUER, SUBJECT);
    entra
}

/// Returns the settings for a fake server, without a source of the assertion.
fn settings(entra: &FakeEntra) -> AzureWorkloadIdentityBuilder {
    AzureWorkloadIdentity::builder()
        .client_id(FakeEntra::CLIENT_ID)
        .tenant_id(FakeEntra::TENANT_ID)
        .authority_host(entra.url())
        .environment(|_| None)
}

/// Starts a fake server, and returns it with a client whose assertion is accepted.
async fn servers() -> (FakeEntra, AzureWorkloadIdentity) {
    let entra = entra().await;
    let subject = Tokens::one(&assertion("0", SUBJECT));
    let azure = settings(&entra).subject(subject).build().unwrap();
    (entra, azure)
}

/// Returns settings with these environment variables.
fn with_variables(variables: &[(&'static str, &str)]) -> AzureWorkloadIdentityBuilder {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    AzureWorkloadIdentity::builder().environment(move |name| {
        let mut variables = variables.iter();
        variables.find_map(|(known, value)| (*known == name).then(|| value.clone()))
    })
}

/// Waits until a request has failed, and returns the error.
async fn last_error(source: &FetchedToken) -> Error {
    wait_until("a request has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    source.health().last_error.unwrap()
}

/// Returns the claims of a source's token.
fn claims(source: &impl TokenSource) -> Value {
    use base64::Engine as _;
    let token = source.current().unwrap();
    let payload = token.header().to_str().unwrap().split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
    serde_json::from_slice(&payload.unwrap()).unwrap()
}

#[cfg(unix)]
mod token_file {
    use reqwest_wi_auth::testing::Kubelet;

    use super::*;
    use crate::support::volume::empty_volume;

    /// Returns a client that reads the assertion from a file, as configured by the environment.
    fn with_file(entra: &FakeEntra, kubelet: &Kubelet) -> AzureWorkloadIdentity {
        let file = kubelet.path("token");
        with_variables(&[
            ("AZURE_CLIENT_ID", FakeEntra::CLIENT_ID),
            ("AZURE_TENANT_ID", FakeEntra::TENANT_ID),
            ("AZURE_AUTHORITY_HOST", entra.url()),
            ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ])
        .build()
        .unwrap()
    }

    #[tokio::test]
    async fn a_projected_token_that_the_clusters_issuer_has_signed_is_exchanged() {
        let issuer = TestIssuer::kubernetes().await.unwrap();
        let trusted = Issuer::kubernetes(issuer.url()).audience(FakeEntra::AUDIENCE);
        let guard = OidcGuard::builder()
            .issuer(trusted.insecure_loopback_http())
            .any_verified_caller()
            .build()
            .unwrap();
        let verifier = Arc::new(guard);
        let entra = FakeEntra::start().await.unwrap();
        entra.set_federated_credential(issuer.url(), SUBJECT);
        entra.set_assertion_fn(move |assertion| {
            let guard = verifier.clone();
            async move {
                let verified = guard.verifier().verify(&assertion).await;
                verified.map(|_| ()).map_err(|error| error.to_string())
            }
        });
        let token = || {
            let token = issuer.token().audience(FakeEntra::AUDIENCE);
            token.service_account("shop", "orders")
        };
        let (_directory, kubelet) = empty_volume();
        kubelet.write([("token", token().mint())]).unwrap();
        let azure = with_file(&entra, &kubelet);
        let source = azure.open(SCOPE).await.unwrap();
        assert_eq!(claims(&source)["aud"], SCOPE);

        let forged = token().bad_signature().mint();
        let azure = settings(&entra)
            .subject(Tokens::one(&forged))
            .build()
            .unwrap();
        let error = azure.open(SCOPE).await.unwrap_err().to_string();
        assert!(
            error.contains("AADSTS700027") && error.contains("signature"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_file_is_followed() {
        let entra = entra().await;
        let (_directory, kubelet) = empty_volume();
        let (first, second) = (assertion("first", SUBJECT), assertion("second", SUBJECT));
        kubelet.write([("token", &first)]).unwrap();
        let azure = with_file(&entra, &kubelet);
        let source = azure.open(SCOPE).await.unwrap();
        assert_eq!(entra.take_assertions(), [first]);

        kubelet.rotate("token", &second).unwrap();
        let rejected = source.current().unwrap();
        wait_until_sent(&entra, &source, &rejected, &second).await;
        // A second scope uses the same file.
        azure.open("api://stock").await.unwrap();
        assert_eq!(entra.take_assertions().last(), Some(&second));
    }

    /// Requests new tokens until an assertion is sent, since the change of a file is detected after it was made.
    async fn wait_until_sent(
        entra: &FakeEntra,
        source: &FetchedToken,
        rejected: &Token,
        expected: &str,
    ) {
        for _ in 0..10 {
            source.refresh(Some(rejected)).await.unwrap();
            if entra.take_assertions().iter().any(|sent| sent == expected) {
                return;
            }
        }
        panic!("the new assertion was not sent");
    }

    #[tokio::test]
    async fn a_file_that_appears_later_is_used_without_a_restart() {
        let entra = entra().await;
        let (_directory, kubelet) = empty_volume();
        let source = with_file(&entra, &kubelet).start(SCOPE);
        let error = last_error(&source).await;
        let is_credential = matches!(&error, Error::Fetch(FetchError::Credential { .. }));
        let path = kubelet.path("token");
        let text = error.to_string();
        assert!(is_credential && error.is_transient(), "{text}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert_eq!(entra.request_count(), 0);

        kubelet.write([("token", assertion("0", SUBJECT))]).unwrap();
        source.refresh(None).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_is_created_outside_a_runtime() {
        let entra = entra().await;
        let (_directory, kubelet) = empty_volume();
        kubelet.write([("token", assertion("0", SUBJECT))]).unwrap();
        let azure =
            std::thread::scope(|scope| scope.spawn(|| with_file(&entra, &kubelet)).join().unwrap());
        azure.open(SCOPE).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_for_the_scope_is_fetched_and_kept() {
    let (entra, azure) = servers().await;
    let source = azure.open(SCOPE).await.unwrap();
    let first = source.current().unwrap();
    for _ in 0..100 {
        assert_eq!(source.current().unwrap(), first);
    }
    assert_eq!(entra.request_count(), 1);
    let health = source.health();
    assert!(health.present && health.expires_at.is_some() && health.last_error.is_none());
    assert_eq!(
        azure
            .open("api://orders/.default")
            .await
            .unwrap()
            .health()
            .last_error
            .map(|error| error.to_string()),
        None
    );
}

#[tokio::test]
async fn a_hundred_concurrent_callers_cause_one_request() {
    let (entra, azure) = servers().await;
    let source = azure.start(SCOPE);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { source.refresh(None).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(entra.request_count(), 1);
}

#[tokio::test]
async fn one_client_provides_tokens_for_several_scopes() {
    let (entra, azure) = servers().await;
    let (orders, stock) = (Server::start().await, Server::start().await);
    let for_orders = azure.token_source("api://orders").unwrap();
    let for_stock = azure.token_source("api://stock/.default").unwrap();
    let auth = BearerAuth::for_origin(&orders.url, for_orders.clone()).unwrap();
    let client = client(auth.and_origin(&stock.url, for_stock.clone()).unwrap());
    client.get(&orders.url).send().await.unwrap();
    client.get(&stock.url).send().await.unwrap();
    for (server, source, audience) in [
        (orders, for_orders, "api://orders"),
        (stock, for_stock, "api://stock"),
    ] {
        let sent = server.take_authorization().remove(0).unwrap();
        assert_eq!(sent, source.current().unwrap().header().to_str().unwrap());
        assert_eq!(claims(&source)["aud"], audience);
    }
    assert_eq!(entra.request_count(), 2);
}

#[tokio::test]
async fn tokens_of_both_versions_and_opaque_ones_are_accepted() {
    let (entra, azure) = servers().await;
    entra.add_resource("api://v2", EntraTokenVersion::V2);
    let source = azure.open("api://v2").await.unwrap();
    assert_eq!(claims(&source)["ver"], "2.0");
    assert_ne!(claims(&source)["aud"], "api://v2");

    entra.set_fault(Some(EntraFault::OpaqueToken));
    entra.set_token_lifetime(Duration::from_secs(100));
    let source = azure.open(SCOPE).await.unwrap();
    let remaining = source
        .health()
        .expires_at
        .unwrap()
        .duration_since(SystemTime::now());
    assert!(
        remaining.unwrap() <= Duration::from_secs(100),
        "limited by `expires_in`"
    );
}

#[tokio::test]
async fn tokens_are_renewed_before_they_expire() {
    let (entra, azure) = servers().await;
    let source = azure.open(SCOPE).await.unwrap();
    let first = source.current().unwrap();
    advance_clock(Duration::from_secs(2600)).await;
    assert_eq!(entra.request_count(), 1, "not before 75 % of the lifetime");
    advance_clock(Duration::from_secs(500)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
}

#[tokio::test]
async fn an_assertion_that_is_rejected_is_replaced_once() {
    let entra = entra().await;
    let (old, new) = (
        assertion("old", "system:serviceaccount:shop:old"),
        assertion("new", SUBJECT),
    );
    let subject = Tokens::two(&old, &new);
    let azure = settings(&entra).subject(subject).build().unwrap();
    azure.open(SCOPE).await.unwrap();
    assert_eq!(entra.take_assertions(), [old.clone(), new]);

    // If there is no other token, or it is rejected as well, that is the result. It is retried later, since a federated
    // credential takes effect some minutes after it was added.
    let other = assertion("other", "x");
    for (subject, expected) in [
        (Tokens::one(&old), vec![old.clone()]),
        (Tokens::two(&old, &other), vec![old.clone(), other.clone()]),
    ] {
        let azure = settings(&entra).subject(subject).build().unwrap();
        let source = azure.start(SCOPE);
        let error = last_error(&source).await;
        source.shutdown().await;
        assert!(error.to_string().contains("AADSTS700213"), "{error}");
        assert!(error.is_transient(), "{error}");
        assert_eq!(entra.take_assertions()[..expected.len()], expected);
    }
}

/// A source that counts how often another token is requested.
#[derive(Clone)]
struct Counted {
    token: Token,
    replacements: Arc<AtomicUsize>,
}

#[reqwest_wi_auth::async_trait]
impl TokenSource for Counted {
    fn current(&self) -> Result<Token, Error> {
        Ok(self.token.clone())
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        self.replacements.fetch_add(1, Ordering::SeqCst);
        self.current()
    }
}

#[tokio::test]
async fn the_assertion_is_not_replaced_after_errors_that_it_does_not_cause() {
    let entra = entra().await;
    let subject = Counted {
        token: Token::new(assertion("0", SUBJECT)).unwrap(),
        replacements: Arc::default(),
    };
    let azure = settings(&entra).subject(subject.clone()).build().unwrap();
    for (error, replacements) in [
        (EntraError::UnknownResource, 0),
        (EntraError::UnknownApplication, 0),
        (EntraError::TemporaryError, 0),
        (EntraError::AssertionNotValidNow, 1),
    ] {
        entra.set_fault(Some(EntraFault::Error(error)));
        let source = azure.start(SCOPE);
        last_error(&source).await;
        source.shutdown().await;
        assert_eq!(
            subject.replacements.swap(0, Ordering::SeqCst),
            replacements,
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn an_assertion_that_is_not_available_is_an_error_without_a_request() {
    let entra = entra().await;
    for (subject, is_transient) in [
        (FailingSource::transient(), true),
        (FailingSource::permanent(), false),
    ] {
        let azure = settings(&entra).subject(subject).build().unwrap();
        let error = last_error(&azure.start(SCOPE)).await;
        assert!(
            matches!(&error, Error::Fetch(FetchError::Credential { .. })),
            "{error}"
        );
        assert_eq!(error.is_transient(), is_transient, "{error}");
        assert!(error.to_string().contains("the federated token"), "{error}");
    }
    assert_eq!(entra.request_count(), 0);
}

#[test]
fn each_missing_variable_is_named_in_one_error() {
    let variables = [
        ("AZURE_CLIENT_ID", FakeEntra::CLIENT_ID),
        ("AZURE_TENANT_ID", FakeEntra::TENANT_ID),
        (
            "AZURE_FEDERATED_TOKEN_FILE",
            "/var/run/secrets/azure/tokens/azure-identity-token",
        ),
    ];
    for set in 0..8_u8 {
        let is_set = |index: usize| set & (1 << index) != 0;
        let values = variables.iter().enumerate().map(|(index, (name, value))| {
            // A variable without a value is not set.
            (*name, if is_set(index) { *value } else { " " })
        });
        let result = with_variables(&values.collect::<Vec<_>>()).build();
        if set == 7 {
            let azure = format!("{:?}", result.unwrap());
            let endpoint = format!(
                "https://login.microsoftonline.com/{}/oauth2/v2.0/token",
                FakeEntra::TENANT_ID
            );
            assert!(azure.contains(&endpoint), "{azure}");
            continue;
        }
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Configuration { .. }) && !error.is_transient());
        let text = error.to_string();
        for (index, (name, _)) in variables.iter().enumerate() {
            assert_eq!(text.contains(name), !is_set(index), "{name}: {text}");
        }
        assert!(text.contains("azure.workload.identity/use"), "{text}");
    }
}

#[test]
fn settings_replace_variables() {
    let azure = with_variables(&[
        ("AZURE_CLIENT_ID", "from-environment"),
        ("AZURE_TENANT_ID", "from-environment"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent"),
    ]);
    let azure = azure
        .client_id("from-builder")
        .tenant_id("tenant.example")
        .build()
        .unwrap();
    let shown = format!("{azure:?}");
    assert!(
        shown.contains("https://login.microsoftonline.us/tenant.example/oauth2/v2.0/token"),
        "{shown}"
    );
    assert!(
        shown.contains("from-builder") && !shown.contains("from-environment"),
        "{shown}"
    );
}

#[test]
fn an_authority_host_or_tenant_that_cannot_be_used_is_an_error() {
    for (authority, tenant, expected) in [
        (
            "http://login.microsoftonline.com",
            "t",
            "AZURE_AUTHORITY_HOST",
        ),
        (
            "https://user:s3cr3t@login.example",
            "t",
            "AZURE_AUTHORITY_HOST",
        ),
        ("file:///etc/passwd", "t", "AZURE_AUTHORITY_HOST"),
        ("https://login.example", "a/../b", "AZURE_TENANT_ID"),
        ("https://login.example", "a?b", "AZURE_TENANT_ID"),
    ] {
        let azure = with_variables(&[
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_TENANT_ID", tenant),
            ("AZURE_AUTHORITY_HOST", authority),
            ("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent"),
        ]);
        let error = azure.build().unwrap_err();
        assert!(matches!(error, Error::Configuration { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(expected) && !text.contains("s3cr3t"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_scope_of_several_resources_is_an_error_without_a_request() {
    let (entra, azure) = servers().await;
    for scope in [
        "",
        "api://orders api://stock",
        "api://orders/.default api://stock/.default",
    ] {
        let error = azure.open(scope).await.unwrap_err();
        assert!(matches!(error, Error::Configuration { .. }), "{error}");
        assert!(azure.token_source(scope).is_err());
    }
    assert_eq!(entra.request_count(), 0);
}

#[tokio::test]
async fn errors_of_entra_are_shown_with_what_to_do() {
    let (entra, azure) = servers().await;
    for (error, code, advice) in [
        (EntraError::UnknownTenant, 90_002, "AZURE_TENANT_ID"),
        (EntraError::UnknownApplication, 700_016, "AZURE_CLIENT_ID"),
        (
            EntraError::NoMatchingIssuer,
            700_211,
            "add a federated identity credential",
        ),
        (
            EntraError::NoMatchingAudience,
            700_212,
            "api://AzureADTokenExchange",
        ),
        (
            EntraError::NoMatchingSubject,
            700_213,
            "system:serviceaccount:NAMESPACE:NAME",
        ),
        (
            EntraError::SubjectInOtherCase,
            7_002_138,
            "upper and lower case",
        ),
        (
            EntraError::NoMatchingCredential,
            70_021,
            "add a federated identity credential",
        ),
        (EntraError::AssertionNotValidNow, 700_024, "the clock"),
        (EntraError::InvalidSignature, 700_027, "keys of its issuer"),
        (EntraError::MalformedAssertion, 50_027, "check the file"),
        (
            EntraError::InvalidClientSecret,
            7_000_215,
            "AZURE_AUTHORITY_HOST",
        ),
        (
            EntraError::MissingCredential,
            7_000_216,
            "AZURE_AUTHORITY_HOST",
        ),
        (
            EntraError::PublicClient,
            700_025,
            "Allow public client flows",
        ),
        (EntraError::DisabledApplication, 7_000_112, "enable"),
        (EntraError::UnknownResource, 500_011, "check the scope"),
        (EntraError::NoRoleAssigned, 501_051, "role"),
        (EntraError::InvalidScope, 1_002_012, "one resource"),
        (EntraError::SeveralResources, 28_000, "one resource"),
        (EntraError::BlockedByPolicy, 53_003, "conditional access"),
    ] {
        entra.set_fault(Some(EntraFault::Error(error)));
        let found = last_error(&azure.start(SCOPE)).await;
        assert!(
            matches!(found, Error::Fetch(FetchError::OAuth { .. })),
            "{error:?}: {found}"
        );
        let text = found.to_string();
        let code = format!("AADSTS{code}:");
        assert!(text.contains(&code), "{error:?}: {text}");
        let (_, shown_advice) = text
            .rsplit_once("; ")
            .or_else(|| text.split_once("; "))
            .unwrap();
        assert!(
            text.contains(advice) && !shown_advice.is_empty(),
            "{error:?}: {text}"
        );
    }
}

#[tokio::test]
async fn temporary_errors_are_retried() {
    let (entra, azure) = servers().await;
    for fault in [
        EntraFault::Error(EntraError::TemporaryError),
        EntraFault::TooManyRequests(1),
        EntraFault::Http(HttpFault::Status(StatusCode::BAD_GATEWAY)),
        EntraFault::Http(HttpFault::ClosedConnection),
    ] {
        entra.set_fault(Some(fault.clone()));
        let source = azure.start(SCOPE);
        let error = last_error(&source).await;
        assert!(error.is_transient(), "{fault:?}: {error}");
        entra.set_fault(None);
        source.refresh(None).await.unwrap();
    }
}

#[tokio::test]
async fn responses_without_a_bearer_token_are_errors() {
    let (entra, azure) = servers().await;
    let other = Server::start().await;
    let http = [
        HttpFault::Status(StatusCode::NO_CONTENT),
        HttpFault::Page(StatusCode::OK, "<html>".to_owned()),
        HttpFault::Page(StatusCode::OK, "[]".to_owned()),
        HttpFault::Page(StatusCode::OK, "{\"access_token\":1}".to_owned()),
        HttpFault::Page(
            StatusCode::OK,
            "{\"access_token\":\"a b\",\"token_type\":\"Bearer\"}".to_owned(),
        ),
        HttpFault::OversizedBody,
        HttpFault::InvalidBody,
        HttpFault::Redirect(other.url.clone()),
    ];
    let faults = http.into_iter().map(EntraFault::Http);
    for fault in faults.chain([EntraFault::MissingToken, EntraFault::OtherTokenType]) {
        entra.set_fault(Some(fault.clone()));
        let source = azure.start(SCOPE);
        let error = last_error(&source).await;
        assert!(matches!(error, Error::Fetch(_)), "{fault:?}: {error}");
        assert!(
            error.to_string().contains(entra.url()),
            "{fault:?}: {error}"
        );
        assert!(source.current().is_err());
    }
    assert_eq!(other.take_received(), [], "redirects are not followed");
}

/// A valid request, with some parameters replaced (or removed, by an empty value).
fn form(replaced: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut form = vec![
        ("grant_type", "client_credentials".to_owned()),
        ("client_id", FakeEntra::CLIENT_ID.to_owned()),
        ("scope", "api://orders/.default".to_owned()),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned(),
        ),
        ("client_assertion", assertion("0", SUBJECT)),
    ];
    for (name, value) in replaced {
        form.retain(|(known, _)| known != name);
        form.push((name, (*value).to_owned()));
    }
    form.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Parameters that replace those of a valid request, and the status, `error` and code of the response.
type Case = (
    &'static [(&'static str, &'static str)],
    u16,
    &'static str,
    u32,
);

#[tokio::test]
async fn the_fake_rejects_what_entra_rejects() {
    let entra = entra().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |tenant: &str| format!("{}/{tenant}/oauth2/v2.0/token", entra.url());
    let claims = |name: &str, value: Value| {
        let mut claims = json!({ "iss": ISSUER, "sub": SUBJECT, "aud": FakeEntra::AUDIENCE, "exp": 4_000_000_000_u64 });
        claims[name] = value;
        signed(&claims.to_string())
    };
    let upper = SUBJECT.to_uppercase();
    let assertions = [
        (
            claims("iss", json!("https://issuer.example/")),
            401,
            "invalid_client",
            700_211,
        ),
        (
            claims("aud", json!("https://orders.example")),
            401,
            "invalid_client",
            700_212,
        ),
        (claims("aud", json!([])), 401, "invalid_client", 700_212),
        (
            claims("sub", json!("system:serviceaccount:shop:other")),
            401,
            "invalid_client",
            700_213,
        ),
        (
            claims("sub", json!(upper)),
            401,
            "invalid_client",
            7_002_138,
        ),
        (claims("exp", json!(1)), 401, "invalid_client", 700_024),
        (claims("exp", Value::Null), 401, "invalid_client", 700_024),
        (
            claims("nbf", json!(4_000_000_000_u64)),
            401,
            "invalid_client",
            700_024,
        ),
        ("not-a-jwt".to_owned(), 400, "invalid_request", 50_027),
        ("a.b.c".to_owned(), 400, "invalid_request", 50_027),
    ];
    let parameters: [Case; 12] = [
        (&[("grant_type", "")], 400, "invalid_request", 900_144),
        (
            &[("grant_type", "password")],
            400,
            "unsupported_grant_type",
            70_003,
        ),
        (&[("client_id", "")], 400, "invalid_request", 900_144),
        (
            &[("client_id", FakeEntra::TENANT_ID)],
            400,
            "unauthorized_client",
            700_016,
        ),
        (&[("scope", "")], 400, "invalid_request", 900_144),
        (
            &[("scope", "api://orders")],
            400,
            "invalid_scope",
            1_002_012,
        ),
        (
            &[("scope", "api://orders/.default api://stock/.default")],
            400,
            "invalid_scope",
            28_000,
        ),
        (
            &[("scope", "api://unknown/.default")],
            400,
            "invalid_resource",
            500_011,
        ),
        (
            &[("client_assertion", "")],
            401,
            "invalid_client",
            7_000_216,
        ),
        (
            &[("client_assertion", ""), ("client_secret", "s3cr3t")],
            401,
            "invalid_client",
            7_000_215,
        ),
        (
            &[("client_assertion_type", "")],
            400,
            "invalid_request",
            900_144,
        ),
        (
            &[("client_assertion_type", "other")],
            400,
            "invalid_request",
            9_002_313,
        ),
    ];
    let mut cases: Vec<_> = parameters
        .iter()
        .map(|(replaced, status, error, code)| (form(replaced), *status, *error, *code))
        .collect();
    for (assertion, status, error, code) in &assertions {
        cases.push((
            form(&[("client_assertion", assertion)]),
            *status,
            *error,
            *code,
        ));
    }
    let mut repeated = form(&[]);
    repeated.push(("scope".to_owned(), "api://stock/.default".to_owned()));
    cases.push((repeated, 400, "invalid_request", 9_002_313));
    for (form, status, error, code) in cases {
        let response = client.post(url(FakeEntra::TENANT_ID)).body(encode(&form));
        let response = response.header("content-type", "application/x-www-form-urlencoded");
        assert_rejected(response.send().await.unwrap(), status, error, code).await;
    }
    // The tenant, the method and the content type.
    let send = |method: Method, tenant: &str, content_type: &str| {
        let request = client.request(method, url(tenant)).body(encode(&form(&[])));
        request.header("content-type", content_type).send()
    };
    let urlencoded = "application/x-www-form-urlencoded; charset=utf-8";
    let tenant = FakeEntra::TENANT_ID;
    let unknown = send(Method::POST, FakeEntra::CLIENT_ID, urlencoded)
        .await
        .unwrap();
    assert_rejected(unknown, 400, "invalid_request", 90_002).await;
    let get = send(Method::GET, tenant, urlencoded).await.unwrap();
    assert_rejected(get, 405, "invalid_request", 900_561).await;
    let json = send(Method::POST, tenant, "application/json")
        .await
        .unwrap();
    assert_rejected(json, 400, "invalid_request", 900_144).await;
    let accepted = send(Method::POST, tenant, urlencoded).await.unwrap();
    assert_eq!(accepted.status(), 200);
    let other_path = client.post(format!("{}/{tenant}/oauth2/token", entra.url()));
    assert_eq!(other_path.send().await.unwrap().status(), 404);
    entra.remove_federated_credential();
    let none = send(Method::POST, tenant, urlencoded).await.unwrap();
    assert_rejected(none, 401, "invalid_client", 70_021).await;
}

fn encode(form: &[(String, String)]) -> String {
    let mut url = reqwest::Url::parse("http://form").unwrap();
    url.query_pairs_mut().extend_pairs(form);
    url.query().unwrap().to_owned()
}

async fn assert_rejected(response: reqwest::Response, status: u16, error: &str, code: u32) {
    let found = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!((found, &body["error"]), (status, &json!(error)), "{body}");
    assert_eq!(body["error_codes"], json!([code]));
    let description = body["error_description"].as_str().unwrap();
    assert!(
        description.starts_with(&format!("AADSTS{code}: ")),
        "{description}"
    );
}

#[tokio::test]
async fn no_token_appears_in_logs_debug_output_or_errors() {
    if !is_child_process("azure_workload_identity::no_token_appears_in_logs_debug_output_or_errors")
    {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::TRACE);
    let entra = entra().await;
    let assertion = assertion("0", SUBJECT);
    let builder = settings(&entra).subject(Tokens::one(&assertion));
    let mut output = format!("{builder:?}");
    let azure = builder.build().unwrap();
    let source = azure.open(SCOPE).await.unwrap();
    let token = source.current().unwrap();
    output.push_str(&format!("{azure:?} {source:?} {:?}", source.health()));
    let quoted = HttpFault::Page(StatusCode::BAD_REQUEST, format!("assertion {assertion}"));
    for fault in [
        EntraFault::QuotedAssertion,
        EntraFault::Http(quoted),
        EntraFault::OtherTokenType,
        EntraFault::MissingToken,
        EntraFault::Error(EntraError::NoMatchingSubject),
    ] {
        entra.set_fault(Some(fault));
        let error = last_error(&azure.start(SCOPE)).await;
        output.push_str(&format!("{error} {error:?}"));
    }
    let logged = log.text();
    assert!(logged.contains("AADSTS700213"), "{logged}");
    let token = token
        .header()
        .to_str()
        .unwrap()
        .trim_start_matches("Bearer ")
        .to_owned();
    for text in [&assertion, &token] {
        for part in text.split('.') {
            assert!(!output.contains(part), "{output}");
            assert!(!logged.contains(part), "{logged}");
        }
    }
}

#[tokio::test]
async fn a_job_of_github_actions_gets_tokens_of_entra() {
    let fake = FakeGitHubActions::start().await.unwrap();
    let github = GitHubActions::new(fake.request_url(), fake.request_token()).unwrap();
    let entra = FakeEntra::start().await.unwrap();
    let issuer = "https://token.actions.githubusercontent.com";
    entra.set_federated_credential(issuer, "repo:octo-org/octo-repo:ref:refs/heads/main");
    // The source has no token yet when the first request needs it.
    let subject = github.start(FakeEntra::AUDIENCE);
    let azure = settings(&entra).subject(subject).build().unwrap();
    azure.open(SCOPE).await.unwrap();
    azure.open("api://stock").await.unwrap();
    assert_eq!((fake.request_count(), entra.request_count()), (1, 2));
}

#[tokio::test]
async fn the_settings_of_the_http_client_are_used() {
    let entra = entra().await;
    let builder = || settings(&entra).subject(Tokens::one(&assertion("0", SUBJECT)));
    let azure = builder().ca_file("/nonexistent/ca.pem").build().unwrap();
    let error = last_error(&azure.start(SCOPE)).await;
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    let proxy = Server::start().await;
    let remote = builder().authority_host("https://login.microsoftonline.com");
    let azure = remote.proxy(&proxy.url).unwrap().build().unwrap();
    last_error(&azure.start(SCOPE)).await;
    assert!(!proxy.take_received().is_empty());
    assert_eq!(entra.request_count(), 0);
    entra.set_fault(Some(EntraFault::Http(HttpFault::NoResponse)));
    let azure = builder()
        .time_limit(Duration::from_millis(50))
        .build()
        .unwrap();
    let error = last_error(&azure.start(SCOPE)).await;
    assert!(
        error.is_transient() && error.to_string().contains("50ms"),
        "{error}"
    );
}

/// Runs in a child process, whose environment contains a proxy that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_the_process_is_used_without_a_proxy() {
    const CHILD: &str = "TEST_RUNS_WITH_A_PROXY";
    if std::env::var_os(CHILD).is_some() {
        let azure = AzureWorkloadIdentity::from_env().unwrap();
        azure.open(SCOPE).await.unwrap();
        return;
    }
    let entra = entra().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, assertion("0", SUBJECT)).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "azure_workload_identity::the_environment_of_the_process_is_used_without_a_proxy",
            "--exact",
        ])
        .env(CHILD, "1")
        .env("AZURE_CLIENT_ID", FakeEntra::CLIENT_ID)
        .env("AZURE_TENANT_ID", FakeEntra::TENANT_ID)
        .env("AZURE_AUTHORITY_HOST", entra.url())
        .env("AZURE_FEDERATED_TOKEN_FILE", file)
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(entra.request_count(), 1);
}

#[tokio::test]
async fn another_error_code_is_logged_as_a_change() {
    if !is_child_process("azure_workload_identity::another_error_code_is_logged_as_a_change") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::WARN);
    let (entra, azure) = servers().await;
    let source = azure.start(SCOPE);
    // Both have the status 401 and the error `invalid_client`.
    for error in [
        EntraError::NoMatchingSubject,
        EntraError::AssertionNotValidNow,
    ] {
        entra.set_fault(Some(EntraFault::Error(error)));
        let before = entra.request_count();
        wait_until("two requests have failed", || {
            entra.request_count() >= before + 2
        })
        .await;
    }
    entra.set_fault(None);
    wait_until("there is a token", || source.current().is_ok()).await;
    let warnings = log.text();
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
}

#[test]
fn the_assertion_is_sent_to_entra_only_unless_the_program_sets_another_host() {
    let azure = |authority: &str| {
        with_variables(&[
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_AUTHORITY_HOST", authority),
            ("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent"),
        ])
    };
    for host in [
        "https://login.microsoftonline.com/",
        "https://login.microsoftonline.us",
        "login.partner.microsoftonline.cn",
        "https://westus2.login.microsoft.com",
        "http://127.0.0.1:8080",
        "",
    ] {
        assert!(azure(host).build().is_ok(), "{host}");
    }
    for host in [
        "https://evil.example",
        "https://login.microsoftonline.com.evil.example",
        "https://evil.example/login.microsoftonline.com",
        "https://evil-login.microsoft.com.example",
        "https://evillogin.microsoft.com",
        "https://10.0.0.1",
    ] {
        let error = azure(host).build().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Configuration { .. }), "{text}");
        assert!(
            text.contains("AZURE_AUTHORITY_HOST") && text.contains("authority_host"),
            "{text}"
        );
        assert!(
            azure("https://other.example")
                .authority_host(host)
                .build()
                .is_ok(),
            "{host}"
        );
        assert!(azure(host).authority_host(" ").build().is_err(), "{host}");
    }
}
