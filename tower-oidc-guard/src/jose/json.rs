//! JSON (RFC 8259) as tokens carry it: read in one pass, without recursion, and with few copies.
//!
//! Members and elements are taken as raw text, and each text is interpreted by its first byte. The result
//! therefore does not depend on the features that another crate of the build enables in `serde_json`: with
//! `arbitrary_precision`, for instance, a `Value` represents numbers in another way, and objects with certain
//! member names become numbers.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::Deserializer as _;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// The deepest nesting that is turned into a [`Value`], the outermost object included: the limit that `serde_json`
/// has by default. Nesting costs stack only there.
const MAX_VALUE_DEPTH: usize = 128;

/// The text is not what was expected: not JSON, not of the expected type, or not allowed in a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unexpected;

/// Reads an object, and calls `member` for each of its members in order.
///
/// The whole text is checked: it is UTF-8, it is one JSON object with nothing but white space after it, no name
/// stands in it twice, and no string in it, however deeply nested, holds half of a surrogate pair. Time grows with
/// the length of the text, times the logarithm of the number of members.
pub(super) fn read_object<'p>(
    json: &'p [u8],
    mut member: impl FnMut(&str, &'p RawValue),
) -> Result<(), Unexpected> {
    let text = str::from_utf8(json).map_err(|_| Unexpected)?;
    let mut names = Vec::new();
    members(text, |name, value| {
        member(&name, value);
        names.push(name);
    })?;
    if has_lone_surrogate(text) || has_repeated(&mut names) {
        return Err(Unexpected);
    }
    Ok(())
}

/// Calls `member` for each member of an object that was checked by [`read_object`].
pub(super) fn members<'p>(
    json: &'p str,
    member: impl FnMut(Cow<'p, str>, &'p RawValue),
) -> Result<(), Unexpected> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = deserializer.deserialize_map(Members(member));
    read.and_then(|()| deserializer.end())
        .map_err(|_| Unexpected)
}

/// Calls `element` for each element of an array.
pub(super) fn elements<'p>(
    json: &'p str,
    element: impl FnMut(&'p RawValue),
) -> Result<(), Unexpected> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = deserializer.deserialize_seq(Elements(element));
    read.and_then(|()| deserializer.end())
        .map_err(|_| Unexpected)
}

/// Returns the string that a value is. It borrows from the text unless that has escapes.
pub(super) fn string(value: &RawValue) -> Result<Cow<'_, str>, Unexpected> {
    let quoted = value.get();
    let inside = quoted.strip_prefix('"').ok_or(Unexpected)?;
    let inside = inside.strip_suffix('"').ok_or(Unexpected)?;
    if memchr(b'\\', inside.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(inside));
    }
    let text: Text<'_> = serde_json::from_str(quoted).map_err(|_| Unexpected)?;
    Ok(text.0)
}

/// Returns the text of the number that a value is.
pub(super) fn number(value: &RawValue) -> Result<&str, Unexpected> {
    match value.get() {
        text if text.starts_with(is_start_of_number) => Ok(text),
        _ => Err(Unexpected),
    }
}

/// Returns whether a JSON text is equal to a value.
///
/// Integers that fit 64 bits are compared exactly, other numbers as `f64`; an integer and a number with a fraction or
/// an exponent are different. Objects are compared whatever the order of their members.
pub(super) fn equals(json: &str, value: &Value) -> bool {
    let starts_with = |byte: u8| json.as_bytes().first() == Some(&byte);
    match value {
        Value::Null => json == "null",
        Value::Bool(value) => json == if *value { "true" } else { "false" },
        Value::Number(number) => {
            json.starts_with(is_start_of_number)
                && Numeric::parse(json).is_some_and(|own| own.is(number))
        }
        Value::String(text) => {
            starts_with(b'"')
                && serde_json::from_str::<Text<'_>>(json).is_ok_and(|own| own.0 == *text)
        }
        Value::Array(values) => {
            let (mut expected, mut are_equal) = (values.iter(), starts_with(b'['));
            let read = elements(json, |element| {
                let next = expected.next();
                are_equal &= next.is_some_and(|next| equals(element.get(), next));
            });
            read.is_ok() && are_equal && expected.next().is_none()
        }
        Value::Object(expected) => {
            let (mut found, mut are_equal) = (0, starts_with(b'{'));
            let read = read_object(json.as_bytes(), |name, member| {
                let value = expected.get(name);
                found += 1;
                are_equal &= value.is_some_and(|value| equals(member.get(), value));
            });
            read.is_ok() && are_equal && found == expected.len()
        }
    }
}

