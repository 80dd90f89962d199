//! Every reason for which a request is refused, and the answer it gets.

use std::time::Duration;

use http::StatusCode;

/// Why a request, or a token, was refused.
///
/// The text of a rejection is made of fixed words: nothing of the token stands in it, so it can be
/// logged and sent to the caller as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The request carries no bearer token.
    #[error("no bearer token")]
    MissingToken,
    /// The request is malformed as RFC 6750, section 3.1 has it: more than one token, or more than one
    /// place for it.
    #[error("malformed request: {0}")]
    MalformedRequest(&'static str),
    /// The token is longer than the limit; nothing of it was looked at. The limit is 16 KiB unless
    /// [`max_token_bytes`](crate::OidcGuardBuilder::max_token_bytes) sets another.
    #[error("the token is too long")]
    TooLong,
    /// The token is not a JWT in compact form (RFC 7515, section 7.1), or what it says is not of the
    /// type that RFC 7519 asks for.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// The token's `alg` is not a signature algorithm of this library.
    #[error("the token's algorithm is not served")]
    UnsupportedAlgorithm,
    /// The token's `alg` is none of those that its issuer is trusted for.
    #[error("the token's algorithm is not allowed for its issuer")]
    AlgorithmNotAllowed,
    /// The token's `typ` is not one that is taken.
    #[error("the token is of another type")]
    WrongType,
    /// The token's `iss` is no trusted issuer.
    #[error("the token's issuer is not trusted")]
    UnknownIssuer,
    /// None of the token's audiences is one of this service.
    #[error("the token is for another audience")]
    WrongAudience,
    /// The token was issued for longer than is taken, or does not say when.
    #[error("the token lives too long")]
    LivesTooLong,
    /// The token is bound to a key of its sender by a claim `cnf` (RFC 7800): by a TLS client certificate (RFC 8705) or
    /// by DPoP (RFC 9449). Nothing here checks that the sender holds that key, so the token is not accepted as a plain
    /// bearer token.
    #[error("the token is bound to a key of its sender, which is not checked here")]
    SenderConstrained,
    /// A claim that is asked for is missing, or has another value.
    #[error("a claim is not what is asked for")]
    UnmetClaim,
    /// The token's `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// The token's `nbf` has not come yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token's `iat` lies in the future.
    #[error("the token is issued in the future")]
    IssuedInFuture,
    /// The issuer publishes no key that fits the token.
    #[error("the token's key is not published by its issuer")]
    UnknownKey,
    /// The signature is not that of the token and its issuer's key.
    #[error("the token's signature does not verify")]
    BadSignature,
    /// The token is valid, and the policy does not let its bearer in.
    #[error("the caller may not do this")]
    NotAllowed,
    /// The issuer's keys cannot be had now; trying again can help.
    #[error("the issuer's keys are not available")]
    KeysUnavailable {
        /// When to try again, counted from now.
        retry_after: Duration,
    },
}

impl Rejection {
    /// Returns whether the same token may be accepted later: the issuer's keys are not available now. A queue worker keeps
    /// the message and tries again after [`retry_after`](Self::KeysUnavailable::retry_after); with any other rejection,
    /// trying again with the same token is of no use.
    ///
    /// ```
    /// # use tower_oidc_guard::Rejection;
    /// # use std::time::Duration;
    /// let retry_after = Duration::from_secs(5);
    /// assert!(Rejection::KeysUnavailable { retry_after }.is_transient());
    /// assert!(!Rejection::Expired.is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::KeysUnavailable { .. })
    }

    /// The HTTP status this rejection is answered with (RFC 6750, section 3.1).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MalformedRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::KeysUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The error code of RFC 6750, section 3.1, or nothing where that section wants none.
    pub fn error_code(&self) -> Option<&'static str> {
        match self {
            Self::MissingToken | Self::KeysUnavailable { .. } => None,
            Self::MalformedRequest(_) => Some("invalid_request"),
            Self::NotAllowed => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }

    /// The gRPC status this rejection is answered with: `UNAUTHENTICATED`, `PERMISSION_DENIED` or `UNAVAILABLE`,
    /// by number.
    pub fn grpc_status(&self) -> u8 {
        match self {
            Self::NotAllowed => 7,
            Self::KeysUnavailable { .. } => 14,
            _ => 16,
        }
    }

    /// A short name, one of a fixed few: for logs and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::MalformedRequest(_) => "malformed_request",
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::WrongType => "wrong_type",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::LivesTooLong => "lives_too_long",
            Self::SenderConstrained => "sender_constrained",
            Self::UnmetClaim => "unmet_claim",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::NotAllowed => "not_allowed",
            Self::KeysUnavailable { .. } => "keys_unavailable",
        }
    }
}
