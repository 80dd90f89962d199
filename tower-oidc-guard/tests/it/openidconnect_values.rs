//! Issuers and keys that are created from values of openidconnect.

// Users pass these types; the guard does not verify with them.
#![allow(clippy::disallowed_types)]

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde_json::{Value, json};
use tower_oidc_guard::openidconnect::IssuerUrl;
use tower_oidc_guard::openidconnect::core::{CoreJsonWebKeySet, CoreProviderMetadata};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Algorithm, Issuer, JwkSet, OidcGuard, TokenError, VerifyError};

use crate::support::in_memory::fetch_jwks;
use crate::support::mock_client::mock_client;

const URL: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";

fn metadata(algorithms: Value) -> CoreProviderMetadata {
    let document = json!({
        "issuer": URL,
        "authorization_endpoint": format!("{URL}/authorize"),
        "jwks_uri": format!("{URL}/openid/v1/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    });
    serde_json::from_value(document).unwrap()
}

async fn verify(guard: &OidcGuard, issuer: &MemoryIssuer) -> Result<String, VerifyError> {
    let token = issuer.token().audience(AUDIENCE).mint();
    let identity = guard.verifier().verify(token).await;
    identity.map(|identity| identity.issuer().to_owned())
}

#[tokio::test]
async fn provider_metadata_replaces_discovery() {
    let issuer = MemoryIssuer::new(URL).unwrap();
    let (keys, requested) = (fetch_jwks(&issuer).await, Arc::new(Mutex::new(Vec::new())));
    let urls = requested.clone();
    let client = mock_client(move |request| {
        urls.lock().unwrap().push(request.url().to_string());
        Response::new(keys.clone().into_bytes())
    });
    let trusted = Issuer::from_provider_metadata(&metadata(json!(["RS256", "HS256"])));
    let guard = OidcGuard::builder()
        .issuer(trusted.audience(AUDIENCE))
        .http_client(client)
        .any_verified_caller()
        .build()
        .unwrap();
    assert_eq!(verify(&guard, &issuer).await, Ok(URL.to_owned()));
    let requested = requested.lock().unwrap();
    assert_eq!(*requested, [format!("{URL}/openid/v1/jwks")]);
}

#[tokio::test]
async fn algorithms_listed_by_provider_metadata_are_allowed_unless_others_are_set() {
    let issuer = MemoryIssuer::new(URL).unwrap();
    let not_allowed = Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed));
    let allowed = || Ok(URL.to_owned());
    for (listed, set, expected) in [
        (json!(["RS256", "ES256"]), None, allowed()),
        (json!(["ES256"]), None, not_allowed.clone()),
        (json!(["ES256"]), Some(Algorithm::RS256), allowed()),
        (json!(["RS256"]), Some(Algorithm::ES256), not_allowed),
        (json!([]), Some(Algorithm::RS256), allowed()),
    ] {
        let trusted = Issuer::from_provider_metadata(&metadata(listed.clone()));
        let trusted = set.map_or(trusted.clone(), |set| trusted.algorithms([set]));
        let guard = OidcGuard::builder()
            .issuer(trusted.audience(AUDIENCE))
            .http_client(issuer.client())
            .any_verified_caller()
            .build()
            .unwrap();
        assert_eq!(verify(&guard, &issuer).await, expected, "{listed} {set:?}");
    }
}

#[test]
fn provider_metadata_without_a_supported_algorithm_or_with_another_key_location_does_not_build() {
    let build = |issuer: Issuer| {
        let builder = OidcGuard::builder().issuer(issuer.audience(AUDIENCE));
        let error = builder.any_verified_caller().build().unwrap_err();
        error.to_string()
    };
    for listed in [json!([]), json!(["HS256"]), json!(["ES256K"])] {
        let text = build(Issuer::from_provider_metadata(&metadata(listed)));
        assert!(text.contains("no supported signature algorithm"), "{text}");
    }
    let trusted = Issuer::from_provider_metadata(&metadata(json!(["RS256"])));
    let text = build(trusted.jwks_url("https://other.example/jwks"));
    assert!(
        text.contains("`jwks_url` conflicts with `from_provider_metadata`"),
        "{text}"
    );
}

#[tokio::test]
async fn issuer_url_is_compared_exactly() {
    for (url, token_url, is_accepted) in [
        ("https://login.example", "https://login.example", true),
        ("https://login.example/", "https://login.example/", true),
        ("https://login.example", "https://login.example/", false),
        ("https://login.example/", "https://login.example", false),
    ] {
        let issuer = MemoryIssuer::new(token_url).unwrap();
        let keys = issuer.client().get(format!("{URL}/openid/v1/jwks"));
        let keys = keys.send().await.unwrap().bytes().await.unwrap();
        let trusted = Issuer::from_issuer_url(&IssuerUrl::new(url.to_owned()).unwrap())
            .keys_json(keys)
            .audience(AUDIENCE);
        let builder = OidcGuard::builder().issuer(trusted);
        let guard = builder.any_verified_caller().build().unwrap();
        let verified = verify(&guard, &issuer).await;
        assert_eq!(verified.is_ok(), is_accepted, "{url} {token_url}");
    }
}

#[tokio::test]
async fn keys_of_a_core_json_web_key_set_verify_tokens_of_every_key_type() {
    let issuer = MemoryIssuer::new(URL).unwrap();
    for algorithm in [
        Algorithm::RS256,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ] {
        issuer.rotate_key_to(algorithm).unwrap();
        let keys: CoreJsonWebKeySet = serde_json::from_str(&fetch_jwks(&issuer).await).unwrap();
        let trusted = Issuer::oidc(URL).keys(&keys).algorithms([algorithm]);
        let builder = OidcGuard::builder().issuer(trusted.audience(AUDIENCE));
        let guard = builder.any_verified_caller().build().unwrap();
        assert_eq!(
            verify(&guard, &issuer).await,
            Ok(URL.to_owned()),
            "{algorithm}"
        );
        let set = JwkSet::from_openidconnect(&keys, [algorithm]).unwrap();
        assert!(set.verify_jws(issuer.token().mint()).is_ok(), "{algorithm}");
        let forged = issuer.token().bad_signature().mint();
        assert_eq!(
            set.verify_jws(forged),
            Err(TokenError::BadSignature),
            "{algorithm}"
        );
    }
}

/// Returns why an issuer does not build.
fn build_error(issuer: Issuer) -> String {
    let builder = OidcGuard::builder().issuer(issuer.audience(AUDIENCE));
    let error = builder.any_verified_caller().build();
    error.expect_err("does not build").to_string()
}

#[test]
fn urls_of_openidconnect_values_must_be_https_and_have_no_user() {
    for (jwks_uri, reason) in [
        ("http://login.example/keys", "https"),
        ("http://127.0.0.1:1/keys", "https"),
        ("https://user:password@login.example/keys", "user"),
    ] {
        let mut document = serde_json::to_value(metadata(json!(["RS256"]))).unwrap();
        document["jwks_uri"] = json!(jwks_uri);
        let metadata: CoreProviderMetadata = serde_json::from_value(document).unwrap();
        let text = build_error(Issuer::from_provider_metadata(&metadata));
        assert!(text.contains(reason), "{jwks_uri}: {text}");
    }
    for (url, reason) in [
        ("http://login.example", "https"),
        ("http://127.0.0.1:1", "https"),
        ("https://user@login.example", "user"),
        ("https://login.example?tenant=1", "query"),
    ] {
        let url = IssuerUrl::new(url.to_owned()).unwrap();
        let text = build_error(Issuer::from_issuer_url(&url));
        assert!(text.contains(reason), "{url:?}: {text}");
    }
}

#[test]
fn keys_of_openidconnect_that_must_not_verify_signatures_are_not_usable() {
    let modulus = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
    for key in [
        json!({ "kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U", "alg": "HS256" }),
        json!({ "kty": "RSA", "n": modulus(128), "e": "AQAB" }),
        json!({ "kty": "RSA", "n": modulus(256), "e": "Aw", "use": "enc" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
    ] {
        let keys = json!({ "keys": [key] });
        let keys: CoreJsonWebKeySet = serde_json::from_value(keys).unwrap();
        let text = build_error(Issuer::oidc(URL).keys(&keys));
        assert!(text.contains("usable key"), "{key}: {text}");
    }
}
