//! The reasons for which a guard rejects a request, and how each is answered.

use std::fmt;
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
/// | [`UnsupportedScheme`](Self::UnsupportedScheme) | 401 | none | `UNAUTHENTICATED` |
/// | [`MalformedRequest`](Self::MalformedRequest) | 400 | `invalid_request` | `UNAUTHENTICATED` |
/// | [`InvalidToken`](Self::InvalidToken) | 401 | `invalid_token` | `UNAUTHENTICATED` |
/// | [`NotAllowed`](Self::NotAllowed) | 403 | `insufficient_scope` | `PERMISSION_DENIED` |
/// | [`InsufficientScope`](Self::InsufficientScope) | 403 | `insufficient_scope`, with `scope` | `PERMISSION_DENIED` |
/// | [`KeysUnavailable`](Self::KeysUnavailable) | 503 | none | `UNAVAILABLE` |
/// | [`TokenReviewUnavailable`](Self::TokenReviewUnavailable) | 503 | none | `UNAVAILABLE` |
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The request has no credentials in the headers that a token is read from.
    #[error("no bearer token")]
    MissingToken,
    /// The request has credentials, but of another scheme than `Bearer`, so it has no bearer token.
    ///
    /// A guard that admits requests without a token admits these too.
    #[error("no bearer token, but {0}")]
    UnsupportedScheme(OtherScheme),
    /// The request is malformed as defined in RFC 6750, section 3.1: for example, it has more than one token.
    #[error("malformed request: {0}")]
    MalformedRequest(&'static str),
    /// The token failed verification.
    #[error(transparent)]
    InvalidToken(#[from] TokenError),
    /// The token is valid, but the policy does not allow the caller.
    #[error("the caller is not allowed")]
    NotAllowed,
    /// The policy would allow the caller if its token had the scopes that
    /// [`Policy::require_scope`](crate::Policy::require_scope) requires. The response names them.
    #[error("the token lacks a required scope")]
    InsufficientScope,
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

impl From<VerifyError> for Rejection {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::InvalidToken(error) => Self::InvalidToken(error),
            VerifyError::KeysUnavailable { retry_after } => Self::KeysUnavailable { retry_after },
            VerifyError::TokenReviewUnavailable { retry_after } => {
                Self::TokenReviewUnavailable { retry_after }
            }
        }
    }
}

impl Rejection {
    /// Returns whether the request was rejected only because the issuer's keys or the API server's confirmation are not
    /// available now, so that another attempt with the same token can succeed.
    ///
    /// A queue worker keeps the message and tries again after [`retry_after`](Self::KeysUnavailable::retry_after).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::Rejection;
    /// let retry_after = Duration::from_secs(5);
    /// assert!(Rejection::KeysUnavailable { retry_after }.is_transient());
    /// assert!(!Rejection::NotAllowed.is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        self.retry_after().is_some()
    }

    /// Returns the time to wait before another attempt, if the rejection is [transient](Self::is_transient).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match *self {
            Self::KeysUnavailable { retry_after }
            | Self::TokenReviewUnavailable { retry_after } => Some(retry_after),
            _ => None,
        }
    }

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
            Self::MissingToken | Self::UnsupportedScheme(_) | Self::InvalidToken(_) => {
                StatusCode::UNAUTHORIZED
            }
            Self::NotAllowed | Self::InsufficientScope => StatusCode::FORBIDDEN,
            Self::KeysUnavailable { .. } | Self::TokenReviewUnavailable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Returns the `error` code of RFC 6750, section 3.1, or `None` if the challenge has none.
    pub fn error_code(&self) -> Option<&'static str> {
        match self {
            Self::MissingToken
            | Self::UnsupportedScheme(_)
            | Self::KeysUnavailable { .. }
            | Self::TokenReviewUnavailable { .. } => None,
            Self::MalformedRequest(_) => Some("invalid_request"),
            Self::InvalidToken(_) => Some("invalid_token"),
            Self::NotAllowed | Self::InsufficientScope => Some("insufficient_scope"),
        }
    }

    /// Returns the number of the gRPC status: 16 (`UNAUTHENTICATED`), 7 (`PERMISSION_DENIED`) or 14 (`UNAVAILABLE`).
    pub fn grpc_status(&self) -> u8 {
        match self {
            Self::MissingToken
            | Self::UnsupportedScheme(_)
            | Self::MalformedRequest(_)
            | Self::InvalidToken(_) => 16,
            Self::NotAllowed | Self::InsufficientScope => 7,
            Self::KeysUnavailable { .. } | Self::TokenReviewUnavailable { .. } => 14,
        }
    }

    /// Returns a short, stable name of the reason for logs and metric labels.
    ///
    /// It is `missing_token`, `unsupported_scheme`, `malformed_request`, `not_allowed`, `insufficient_scope`,
    /// `keys_unavailable`, `token_review_unavailable`, or the [reason](TokenError::reason) of the token error.
    ///
    /// ```
    /// # use tower_oidc_guard::{Rejection, TokenError};
    /// assert_eq!(Rejection::MissingToken.reason(), "missing_token");
    /// assert_eq!(Rejection::InvalidToken(TokenError::Expired).reason(), "expired");
    /// ```
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::UnsupportedScheme(_) => "unsupported_scheme",
            Self::MalformedRequest(_) => "malformed_request",
            Self::InvalidToken(error) => error.reason(),
            Self::NotAllowed => "not_allowed",
            Self::InsufficientScope => "insufficient_scope",
            Self::KeysUnavailable { .. } => "keys_unavailable",
            Self::TokenReviewUnavailable { .. } => "token_review_unavailable",
        }
    }
}

/// The kind of credentials that a request has instead of a bearer token. Its text never contains anything from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherScheme {
    /// A scheme of which this is the name, spelled as registered with IANA, or one that is in common use.
    Known(&'static str),
    /// A scheme with another name.
    Unknown,
    /// One word that is no known scheme: probably a token without `Bearer` in front of it.
    NoScheme,
}

/// The names of schemes that a rejection may name: those that IANA lists in its registry of HTTP authentication schemes, and
/// some in common use.
const KNOWN_SCHEMES: [&str; 22] = [
    "Basic",
    "Concealed",
    "Digest",
    "DPoP",
    "GNAP",
    "HOBA",
    "Mutual",
    "Negotiate",
    "OAuth",
    "PrivateToken",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "vapid",
    // Not registered.
    "ApiKey",
    "AWS4-HMAC-SHA256",
    "GoogleLogin",
    "Hawk",
    "JWT",
    "NTLM",
    "SharedAccessSignature",
    "SharedKey",
    "Token",
];

impl OtherScheme {
    /// Returns the kind of these credentials, which are not those of `Bearer`.
    pub(crate) fn of_credentials(credentials: &[u8]) -> Self {
        let is_end = |byte: &u8| matches!(byte, b' ' | b'\t' | b',');
        let mut words = credentials.splitn(2, is_end);
        let scheme = words.next().unwrap_or_default();
        let mut known = KNOWN_SCHEMES.into_iter();
        match known.find(|name| name.as_bytes().eq_ignore_ascii_case(scheme)) {
            Some(name) => Self::Known(name),
            None if words.next().is_none() => Self::NoScheme,
            None => Self::Unknown,
        }
    }
}

impl fmt::Display for OtherScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(name) => write!(f, "credentials of the scheme {name}"),
            Self::Unknown => f.write_str("credentials of an unknown scheme"),
            Self::NoScheme => f.write_str("a value without a scheme"),
        }
    }
}
