//! A public key from a JSON Web Key (RFC 7517) that verifies signatures with aws-lc-rs.
//!
//! [`Jwk`] implements openidconnect's [`JsonWebKey`], so that it can be a key of its
//! [`JsonWebKeySet`](openidconnect::JsonWebKeySet) and be used by its `IdTokenVerifier`.
//!
//! A key that cannot be used is an [`UnusableKey`] with a reason, so that it does not affect other keys of its set.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::core::{CoreJsonWebKeyType, CoreJsonWebKeyUse, CoreJwsSigningAlgorithm};
use openidconnect::{JsonWebKey, JsonWebKeyAlgorithm, JsonWebKeyId, SignatureVerificationError};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::{ec, rsa};

/// The members of a key that are read. All others are ignored, whatever their values (RFC 7517, section 4).
const READ_MEMBERS: [&str; 10] = [
    "kty", "use", "key_ops", "alg", "kid", "n", "e", "crv", "x", "y",
];

/// A public key that verifies signatures.
#[derive(Clone)]
pub(crate) struct Jwk {
    kid: Option<JsonWebKeyId>,
    key_type: CoreJsonWebKeyType,
    /// The only algorithm that the key may be used for, if it has an `alg`.
    only_algorithm: Option<CoreJwsSigningAlgorithm>,
    /// Equal for two keys if and only if they verify the same signatures, whatever their other members.
    fingerprint: [u8; 32],
    /// A parsed key for each algorithm that it may be used for.
    parsed: Vec<(CoreJwsSigningAlgorithm, ParsedPublicKey)>,
    /// The members that are read, as published.
    members: Map<String, Value>,
}

#[cfg(test)]
thread_local! {
    /// How often a key of this thread was compared with others.
    pub(crate) static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnusableKey {
    pub(crate) kid: Option<String>,
    pub(crate) reason: &'static str,
}

impl From<&'static str> for UnusableKey {
    fn from(reason: &'static str) -> Self {
        Self { kid: None, reason }
    }
}

impl Jwk {
    /// Parses a key of a key set.
    pub(crate) fn from_json(json: &str) -> Result<Self, UnusableKey> {
        let members: Members =
            serde_json::from_str(json).map_err(|_| UnusableKey::from("not a JSON object"))?;
        members.into_key()
    }

    /// Creates a key from its members.
    pub(crate) fn from_members(members: Map<String, Value>) -> Result<Self, UnusableKey> {
        let kid = members.get("kid").and_then(Value::as_str);
        let kid = kid.map(str::to_owned);
        match Parameters::parse(&members) {
            Ok(parameters) => Ok(Self {
                kid: kid.map(JsonWebKeyId::new),
                key_type: parameters.key_type,
                only_algorithm: parameters.only_algorithm.map(Into::into),
                fingerprint: parameters.fingerprint,
                parsed: parameters.parsed,
                members,
            }),
            Err(reason) => Err(UnusableKey { kid, reason }),
        }
    }

    /// Returns the `kid`.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_ref().map(|kid| kid.as_str())
    }

    /// Returns whether the key verifies signatures of an algorithm.
    pub(crate) fn supports(&self, algorithm: Algorithm) -> bool {
        self.parsed_for(&algorithm.into()).is_some()
    }

    /// Returns whether both verify the same signatures, whatever their other members.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }

    /// Returns a hash that is equal for two keys if and only if they verify the same signatures, whatever their other members.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        #[cfg(test)]
        COMPARISONS.set(COMPARISONS.get() + 1);
        &self.fingerprint
    }

    fn parsed_for(&self, algorithm: &CoreJwsSigningAlgorithm) -> Option<&ParsedPublicKey> {
        let mut parsed = self.parsed.iter();
        let found = parsed.find(|(supported, _)| supported == algorithm);
        found.map(|(_, key)| key)
    }
}

/// The parameters of a usable key.
struct Parameters {
    key_type: CoreJsonWebKeyType,
    only_algorithm: Option<Algorithm>,
    fingerprint: [u8; 32],
    parsed: Vec<(CoreJwsSigningAlgorithm, ParsedPublicKey)>,
}

