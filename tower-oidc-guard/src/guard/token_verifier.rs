//! The verifier of a guard, for tokens from any transport.

use std::fmt;
use std::sync::Arc;

use super::admission_slot::AdmissionSlot;
use crate::identity::Identity;
use crate::verifier::{TokenStatus, VerifyError};

/// Verifies tokens from any transport: requests, queues, sockets.
///
/// It is returned by [`OidcGuard::verifier`](crate::OidcGuard::verifier). It evaluates no policy;
/// [`OidcGuard::authorize`](crate::OidcGuard::authorize) does. Cloning it copies a pointer.
///
/// If the guard follows a [configuration file](crate::OidcGuardBuilder::from_file), it verifies with the settings that are in effect
/// when it is called.
#[derive(Clone)]
pub struct TokenVerifier {
    admission: AdmissionSlot,
}

impl TokenVerifier {
    pub(super) fn new(admission: AdmissionSlot) -> Self {
        Self { admission }
    }

    /// Verifies a token: its format, issuer, audience, times, algorithm and signature.
    ///
    /// A token that the available keys verify does not wait. For a token that is valid except for its signature, newer keys
    /// are fetched once, as soon as the limits permit, and the call waits for them, at most 5 s in total. If there is a key
    /// with the token's `kid` but the signature does not verify, they are fetched only if the limits permit it now. Dropping
    /// the future does not cancel a fetch that other tokens wait for.
    ///
    /// If the issuer has a [`TokenReview`](crate::TokenReview), the first call with a token also waits until the cluster's API
    /// server has confirmed the token.
    ///
    /// # Errors
    ///
    /// Returns [`VerifyError::InvalidToken`] if the token failed verification, [`VerifyError::KeysUnavailable`] if the
    /// issuer has no usable keys, for example because they have not been fetched yet, and
    /// [`VerifyError::TokenReviewUnavailable`] if the token could not be reviewed. Keys cannot be fetched, and tokens cannot be
    /// reviewed, outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait in a tokio runtime without timers (`enable_time`).
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_oidc_guard::{OidcGuard, VerifyError};
    /// # async fn example(guard: OidcGuard, token: &str) -> Result<(), VerifyError> {
    /// match guard.verifier().verify(token).await {
    ///     Ok(caller) => println!("message from {}", caller.subject()),
    ///     Err(error) if error.is_transient() => println!("try again later: {error}"),
    ///     Err(error) => println!("drop the message: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn verify(&self, token: impl AsRef<[u8]>) -> Result<Identity, VerifyError> {
        let token = token.as_ref();
        let (admission, pending) = {
            let current = self.admission.load();
            match current.verifier.try_verify(token) {
                Ok(TokenStatus::Verified(identity)) => return Ok(identity),
                Ok(TokenStatus::Pending(pending)) => (Arc::clone(&current), pending),
                Err(failed) => return Err(failed.error),
            }
        };
        let verified = admission.verifier.verify_pending(token, pending);
        verified.await.map_err(|failed| failed.error)
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.admission.load().verifier.fmt(f)
    }
}
