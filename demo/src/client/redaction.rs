//! Removes tokens from what a server sends back, such as a page that lists the headers of the request.

use std::borrow::Cow;

/// The beginning of a JWT: that of a JSON object, `{"`, in base64url.
const START: &str = "eyJ";
/// The fewest bytes of a JWT. Shorter texts that begin alike are something else.
const MIN_BYTES: usize = 20;
const REPLACEMENT: &str = "(token)";

/// Replaces each JWT in a text.
pub(super) fn without_tokens(text: &str) -> Cow<'_, str> {
    let mut redacted = String::new();
    let mut rest = text;
    let mut kept = 0;
    while let Some(start) = rest.get(kept..).and_then(|text| text.find(START)) {
        let start = kept + start;
        let token = &rest[start..];
        let is_end = |character: char| {
            !character.is_ascii_alphanumeric() && !matches!(character, '-' | '_' | '.')
        };
        let length = token.find(is_end).unwrap_or(token.len());
        if length >= MIN_BYTES && token[..length].contains('.') {
            redacted.push_str(&rest[..start]);
            redacted.push_str(REPLACEMENT);
            (rest, kept) = (&token[length..], 0);
        } else {
            kept = start + length;
        }
    }
    if redacted.is_empty() {
        return Cow::Borrowed(text);
    }
    redacted.push_str(rest);
    Cow::Owned(redacted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_replaced_and_other_text_is_kept() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl-_";
        for (text, expected) in [
            (
                format!("authorization: Bearer {token}\nx: y"),
                "authorization: Bearer (token)\nx: y",
            ),
            (
                format!("{{\"a\":\"{token}\",\"b\":\"{token}\"}}"),
                "{\"a\":\"(token)\",\"b\":\"(token)\"}",
            ),
            (token.to_owned(), "(token)"),
            (format!("token={token}é"), "token=(token)é"),
            (
                "eyJ, and eyJhbGciOiJSUzI1NiJ9 without a dot".to_owned(),
                "eyJ, and eyJhbGciOiJSUzI1NiJ9 without a dot",
            ),
            ("hello".to_owned(), "hello"),
            (String::new(), ""),
        ] {
            assert_eq!(without_tokens(&text), expected);
        }
    }
}
