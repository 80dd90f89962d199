//! Reads a token as far as it can be read, for a diagnosis.
//!
//! Verification stops at the first fault; an inspection goes on as long as the next step has something to work on. It uses the
//! same functions as verification, so each of its results is the one that verification would have.

use std::time::Duration;

use super::algorithm::Algorithm;
use super::claim_rules::ClaimRules;
use super::claims::Claims;
use super::error::{SignatureError, TokenError};
use super::jws::{EncodedParts, HeaderParameters, decode};
use super::key_set::KeySet;

/// A token, decoded as far as possible. Nothing in it has been verified.
pub(crate) struct Inspection<'t> {
    /// The fault in the compact serialization. Without three parts, nothing else can be read.
    pub(crate) format: Result<(), TokenError>,
    /// The fault in the header.
    pub(crate) header: Result<(), TokenError>,
    /// The header parameters, if the header is well-formed.
    pub(crate) parameters: Option<Parameters>,
    /// The fault in the payload, or in the encoding of the signature.
    pub(crate) claims: Result<(), TokenError>,
    /// The payload, if it could be decoded.
    payload: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
    signing_input: &'t [u8],
}

/// The header parameters that are used.
pub(crate) struct Parameters {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
}

impl Parameters {
    /// Returns the algorithm, if it is supported.
    pub(crate) fn algorithm(&self) -> Result<Algorithm, TokenError> {
        Algorithm::from_name(&self.alg).ok_or(TokenError::UnsupportedAlgorithm)
    }
}

impl<'t> Inspection<'t> {
    /// Reads a token.
    pub(crate) fn read(token: &'t [u8], max_bytes: usize) -> Self {
        let parts = match EncodedParts::split(token, max_bytes) {
            Ok(parts) => parts,
            Err(fault) => {
                return Self {
                    format: Err(fault),
                    header: Err(fault),
                    parameters: None,
                    claims: Err(fault),
                    payload: None,
                    signature: None,
                    signing_input: b"",
                };
            }
        };
        let header = decode(parts.header).and_then(|json| HeaderParameters::parse(&json));
        let (payload, signature) = (decode(parts.payload), decode(parts.signature));
        let claims = payload
            .as_ref()
            .map_err(|fault| *fault)
            .and_then(|payload| signature.as_ref().map(|_| payload).map_err(|fault| *fault))
            .and_then(|payload| Claims::parse(payload).map(drop));
        Self {
            format: Ok(()),
            header: header.as_ref().map(drop).map_err(|fault| *fault),
            parameters: header.ok().map(|header| Parameters {
                alg: header.alg,
                kid: header.kid,
                typ: header.typ,
            }),
            claims,
            payload: payload.ok(),
            signature: signature.ok(),
            signing_input: parts.signing_input,
        }
    }

    /// Returns the claims, if they are well-formed.
    pub(crate) fn claims(&self) -> Option<Claims<'_>> {
        Claims::parse(self.payload.as_deref()?).ok()
    }

    /// Returns the JSON text of the claims, if they are well-formed.
    pub(crate) fn payload(&self) -> Option<&str> {
        self.claims()?;
        str::from_utf8(self.payload.as_deref()?).ok()
    }

    /// Returns whether the signature is this text in base64url.
    pub(crate) fn is_signature(&self, encoded: &[u8]) -> bool {
        self.signature.is_some() && self.signature == decode(encoded).ok()
    }

    /// Verifies the signature alone. Returns `None` if the token lacks what that requires.
    pub(crate) fn verify_signature(&self, keys: &KeySet) -> Option<Result<(), SignatureError>> {
        let parameters = self.parameters.as_ref()?;
        let algorithm = parameters.algorithm().ok()?;
        let kid = parameters.kid.as_deref();
        Some(keys.verify(
            kid,
            algorithm,
            self.signing_input,
            self.signature.as_deref()?,
        ))
    }
}

/// The results of all validations that [`ClaimRules::validate`] makes, in its order.
pub(crate) struct ClaimResults {
    pub(crate) typ: Result<(), TokenError>,
    pub(crate) audience: Result<(), TokenError>,
    pub(crate) sender: Result<(), TokenError>,
    pub(crate) lifetime: Result<(), TokenError>,
    pub(crate) expiry: Result<(), TokenError>,
    pub(crate) not_before: Result<(), TokenError>,
    pub(crate) issued_at: Result<(), TokenError>,
}

impl ClaimRules {
    /// Makes all validations. `now` is the time since the Unix epoch.
    pub(crate) fn validate_each(
        &self,
        typ: Option<&str>,
        claims: &Claims<'_>,
        now: Duration,
    ) -> ClaimResults {
        let times = &claims.times;
        ClaimResults {
            typ: self.validate_type(typ),
            audience: self.validate_audience(claims),
            sender: self.validate_sender(claims),
            lifetime: self.validate_lifetime(times),
            expiry: self.validate_expiry(times, now),
            not_before: self.validate_not_before(times, now),
            issued_at: self.validate_issued_at(times, now),
        }
    }
}
