//! Edits of valid documents: of their bytes, and of the structure of JSON.

use std::fmt;

use bolero::TypeGenerator;
use bolero::generator::produce;
use serde_json::Value;

/// Texts that have a meaning in one of the formats.
const FRAGMENTS: &[&str] = &[
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    ".",
    "=",
    "-",
    "_",
    "+",
    "/",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\0",
    "#",
    "&",
    "*",
    "|",
    ">",
    "'",
    "%",
    "!",
    "?",
    "~",
    ";",
    "\u{feff}",
    "\u{a0}",
    "\u{e9}",
    "\u{2028}",
    "\\u0061",
    "\\ud800",
    "\\udc00",
    "\\u0000",
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "1e5",
    "1e400",
    "18446744073709551616",
    "0.1",
    "{}",
    "[]",
    "\"\"",
    ": ",
    "- ",
    "---\n",
    "...\n",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "!!binary ",
    "? ",
    "Bearer ",
    "bearer",
    "Basic ",
    "access_token",
    "access%5Ftoken=",
    "%41",
    "-----BEGIN PUBLIC KEY-----\n",
    "-----END PUBLIC KEY-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----BEGIN CERTIFICATE-----\n",
    "\u{1b}[31m",
    "AAAA",
    "eyJhbGciOiJub25lIn0",
    "e30",
    "T",
    "Z",
    "+00:00",
    "-23:59",
    "GMT",
];

/// Names of members.
const NAMES: &[&str] = &[
    "alg",
    "kid",
    "typ",
    "cty",
    "crit",
    "b64",
    "zip",
    "enc",
    "jwk",
    "jku",
    "x5c",
    "x5u",
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "cnf",
    "scope",
    "scp",
    "kubernetes.io",
    "email",
    "email_verified",
    "azp",
    "nonce",
    "keys",
    "kty",
    "crv",
    "n",
    "e",
    "x",
    "y",
    "d",
    "use",
    "key_ops",
    "issuer",
    "jwks_uri",
    "id_token_signing_alg_values_supported",
    "token_endpoint",
    "",
    "a",
    "A",
    "alg ",
    "__proto__",
    "status",
    "token",
    "error",
    "message",
    "kind",
    "apiVersion",
    "allow",
    "deny",
    "audiences",
    "claims",
    "scopes",
    "issuers",
    "members",
    "prefix",
    "type",
    "expires_in",
    "access_token",
    "token_type",
];

/// Texts that are values in one of the formats.
const WORDS: &[&str] = &[
    "RS256",
    "PS256",
    "ES256",
    "ES384",
    "EdDSA",
    "Ed25519",
    "HS256",
    "none",
    "None",
    "es256",
    "e",
    "d",
    "other",
    "JWT",
    "jwt",
    "application/jwt",
    "application/JWT",
    "at+jwt",
    "JOSE",
    "https://issuer.example",
    "https://issuer.example/",
    "http://issuer.example",
    "HTTPS://ISSUER.EXAMPLE",
    "https://auth-server.example",
    "https://auth-server.example/",
    "caller",
    "admin",
    "RSA",
    "EC",
    "OKP",
    "oct",
    "P-256",
    "P-384",
    "P-521",
    "Ed448",
    "sig",
    "enc",
    "verify",
    "sign",
    "AQAB",
    "AAAA",
    "AA",
    "AB",
    "A",
    "",
    "https://keys.example/jwks",
    "file:///etc/passwd",
    "https://user:password@keys.example/",
    "javascript:alert(1)",
    "Bearer",
    "bearer",
    "N_A",
    "TokenReview",
    "Status",
    "ExecCredential",
    "system:serviceaccount:shop:web",
    "system:serviceaccounts:shop",
    "system:serviceaccounts",
    "system:authenticated",
    "allUsers",
    "allAuthenticatedUsers",
    "user:a@example.com",
    "principal:https://issuer.example#caller",
    "system:serviceaccount:shop:*",
    "2026-11-26T16:00:00Z",
    "true",
    "3600",
];

/// Texts of numbers. [`NOW`] is 1,800,000,000.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "1799999999",
    "1800000000",
    "1800000001",
    "1800000600",
    "1800000000.5",
    "1.8e9",
    "18e8",
    "1800000000.0000001",
    "1E400",
    "1e400",
    "-1e400",
    "1e-400",
    "-1e-400",
    "1e19",
    "2e19",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "253402300800",
    "0.1",
    "-0.1",
    "1e308",
    "1e309",
    "9007199254740993",
];

