//! What holds for any input.

use crate::support::forge::{Forge, encode};
use crate::support::{HEADER, claims, guard_of};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tower_oidc_guard::TokenVerifier;

/// A verifier with its keys at hand, the forge whose key it trusts, and where they live.
fn verifier() -> (Runtime, TokenVerifier, Forge) {
    let forge = Forge::new();
    let guard = guard_of(&[forge.jwk()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(guard.ready()).unwrap();
    (runtime, guard.verifier().clone(), forge)
}

#[test]
fn any_bytes_are_refused_without_a_panic() {
    let (runtime, verifier, _) = verifier();
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..2000))| {
        prop_assert!(runtime.block_on(verifier.verify(&bytes)).is_err());
    });
}

#[test]
fn anything_that_looks_like_a_token_is_refused_without_a_panic() {
    let (runtime, verifier, _) = verifier();
    proptest!(|(header in ".{0,200}", payload in ".{0,400}", signature in prop::collection::vec(any::<u8>(), 0..100))| {
        let parts = [header.as_bytes(), payload.as_bytes(), &signature].map(encode);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
        let parts = [HEADER.as_bytes(), payload.as_bytes(), &signature].map(encode);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
        let parts = [HEADER.as_bytes(), claims(json!({})).as_bytes(), &signature].map(encode);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
    });
}

#[test]
fn no_token_verifies_with_any_one_bit_changed() {
    let (runtime, verifier, forge) = verifier();
    let token = forge.sign(HEADER, &claims(json!({}))).into_bytes();
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
fn the_claims_that_come_out_are_those_that_went_in() {
    let (runtime, verifier, forge) = verifier();
    proptest!(|(extra in prop::collection::hash_map("[a-z]{4,12}", ".{0,50}", 0..10), count in any::<i64>())| {
        let mut changes: Map<String, Value> =
            extra.into_iter().map(|(name, text)| (format!("x-{name}"), text.into())).collect();
        changes.insert("count".to_owned(), count.into());
        let went_in = claims(Value::Object(changes));
        let identity = runtime.block_on(verifier.verify(forge.sign(HEADER, &went_in))).unwrap();
        let came_out: Value = identity.claims().unwrap();
        prop_assert_eq!(came_out, serde_json::from_str::<Value>(&went_in).unwrap());
    });
}
