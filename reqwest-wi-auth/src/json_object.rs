//! Reads JSON objects into structs. Shared with `tower-oidc-guard`, and not part of the public API.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A struct that is read from a JSON object, and from nothing else.
///
/// A derived `Deserialize` also accepts an array with the members in the order of the fields, which no specification of these
/// documents allows, and which other readers of the document would refuse.
#[derive(Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads a struct from a JSON object, for `deserialize_with`.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// Reads a struct from a JSON object, or `None` from `null`, for `deserialize_with`.
pub fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(value.map(|Object(value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer<'t> {
        #[serde(borrow)]
        text: &'t str,
        #[serde(deserialize_with = "object")]
        inner: Inner,
        #[serde(default, deserialize_with = "optional_object")]
        other: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        number: u8,
    }

    fn read(json: &str) -> Option<Outer<'_>> {
        let read: Result<Object<Outer<'_>>, _> = serde_json::from_str(json);
        read.ok().map(|Object(outer)| outer)
    }

    #[test]
    fn a_struct_is_read_from_an_object() {
        let expected = |other| Outer {
            text: "a",
            inner: Inner { number: 1 },
            other,
        };
        for (json, other) in [
            (r#"{"text":"a","inner":{"number":1}}"#, None),
            (
                r#" {"inner":{"number":1},"x":[{}],"text":"a","other":null} "#,
                None,
            ),
            (
                r#"{"text":"a","inner":{"number":1},"other":{"number":2}}"#,
                Some(Inner { number: 2 }),
            ),
        ] {
            assert_eq!(read(json), Some(expected(other)), "{json}");
        }
    }

    #[test]
    fn a_struct_is_not_read_from_an_array() {
        for json in [
            r#"["a",{"number":1},null]"#,
            r#"{"text":"a","inner":[1]}"#,
            r#"{"text":"a","inner":{"number":1},"other":[2]}"#,
            r#"{"text":"a","inner":null}"#,
            "null",
            "1",
            r#""a""#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
