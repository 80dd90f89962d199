//! Finds one member of a JSON object, in memory that is wiped.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

/// Returns the text in a member of a JSON object.
///
/// # Errors
///
/// Returns an error that states what is wrong, without quoting the content, if it is not a JSON object, or has no such member,
/// or several, or one that is not a text.
pub(crate) fn find_member(json: &[u8], name: &str) -> Result<Zeroizing<String>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let found = Member(name)
        .deserialize(&mut deserializer)
        .and_then(|found| deserializer.end().map(|()| found));
    // The message of an error may quote the content.
    let found = found.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let expected = if error.is_data() {
            format!("a JSON object with one member {name:?} that is a text")
        } else {
            "JSON".to_owned()
        };
        format!("expected {expected}: line {line}, column {column}")
    })?;
    found.ok_or_else(|| format!("the JSON object has no member {name:?}"))
}

struct Member<'n>(&'n str);

/// A text, borrowed unless it contains escape sequences.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<Zeroizing<String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<Zeroizing<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if key.0 != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                return Err(A::Error::custom("the member occurs twice"));
            } else {
                let text = map.next_value::<Text<'de>>()?;
                found = Some(Zeroizing::new(text.0.into_owned()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_one_member_is_found() {
        for json in [
            r#"{"token":"s3cr3t"}"#,
            r#" { "other" : {"token":"x"} , "token" : "s3cr3t" } "#,
            r#"{"\u0074oken":"s3cr\u0033t","other":[1]}"#,
        ] {
            assert_eq!(
                find_member(json.as_bytes(), "token").unwrap().as_str(),
                "s3cr3t"
            );
        }
    }

    #[test]
    fn anything_else_is_an_error_that_does_not_contain_the_content() {
        for json in [
            "",
            "s3cr3t",
            "\"s3cr3t\"",
            "[\"s3cr3t\"]",
            "null",
            r#"{"token":"s3cr3t""#,
            r#"{"token":"s3cr3t"}s3cr3t"#,
            r#"{"token":["s3cr3t"]}"#,
            r#"{"token":null,"other":"s3cr3t"}"#,
            r#"{"other":"s3cr3t"}"#,
            r#"{"token":"s3cr3t","token":"s3cr3t"}"#,
            r#"{"Token":"s3cr3t"}"#,
        ] {
            let error = find_member(json.as_bytes(), "token").unwrap_err();
            assert!(!error.contains("s3cr3t"), "{json}: {error}");
        }
    }
}
