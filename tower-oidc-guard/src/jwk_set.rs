//! Keys by hand, and signatures over anything: the signature layer by itself.

use std::fmt;

use crate::jose::algorithm::Algorithm;
use crate::jose::key_set::KeySet;
use crate::jose::{DEFAULT_MAX_TOKEN_BYTES, verify_jws};
use crate::keys::error::{KeysError, excerpt};
use crate::rejection::Rejection;

/// A JSON Web Key Set (RFC 7517, section 5) that checks signatures over any bytes.
///
/// What verifies here is signed by one of the keys, and that is all: there are no claims, no issuer and no
/// times. To let callers in, use [`OidcGuard`](crate::OidcGuard).
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
    /// Reads a set, and says which algorithms it is trusted for. Keys that cannot be used are passed over:
    /// see [`passed_over`](Self::passed_over).
    ///
    /// # Errors
    ///
    /// [`KeysError::KeySet`] if it is not a set of keys.
    pub fn from_json(
        json: impl AsRef<[u8]>,
        algorithms: impl IntoIterator<Item = Algorithm>,
    ) -> Result<Self, KeysError> {
        let keys = KeySet::from_json(json.as_ref(), algorithms.into_iter().collect());
        keys.map(Self).map_err(|error| KeysError::KeySet {
            url: "the given text".to_owned(),
            reason: excerpt(&error.to_string()),
        })
    }

    /// Why keys are passed over, a reason for each.
    pub fn passed_over(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.skipped()
    }

    /// Verifies a JWS in compact form (RFC 7515, section 7.1), and returns its payload, which may be anything.
    ///
    /// A JWS of more than 16 KiB (16,384 bytes) is refused with [`Rejection::TooLong`].
    ///
    /// # Errors
    ///
    /// The reason why it is not taken.
    pub fn verify_jws(&self, jws: impl AsRef<[u8]>) -> Result<Vec<u8>, Rejection> {
        verify_jws(jws.as_ref(), DEFAULT_MAX_TOKEN_BYTES, &self.0)
    }

    /// Verifies a signature over a message with the key of that `kid`, or without a `kid` with the only key that
    /// fits the algorithm. If several different keys have that `kid`, four of them at most are tried. An ECDSA signature
    /// is `r` and `s` side by side (RFC 7518, section 3.4).
    ///
    /// # Errors
    ///
    /// [`AlgorithmNotAllowed`](Rejection::AlgorithmNotAllowed), [`UnknownKey`](Rejection::UnknownKey) or
    /// [`BadSignature`](Rejection::BadSignature).
    pub fn verify_signature(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Rejection> {
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
