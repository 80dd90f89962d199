//! What is known of issuers in the field, a test each. What concerns the cluster's own API server is in
//! `in_cluster.rs`, what concerns tokens in `peers_mistakes.rs`.

use std::time::Duration;

use crate::support::forge::Forge;
use crate::support::{
    AUDIENCE, FORGED_ISSUER, HEADER, answering, bearer, claims, guard, guard_by, guard_of, later,
    request, seconds, text, token, who,
};
use base64::Engine as _;
use http::{Method, Response};
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, BuildError, Issuer, OidcGuard, Rejection};

fn discovery(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": "https://keys.example/jwks",
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

#[tokio::test]
async fn openidconnect_rs_201_a_discovery_document_has_no_authorization_endpoint() {
    let forge = Forge::new();
    assert!(
        discovery(FORGED_ISSUER)
            .get("authorization_endpoint")
            .is_none()
    );
    let guard = guard_of(&[forge.jwk()]);
    let token = forge.sign(HEADER, &claims(json!({})));
    assert!(guard.verifier().verify(token).await.is_ok());
}

#[tokio::test]
async fn head_is_a_405_there_is_no_etag_and_keys_are_of_a_type_of_their_own() {
    let forge = Forge::new();
    let keys = json!({ "keys": [forge.jwk()] });
    let client = answering(move |request| {
        if request.method() != Method::GET {
            return Response::builder().status(405).body(Vec::new()).unwrap();
        }
        let (kind, body) = match request.url().path() {
            "/jwks" => ("application/jwk-set+json", &keys),
            _ => ("application/json", &discovery(FORGED_ISSUER)),
        };
        let answer = Response::builder().header("content-type", kind);
        answer.body(body.to_string().into_bytes()).unwrap()
    });
    guard_by(Issuer::oidc(FORGED_ISSUER), client)
        .ready()
        .await
        .unwrap();
}

#[tokio::test]
async fn openfga_3101_keys_rotate_and_the_same_request_is_let_in() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    later(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    let service = guard.layer().layer(service_fn(who));
    let response = service.oneshot(bearer(&token(&issuer))).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn start_up_never_blocks_on_the_issuer_and_health_says_that_it_is_away() {
    let guard = guard("http://127.0.0.1:1");
    let service = guard.layer().layer(service_fn(who));
    let response = service.oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 401, "who has no token hears so at once");
    assert!(guard.ready().await.is_err());
    let health = guard.health().remove(0);
    assert!(!health.is_ready && health.last_error.is_some());
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert!(text(response).await.contains("http://127.0.0.1:1"));
}

#[tokio::test]
async fn openidconnect_rs_226_a_trailing_slash_makes_another_issuer_and_the_error_says_so() {
    let forge = Forge::new();
    let keys = json!({ "keys": [forge.jwk()] });
    let client = answering(move |request| {
        let slashed = discovery(&format!("{FORGED_ISSUER}/"));
        let body = if request.url().path() == "/jwks" {
            &keys
        } else {
            &slashed
        };
        Response::new(body.to_string().into_bytes())
    });
    let error = guard_by(Issuer::oidc(FORGED_ISSUER), client)
        .ready()
        .await
        .unwrap_err();
    assert!(
        error.cause().to_string().contains("slash"),
        "{}",
        error.cause()
    );
    let slashed = claims(json!({ "iss": format!("{FORGED_ISSUER}/") }));
    let verdict = guard_of(&[forge.jwk()])
        .verifier()
        .verify(forge.sign(HEADER, &slashed))
        .await;
    assert_eq!(verdict.err(), Some(Rejection::UnknownIssuer));
}

#[tokio::test]
async fn anyone_can_have_google_sign_a_token_for_any_audience_so_ask_for_more_than_that() {
    let forge = Forge::new();
    let keys = json!({ "keys": [forge.jwk()] }).to_string();
    let google = || {
        Issuer::google()
            .algorithms([Algorithm::ES256])
            .keys_json(keys.clone())
    };
    let nobody = |_: &reqwest::Request| Response::new(Vec::new());
    let of = |email: &str| {
        let google = json!({ "iss": "https://accounts.google.com", "email": email });
        forge.sign(HEADER, &claims(google))
    };
    let any = guard_by(google(), answering(nobody));
    assert!(
        any.verifier()
            .verify(of("stranger@gmail.com"))
            .await
            .is_ok()
    );
    let known = google().require_claim("email", "known@project.iam.gserviceaccount.com");
    let known = guard_by(known, answering(nobody));
    let verdict = known.verifier().verify(of("stranger@gmail.com")).await;
    assert_eq!(verdict.err(), Some(Rejection::UnmetClaim));
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
) -> Result<tower_oidc_guard::Identity, Rejection> {
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
    let guard = builder.clock(move || seconds(now + 1)).build().unwrap();
    guard.verifier().verify(token.trim_end()).await
}

#[tokio::test]
async fn a_kubernetes_token_has_an_array_of_audiences_and_is_valid_from_its_issue_on() {
    let identity = judged("v1.36/rs256", "gke-sa-600s.jwt", AUDIENCE)
        .await
        .unwrap();
    let claims: Value = identity.claims().unwrap();
    assert!(claims["aud"].is_array() && claims["nbf"] == claims["iat"]);
    assert_eq!(identity.audiences(), [AUDIENCE]);
}

#[tokio::test]
async fn the_automounted_token_of_1_36_lives_a_year_and_says_when_it_is_stale() {
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
async fn the_automounted_token_of_1_20_has_no_audience_and_no_end_and_is_refused() {
    let verdict = judged("v1.20/rs256", "automounted-legacy.jwt", AUDIENCE).await;
    assert!(
        matches!(verdict, Err(Rejection::Malformed(_))),
        "{verdict:?}"
    );
}

#[test]
fn no_audience_configured_does_not_build() {
    let builder = OidcGuard::builder().issuer(Issuer::oidc(FORGED_ISSUER));
    let built = builder.any_verified_caller().build();
    assert!(matches!(built, Err(BuildError::NoAudience { .. })));
}

#[tokio::test]
async fn jku_x5u_jwk_and_x5c_are_never_read() {
    let (forge, thief) = (Forge::new(), Forge::new());
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
        let guard = guard_of(&[forge.jwk()]);
        let verdict = guard.verifier().verify(token).await;
        assert_eq!(verdict.err(), Some(Rejection::BadSignature), "{member}");
    }
}

#[tokio::test]
async fn bearer_is_taken_in_any_case() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(who));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let sent = request(&[&format!("{scheme} {}", token(&issuer))]);
        let response = service.clone().oneshot(sent).await.unwrap();
        assert_eq!(response.status(), 200, "{scheme}");
    }
}
