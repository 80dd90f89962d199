//! Pure verification: bytes, keys and a time in, verified claims or a reason out. No I/O, no state.

pub(crate) mod algorithm;
pub(crate) mod claims;
pub(crate) mod demands;
mod ec;
mod json;
pub(crate) mod jwk;
mod jws;
pub(crate) mod key_set;
pub(crate) mod pem;
mod rsa;
pub(crate) mod rules;

use std::time::Duration;

use self::claims::Claims;
pub(crate) use self::jws::{DEFAULT_MAX_TOKEN_BYTES, Jws};
use self::key_set::KeySet;
use self::rules::Rules;
use crate::rejection::Rejection;

/// A well-formed token of which nothing is verified yet: the claims are read from the JWS's payload.
pub(crate) struct Unverified<'t> {
    jws: &'t Jws<'t>,
    claims: Claims<'t>,
}

/// A token that is acceptable but for its signature, which is still to be checked.
pub(crate) struct Acceptable<'t>(Unverified<'t>);

/// A verified token: only [`Acceptable::verify`] makes one.
pub(crate) struct Verified<'t> {
    claims: Claims<'t>,
    payload: &'t [u8],
}

impl<'t> Unverified<'t> {
    /// Reads the claims of a token that was taken apart.
    pub(crate) fn read(jws: &'t Jws<'t>) -> Result<Self, Rejection> {
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
    jws.verify(keys)?;
    Ok(jws.payload)
}

impl Jws<'_> {
    /// Verifies algorithm and signature.
    fn verify(&self, keys: &KeySet) -> Result<(), Rejection> {
        let kid = self.kid.as_deref();
        keys.verify(kid, self.algorithm, self.signing_input, &self.signature)
    }
}

impl<'t> Acceptable<'t> {
    /// Returns the `iss` of the token.
    pub(crate) fn issuer(&self) -> &str {
        self.0.issuer()
    }

    /// Verifies algorithm and signature.
    ///
    /// # Errors
    ///
    /// Those of [`KeySet::verify`], each of which may be cured by newer keys.
    pub(crate) fn verify(self, keys: &KeySet) -> Result<Verified<'t>, Rejection> {
        let Unverified { jws, claims } = self.0;
        jws.verify(keys)?;
        let payload = jws.payload.as_slice();
        Ok(Verified { claims, payload })
    }
}

impl<'t> Verified<'t> {
    /// What the token says of itself.
    pub(crate) fn claims(&self) -> &Claims<'t> {
        &self.claims
    }

    /// The claims as they stand in the token.
    pub(crate) fn payload(&self) -> &'t [u8] {
        self.payload
    }
}
