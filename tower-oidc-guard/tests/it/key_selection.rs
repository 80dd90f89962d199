//! Which key of a set verifies a token, and which keys are skipped.

use serde_json::json;

use crate::support::signer::Signer;
use crate::support::{HEADER, claims, guard_with_keys};

#[tokio::test]
async fn token_or_key_without_kid_works_if_exactly_one_key_matches() {
    let (signer, other) = (Signer::new(), Signer::new());
    let without_kid = |signer: &Signer| {
        let mut key = signer.jwk();
        key.as_object_mut().unwrap().remove("kid");
        key
    };
    let with_kid = HEADER;
    let no_kid = r#"{"alg":"ES256"}"#;
    for (keys, header, is_accepted) in [
        (vec![signer.jwk()], no_kid, true),
        (vec![without_kid(&signer)], no_kid, true),
        (vec![without_kid(&signer)], with_kid, true),
        (vec![signer.jwk(), other.jwk()], no_kid, false),
        (
            vec![without_kid(&signer), without_kid(&other)],
            with_kid,
            false,
        ),
    ] {
        let token = signer.sign(header, &claims(json!({})));
        let result = guard_with_keys(&keys).verifier().verify(token).await;
        assert_eq!(result.is_ok(), is_accepted, "{keys:?} {header}");
    }
}

#[tokio::test]
async fn unusable_keys_are_skipped_each_with_its_reason() {
    let signer = Signer::new();
    let unusable = [
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "a", "pub": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed448", "kid": "b", "x": "AAAA" }),
        json!({ "kty": "EC", "crv": "secp256k1", "kid": "c", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "RSA", "kid": "d", "e": "AQAB" }),
        json!({ "kty": "oct", "kid": "e", "k": "AAAA" }),
        json!({ "kty": "EC", "use": "enc", "kid": "f", "crv": "P-256", "x": signer.jwk()["x"], "y": signer.jwk()["y"] }),
    ];
    let guard = guard_with_keys(&[&unusable[..], &[signer.jwk()]].concat());
    let token = signer.sign(HEADER, &claims(json!({})));
    assert!(guard.verifier().verify(token).await.is_ok());
    let health = guard.health().remove(0);
    assert_eq!(
        (health.usable_keys, health.skipped_keys.len()),
        (1, unusable.len()),
        "{health:?}"
    );
    for reason in ["key type", "curve", "missing member", "(use)"] {
        assert!(
            health
                .skipped_keys
                .iter()
                .any(|key| key.reason.contains(reason)),
            "{reason}"
        );
    }
}
