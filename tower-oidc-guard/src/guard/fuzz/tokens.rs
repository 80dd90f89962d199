//! Tokens, as a guard with keys for ES256, EdDSA and RS256 verifies them.
//!
//! For each input:
//!
//! - The guard does not panic.
//! - It accepts exactly the tokens that the [oracle](super::oracle) accepts.
//! - openidconnect's verifier accepts each token that the guard accepts.
//! - A second verification, for which the cache may have the token, has the same result.
//! - The claims of an accepted token are those that were signed.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::oracle::{Expected, Oracle};
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::{ByteEdit, JsonEdit, NOW};
use crate::{Algorithm, Issuer, OidcGuard};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "https://auth-server.example";

/// A guard, and the oracle with the same settings.
struct Verifiers {
    guard: OidcGuard,
    oracle: Oracle,
    /// Its time is paused, so that a token does not wait for newer keys.
    runtime: Runtime,
}

impl Verifiers {
    fn new(keys: &Value, issuer: &str, now: u64) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let settings = Issuer::oidc(issuer)
            .audience(AUDIENCE)
            .leeway(Duration::ZERO)
            .algorithms([Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256])
            .keys_json(keys.to_string());
        let guard = OidcGuard::builder()
            .issuer(settings)
            .any_verified_caller()
            .clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(now))
            .build()
            .unwrap();
        runtime.block_on(guard.ready()).unwrap();
        Self {
            guard,
            oracle: Oracle::new(keys, issuer, AUDIENCE, now),
            runtime,
        }
    }

    /// Verifies a token and asserts everything that the module states.
    fn check(&self, token: &[u8]) -> bool {
        let verify = || self.runtime.block_on(self.guard.verifier().verify(token));
        let (first, second) = (verify(), verify());
        match (self.oracle.verify(token), &first) {
            (Expected::Accepted, Ok(_))
            | (Expected::Refused(_), Err(_))
            | (Expected::Undecided, _) => {}
            (expected, result) => panic!("{expected:?}, but the guard: {result:?}"),
        }
        assert_eq!(first.as_ref().err(), second.as_ref().err());
        let (Ok(first), Ok(second)) = (first, second) else {
            return false;
        };
        if let Some(is_accepted) = self.oracle.openidconnect_accepts(token) {
            assert!(is_accepted, "only the guard accepts the token");
        }
        let payload = token.split(|byte| *byte == b'.').nth(1).unwrap();
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap();
        for identity in [first, second] {
            // Numbers out of range and deep nesting are possible in claims that nobody reads.
            if let Ok(signed) = serde_json::from_slice::<Value>(&payload) {
                assert_eq!(identity.claims::<Value>().unwrap(), signed);
            }
        }
        true
    }
}

/// The keys of the tokens.
struct Signers {
    es256: EcdsaKeyPair,
    other_es256: EcdsaKeyPair,
    /// Of a fixed seed, so that its signatures are the same in every run.
    ed25519: Ed25519KeyPair,
}

impl Signers {
    fn new() -> Self {
        let es256 = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            es256: es256(),
            other_es256: es256(),
            ed25519: Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap(),
        }
    }

    fn keys(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = self.es256.public_key().as_ref()[1..].split_at(32);
        let ed25519 = self.ed25519.public_key().as_ref();
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "e", "x": encode(x), "y": encode(y) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "d", "x": encode(ed25519) },
        ] })
    }

    fn sign(&self, key: SigningKey, message: &[u8]) -> Vec<u8> {
        let es256 = |pair: &EcdsaKeyPair| {
            pair.sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec()
        };
        match key {
            SigningKey::Es256 => es256(&self.es256),
            SigningKey::Ed25519 => self.ed25519.sign(message).as_ref().to_vec(),
            SigningKey::OtherEs256 => es256(&self.other_es256),
            SigningKey::PublicKeyAsSecret => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, self.es256.public_key().as_ref());
                hmac::sign(&secret, message).as_ref().to_vec()
            }
            SigningKey::Zeros => vec![0; 64],
            SigningKey::Nothing => Vec::new(),
        }
    }
}

/// The key that a token is signed with.
#[derive(Debug, Clone, Copy, TypeGenerator)]
enum SigningKey {
    Es256,
    Ed25519,
    OtherEs256,
    /// The public key as the secret of an HMAC, as in attacks that confuse the algorithms.
    PublicKeyAsSecret,
    Zeros,
    Nothing,
}

/// A change of a signed token.
#[derive(Debug, Clone, TypeGenerator)]
enum TokenEdit {
    Bytes(ByteEdit),
    SwapParts(u8, u8),
    RepeatPart(u8),
    RemovePart(u8),
    PadPart(u8),
    /// Sets the unused bits of the last character of a part.
    UnusedBits(u8),
    StandardAlphabet(u8),
    /// Exchanges the two numbers of an ES256 signature.
    SwapHalvesOfSignature,
}

