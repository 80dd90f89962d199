//! A key that signs, and the way it is published.

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

/// A key for one algorithm, named as Kubernetes names its keys: by a hash of the public one.
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
        let kid = text(digest(&SHA256, &public).as_ref());
        Ok(Self {
            pair,
            algorithm,
            kid,
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key as a JSON Web Key, with the members that Kubernetes publishes.
    pub(super) fn jwk(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair, _) => {
                let public = pair.public_key();
                let n = text(public.modulus().big_endian_without_leading_zero());
                let e = text(public.exponent().big_endian_without_leading_zero());
                json!({ "kty": "RSA", "n": n, "e": e })
            }
            Pair::Ec(pair, curve) => {
                let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
        };
        key["use"] = "sig".into();
        key["kid"] = self.kid.clone().into();
        key["alg"] = self.algorithm.name().into();
        key
    }

    /// A token in compact form, with these members in its header beside `alg` and `kid`, or in their place.
    pub(super) fn sign(&self, header: &Map<String, Value>, claims: &Value) -> String {
        let mut whole = json!({ "alg": self.algorithm.name(), "kid": self.kid });
        for (name, value) in header {
            whole[name.as_str()] = value.clone();
        }
        let input = format!(
            "{}.{}",
            text(whole.to_string().as_bytes()),
            text(claims.to_string().as_bytes())
        );
        let signature = self.signature(input.as_bytes());
        format!("{input}.{}", text(&signature))
    }

    /// Nothing where signing fails, which takes a system without random numbers: such a token does not verify.
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

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
