//! What is known of issuers in the field, a test each. What concerns the cluster's own API server is in
//! `in_cluster.rs`, what concerns tokens in `peers_mistakes.rs`.

use std::time::Duration;

use crate::support::signer::Signer;
use crate::support::{
    AUDIENCE, HEADER, ISSUER_URL, advance_clock, bearer_request, body_text, claims, echo_subject,
    guard, guard_with_client, guard_with_keys, mock_client, request, unix_time, valid_token,
};
use base64::Engine as _;
use http::{Method, Response};
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, BuildError, Issuer, OidcGuard, TokenError, VerifyError};

fn discovery(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": "https://keys.example/jwks",
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

#[tokio::test]
async fn openidconnect_rs_201_discovery_document_without_authorization_endpoint_is_accepted() {
    let signer = Signer::new();
    assert!(
        discovery(ISSUER_URL)
            .get("authorization_endpoint")
            .is_none()
    );
    let guard = guard_with_keys(&[signer.jwk()]);
    let token = signer.sign(HEADER, &claims(json!({})));
    assert!(guard.verifier().verify(token).await.is_ok());
}

#[tokio::test]
async fn keys_load_from_a_server_without_head_or_etag_and_with_jwk_set_content_type() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] });
    let client = mock_client(move |request| {
        if request.method() != Method::GET {
            return Response::builder().status(405).body(Vec::new()).unwrap();
        }
        let (kind, body) = match request.url().path() {
            "/jwks" => ("application/jwk-set+json", &keys),
            _ => ("application/json", &discovery(ISSUER_URL)),
        };
        let answer = Response::builder().header("content-type", kind);
        answer.body(body.to_string().into_bytes()).unwrap()
    });
    guard_with_client(Issuer::oidc(ISSUER_URL), client)
        .ready()
        .await
        .unwrap();
}

#[tokio::test]
async fn openfga_3101_first_request_after_a_key_rotation_is_admitted() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service
        .oneshot(bearer_request(&valid_token(&issuer)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn unreachable_issuer_does_not_block_startup_and_is_reported_by_health() {
    let guard = guard("http://127.0.0.1:1");
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service.oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 401, "who has no token hears so at once");
    assert!(guard.ready().await.is_err());
    let health = guard.health().remove(0);
    assert!(!health.is_ready && health.last_error.is_some());
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert!(body_text(response).await.contains("http://127.0.0.1:1"));
}

#[tokio::test]
async fn openidconnect_rs_226_trailing_slash_is_a_different_issuer_and_the_error_mentions_it() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] });
    let client = mock_client(move |request| {
        let slashed = discovery(&format!("{ISSUER_URL}/"));
        let body = if request.url().path() == "/jwks" {
            &keys
        } else {
            &slashed
        };
        Response::new(body.to_string().into_bytes())
    });
    let error = guard_with_client(Issuer::oidc(ISSUER_URL), client)
        .ready()
        .await
        .unwrap_err();
    assert!(
        error.cause().to_string().contains("slash"),
        "{}",
        error.cause()
    );
    let slashed = claims(json!({ "iss": format!("{ISSUER_URL}/") }));
    let verdict = guard_with_keys(&[signer.jwk()])
        .verifier()
        .verify(signer.sign(HEADER, &slashed))
        .await;
    assert_eq!(
        verdict.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownIssuer))
    );
}

#[tokio::test]
async fn required_email_claim_rejects_other_google_accounts() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let google = || {
        Issuer::google()
            .algorithms([Algorithm::ES256])
            .keys_json(keys.clone())
    };
    let nobody = |_: &reqwest::Request| Response::new(Vec::new());
    let of = |email: &str| {
        let google = json!({ "iss": "https://accounts.google.com", "email": email });
        signer.sign(HEADER, &claims(google))
    };
    let any = guard_with_client(google(), mock_client(nobody));
    assert!(
        any.verifier()
            .verify(of("stranger@gmail.com"))
            .await
            .is_ok()
    );
    let known = google().require_claim("email", "known@project.iam.gserviceaccount.com");
    let known = guard_with_client(known, mock_client(nobody));
    let verdict = known.verifier().verify(of("stranger@gmail.com")).await;
    assert_eq!(
        verdict.err(),
        Some(VerifyError::InvalidToken(TokenError::UnmetClaim))
    );
    assert!(
        known
            .verifier()
            .verify(of("known@project.iam.gserviceaccount.com"))
            .await
            .is_ok()
    );
}

