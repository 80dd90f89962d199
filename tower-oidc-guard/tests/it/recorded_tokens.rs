//! Tokens, key sets and discovery documents recorded from real Kubernetes clusters.
//!
//! The name of a recorded token says whether it must be accepted: see [`expected`].

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, TokenError, VerifyError};

use crate::support::mock_client::document_client;
use crate::support::recorded::{
    ISSUER, V1_20, V1_36, numeric_claim, recorded_path, recorded_token,
};
use crate::support::{AUDIENCE, unix_time};

/// Verifies a token with the recorded discovery document and keys of this folder, at this time.
async fn verify(folder: &str, token: &str, now: u64) -> Result<Identity, VerifyError> {
    let read = |name: &str| std::fs::read(recorded_path(folder).join(name)).unwrap();
    let discovery = read("discovery.json");
    let keys_url = serde_json::from_slice::<Value>(&discovery).unwrap()["jwks_uri"].clone();
    let served = HashMap::from([
        (
            format!("{ISSUER}/.well-known/openid-configuration"),
            discovery,
        ),
        (keys_url.as_str().unwrap().to_owned(), read("jwks.json")),
    ]);
    let issuer = Issuer::kubernetes(ISSUER).audience(AUDIENCE);
    let guard = OidcGuard::builder()
        .issuer(issuer.leeway(Duration::ZERO))
        .any_verified_caller()
        .http_client(document_client(served))
        .clock(move || unix_time(now))
        .build()
        .unwrap();
    guard.verifier().verify(token).await
}

/// Returns the expected result for the token with this name.
fn expected(name: &str) -> Result<(), VerifyError> {
    match name {
        "gke-sa-600s" | "gke-sa-3600s" | "gke-sa-two-audiences" | "bound-to-a-deleted-pod" => {
            Ok(())
        }
        "gke-sa-api-audience" | "automounted-one-year" => {
            Err(VerifyError::InvalidToken(TokenError::WrongAudience))
        }
        "bad-signature" => Err(VerifyError::InvalidToken(TokenError::BadSignature)),
        // A legacy token, which never expires.
        "automounted-legacy" => Err(VerifyError::InvalidToken(TokenError::Malformed(
            "the claim `exp` is missing",
        ))),
        "non-canonical-base64" => Err(VerifyError::InvalidToken(TokenError::Malformed(
            "a part is not canonical base64url",
        ))),
        other => panic!("no expected result for {other}"),
    }
}

