//! Federation with Google, against fakes of the Security Token Service and IAM Credentials.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use reqwest_wi_auth::http::StatusCode;
use reqwest_wi_auth::testing::{FakeGoogle, GoogleFault, GoogleTokenRequest, HttpFault};
use reqwest_wi_auth::{
    Error, FetchError, FetchedToken, FixedToken, GoogleFederation, GoogleFederationBuilder, Token,
    TokenProvider as _, TokenSource as _,
};
use serde_json::{Value, json};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::{current_header, token, wait_until};

const AUDIENCE: &str = "https://auth-server.example";
const EMAIL: &str = "demo@project.iam.gserviceaccount.com";

/// Returns the settings for a fake, with a subject token that it accepts.
fn settings(google: &FakeGoogle) -> GoogleFederationBuilder {
    let subject = FixedToken::new(Token::new(google.subject_token()).unwrap());
    GoogleFederation::builder(google.audience(), subject)
        .token_url(google.token_url())
        .service_account_impersonation_url(google.impersonation_url())
        .allow_origin(google.url())
}

/// Returns a credential configuration for a fake, changed by a function.
fn configuration(google: &FakeGoogle, change: impl FnOnce(&mut Value)) -> String {
    let mut json: Value = serde_json::from_str(&google.credential_configuration("/token")).unwrap();
    change(&mut json);
    json.to_string()
}

/// Returns the error of the first request for an identity token, without waiting for further ones.
async fn first_error(federation: &GoogleFederation) -> Error {
    last_error(&federation.start(AUDIENCE)).await
}

/// Waits until a request has failed, and returns its error.
async fn last_error(source: &FetchedToken) -> Error {
    wait_until("a request has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    source.health().last_error.unwrap()
}

/// Starts a server that records each request as text, and responds with JSON. Returns its URL and the requests.
async fn recording_server(response: Value) -> (String, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::<Mutex<Vec<String>>>::default();
    let recorded = requests.clone();
    let handler = move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let text = format!(
            "{} {}\n{:?}\n{body}",
            parts.method, parts.uri, parts.headers
        );
        recorded.lock().unwrap().push(text);
        axum::Json(response)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(any(handler));
    tokio::spawn(async { axum::serve(listener, router).await });
    (url, requests)
}

/// A clock that tests advance.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_projected_token_becomes_an_identity_token_that_a_guard_accepts() {
    use reqwest_wi_auth::testing::Kubelet;

    let google = FakeGoogle::start().await.unwrap();
    let cluster = MemoryIssuer::kubernetes().unwrap();
    let accounts = MemoryIssuer::google().unwrap();
    // The Security Token Service verifies the projected token with the keys of the cluster.
    let subjects = OidcGuard::builder()
        .issuer(cluster.issuer().audience(google.subject_audience()))
        .http_client(cluster.client())
        .any_verified_caller()
        .build()
        .unwrap();
    let subjects = Arc::new(subjects);
    google.set_issuer(cluster.url());
    google.set_subject_fn(move |token| {
        let subjects = subjects.clone();
        async move {
            let verified = subjects.verifier().verify(token).await;
            verified.map(|_| ()).map_err(|error| error.to_string())
        }
    });
    let guard = OidcGuard::builder()
        .issuer(Issuer::google().audience(AUDIENCE))
        .http_client(accounts.client())
        .any_verified_caller()
        .build()
        .unwrap();
    google.set_token_fn(move |request| match request {
        GoogleTokenRequest::Identity {
            service_account,
            audience,
            ..
        } => {
            let token = accounts.token().audience(audience.as_str());
            token.google_service_account(service_account).mint()
        }
        _ => "ya29.other".to_owned(),
    });

    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path().join("tokens")).unwrap();
    let subject = cluster
        .token()
        .audience(google.subject_audience())
        .service_account("shop", "orders");
    kubelet.write([("google", subject.mint())]).unwrap();
    let path = directory.path().join("configuration.json");
    std::fs::write(
        &path,
        google.credential_configuration(kubelet.path("google")),
    )
    .unwrap();
    let federation = GoogleFederationBuilder::from_file(&path)
        .unwrap()
        .allow_origin(google.url())
        .build()
        .unwrap();
    let source = federation.open(AUDIENCE).await.unwrap();
    let header = current_header(&source).unwrap();
    let caller = guard
        .verifier()
        .verify(header.trim_start_matches("Bearer "))
        .await;
    assert_eq!(caller.unwrap().google().unwrap().email(), Some(EMAIL));

    // A new projected token is used at the next exchange.
    let rotated = cluster
        .token()
        .audience(google.subject_audience())
        .service_account("shop", "orders")
        .token_id("rotated")
        .mint();
    let expected = rotated.clone();
    google.set_subject_fn(move |token| {
        let is_rotated = token == expected;
        async move {
            is_rotated
                .then_some(())
                .ok_or_else(|| "Unable to verify the ID Token signature.".to_owned())
        }
    });
    google.revoke_federated_tokens();
    kubelet.rotate("google", &rotated).unwrap();
    // Even if the change was not noticed yet: the file is read again when the Security Token Service rejects the token.
    federation.open("https://other.example").await.unwrap();
    assert_eq!(google.exchange_count(), 2);
}

