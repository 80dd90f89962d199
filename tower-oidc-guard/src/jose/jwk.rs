//! A JSON Web Key (RFC 7517) that verifies with aws-lc-rs, as a key type of openidconnect's key sets.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::{
    JsonWebKey, JsonWebKeyAlgorithm, JsonWebKeyId, JsonWebKeyType, JsonWebKeyUse,
    JwsSigningAlgorithm, SignatureVerificationError,
};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::{ec, rsa};

/// The members of a key that are read. All others are ignored (RFC 7517, section 4), whatever they are.
const READ: [&str; 10] = [
    "kty", "use", "key_ops", "alg", "kid", "n", "e", "crv", "x", "y",
];

/// A key as it was published: one that verifies signatures, or one that is skipped, and why.
///
/// Reading a key from a JSON object never fails, so that one odd key does not spoil its set.
#[derive(Clone)]
pub(crate) struct Jwk {
    kid: Option<JsonWebKeyId>,
    kind: KeyType,
    usage: Option<KeyUse>,
    only: Option<SigningAlgorithm>,
    material: Result<Material, &'static str>,
    /// The members that are read, as they were published.
    members: Map<String, Value>,
}

/// What a key verifies signatures with.
#[derive(Clone)]
struct Material {
    /// The same for two keys if and only if they verify the same signatures, whatever else is said of them.
    fingerprint: [u8; 32],
    /// A parsed key for each algorithm that it may be used for.
    keys: Vec<(Algorithm, ParsedPublicKey)>,
}

impl Jwk {
    /// Reads a key of a set. What is not a readable JSON object is a key that is skipped.
    pub(crate) fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|_| Self::skipped("not a readable JSON object"))
    }

    /// Creates a key that is skipped for that reason.
    pub(crate) fn skipped(reason: &'static str) -> Self {
        Self {
            kid: None,
            kind: KeyType::Other,
            usage: None,
            only: None,
            material: Err(reason),
            members: Map::new(),
        }
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_ref().map(|kid| kid.as_str())
    }

    /// Returns why the key is skipped, if it is.
    pub(crate) fn unusable(&self) -> Option<&'static str> {
        self.material.as_ref().err().copied()
    }

    /// Returns whether the key verifies signatures of that algorithm.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        self.key_for(algorithm).is_some()
    }

    /// Returns whether both are usable and the same key, whatever else is said of them.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        match (&self.material, &other.material) {
            (Ok(own), Ok(other)) => own.fingerprint == other.fingerprint,
            _ => false,
        }
    }

    fn key_for(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let algorithm = algorithm.canonical();
        let keys = &self.material.as_ref().ok()?.keys;
        keys.iter()
            .find(|(served, _)| *served == algorithm)
            .map(|(_, key)| key)
    }

    /// Reads a key from its members.
    pub(crate) fn from_members(members: Map<String, Value>) -> Self {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let kind = match text("kty") {
            Some("RSA") => KeyType::Rsa,
            Some("EC") => KeyType::Ec,
            Some("OKP") => KeyType::Okp,
            _ => KeyType::Other,
        };
        let usage = text("use").map(|usage| {
            if usage == "sig" {
                KeyUse::Sig
            } else {
                KeyUse::Other
            }
        });
        Self {
            kid: text("kid").map(|kid| JsonWebKeyId::new(kid.to_owned())),
            only: text("alg")
                .and_then(Algorithm::from_name)
                .map(|algorithm| SigningAlgorithm(algorithm.canonical())),
            material: parse(&members, kind),
            kind,
            usage,
            members,
        }
    }
}

fn parse(members: &Map<String, Value>, kind: KeyType) -> Result<Material, &'static str> {
    let text = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err("a member of the wrong type"),
    };
    text("kid")?;
    if text("use")?.is_some_and(|usage| usage != "sig") {
        return Err("not for signatures (use)");
    }
    if let Some(operations) = members.get("key_ops") {
        let operations = operations.as_array().ok_or("a member of the wrong type")?;
        if !operations.iter().any(|operation| operation == "verify") {
            return Err("not for verifying (key_ops)");
        }
    }
    let only = match text("alg")? {
        Some(name) => Some(Algorithm::from_name(name).ok_or("an algorithm that is not served")?),
        None => None,
    };
    let only = only.map(Algorithm::canonical);
    let bytes = |name: &str| {
        let text = text(name)?.ok_or("a missing member")?;
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| "a member that is not canonical base64url")
    };
    let material = match kind {
        KeyType::Rsa => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let components = rsa::Components::check(&n, &e)?;
            let wanted = Algorithm::ALL
                .into_iter()
                .filter(|algorithm| only.is_none_or(|only| only == *algorithm));
            Material {
                fingerprint: fingerprint(&[b"RSA", components.n(), components.e()]),
                keys: wanted
                    .filter_map(|algorithm| Some((algorithm, components.parse(algorithm)?)))
                    .collect(),
            }
        }
        KeyType::Ec => {
            let name = text("crv")?.unwrap_or_default();
            let curve = ec::Curve::ecdsa(name).ok_or("a curve that is not served")?;
            let (x, y) = (bytes("x")?, bytes("y")?);
            Material {
                fingerprint: fingerprint(&[b"EC", name.as_bytes(), &x, &y]),
                keys: vec![(curve.algorithm, curve.parse(&x, &y)?)],
            }
        }
        KeyType::Okp if text("crv")? == Some("Ed25519") => {
            let x = bytes("x")?;
            Material {
                fingerprint: fingerprint(&[b"Ed25519", &x]),
                keys: vec![(Algorithm::EdDSA, ec::ed25519(&x)?)],
            }
        }
        KeyType::Okp => return Err("a curve that is not served"),
        KeyType::Other => return Err("a key type that is not served"),
    };
    let mut fitting = material.keys.iter().map(|(algorithm, _)| *algorithm);
    if only.map_or_else(
        || material.keys.is_empty(),
        |only| !fitting.any(|algorithm| algorithm == only),
    ) {
        return Err("an algorithm that does not fit its key");
    }
    Ok(material)
}