impl TokenEdit {
    fn apply(&self, token: Vec<u8>) -> Vec<u8> {
        let edit_parts = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let parts = token.split(|byte| *byte == b'.').map(<[u8]>::to_vec);
            let mut parts: Vec<_> = parts.collect();
            edit(&mut parts);
            parts.join(&b'.')
        };
        match *self {
            Self::Bytes(ref edit) => ByteEdit::apply_all(std::slice::from_ref(edit), token),
            Self::SwapParts(first, second) => edit_parts(&|parts| {
                let count = parts.len();
                parts.swap(usize::from(first) % count, usize::from(second) % count);
            }),
            Self::RepeatPart(index) => edit_parts(&|parts| {
                parts.push(parts[usize::from(index) % parts.len()].clone());
            }),
            Self::RemovePart(index) => edit_parts(&|parts| {
                drop(parts.remove(usize::from(index) % parts.len()));
            }),
            Self::PadPart(index) => edit_parts(&|parts| {
                let count = parts.len();
                let part = &mut parts[usize::from(index) % count];
                let missing = (4 - part.len() % 4) % 4;
                part.extend(std::iter::repeat_n(b'=', missing));
            }),
            Self::UnusedBits(index) => edit_parts(&|parts| {
                let count = parts.len();
                if let Some(last) = parts[usize::from(index) % count].last_mut() {
                    *last = last.saturating_add(1);
                }
            }),
            Self::StandardAlphabet(index) => edit_parts(&|parts| {
                let count = parts.len();
                let part = &mut parts[usize::from(index) % count];
                if let Ok(bytes) = URL_SAFE_NO_PAD.decode(&*part) {
                    *part = STANDARD_NO_PAD.encode(bytes).into_bytes();
                }
            }),
            Self::SwapHalvesOfSignature => edit_parts(&|parts| {
                let signature = parts.last_mut().unwrap();
                if let Ok(mut bytes) = URL_SAFE_NO_PAD.decode(&*signature) {
                    let half = bytes.len() / 2;
                    bytes.rotate_left(half);
                    *signature = URL_SAFE_NO_PAD.encode(bytes).into_bytes();
                }
            }),
        }
    }
}

/// How a token is made from a valid one: its header, claims and signature are edited before it is signed, and after.
#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    key: SigningKey,
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..3))]
    header: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    header_bytes: Vec<ByteEdit>,
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..4))]
    claims: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    claims_bytes: Vec<ByteEdit>,
    #[generator(produce::<Vec<TokenEdit>>().with().len(0usize..2))]
    token: Vec<TokenEdit>,
}

impl Recipe {
    fn token(&self, signers: &Signers) -> Vec<u8> {
        let (algorithm, kid) = match self.key {
            SigningKey::Es256 | SigningKey::OtherEs256 | SigningKey::Zeros => ("ES256", "e"),
            SigningKey::Ed25519 => ("EdDSA", "d"),
            SigningKey::PublicKeyAsSecret => ("HS256", "e"),
            SigningKey::Nothing => ("none", "e"),
        };
        let header = json!({ "alg": algorithm, "kid": kid, "typ": "JWT" });
        let claims = json!({
            "iss": ISSUER, "sub": "caller", "aud": [AUDIENCE], "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600, "jti": "1",
        });
        let header = JsonEdit::apply_all(&self.header, &header);
        let claims = JsonEdit::apply_all(&self.claims, &claims);
        let header = ByteEdit::apply_all(&self.header_bytes, header);
        let claims = ByteEdit::apply_all(&self.claims_bytes, claims);
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(signers.sign(self.key, message.as_bytes()));
        let token = format!("{message}.{signature}").into_bytes();
        self.token
            .iter()
            .fold(token, |token, edit| edit.apply(token))
    }
}

#[test]
fn edited_tokens() {
    let signers = Signers::new();
    let verifiers = AssertUnwindSafe(Verifiers::new(&signers.keys(), ISSUER, NOW));
    let signers = AssertUnwindSafe(signers);
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let is_accepted = verifiers.check(&recipe.token(&signers));
            if is_accepted {
                let is_own = matches!(recipe.key, SigningKey::Es256 | SigningKey::Ed25519);
                assert!(is_own, "signed by nobody whose key is trusted");
            }
        });
}

/// The token is the input. The keys are those of recorded clusters, at a second when recorded tokens are valid.
#[test]
fn token_bytes() {
    let recorded = include_str!("../../../tests/data/kubernetes/v1.36/rs256/jwks.json");
    let mut keys: Value = serde_json::from_str(recorded).unwrap();
    let own = Signers::new().keys()["keys"][1].clone();
    keys["keys"].as_array_mut().unwrap().push(own);
    let token = include_str!("../../../tests/data/kubernetes/v1.36/rs256/gke-sa-600s.jwt");
    let payload = URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    let (issuer, now) = (
        claims["iss"].as_str().unwrap(),
        claims["iat"].as_u64().unwrap() + 1,
    );
    let verifiers = AssertUnwindSafe(Verifiers::new(&keys, issuer, now));
    assert!(
        verifiers.check(token.trim_end().as_bytes()),
        "the recorded token is valid"
    );
    check!().with_iterations(ITERATIONS).for_each(|token| {
        verifiers.check(token);
    });
}