#[tokio::test]
async fn all_audiences_share_one_exchange() {
    let google = FakeGoogle::start().await.unwrap();
    let federation = settings(&google).build().unwrap();
    let mut opening = tokio::task::JoinSet::new();
    for number in 0..30 {
        let federation = federation.clone();
        opening.spawn(async move { federation.open(&format!("https://{number}.example")).await });
    }
    while let Some(opened) = opening.join_next().await {
        assert!(opened.unwrap().unwrap().health().present);
    }
    assert_eq!(google.exchange_count(), 1);
    assert_eq!(google.request_count(), 31);
    let provider: &dyn reqwest_wi_auth::TokenProvider = &federation;
    let source = provider.token_source("https://provided.example").unwrap();
    assert!(source.refresh(None).await.is_ok());
    assert_eq!(google.exchange_count(), 1);
}

#[tokio::test]
async fn a_failed_exchange_is_shared_by_all_audiences_that_wait_for_it() {
    let google = FakeGoogle::start().await.unwrap();
    google.set_fault(Some(GoogleFault::ProviderDisabled));
    let federation = settings(&google).build().unwrap();
    let sources: Vec<_> = (0..30)
        .map(|number| federation.start(&format!("https://{number}.example")))
        .collect();
    wait_until("each source has failed", || {
        sources
            .iter()
            .all(|source| source.health().last_error.is_some())
    })
    .await;
    // Retries of the first sources may have begun; without sharing there would be at least 30 requests.
    assert!(google.request_count() < 20, "{}", google.request_count());
}

#[tokio::test]
async fn the_federated_token_is_used_until_it_expires() {
    let (google, clock) = (FakeGoogle::start().await.unwrap(), Clock::default());
    let (fake_clock, source_clock) = (clock.clone(), clock.clone());
    google.set_clock(move || fake_clock.now());
    google.set_federated_lifetime(Duration::from_secs(1000));
    let federation = settings(&google)
        .clock(move || source_clock.now())
        .build()
        .unwrap();
    for (advance, exchanges) in [(0, 1), (500, 1), (480, 1), (15, 2), (900, 2), (200, 3)] {
        clock.advance(advance);
        federation.open("https://a.example").await.unwrap();
        assert_eq!(google.exchange_count(), exchanges, "after {advance} s more");
    }
}

#[tokio::test]
async fn a_rejected_federated_token_is_replaced() {
    let google = FakeGoogle::start().await.unwrap();
    let federation = settings(&google).build().unwrap();
    federation.open("https://a.example").await.unwrap();
    google.revoke_federated_tokens();
    federation.open("https://b.example").await.unwrap();
    assert_eq!(google.exchange_count(), 2);
    // There is one more exchange for each request, not more.
    google.set_fault(Some(GoogleFault::InvalidFederatedToken));
    google.revoke_federated_tokens();
    let source = federation.start("https://c.example");
    let error = last_error(&source).await.to_string();
    assert!(
        error.contains("401") && error.contains("invalid authentication credentials"),
        "{error}"
    );
    assert!(google.exchange_count() <= 5, "{}", google.exchange_count());
}

#[tokio::test]
async fn a_token_without_an_expiry_is_used_once() {
    let google = FakeGoogle::start().await.unwrap();
    google.set_fault(Some(GoogleFault::MissingExpiresIn));
    let federation = settings(&google).build().unwrap();
    for exchanges in 1..4 {
        federation
            .open(&format!("https://{exchanges}.example"))
            .await
            .unwrap();
        assert_eq!(google.exchange_count(), exchanges);
    }
}

