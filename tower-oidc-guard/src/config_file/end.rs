//! Checks that a file ends after its only value.
//!
//! serde-saphyr ignores syntax errors after the end of the first document, and text after the closing bracket of a document is
//! such an error. A policy would lose everything that follows, for example its deny list.

use serde_saphyr::granit_parser::{Event, Parser};

use super::error::{ContentError, Position};
use super::syntax;

/// The reason why a text does not end after its only value.
pub(super) enum Fault {
    /// There is more text after the value.
    MoreText(ContentError),
    /// The text up to the end of the value has a syntax error.
    Syntax(ContentError),
}

impl From<Fault> for ContentError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::MoreText(error) | Fault::Syntax(error) => error,
        }
    }
}

/// Checks that a text has no syntax error up to its end, and that its only value is followed by nothing but white space,
/// comments and the marker `...`.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    // The byte after the last character of the value.
    let mut value_end = None;
    let mut is_ended = false;
    let mut is_block = false;
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::DocumentEnd, span)) => {
                is_ended = true;
                // The marker `...`, if there is one, belongs to the document.
                value_end = value_end.or(span.start.byte_offset());
            }
            Ok((Event::StreamStart | Event::StreamEnd | Event::Comment(..), _)) => {}
            Ok((_, span)) if is_ended => {
                return Err(more_text(
                    text,
                    value_end,
                    span.start.byte_offset(),
                    closing(text, value_end, is_block),
                ));
            }
            Ok((Event::DocumentStart(..), _)) => {}
            Ok((_, span)) => {
                value_end = span.end.byte_offset();
                // The end of a mapping or list without brackets has no character.
                is_block = span.start.byte_offset() == value_end;
            }
            Err(error) if is_ended => {
                return Err(more_text(
                    text,
                    value_end,
                    error.marker().byte_offset(),
                    closing(text, value_end, is_block),
                ));
            }
            Err(error) => {
                let before = error.marker().byte_offset();
                let before = before.and_then(|end| text.get(..end)).unwrap_or(text);
                let reason = syntax::syntax_fault(error.kind());
                let error = ContentError::new(Position::at_end_of(before), reason);
                return Err(Fault::Syntax(error));
            }
        }
    }
    Ok(())
}

/// Returns the error for text after the value that ends before the byte `value_end`. `found` is where the parser found it, which
/// may be later than it begins.
fn more_text(
    text: &str,
    value_end: Option<usize>,
    found: Option<usize>,
    closing: Option<char>,
) -> Fault {
    let begin = value_end.and_then(|end| first_text(text, end));
    let begin = begin.or(found).unwrap_or(text.len());
    let after = match closing {
        Some(bracket @ ('}' | ']')) => format!("closing {bracket}"),
        Some('"' | '\'') => "closing quote".to_owned(),
        _ => "value of the file".to_owned(),
    };
    Fault::MoreText(ContentError::new(
        Position::at_end_of(text.get(..begin).unwrap_or(text)),
        format!("there is more text after the {after}; the file must be one mapping"),
    ))
}

/// Returns the last character of the value, or `None` if it is a mapping or list without brackets.
fn closing(text: &str, value_end: Option<usize>, is_block: bool) -> Option<char> {
    let value = value_end.filter(|_| !is_block);
    let value = value.and_then(|end| text.get(..end))?;
    value.chars().next_back()
}

