//! Checks configured text for characters that cannot be seen, and makes them visible in errors.

use std::fmt::{self, Write as _};

/// Returns whether a character is white space, a control character, or one that is displayed as nothing at all.
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

/// Returns what is wrong with a text that is compared to the letter with a claim of a token, if anything: it is empty,
/// has white space at an end, or has a character that cannot be seen. Plain spaces within it are allowed.
pub(crate) fn fault(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("it is empty".to_owned());
    }
    if text.starts_with(is_invisible) || text.ends_with(is_invisible) {
        return Some("it begins or ends with white space or an invisible character".to_owned());
    }
    let hidden = text
        .chars()
        .find(|character| *character != ' ' && is_invisible(*character))?;
    Some(format!(
        "it contains {}, which is white space, a control character or invisible",
        CodePoint(hidden)
    ))
}

/// Returns what is wrong with an audience, if anything: it is empty, or has white space or an invisible character
/// anywhere.
pub(crate) fn audience_fault(audience: &str) -> Option<String> {
    if audience.is_empty() {
        return Some("it is empty".to_owned());
    }
    let hidden = audience
        .chars()
        .find(|character| is_invisible(*character))?;
    Some(format!(
        "it contains {}, which is white space, a control character or invisible",
        CodePoint(hidden)
    ))
}

/// Displays text in quotes, with everything but printable ASCII escaped, so that an invisible character or a letter of
/// another script can be seen.
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

/// Displays a character by its number, as Unicode does: `U+00A0`.
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
    fn text_that_looks_different_from_what_it_is_has_a_fault() {
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
            assert!(fault(text).is_some(), "{text:?}");
        }
        for text in ["a", "a b", "J\u{fc}rgen", "https://id.example/#?%20"] {
            assert_eq!(fault(text), None, "{text:?}");
        }
    }

    #[test]
    fn errors_show_every_character() {
        assert_eq!(
            Escaped("a\u{200b}\"\\\u{430}\n o'b").to_string(),
            r#""a\u{200b}\"\\\u{430}\n o'b""#
        );
        assert_eq!(CodePoint('\u{a0}').to_string(), "U+00A0");
    }
}
