//! Text from settings, tokens and issuers: validation, and safe display in errors and logs.

#[cfg(feature = "policy-file")]
use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};

use reqwest_wi_auth::text::one_line;
pub(crate) use reqwest_wi_auth::text::{causes, printable, shorten_middle};
use url::{Position, Url};

/// The most characters of an issuer's text that an error or a log event quotes.
const MAX_EXCERPT: usize = 100;

/// Returns whether a character is white space, a control character, or displayed as nothing at all.
pub(crate) fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            // Format characters, fillers, variation selectors and tags (Unicode: Default_Ignorable_Code_Point), and the
            // empty Braille pattern.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Returns what is wrong with a setting that is compared with a claim, or `None` if it is usable: it must not be empty, begin
/// or end with white space, or contain an invisible character. Spaces within it are allowed.
pub(crate) fn claim_value_fault(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(EMPTY.to_owned());
    }
    if text.starts_with(is_invisible) || text.ends_with(is_invisible) {
        return Some(
            "expected no white space or invisible character at its beginning and end".to_owned(),
        );
    }
    let is_fault = |character: &char| *character != ' ' && is_invisible(*character);
    text.chars().find(is_fault).map(invisible_fault)
}

/// Returns what is wrong with an audience, or `None` if it is usable: it must not be empty, or contain white space or an
/// invisible character.
pub(crate) fn audience_fault(audience: &str) -> Option<String> {
    if audience.is_empty() {
        return Some(EMPTY.to_owned());
    }
    let is_fault = |character: &char| is_invisible(*character);
    audience.chars().find(is_fault).map(invisible_fault)
}

const EMPTY: &str = "expected at least one character, found none";

fn invisible_fault(found: char) -> String {
    format!(
        "expected visible characters, found {} (white space, a control character or invisible)",
        CodePoint(found)
    )
}

/// Shortens a text that an issuer wrote to 100 characters, and escapes its control characters.
pub(crate) fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let mut short = String::new();
    for character in characters.by_ref().take(MAX_EXCERPT) {
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    if !characters.as_str().is_empty() {
        short.push('…');
    }
    short
}

/// Returns the text of an error and of all its causes: `a: b: c`. A cause whose text is already contained in it is left out.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = reqwest_wi_auth::text::with_causes(error);
    // An error of reqwest that a middleware wraps has the whole URL. It may contain a secret in its query, or be the target of
    // a redirect, which the issuer chose. The outermost error names the URL that was requested.
    for url in causes(error).flat_map(urls) {
        text = text.replace(&format!(" for url ({url})"), "");
        text = text.replace(url.as_str(), &url_without_secrets(&url));
    }
    text
}

/// Returns the URLs that an error names.
fn urls(error: &(dyn Error + 'static)) -> Vec<Url> {
    let url = |error: &reqwest::Error| error.url().cloned();
    match error.downcast_ref::<reqwest_middleware::Error>() {
        Some(reqwest_middleware::Error::Reqwest(error)) => url(error).into_iter().collect(),
        // The type of the outermost of these errors cannot be found through `source`.
        Some(reqwest_middleware::Error::Middleware(error)) => {
            let requests = error.chain().filter_map(|cause| cause.downcast_ref());
            requests.filter_map(url).collect()
        }
        None => {
            let request = error.downcast_ref::<reqwest::Error>();
            request.and_then(url).into_iter().collect()
        }
    }
}

/// Returns an error with all its causes as the value of a field of a log event: one line without control characters, of at
/// most about 1,000 bytes.
pub(crate) fn log_line(error: &(dyn Error + 'static)) -> String {
    one_line(&with_causes(error))
}

/// Returns a URL for errors and logs: without user information, and with `?…` in place of a query, which may contain a secret.
pub(crate) fn url_without_secrets(url: &Url) -> String {
    let mut text = url[..Position::BeforeUsername].to_owned();
    text.push_str(&url[Position::BeforeHost..Position::AfterPath]);
    if url.query().is_some() {
        text.push_str("?…");
    }
    text
}

/// Displays text in quotes, with everything but printable ASCII escaped, so that invisible characters and letters of other
/// scripts can be told apart.
pub(crate) struct Escaped<'t>(pub(crate) &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                ' '..='~' => f.write_char(character)?,
                other => write!(f, "{}", other.escape_default())?,
            }
        }
        f.write_char('"')
    }
}

