//! Escapes untrusted text, so that it can be printed as part of a line.
//!
//! What a server sends may contain line breaks that forge further lines, terminal control sequences, and characters that
//! change the direction of text. These are escaped; all other characters are left as they are.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes each unsafe character as Rust does: `\n`, `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_with(text, |escaped, character| {
        escaped.extend(character.escape_default());
    })
}

/// Escapes each unsafe character in a line of JSON as JSON does: `\u001b`.
///
/// The result has the same content, because JSON without line breaks has unsafe characters only in its strings.
pub(crate) fn escape_json(line: &str) -> Cow<'_, str> {
    escape_with(line, |escaped, character| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a `String` cannot fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    })
}

fn escape_with(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            escape(&mut escaped, character);
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns `true` for control characters, line and paragraph separators, and invisible characters that change how text is
/// displayed.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSAFE: &str =
        "a\n\r\t\0\u{7f}\u{85}\u{1b}[2J\u{2028}\u{202e}\u{200b}\u{feff}\u{e0041}é€😀\"\\";

    #[test]
    fn unsafe_characters_are_escaped_and_others_are_unchanged() {
        assert_eq!(
            escape(UNSAFE),
            "a\\n\\r\\t\\u{0}\\u{7f}\\u{85}\\u{1b}[2J\\u{2028}\\u{202e}\\u{200b}\\u{feff}\\u{e0041}é€😀\"\\"
        );
        let plain = "GET /: 200 {\"msg\": \"hello\"} é";
        assert!(matches!(escape(plain), Cow::Borrowed(text) if text == plain));
    }

    #[test]
    fn escaping_a_line_of_json_preserves_its_content() {
        let line = serde_json::json!({ "body": UNSAFE }).to_string();
        let escaped = escape_json(&line);
        assert!(!escaped.contains(is_unsafe), "{escaped}");
        let content: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(content["body"], UNSAFE);
    }
}