/// Verifies every token of a folder and returns how many were accepted.
async fn verify_folder(folder: &str) -> usize {
    let mut accepted = 0;
    for entry in std::fs::read_dir(recorded_path(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jwt") {
            continue;
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let token = recorded_token(folder, &format!("{stem}.jwt"));
        // The legacy token has no time.
        let issued = numeric_claim(&token, "iat").unwrap_or(1_795_462_876);
        let result = verify(folder, &token, issued + 1).await;
        assert_eq!(
            result.as_ref().map(drop).map_err(|r| *r),
            expected(stem),
            "{path:?}"
        );
        let Ok(identity) = result else { continue };
        accepted += 1;
        assert_caller(&identity, stem, &token);
        let expiry = numeric_claim(&token, "exp").unwrap();
        assert!(verify(folder, &token, expiry - 1).await.is_ok(), "{path:?}");
        let expired = verify(folder, &token, expiry).await;
        assert_eq!(
            expired.err(),
            Some(VerifyError::InvalidToken(TokenError::Expired)),
            "{path:?}"
        );
    }
    accepted
}

fn assert_caller(identity: &Identity, stem: &str, token: &str) {
    assert_eq!(identity.issuer(), ISSUER);
    assert!(
        identity
            .audiences()
            .iter()
            .any(|audience| audience == AUDIENCE)
    );
    assert_eq!(
        identity.expires_at(),
        unix_time(numeric_claim(token, "exp").unwrap())
    );
    assert_eq!(
        identity.issued_at(),
        numeric_claim(token, "iat").map(unix_time)
    );
    assert_eq!(
        identity.not_before(),
        numeric_claim(token, "nbf").map(unix_time)
    );
    let caller = identity.kubernetes().expect("a service account");
    assert_eq!(caller.namespace(), "id-namespace");
    assert!(caller.service_account().uid().is_some());
    let name = caller.service_account().name();
    assert_eq!(
        identity.subject(),
        format!("system:serviceaccount:id-namespace:{name}")
    );
    let in_pod = stem == "bound-to-a-deleted-pod";
    assert_eq!(caller.pod().is_some(), in_pod, "{stem}");
    assert_eq!(caller.node().is_some(), in_pod, "{stem}");
    if in_pod {
        let pod = caller.pod().unwrap();
        assert!(!pod.name().is_empty() && pod.uid().is_some());
        assert!(!caller.node().unwrap().name().is_empty());
    } else {
        assert_eq!(name, "gke-sa");
    }
}

#[tokio::test]
async fn tokens_of_kubernetes_1_20_are_accepted_or_rejected_as_named() {
    assert_eq!(verify_folder(V1_20).await, 3);
}

#[tokio::test]
async fn tokens_of_kubernetes_1_20_after_a_key_rotation_are_accepted_or_rejected_as_named() {
    assert_eq!(verify_folder("v1.20/after-key-rotation").await, 3);
}

#[tokio::test]
async fn tokens_of_kubernetes_1_36_are_accepted_or_rejected_as_named() {
    assert_eq!(verify_folder(V1_36).await, 4);
}

#[tokio::test]
async fn tokens_of_kubernetes_1_36_after_a_key_rotation_are_accepted_or_rejected_as_named() {
    assert_eq!(verify_folder("v1.36/after-key-rotation").await, 3);
}

#[tokio::test]
async fn tokens_of_an_ec_key_beside_an_rsa_key_are_accepted_or_rejected_as_named() {
    assert_eq!(verify_folder("v1.36/es256-beside-rs256").await, 3);
}

#[tokio::test]
async fn tokens_of_the_old_key_verify_while_it_is_published() {
    for version in ["v1.20", "v1.36"] {
        let old = recorded_token(&format!("{version}/rs256"), "gke-sa-600s.jwt");
        let issued = numeric_claim(&old, "iat").unwrap();
        for documents in [
            format!("{version}/after-key-rotation"),
            format!("{version}/rs256"),
        ] {
            assert!(
                verify(&documents, &old, issued + 1).await.is_ok(),
                "{documents}"
            );
        }
    }
}

#[tokio::test]
async fn token_of_an_unpublished_key_is_rejected() {
    let new = recorded_token("v1.36/after-key-rotation", "gke-sa-600s.jwt");
    let issued = numeric_claim(&new, "iat").unwrap();
    let result = verify("v1.36/rs256", &new, issued + 100).await;
    assert_eq!(
        result.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownKey))
    );
}

/// Verifies a recorded token for this audience, with the recorded keys, one second after it was issued.
async fn verify_for_audience(
    folder: &str,
    name: &str,
    audience: &str,
) -> Result<Identity, VerifyError> {
    let token = recorded_token(folder, name);
    let now = numeric_claim(&token, "iat").unwrap_or(1_795_462_900);
    let mut issuer = Issuer::kubernetes(ISSUER)
        .keys_file(recorded_path(folder).join("jwks.json"))
        .audience(audience);
    if audience != AUDIENCE {
        issuer = issuer.dangerous_accept_api_server_audience();
    }
    let builder = OidcGuard::builder().issuer(issuer).any_verified_caller();
    let guard = builder.clock(move || unix_time(now + 1)).build().unwrap();
    guard.verifier().verify(token).await
}

#[tokio::test]
async fn kubernetes_token_has_an_array_of_audiences_and_nbf_equal_to_iat() {
    let identity = verify_for_audience(V1_36, "gke-sa-600s.jwt", AUDIENCE)
        .await
        .unwrap();
    let claims: Value = identity.claims().unwrap();
    assert!(claims["aud"].is_array() && claims["nbf"] == claims["iat"]);
    assert_eq!(identity.audiences(), [AUDIENCE]);
}

#[tokio::test]
async fn automounted_token_of_1_36_lasts_a_year_and_has_warnafter() {
    let identity = verify_for_audience(V1_36, "automounted-one-year.jwt", ISSUER)
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
    let result = verify_for_audience(V1_20, "automounted-legacy.jwt", AUDIENCE).await;
    assert!(
        matches!(
            result,
            Err(VerifyError::InvalidToken(TokenError::Malformed(_)))
        ),
        "{result:?}"
    );
}
