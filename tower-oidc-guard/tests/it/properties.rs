//! Properties that hold for any input.
//!
//! The JSON in tokens is compared with `serde_json`: generated texts have escapes, surrogate pairs and halves of them,
//! numbers, nesting, repeated names and white space, and are mutated by truncation and by changed, inserted and deleted
//! bytes.

use std::cell::Cell;
use std::fmt;

use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tower_oidc_guard::{TokenError, TokenVerifier, VerifyError};

use crate::support::signer::{Signer, base64url, jwk_set};
use crate::support::{HEADER, claims, guard_with_keys};

/// Creates a verifier that has fetched its keys, the signer that it trusts, and a runtime for it.
fn verifier() -> (Runtime, TokenVerifier, Signer) {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(guard.ready()).unwrap();
    (runtime, guard.verifier().clone(), signer)
}

#[test]
fn arbitrary_bytes_are_rejected_without_a_panic() {
    let (runtime, verifier, _) = verifier();
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..2000))| {
        prop_assert!(runtime.block_on(verifier.verify(&bytes)).is_err());
    });
}

#[test]
fn arbitrary_token_parts_are_rejected_without_a_panic() {
    let (runtime, verifier, _) = verifier();
    proptest!(|(header in ".{0,200}", payload in ".{0,400}", signature in prop::collection::vec(any::<u8>(), 0..100))| {
        let parts = [header.as_bytes(), payload.as_bytes(), &signature].map(base64url);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
        let parts = [HEADER.as_bytes(), payload.as_bytes(), &signature].map(base64url);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
        let parts = [HEADER.as_bytes(), claims(json!({})).as_bytes(), &signature].map(base64url);
        prop_assert!(runtime.block_on(verifier.verify(parts.join("."))).is_err());
    });
}

#[test]
fn token_with_any_bit_flipped_is_rejected() {
    let (runtime, verifier, signer) = verifier();
    let token = signer.sign(HEADER, &claims(json!({}))).into_bytes();
    assert!(runtime.block_on(verifier.verify(&token)).is_ok());
    for bit in 0..token.len() * 8 {
        let mut changed = token.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(
            runtime.block_on(verifier.verify(&changed)).is_err(),
            "bit {bit}"
        );
    }
}

#[test]
fn claims_round_trip_through_verification() {
    let (runtime, verifier, signer) = verifier();
    proptest!(|(extra in prop::collection::hash_map("[a-z]{4,12}", ".{0,50}", 0..10), count in any::<i64>())| {
        let mut changes: Map<String, Value> =
            extra.into_iter().map(|(name, text)| (format!("x-{name}"), text.into())).collect();
        changes.insert("count".to_owned(), count.into());
        let sent = claims(Value::Object(changes));
        let identity = runtime.block_on(verifier.verify(signer.sign(HEADER, &sent))).unwrap();
        let received: Value = identity.claims().unwrap();
        prop_assert_eq!(received, serde_json::from_str::<Value>(&sent).unwrap());
    });
}

#[test]
fn payloads_are_parsed_exactly_if_serde_json_parses_them_without_repeated_names() {
    let (runtime, verifier, signer) = verifier();
    let counts = Counts::default();
    let config = ProptestConfig::with_cases(3000);
    proptest!(config, |(members in members(), first in any::<bool>(), mutation in mutation())| {
        let valid = claims(json!({}));
        let payload = mutation.apply(splice(&valid, &members, first).into_bytes());
        let Some(is_json) = is_object_with_unique_names(&payload) else { return Ok(()) };
        counts.add(is_json);
        let token = signer.sign_bytes(HEADER.as_bytes(), &payload);
        let verified = runtime.block_on(verifier.verify(token));
        let malformed = Some(VerifyError::InvalidToken(TokenError::Malformed("the claims")));
        prop_assert_eq!(verified.as_ref().err().copied() != malformed, is_json, "{:?}", verified);
        if mutation.is_none() {
            prop_assert_eq!(verified.is_ok(), is_json, "{:?}", verified);
        }
        if let Ok(identity) = verified {
            let expected: Value = serde_json::from_slice(&payload).unwrap();
            prop_assert_eq!(identity.claims::<Value>().unwrap(), expected);
        }
    });
    counts.assert_both();
}

#[test]
fn headers_are_parsed_exactly_if_serde_json_parses_them_without_repeated_names() {
    let signer = Signer::new();
    let keys = jwk_set(&[signer.jwk()]);
    let counts = Counts::default();
    let config = ProptestConfig::with_cases(3000);
    proptest!(config, |(members in members(), first in any::<bool>(), mutation in mutation())| {
        let header = mutation.apply(splice(HEADER, &members, first).into_bytes());
        let Some(is_json) = is_object_with_unique_names(&header) else { return Ok(()) };
        counts.add(is_json);
        let verified = keys.verify_jws(signer.sign_bytes(&header, b"any payload"));
        if mutation.is_none() {
            prop_assert_eq!(verified.is_ok(), is_json, "{:?}", verified);
        }
        if !is_json {
            prop_assert_eq!(verified.err(), Some(TokenError::Malformed("the header")));
        }
    });
    counts.assert_both();
}

/// The number of accepted and rejected texts, so that a property that covers only one of them fails.
#[derive(Default)]
struct Counts {
    json: Cell<usize>,
    other: Cell<usize>,
}

impl Counts {
    fn add(&self, is_json: bool) {
        let count = if is_json { &self.json } else { &self.other };
        count.set(count.get() + 1);
    }

    fn assert_both(&self) {
        let counts = (self.json.get(), self.other.get());
        assert!(counts.0 > 200 && counts.1 > 200, "{counts:?}");
    }
}

