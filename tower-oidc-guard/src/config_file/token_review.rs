//! The reviews of an issuer's tokens in a configuration file.
//!
//! Each field has the name of a method of [`TokenReview`], with its unit.

use std::time::Duration;

use super::error::ContentError;
use super::fields::{Field, Fields};
use super::unknown_value;
use crate::token_review::{TokenReview, WhenUnavailable};

const FIELDS: [&str; 9] = [
    "when_unavailable",
    "ttl_seconds",
    "time_limit_seconds",
    "max_reviews_per_second",
    "max_concurrent_reviews",
    "max_tokens",
    "api_server",
    "token_file",
    "ca_file",
];

/// The settings of the reviews of an issuer's tokens in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenReviewEntry(TokenReview);

impl TokenReviewEntry {
    /// Reads the field `token_review` of an issuer.
    pub(super) fn read(field: Field) -> Result<Self, ContentError> {
        let mut fields = Fields::read(field.into_node()?, "`token_review`", &FIELDS)?;
        let position = fields.position;
        let advice = "write `accept` to accept tokens while the API server cannot confirm them, or `refuse` to refuse them with 503";
        let choice = fields
            .take_required("when_unavailable", advice)?
            .into_text()?;
        let when_unavailable = match choice.value.as_str() {
            "accept" => WhenUnavailable::Accept,
            "refuse" => WhenUnavailable::Refuse,
            _ => {
                let known = ["accept", "refuse"];
                return Err(unknown_value(
                    "value of `when_unavailable`",
                    &choice,
                    &known,
                ));
            }
        };
        let mut review = TokenReview::new(when_unavailable);
        let mut number = |name, unit| {
            let field = fields.take(name);
            field.map(|field| field.into_number(unit)).transpose()
        };
        if let Some(seconds) = number("ttl_seconds", "seconds")? {
            review = review.ttl(Duration::from_secs(seconds));
        }
        if let Some(seconds) = number("time_limit_seconds", "seconds")? {
            review = review.time_limit(Duration::from_secs(seconds));
        }
        // A number that is too large is out of the setting's range as well.
        if let Some(reviews) = number("max_reviews_per_second", "reviews")? {
            review = review.max_reviews_per_second(u32::try_from(reviews).unwrap_or(u32::MAX));
        }
        if let Some(reviews) = number("max_concurrent_reviews", "reviews")? {
            review = review.max_concurrent_reviews(usize::try_from(reviews).unwrap_or(usize::MAX));
        }
        if let Some(tokens) = number("max_tokens", "tokens")? {
            review = review.max_tokens(usize::try_from(tokens).unwrap_or(usize::MAX));
        }
        let mut text = |name| -> Result<Option<String>, ContentError> {
            let text = fields.take(name).map(Field::into_text).transpose()?;
            Ok(text.map(|text| text.value))
        };
        if let Some(url) = text("api_server")? {
            review = review.api_server(url);
        }
        if let Some(path) = text("token_file")? {
            review = review.token_file(path);
        }
        if let Some(path) = text("ca_file")? {
            review = review.ca_file(path);
        }
        review
            .check_ranges()
            .map_err(|reason| ContentError::new(position, reason))?;
        Ok(Self(review))
    }

    pub(super) fn settings(&self) -> TokenReview {
        self.0.clone()
    }
}
