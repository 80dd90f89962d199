//! The signing keys of fake issuers.

use std::io;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::jose::algorithm::Algorithm;

/// A key for one algorithm. Its `kid` is a hash of the public key, as in Kubernetes.
#[derive(Debug)]
pub(super) struct SigningKey {
    pair: Pair,
    algorithm: Algorithm,
    pub(super) kid: String,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    pub(super) fn generate(algorithm: Algorithm) -> io::Result<Self> {
        let pair = match algorithm {
            Algorithm::RS256 => rsa(&RSA_PKCS1_SHA256),
            Algorithm::RS384 => rsa(&RSA_PKCS1_SHA384),
            Algorithm::RS512 => rsa(&RSA_PKCS1_SHA512),
            Algorithm::PS256 => rsa(&RSA_PSS_SHA256),
            Algorithm::PS384 => rsa(&RSA_PSS_SHA384),
            Algorithm::PS512 => rsa(&RSA_PSS_SHA512),
            Algorithm::ES256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::ES384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::ES512 => ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            Algorithm::EdDSA | Algorithm::Ed25519 => {
                Ed25519KeyPair::generate().map(Pair::Ed).map_err(failed)
            }
        }?;
        let public = match &pair {
            Pair::Rsa(pair, _) => pair
                .public_key()
                .as_der()
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Pair::Ec(pair, _) => pair.public_key().as_ref().to_vec(),
            Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
        };
        let kid = base64url(digest(&SHA256, &public).as_ref());
        Ok(Self {
            pair,
            algorithm,
            kid,
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the public key as a JSON Web Key, with the members that Kubernetes publishes.
    pub(super) fn jwk(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair, _) => {
                let public = pair.public_key();
                let n = base64url(public.modulus().big_endian_without_leading_zero());
                let e = base64url(public.exponent().big_endian_without_leading_zero());
                json!({ "kty": "RSA", "n": n, "e": e })
            }
            Pair::Ec(pair, curve) => {
                let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref()) })
            }
        };
        key["use"] = "sig".into();
        key["kid"] = self.kid.clone().into();
        key["alg"] = self.algorithm.name().into();
        key
    }

    /// Signs a token in compact serialization. The members of `header` are added to `alg` and `kid`, or replace them.
    pub(super) fn sign(&self, header: &Map<String, Value>, claims: &Value) -> String {
        let mut complete = json!({ "alg": self.algorithm.name(), "kid": self.kid });
        for (name, value) in header {
            complete[name.as_str()] = value.clone();
        }
        let input = format!(
            "{}.{}",
            base64url(complete.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature = self.signature(input.as_bytes());
        format!("{input}.{}", base64url(&signature))
    }

    /// Returns a signature. It is empty if the system provides no random numbers; such a token does not verify.
    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let signed = pair.sign(*padding, &random, message, &mut signature);
                signed.map(|()| signature).unwrap_or_default()
            }
            Pair::Ec(pair, _) => {
                let signed = pair.sign(&random, message);
                signed.map_or(Vec::new(), |signature| signature.as_ref().to_vec())
            }
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

fn rsa(padding: &'static dyn RsaEncoding) -> io::Result<Pair> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    Ok(Pair::Rsa(pair, padding))
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> io::Result<Pair> {
    let pair = EcdsaKeyPair::generate(algorithm).map_err(failed)?;
    Ok(Pair::Ec(pair, curve))
}

fn failed(_: aws_lc_rs::error::Unspecified) -> io::Error {
    io::Error::other("no key could be generated")
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
