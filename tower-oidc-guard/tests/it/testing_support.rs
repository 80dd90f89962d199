//! The module `testing`: its tokens have the claims of real ones, and its issuers and identities work with guards.

// The document of an issuer in memory is parsed as users of openidconnect parse it.
#![allow(clippy::disallowed_types)]

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use tower_oidc_guard::openidconnect::core::CoreProviderMetadata;
use tower_oidc_guard::testing::{
    FakeApiServer, MemoryIssuer, TestIdentity, TestIssuer, TokenSpec, identities, tokio_clock,
};
use tower_oidc_guard::{
    Identity, Issuer, KeysError, OidcGuard, Platform, Policy, TokenError, VerifyError,
};

use crate::support::in_memory::GOOGLE;
use crate::support::recorded::{V1_20, V1_36, recorded_token};
use crate::support::{AUDIENCE, unix_time};

/// Decodes the header and the claims of a token.
fn decoded(token: &str) -> [Map<String, Value>; 2] {
    let mut parts = token.split('.').map(|part| {
        let json = URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&json).unwrap()
    });
    [parts.next().unwrap(), parts.next().unwrap()]
}

/// Returns a value with every string and number replaced by its type.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => "(text)".into(),
        Value::Number(number) if number.is_u64() => "(integer)".into(),
        other => other.clone(),
    }
}

/// Asserts that a token has the same header members and claims as a recorded one, with values of the same types, and the
/// values that do not vary.
fn assert_like_recorded(spec: &TokenSpec, folder: &str, recorded: &str) {
    let ours = decoded(&spec.mint());
    let theirs = decoded(&recorded_token(folder, recorded));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let (ours, theirs) = (ours.clone().into(), theirs.clone().into());
        assert_eq!(shape(&ours), shape(&theirs), "{recorded}");
        for constant in ["alg", "aud", "sub"] {
            assert_eq!(ours.get(constant), theirs.get(constant), "{recorded}");
        }
    }
    let [_, ours] = ours;
    let [_, theirs] = theirs;
    let seconds = |claims: &Map<String, Value>, name: &str| claims[name].as_u64().unwrap();
    for time in ["exp", "nbf"] {
        let since_issue = |claims| seconds(claims, time) - seconds(claims, "iat");
        assert_eq!(since_issue(&ours), since_issue(&theirs), "{recorded}");
    }
}

/// Asserts that tokens of a service account of this issuer have the claims of recorded ones.
fn assert_kubernetes_tokens(token: impl Fn() -> TokenSpec) {
    let of_account = |seconds| {
        let spec = token().service_account("id-namespace", "gke-sa");
        spec.lifetime(Duration::from_secs(seconds))
    };
    let unbound = || of_account(600).without_pod().audience(AUDIENCE);
    assert_like_recorded(&unbound(), V1_36, "gke-sa-600s.jwt");
    assert_like_recorded(
        &unbound().audience("https://other.example"),
        V1_36,
        "gke-sa-two-audiences.jwt",
    );
    assert_like_recorded(
        &unbound().lifetime(Duration::from_secs(3600)),
        V1_36,
        "gke-sa-3600s.jwt",
    );
    assert_like_recorded(&unbound().without_claim("jti"), V1_20, "gke-sa-600s.jwt");
    assert_like_recorded(
        &of_account(600)
            .pod("two-uids")
            .node("rig")
            .audience(AUDIENCE),
        V1_36,
        "bound-to-a-deleted-pod.jwt",
    );
    let year = 365 * 24 * 3600;
    assert_like_recorded(
        &of_account(year)
            .warn_after(SystemTime::now() + Duration::from_secs(3607))
            .audience(crate::support::recorded::ISSUER),
        V1_36,
        "automounted-one-year.jwt",
    );
}

#[tokio::test]
async fn tokens_of_kubernetes_issuers_have_the_claims_of_recorded_tokens() {
    let memory = MemoryIssuer::kubernetes().unwrap();
    assert_eq!(memory.url(), crate::support::recorded::ISSUER);
    assert_kubernetes_tokens(|| memory.token());
    let loopback = TestIssuer::kubernetes().await.unwrap();
    assert_kubernetes_tokens(|| loopback.token());
    let api = FakeApiServer::start().await.unwrap();
    assert_kubernetes_tokens(|| api.token("id-namespace", "gke-sa"));

    memory
        .rotate_key_to(tower_oidc_guard::Algorithm::ES256)
        .unwrap();
    let spec = memory.token().service_account("id-namespace", "gke-sa");
    let spec = spec.without_pod().lifetime(Duration::from_secs(600));
    assert_like_recorded(
        &spec.audience(AUDIENCE),
        "v1.36/es256-beside-rs256",
        "gke-sa-600s.jwt",
    );
}

