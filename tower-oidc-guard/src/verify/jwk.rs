//! A JSON Web Key (RFC 7517) that verifies with aws-lc-rs, as a key type of openidconnect's key sets.

use std::fmt;

use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::{
    JsonWebKey, JsonWebKeyAlgorithm, JsonWebKeyId, JsonWebKeyType, JsonWebKeyUse,
    JwsSigningAlgorithm, SignatureVerificationError,
};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::{ec, rsa};

/// A key as it was published: one that verifies, or one that is passed over, and why.
///
/// Reading never fails on a key, so that one odd key does not spoil its set.
#[derive(Clone)]
pub(crate) struct Jwk {
    kid: Option<JsonWebKeyId>,
    kind: KeyType,
    usage: Option<KeyUse>,
    only: Option<SigningAlgorithm>,
    keys: Result<Vec<(Algorithm, ParsedPublicKey)>, &'static str>,
    members: Map<String, Value>,
}

impl Jwk {
    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_ref().map(|kid| kid.as_str())
    }

    /// Why the key is passed over, if it is.
    pub(crate) fn unusable(&self) -> Option<&'static str> {
        self.keys.as_ref().err().copied()
    }

    /// Whether the key verifies signatures of that algorithm.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        self.key_for(algorithm).is_some()
    }

    fn key_for(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let keys = self.keys.as_ref().ok()?;
        keys.iter()
            .find(|(served, _)| *served == algorithm)
            .map(|(_, key)| key)
    }

    fn from_members(members: Map<String, Value>, repeated: bool) -> Self {
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
        let keys = if repeated {
            Err("a repeated member")
        } else {
            parse(&members, kind)
        };
        Self {
            kid: text("kid").map(|kid| JsonWebKeyId::new(kid.to_owned())),
            only: text("alg")
                .and_then(Algorithm::from_name)
                .map(SigningAlgorithm),
            kind,
            usage,
            keys,
            members,
        }
    }
}

type Keys = Vec<(Algorithm, ParsedPublicKey)>;

fn parse(members: &Map<String, Value>, kind: KeyType) -> Result<Keys, &'static str> {
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
    let bytes = |name: &str| {
        let text = text(name)?.ok_or("a missing member")?;
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| "a member that is not canonical base64url")
    };
    let keys: Keys = match kind {
        KeyType::Rsa => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let components = rsa::Components::check(&n, &e)?;
            let wanted = Algorithm::ALL
                .into_iter()
                .filter(|algorithm| only.is_none_or(|only| only == *algorithm));
            wanted
                .filter_map(|algorithm| Some((algorithm, components.parse(algorithm)?)))
                .collect()
        }
        KeyType::Ec => {
            let curve = ec::Curve::ecdsa(text("crv")?.unwrap_or_default())
                .ok_or("a curve that is not served")?;
            vec![(curve.algorithm, curve.parse(&bytes("x")?, &bytes("y")?)?)]
        }
        KeyType::Okp if text("crv")? == Some("Ed25519") => {
            vec![(Algorithm::EdDSA, ec::ed25519(&bytes("x")?)?)]
        }
        KeyType::Okp => return Err("a curve that is not served"),
        KeyType::Other => return Err("a key type that is not served"),
    };
    if keys.is_empty()
        || only.is_some_and(|only| keys.iter().all(|(algorithm, _)| *algorithm != only))
    {
        return Err("an algorithm that does not fit its key");
    }
    Ok(keys)
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
        let mut members = Map::new();
        let mut repeated = false;
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            repeated |= members.insert(name, value).is_some();
        }
        Ok(Jwk::from_members(members, repeated))
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
            Algorithm::EdDSA => KeyType::Okp,
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
        match (&self.only, &self.keys) {
            (_, Err(_)) => JsonWebKeyAlgorithm::Unsupported,
            (Some(only), _) => JsonWebKeyAlgorithm::Algorithm(only),
            (None, _) => JsonWebKeyAlgorithm::Unspecified,
        }
    }

    /// There is no symmetric key here: this one never verifies.
    fn new_symmetric(_: Vec<u8>) -> Self {
        Self::from_members(Map::new(), false)
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
