//! Verification of signatures with a given set of keys, without claims or an issuer.

use std::fmt;

use openidconnect::{JsonWebKey, JsonWebKeySet};

use crate::jose::algorithm::Algorithm;
use crate::jose::key_set::KeySet;
use crate::jose::{self, SignatureError, TokenError};
use crate::keys::error::KeysError;
use crate::keys::health::SkippedKey;
use crate::text::excerpt;

/// A JSON Web Key Set (RFC 7517, section 5) that verifies signatures over any bytes.
///
/// A verified signature proves only that one of the keys made it: no claims, issuer or times are checked. To authenticate
/// callers, use [`OidcGuard`](crate::OidcGuard).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_oidc_guard::{Algorithm, JwkSet};
///
/// // The key and the JWS of RFC 8037, appendix A.
/// let keys = JwkSet::from_json(
///     br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
///     [Algorithm::EdDSA],
/// )?;
/// let jws = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
///     hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
/// assert_eq!(keys.verify_jws(jws)?, b"Example of Ed25519 signing");
/// # Ok(())
/// # }
/// ```
pub struct JwkSet(KeySet);

impl JwkSet {
    /// Parses a set of keys that are allowed for the given algorithms.
    ///
    /// Keys that cannot be used are skipped; see [`skipped_keys`](Self::skipped_keys).
    ///
    /// # Errors
    ///
    /// Returns [`KeysError::InvalidKeySet`] if the text is not a JSON Web Key Set.
    pub fn from_json(
        json: impl AsRef<[u8]>,
        algorithms: impl IntoIterator<Item = Algorithm>,
    ) -> Result<Self, KeysError> {
        let keys = KeySet::from_json(json.as_ref(), algorithms.into_iter().collect());
        keys.map(Self).map_err(|error| KeysError::InvalidKeySet {
            location: "`JwkSet::from_json`".to_owned(),
            reason: excerpt(&error.to_string()),
        })
    }

    /// Creates a set of the keys in openidconnect's `JsonWebKeySet`, which are allowed for the given algorithms.
    ///
    /// Signatures are verified with aws-lc-rs, and not with the verification that the key type `K` implements.
    ///
    /// `CoreJsonWebKeySet` drops keys that it cannot read, and the parameter `key_ops`: to apply `key_ops`, pass the JSON to
    /// [`from_json`](Self::from_json).
    ///
    /// # Errors
    ///
    /// Returns [`KeysError::InvalidKeySet`] if the key set cannot be serialized.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::openidconnect::core::CoreJsonWebKeySet;
    /// use tower_oidc_guard::{Algorithm, JwkSet};
    ///
    /// let keys: CoreJsonWebKeySet = serde_json::from_value(serde_json::json!({ "keys": [{
    ///     "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    /// }]}))?;
    /// let keys = JwkSet::from_openidconnect(&keys, [Algorithm::EdDSA])?;
    /// assert!(keys.skipped_keys().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_openidconnect<K: JsonWebKey>(
        keys: &JsonWebKeySet<K>,
        algorithms: impl IntoIterator<Item = Algorithm>,
    ) -> Result<Self, KeysError> {
        let json = serde_json::to_vec(keys).map_err(|error| KeysError::InvalidKeySet {
            location: "`JwkSet::from_openidconnect`".to_owned(),
            reason: excerpt(&error.to_string()),
        })?;
        Self::from_json(json, algorithms)
    }

    /// Returns the keys of the set that cannot be used, each with the reason.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Algorithm, JwkSet};
    /// let keys = JwkSet::from_json(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#, [Algorithm::RS256])?;
    /// assert_eq!(keys.skipped_keys().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn skipped_keys(&self) -> Vec<SkippedKey> {
        SkippedKey::list(&self.0)
    }

    /// Verifies a JWS in compact serialization (RFC 7515, section 7.1) and returns its payload, which may be any bytes.
    ///
    /// # Errors
    ///
    /// - [`TokenError::TooLong`] if the JWS is longer than 16 KiB (16,384 bytes).
    /// - [`TokenError::Malformed`] or [`TokenError::UnsupportedAlgorithm`] if it cannot be decoded.
    /// - [`TokenError::AlgorithmNotAllowed`], [`TokenError::UnknownKey`] or [`TokenError::BadSignature`] if the signature
    ///   does not verify.
    pub fn verify_jws(&self, jws: impl AsRef<[u8]>) -> Result<Vec<u8>, TokenError> {
        jose::verify_jws(jws.as_ref(), &self.0)
    }

    /// Verifies a signature over a message.
    ///
    /// With a `kid`, the keys with that `kid` are tried, at most four if they differ. Without a `kid`, the signature is verified
    /// only if exactly one key fits the algorithm. An ECDSA signature is the concatenation of `r` and `s` (RFC 7518, section
    /// 3.4).
    ///
    /// # Errors
    ///
    /// [`SignatureError::AlgorithmNotAllowed`], [`SignatureError::UnknownKey`] or [`SignatureError::BadSignature`].
    pub fn verify_signature(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        self.0.verify(kid, algorithm, message, signature)
    }
}

impl fmt::Debug for JwkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwkSet")
            .field("usable", &self.0.usable())
            .finish_non_exhaustive()
    }
}
