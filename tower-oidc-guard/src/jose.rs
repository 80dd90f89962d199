//! Verification of signed tokens (JOSE: RFC 7515, 7517, 7518 and 7519).
//!
//! Bytes, keys and the current time go in; verified claims or a [`TokenError`] come out. Nothing in this module performs
//! I/O, keeps state or depends on HTTP.
//!
//! A token passes through types that state what has been checked, so that no step can be left out:
//!
//! 1. [`UnverifiedJws::parse`] decodes the compact serialization and reads the header.
//! 2. [`UnverifiedToken::parse`] reads the registered claims. The issuer among them determines the rules and keys.
//! 3. [`UnverifiedToken::validate_claims`] checks type, audience and times, which needs no key and is cheap.
//! 4. [`SignaturePending::verify`] verifies the signature and returns a [`VerifiedToken`].
//! 5. [`RequiredClaims`](required_claims::RequiredClaims) are checked in the verified payload.
//!
//! ```ignore
//! let jws = UnverifiedJws::parse(token, DEFAULT_MAX_TOKEN_BYTES)?;
//! let token = UnverifiedToken::parse(&jws)?.validate_claims(&rules, now)?.verify(&keys)?;
//! ```

pub(crate) mod algorithm;
pub(crate) mod claim_matcher;
pub(crate) mod claim_path;
pub(crate) mod claim_rules;
pub(crate) mod claims;
mod ec;
mod error;
mod glob;
pub(crate) mod inspection;
mod json;
pub(crate) mod jwk;
mod jws;
pub(crate) mod key_set;
pub(crate) mod lookalike;
pub(crate) mod pem;
pub(crate) mod required_claims;
mod rsa;
pub(crate) mod scopes;
mod token;

pub use self::error::{SignatureError, TokenError};
pub(crate) use self::jws::{DEFAULT_MAX_TOKEN_BYTES, MALFORMED_HEADER, UnverifiedJws, verify_jws};
pub(crate) use self::token::{UnverifiedToken, VerifiedToken};