/// Texts that are not JSON, or only nearly.
const NOT_JSON: &[&str] = &[
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
    "{\"a\":1,}",
    "{a:1}",
    "[1 2]",
    "// c\n1",
    "\u{a0}1",
    "\u{b}1",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\n\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"",
    "{",
    "[",
    "{}{}",
    "\"\\U0041\"",
];

/// The time that clocks of the targets show, in seconds since the Unix epoch.
pub(crate) const NOW: u64 = 1_800_000_000;

fn pick<'t>(list: &[&'t str], index: u8) -> &'t str {
    list[usize::from(index) % list.len()]
}

/// An edit of bytes.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) enum ByteEdit {
    Delete { at: u16, length: u8 },
    Truncate { at: u16 },
    Replace { at: u16, byte: u8 },
    Flip { at: u16, bit: u8 },
    Insert { at: u16, fragment: u8 },
    InsertBytes { at: u16, bytes: [u8; 2] },
    Move { from: u16, length: u8, to: u16 },
    Repeat { from: u16, length: u8, times: u8 },
}

impl ByteEdit {
    /// Applies edits in order.
    pub(crate) fn apply_all(edits: &[Self], bytes: impl Into<Vec<u8>>) -> Vec<u8> {
        edits
            .iter()
            .fold(bytes.into(), |bytes, edit| edit.apply(bytes))
    }

    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        // Positions up to the length itself, so that text can be appended.
        let position = |at: u16| usize::from(at) % (bytes.len() + 1);
        let range = |at: u16, length: u8| {
            let start = position(at);
            start..bytes.len().min(start + usize::from(length))
        };
        match *self {
            Self::Delete { at, length } => drop(bytes.drain(range(at, length))),
            Self::Truncate { at } => bytes.truncate(position(at)),
            Self::Replace { at, byte } => {
                let at = position(at);
                bytes.splice(at..bytes.len().min(at + 1), [byte]);
            }
            Self::Flip { at, bit } => {
                let at = position(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::Insert { at, fragment } => {
                let at = position(at);
                bytes.splice(at..at, pick(FRAGMENTS, fragment).bytes());
            }
            Self::InsertBytes {
                at,
                bytes: inserted,
            } => {
                let at = position(at);
                bytes.splice(at..at, inserted);
            }
            Self::Move { from, length, to } => {
                let moved: Vec<u8> = bytes.drain(range(from, length)).collect();
                let to = usize::from(to) % (bytes.len() + 1);
                bytes.splice(to..to, moved);
            }
            Self::Repeat {
                from,
                length,
                times,
            } => {
                let range = range(from, length);
                let repeated = bytes[range.clone()].repeat(usize::from(times % 64));
                bytes.splice(range.end..range.end, repeated);
            }
        }
        bytes
    }
}

/// A JSON text with its structure. Names and literals are kept as they are written.
#[derive(Debug, Clone)]
pub(crate) enum Json {
    Literal(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        match value {
            Value::Array(elements) => Self::Array(elements.iter().map(Self::from).collect()),
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| {
                    (Value::from(name.as_str()).to_string(), Self::from(value))
                };
                Self::Object(members.iter().map(member).collect())
            }
            literal => Self::Literal(literal.to_string()),
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Array(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "," };
                    write!(f, "{separator}{element}")?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "," };
                    write!(f, "{separator}{name}:{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Json {
    /// Returns the number of values, this one included.
    fn count(&self) -> usize {
        1 + match self {
            Self::Literal(_) => 0,
            Self::Array(elements) => elements.iter().map(Self::count).sum(),
            Self::Object(members) => members.iter().map(|(_, value)| value.count()).sum(),
        }
    }

    /// Returns a value by its index in the order of the text.
    fn node(&mut self, index: u8) -> &mut Self {
        let index = usize::from(index) % self.count();
        self.descend(index)
    }

    fn descend(&mut self, mut index: usize) -> &mut Self {
        if index == 0 {
            return self;
        }
        index -= 1;
        let children: Vec<&mut Self> = match self {
            Self::Literal(_) => unreachable!("the index is below the count"),
            Self::Array(elements) => elements.iter_mut().collect(),
            Self::Object(members) => members.iter_mut().map(|(_, value)| value).collect(),
        };
        for child in children {
            let count = child.count();
            if index < count {
                return child.descend(index);
            }
            index -= count;
        }
        unreachable!("the index is below the count")
    }
}

/// A generated JSON text, which may be invalid.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) enum JsonText {
    Null,
    Boolean(bool),
    Word(u8),
    Name(u8),
    Number(u8),
    Integer(i64),
    Float(f64),
    NearNow(i8),
    String(#[generator(produce::<Vec<Piece>>().with().len(0usize..6))] Vec<Piece>),
    Array(#[generator(produce::<Vec<JsonText>>().with().len(0usize..4))] Vec<JsonText>),
    Object(
        #[generator(produce::<Vec<(u8, JsonText)>>().with().len(0usize..4))] Vec<(u8, JsonText)>,
    ),
    Words(#[generator(produce::<Vec<u8>>().with().len(0usize..4))] Vec<u8>),
    NotJson(u8),
}

/// A part of a string.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) enum Piece {
    Character(char),
    Ascii(u8),
    Escape(u16),
    Pair(u32),
    Word(u8),
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

impl From<&JsonText> for Json {
    fn from(text: &JsonText) -> Self {
        Self::Literal(match text {
            JsonText::Null => "null".to_owned(),
            JsonText::Boolean(value) => value.to_string(),
            JsonText::Word(index) => quoted(pick(WORDS, *index)),
            JsonText::Name(index) => quoted(pick(NAMES, *index)),
            JsonText::Number(index) => pick(NUMBERS, *index).to_owned(),
            JsonText::Integer(number) => number.to_string(),
            JsonText::Float(number) if number.is_finite() => format!("{number:?}"),
            JsonText::Float(_) => "0".to_owned(),
            JsonText::NearNow(difference) => {
                NOW.saturating_add_signed((*difference).into()).to_string()
            }
            JsonText::String(pieces) => {
                let pieces: String = pieces.iter().map(Piece::text).collect();
                format!("\"{pieces}\"")
            }
            JsonText::Array(elements) => {
                return Self::Array(elements.iter().map(Self::from).collect());
            }
            JsonText::Object(members) => {
                let member = |(name, value): &(u8, JsonText)| {
                    (quoted(pick(NAMES, *name)), Self::from(value))
                };
                return Self::Object(members.iter().map(member).collect());
            }
            JsonText::Words(words) => {
                let word = |index: &u8| Self::Literal(quoted(pick(WORDS, *index)));
                return Self::Array(words.iter().map(word).collect());
            }
            JsonText::NotJson(index) => pick(NOT_JSON, *index).to_owned(),
        })
    }
}

impl Piece {
    fn text(&self) -> String {
        match *self {
            Self::Character(character) => character.to_string(),
            Self::Ascii(byte) => char::from(byte & 0x7f).to_string(),
            Self::Escape(unit) => format!("\\u{unit:04x}"),
            Self::Pair(character) => {
                let offset = character & 0xf_ffff;
                format!(
                    "\\u{:04X}\\u{:04x}",
                    0xd800 + (offset >> 10),
                    0xdc00 + (offset & 0x3ff)
                )
            }
            Self::Word(index) => pick(WORDS, index).to_owned(),
        }
    }
}

/// An edit of the structure of a JSON text. `node` and `member` are indices, modulo the number that there are.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) enum JsonEdit {
    Replace {
        node: u8,
        value: JsonText,
    },
    Set {
        name: u8,
        value: JsonText,
    },
    Add {
        node: u8,
        name: u8,
        value: JsonText,
    },
    Remove {
        node: u8,
        member: u8,
    },
    Repeat {
        node: u8,
        member: u8,
    },
    RepeatWith {
        node: u8,
        member: u8,
        value: JsonText,
    },
    Rename {
        node: u8,
        member: u8,
        name: u8,
    },
    EscapeName {
        node: u8,
        member: u8,
        at: u8,
    },
    EscapeText {
        node: u8,
        at: u8,
    },
    Nest {
        node: u8,
        depth: u8,
        is_object: bool,
    },
    Wrap {
        node: u8,
    },
    Pad {
        node: u8,
        space: u8,
    },
    Swap {
        first: u8,
        second: u8,
    },
}

impl JsonEdit {
    /// Applies edits in order.
    pub(crate) fn apply_all(edits: &[Self], base: &Value) -> String {
        let mut json = Json::from(base);
        edits.iter().for_each(|edit| edit.apply(&mut json));
        json.to_string()
    }

    fn apply(&self, json: &mut Json) {
        match self {
            Self::Replace { node, value } => *json.node(*node) = value.into(),
            Self::Set { name, value } => {
                if let Json::Object(members) = json {
                    let name = quoted(pick(NAMES, *name));
                    members.retain(|(other, _)| *other != name);
                    members.push((name, value.into()));
                }
            }
            Self::Add { node, name, value } => match json.node(*node) {
                Json::Object(members) => members.push((quoted(pick(NAMES, *name)), value.into())),
                Json::Array(elements) => elements.push(value.into()),
                Json::Literal(_) => {}
            },
            Self::Remove { node, member } => match json.node(*node) {
                Json::Object(members) if !members.is_empty() => {
                    drop(members.remove(usize::from(*member) % members.len()));
                }
                Json::Array(elements) if !elements.is_empty() => {
                    drop(elements.remove(usize::from(*member) % elements.len()));
                }
                _ => {}
            },
            Self::Repeat { node, member } => match json.node(*node) {
                Json::Object(members) if !members.is_empty() => {
                    members.push(members[usize::from(*member) % members.len()].clone());
                }
                Json::Array(elements) if !elements.is_empty() => {
                    elements.push(elements[usize::from(*member) % elements.len()].clone());
                }
                _ => {}
            },
            Self::RepeatWith {
                node,
                member,
                value,
            } => {
                if let Some((name, _)) = json.node(*node).member(*member) {
                    let name = name.clone();
                    if let Json::Object(members) = json.node(*node) {
                        members.push((name, value.into()));
                    }
                }
            }
            Self::Rename { node, member, name } => {
                if let Some((renamed, _)) = json.node(*node).member(*member) {
                    *renamed = quoted(pick(NAMES, *name));
                }
            }
            Self::EscapeName { node, member, at } => {
                if let Some((name, _)) = json.node(*node).member(*member) {
                    escape(name, *at);
                }
            }
            Self::EscapeText { node, at } => {
                if let Json::Literal(text) = json.node(*node) {
                    escape(text, *at);
                }
            }
            Self::Nest {
                node,
                depth,
                is_object,
            } => {
                let node = json.node(*node);
                let depth = usize::from(*depth);
                let (open, close) = if *is_object {
                    ("{\"a\":", "}")
                } else {
                    ("[", "]")
                };
                *node = Json::Literal(format!(
                    "{}{node}{}",
                    open.repeat(depth),
                    close.repeat(depth)
                ));
            }
            Self::Wrap { node } => {
                let node = json.node(*node);
                *node = Json::Array(vec![node.clone()]);
            }
            Self::Pad { node, space } => {
                let node = json.node(*node);
                let space = pick(&[" ", "\n", "\t\r\n", "\u{a0}", "\u{c}"], *space);
                *node = Json::Literal(format!("{space}{node}{space}"));
            }
            Self::Swap { first, second } => {
                let copy = json.node(*first).clone();
                let other = std::mem::replace(json.node(*second), copy);
                // The tree may have become smaller, so the first value is found anew.
                *json.node(*first) = other;
            }
        }
    }
}

impl Json {
    fn member(&mut self, index: u8) -> Option<&mut (String, Self)> {
        match self {
            Self::Object(members) if !members.is_empty() => {
                let index = usize::from(index) % members.len();
                members.get_mut(index)
            }
            _ => None,
        }
    }
}

/// Replaces a character of a quoted text with its escape.
fn escape(quoted: &mut String, at: u8) {
    let inside = quoted.len().saturating_sub(2);
    if inside == 0 || !quoted.starts_with('"') || !quoted.is_ascii() || quoted.contains('\\') {
        return;
    }
    let at = 1 + usize::from(at) % inside;
    let code = quoted.as_bytes()[at];
    quoted.replace_range(at..=at, &format!("\\u{code:04x}"));
}
