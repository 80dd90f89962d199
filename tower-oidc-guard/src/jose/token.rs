//! The states of a token during verification.

use std::time::Duration;

use super::claim_rules::ClaimRules;
use super::claims::{Claims, Times};
use super::error::{SignatureError, TokenError};
use super::jws::{UnverifiedJws, VerifiedPayload};
use super::key_set::KeySet;

/// A well-formed token of which nothing has been verified.
pub(crate) struct UnverifiedToken<'t> {
    jws: &'t UnverifiedJws<'t>,
    claims: Claims<'t>,
}

/// A token with valid claims whose signature has not been verified.
pub(crate) struct SignaturePending<'t>(UnverifiedToken<'t>);

/// A token with valid claims and a valid signature. Only [`SignaturePending::verify`] creates one.
#[must_use]
pub(crate) struct VerifiedToken<'t> {
    claims: Claims<'t>,
    payload: VerifiedPayload<'t>,
}

impl<'t> UnverifiedToken<'t> {
    /// Reads the registered claims from the payload of a JWS.
    pub(crate) fn parse(jws: &'t UnverifiedJws<'t>) -> Result<Self, TokenError> {
        let claims = Claims::parse(jws.unverified_payload())?;
        Ok(Self { jws, claims })
    }

    /// Returns the `iss` claim, which determines the rules and keys to verify the token with.
    pub(crate) fn issuer(&self) -> &str {
        &self.claims.issuer
    }

    /// Returns the times in the token.
    pub(crate) fn times(&self) -> Times {
        self.claims.times
    }

    /// Verifies the signature of a token whose claims may be invalid, for example because it has expired.
    ///
    /// For a diagnosis only, which goes on after the claims have failed validation: the result must never be the reason why a
    /// request is admitted.
    pub(crate) fn verify_for_diagnosis(
        self,
        keys: &KeySet,
    ) -> Result<VerifiedToken<'t>, SignatureError> {
        SignaturePending(self).verify(keys)
    }

    /// Validates what can be validated without keys: the type, the audience and the times.
    ///
    /// `now` is the time since the Unix epoch.
    pub(crate) fn validate_claims(
        self,
        rules: &ClaimRules,
        now: Duration,
    ) -> Result<SignaturePending<'t>, TokenError> {
        rules.validate(self.jws.typ(), &self.claims, now)?;
        Ok(SignaturePending(self))
    }
}

impl<'t> SignaturePending<'t> {
    /// Returns the `iss` claim.
    pub(crate) fn issuer(&self) -> &str {
        self.0.issuer()
    }

    /// Verifies the algorithm and the signature.
    ///
    /// # Errors
    ///
    /// Those of [`KeySet::verify`]. Each may disappear with newer keys.
    pub(crate) fn verify(self, keys: &KeySet) -> Result<VerifiedToken<'t>, SignatureError> {
        let UnverifiedToken { jws, claims } = self.0;
        let payload = jws.verify(keys)?;
        Ok(VerifiedToken { claims, payload })
    }
}

impl<'t> VerifiedToken<'t> {
    /// Returns the registered claims.
    pub(crate) fn claims(&self) -> &Claims<'t> {
        &self.claims
    }

    /// Returns the JSON text of all claims.
    pub(crate) fn payload(&self) -> &'t [u8] {
        self.payload.as_bytes()
    }
}
