//! A token, its issuer, and the verification of its signature alone.

// Each benchmark uses a part of this module.
#![allow(dead_code)]

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, Issuer, OidcGuard, OidcGuardBuilder, TokenVerifier};

pub(crate) const AUDIENCE: &str = "https://auth-server.example";

/// A token, its parts, its issuer's keys, and the parsed key that verifies it.
pub(crate) struct Case {
    pub(crate) token: String,
    /// The length of the signed part.
    signed: usize,
    signature: Vec<u8>,
    pub(crate) issuer: String,
    algorithm: Algorithm,
    jwk: Value,
    key: ParsedPublicKey,
}

impl Case {
    /// Verifies only the signature, which is decoded already.
    pub(crate) fn raw(&self) {
        let message = &self.token.as_bytes()[..self.signed];
        self.key
            .verify_sig(message, black_box(&self.signature))
            .unwrap();
    }

    /// Creates a verifier without a cache.
    pub(crate) fn verifier(&self, keys: usize, issuers: usize) -> TokenVerifier {
        let builder = self.settings(keys, issuers).any_verified_caller();
        builder.without_cache().build().unwrap().verifier().clone()
    }

    /// Returns the builder of a guard that trusts this number of issuers, each with this number of keys.
    pub(crate) fn settings(&self, keys: usize, issuers: usize) -> OidcGuardBuilder {
        let mut set = vec![self.jwk.clone()];
        for number in 1..keys {
            let mut other = self.jwk.clone();
            other["kid"] = format!("other-{number}").into();
            set.push(other);
        }
        let set = json!({ "keys": set }).to_string();
        let trusted = |url: &str| {
            let issuer = Issuer::kubernetes(url).audience(AUDIENCE);
            issuer.algorithms([self.algorithm]).keys_json(set.clone())
        };
        let http = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).build();
        let builder = OidcGuard::builder()
            .http_client(http)
            .issuer(trusted(&self.issuer));
        (1..issuers).fold(builder, |builder, number| {
            builder.issuer(trusted(&format!("https://{number}.example")))
        })
    }
}

/// Verifies a token with keys that are available.
///
/// # Panics
///
/// Panics if the verification fails or waits for keys.
pub(crate) fn verify(verifier: &TokenVerifier, token: &str) {
    let mut verdict = pin!(verifier.verify(token));
    let polled = verdict
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(black_box(polled), Poll::Ready(Ok(_))));
}

/// Returns the length of the signed part of a token, and its decoded signature.
fn split(token: &str) -> (usize, Vec<u8>) {
    let end = token.rfind('.').unwrap();
    (end, URL_SAFE_NO_PAD.decode(&token[end + 1..]).unwrap())
}

/// Mints a token like those of Kubernetes.
pub(crate) fn mint(issuer: &TestIssuer) -> String {
    let spec = issuer.token().audience(AUDIENCE);
    spec.service_account("id-namespace", "gke-sa").mint()
}

/// Creates a case with an RS256 token of this issuer.
pub(crate) async fn rs256(issuer: &TestIssuer) -> Case {
    let token = mint(issuer);
    let keys = reqwest::Client::builder().no_proxy().build().unwrap();
    let keys = keys
        .get(format!("{}/openid/v1/jwks", issuer.url()))
        .send()
        .await
        .unwrap();
    let keys: Value = serde_json::from_slice(&keys.bytes().await.unwrap()).unwrap();
    let jwk = keys["keys"][0].clone();
    let integer = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let (n, e) = (integer("n"), integer("e"));
    // RSAPublicKey of RFC 8017, appendix A.1.1, with a modulus of 2048 bits and an exponent of three bytes.
    let mut der = vec![0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
    der.extend_from_slice(&n);
    der.extend_from_slice(&[0x02, 0x03]);
    der.extend_from_slice(&e);
    let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &der).unwrap();
    let (signed, signature) = split(&token);
    Case {
        token,
        signed,
        signature,
        issuer: issuer.url().to_owned(),
        algorithm: Algorithm::RS256,
        jwk,
        key,
    }
}

/// Signs the same claims repeatedly with an ES256 key. Its tokens differ in their signatures.
pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    input: String,
}

impl Signer {
    pub(crate) fn token(&self) -> String {
        let signature = self.pair.sign(&SystemRandom::new(), self.input.as_bytes());
        format!("{}.{}", self.input, encode(signature.unwrap().as_ref()))
    }
}

/// Creates a case with the claims of another case, signed with an ES256 key.
pub(crate) fn es256(like: &Case) -> (Case, Signer) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(x), "y": encode(y) });
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap();
    let claims = like.token.split('.').nth(1).unwrap();
    let input = format!("{}.{claims}", encode(br#"{"alg":"ES256","kid":"k"}"#));
    let signer = Signer { pair, input };
    let token = signer.token();
    let (signed, signature) = split(&token);
    let case = Case {
        token,
        signed,
        signature,
        issuer: like.issuer.clone(),
        algorithm: Algorithm::ES256,
        jwk,
        key,
    };
    (case, signer)
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
