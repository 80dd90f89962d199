//! The state of token reviews, for operators.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::error::TokenReviewError;
use super::settings::WhenUnavailable;
use crate::text::{printable, shorten_middle};

/// The longest text of an error in the `Display` form, in bytes.
const MAX_ERROR_BYTES: usize = 500;

/// The state of an issuer's token reviews, as part of its [`IssuerHealth`](crate::IssuerHealth).
///
/// It does not change whether the guard is ready: a guard that cannot review tokens still admits those that were confirmed, or
/// all of them, as [`WhenUnavailable`] states, and taking it out of service would refuse those as well. With
/// [`WhenUnavailable::Refuse`], a guard that has never been able to review a token is therefore ready although it refuses every
/// request with 503: alert on the metric `oidc_guard_token_reviews_total` with the outcomes `missing_role` and `failed`, or check
/// [`last_error`](Self::last_error).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenReviewHealth {
    /// The treatment of tokens while no review can be made.
    pub when_unavailable: WhenUnavailable,
    /// Whether the last review was answered, or none has been made yet.
    pub is_available: bool,
    /// The number of tokens that are remembered.
    pub tokens: usize,
    /// The number of refused tokens that are remembered.
    pub refused_tokens: usize,
    /// The number of reviews that are under way.
    pub under_way: usize,
    /// When the API server last answered a review, or `None` before the first answer.
    pub last_success: Option<SystemTime>,
    /// Why the last review failed; `None` if it was answered. [`TokenReviewError::MissingRole`] if the guard's service account
    /// may not create reviews.
    pub last_error: Option<Arc<TokenReviewError>>,
}

impl fmt::Display for TokenReviewHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.last_error, self.last_success) {
            (None, None) => f.write_str("token reviews: none yet"),
            (None, Some(_)) => write!(f, "token reviews: {} tokens", self.tokens),
            (Some(error), _) => {
                let consequence = match self.when_unavailable {
                    WhenUnavailable::Accept => "tokens are accepted without confirmation",
                    WhenUnavailable::Refuse => "tokens that are not confirmed get 503",
                };
                let error = shorten_middle(&printable(&error.to_string()), MAX_ERROR_BYTES);
                write!(f, "token reviews fail, {consequence}: {error}")
            }
        }
    }
}
