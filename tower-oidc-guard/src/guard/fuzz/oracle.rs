//! An independent verification of tokens, which the guard's is compared with.
//!
//! It is built from other parts than the guard's: JSON is parsed into `serde_json`'s `Value`, and signatures are verified by
//! openidconnect's own keys, that is by the crates `p256`, `rsa` and `ed25519-dalek`. It is written for readability from the RFCs
//! and the guard's documentation, and not for speed.
//!
//! Besides, tokens that the guard accepts are verified by openidconnect's `IdTokenVerifier`, except for those of which
//! `tests/it/openidconnect.rs` explains why it refuses them.

#![expect(
    clippy::disallowed_types,
    reason = "the oracle uses openidconnect's own verifier and keys"
)]

use std::fmt;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use openidconnect::core::{
    CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKey, CoreJsonWebKeySet, CoreJwsSigningAlgorithm,
};
use openidconnect::{ClientId, IssuerUrl, JsonWebKey as _, Nonce};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The result of the independent verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Accepted,
    /// The token must be refused, and why.
    Refused(&'static str),
    /// The token may be accepted or refused. `serde_json` rejects numbers that are out of range, and deep nesting, also in
    /// claims that the guard does not read.
    Undecided,
}

/// The settings of a verification.
pub(super) struct Oracle {
    keys: CoreJsonWebKeySet,
    issuer: String,
    audience: String,
    now: u64,
}

/// Decodes base64url whatever its unused bits and padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

impl Oracle {
    pub(super) fn new(keys: &Value, issuer: &str, audience: &str, now: u64) -> Self {
        Self {
            keys: serde_json::from_value(keys.clone()).unwrap(),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            now,
        }
    }

    /// Verifies a token by the rules of the RFCs and of the guard's documentation.
    pub(super) fn verify(&self, token: &[u8]) -> Expected {
        match self.check(token) {
            Ok(()) => Expected::Accepted,
            Err(expected) => expected,
        }
    }