#[tokio::test]
async fn settings_reach_the_requests() {
    let google = FakeGoogle::start().await.unwrap();
    let federation = settings(&google)
        .quota_project("billing")
        .without_email()
        .build()
        .unwrap();
    federation.open(AUDIENCE).await.unwrap();
    settings(&google)
        .build()
        .unwrap()
        .open(AUDIENCE)
        .await
        .unwrap();
    let requests = google.token_requests();
    assert!(
        matches!(
            &requests[..],
            [
                GoogleTokenRequest::Identity { include_email: false, quota_project: Some(project), .. },
                GoogleTokenRequest::Identity { include_email: true, quota_project: None, audience, .. },
            ] if project == "billing" && audience == AUDIENCE
        ),
        "{requests:?}"
    );
    let shown = format!("{federation:?}");
    assert!(
        shown.contains(EMAIL) && shown.contains("workloadIdentityPools"),
        "{shown}"
    );
}

#[tokio::test]
async fn access_tokens_have_the_scopes_and_the_lifetime_of_the_configuration() {
    let google = FakeGoogle::start().await.unwrap();
    let json = configuration(&google, |json| {
        json["credential_source"] = json!({ "file": "/nonexistent" });
        json["service_account_impersonation"] = json!({ "token_lifetime_seconds": 1200 });
    });
    let error = GoogleFederationBuilder::from_json(&json)
        .unwrap()
        .build()
        .unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error}");

    let federation = settings(&google)
        .token_lifetime(Duration::from_secs(1200))
        .build()
        .unwrap();
    let source = federation
        .open_access_token(["https://scope/a", "https://scope/b"])
        .await
        .unwrap();
    assert!(
        current_header(&source)
            .unwrap()
            .starts_with("Bearer ya29.c.")
    );
    let expires_at = source.health().expires_at.unwrap();
    let remaining = expires_at
        .duration_since(SystemTime::now())
        .unwrap()
        .as_secs();
    assert!((1190..=1200).contains(&remaining), "{remaining}");
    federation
        .open_access_token(<[String; 0]>::default())
        .await
        .unwrap();
    let requests = google.token_requests();
    let [
        GoogleTokenRequest::Access {
            scopes, lifetime, ..
        },
        GoogleTokenRequest::Access {
            scopes: default, ..
        },
    ] = &requests[..]
    else {
        panic!("{requests:?}");
    };
    assert_eq!(scopes, &["https://scope/a", "https://scope/b"]);
    assert_eq!(lifetime.as_secs(), 1200);
    assert_eq!(default, &["https://www.googleapis.com/auth/cloud-platform"]);
    assert_eq!(google.exchange_count(), 1);
}

#[tokio::test]
async fn without_a_service_account_there_are_only_federated_access_tokens() {
    let google = FakeGoogle::start().await.unwrap();
    let subject = FixedToken::new(Token::new(google.subject_token()).unwrap());
    let federation = GoogleFederation::builder(google.audience(), subject)
        .token_url(google.token_url())
        .allow_origin(google.url())
        .build()
        .unwrap();
    let errors = [
        federation.open(AUDIENCE).await.unwrap_err(),
        federation.token_source(AUDIENCE).map(|_| ()).unwrap_err(),
        federation.start(AUDIENCE).refresh(None).await.unwrap_err(),
    ];
    for error in errors {
        assert!(!error.is_transient());
        let error = error.to_string();
        assert!(
            error.contains("no service account, which identity tokens require"),
            "{error}"
        );
        assert!(error.contains("--service-account=EMAIL"), "{error}");
    }
    assert_eq!(google.request_count(), 0);
    let source = federation
        .open_access_token(["https://scope/a"])
        .await
        .unwrap();
    assert!(
        current_header(&source)
            .unwrap()
            .starts_with("Bearer ya29.d.")
    );
    assert!(source.health().expires_at.is_some());
}

#[tokio::test]
async fn a_subject_token_is_read_from_json_and_from_an_allowed_url() {
    let google = FakeGoogle::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token.json");
    let content = json!({ "access_token": google.subject_token(), "expires_in": 60 });
    std::fs::write(&path, content.to_string()).unwrap();
    let format = json!({ "type": "json", "subject_token_field_name": "access_token" });
    let from_file = configuration(&google, |json| {
        json["credential_source"] = json!({ "file": path, "format": format });
    });
    let (url, requests) = recording_server(content).await;
    let from_url = configuration(&google, |json| {
        json["credential_source"] = json!({
            "url": format!("{url}/token?audience=a"),
            "headers": { "Metadata": "True", "Authorization": "Bearer s3cr3t-of-the-header" },
            "format": format,
        });
    });
    for json in [&from_file, &from_url] {
        let settings = GoogleFederationBuilder::from_json(json).unwrap();
        let federation = settings
            .allow_origin(google.url())
            .allow_origin(&url)
            .build()
            .unwrap();
        assert!(federation.open(AUDIENCE).await.unwrap().health().present);
    }
    let requests = requests.lock().unwrap();
    let [request] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert!(request.starts_with("GET /token?audience=a"), "{request}");
    assert!(request.contains("\"metadata\": \"True\""), "{request}");
    assert!(request.contains("s3cr3t-of-the-header"), "{request}");

    let settings = GoogleFederationBuilder::from_json(&from_url).unwrap();
    let error = settings
        .allow_origin(google.url())
        .build()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("its `credential_source.url` is at"),
        "{error}"
    );
    assert!(error.contains("allow it with `allow_origin`"), "{error}");
}

