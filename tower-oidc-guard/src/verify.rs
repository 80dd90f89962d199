//! Pure verification: bytes, keys and a time in, verified claims or a reason out. No I/O, no state.

pub(crate) mod algorithm;
pub(crate) mod claims;
pub(crate) mod demands;
mod ec;
pub(crate) mod jwk;
mod jws;
pub(crate) mod key_set;
pub(crate) mod kubernetes;
mod rsa;
pub(crate) mod rules;
mod unique;

use std::time::Duration;

use self::claims::Claims;
use self::jws::Jws;
pub(crate) use self::jws::MAX_TOKEN_BYTES;
use self::key_set::{KeySet, Selection};
use self::rules::Rules;
use crate::rejection::Rejection;

/// A well-formed token of which nothing is verified yet.
pub(crate) struct Unverified<'t> {
    jws: Jws<'t>,
    claims: Claims,
}

/// A token that is acceptable but for its signature, which is still to be checked.
pub(crate) struct Acceptable<'t>(Unverified<'t>);

/// A verified token: only [`Acceptable::verify`] makes one.
pub(crate) struct Verified {
    pub(crate) claims: Claims,
    pub(crate) payload: Vec<u8>,
}

impl<'t> Unverified<'t> {
    /// Takes the token apart and reads its claims.
    pub(crate) fn parse(token: &'t [u8], max_bytes: usize) -> Result<Self, Rejection> {
        let jws = Jws::parse(token, max_bytes)?;
        let claims = Claims::parse(&jws.payload)?;
        Ok(Self { jws, claims })
    }

    /// The issuer the token claims to be from, to find whose rules and keys apply.
    pub(crate) fn issuer(&self) -> &str {
        &self.claims.issuer
    }

    /// All that can be said without keys, and costs next to nothing. `now` is counted from the Unix
    /// epoch.
    pub(crate) fn check(self, rules: &Rules, now: Duration) -> Result<Acceptable<'t>, Rejection> {
        rules.check(self.jws.typ.as_deref(), &self.claims, now)?;
        Ok(Acceptable(self))
    }
}

/// Checks a JWS by itself, whatever its payload.
pub(crate) fn verify_jws(
    jws: &[u8],
    max_bytes: usize,
    keys: &KeySet,
) -> Result<Vec<u8>, Rejection> {
    let jws = Jws::parse(jws, max_bytes)?;
    match jws.verify(keys)? {
        true => Ok(jws.payload),
        false => Err(Rejection::UnknownKey),
    }
}

impl Jws<'_> {
    /// Checks algorithm and signature. False where the set does not have the key.
    fn verify(&self, keys: &KeySet) -> Result<bool, Rejection> {
        if !keys.algorithms.contains(self.algorithm) {
            return Err(Rejection::AlgorithmNotAllowed);
        }
        match keys.select(self.kid.as_deref(), self.algorithm) {
            Selection::Key(key) => {
                KeySet::verify(key, self.algorithm, self.signing_input, &self.signature)?;
                Ok(true)
            }
            Selection::Unfit => Err(Rejection::UnknownKey),
            Selection::Absent => Ok(false),
        }
    }
}

impl Acceptable<'_> {
    /// When the token says it was issued, counted from the Unix epoch.
    pub(crate) fn issued_at(&self) -> Option<Duration> {
        self.0.claims.issued_at
    }

    /// Checks algorithm and signature. Nothing comes of it where the set does not have the token's
    /// key: a newer set may.
    pub(crate) fn verify(self, keys: &KeySet) -> Result<Option<Verified>, Rejection> {
        let Unverified { jws, claims } = self.0;
        let payload = jws.verify(keys)?.then_some(jws.payload);
        Ok(payload.map(|payload| Verified { claims, payload }))
    }
}
