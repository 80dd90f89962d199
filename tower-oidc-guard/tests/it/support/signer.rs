//! Tokens of every kind, sound or not, signed by a key of this test's own.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, JwkSet};

/// An ES256 key that signs any bytes.
pub struct Signer(EcdsaKeyPair);

const CURVE: &EcdsaSigningAlgorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;

impl Signer {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(CURVE).unwrap())
    }

    /// The public key as an uncompressed point.
    pub fn point(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// The public key as a JWK named `k`.
    pub fn jwk(&self) -> Value {
        let point = self.point();
        let (x, y) = point[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": base64url(x), "y": base64url(y) })
    }

    /// A set of these keys, for ES256 and RS256.
    pub fn set(keys: &[Value]) -> JwkSet {
        let set = json!({ "keys": keys }).to_string();
        JwkSet::from_json(set, [Algorithm::ES256, Algorithm::RS256]).unwrap()
    }

    /// Signs a header and a payload as they are.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        self.sign_bytes(header, payload.as_bytes())
    }

    pub fn sign_bytes(&self, header: &str, payload: &[u8]) -> String {
        let input = format!("{}.{}", base64url(header.as_bytes()), base64url(payload));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64url(signature.as_ref()))
    }
}

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
