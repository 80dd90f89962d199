//! Signs arbitrary headers and payloads, valid or not.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, JwkSet};

const CURVE: &EcdsaSigningAlgorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;

/// An ES256 key pair that signs arbitrary bytes.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(CURVE).unwrap())
    }

    /// Returns the public key as an uncompressed point.
    pub fn point(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// Returns the public key as a JWK with the `kid` `k`.
    pub fn jwk(&self) -> Value {
        let point = self.point();
        let (x, y) = point[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": base64url(x), "y": base64url(y) })
    }

    /// Signs a header and a payload that are text.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        self.sign_bytes(header.as_bytes(), payload.as_bytes())
    }

    /// Signs a header and a payload that need not be UTF-8.
    pub fn sign_bytes(&self, header: &[u8], payload: &[u8]) -> String {
        let input = format!("{}.{}", base64url(header), base64url(payload));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64url(signature.as_ref()))
    }
}

/// Creates a key set of these keys that allows ES256 and RS256.
pub fn jwk_set(keys: &[Value]) -> JwkSet {
    let set = json!({ "keys": keys }).to_string();
    JwkSet::from_json(set, [Algorithm::ES256, Algorithm::RS256]).unwrap()
}

/// Encodes bytes as base64url without padding.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
