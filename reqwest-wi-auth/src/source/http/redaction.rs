//! Removes credentials from texts of a response.

use std::fmt;

use zeroize::Zeroizing;

use crate::text::{printable, shorten_middle};
use crate::token::Token;

/// The longest text of a response that is shown, in bytes.
const MAX_TEXT_BYTES: usize = 500;

/// The shortest part of a secret between dots that is searched for. Shorter ones would remove words of messages.
const MIN_SECRET_BYTES: usize = 6;

/// The shortest part of a secret at any position that is searched for: as many bytes as a `u64` has.
const WINDOW_BYTES: usize = 8;

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
        let is_long_enough = |part: &&str| part.len() >= MIN_SECRET_BYTES;
        let parts = secret.split('.').filter(is_long_enough);
        let whole = Some(secret).filter(|secret| !secret.is_empty());
        self.0.extend(
            parts
                .chain(whole)
                .map(|part| Zeroizing::new(part.to_owned())),
        );
        self
    }

    /// Returns a text of a response in one line, without credentials, and shortened.
    ///
    /// What is removed: each whole secret, and each sequence of 8 bytes or more that also occurs in a secret, since a server
    /// may repeat a part of it.
    pub(crate) fn remove_from(&self, text: &str) -> String {
        let mut is_secret = vec![false; text.len()];
        for secret in &self.0 {
            for (start, found) in text.match_indices(secret.as_str()) {
                is_secret[start..start + found.len()].fill(true);
            }
        }
        let windows = self.windows();
        for (start, window) in text.as_bytes().windows(WINDOW_BYTES).enumerate() {
            if windows.binary_search(&to_number(window)).is_ok() {
                is_secret[start..start + WINDOW_BYTES].fill(true);
            }
        }
        let mut cleaned = String::with_capacity(text.len());
        let mut was_secret = false;
        for (start, character) in text.char_indices() {
            let end = start + character.len_utf8();
            let is_secret = is_secret[start..end].contains(&true);
            if !is_secret {
                cleaned.push(character);
            } else if !was_secret {
                cleaned.push_str(REMOVED);
            }
            was_secret = is_secret;
        }
        shorten_middle(&printable(remove_tokens(&cleaned).trim()), MAX_TEXT_BYTES)
    }

    /// Returns every sequence of 8 bytes of the secrets as a number, sorted.
    fn windows(&self) -> Zeroizing<Vec<u64>> {
        // Allocated once, since moving it would leave a copy.
        let count = self.0.iter().map(|secret| secret.len()).sum();
        let mut windows = Zeroizing::new(Vec::with_capacity(count));
        for secret in &self.0 {
            windows.extend(secret.as_bytes().windows(WINDOW_BYTES).map(to_number));
        }
        windows.sort_unstable();
        windows
    }
}

/// Returns the bytes of a window as a number.
fn to_number(window: &[u8]) -> u64 {
    window
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
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
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_parts_of_them_are_removed() {
        let secrets = Secrets::default()
            .with("header.payload.signature")
            .with("pin1")
            .with("päßwörd-ünd-mehr");
        for (text, expected) in [
            (
                "the token header.payload.signature, with payload.signature, header and pin1",
                "the token [removed], with [removed], [removed] and [removed]",
            ),
            // Truncated, at either end, and at a byte within a character.
            ("token ader.payl… is invalid", "token [removed]… is invalid"),
            ("'ßwörd-ü'", "'[removed]'"),
            // Too short to be of use, and part of many words.
            ("sign the load", "sign the load"),
            ("", ""),
        ] {
            assert_eq!(secrets.remove_from(text), printable(expected));
        }
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