#[tokio::test]
async fn errors_of_the_subject_token_name_its_place() {
    let google = FakeGoogle::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (url, _) = recording_server(json!({ "other": "s3cr3t" })).await;
    let opaque = directory.path().join("opaque");
    std::fs::write(&opaque, "s3cr3t").unwrap();
    let format = json!({ "type": "json", "subject_token_field_name": "access_token" });
    let cases = [
        (
            json!({ "file": directory.path().join("missing") }),
            "missing",
        ),
        // Only SAML responses may be opaque.
        (json!({ "file": opaque }), "not a JWT"),
        (json!({ "file": opaque, "format": format }), "expected JSON"),
        (
            json!({ "url": url, "format": format }),
            "no member \"access_token\"",
        ),
        (json!({ "url": url }), "not a subject token"),
    ];
    // All at once, since a file is awaited for a while.
    let sources = cases.map(|(source, expected)| {
        let json = configuration(&google, |json| json["credential_source"] = source);
        let settings = GoogleFederationBuilder::from_json(json).unwrap();
        let settings = settings.allow_origin(google.url()).allow_origin(&url);
        (settings.build().unwrap().start(AUDIENCE), expected)
    });
    for (source, expected) in sources {
        let error = last_error(&source).await;
        assert!(
            matches!(error, Error::Fetch(FetchError::Credential { .. })),
            "{error}"
        );
        assert!(error.is_transient(), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("the subject token") && error.contains(expected),
            "{error}"
        );
        assert!(!error.contains("s3cr3t"), "{error}");
    }
    assert_eq!(google.request_count(), 0);

    // As a SAML response, the content may be opaque. The fake has no provider for it.
    let json = configuration(&google, |json| {
        json["credential_source"] = json!({ "file": opaque });
        json["subject_token_type"] = json!("urn:ietf:params:oauth:token-type:saml2");
    });
    let settings = GoogleFederationBuilder::from_json(json).unwrap();
    let error = first_error(&settings.allow_origin(google.url()).build().unwrap()).await;
    assert!(error.to_string().contains("invalid_request"), "{error}");
}