/// The payload of an identity token with `format=full`, as in the documentation of Compute Engine ("Verify the identity of
/// instances"), without `license_id`, which only some instances have.
const COMPUTE_ENGINE_TOKEN: &str = r#"{
    "iss": "https://accounts.google.com",
    "iat": 1496953245,
    "exp": 1496956845,
    "aud": "https://www.example.com",
    "sub": "107517467455664443765",
    "azp": "107517467455664443765",
    "email": "739419398126-compute@developer.gserviceaccount.com",
    "email_verified": true,
    "google": {
        "compute_engine": {
            "project_id": "my-project",
            "project_number": 739419398126,
            "zone": "us-west1-a",
            "instance_id": "152986662232938449",
            "instance_name": "example",
            "instance_creation_timestamp": 1496952205
        }
    }
}"#;

#[tokio::test]
async fn tokens_of_google_issuers_have_the_documented_claims() {
    let memory = MemoryIssuer::google().unwrap();
    let loopback = TestIssuer::google().await.unwrap();
    for spec in [memory.token(), loopback.token()] {
        let spec = spec.audience("https://www.example.com");
        let full = spec
            .clone()
            .compute_engine("my-project", "us-west1-a", "example");
        let [header, claims] = decoded(&full.mint());
        let documented: Value = serde_json::from_str(COMPUTE_ENGINE_TOKEN).unwrap();
        assert_eq!(shape(&claims.clone().into()), shape(&documented));
        for constant in ["iss", "aud", "email", "email_verified"] {
            assert_eq!(claims[constant], documented[constant], "{constant}");
        }
        assert_eq!(claims["sub"], claims["azp"]);
        assert_eq!(claims["sub"].as_str().unwrap().len(), 21);
        assert_eq!(
            header.keys().collect::<Vec<_>>(),
            ["alg", "kid", "typ"],
            "the header of Google's tokens"
        );
        assert_eq!(
            (&header["alg"], &header["typ"]),
            (&json!("RS256"), &json!("JWT"))
        );

        let [_, standard] = decoded(&spec.mint());
        let mut expected = documented.as_object().unwrap().clone();
        expected.remove("google");
        assert_eq!(shape(&standard.into()), shape(&expected.into()));

        let user = spec
            .google_account("10", "ann@example.com")
            .hosted_domain("example.com");
        let [_, user] = decoded(&user.mint());
        assert_eq!(
            (&user["sub"], &user["hd"]),
            (&json!("10"), &json!("example.com"))
        );
        assert_eq!(user.get("kubernetes.io"), None);
    }
}

#[tokio::test]
async fn claims_of_a_token_can_be_removed_and_set_again() {
    let issuer = MemoryIssuer::kubernetes().unwrap();
    for claim in [
        "exp",
        "iat",
        "nbf",
        "jti",
        "aud",
        "iss",
        "sub",
        "kubernetes.io",
    ] {
        let spec = issuer.token().audience("a").without_claim(claim);
        let [_, claims] = decoded(&spec.mint());
        assert_eq!(claims.get(claim), None);
        let [_, claims] = decoded(&spec.claim(claim, 7).mint());
        assert_eq!(claims[claim], 7);
    }
}

/// Creates the builder of a guard that trusts these issuers and fetches their keys from memory.
fn guard_for(issuers: &[&MemoryIssuer]) -> OidcGuard {
    let builder = OidcGuard::builder()
        .http_client(MemoryIssuer::client_for(issuers.iter().copied()))
        .any_verified_caller();
    let add = |builder: tower_oidc_guard::OidcGuardBuilder, issuer: &&MemoryIssuer| {
        builder.issuer(issuer.issuer().audience(AUDIENCE))
    };
    issuers.iter().fold(builder, add).build().unwrap()
}

