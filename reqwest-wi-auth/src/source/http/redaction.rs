//! Removes credentials from texts of a response.

use std::fmt;

use zeroize::Zeroizing;

use crate::text::{printable, shorten_middle};
use crate::token::Token;

/// The longest text of a response that is shown, in bytes.
const MAX_TEXT_BYTES: usize = 500;

/// The shortest secret, or part of one between dots, that is searched for. Shorter ones would remove words of messages.
const MIN_SECRET_BYTES: usize = 6;

/// The shortest sequence of characters of base64url that is considered a token, if it contains letters and digits. Identifiers
/// such as UUIDs are shorter.
const MIN_TOKEN_BYTES: usize = 48;

const REMOVED: &str = "[removed]";

/// The credentials in a request. A server may repeat them in its response.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// Adds the text of a token.
    pub(crate) fn with_token(self, token: &Token) -> Self {
        self.with(token.text())
    }

    /// Adds a secret.
    pub(crate) fn with(mut self, secret: &str) -> Self {
        let parts = secret.split('.').chain([secret]);
        let parts = parts.filter(|part| part.len() >= MIN_SECRET_BYTES);
        self.0
            .extend(parts.map(|part| Zeroizing::new(part.to_owned())));
        // The longest is removed first, so that no part of it remains.
        self.0.sort_by_key(|part| std::cmp::Reverse(part.len()));
        self
    }

    /// Returns a text of a response in one line, without credentials, and shortened.
    pub(crate) fn remove_from(&self, text: &str) -> String {
        let mut text = Zeroizing::new(text.to_owned());
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = Zeroizing::new(text.replace(secret.as_str(), REMOVED));
            }
        }
        shorten_middle(&printable(remove_tokens(&text).trim()), MAX_TEXT_BYTES)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Removes what looks like a token: a long sequence of characters of base64url and dots.
fn remove_tokens(text: &str) -> String {
    let is_token_character = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '+' | '=' | '~')
    };
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|character| !is_token_character(character))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
        let has_letter = word.bytes().any(|byte| byte.is_ascii_alphabetic());
        let is_jwt = word.starts_with("eyJ") && word.len() > 16;
        if is_jwt || word.len() >= MIN_TOKEN_BYTES && has_digit && has_letter {
            cleaned.push_str(REMOVED);
        } else {
            cleaned.push_str(word);
        }
        let other = after.find(is_token_character).unwrap_or(after.len());
        cleaned.push_str(&after[..other]);
        rest = &after[other..];
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_parts_of_them_are_removed() {
        let secrets = Secrets::default()
            .with("header.payload.signature")
            .with("s3cr3t");
        let text = "the token header.payload.signature, with payload.signature and s3cr3t";
        let shown = secrets.remove_from(text);
        assert_eq!(
            shown,
            "the token [removed], with [removed].[removed] and [removed]"
        );
    }

    #[test]
    fn what_looks_like_a_token_is_removed() {
        let secrets = Secrets::default();
        let token = format!("{}.{}", "a1".repeat(20), "b2".repeat(20));
        let shown = secrets.remove_from(&format!("assertion '{token}' (eyJhbGciOiJSUzI1NiJ9.e30)"));
        assert_eq!(shown, "assertion '[removed]' ([removed])");
    }

    #[test]
    fn messages_are_shown_in_one_line_and_shortened() {
        let secrets = Secrets::default();
        let message =
            "AADSTS70021: No matching record. Trace ID: 0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(secrets.remove_from(message), message);
        let url = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/p/providers/q";
        assert_eq!(secrets.remove_from(url), url);
        assert_eq!(secrets.remove_from("a\r\nb\u{1b}"), "a\\r\\nb\\u{1b}");
        let long = secrets.remove_from(&"word ".repeat(1000));
        assert!(long.len() <= MAX_TEXT_BYTES + 3, "{}", long.len());
    }
}
