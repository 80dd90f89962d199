//! Errors of token verification.

/// The reason for which a token failed verification.
///
/// The text of an error consists of fixed words and contains nothing from the token, so it can be logged and sent to the
/// caller. Errors that do not concern the token itself, such as keys that could not be fetched, are variants of
/// [`VerifyError`](crate::VerifyError).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token is longer than the limit, so it was not decoded. The limit is 16 KiB unless
    /// [`max_token_bytes`](crate::OidcGuardBuilder::max_token_bytes) sets another.
    #[error("the token is too long")]
    TooLong,
    /// The token is not a JWT in compact serialization (RFC 7515, section 7.1), or a header parameter or claim does not have
    /// the type that its specification requires.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// The token's `alg` is not an [`Algorithm`](crate::Algorithm).
    #[error("the token's algorithm is not supported")]
    UnsupportedAlgorithm,
    /// The token's `alg` is not allowed for its issuer.
    #[error("the token's algorithm is not allowed for its issuer")]
    AlgorithmNotAllowed,
    /// The token's `typ` is not accepted.
    #[error("the token's type is not accepted")]
    WrongType,
    /// The token's `iss` is not a trusted issuer.
    #[error("the token's issuer is not trusted")]
    UnknownIssuer,
    /// None of the token's audiences (`aud`) is accepted.
    #[error("the token is for another audience")]
    WrongAudience,
    /// The time between the token's `iat` and `exp` exceeds the maximum, or the token has no `iat`.
    #[error("the token's lifetime is too long")]
    LivesTooLong,
    /// The token is bound to a key of its sender by a claim `cnf` (RFC 7800): with mutual TLS (RFC 8705) or DPoP (RFC 9449).
    /// This library does not check that the sender holds that key, so it does not accept the token as a plain bearer token.
    #[error("the token is bound to a key of its sender, which is not supported")]
    SenderConstrained,
    /// A required claim is missing or has another value.
    #[error("the token does not have a required claim")]
    UnmetClaim,
    /// The token's `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// The token's `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token's `iat` is in the future.
    #[error("the token's time of issue is in the future")]
    IssuedInFuture,
    /// The issuer publishes no key for the token's `kid` and `alg`.
    #[error("the token's key is not published by its issuer")]
    UnknownKey,
    /// The signature does not verify with the issuer's key.
    #[error("the token's signature does not verify")]
    BadSignature,
    /// The API server of the issuer's cluster does not confirm the token: for example, the pod that it is bound to is gone. See
    /// [`TokenReview`](crate::TokenReview).
    #[error("the token is not confirmed by its cluster's API server")]
    TokenRevoked,
}

impl TokenError {
    /// Returns a short, stable name of the error for logs and metric labels: the variant's name in snake case.
    ///
    /// ```
    /// # use tower_oidc_guard::TokenError;
    /// assert_eq!(TokenError::BadSignature.reason(), "bad_signature");
    /// ```
    pub fn reason(&self) -> &'static str {
        match self {
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
            Self::TokenRevoked => "token_revoked",
        }
    }
}

/// The reason for which a signature failed verification with a set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The algorithm is not allowed for the keys.
    #[error("the algorithm is not allowed for the keys")]
    AlgorithmNotAllowed,
    /// No key matches the `kid` and the algorithm.
    #[error("no key matches the `kid` and the algorithm")]
    UnknownKey,
    /// The signature does not verify with the matching key.
    #[error("the signature does not verify")]
    BadSignature,
}

impl From<SignatureError> for TokenError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::AlgorithmNotAllowed => Self::AlgorithmNotAllowed,
            SignatureError::UnknownKey => Self::UnknownKey,
            SignatureError::BadSignature => Self::BadSignature,
        }
    }
}