/// Returns whether a text is a JSON object whose names are unique at its top level, according to `serde_json`.
///
/// Returns `None` for a number out of range, which `serde_json` rejects only because it converts it.
fn is_object_with_unique_names(text: &[u8]) -> Option<bool> {
    match serde_json::from_slice(text) {
        Ok(Names(mut names)) => {
            let count = names.len();
            names.sort();
            names.dedup();
            Some(names.len() == count)
        }
        Err(error) if error.to_string().contains("out of range") => None,
        Err(_) => Some(false),
    }
}

/// The names of an object, repeated ones included. Its values are converted, so that their strings are decoded.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor;

        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, _)) = map.next_entry::<String, Value>()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_map(NamesVisitor)
    }
}

/// Adds members to the text of an object, at its start or its end.
fn splice(object: &str, members: &[String], first: bool) -> String {
    let inside = &object[1..object.len() - 1];
    let mut all = members.to_vec();
    all.insert(if first { members.len() } else { 0 }, inside.to_owned());
    format!("{{{}}}", all.join(","))
}

/// Generates the texts of members, of which a few are not valid JSON.
fn members() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![
        // Names that are often repeated, with and without an escape.
        2 => prop::sample::select(vec![r#""a""#, r#""\u0061""#, r#""b""#, r#""""#, r#""iss""#])
            .prop_map(str::to_owned),
        6 => string(),
    ];
    let member = (white_space(), name, white_space(), json_text())
        .prop_map(|(before, name, after, value)| format!("{before}{name}{after}:{value}"));
    prop::collection::vec(member, 0..5)
}

/// Generates the text of a JSON value, with white space around it.
fn json_text() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec!["null", "true", "false"]).prop_map(str::to_owned);
    let number = r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?";
    let invalid = prop::sample::select(vec![
        "",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "0x1",
        "NaN",
        "Infinity",
        "nul",
        "True",
        "'a'",
        "[1,]",
        r#"{"a":1,}"#,
        "{a:1}",
        "[1 2]",
        r#"["a" "b"]"#,
        "// comment\n1",
        "\u{a0}1",
        "\u{b}1",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        20 => literal,
        40 => number,
        40 => string(),
        1 => invalid,
    ];
    let value = leaf.prop_recursive(5, 24, 5, |inner| {
        let padded = (white_space(), inner, white_space())
            .prop_map(|(before, value, after)| format!("{before}{value}{after}"))
            .boxed();
        let member = (white_space(), string(), white_space(), padded.clone())
            .prop_map(|(before, name, after, value)| format!("{before}{name}{after}:{value}"));
        prop_oneof![
            prop::collection::vec(padded, 0..5)
                .prop_map(|elements| format!("[{}]", elements.join(","))),
            prop::collection::vec(member, 0..5)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    });
    (white_space(), value, white_space())
        .prop_map(|(before, value, after)| format!("{before}{value}{after}"))
}

/// Generates the text of a JSON string, of which a few have an invalid escape, a raw control character or half of a
/// surrogate pair.
fn string() -> impl Strategy<Value = String> {
    let plain = any::<char>()
        .prop_filter("needs an escape", |&character| {
            character >= ' ' && character != '"' && character != '\\'
        })
        .prop_map(|character| character.to_string());
    let short = prop::sample::select(vec![
        r"\n", r"\t", r"\r", r"\b", r"\f", r"\/", r"\\", r#"\""#,
    ])
    .prop_map(str::to_owned);
    let unit = (0..=0xffff_u32)
        .prop_filter("a surrogate", |unit| !(0xd800..=0xdfff).contains(unit))
        .prop_map(|unit| format!("\\u{unit:04x}"));
    let pair = (0xd800..=0xdbff_u32, 0xdc00..=0xdfff_u32)
        .prop_map(|(high, low)| format!("\\u{high:04X}\\u{low:04x}"));
    let half = (0xd800..=0xdfff_u32).prop_map(|unit| format!("\\u{unit:04x}"));
    let invalid = prop::sample::select(vec![
        r"\x", r"\u12", r"\uzzzz", r"\u 123", r"\U0041", "\n", "\0", "\t", "\u{1f}",
    ])
    .prop_map(str::to_owned);
    let piece = prop_oneof![
        120 => plain,
        40 => short,
        40 => unit,
        20 => pair,
        1 => half,
        1 => invalid,
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn white_space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

/// A change of a text.
#[derive(Debug, Clone)]
enum Mutation {
    None,
    Truncate(Index),
    Replace(Index, u8),
    Flip(Index, u8),
    Insert(Index, u8),
    Delete(Index),
    Repeat(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    // Bytes that have a meaning in JSON, and any others.
    let byte = || {
        prop_oneof![
            prop::sample::select(br#"{}[]:,"\ue-0. "#.to_vec()),
            any::<u8>()
        ]
    };
    prop_oneof![
        6 => Just(Mutation::None),
        1 => index().prop_map(Mutation::Truncate),
        1 => (index(), byte()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        1 => (index(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => (index(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => index().prop_map(Mutation::Delete),
        1 => (index(), index()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

impl Mutation {
    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    fn apply(&self, mut text: Vec<u8>) -> Vec<u8> {
        let length = text.len();
        match self {
            Self::None => {}
            // A token with an empty part is rejected before its JSON is read.
            Self::Truncate(at) => text.truncate(at.index(length) + 1),
            Self::Replace(at, byte) => text[at.index(length)] = *byte,
            Self::Flip(at, bit) => text[at.index(length)] ^= 1 << bit,
            Self::Insert(at, byte) => text.insert(at.index(length), *byte),
            Self::Delete(at) => {
                text.remove(at.index(length));
            }
            Self::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = text[from.min(to)..from.max(to)].to_vec();
                text.splice(to..to, part);
            }
        }
        text
    }
}