/// Returns where the first text after a byte begins that is not white space, a comment or the line `...`.
fn first_text(text: &str, from: usize) -> Option<usize> {
    let mut rest = text.get(from..)?;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let is_comment = rest.starts_with('#');
        let is_marker = rest
            .strip_prefix("...")
            .is_some_and(|rest| rest.starts_with([' ', '\t', '\r', '\n']));
        if !is_comment && !is_marker {
            break;
        }
        rest = rest.find(['\r', '\n']).and_then(|end| rest.get(end..))?;
    }
    (!rest.is_empty()).then(|| text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::super::document::Node;

    const VALUES: [&str; 7] = [
        "{\"a\": [\"b\"], \"c\": \"# d\"}",
        "[a, b]",
        "\"a\"",
        "'a'",
        "{\r\n  a: b\r\n}",
        "{a: '}', b: \"}\"}",
        "&x {a: b}",
    ];

    fn error(text: &str) -> Option<String> {
        let error = Node::parse(text.as_bytes()).err()?;
        Some(error.to_string())
    }

    #[test]
    fn white_space_comments_and_markers_around_the_value_are_allowed() {
        let block = ["a: b", "- a", "a:\n- b", "a", "a: |\n  b"];
        for value in VALUES.into_iter().chain(block) {
            for before in [
                "",
                "\u{feff}",
                "---\n",
                "# c\n---\r\n",
                "%YAML 1.2\n---\n",
                "\n\n",
            ] {
                for after in [
                    "",
                    "\n",
                    "\r\n",
                    "\n...",
                    "\n...\n",
                    "\r\n...\r\n",
                    "\n\n# c\n",
                    "\n... # c\n# d",
                    "\n...\n...\n",
                    "\n  \n",
                    "\n# }, \"deny\": []",
                ] {
                    let text = format!("{before}{value}{after}");
                    assert_eq!(error(&text), None, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn anything_else_after_the_value_is_an_error() {
        let more = [
            ", \"deny\": [x]}",
            " garbage",
            "\n{\"deny\": [x]}",
            "\ndeny: [x]",
            "\n\"deny\": [x]",
            "\r\ndeny: [x]\r\n",
            "\n# c\ndeny: [x]",
            "\n- x",
            "\n&x",
            "\n*x",
            "\n!x",
            "\n|\n  x",
            "\n}",
            "\n]",
            "\n,",
            "\n? x",
            "\n@",
            "\n`",
            "\n%x",
            "\n\0",
            "\n\u{85}x",
            "\n\u{feff}",
            "\n\u{a0}",
            "\n---",
            "\n---\n",
            "\n---\ndeny: [x]",
            "\n--- x",
            "\n...\ndeny: [x]",
            "\n...\n{deny: [x]}",
            "\n...\n---\n",
            "\n...\n, x",
            "\n...\n}",
            "\n...\n@",
            "\n... x",
            "\n...\n\0",
            "\n...\n%YAML 1.2\n---\nx: y",
            "\n...\n...\nx",
            "\n...\n\t- x",
            "\n...\n\"x",
        ];
        for value in VALUES {
            for more in more {
                for before in ["", "---\n", "\u{feff}"] {
                    let text = format!("{before}{value}{more}");
                    assert!(error(&text).is_some(), "{text:?}");
                }
            }
        }
        let after_block = [
            "\n{\"deny\": [x]}",
            "\n\"deny\"",
            "\n- x",
            "\n}",
            "\n---\n",
            "\n---\ndeny: [x]",
            "\n...\ndeny: [x]",
            "\n...\n, x",
            "\n...\n}",
            "\n...\n@",
            "\n... x",
            "\n...\n\0",
            "\n\0",
            "\n...\n\"x",
        ];
        for more in after_block {
            let text = format!("a: b{more}");
            assert!(error(&text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn the_error_has_the_position_of_the_text_and_names_what_is_before_it() {
        let expected = |line, column, after| {
            format!(
                "line {line}, column {column}: there is more text after the {after}; the file must be one mapping"
            )
        };
        for (text, line, column, after) in [
            (
                "{\"allow\":[\"allUsers\"]}, \"deny\":[]}",
                1,
                23,
                "closing }",
            ),
            ("\u{feff}{a: b}, c", 1, 7, "closing }"),
            ("{a: b} # c\r\n\r\n  deny: [x]", 3, 3, "closing }"),
            ("{a: \u{e9}}\n|\n  x", 2, 1, "closing }"),
            ("[a]\nb", 2, 1, "closing ]"),
            ("'a'\nb: c", 2, 1, "closing quote"),
            ("a: b\n...\n# c\n, d", 4, 1, "value of the file"),
            ("|\n  a\nb", 3, 1, "value of the file"),
        ] {
            assert_eq!(error(text), Some(expected(line, column, after)), "{text:?}");
        }
    }
}
