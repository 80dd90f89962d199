//! What holds for any input.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tower_oidc_guard::TokenVerifier;

use crate::support::signer::{Signer, base64url};
use crate::support::{HEADER, claims, guard_with_keys};

/// A verifier with its keys at hand, the signer whose key it trusts, and where they live.
fn verifier() -> (Runtime, TokenVerifier, Signer) {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(guard.ready()).unwrap();
    (runtime, guard.verifier().clone(), signer)
}

#[test]
fn arbitrary_bytes_are_rejected_without_a_panic() {
    let (runtime, verifier, _) = verifier();
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..2000))| {
        prop_assert!(runtime.block_on(verifier.verify(&bytes)).is_err());
    });
}

#[test]
fn arbitrary_token_parts_are_rejected_without_a_panic() {
    let (runtime, verifier, _) = verifier();
    proptest!(|(header in ".{0,200}", payload in ".{0,400}", signature in prop::collection::vec(any::<u8>(), 0..100))| {
        let parts = [header.as_bytes(), payload.as_bytes(), &signature].map(base64url);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
        let parts = [HEADER.as_bytes(), payload.as_bytes(), &signature].map(base64url);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
        let parts = [HEADER.as_bytes(), claims(json!({})).as_bytes(), &signature].map(base64url);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
    });
}

#[test]
fn token_with_any_bit_flipped_is_rejected() {
    let (runtime, verifier, signer) = verifier();
    let token = signer.sign(HEADER, &claims(json!({}))).into_bytes();
    assert!(runtime.block_on(verifier.verify(&token)).is_ok());
    for bit in 0..token.len() * 8 {
        let mut changed = token.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(
            runtime.block_on(verifier.verify(&changed)).is_err(),
            "bit {bit}"
        );
    }
}

#[test]
fn claims_round_trip_through_verification() {
    let (runtime, verifier, signer) = verifier();
    proptest!(|(extra in prop::collection::hash_map("[a-z]{4,12}", ".{0,50}", 0..10), count in any::<i64>())| {
        let mut changes: Map<String, Value> =
            extra.into_iter().map(|(name, text)| (format!("x-{name}"), text.into())).collect();
        changes.insert("count".to_owned(), count.into());
        let went_in = claims(Value::Object(changes));
        let identity = runtime.block_on(verifier.verify(signer.sign(HEADER, &went_in))).unwrap();
        let came_out: Value = identity.claims().unwrap();
        prop_assert_eq!(came_out, serde_json::from_str::<Value>(&went_in).unwrap());
    });
}
