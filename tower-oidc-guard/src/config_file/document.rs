//! Parses YAML or JSON into nodes, each with its position in the file.
//!
//! Fields and types are checked on the nodes ([`fields`](super::fields)), and not by deserializing into structs: so errors have
//! positions, and are in terms of the file and not of Rust.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};
use serde_saphyr::{Error, Location, Spanned};

use super::end::{self, Fault};
use super::error::{ContentError, Position};
use super::syntax;

/// How deeply lists and mappings may be nested: far more than policies need, and little enough for a small stack.
pub(super) const MAX_DEPTH: usize = 32;
/// The most values that aliases may stand for. Without a limit, a small file could describe more than fits into memory.
const MAX_ALIASED: usize = 100_000;

/// A value in a document, with the position at which it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) content: Content,
}

/// The content of a [`Node`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, in quotes or not.
    Text(String),
    /// A word or number without quotes that YAML reads as another type than text, with the text as written.
    Plain(Value, String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A field of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) name: String,
    pub(super) value: Node,
}

impl Node {
    /// Parses the content of a file.
    pub(super) fn parse(content: &[u8]) -> Result<Self, ContentError> {
        let text = match str::from_utf8(content) {
            Ok(text) => text,
            Err(error) => {
                let valid = content.get(..error.valid_up_to()).unwrap_or_default();
                let position = Position::at_end_of(&String::from_utf8_lossy(valid));
                return Err(ContentError::new(
                    position,
                    "the file is not UTF-8 text; save it as UTF-8",
                ));
            }
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let options = serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED },
        };
        let parsed: Spanned<Parsed> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                match (&error, end::check(text)) {
                    // A syntax error in a second document, such as a `,` after the line `...`.
                    (Error::ExternalMessage { .. }, Err(Fault::MoreText(error))) => error,
                    _ => syntax::content_error(&error, text),
                }
            })?;
        end::check(text)?;
        Ok(Self::from_parsed(parsed, text))
    }

    fn from_parsed(parsed: Spanned<Parsed>, source: &str) -> Self {
        let content = match parsed.value {
            Parsed::Null => Content::Null,
            Parsed::Text(text) => Content::Text(text),
            Parsed::Plain(value) => {
                let written = source_text(source, &parsed.defined);
                let written = written.map_or_else(|| value.to_string(), str::to_owned);
                Content::Plain(value, written)
            }
            Parsed::List(list) => {
                let nodes = list.into_iter();
                Content::List(nodes.map(|node| Self::from_parsed(node, source)).collect())
            }
            Parsed::Mapping(entries) => {
                let entry = |(name, value): (Spanned<String>, Spanned<Parsed>)| Entry {
                    position: Position::from(&name.referenced),
                    name: name.value,
                    value: Self::from_parsed(value, source),
                };
                Content::Mapping(entries.into_iter().map(entry).collect())
            }
        };
        Self {
            position: Position::from(&parsed.referenced),
            content,
        }
    }

    /// Returns the value in the JSON data model.
    pub(super) fn into_json(self) -> Value {
        match self.content {
            Content::Null => Value::Null,
            Content::Text(text) => Value::String(text),
            Content::Plain(value, _) => value,
            Content::List(list) => list.into_iter().map(Self::into_json).collect(),
            Content::Mapping(entries) => {
                let members = entries.into_iter();
                members
                    .map(|entry| (entry.name, entry.value.into_json()))
                    .collect()
            }
        }
    }
}

impl From<&Location> for Position {
    fn from(location: &Location) -> Self {
        Self {
            line: location.line().max(1),
            column: location.column().max(1),
        }
    }
}

/// Returns the text at a location of the source.
fn source_text<'s>(source: &'s str, location: &Location) -> Option<&'s str> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(length)?)?.trim();
    (!text.is_empty()).then_some(text)
}

/// The content of a node as the parser reports it.
enum Parsed {
    Null,
    Text(String),
    Plain(Value),
    List(Vec<Spanned<Self>>),
    Mapping(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ParsedVisitor;
        impl<'de> Visitor<'de> for ParsedVisitor {
            type Value = Parsed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Parsed, E> {
                Ok(Parsed::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
                Ok(Parsed::Plain(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
                Ok(Parsed::Plain(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
                Ok(Parsed::Plain(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
                let number = Number::from_f64(value);
                Ok(Parsed::Plain(number.map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Parsed, E> {
                Ok(Parsed::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Parsed, E> {
                Ok(Parsed::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Parsed, A::Error> {
                let mut list = Vec::new();
                while let Some(node) = sequence.next_element()? {
                    list.push(node);
                }
                Ok(Parsed::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Parsed::Mapping(entries))
            }
        }
        deserializer.deserialize_any(ParsedVisitor)
    }
}

#[cfg(test)]
pub(super) mod fuzz;
