//! Fuzz targets for key sets.
//!
//! For each input:
//!
//! - The parser does not panic, and accepts exactly the objects that `serde_json` parses and that have one array `keys`.
//! - openidconnect can read each key that is used, with the same `kid`.
//! - openidconnect's key verifies a signature if the set does.
//! - Each key is compared with a bounded number of others, also if all have one `kid`.

#![expect(
    clippy::disallowed_types,
    reason = "the targets compare with openidconnect's own keys"
)]

use std::panic::AssertUnwindSafe;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use openidconnect::JsonWebKey as _;
use openidconnect::core::{CoreJsonWebKey, CoreJwsSigningAlgorithm};
use serde_json::{Map, Value, json};

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit};
use crate::fuzz::{ITERATIONS, may_be_ignored};
use crate::jose::jwk::COMPARISONS;

/// The members of a key that the guard reads, `key_ops` excepted, which openidconnect does not know.
const READ: [&str; 9] = ["kty", "use", "alg", "kid", "n", "e", "crv", "x", "y"];

fn allowed() -> Algorithms {
    [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256]
        .into_iter()
        .collect()
}

/// Parses a set and asserts everything that the module states. Returns the set if the text is one.
fn parse(json: &[u8]) -> Option<KeySet> {
    let set = KeySet::from_json(json, allowed());
    let elements = match serde_json::from_slice::<Value>(json) {
        Ok(Value::Object(members)) => members.get("keys").and_then(Value::as_array).cloned(),
        Ok(_) => None,
        // The parser need not convert the values of a key, so it accepts what `Value` cannot represent.
        Err(error) if may_be_ignored(&error) => return set.ok(),
        Err(_) => None,
    };
    let (Ok(set), Some(elements)) = (&set, &elements) else {
        // `Value` keeps the last of repeated members.
        let is_repeated = String::from_utf8_lossy(json).matches("keys").count() > 1;
        let has_escapes = json.contains(&b'\\');
        assert!(
            set.is_err() && (elements.is_none() || is_repeated || has_escapes),
            "{set:?}, {elements:?}"
        );
        return None;
    };
    assert_eq!(set.len(), elements.len());
    let readable: Vec<CoreJsonWebKey> = elements.iter().filter_map(readable).collect();
    for kid in set.kids() {
        let is_same = |key: &CoreJsonWebKey| key.key_id().map(|kid| kid.as_str()) == kid;
        assert!(
            readable.iter().any(is_same),
            "only the guard can read the key {kid:?}"
        );
    }
    let before = COMPARISONS.get();
    assert!(set.usable() <= set.len());
    assert!(set.shared_kids().count() <= set.len());
    let comparisons = COMPARISONS.get() - before;
    assert!(
        comparisons <= 32 * set.len(),
        "{comparisons} comparisons of {} keys",
        set.len()
    );
    KeySet::from_json(json, allowed()).ok()
}

/// Returns the key that openidconnect reads from the members that are used.
fn readable(element: &Value) -> Option<CoreJsonWebKey> {
    let members = element.as_object()?.iter();
    let read = members.filter(|(name, _)| READ.contains(&name.as_str()));
    let read: Map<String, Value> = read
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    serde_json::from_value(read.into()).ok()
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kids()).finish()
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..6))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
    algorithm: bool,
}

#[test]
fn edited_key_sets() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let recorded =
        include_str!("../../../tests/data/kubernetes/v1.36/es256-beside-rs256/jwks.json");
    let mut base: Value = serde_json::from_str(recorded).unwrap();
    base["keys"].as_array_mut().unwrap().extend([
        json!({ "kty": "EC", "crv": "P-256", "kid": "e", "use": "sig", "alg": "ES256", "key_ops": ["verify"], "x": encode(x), "y": encode(y) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "d", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
    ]);
    let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
    let (pair, signature) = (AssertUnwindSafe(pair), signature.as_ref().to_vec());
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &base);
            let text = ByteEdit::apply_all(&recipe.bytes, text);
            let Some(set) = parse(&text) else { return };
            let algorithm = if recipe.algorithm {
                Algorithm::ES256
            } else {
                Algorithm::EdDSA
            };
            for kid in [Some("e"), Some("d"), Some("other"), None] {
                if set.verify(kid, algorithm, b"message", &signature).is_ok() {
                    // A deeply nested value, for example, is refused although the key does not use it.
                    let Ok(elements) = serde_json::from_slice::<Value>(&text) else {
                        continue;
                    };
                    let mut keys = elements["keys"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter_map(readable);
                    let algorithm = CoreJwsSigningAlgorithm::EcdsaP256Sha256;
                    assert!(keys.any(|key| {
                        key.verify_signature(&algorithm, b"message", &signature)
                            .is_ok()
                    }));
                }
                // Of another message.
                assert!(set.verify(kid, algorithm, b"massage", &signature).is_err());
            }
            let _ = &*pair;
        });
}

#[test]
fn key_set_bytes() {
    check!()
        .with_iterations(ITERATIONS)
        .for_each(|json| drop(parse(json)));
}

#[test]
fn many_keys_with_one_kid_are_each_compared_with_few_others() {
    let keys: Vec<Value> = (0..2000_u16)
        .map(|number| {
            let mut n = [0xa5; 256];
            n[1..3].copy_from_slice(&number.to_be_bytes());
            n[255] = 1;
            json!({ "kty": "RSA", "kid": "k", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB" })
        })
        .collect();
    let set = parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    assert_eq!(set.usable(), 2000);
    assert_eq!(set.shared_kids().collect::<Vec<_>>(), [("k", 2000)]);
}
