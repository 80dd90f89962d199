//! EdDSA with Ed25519 keys, under the names of RFC 8037 (`EdDSA`) and RFC 9864 (`Ed25519`).

use std::collections::HashMap;

use serde_json::{Value, json};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{
    Algorithm, Issuer, JwkSet, OidcGuard, SignatureError, TokenError, VerifyError,
};

use crate::support::AUDIENCE;
use crate::support::in_memory::{cluster, fetch_jwks, token_spec};
use crate::support::mock_client::document_client;

const NAMES: [Algorithm; 2] = [Algorithm::EdDSA, Algorithm::Ed25519];

/// Creates an issuer whose only key has this `alg`.
fn issuer(algorithm: Algorithm) -> MemoryIssuer {
    let issuer = cluster();
    issuer.rotate_key_to(algorithm).unwrap();
    issuer.withdraw_old_keys();
    issuer
}

fn guard(issuer: &MemoryIssuer, trusted: Issuer) -> OidcGuard {
    let builder = OidcGuard::builder().issuer(trusted.audience(AUDIENCE));
    let builder = builder.any_verified_caller().http_client(issuer.client());
    builder.build().unwrap()
}

async fn verify(guard: &OidcGuard, token: String) -> Result<(), VerifyError> {
    guard.verifier().verify(token).await.map(drop)
}

#[tokio::test]
async fn test_issuer_signs_and_publishes_under_either_name() {
    for name in NAMES {
        let issuer = issuer(name);
        let keys: Value = serde_json::from_str(&fetch_jwks(&issuer).await).unwrap();
        assert_eq!(keys["keys"][0]["alg"], name.name());
        assert_eq!(keys["keys"][0]["crv"], "Ed25519");
        let guard = guard(&issuer, Issuer::kubernetes(issuer.url()));
        assert_eq!(
            verify(&guard, token_spec(&issuer).mint()).await,
            Ok(()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn allowing_one_name_allows_both() {
    for (published, trusted, signed) in [0, 1, 2, 3, 4, 5, 6, 7]
        .map(|bits| (NAMES[bits & 1], NAMES[bits >> 1 & 1], NAMES[bits >> 2]))
    {
        let issuer = issuer(published);
        let token = || token_spec(&issuer).header("alg", signed.name()).mint();
        let by_discovery = guard(&issuer, Issuer::kubernetes(issuer.url()));
        assert_eq!(verify(&by_discovery, token()).await, Ok(()));
        let by_settings = Issuer::kubernetes(issuer.url()).algorithms([trusted]);
        let by_settings = guard(&issuer, by_settings);
        assert_eq!(
            verify(&by_settings, token()).await,
            Ok(()),
            "{published} {trusted} {signed}"
        );
    }
}

#[tokio::test]
async fn key_without_alg_verifies_tokens_with_either_name() {
    let issuer = issuer(Algorithm::EdDSA);
    let mut keys: Value = serde_json::from_str(&fetch_jwks(&issuer).await).unwrap();
    keys["keys"][0].as_object_mut().unwrap().remove("alg");
    for trusted in NAMES {
        let given = Issuer::kubernetes(issuer.url()).keys_json(keys.to_string());
        let guard = guard(&issuer, given.algorithms([trusted]));
        for signed in NAMES {
            let token = token_spec(&issuer).header("alg", signed.name()).mint();
            assert_eq!(verify(&guard, token).await, Ok(()), "{trusted} {signed}");
        }
    }
}

#[tokio::test]
async fn other_algorithm_names_and_key_types_are_rejected() {
    let issuer = issuer(Algorithm::Ed25519);
    let guard_of_ed = guard(&issuer, Issuer::kubernetes(issuer.url()));
    for name in ["Ed448", "ed25519", "EDDSA", "ESP256", "Ed25519ph", "X25519"] {
        let token = token_spec(&issuer).header("alg", name).mint();
        let expected = Err(VerifyError::InvalidToken(TokenError::UnsupportedAlgorithm));
        assert_eq!(verify(&guard_of_ed, token).await, expected, "{name}");
    }
    // A guard that allows only other algorithms.
    let rs256 = Issuer::kubernetes(issuer.url()).algorithms([Algorithm::RS256]);
    let rs256 = guard(&issuer, rs256);
    let expected = Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed));
    assert_eq!(verify(&rs256, token_spec(&issuer).mint()).await, expected);
    // A key of another type.
    let rsa = cluster();
    let trusted = Issuer::kubernetes(rsa.url()).algorithms([Algorithm::RS256, Algorithm::Ed25519]);
    let both = guard(&rsa, trusted);
    let token = token_spec(&rsa).header("alg", "Ed25519").mint();
    assert_eq!(
        verify(&both, token).await,
        Err(VerifyError::InvalidToken(TokenError::UnknownKey))
    );
}

#[test]
fn keys_with_alg_ed25519_that_are_not_ed25519_keys_are_skipped() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    for key in [
        json!({ "kty": "OKP", "crv": "Ed448", "alg": "Ed25519", "x": x }),
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "Ed448", "x": x }),
        json!({ "kty": "OKP", "crv": "X25519", "alg": "Ed25519", "x": x }),
        json!({ "kty": "EC", "crv": "P-256", "alg": "Ed25519", "x": x, "y": x }),
        json!({ "kty": "AKP", "alg": "Ed25519", "pub": x }),
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "ES256", "x": x }),
    ] {
        let set = json!({ "keys": [key] }).to_string();
        let set = JwkSet::from_json(set, NAMES).unwrap();
        assert_eq!(set.skipped_keys().len(), 1, "{key}");
    }
}

