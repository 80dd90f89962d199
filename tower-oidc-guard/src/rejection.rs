//! The reasons for which a guard rejects a request, and how each is answered.

use std::time::Duration;

use http::StatusCode;

use crate::jose::TokenError;
use crate::verifier::VerifyError;

/// The reason for which a guard rejected a request.
///
/// The text of a rejection consists of fixed words and contains nothing from the request, so it can be logged and sent to
/// the caller.
///
/// | variant | HTTP status | RFC 6750 `error` | gRPC status |
/// | --- | --- | --- | --- |
/// | [`MissingToken`](Self::MissingToken) | 401 | none | `UNAUTHENTICATED` |
/// | [`MalformedRequest`](Self::MalformedRequest) | 400 | `invalid_request` | `UNAUTHENTICATED` |
/// | [`InvalidToken`](Self::InvalidToken) | 401 | `invalid_token` | `UNAUTHENTICATED` |
/// | [`NotAllowed`](Self::NotAllowed) | 403 | `insufficient_scope` | `PERMISSION_DENIED` |
/// | [`KeysUnavailable`](Self::KeysUnavailable) | 503 | none | `UNAVAILABLE` |
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The request has no bearer token.
    #[error("no bearer token")]
    MissingToken,
    /// The request is malformed as defined in RFC 6750, section 3.1: for example, it has more than one token.
    #[error("malformed request: {0}")]
    MalformedRequest(&'static str),
    /// The token failed verification.
    #[error(transparent)]
    InvalidToken(#[from] TokenError),
    /// The token is valid, but the policy does not allow the caller.
    #[error("the caller is not allowed")]
    NotAllowed,
    /// The issuer's keys are not available, so the token could not be verified.
    #[error("the issuer's keys are not available")]
    KeysUnavailable {
        /// The time to wait before another attempt.
        retry_after: Duration,
    },
}

impl From<VerifyError> for Rejection {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::InvalidToken(error) => Self::InvalidToken(error),
            VerifyError::KeysUnavailable { retry_after } => Self::KeysUnavailable { retry_after },
        }
    }
}

impl Rejection {
    /// Returns the HTTP status of the response (RFC 6750, section 3.1).
    ///
    /// ```
    /// # use tower_oidc_guard::{Rejection, TokenError};
    /// assert_eq!(Rejection::InvalidToken(TokenError::Expired).status(), 401);
    /// assert_eq!(Rejection::NotAllowed.status(), 403);
    /// ```
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MalformedRequest(_) => StatusCode::BAD_REQUEST,
            Self::MissingToken | Self::InvalidToken(_) => StatusCode::UNAUTHORIZED,
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::KeysUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the `error` code of RFC 6750, section 3.1, or `None` if the challenge has none.
    pub fn error_code(&self) -> Option<&'static str> {
        match self {
            Self::MissingToken | Self::KeysUnavailable { .. } => None,
            Self::MalformedRequest(_) => Some("invalid_request"),
            Self::InvalidToken(_) => Some("invalid_token"),
            Self::NotAllowed => Some("insufficient_scope"),
        }
    }

    /// Returns the number of the gRPC status: 16 (`UNAUTHENTICATED`), 7 (`PERMISSION_DENIED`) or 14 (`UNAVAILABLE`).
    pub fn grpc_status(&self) -> u8 {
        match self {
            Self::MissingToken | Self::MalformedRequest(_) | Self::InvalidToken(_) => 16,
            Self::NotAllowed => 7,
            Self::KeysUnavailable { .. } => 14,
        }
    }

    /// Returns a short, stable name of the reason for logs and metric labels.
    ///
    /// It is `missing_token`, `malformed_request`, `not_allowed`, `keys_unavailable`, or the
    /// [reason](TokenError::reason) of the token error.
    ///
    /// ```
    /// # use tower_oidc_guard::{Rejection, TokenError};
    /// assert_eq!(Rejection::MissingToken.reason(), "missing_token");
    /// assert_eq!(Rejection::InvalidToken(TokenError::Expired).reason(), "expired");
    /// ```
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::MalformedRequest(_) => "malformed_request",
            Self::InvalidToken(error) => error.reason(),
            Self::NotAllowed => "not_allowed",
            Self::KeysUnavailable { .. } => "keys_unavailable",
        }
    }
}
