//! The figures that this crate promises, measured in one run: a line each, and a non-zero exit code
//! where one is missed. BENCHMARKING.md says how to read them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, Issuer, OidcGuard, TokenVerifier};

const AUDIENCE: &str = "https://auth-server.example";
const BATCH: u32 = 20;
const BATCHES: usize = 1500;

/// A token, its parts, its issuer's keys, and the parsed key that signed it.
struct Case {
    token: String,
    /// The length of what is signed.
    signed: usize,
    signature: Vec<u8>,
    issuer: String,
    algorithm: Algorithm,
    jwk: Value,
    key: ParsedPublicKey,
}

impl Case {
    /// The bare check of the signature, which is decoded already.
    fn raw(&self) {
        let message = &self.token.as_bytes()[..self.signed];
        self.key
            .verify_sig(message, black_box(&self.signature))
            .unwrap();
    }

    /// A verifier of its issuer, with so many keys, among so many issuers.
    fn verifier(&self, keys: usize, issuers: usize) -> TokenVerifier {
        let mut set = vec![self.jwk.clone()];
        for number in 1..keys {
            let mut other = self.jwk.clone();
            other["kid"] = format!("other-{number}").into();
            set.push(other);
        }
        let set = json!({ "keys": set }).to_string();
        let trusted = |url: &str| {
            let issuer = Issuer::kubernetes(url)
                .audience(AUDIENCE)
                .insecure_loopback_http();
            issuer.algorithms([self.algorithm]).keys_json(set.clone())
        };
        let http = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).build();
        let builder = OidcGuard::builder()
            .http_client(http)
            .issuer(trusted(&self.issuer));
        let builder = (1..issuers).fold(builder, |builder, number| {
            builder.issuer(trusted(&format!("https://{number}.example")))
        });
        builder
            .any_verified_caller()
            .build()
            .unwrap()
            .verifier()
            .clone()
    }
}

/// Verifies with keys that are at hand, so that there is nothing to wait for.
fn verify(verifier: &TokenVerifier, token: &str) {
    let mut verdict = pin!(verifier.verify(token));
    let polled = verdict
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(black_box(polled), Poll::Ready(Ok(_))));
}

fn split(token: &str) -> (usize, Vec<u8>) {
    let end = token.rfind('.').unwrap();
    (end, URL_SAFE_NO_PAD.decode(&token[end + 1..]).unwrap())
}

async fn rs256() -> Case {
    let issuer = TestIssuer::start().await.unwrap();
    let token = issuer
        .token()
        .audience(AUDIENCE)
        .service_account("id-namespace", "gke-sa")
        .mint();
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
    // RSAPublicKey of RFC 8017, appendix A.1.1: a modulus of 2048 bits, and an exponent of three bytes.
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

/// The same claims, signed by a key on a curve.
fn es256(like: &Case) -> Case {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(x), "y": encode(y) });
    let claims = like.token.split('.').nth(1).unwrap();
    let input = format!("{}.{claims}", encode(br#"{"alg":"ES256","kid":"k"}"#));
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    let token = format!("{input}.{}", encode(signature.as_ref()));
    let (signed, signature) = split(&token);
    Case {
        token,
        signed,
        signature,
        issuer: like.issuer.clone(),
        algorithm: Algorithm::ES256,
        jwk,
        key: ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap(),
    }
}

/// The lowest times of many batches that take turns.
fn best<const N: usize>(work: [&dyn Fn(); N]) -> [Duration; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..BATCHES {
        for (work, best) in work.iter().zip(&mut best) {
            let began = Instant::now();
            (0..BATCH).for_each(|_| work());
            *best = (*best).min(began.elapsed() / BATCH);
        }
    }
    best
}

fn target(name: &str, times: [Duration; 2], limit: f64) -> bool {
    let ratio = times[0].as_secs_f64() / times[1].as_secs_f64();
    println!("{name}: {:.2?} over {:.2?}", times[0], times[1]);
    println!("target {name}: {:.3} times (limit {limit})", ratio);
    ratio <= limit
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let began = SystemTime::now();
    let rs256 = runtime.block_on(rs256());
    let es256 = es256(&rs256);
    let _inside = runtime.enter();
    let (one, many) = (rs256.verifier(1, 1), rs256.verifier(1, 1000));
    let (keys, curve) = (rs256.verifier(100, 1), es256.verifier(1, 1));
    for (verifier, case) in [
        (&one, &rs256),
        (&many, &rs256),
        (&keys, &rs256),
        (&curve, &es256),
    ] {
        runtime.block_on(verifier.verify(&case.token)).unwrap();
    }
    println!("a token of {} bytes", rs256.token.len());
    let cold_rs = best([&|| verify(&one, &rs256.token), &|| rs256.raw()]);
    let cold_es = best([&|| verify(&curve, &es256.token), &|| es256.raw()]);
    let issuers = best([&|| verify(&many, &rs256.token), &|| {
        verify(&one, &rs256.token)
    }]);
    let set = best([&|| verify(&keys, &rs256.token), &|| {
        verify(&one, &rs256.token)
    }]);
    let met = [
        target("cold_verify_over_raw_rs256", cold_rs, 1.25),
        target("cold_verify_over_raw_es256", cold_es, 1.25),
        target("cold_verify_1000_issuers_over_1", issuers, 1.1),
        target("cold_verify_100_keys_over_1", set, 1.1),
    ];
    println!("in {:.1?}", began.elapsed().unwrap_or_default());
    if met.into_iter().all(|met| met) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