/// Returns a hash of these parts and of where each ends.
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
            .field("unusable", &self.unusable())
            .finish_non_exhaustive()
    }
}

impl Serialize for Jwk {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.members.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JwkVisitor)
    }
}

struct JwkVisitor;

impl<'de> Visitor<'de> for JwkVisitor {
    type Value = Jwk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON Web Key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Jwk, A::Error> {
        let (mut members, mut names) = (Map::new(), HashSet::new());
        let mut is_repeated = false;
        while let Some(name) = map.next_key::<String>()? {
            if READ.contains(&name.as_str()) {
                is_repeated |= members.insert(name, map.next_value()?).is_some();
            } else {
                map.next_value::<IgnoredAny>()?;
                is_repeated |= !names.insert(name);
            }
        }
        let mut key = Jwk::from_members(members);
        if is_repeated {
            key.material = Err("a repeated member");
        }
        Ok(key)
    }
}

/// The `kty` of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyType {
    Rsa,
    Ec,
    Okp,
    Other,
}

impl JsonWebKeyType for KeyType {}

/// The `use` of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyUse {
    Sig,
    Other,
}

impl JsonWebKeyUse for KeyUse {
    fn allows_signature(&self) -> bool {
        *self == Self::Sig
    }

    fn allows_encryption(&self) -> bool {
        false
    }
}

/// [`Algorithm`] as openidconnect wants it, so that its traits are no part of this crate's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SigningAlgorithm(pub(crate) Algorithm);

impl JwsSigningAlgorithm for SigningAlgorithm {
    type KeyType = KeyType;

    fn key_type(&self) -> Option<KeyType> {
        Some(match self.0 {
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => KeyType::Ec,
            Algorithm::EdDSA | Algorithm::Ed25519 => KeyType::Okp,
            _ => KeyType::Rsa,
        })
    }

    fn uses_shared_secret(&self) -> bool {
        false
    }

    fn rsa_sha_256() -> Self {
        Self(Algorithm::RS256)
    }
}

impl JsonWebKey for Jwk {
    type KeyUse = KeyUse;
    type SigningAlgorithm = SigningAlgorithm;

    fn key_id(&self) -> Option<&JsonWebKeyId> {
        self.kid.as_ref()
    }

    fn key_type(&self) -> &KeyType {
        &self.kind
    }

    fn key_use(&self) -> Option<&KeyUse> {
        self.usage.as_ref()
    }

    fn signing_alg(&self) -> JsonWebKeyAlgorithm<&SigningAlgorithm> {
        match (&self.only, &self.material) {
            (_, Err(_)) => JsonWebKeyAlgorithm::Unsupported,
            (Some(only), _) => JsonWebKeyAlgorithm::Algorithm(only),
            (None, _) => JsonWebKeyAlgorithm::Unspecified,
        }
    }

    /// There is no symmetric key here: this one never verifies.
    fn new_symmetric(_: Vec<u8>) -> Self {
        Self::skipped("a key type that is not served")
    }

    fn verify_signature(
        &self,
        algorithm: &SigningAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureVerificationError> {
        let key = self.key_for(algorithm.0).ok_or_else(|| {
            SignatureVerificationError::InvalidKey("the key does not fit the algorithm".to_owned())
        })?;
        key.verify_sig(message, signature)
            .map_err(|_| SignatureVerificationError::CryptoError("bad signature".to_owned()))
    }

    fn hash_bytes(&self, _: &[u8], _: &SigningAlgorithm) -> Result<Vec<u8>, String> {
        Err("no claim of an access token is a hash".to_owned())
    }
}
