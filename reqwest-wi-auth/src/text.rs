//! Errors as text: in one line, with all their causes.
//!
//! Not part of the public API, and may change in any version: it is public for tower-oidc-guard only, which formats the causes
//! of errors in its messages and log events alike.

use std::borrow::Cow;
use std::error::Error;

/// The longest text of an error with its causes that is logged, in bytes.
const MAX_LOG_BYTES: usize = 1000;

/// The most causes of an error that are followed, in case an error is its own cause.
const MAX_CAUSES: usize = 64;

/// Returns the text of an error and of all its causes: `a: b: c`. A cause whose text is already contained in it is left out.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let cause = cause.to_string();
        if !contains_phrase(&text, &cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Returns an error and all its causes, from the outermost to the innermost.
pub fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause: &&'e (dyn Error + 'static)| {
        cause.source()
    })
    .take(MAX_CAUSES)
}

/// Returns an error with all its causes as the value of a field of a log event: one line without control characters, of at
/// most about 1,000 bytes.
pub(crate) fn log_line(error: &(dyn Error + 'static)) -> String {
    one_line(&with_causes(error))
}

/// Returns a text as one line without control characters, of at most about 1,000 bytes.
pub fn one_line(text: &str) -> String {
    shorten_middle(&printable(text), MAX_LOG_BYTES)
}

/// Shortens a text to about this number of bytes, by replacing its middle with `…`. In an error, the beginning states what
/// was attempted, and the end the innermost cause and the remedy.
pub fn shorten_middle(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes / 2;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut start = text.len() - (bytes - bytes / 2);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!("{}…{}", &text[..end], &text[start..])
}

/// Returns whether a text contains another one, not as a part of a longer word or number. The empty text is contained in
/// every text.
fn contains_phrase(text: &str, phrase: &str) -> bool {
    let is_separate = |(start, _): (usize, &str)| {
        let before = text[..start].chars().next_back();
        let after = text[start + phrase.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    };
    phrase.is_empty() || text.match_indices(phrase).any(is_separate)
}

/// Escapes the characters of a text that are not printable: line breaks, terminal escape sequences, and characters that
/// change the direction of text.
///
/// Whatever a subscriber does with the value, a token, a file or a server cannot forge a line of the log with it.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    Cow::Owned(printable)
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    /// An error with a chain of causes, from the outermost to the innermost.
    #[derive(Debug)]
    struct Chain(&'static [&'static str]);

    impl fmt::Display for Chain {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0[0])
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            let rest: &'static [&'static str] = &self.0[1..];
            (!rest.is_empty()).then(|| Box::leak(Box::new(Chain(rest))) as _)
        }
    }

    #[test]
    fn an_error_is_followed_by_those_causes_that_its_text_does_not_contain() {
        for (chain, expected) in [
            (&["a"][..], "a"),
            (&["a", "b", "c"], "a: b: c"),
            (&["failed: b: c", "b: c", "c"], "failed: b: c"),
            (&["failed: b", "b", "c"], "failed: b: c"),
            (&["os error 111", "os error 1"], "os error 111: os error 1"),
            (&["unbound", "bound", ""], "unbound: bound"),
        ] {
            assert_eq!(with_causes(&Chain(chain)), expected);
        }
    }

    #[test]
    fn a_logged_error_is_one_short_line_with_the_outermost_and_the_innermost_cause() {
        let long: &'static str = Box::leak("é".repeat(500_000).into_boxed_str());
        let chain = Box::leak(Box::new(["outermost\n", long, "innermost\u{1b}"]));
        let line = log_line(&Chain(chain));
        assert!(line.starts_with("outermost\\n: éé"), "{line}");
        assert!(line.ends_with("éé: innermost\\u{1b}"), "{line}");
        assert!(
            line.len() <= MAX_LOG_BYTES + '…'.len_utf8(),
            "{}",
            line.len()
        );
    }
}
