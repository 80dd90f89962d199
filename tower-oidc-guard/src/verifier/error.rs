//! Errors of [`TokenVerifier`](super::TokenVerifier).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::Identity;
use crate::jose::TokenError;
use crate::keys::error::KeysError;

/// The reason for which [`TokenVerifier::verify`](crate::TokenVerifier::verify) returned no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The token failed verification.
    #[error(transparent)]
    InvalidToken(#[from] TokenError),
    /// The issuer's keys are not available, so the token could not be verified.
    #[error("the issuer's keys are not available")]
    KeysUnavailable {
        /// The time to wait before another attempt.
        retry_after: Duration,
    },
    /// The API server of the issuer's cluster could not be asked to confirm the token, and
    /// [`WhenUnavailable::Refuse`](crate::WhenUnavailable::Refuse) is set.
    #[error("the token could not be confirmed by its cluster's API server")]
    TokenReviewUnavailable {
        /// The time to wait before another attempt.
        retry_after: Duration,
    },
}

impl VerifyError {
    /// Returns whether the token was not verified only because the issuer's keys or the API server's confirmation are not
    /// available now.
    ///
    /// A queue worker keeps the message and tries again after [`retry_after`](Self::KeysUnavailable::retry_after). For all
    /// other errors this returns `false`, although a few of them, such as [`TokenError::NotYetValid`] and
    /// [`TokenError::UnknownKey`], can disappear later.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::{TokenError, VerifyError};
    /// let retry_after = Duration::from_secs(5);
    /// assert!(VerifyError::KeysUnavailable { retry_after }.is_transient());
    /// assert!(!VerifyError::InvalidToken(TokenError::Expired).is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::KeysUnavailable { .. } | Self::TokenReviewUnavailable { .. }
        )
    }

    /// Returns a short, stable name of the error for logs and metric labels: `keys_unavailable`,
    /// `token_review_unavailable`, or the [reason](TokenError::reason) of the token error.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidToken(error) => error.reason(),
            Self::KeysUnavailable { .. } => "keys_unavailable",
            Self::TokenReviewUnavailable { .. } => "token_review_unavailable",
        }
    }
}

/// A failed verification together with what is known about the token, for logs and metrics.
pub(crate) struct FailedVerification {
    pub(crate) error: VerifyError,
    /// The label of the issuer, or `None` if the token is not from a trusted issuer.
    pub(crate) issuer_label: Option<Arc<str>>,
    /// The identity in the token, if its signature was verified nevertheless.
    pub(crate) caller: Option<Identity>,
    /// How far the guard's clock is from the time that the error is about: the time since `exp`, or the time until `nbf` or
    /// `iat`.
    pub(crate) clock_difference: Option<Duration>,
}

impl From<TokenError> for FailedVerification {
    fn from(error: TokenError) -> Self {
        Self {
            error: error.into(),
            issuer_label: None,
            caller: None,
            clock_difference: None,
        }
    }
}

/// The issuers that [`ready_when`](crate::OidcGuardBuilder::ready_when) requires to have usable keys have none.
///
/// The guard continues to fetch them, with random pauses of at most 10 s. The text contains the cause for each of these issuers
/// and its causes, so `source` returns `None`; see [`cause`](Self::cause).
///
/// The `Debug` form is the text as well, because that is what a program prints that returns the error from `main`.
pub struct NotReady {
    /// The issuer whose keys are missing.
    pub(super) first: MissingKeys,
    /// Further such issuers.
    pub(super) others: Vec<MissingKeys>,
}

/// An issuer without usable keys, and why they are missing.
#[derive(Debug)]
pub(super) struct MissingKeys {
    /// The issuer's label.
    pub(super) issuer: String,
    pub(super) cause: Arc<KeysError>,
}

impl fmt::Debug for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl NotReady {
    /// Returns the issuer's label: its configured URL, or `kubernetes (in cluster)`. If keys of several issuers are missing,
    /// it is that of the first.
    pub fn issuer(&self) -> &str {
        &self.first.issuer
    }

    /// Returns why the last fetch of the keys of [`issuer`](Self::issuer) failed.
    pub fn cause(&self) -> &KeysError {
        &self.first.cause
    }

    /// Returns the label of each issuer whose keys are missing, and why the last fetch of them failed.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// # async fn example(guard: OidcGuard) {
    /// if let Err(error) = guard.ready().await {
    ///     for (issuer, cause) in error.causes() {
    ///         eprintln!("{issuer}: {cause}");
    ///     }
    /// }
    /// # }
    /// ```
    pub fn causes(&self) -> impl Iterator<Item = (&str, &KeysError)> {
        let missing = std::iter::once(&self.first).chain(&self.others);
        missing.map(|missing| (&*missing.issuer, &*missing.cause))
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (issuer, cause)) in self.causes().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}no usable keys for issuer {issuer:?}: {cause}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for NotReady {}
