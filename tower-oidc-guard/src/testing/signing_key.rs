//! A key that signs, and the way it is published.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// An RSA key of 2048 bits, named as Kubernetes names its keys: by the hash of the public one.
#[derive(Debug)]
pub(super) struct SigningKey {
    pair: RsaKeyPair,
    pub(super) kid: String,
}

impl SigningKey {
    pub(super) fn generate() -> std::io::Result<Self> {
        let failed = |_| std::io::Error::other("no RSA key could be generated");
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
        let public = pair.public_key().as_der().map_err(failed)?;
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, public.as_ref()));
        Ok(Self { pair, kid })
    }

    /// The public key as a JSON Web Key, with the members that Kubernetes publishes.
    pub(super) fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "use": "sig",
            "kty": "RSA",
            "kid": self.kid,
            "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// A token in compact form.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "kid": self.kid });
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let input = format!("{}.{}", encode(&header), encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        // Signing fails for a buffer of the wrong length only; a token with the zeros would not verify.
        let _ = self.pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            input.as_bytes(),
            &mut signature,
        );
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