/// The key and the JWS of RFC 8037, appendix A.
#[test]
fn rfc_8037_signature_verifies_under_either_name() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    use base64::Engine as _;
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(signature)
        .unwrap();
    for alg in [None, Some("EdDSA"), Some("Ed25519")] {
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": alg });
        let mut set = json!({ "keys": [key] });
        if alg.is_none() {
            set["keys"][0].as_object_mut().unwrap().remove("alg");
        }
        for trusted in NAMES {
            let set = JwkSet::from_json(set.to_string(), [trusted]).unwrap();
            for algorithm in NAMES {
                let verified = set.verify_signature(None, algorithm, message, &signature);
                assert_eq!(verified, Ok(()), "{alg:?} {trusted} {algorithm}");
                let other = set.verify_signature(None, algorithm, b"other", &signature);
                assert_eq!(other, Err(SignatureError::BadSignature));
            }
        }
    }
}

#[tokio::test]
async fn discovery_document_may_list_unsupported_algorithms_beside_ed25519() {
    let issuer = issuer(Algorithm::EdDSA);
    for (listed, expected) in [
        (&["Ed25519", "Ed448", "ESP256", "ML-DSA-44"][..], Ok(())),
        (&["EdDSA", "none"], Ok(())),
        (
            &["RS256", "Ed448"],
            Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed)),
        ),
    ] {
        let document = json!({
            "issuer": issuer.url(),
            "jwks_uri": "https://keys.example/jwks",
            "id_token_signing_alg_values_supported": listed,
        });
        let documents = HashMap::from([
            (
                format!("{}/.well-known/openid-configuration", issuer.url()),
                document.to_string().into_bytes(),
            ),
            (
                "https://keys.example/jwks".to_owned(),
                fetch_jwks(&issuer).await.into_bytes(),
            ),
        ]);
        let builder = OidcGuard::builder().any_verified_caller();
        let guard = builder
            .issuer(Issuer::kubernetes(issuer.url()).audience(AUDIENCE))
            .http_client(document_client(documents))
            .build()
            .unwrap();
        for name in NAMES {
            let token = token_spec(&issuer).header("alg", name.name()).mint();
            assert_eq!(verify(&guard, token).await, expected, "{listed:?} {name}");
        }
    }
}

#[test]
fn algorithm_names_round_trip() {
    assert_eq!(Algorithm::from_name("Ed25519"), Some(Algorithm::Ed25519));
    assert_eq!(Algorithm::Ed25519.to_string(), "Ed25519");
    let written = serde_json::to_string(&NAMES).unwrap();
    assert_eq!(written, r#"["EdDSA","Ed25519"]"#);
    let read: [Algorithm; 2] = serde_json::from_str(&written).unwrap();
    assert_eq!(read, NAMES);
}

#[cfg(feature = "policy-file")]
#[tokio::test]
async fn config_file_accepts_ed25519() {
    let issuer = issuer(Algorithm::EdDSA);
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, fetch_jwks(&issuer).await).unwrap();
    let file = folder.path().join("guard.yaml");
    let document = json!({
        "issuers": [{
            "url": issuer.url(),
            "audiences": [AUDIENCE],
            "algorithms": ["Ed25519"],
            "keys_file": keys,
        }],
        "allow": ["allAuthenticatedUsers"],
    });
    std::fs::write(&file, document.to_string()).unwrap();
    let builder = tower_oidc_guard::OidcGuardBuilder::from_file(&file).await;
    let guard = builder.unwrap().build().unwrap();
    assert_eq!(verify(&guard, token_spec(&issuer).mint()).await, Ok(()));
}