    fn check(&self, token: &[u8]) -> Result<(), Expected> {
        use Expected::Refused;
        if token.len() > 16 * 1024 {
            return Err(Refused("too long"));
        }
        let token = str::from_utf8(token).map_err(|_| Refused("not ASCII"))?;
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(Refused("not three parts"));
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let [header, payload, signature] = [header, payload, signature].map(decode);
        let (header, payload, signature) = (header?, payload?, signature?);

        // Of the texts that cannot be parsed for reasons that may not matter, only the others are decided.
        let (header, claims) = match (Members::parse(&header), Members::parse(&payload)) {
            (Err(Refused(reason)), _) | (_, Err(Refused(reason))) => return Err(Refused(reason)),
            (header, claims) => (header?, claims?),
        };
        let algorithm = header.string("alg")?.ok_or(Refused("no alg"))?;
        let kid = header.string("kid")?;
        let typ = header.string("typ")?;
        if header.get("crit").is_some() {
            return Err(Refused("crit"));
        }
        let is_jwt = |typ: &str| {
            let typ = typ.to_ascii_lowercase();
            typ == "jwt" || typ == "application/jwt"
        };
        if typ.is_some_and(|typ| !is_jwt(typ)) {
            return Err(Refused("typ"));
        }

        if claims.string("iss")?.ok_or(Refused("no iss"))? != self.issuer {
            return Err(Refused("iss"));
        }
        claims.string("sub")?.ok_or(Refused("no sub"))?;
        claims.string("jti")?;
        let audiences: Vec<&str> = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => {
                let texts: Option<Vec<_>> = several.iter().map(Value::as_str).collect();
                texts.ok_or(Refused("aud"))?
            }
            Some(_) => return Err(Refused("aud")),
        };
        if !audiences.contains(&self.audience.as_str()) {
            return Err(Refused("other aud"));
        }
        if claims.get("cnf").is_some() {
            return Err(Refused("cnf"));
        }
        let now = self.now as f64;
        let expires = claims.time("exp")?.ok_or(Refused("no exp"))?;
        if expires <= now {
            return Err(Refused("expired"));
        }
        for begin in ["nbf", "iat"] {
            if claims.time(begin)?.is_some_and(|time| time > now) {
                return Err(Refused("in the future"));
            }
        }
        self.check_signature(algorithm, kid, message, &signature)
    }

    /// Verifies a signature with the key that the header names, or the only one for the algorithm if it names none.
    fn check_signature(
        &self,
        algorithm: &str,
        kid: Option<&str>,
        message: &str,
        signature: &[u8],
    ) -> Result<(), Expected> {
        let (algorithm, length) = match algorithm {
            "RS256" => (CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, None),
            "ES256" => (CoreJwsSigningAlgorithm::EcdsaP256Sha256, Some(64)),
            "EdDSA" | "Ed25519" => (CoreJwsSigningAlgorithm::EdDsa, Some(64)),
            _ => return Err(Expected::Refused("algorithm")),
        };
        if length.is_some_and(|length| signature.len() != length) {
            return Err(Expected::Refused("length of the signature"));
        }
        let is_meant = |key: &&CoreJsonWebKey| match kid {
            Some(kid) => key.key_id().is_some_and(|own| own.as_str() == kid),
            None => true,
        };
        let verifies = |key: &CoreJsonWebKey| {
            let verified = key.verify_signature(&algorithm, message.as_bytes(), signature);
            verified.is_ok()
        };
        if self.keys.keys().iter().filter(is_meant).any(verifies) {
            Ok(())
        } else {
            Err(Expected::Refused("signature"))
        }
    }

    /// Returns whether openidconnect's verifier accepts a token, or `None` if it may refuse one that the guard accepts.
    pub(super) fn openidconnect_accepts(&self, token: &[u8]) -> Option<bool> {
        let token = str::from_utf8(token).ok()?;
        let mut parts = token.split('.').map(decode);
        let (header, payload) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let (header, claims) = (
            Members::parse(&header).ok()?,
            Members::parse(&payload).ok()?,
        );
        let has_one_audience = match claims.get("aud") {
            Some(Value::Array(several)) => several.len() == 1,
            _ => true,
        };
        // openidconnect reads these although they are not needed.
        let read = [
            "acr",
            "address",
            "amr",
            "at_hash",
            "auth_time",
            "azp",
            "birthdate",
            "c_hash",
            "email",
            "email_verified",
            "family_name",
            "gender",
            "given_name",
            "locale",
            "middle_name",
            "name",
            "nickname",
            "nonce",
            "phone_number",
            "phone_number_verified",
            "picture",
            "preferred_username",
            "profile",
            "updated_at",
            "website",
            "zoneinfo",
        ];
        let is_read = |(name, _): &(String, Value)| {
            let name = name.split('#').next().unwrap_or_default();
            read.contains(&name)
        };
        // openidconnect converts times into dates, of which none is after the year 262143.
        let is_far = |name: &str| {
            let time = claims.get(name).and_then(Value::as_f64);
            time.is_some_and(|time| time > 8e12)
        };
        let has_far_times = ["exp", "nbf", "iat"].into_iter().any(is_far);
        let has_others = claims.0.iter().any(is_read);
        if has_far_times
            || !has_one_audience
            || has_others
            || claims.get("iat").is_none()
            || header.get("cty").is_some()
        {
            return None;
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.now);
        let verifier = CoreIdTokenVerifier::new_public_client(
            ClientId::new(self.audience.clone()),
            IssuerUrl::new(self.issuer.clone()).unwrap(),
            self.keys.clone(),
        )
        .set_allowed_algs([
            CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            CoreJwsSigningAlgorithm::EcdsaP256Sha256,
            CoreJwsSigningAlgorithm::EdDsa,
        ])
        .set_time_fn(move || time.into());
        let any_nonce = |_: Option<&Nonce>| Ok(());
        let token = CoreIdToken::from_str(token);
        Some(token.is_ok_and(|token| token.claims(&verifier, any_nonce).is_ok()))
    }
}

/// Decodes canonical base64url: the only encoding of its bytes.
fn decode(part: &str) -> Result<Vec<u8>, Expected> {
    let bytes = LENIENT.decode(part);
    let canonical = bytes.ok().filter(|bytes| LENIENT.encode(bytes) == part);
    canonical
        .filter(|bytes| !bytes.is_empty())
        .ok_or(Expected::Refused("base64url"))
}

/// The members of a JSON object, in their order.
struct Members(Vec<(String, Value)>);

impl Members {
    /// Parses an object with different names.
    fn parse(json: &[u8]) -> Result<Self, Expected> {
        let members: Self = serde_json::from_slice(json).map_err(|error| {
            let text = error.to_string();
            let is_limit = ["out of range", "recursion limit"];
            if is_limit.iter().any(|limit| text.contains(limit)) {
                Expected::Undecided
            } else {
                Expected::Refused("not a JSON object")
            }
        })?;
        let mut names: Vec<&str> = members.0.iter().map(|(name, _)| name.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        if names.len() == count {
            Ok(members)
        } else {
            Err(Expected::Refused("repeated name"))
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let mut members = self.0.iter();
        members.find(|(own, _)| own == name).map(|(_, value)| value)
    }

    fn string(&self, name: &str) -> Result<Option<&str>, Expected> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Expected::Refused("not a string")),
        }
    }

    /// Returns a NumericDate (RFC 7519, section 2) that a `Duration` can represent.
    fn time(&self, name: &str) -> Result<Option<f64>, Expected> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().ok_or(Expected::Refused("not a number"))?;
        if value.is_u64() || (0.0..18_446_744_073_709_551_616.0).contains(&seconds) {
            Ok(Some(seconds))
        } else {
            Err(Expected::Refused("out of range"))
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