#[test]
fn a_configuration_that_cannot_be_used_says_why_and_what_to_do() {
    let base = || {
        json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": { "file": "/token", "unknown": 1 },
            "service_account_impersonation_url":
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a%40p.iam.gserviceaccount.com:generateAccessToken",
            "unknown": { "type": "service_account" },
            "token_info_url": "https://attacker.example/introspect",
            "quota_project_id": null,
        })
    };
    let build = |json: &Value| GoogleFederationBuilder::from_json(json.to_string())?.build();
    let federation = build(&base()).unwrap();
    assert!(format!("{federation:?}").contains("a@p.iam.gserviceaccount.com"));

    let cases = [
        (
            "/type",
            json!("service_account"),
            "service account key is a long-lived secret",
        ),
        (
            "/type",
            json!("authorized_user"),
            "`CommandToken::new(\"gcloud\")",
        ),
        (
            "/type",
            json!("external_account_authorized_user"),
            "workforce pool",
        ),
        (
            "/type",
            json!("impersonated_service_account"),
            "--impersonate-service-account",
        ),
        ("/type", json!("gdch_service_account"), "Distributed Cloud"),
        (
            "/type",
            json!("EXTERNAL_ACCOUNT"),
            "expected \"external_account\"",
        ),
        ("/type", json!(null), "it has no `type`"),
        ("/type", json!(1), "of another type than expected"),
        ("/audience", json!(null), "no `audience`"),
        ("/audience", json!(""), "no `audience`"),
        (
            "/subject_token_type",
            json!(null),
            "no `subject_token_type`",
        ),
        (
            "/subject_token_type",
            json!("jwt"),
            "expected \"urn:ietf:params:oauth:token-type:jwt\"",
        ),
        (
            "/subject_token_type",
            json!("urn:ietf:params:aws:token-type:aws4_request"),
            "AWS are not supported",
        ),
        (
            "/subject_token_type",
            json!("urn:ietf:params:oauth:token-type:mtls"),
            "certificates are not supported",
        ),
        ("/credential_source", json!(null), "no `credential_source`"),
        (
            "/credential_source",
            json!({}),
            "neither a `file` nor a `url`",
        ),
        (
            "/credential_source",
            json!({ "file": "" }),
            "neither a `file` nor a `url`",
        ),
        (
            "/credential_source",
            json!({ "file": "/a", "url": "https://a.example" }),
            "both a `file` and a `url`",
        ),
        (
            "/credential_source",
            json!({ "executable": { "command": "/bin/sh" } }),
            "names an executable, which this crate never runs",
        ),
        (
            "/credential_source",
            json!({ "file": "/a", "executable": {} }),
            "names an executable",
        ),
        (
            "/credential_source",
            json!({ "environment_id": "aws1", "url": "http://169.254.169.254" }),
            "AWS are not supported",
        ),
        (
            "/credential_source",
            json!({ "certificate": { "use_default_certificate_config": true } }),
            "certificates are not supported",
        ),
        (
            "/credential_source",
            json!({ "file": "/a", "format": { "type": "xml" } }),
            "expected \"text\" or \"json\"",
        ),
        (
            "/credential_source",
            json!({ "file": "/a", "format": { "type": "json" } }),
            "without a `subject_token_field_name`",
        ),
        (
            "/credential_source",
            json!({ "url": "http://169.254.169.254/token" }),
            "\"http://169.254.169.254\"",
        ),
        (
            "/credential_source",
            json!({ "url": "https://a.example/token" }),
            "allow it with `allow_origin`",
        ),
        (
            "/credential_source",
            json!({ "url": "https://user:s3cr3t@a.example/" }),
            "has user information",
        ),
        (
            "/credential_source",
            json!({ "url": "https://a.example", "headers": { "Host": "b.example" } }),
            "the HTTP client sets",
        ),
        (
            "/credential_source",
            json!({ "url": "https://a.example", "headers": { "a b": "c" } }),
            "not the name of a header",
        ),
        (
            "/credential_source",
            json!({ "url": "https://a.example", "headers": { "a": "s3cr3t\r\nb: c" } }),
            "a header cannot have",
        ),
        (
            "/credential_source",
            json!({ "url": "https://a.example", "headers": { "a": "b", "A": "c" } }),
            "twice",
        ),
        (
            "/credential_source",
            json!({ "url": "https://a.example", "headers": "s3cr3t" }),
            "of another type than expected",
        ),
        (
            "/token_url",
            json!("https://sts.googleapis.com.attacker.example/v1/token"),
            "not a server of Google",
        ),
        (
            "/token_url",
            json!("http://sts.googleapis.com/v1/token"),
            "not a server of Google",
        ),
        (
            "/token_url",
            json!("https://user:s3cr3t@sts.googleapis.com/v1/token"),
            "has user information",
        ),
        (
            "/token_url",
            json!("https://iamcredentials.googleapis.com/v1/token"),
            "not a server of Google",
        ),
        (
            "/service_account_impersonation_url",
            json!("https://sts.googleapis.com/v1/projects/-/serviceAccounts/a:generateAccessToken"),
            "not a server of Google",
        ),
        (
            "/service_account_impersonation_url",
            json!(
                "https://iamcredentials.googleapis.com./v1/projects/-/serviceAccounts/a:generateAccessToken"
            ),
            "not a server of Google",
        ),
        (
            "/service_account_impersonation_url",
            json!(
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a:generateIdToken"
            ),
            ":generateAccessToken`",
        ),
        (
            "/service_account_impersonation_url",
            json!(
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/:generateAccessToken"
            ),
            "expected `/v1/projects",
        ),
        (
            "/service_account_impersonation_url",
            json!(
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a/keys:generateAccessToken"
            ),
            "expected `/v1/projects",
        ),
        (
            "/service_account_impersonation",
            json!({ "token_lifetime_seconds": 599 }),
            "expected 600 to 43200",
        ),
        (
            "/service_account_impersonation",
            json!({ "token_lifetime_seconds": "43201" }),
            "expected 600 to 43200",
        ),
        (
            "/service_account_impersonation",
            json!({ "token_lifetime_seconds": "soon" }),
            "of another type than expected",
        ),
        (
            "/universe_domain",
            json!("attacker.example"),
            "its `universe_domain` is \"attacker.example\"",
        ),
        (
            "/workforce_pool_user_project",
            json!("project"),
            "not a provider of a workforce pool",
        ),
        ("/client_secret", json!("s3cr3t"), "without a `client_id`"),
    ];
    for (member, value, expected) in cases {
        let mut json = base();
        json[&member[1..]] = value.clone();
        let error = build(&json).expect_err(&json.to_string());
        assert!(matches!(error, Error::Configuration { .. }), "{error}");
        assert!(!error.is_transient());
        let error = error.to_string();
        assert!(
            error.starts_with("the credential configuration cannot be used: "),
            "{error}"
        );
        assert!(error.contains(expected), "{member} {value}: {error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
    for json in [
        "",
        "null",
        "[]",
        "\"s3cr3t\"",
        "{\"type\":\"external_account\"",
        "{} s3cr3t",
        "\u{feff}{}",
    ] {
        let error = GoogleFederationBuilder::from_json(json)
            .unwrap_err()
            .to_string();
        assert!(!error.contains("s3cr3t"), "{error}");
    }
    // A private key is not quoted.
    let key =
        json!({ "type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----s3cr3t" });
    let error = GoogleFederationBuilder::from_json(key.to_string())
        .unwrap_err()
        .to_string();
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[test]
fn settings_that_cannot_be_used_are_errors() {
    let provider = "projects/1/locations/global/workloadIdentityPools/p/providers/q";
    let subject = || FixedToken::new(Token::new(token("subject", 600)).unwrap());
    let builder = || GoogleFederation::builder(provider, subject());
    let federation = builder().service_account(EMAIL).build().unwrap();
    let shown = format!("{federation:?}");
    assert!(
        shown.contains("//iam.googleapis.com/projects/1/"),
        "{shown}"
    );
    for prefix in ["//iam.googleapis.com/", "https://iam.googleapis.com/"] {
        let federation =
            GoogleFederation::builder(format!("{prefix}{provider}"), subject()).build();
        assert!(
            format!("{:?}", federation.unwrap())
                .contains(&format!("\"//iam.googleapis.com/{provider}\""))
        );
    }
    let other = builder()
        .universe_domain("apis.example")
        .service_account(EMAIL)
        .build()
        .unwrap();
    assert!(format!("{other:?}").contains("https://sts.apis.example/v1/token"));
    for (builder, expected) in [
        (
            GoogleFederation::builder("", subject()),
            "`audience` is empty",
        ),
        (
            builder().service_account("a/../b"),
            "expected an email address",
        ),
        (
            builder().service_account("a:generateIdToken"),
            "expected an email address",
        ),
        (
            builder().token_lifetime(Duration::from_secs(1)),
            "expected 600 to 43200 s",
        ),
        (builder().subject_token_type("jwt"), "expected \"urn:"),
        (
            builder().token_url("https://attacker.example/"),
            "allow it with `allow_origin`",
        ),
        (
            builder().universe_domain("https://a.example"),
            "expected a domain",
        ),
        (
            builder().allow_origin("*.example"),
            "tokens cannot be sent to",
        ),
        (builder().proxy("proxy:s3cr3t@"), "the URL of the proxy"),
        (
            builder().service_account(EMAIL).quota_project("a\nb"),
            "not the ID of a project",
        ),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn the_file_and_the_variable_are_named_in_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("configuration.json");
    let error = GoogleFederation::from_file(&path).unwrap_err();
    assert!(matches!(error, Error::File(_)), "{error}");
    assert!(error.to_string().contains("configuration.json"), "{error}");
    std::fs::write(&path, r#"{"type":"authorized_user"}"#).unwrap();
    let error = GoogleFederation::from_file(&path).unwrap_err().to_string();
    assert!(
        error.contains("configuration.json cannot be used: its `type` is"),
        "{error}"
    );
    if std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS").is_none() {
        let error = GoogleFederation::from_env().unwrap_err().to_string();
        assert!(
            error.contains("GOOGLE_APPLICATION_CREDENTIALS cannot be used: it is not set"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn each_rejection_states_what_to_do() {
    let google = FakeGoogle::start().await.unwrap();
    let federation = settings(&google).build().unwrap();
    let cases = [
        (
            GoogleFault::ProviderDisabled,
            "invalid_target",
            "providers describe",
            false,
        ),
        (
            GoogleFault::AttributeCondition,
            "unauthorized_client",
            "attribute condition of the provider",
            false,
        ),
        (
            GoogleFault::IssuerUnreachable,
            "invalid_grant",
            "--jwk-json-path",
            true,
        ),
        (
            GoogleFault::QuotaExceeded,
            "429",
            "retry after a few seconds",
            true,
        ),
        (
            GoogleFault::PermissionDenied,
            "iam.serviceAccounts.getOpenIdToken",
            "add-iam-policy-binding demo@project.iam.gserviceaccount.com --role roles/iam.workloadIdentityUser --member principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/subject/SUBJECT",
            true,
        ),
        (
            GoogleFault::ApiDisabled,
            "403",
            "gcloud services enable iamcredentials.googleapis.com",
            true,
        ),
        (
            GoogleFault::ServiceAccountNotFound,
            "Gaia id not found",
            "service-accounts describe demo@project",
            false,
        ),
    ];
    for (fault, found, advice, is_transient) in cases {
        google.set_fault(Some(fault.clone()));
        // The federated token of an earlier case would hide faults of the exchange.
        let federation = settings(&google).build().unwrap();
        let error = first_error(&federation).await;
        assert_eq!(error.is_transient(), is_transient, "{fault:?}");
        let error = error.to_string();
        assert!(
            error.contains(found) && error.contains(advice),
            "{fault:?}: {error}"
        );
    }
    google.set_fault(None);
    federation.open(AUDIENCE).await.unwrap();

    let subject = |claims: Value| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut all = json!({ "iss": "https://issuer.example", "aud": google.subject_audience(), "iat": now - 7200, "exp": now + 600 });
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        crate::support::signed(&all.to_string())
    };
    let cases = [
        (
            json!({ "aud": "https://other.example" }),
            "request the subject token for the audience \"https://iam.googleapis.com/projects/123456789012/",
        ),
        (
            json!({ "aud": [] }),
            "[] does not match the expected audience",
        ),
        (json!({ "iss": "https://issuer.example/" }), "final slash"),
    ];
    google.set_issuer("https://issuer.example");
    for (claims, expected) in cases {
        let source = FixedToken::new(Token::new(subject(claims)).unwrap());
        let federation = GoogleFederation::builder(google.audience(), source)
            .token_url(google.token_url())
            .service_account_impersonation_url(google.impersonation_url())
            .allow_origin(google.url());
        let error = first_error(&federation.build().unwrap()).await;
        assert!(
            error.is_transient() && error.to_string().contains(expected),
            "{error}"
        );
    }
    let other = google.audience().replace("123456789012", "project-id");
    let source = FixedToken::new(Token::new(subject(json!({}))).unwrap());
    let federation = GoogleFederation::builder(other, source)
        .token_url(google.token_url())
        .service_account_impersonation_url(google.impersonation_url())
        .allow_origin(google.url());
    let error = first_error(&federation.build().unwrap()).await.to_string();
    assert!(
        error.contains("the number of the project, not its ID"),
        "{error}"
    );
}

#[tokio::test]
async fn no_fault_yields_a_token_and_the_source_recovers() {
    let (elsewhere, received) = recording_server(json!({
        "access_token": "ya29.stolen", "token_type": "Bearer", "expires_in": 3600, "token": token("stolen", 600),
    }))
    .await;
    let http = || {
        [
            HttpFault::Status(StatusCode::INTERNAL_SERVER_ERROR),
            HttpFault::Page(StatusCode::BAD_GATEWAY, "<html>proxy</html>".to_owned()),
            HttpFault::Page(StatusCode::OK, "<html>portal</html>".to_owned()),
            HttpFault::ClosedConnection,
            HttpFault::NoResponse,
            HttpFault::StalledBody,
            HttpFault::OversizedBody,
            HttpFault::InvalidBody,
            HttpFault::Redirect(format!("{elsewhere}/v1/token")),
        ]
    };
    let faults = http()
        .into_iter()
        .map(GoogleFault::SecurityTokens)
        .chain(http().into_iter().map(GoogleFault::IamCredentials))
        .chain([
            GoogleFault::WrongAudience,
            GoogleFault::InvalidToken,
            GoogleFault::InvalidFederatedToken,
            GoogleFault::EchoedRequest,
        ]);
    let mut checks = tokio::task::JoinSet::new();
    for fault in faults {
        checks.spawn(async move {
            let google = FakeGoogle::start().await.unwrap();
            google.set_fault(Some(fault.clone()));
            let settings = settings(&google).time_limit(Duration::from_millis(500));
            let source = settings.build().unwrap().start(AUDIENCE);
            last_error(&source).await;
            assert!(source.current().is_err(), "{fault:?}");
            google.set_fault(None);
            wait_until("the source has recovered", || source.health().present).await;
        });
    }
    while let Some(checked) = checks.join_next().await {
        checked.unwrap();
    }
    assert!(
        received.lock().unwrap().is_empty(),
        "a redirect was followed"
    );
    let google = FakeGoogle::start().await.unwrap();
    google.set_fault(Some(GoogleFault::ExpiredToken));
    let source = settings(&google).build().unwrap().start(AUDIENCE);
    assert!(matches!(
        source.refresh(None).await,
        Err(Error::Expired { .. })
    ));
}

#[tokio::test]
async fn client_credentials_and_the_project_of_a_workforce_pool_are_sent() {
    let (url, requests) = recording_server(json!({
        "access_token": "ya29.d.federated", "token_type": "Bearer", "expires_in": 3600,
    }))
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, token("subject", 600)).unwrap();
    let json = json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "token_url": format!("{url}/v1/token"),
        "credential_source": { "file": file },
        "workforce_pool_user_project": "project&1",
    });
    let open = async |json: &Value| {
        let settings = GoogleFederationBuilder::from_json(json.to_string()).unwrap();
        let federation = settings.allow_origin(&url).build().unwrap();
        federation.open_access_token(["a", "b"]).await.unwrap();
        requests.lock().unwrap().pop().unwrap()
    };
    let request = open(&json).await;
    assert!(
        request.contains("&options=%7B%22userProject%22%3A%22project%261%22%7D"),
        "{request}"
    );
    assert!(request.contains("&scope=a+b&"), "{request}");
    assert!(!request.contains("authorization"), "{request}");
    let mut with_client = json.clone();
    with_client["client_id"] = json!("client");
    with_client["client_secret"] = json!("s3cr3t");
    let request = open(&with_client).await;
    assert!(request.contains("authorization"), "{request}");
    assert!(!request.contains("options="), "{request}");
}

#[tokio::test]
async fn an_identity_token_whose_audience_is_the_federated_token_does_not_reveal_it() {
    let federated = "ya29.d.s3cr3t-federated-token";
    let (url, _) = recording_server(json!({
        "access_token": federated,
        "token_type": "Bearer",
        "expires_in": 3600,
        "token": crate::support::signed(&json!({ "aud": [federated, "x".repeat(10_000)] }).to_string()),
    }))
    .await;
    let subject = FixedToken::new(Token::new(token("subject", 600)).unwrap());
    let federation = GoogleFederation::builder(
        "projects/1/locations/global/workloadIdentityPools/p/providers/q",
        subject,
    )
    .token_url(format!("{url}/v1/token"))
    .service_account_impersonation_url(format!(
        "{url}/v1/projects/-/serviceAccounts/a:generateAccessToken"
    ))
    .allow_origin(&url)
    .build()
    .unwrap();
    let error = first_error(&federation).await;
    assert!(
        matches!(error, Error::Fetch(FetchError::WrongAudience { .. })),
        "{error}"
    );
    let error = error.to_string();
    assert!(
        error.contains("[removed]") && !error.contains("s3cr3t"),
        "{error}"
    );
    assert!(error.len() < 1000, "{error}");
}

#[tokio::test]
async fn tokens_appear_in_no_log_error_or_debug_output() {
    if !is_child_process("google_federation::tokens_appear_in_no_log_error_or_debug_output") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::TRACE);
    let google = FakeGoogle::start().await.unwrap();
    let subject = google.subject_token();
    let federated = Arc::<Mutex<Vec<String>>>::default();
    let federation = GoogleFederation::builder(
        google.audience(),
        FixedToken::new(Token::new(&subject).unwrap()),
    )
    .token_url(google.token_url())
    .service_account_impersonation_url(google.impersonation_url())
    .allow_origin(google.url())
    .build()
    .unwrap();
    let source = federation.open(AUDIENCE).await.unwrap();
    let access = federation.open_access_token(["a"]).await.unwrap();
    for token in [current_header(&source), current_header(&access)] {
        federated
            .lock()
            .unwrap()
            .push(token.unwrap().trim_start_matches("Bearer ").to_owned());
    }
    // Errors of both services repeat the tokens.
    google.set_fault(Some(GoogleFault::EchoedRequest));
    let mut output = format!("{federation:?} {source:?} {access:?} {google:?}");
    for federation in [&federation, &settings(&google).build().unwrap()] {
        let error = first_error(federation).await;
        output.push_str(&format!("{error} {error:?}"));
    }
    assert!(output.contains("[removed]"), "{output}");
    let logged = log.text();
    assert!(logged.contains("WARN"), "{logged}");
    let mut secrets = federated.lock().unwrap().clone();
    secrets.push(subject);
    for secret in secrets {
        for part in secret.split('.').filter(|part| part.len() > 8) {
            assert!(!output.contains(part), "{output}");
            assert!(!logged.contains(part), "{logged}");
        }
    }
    assert!(
        !output.contains("ya29.d.fake") && !logged.contains("ya29.d.fake"),
        "{output} {logged}"
    );
}