impl Parameters {
    /// Reads the parameters, or returns why the key cannot be used.
    fn parse(members: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("member of the wrong type"),
        };
        text("kid")?;
        if text("use")?.is_some_and(|usage| usage != "sig") {
            return Err("not for signatures (use)");
        }
        if let Some(operations) = members.get("key_ops") {
            let operations = operations.as_array().ok_or("member of the wrong type")?;
            if !operations.iter().any(|operation| operation == "verify") {
                return Err("not for verification (key_ops)");
            }
        }
        let only_algorithm = match text("alg")? {
            Some(name) => Some(Algorithm::from_name(name).ok_or("unsupported algorithm (alg)")?),
            None => None,
        };
        let only_algorithm = only_algorithm.map(Algorithm::canonical);
        let bytes = |name: &str| {
            let text = text(name)?.ok_or("missing member")?;
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| "member that is not canonical base64url")
        };
        let (key_type, fingerprint, parsed) = match members.get("kty").and_then(Value::as_str) {
            Some("RSA") => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let components = rsa::Components::check(&n, &e)?;
                let parsed = Algorithm::ALL
                    .into_iter()
                    .filter(|algorithm| only_algorithm.is_none_or(|only| only == *algorithm))
                    .filter_map(|algorithm| Some((algorithm, components.parse(algorithm)?)));
                let fingerprint = fingerprint(&[b"RSA", components.n(), components.e()]);
                (CoreJsonWebKeyType::RSA, fingerprint, parsed.collect())
            }
            Some("EC") => {
                let name = text("crv")?.unwrap_or_default();
                let curve = ec::Curve::from_name(name).ok_or("unsupported curve")?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                let fingerprint = fingerprint(&[b"EC", name.as_bytes(), &x, &y]);
                let parsed = vec![(curve.algorithm, curve.parse(&x, &y)?)];
                (CoreJsonWebKeyType::EllipticCurve, fingerprint, parsed)
            }
            Some("OKP") if text("crv")? == Some("Ed25519") => {
                let x = bytes("x")?;
                let parsed = vec![(Algorithm::EdDSA, ec::parse_ed25519(&x)?)];
                let fingerprint = fingerprint(&[b"Ed25519", &x]);
                (CoreJsonWebKeyType::OctetKeyPair, fingerprint, parsed)
            }
            Some("OKP") => return Err("unsupported curve"),
            _ => return Err("unsupported key type"),
        };
        let is_usable = match only_algorithm {
            Some(only) => parsed.iter().any(|(algorithm, _)| *algorithm == only),
            None => !parsed.is_empty(),
        };
        if !is_usable {
            return Err("algorithm that does not match the key (alg)");
        }
        let parsed = parsed
            .into_iter()
            .map(|(algorithm, key)| (algorithm.into(), key));
        Ok(Self {
            key_type,
            only_algorithm,
            fingerprint,
            parsed: parsed.collect(),
        })
    }
}

/// Returns a hash of these parts and their lengths.
fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(&part.len().to_be_bytes());
        text.extend_from_slice(part);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, &text).as_ref());
    fingerprint
}

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwk")
            .field("kid", &self.kid())
            .finish_non_exhaustive()
    }
}

/// The members of a JSON Web Key that are read.
struct Members {
    members: Map<String, Value>,
    is_repeated: bool,
}

impl Members {
    fn into_key(self) -> Result<Jwk, UnusableKey> {
        let key = Jwk::from_members(self.members);
        if !self.is_repeated {
            return key;
        }
        Err(UnusableKey {
            kid: match key {
                Ok(key) => key.kid().map(str::to_owned),
                Err(unusable) => unusable.kid,
            },
            reason: "repeated member",
        })
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON Web Key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let (mut members, mut names) = (Map::new(), HashSet::new());
        let mut is_repeated = false;
        while let Some(name) = map.next_key::<String>()? {
            if READ_MEMBERS.contains(&name.as_str()) {
                is_repeated |= members.insert(name, map.next_value()?).is_some();
            } else {
                map.next_value::<IgnoredAny>()?;
                is_repeated |= !names.insert(name);
            }
        }
        Ok(Members {
            members,
            is_repeated,
        })
    }
}

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = Members::deserialize(deserializer)?.into_key();
        key.map_err(|unusable| D::Error::custom(unusable.reason))
    }
}

impl Serialize for Jwk {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.members.serialize(serializer)
    }
}

impl From<Algorithm> for CoreJwsSigningAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::RS256 => Self::RsaSsaPkcs1V15Sha256,
            Algorithm::RS384 => Self::RsaSsaPkcs1V15Sha384,
            Algorithm::RS512 => Self::RsaSsaPkcs1V15Sha512,
            Algorithm::PS256 => Self::RsaSsaPssSha256,
            Algorithm::PS384 => Self::RsaSsaPssSha384,
            Algorithm::PS512 => Self::RsaSsaPssSha512,
            Algorithm::ES256 => Self::EcdsaP256Sha256,
            Algorithm::ES384 => Self::EcdsaP384Sha384,
            Algorithm::ES512 => Self::EcdsaP521Sha512,
            Algorithm::EdDSA | Algorithm::Ed25519 => Self::EdDsa,
        }
    }
}

/// The trait requires all of these methods. The guard itself calls `verify_signature`; openidconnect's `IdTokenVerifier` calls
/// the others.
impl JsonWebKey for Jwk {
    type KeyUse = CoreJsonWebKeyUse;
    type SigningAlgorithm = CoreJwsSigningAlgorithm;

    fn key_id(&self) -> Option<&JsonWebKeyId> {
        self.kid.as_ref()
    }

    fn key_type(&self) -> &CoreJsonWebKeyType {
        &self.key_type
    }

    fn key_use(&self) -> Option<&CoreJsonWebKeyUse> {
        // A key with another use is an `UnusableKey`.
        Some(&CoreJsonWebKeyUse::Signature)
    }

    fn signing_alg(&self) -> JsonWebKeyAlgorithm<&CoreJwsSigningAlgorithm> {
        match &self.only_algorithm {
            Some(algorithm) => JsonWebKeyAlgorithm::Algorithm(algorithm),
            None => JsonWebKeyAlgorithm::Unspecified,
        }
    }