#[tokio::test]
async fn one_guard_trusts_several_issuers_in_memory() {
    let urls = [
        "https://cluster.example",
        "https://cluster.example/tenant",
        "https://cluster.example/tenant/b/",
        "https://cluster.example:8443",
        // The forms of the issuers of EKS, GKE and AKS.
        "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE",
        "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c",
        "https://westeurope.oic.prod-aks.azure.com/tenant/id/",
    ];
    let mut issuers: Vec<_> = urls
        .iter()
        .map(|url| MemoryIssuer::new(*url).unwrap())
        .collect();
    issuers.push(MemoryIssuer::google().unwrap());
    issuers.push(MemoryIssuer::kubernetes().unwrap());
    let all: Vec<_> = issuers.iter().collect();
    let guard = guard_for(&all);
    guard.ready().await.unwrap();
    for issuer in &issuers {
        let token = issuer.token().audience(AUDIENCE).mint();
        let caller = guard.verifier().verify(token).await.unwrap();
        assert_eq!(caller.issuer(), issuer.url());
        assert_eq!(issuer.key_fetches(), 1, "{}", issuer.url());
        let other_issuer = issuer.token().audience(AUDIENCE);
        let forged = other_issuer.claim("iss", urls[0]).mint();
        if issuer.url() != urls[0] {
            assert_eq!(
                guard.verifier().verify(forged).await.unwrap_err(),
                VerifyError::InvalidToken(TokenError::UnknownKey)
            );
        }
    }
}

#[tokio::test]
async fn request_for_the_url_of_no_issuer_in_memory_fails_like_an_unreachable_server() {
    let cluster = MemoryIssuer::new("https://cluster.example/a").unwrap();
    for url in [
        "https://cluster.example/ab",
        "https://cluster.example",
        "https://other.example/a",
        "https://cluster.example:8443/a",
    ] {
        let guard = OidcGuard::builder()
            .issuer(Issuer::kubernetes(url).audience(AUDIENCE))
            .http_client(MemoryIssuer::client_for([&cluster]))
            .any_verified_caller()
            .build()
            .unwrap();
        let error = guard.ready().await.unwrap_err();
        assert!(
            matches!(error.cause(), KeysError::Request { .. }),
            "{error:?}"
        );
    }
    assert_eq!(cluster.key_fetches(), 0);
}

#[tokio::test]
async fn issuers_in_memory_rotate_and_fail_independently() {
    let (cluster, google) = (
        MemoryIssuer::kubernetes().unwrap(),
        MemoryIssuer::google().unwrap(),
    );
    google.fail(http::StatusCode::BAD_GATEWAY);
    let guard = guard_for(&[&cluster, &google]);
    let verify = async |issuer: &MemoryIssuer| {
        let token = issuer.token().audience(AUDIENCE).mint();
        guard.verifier().verify(token).await
    };
    assert!(verify(&cluster).await.is_ok());
    assert!(matches!(
        verify(&google).await,
        Err(VerifyError::KeysUnavailable { .. })
    ));
    cluster.rotate_key().unwrap();
    assert!(verify(&cluster).await.is_ok());
    assert_eq!(cluster.key_fetches(), 2);
}

#[tokio::test]
async fn google_issuers_work_with_the_settings_and_policies_of_google() {
    const EMAIL: &str = "orders@project.iam.gserviceaccount.com";
    let policy = || Policy::members([format!("serviceAccount:{EMAIL}")]);
    let memory = MemoryIssuer::google().unwrap();
    let in_memory = OidcGuard::builder()
        .issuer(Issuer::google().audience(AUDIENCE))
        .http_client(memory.client())
        .policy(policy())
        .build()
        .unwrap();
    let loopback = TestIssuer::google().await.unwrap();
    let over_http = OidcGuard::builder()
        .issuer(loopback.issuer().audience(AUDIENCE))
        .policy(policy())
        .build()
        .unwrap();
    for (guard, spec) in [(in_memory, memory.token()), (over_http, loopback.token())] {
        let spec = spec.audience(AUDIENCE);
        let verify = async |spec: TokenSpec| guard.verifier().verify(spec.mint()).await.unwrap();
        let account = verify(spec.clone().google_service_account(EMAIL)).await;
        assert_eq!(
            (account.issuer(), account.platform()),
            (GOOGLE, Platform::Google)
        );
        assert!(guard.policy().explain(&account).is_allowed());
        let other_spelling = spec.clone().google_service_account(EMAIL);
        let other_spelling = verify(other_spelling.claim("iss", "accounts.google.com")).await;
        assert_eq!(other_spelling.issuer(), GOOGLE);
        assert!(guard.policy().explain(&other_spelling).is_allowed());
        let other = verify(spec.google_account("10", "ann@example.com")).await;
        assert!(!guard.policy().explain(&other).is_allowed());
    }
}