/// Returns an object as a map.
///
/// # Errors
///
/// If it is nested more than [`MAX_VALUE_DEPTH`] levels deep, or holds a number that an `f64` cannot hold.
pub(super) fn to_map(json: &[u8]) -> Result<Map<String, Value>, Unexpected> {
    let text = str::from_utf8(json).map_err(|_| Unexpected)?;
    to_map_within(text, MAX_VALUE_DEPTH)
}

fn to_map_within(json: &str, depth: usize) -> Result<Map<String, Value>, Unexpected> {
    let depth = depth.checked_sub(1).ok_or(Unexpected)?;
    let (mut map, mut are_sound) = (Map::new(), true);
    members(json, |name, member| {
        if are_sound {
            let value = to_value(member, depth);
            are_sound = value.is_ok();
            map.extend(value.ok().map(|value| (name.into_owned(), value)));
        }
    })?;
    are_sound.then_some(map).ok_or(Unexpected)
}

fn to_value(value: &RawValue, depth: usize) -> Result<Value, Unexpected> {
    let json = value.get();
    Ok(match json.as_bytes().first() {
        Some(b'n') => Value::Null,
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'"') => Value::String(string(value)?.into_owned()),
        Some(b'{') => Value::Object(to_map_within(json, depth)?),
        Some(b'[') => {
            let depth = depth.checked_sub(1).ok_or(Unexpected)?;
            let (mut values, mut are_sound) = (Vec::new(), true);
            elements(json, |element| {
                if are_sound {
                    let value = to_value(element, depth);
                    are_sound = value.is_ok();
                    values.extend(value);
                }
            })?;
            Value::Array(are_sound.then_some(values).ok_or(Unexpected)?)
        }
        _ => Numeric::parse(json).ok_or(Unexpected)?.into(),
    })
}

/// A number as `serde_json` has it without `arbitrary_precision`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Numeric {
    Unsigned(u64),
    Negative(i64),
    Float(f64),
}

impl Numeric {
    /// Reads the text of a JSON number; returns `None` if it is beyond the range of `f64`.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self::Unsigned(number));
        }
        match text.parse() {
            // As with `serde_json`, -0 is no integer.
            Ok(0) | Err(_) => {}
            Ok(number) => return Some(Self::Negative(number)),
        }
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.map(Self::Float)
    }

    fn is(self, number: &Number) -> bool {
        Self::parse(&number.to_string()) == Some(self)
    }
}

impl From<Numeric> for Value {
    fn from(number: Numeric) -> Self {
        match number {
            Numeric::Unsigned(number) => number.into(),
            Numeric::Negative(number) => number.into(),
            Numeric::Float(number) => number.into(),
        }
    }
}

fn is_start_of_number(character: char) -> bool {
    character == '-' || character.is_ascii_digit()
}

/// A string that borrows from its input unless an escape is in the way.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            (self.0)(name, map.next_value()?);
        }
        Ok(())
    }
}

struct Elements<F>(F);

impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            (self.0)(element);
        }
        Ok(())
    }
}

/// Returns whether a name occurs twice. Sorting needs no memory, and no choice of names makes it slow.
fn has_repeated(names: &mut [Cow<'_, str>]) -> bool {
    names.sort_unstable();
    names
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a == b))
}

/// Returns whether a JSON text has an escape for one half of a surrogate pair without the other. Backslashes occur in
/// its strings only.
fn has_lone_surrogate(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some(at) = memchr(b'\\', rest) {
        rest = rest.get(at..).unwrap_or_default();
        rest = match code_unit(rest) {
            None => rest.get(2..).unwrap_or_default(),
            Some((0xd800..=0xdbff, next)) => match code_unit(next) {
                Some((0xdc00..=0xdfff, next)) => next,
                _ => return true,
            },
            Some((0xdc00..=0xdfff, _)) => return true,
            Some((_, next)) => next,
        };
    }
    false
}