/// A recorded token, judged by an issuer of its keys at the second after its issue.
async fn judged(
    of: &str,
    name: &str,
    audience: &str,
) -> Result<tower_oidc_guard::Identity, VerifyError> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/kubernetes")
        .join(of);
    let token = std::fs::read_to_string(folder.join(name)).unwrap();
    let payload = token.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .unwrap();
    let now = serde_json::from_slice::<Value>(&payload).unwrap()["iat"]
        .as_u64()
        .unwrap_or(1_795_462_900);
    let mut issuer = Issuer::kubernetes("https://kubernetes.default.svc.cluster.local")
        .keys_file(folder.join("jwks.json"))
        .audience(audience);
    if audience != AUDIENCE {
        issuer = issuer.dangerous_accept_api_server_audience();
    }
    let builder = OidcGuard::builder().issuer(issuer).any_verified_caller();
    let guard = builder.clock(move || unix_time(now + 1)).build().unwrap();
    guard.verifier().verify(token.trim_end()).await
}

#[tokio::test]
async fn kubernetes_token_has_an_array_of_audiences_and_nbf_equal_to_iat() {
    let identity = judged("v1.36/rs256", "gke-sa-600s.jwt", AUDIENCE)
        .await
        .unwrap();
    let claims: Value = identity.claims().unwrap();
    assert!(claims["aud"].is_array() && claims["nbf"] == claims["iat"]);
    assert_eq!(identity.audiences(), [AUDIENCE]);
}

#[tokio::test]
async fn automounted_token_of_1_36_lasts_a_year_and_has_warnafter() {
    let api = "https://kubernetes.default.svc.cluster.local";
    let identity = judged("v1.36/rs256", "automounted-one-year.jwt", api)
        .await
        .unwrap();
    let issued = identity.issued_at().unwrap();
    let year = identity.expires_at().duration_since(issued).unwrap();
    assert!(year > Duration::from_secs(364 * 24 * 3600), "{year:?}");
    let stale = identity.kubernetes().unwrap().warn_after().unwrap();
    assert_eq!(
        stale.duration_since(issued).unwrap(),
        Duration::from_secs(3607)
    );
}

#[tokio::test]
async fn legacy_automounted_token_of_1_20_without_audience_and_expiry_is_rejected() {
    let verdict = judged("v1.20/rs256", "automounted-legacy.jwt", AUDIENCE).await;
    assert!(
        matches!(
            verdict,
            Err(VerifyError::InvalidToken(TokenError::Malformed(_)))
        ),
        "{verdict:?}"
    );
}

#[test]
fn issuer_without_audience_does_not_build() {
    let builder = OidcGuard::builder().issuer(Issuer::oidc(ISSUER_URL));
    let built = builder.any_verified_caller().build();
    assert!(matches!(built, Err(BuildError::NoAudience { .. })));
}

#[tokio::test]
async fn header_members_jku_x5u_jwk_and_x5c_are_ignored() {
    let (signer, thief) = (Signer::new(), Signer::new());
    for member in [
        json!({ "jku": "https://evil.example/jwks" }),
        json!({ "x5u": "https://evil.example/cert" }),
        json!({ "jwk": thief.jwk() }),
        json!({ "x5c": ["AAAA"] }),
    ] {
        let mut header: Value = serde_json::from_str(HEADER).unwrap();
        header
            .as_object_mut()
            .unwrap()
            .append(member.clone().as_object_mut().unwrap());
        let token = thief.sign(&header.to_string(), &claims(json!({})));
        let guard = guard_with_keys(&[signer.jwk()]);
        let verdict = guard.verifier().verify(token).await;
        assert_eq!(
            verdict.err(),
            Some(VerifyError::InvalidToken(TokenError::BadSignature)),
            "{member}"
        );
    }
}

#[tokio::test]
async fn bearer_scheme_is_case_insensitive() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(echo_subject));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let sent = request(&[&format!("{scheme} {}", valid_token(&issuer))]);
        let response = service.clone().oneshot(sent).await.unwrap();
        assert_eq!(response.status(), 200, "{scheme}");
    }
}