#[tokio::test]
async fn discovery_document_of_google_in_memory_is_provider_metadata() {
    let google = MemoryIssuer::google().unwrap();
    let url = "https://accounts.google.com/.well-known/openid-configuration";
    let response = google.client().get(url).send().await.unwrap();
    let metadata: CoreProviderMetadata =
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(metadata.issuer().as_str(), GOOGLE);
    let keys = metadata.jwks_uri().url().clone();
    assert_eq!(keys.as_str(), "https://www.googleapis.com/oauth2/v3/certs");
    let client = MemoryIssuer::client_for([&google]);
    assert_eq!(client.get(keys).send().await.unwrap().status(), 200);
    let unknown = client.get("https://accounts.google.com/nowhere").send();
    assert_eq!(unknown.await.unwrap().status(), 404);
}

/// Returns the claims of an identity, without the token ID, which differs between tokens.
fn claims_of(caller: &Identity) -> Map<String, Value> {
    let mut claims: Map<String, Value> = caller.claims().unwrap();
    claims.remove("jti");
    claims
}

#[tokio::test]
async fn test_identity_equals_the_identity_of_a_verified_token() {
    let now = unix_time(1_800_000_000);
    let (cluster, google) = (
        MemoryIssuer::kubernetes().unwrap(),
        MemoryIssuer::google().unwrap(),
    );
    let guard = OidcGuard::builder()
        .issuer(cluster.issuer().audience(AUDIENCE))
        .issuer(google.issuer().audience(AUDIENCE))
        .http_client(MemoryIssuer::client_for([&cluster, &google]))
        .any_verified_caller()
        .clock(move || now)
        .build()
        .unwrap();
    let email = "orders@project.iam.gserviceaccount.com";
    let workload = TestIdentity::kubernetes("shop", "web")
        .pod("web-1")
        .node("n");
    let account =
        TestIdentity::google(email).compute_engine("project", "europe-west1-b", "orders-1");
    let user = TestIdentity::google("ann@example.com").hosted_domain("example.com");
    for (made, spec) in [
        (
            workload,
            cluster
                .token()
                .service_account("shop", "web")
                .pod("web-1")
                .node("n"),
        ),
        (
            account,
            google
                .token()
                .issued_at(now)
                .google_service_account(email)
                .compute_engine("project", "europe-west1-b", "orders-1"),
        ),
        (
            user,
            google
                .token()
                .google_service_account("ann@example.com")
                .hosted_domain("example.com"),
        ),
    ] {
        // The instance of a Google account is created before the time of issue.
        let made = made.audience(AUDIENCE).issued_at(now).build();
        let token = spec.audience(AUDIENCE).issued_at(now).mint();
        let verified = guard.verifier().verify(token).await.unwrap();
        assert_eq!(made.issuer(), verified.issuer());
        assert_eq!(made.platform(), verified.platform());
        assert_eq!(made.subject(), verified.subject());
        assert_eq!(made.audiences(), verified.audiences());
        assert_eq!(made.expires_at(), verified.expires_at());
        assert_eq!(made.issued_at(), verified.issued_at());
        assert_eq!(made.not_before(), verified.not_before());
        assert_eq!(made.kubernetes(), verified.kubernetes());
        let of_account = |caller: &Identity| {
            caller.google().map(|account| {
                let instance = account
                    .compute_engine()
                    .map(|own| own.instance_name().map(str::to_owned));
                (
                    account.email().map(str::to_owned),
                    account.email_verified(),
                    account.hosted_domain().map(str::to_owned),
                    instance,
                )
            })
        };
        assert_eq!(of_account(&made), of_account(&verified));
        let mut names: Vec<_> = claims_of(&made).keys().cloned().collect();
        names.sort();
        let mut expected: Vec<_> = claims_of(&verified).keys().cloned().collect();
        expected.sort();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn axum_handler_extracts_a_test_identity_without_a_guard() {
    use axum::routing::get;
    use tower::ServiceExt as _;

    let describe = |caller: Identity| async move {
        let namespace = caller.kubernetes().map(|workload| workload.namespace());
        let email = caller.google().and_then(|account| account.email());
        format!("{namespace:?} {email:?}")
    };
    let app = axum::Router::new().route("/", get(describe));
    for (caller, expected) in [
        (
            TestIdentity::kubernetes("shop", "web"),
            r#"Some("shop") None"#,
        ),
        (
            TestIdentity::google("a@b.example"),
            r#"None Some("a@b.example")"#,
        ),
        (TestIdentity::oidc("https://id.example", "ann"), "None None"),
    ] {
        let request = http::Request::get("/").extension(caller.build());
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(crate::support::body_text(response).await, expected);
    }
}

#[test]
fn test_identities_are_found_by_their_names() {
    let caller = |name| TestIdentity::kubernetes("shop", name).build();
    let named = identities([("gateway", caller("gateway")), ("caller", caller("web"))]);
    let subject = |name| named.get(name).map(Identity::subject);
    assert_eq!(
        subject("gateway"),
        Some("system:serviceaccount:shop:gateway")
    );
    assert_eq!(subject("caller"), Some("system:serviceaccount:shop:web"));
    assert_eq!(subject("other"), None);
}

#[test]
#[should_panic(expected = "the claim `exp` is not a time in seconds")]
fn test_identity_with_a_claim_of_a_wrong_type_panics() {
    TestIdentity::kubernetes("shop", "web")
        .claim("exp", "tomorrow")
        .build();
}

#[tokio::test(start_paused = true)]
async fn paused_time_expires_tokens_and_refreshes_keys() {
    let clock = tokio_clock(SystemTime::now());
    let cluster = MemoryIssuer::kubernetes().unwrap();
    let guard = OidcGuard::builder()
        .issuer(cluster.issuer().audience(AUDIENCE).leeway(Duration::ZERO))
        .http_client(cluster.client())
        .any_verified_caller()
        .clock(clock.clone())
        .build()
        .unwrap();
    let token = || {
        let spec = cluster.token().audience(AUDIENCE).issued_at(clock());
        spec.lifetime(Duration::from_secs(600)).mint()
    };
    let first = token();
    assert!(guard.verifier().verify(&first).await.is_ok());
    tokio::time::advance(Duration::from_secs(598)).await;
    assert!(guard.verifier().verify(&first).await.is_ok());
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(matches!(
        guard.verifier().verify(&first).await,
        Err(VerifyError::InvalidToken(TokenError::Expired))
    ));
    assert!(guard.verifier().verify(token()).await.is_ok());
    assert_eq!(cluster.key_fetches(), 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(guard.verifier().verify(token()).await.is_ok());
    assert_eq!(
        cluster.key_fetches(),
        2,
        "keys are refreshed by tokio's time"
    );
}

#[tokio::test]
async fn pod_volume_of_a_fake_api_server_suffices_for_in_cluster() {
    let api = FakeApiServer::start().await.unwrap();
    let volume = tempfile::tempdir().unwrap();
    api.write_pod_volume(&volume, "shop", "orders").unwrap();
    let namespace = std::fs::read_to_string(volume.path().join("namespace")).unwrap();
    assert_eq!(namespace, "shop");
    let guard = OidcGuard::builder()
        .issuer(api.issuer(&volume).unwrap().audience(AUDIENCE))
        .any_verified_caller()
        .build()
        .unwrap();
    let token = api.token("shop", "web").audience(AUDIENCE).mint();
    let caller = guard.verifier().verify(token).await.unwrap();
    assert_eq!(caller.subject(), "system:serviceaccount:shop:web");
    let sent: Vec<_> = api.requests();
    let own = std::fs::read_to_string(volume.path().join("token")).unwrap();
    assert!(
        sent.iter()
            .all(|request| request.bearer_token() == Some(&own))
    );
    api.write_pod_volume(&volume, "shop", "orders").unwrap();
    let rotated = std::fs::read_to_string(volume.path().join("token")).unwrap();
    assert_ne!(own, rotated);
}
