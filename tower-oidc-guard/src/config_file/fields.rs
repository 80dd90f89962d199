//! Reads fields of a document, and describes those that are unknown, missing or of the wrong type.

use serde_json::Value;

use super::document::{Content, Entry, Node};
use super::error::{ContentError, Position, Positioned};
use crate::policy::is_similar;
use crate::text::{Escaped, excerpt};

/// The most characters of a text that an error quotes.
const MAX_QUOTED: usize = 100;

/// The fields of a mapping in the document.
pub(super) struct Fields {
    /// The position of the mapping.
    pub(super) position: Position,
    entries: Vec<Entry>,
}

/// A field with its value.
pub(super) struct Field {
    name: &'static str,
    /// The position of the name.
    position: Position,
    value: Node,
}

impl Fields {
    /// Reads a mapping whose fields are among `known`. `owner` names the mapping in errors: "the fields of …".
    pub(super) fn read(
        node: Node,
        owner: &str,
        known: &[&'static str],
    ) -> Result<Self, ContentError> {
        Self::read_with(node, owner, known, &[])
    }

    /// Reads a mapping that may also have `further` fields, which are too many to be listed in each error.
    pub(super) fn read_with(
        node: Node,
        owner: &str,
        known: &[&'static str],
        further: &[&'static str],
    ) -> Result<Self, ContentError> {
        let Content::Mapping(entries) = node.content else {
            let names = listed(known);
            let found = found(&node);
            let reason = format!(
                "expected fields, each as `name: value`, found {found}; the fields of {owner} are {names}"
            );
            return Err(ContentError::new(node.position, reason));
        };
        for entry in &entries {
            let mut all = known.iter().chain(further);
            if all.any(|name| *name == entry.name) {
                continue;
            }
            let all = known.iter().chain(further);
            let mut similar = all.filter(|name| is_similar(&entry.name, name));
            let hint = match similar.next() {
                Some(name) => format!("did you mean {}? The", Escaped(name)),
                None => "the".to_owned(),
            };
            let reason = format!(
                "unknown field {}; {hint} fields of {owner} are {}",
                quoted(&entry.name),
                listed(known)
            );
            return Err(ContentError::new(entry.position, reason));
        }
        Ok(Self {
            position: node.position,
            entries,
        })
    }

    /// Removes a field and returns it, or `None` if it is absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field> {
        let index = self.entries.iter().position(|entry| entry.name == name)?;
        let entry = self.entries.swap_remove(index);
        Some(Field {
            name,
            position: entry.position,
            value: entry.value,
        })
    }

    /// Returns the position of a field, or `None` if it is absent.
    pub(super) fn position_of(&self, name: &str) -> Option<Position> {
        let mut entries = self.entries.iter();
        entries
            .find(|entry| entry.name == name)
            .map(|entry| entry.position)
    }

    /// Removes a field and returns it. `advice` says what to do if it is absent.
    pub(super) fn take_required(
        &mut self,
        name: &'static str,
        advice: &str,
    ) -> Result<Field, ContentError> {
        self.take(name).ok_or_else(|| {
            ContentError::new(
                self.position,
                format!("the field `{name}` is missing; {advice}"),
            )
        })
    }
}

impl Field {
    /// Returns the position of the name.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Returns a value that is not null.
    pub(super) fn into_value(self) -> Result<Node, ContentError> {
        self.present().map(|field| field.value)
    }

    /// Returns the elements of a list, none of which is null. If it is null, `advice` is the error.
    pub(super) fn into_list(self, advice: &str) -> Result<Vec<Node>, ContentError> {
        let name = self.name;
        let list = match self.value.content {
            Content::Null => return Err(ContentError::new(self.position, advice)),
            Content::List(list) => list,
            _ => return Err(not_a_list(name, &self.value)),
        };
        match list.iter().find(|node| node.content == Content::Null) {
            Some(element) => {
                let advice = match name {
                    "allow" | "deny" | "members" => "write a member",
                    _ => "give it a value",
                };
                Err(ContentError::new(
                    element.position,
                    format!("an element of `{name}` is null; {advice}, or remove it"),
                ))
            }
            None => Ok(list),
        }
    }

    /// Returns the elements of a list with at least one element, none of which is null. If the list is null or empty, `advice`
    /// is the error.
    pub(super) fn into_non_empty_list(self, advice: &str) -> Result<Vec<Node>, ContentError> {
        let position = self.position;
        let list = self.into_list(advice)?;
        if list.is_empty() {
            return Err(ContentError::new(position, advice));
        }
        Ok(list)
    }

    /// Returns the elements of a list with at least one element, each of which is text.
    pub(super) fn into_texts(self, advice: &str) -> Result<Vec<Positioned<String>>, ContentError> {
        let name = self.name;
        let list = self.into_non_empty_list(advice)?.into_iter();
        list.map(|node| into_text(node, &format!("an element of `{name}`")))
            .collect()
    }

    /// Returns the entries of a mapping with at least one entry. If it is null or empty, `advice` is the error.
    pub(super) fn into_entries(self, advice: &str) -> Result<Vec<Entry>, ContentError> {
        match self.value.content {
            Content::Mapping(entries) if !entries.is_empty() => Ok(entries),
            Content::Null | Content::Mapping(_) => Err(ContentError::new(self.position, advice)),
            _ => Err(ContentError::new(
                self.value.position,
                format!(
                    "`{}` must be a mapping, found {}; write it as `{}: {{ name: value }}`",
                    self.name,
                    found(&self.value),
                    self.name
                ),
            )),
        }
    }

    pub(super) fn into_text(self) -> Result<Positioned<String>, ContentError> {
        let field = self.present()?;
        into_text(field.value, &format!("`{}`", field.name))
    }

    /// Returns a number of seconds.
    pub(super) fn into_seconds(self) -> Result<u64, ContentError> {
        self.into_number("seconds")
    }

    /// Returns whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.value.content, Content::List(_))
    }

    /// Returns the value, which is not null.
    pub(super) fn into_node(self) -> Result<Node, ContentError> {
        Ok(self.present()?.value)
    }

    /// Returns a whole number of these units.
    pub(super) fn into_number(self, unit: &str) -> Result<u64, ContentError> {
        let field = self.present()?;
        match &field.value.content {
            Content::Plain(Value::Number(number), _) if number.is_u64() => {
                Ok(number.as_u64().unwrap_or_default())
            }
            _ => Err(field.not_a(&format!("a whole number of {unit}, without quotes"))),
        }
    }

    pub(super) fn into_flag(self) -> Result<bool, ContentError> {
        let field = self.present()?;
        match field.value.content {
            Content::Plain(Value::Bool(flag), _) => Ok(flag),
            _ => Err(field.not_a("`true` or `false`, without quotes")),
        }
    }

    fn present(self) -> Result<Self, ContentError> {
        if self.value.content == Content::Null {
            let reason = format!("`{}` is null; give it a value, or leave it out", self.name);
            return Err(ContentError::new(self.position, reason));
        }
        Ok(self)
    }

    fn not_a(&self, expected: &str) -> ContentError {
        let found = found(&self.value);
        let reason = format!("`{}` must be {expected}; found {found}", self.name);
        ContentError::new(self.value.position, reason)
    }
}

/// Returns the text of a node. `what` names it in errors.
pub(super) fn into_text(node: Node, what: &str) -> Result<Positioned<String>, ContentError> {
    let position = node.position;
    match node.content {
        Content::Text(value) | Content::Plain(_, value) => Ok(Positioned { position, value }),
        Content::Null | Content::List(_) | Content::Mapping(_) => {
            let reason = format!("{what} must be text, found {}", found(&node));
            Err(ContentError::new(position, reason))
        }
    }
}

/// Returns the error for a field whose value should be a list, and how to write it.
fn not_a_list(name: &str, value: &Node) -> ContentError {
    let advice = match &value.content {
        Content::Text(text) | Content::Plain(_, text) if !text.contains('\n') => {
            format!("write `{name}: [{}]`", quoted(text))
        }
        _ => format!("write each element of `{name}` in a separate line that begins with `- `"),
    };
    let reason = format!("`{name}` must be a list, found {}; {advice}", found(value));
    ContentError::new(value.position, reason)
}

/// Returns a text in quotes, shortened to 100 characters, with everything but printable ASCII escaped.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => {
            let start = text.get(..end).unwrap_or_default();
            format!("{}\u{2026}", Escaped(start))
        }
        None => Escaped(text).to_string(),
    }
}

/// Describes a value.
pub(super) fn found(node: &Node) -> String {
    match &node.content {
        Content::Null => "no value".to_owned(),
        Content::Text(text) => format!("the text {}", quoted(text)),
        Content::Plain(Value::Number(_), written) => format!("the number {}", excerpt(written)),
        Content::Plain(_, written) => format!("the truth value {}", excerpt(written)),
        Content::List(_) => "a list".to_owned(),
        Content::Mapping(entries) => match entries.first() {
            Some(entry) => format!("a mapping with the field {}", quoted(&entry.name)),
            None => "an empty mapping".to_owned(),
        },
    }
}

/// Lists names in a sentence.
pub(super) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => format!("`{name}`"),
        [names @ .., last] => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("{} and `{last}`", names.join(", "))
        }
    }
}