/// Returns the code unit of a `\uXXXX` at the start of a text, and the text after it.
fn code_unit(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.strip_prefix(br"\u")?;
    let (digits, rest) = digits.split_at_checked(4)?;
    let digits = str::from_utf8(digits).ok()?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(json: &str) -> Result<Vec<(String, String)>, Unexpected> {
        let mut read = Vec::new();
        read_object(json.as_bytes(), |name, value| {
            read.push((name.to_owned(), value.get().to_owned()));
        })?;
        Ok(read)
    }

    #[test]
    fn members_are_read_in_order_as_raw_text() {
        let members = read(" {\"a\" : 1.50, \"\\u0062\":[ {} ] }\n").expect("an object");
        let members: Vec<_> = members.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(members, [("a", "1.50"), ("b", "[ {} ]")]);
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for json in [
            "",
            "[]",
            "1",
            "null",
            r#""a""#,
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            r#"{"a":01}"#,
            r#"{"a":"	"}"#,
            r#"{"a":1}{}"#,
            r#"{"a":1} x"#,
            "\u{feff}{}",
            "{\"a\":[\"\u{1}\"]}",
            r#"{"a":[1}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a":+1}"#,
            r#"{"a":NaN}"#,
        ] {
            assert_eq!(read(json), Err(Unexpected), "{json}");
        }
    }

    #[test]
    fn the_second_of_a_name_is_refused_among_any_number_of_names() {
        for count in [1, 2, 20, 1000] {
            let names: Vec<_> = (0..count).map(|n| format!(r#""n{n}":0"#)).collect();
            let names = names.join(",");
            assert_eq!(
                read(&format!("{{{names}}}")).map(|read| read.len()),
                Ok(count)
            );
            for repeated in ["n0", r"\u006e0", &format!("n{}", count - 1)] {
                let json = format!(r#"{{{names},"{repeated}":0}}"#);
                assert_eq!(read(&json), Err(Unexpected), "{repeated} of {count}");
            }
        }
        assert!(
            read(r#"{"a":{"b":1,"c":2},"b":1}"#).is_ok(),
            "other objects"
        );
    }

    #[test]
    fn half_a_surrogate_pair_is_refused_wherever_it_stands() {
        for lone in [
            r"\ud800",
            r"\udc00",
            r"\uDBFF",
            r"\udfff",
            r"\ud800\ud800",
            r"\udc00\ud800",
            r"\ud800x\udc00",
            r"\ud83d\n",
            r"\\\ud800",
        ] {
            for json in [
                format!(r#"{{"a":"{lone}"}}"#),
                format!(r#"{{"{lone}":1}}"#),
                format!(r#"{{"a":[{{"b":["x{lone}y"]}}]}}"#),
                format!(r#"{{"a":{{"{lone}":1}}}}"#),
            ] {
                assert_eq!(read(&json), Err(Unexpected), "{json}");
            }
        }
        for sound in [
            r"\ud83d\ude00",
            r"\\ud800",
            r"\\\\ud800",
            r"\u00e4",
            r"\ud7ff\ue000",
        ] {
            assert!(read(&format!(r#"{{"a":["{sound}"]}}"#)).is_ok(), "{sound}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_refused_wherever_they_stand() {
        for before in ["{\"a\":\"", "{\"", "{\"a\":[{\"b\":\"", "{\"a\":{\""] {
            let json = [before.as_bytes(), b"\xe9"].concat();
            let json = [&json[..], b"\":1}"].concat();
            assert_eq!(read_object(&json, |_, _| {}), Err(Unexpected), "{before}");
        }
    }

    #[test]
    fn any_depth_is_read_and_a_map_is_made_of_128_levels() {
        let nested =
            |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(50_000)).is_ok());
        assert!(to_map(nested(127).as_bytes()).is_ok());
        assert_eq!(to_map(nested(128).as_bytes()), Err(Unexpected));
        assert_eq!(to_map(nested(50_000).as_bytes()), Err(Unexpected));
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        for (json, value, expected) in [
            ("null", json!(null), true),
            ("true", json!(true), true),
            ("false", json!(true), false),
            (r#""a\u0062""#, json!("ab"), true),
            (r#""ab""#, json!("a"), false),
            ("1", json!("1"), false),
            ("1.5", json!(1.5), true),
            ("1.50", json!(1.5), true),
            ("15e-1", json!(1.5), true),
            ("1e3", json!(1000.0), true),
            ("1000", json!(1000), true),
            ("1000", json!(1000.0), false),
            ("1.0", json!(1), false),
            ("-1", json!(-1), true),
            ("0", json!(0), true),
            ("18446744073709551615", json!(u64::MAX), true),
            ("18446744073709551614", json!(u64::MAX), false),
            ("9007199254740993", json!(9_007_199_254_740_992_u64), false),
            ("-9223372036854775808", json!(i64::MIN), true),
            ("1e400", json!(f64::MAX), false),
            ("[1, 2]", json!([1, 2]), true),
            ("[1]", json!([1, 2]), false),
            ("[1,2,3]", json!([1, 2]), false),
            ("[]", json!({}), false),
            (
                r#"{"b":[1.50],"a":null}"#,
                json!({ "a": null, "b": [1.5] }),
                true,
            ),
            (r#"{"a":null}"#, json!({ "a": null, "b": 1 }), false),
            (r#"{"a":null,"b":1}"#, json!({ "a": null }), false),
            (r#"{"a":1,"a":1}"#, json!({ "a": 1 }), false),
            // Names by which `serde_json` marks its own types.
            (
                r#"{"$serde_json::private::Number":"1.5"}"#,
                json!(1.5),
                false,
            ),
            (
                r#"{"$serde_json::private::RawValue":"\"a\""}"#,
                json!("a"),
                false,
            ),
        ] {
            assert_eq!(equals(json, &value), expected, "{json} and {value}");
        }
    }

    #[test]
    fn a_map_holds_what_the_text_says() {
        let json = br#"{"a":[1.50,-2,3,1e3,"\n",null,true,{}],"$serde_json::private::Number":"1"}"#;
        let expected = json!({
            "a": [1.5, -2, 3, 1000.0, "\n", null, true, {}],
            "$serde_json::private::Number": "1",
        });
        assert_eq!(to_map(json).map(Value::Object), Ok(expected));
        let marked = br#"{"a":{"$serde_json::private::RawValue":"true"}}"#;
        let map = to_map(marked).expect("an object");
        assert!(map["a"].is_object(), "{map:?}");
        assert_eq!(to_map(br#"{"a":1e400}"#), Err(Unexpected));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e15..1e15_f64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |value| {
            let members = prop::collection::hash_map(any::<String>(), value.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(value, 0..6).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn any_object_is_read_compared_and_turned_into_a_map_as_it_was_written() {
        proptest!(|(values in prop::collection::hash_map(any::<String>(), any_value(), 0..6))| {
            let written = Value::Object(values.into_iter().collect());
            let json = written.to_string();
            prop_assert!(read(&json).is_ok());
            prop_assert!(equals(&json, &written));
            let map = to_map(json.as_bytes()).map(Value::Object);
            prop_assert_eq!(map.as_ref(), Ok(&written));
        });
    }

    #[test]
    fn what_serde_json_does_not_read_is_not_read_here_either() {
        proptest!(|(value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>())| {
            let mut json = format!(r#"{{"a":{value}}}"#).into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            let is_read = serde_json::from_slice::<Map<String, Value>>(&json).is_ok();
            // Repeated names, and numbers that no `f64` holds, are where the two differ.
            match read_object(&json, |_, _| {}) {
                Ok(()) => prop_assert!(is_read || to_map(&json).is_err()),
                Err(Unexpected) => {
                    let text = String::from_utf8_lossy(&json);
                    prop_assert!(!is_read || text.matches("\":").count() > 1, "{}", text);
                }
            }
        });
    }
}