/// Returns text in quotes, with everything but printable ASCII escaped, and shortened to 200 characters.
pub(crate) fn quoted_excerpt(text: &str) -> String {
    const MAX: usize = 200;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", Escaped(text.get(..end).unwrap_or_default())),
        None => Escaped(text).to_string(),
    }
}

/// Returns texts as a list in brackets, each as [`quoted_excerpt`] returns it. Of more than 10, the others are counted.
pub(crate) fn quoted_list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    const MAX: usize = 10;
    let mut texts = texts.into_iter();
    let first = texts.by_ref().take(MAX);
    let first: Vec<_> = first.map(|text| quoted_excerpt(text.as_ref())).collect();
    match texts.count() {
        0 => format!("[{}]", first.join(", ")),
        more => format!("[{}, and {more} more]", first.join(", ")),
    }
}

/// Returns text as it is if it consists of visible ASCII characters that separate nothing in a list, and as [`Escaped`] text
/// otherwise. A text of more than 300 characters is shortened.
#[cfg(feature = "policy-file")]
pub(crate) fn quoted_if_needed(text: &str) -> Cow<'_, str> {
    const MAX: usize = 300;
    if let Some((end, _)) = text.char_indices().nth(MAX) {
        let start = text.get(..end).unwrap_or_default();
        return Cow::Owned(format!("{}\u{2026}", quoted_if_needed(start)));
    }
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'\\');
    if !text.is_empty() && text.bytes().all(is_plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(Escaped(text).to_string())
    }
}

/// Displays a character as its code point, for example `U+00A0`.
pub(crate) struct CodePoint(pub(crate) char);

impl fmt::Display for CodePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "U+{:04X}", u32::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_information_and_query() {
        for (url, expected) in [
            ("https://i.example/keys", "https://i.example/keys"),
            ("https://i.example:8443", "https://i.example:8443/"),
            (
                "https://me:hunter2@i.example/keys?key=hunter2#hunter2",
                "https://i.example/keys?…",
            ),
            ("http://[::1]:80/a", "http://[::1]/a"),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(url_without_secrets(&url), expected);
        }
    }

    #[test]
    fn claim_values_with_invisible_characters_are_refused() {
        for text in [
            "",
            " ",
            " a",
            "a ",
            "a\n",
            "\u{feff}a",
            "a\u{200b}b",
            "a\tb",
            "a\u{a0}b",
            "a\u{202e}b",
            "a\0",
        ] {
            assert!(claim_value_fault(text).is_some(), "{text:?}");
        }
        for text in ["a", "a b", "J\u{fc}rgen", "https://id.example/#?%20"] {
            assert_eq!(claim_value_fault(text), None, "{text:?}");
        }
    }

    #[test]
    fn escaped_text_shows_every_character() {
        assert_eq!(
            Escaped("a\u{200b}\"\\\u{430}\n o'b").to_string(),
            r#""a\u{200b}\"\\\u{430}\n o'b""#
        );
        assert_eq!(CodePoint('\u{a0}').to_string(), "U+00A0");
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("https://i.example"), "https://i.example");
        assert_eq!(excerpt("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
        let long = excerpt(&"é".repeat(500_000));
        assert_eq!(long.chars().count(), MAX_EXCERPT + 1);
    }

    #[test]
    fn only_characters_that_are_not_printable_are_escaped() {
        for text in [
            "",
            "a \"b\" \\c 'd'",
            "system:serviceaccount:a:b",
            "Jürgen 名 😀",
        ] {
            assert_eq!(printable(text), text);
        }
        for (text, expected) in [
            ("a\nb", r"a\nb"),
            ("a\r\nb\t", r"a\r\nb\t"),
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("\0\u{7f}\u{85}", r"\0\u{7f}\u{85}"),
            ("a\u{202e}b\u{2066}", r"a\u{202e}b\u{2066}"),
            (
                "\u{2028}\u{2029}\u{200b}\u{feff}",
                r"\u{2028}\u{2029}\u{200b}\u{feff}",
            ),
        ] {
            assert_eq!(printable(text), expected);
            assert_eq!(printable(expected), expected, "escaping is idempotent");
        }
    }
}