    /// Creates a key that verifies no signature, because symmetric algorithms are not supported.
    fn new_symmetric(_: Vec<u8>) -> Self {
        Self {
            kid: None,
            key_type: CoreJsonWebKeyType::Symmetric,
            only_algorithm: None,
            fingerprint: fingerprint(&[b"oct"]),
            parsed: Vec::new(),
            members: Map::new(),
        }
    }

    fn verify_signature(
        &self,
        algorithm: &CoreJwsSigningAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureVerificationError> {
        let key = self.parsed_for(algorithm).ok_or_else(|| {
            SignatureVerificationError::InvalidKey(
                "the key does not support the algorithm".to_owned(),
            )
        })?;
        key.verify_sig(message, signature)
            .map_err(|_| SignatureVerificationError::CryptoError("bad signature".to_owned()))
    }

    /// Hashes the value of which a claim such as `at_hash` is the hash (OpenID Connect Core 1.0, section 3.1.3.6).
    fn hash_bytes(
        &self,
        bytes: &[u8],
        algorithm: &CoreJwsSigningAlgorithm,
    ) -> Result<Vec<u8>, String> {
        use CoreJwsSigningAlgorithm::{
            EcdsaP256Sha256, EcdsaP384Sha384, RsaSsaPkcs1V15Sha256, RsaSsaPkcs1V15Sha384,
            RsaSsaPssSha256, RsaSsaPssSha384,
        };
        if self.parsed_for(algorithm).is_none() {
            return Err("the key does not support the algorithm".to_owned());
        }
        let function = match algorithm {
            RsaSsaPkcs1V15Sha256 | RsaSsaPssSha256 | EcdsaP256Sha256 => &SHA256,
            RsaSsaPkcs1V15Sha384 | RsaSsaPssSha384 | EcdsaP384Sha384 => &SHA384,
            // Ed25519 uses SHA-512 (RFC 8032, section 5.1).
            _ => &SHA512,
        };
        Ok(digest(function, bytes).as_ref().to_vec())
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_types,
    reason = "a test compares with openidconnect's own key"
)]
mod tests {
    use std::str::FromStr as _;
    use std::time::{Duration, SystemTime};

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use openidconnect::core::{CoreIdToken, CoreJsonWebKey};
    use openidconnect::{
        AccessToken, AccessTokenHash, ClientId, IdTokenVerifier, IssuerUrl, JsonWebKeySet, Nonce,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn openidconnect_verifies_tokens_with_these_keys() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let jwk =
            json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(x), "y": encode(y) });
        let es256 = CoreJwsSigningAlgorithm::EcdsaP256Sha256;

        let payload = json!({
            "iss": "https://issuer.example", "sub": "s", "aud": "a", "iat": 100, "exp": 200,
        });
        let header = encode(br#"{"alg":"ES256","kid":"k"}"#);
        let input = format!("{header}.{}", encode(payload.to_string().as_bytes()));
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        let token = format!("{input}.{}", encode(signature.as_ref()));
        let token = CoreIdToken::from_str(&token).unwrap();

        let with = |member: &str, value: Value| {
            let mut jwk = jwk.clone();
            jwk[member] = value;
            jwk
        };
        for (published, is_accepted) in [
            (jwk.clone(), true),
            (with("alg", json!("ES256")), true),
            (with("use", json!("sig")), true),
            (with("kid", json!("other")), false),
            (with("alg", json!("ES384")), false),
            (with("use", json!("enc")), false),
            (with("y", json!(encode(x))), false),
        ] {
            let keys = json!({ "keys": [published] });
            let keys: JsonWebKeySet<Jwk> = serde_json::from_value(keys).unwrap();
            let verifier = IdTokenVerifier::new_public_client(
                ClientId::new("a".to_owned()),
                IssuerUrl::new("https://issuer.example".to_owned()).unwrap(),
                keys,
            )
            .set_allowed_algs([es256.clone()])
            .set_time_fn(|| (SystemTime::UNIX_EPOCH + Duration::from_secs(150)).into());
            let claims = token.claims(&verifier, |_: Option<&Nonce>| Ok(()));
            assert_eq!(claims.is_ok(), is_accepted, "{published}");
        }

        let access_token = AccessToken::new("access token".to_owned());
        let key: Jwk = serde_json::from_value(jwk.clone()).unwrap();
        let core: CoreJsonWebKey = serde_json::from_value(jwk).unwrap();
        let hash = AccessTokenHash::from_token(&access_token, &es256, &key).unwrap();
        let expected = AccessTokenHash::from_token(&access_token, &es256, &core).unwrap();
        assert_eq!(hash.as_str(), expected.as_str());
        let rs256 = CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256;
        assert!(AccessTokenHash::from_token(&access_token, &rs256, &key).is_err());
    }

    #[test]
    fn a_symmetric_key_verifies_nothing() {
        let key = Jwk::new_symmetric(b"secret".to_vec());
        for algorithm in Algorithm::ALL {
            assert!(!key.supports(algorithm), "{algorithm}");
        }
    }
}
