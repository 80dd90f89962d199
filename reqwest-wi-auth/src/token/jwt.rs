//! Validates the format of a JWT (RFC 7519, in the compact form of RFC 7515), and parses the claims that its sender needs.
//!
//! The signature is not verified: that is up to the recipient. The validation detects what is commonly wrong with the
//! content of files and the output of commands: text around the token, a truncated token, or no token at all.

use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::json_object::{Object, optional_object};

/// An error in the format of a token.
///
/// Its message contains at most one character of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFormatError {
    /// There is only white space.
    #[error("the token is empty")]
    Empty,
    /// There is a character that a token cannot contain.
    #[error(
        "found {character} at byte {position}, which a token cannot contain; expected the token alone, without quotes, a prefix or a line break in it"
    )]
    Character {
        /// A description of the character.
        character: String,
        /// Its position in the bytes, including leading white space. The first byte is 1.
        position: usize,
    },
    /// There are not exactly three parts, as a JWT has.
    #[error("not a JWT: found {found} parts separated by dots, expected 3")]
    Parts {
        /// The number of parts.
        found: usize,
    },
    /// A part of the JWT is empty.
    #[error("not a JWT: the {part} is empty")]
    EmptyPart {
        /// `header`, `payload` or `signature`.
        part: &'static str,
    },
    /// A part of the JWT is not canonical base64url, for example because it is truncated.
    #[error("not a JWT: the {part} is not canonical base64url; the token may be truncated")]
    Base64 {
        /// `header`, `payload` or `signature`.
        part: &'static str,
    },
    /// A part of the JWT is not a JSON object whose members have the types that RFC 7519 defines.
    #[error("not a JWT: the {part} is not a JSON object as defined by RFC 7519")]
    Json {
        /// `header` or `payload`.
        part: &'static str,
    },
    /// The length of the signature does not match the header's `alg`.
    #[error(
        "the signature has {found} bytes, expected {expected} for {alg}; the token may be truncated"
    )]
    SignatureLength {
        /// The algorithm.
        alg: &'static str,
        /// The length of the signature in bytes.
        found: usize,
        /// A description of the expected length.
        expected: &'static str,
    },
    /// The token is not valid as the value of an HTTP header.
    #[error("the token is not valid as the value of an HTTP header")]
    InvalidHeaderValue,
}

/// The claims of a JWT that its sender needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    pub(super) times: Times,
    pub(super) audiences: Vec<String>,
}

/// The times in the claims of a token.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) issued_at: Option<SystemTime>,
    pub(super) expires_at: Option<SystemTime>,
    pub(super) warn_after: Option<SystemTime>,
}

#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    exp: Option<f64>,
    iat: Option<f64>,
    aud: Option<Audience>,
    #[serde(
        rename = "kubernetes.io",
        default,
        deserialize_with = "optional_object"
    )]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
struct Kubernetes {
    warnafter: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Returns the bytes without the white space around them, or an error if one of them is not allowed.
pub(super) fn trim(bytes: &[u8], is_allowed: fn(u8) -> bool) -> Result<&[u8], TokenFormatError> {
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Err(TokenFormatError::Empty);
    }
    let Some(index) = trimmed.iter().position(|&byte| !is_allowed(byte)) else {
        return Ok(trimmed);
    };
    let before = bytes.len() - bytes.trim_ascii_start().len();
    Err(TokenFormatError::Character {
        character: describe(&trimmed[index..]),
        position: before + index + 1,
    })
}

/// Returns whether a JWT can contain a byte: the characters of base64url, and the dots between the parts.
pub(super) fn is_jwt_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Returns whether an opaque token can contain a byte: visible ASCII characters except quotes, which are often put around
/// tokens by mistake.
pub(super) fn is_opaque_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'')
}

/// Describes the first character of some bytes.
fn describe(bytes: &[u8]) -> String {
    let name = match bytes {
        [0xef, 0xbb, 0xbf, ..] => "a byte order mark (BOM)",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "a UTF-16 byte order mark (BOM)",
        [b'"', ..] => "a double quote (\")",
        [b'\'', ..] => "a single quote (')",
        [b'\r', ..] => "a carriage return (CR)",
        [b'\n', ..] => "a line feed (LF)",
        [b'\t', ..] => "a tab",
        [b' ', ..] => "a space",
        [0, ..] => "a NUL byte",
        [b'=', ..] => "an equals sign (=), which is base64 padding",
        [b'+', ..] => "a plus sign (+), which is base64 but not base64url",
        [b'/', ..] => "a slash (/), which is base64 but not base64url",
        [byte, ..] if byte.is_ascii_graphic() => {
            return format!("the character '{}'", *byte as char);
        }
        [byte, ..] => {
            let text = std::str::from_utf8(&bytes[..bytes.len().min(4)]);
            let text = match text {
                Ok(text) => Some(text),
                Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
            };
            return match text.and_then(|text| text.chars().next()) {
                Some(character) => format!("the character U+{:04X}", u32::from(character)),
                None => format!("the byte 0x{byte:02X}"),
            };
        }
        [] => "nothing",
    };
    name.to_owned()
}

impl Claims {
    /// Parses a JWT that contains only characters allowed by [`is_jwt_byte`] or [`is_opaque_byte`].
    pub(super) fn parse(token: &[u8]) -> Result<Self, TokenFormatError> {
        let mut parts = token.split(|&byte| byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            let found = token.split(|&byte| byte == b'.').count();
            return Err(TokenFormatError::Parts { found });
        };
        let header = decode(header, "header")?;
        let payload = decode(payload, "payload")?;
        let signature = decode(signature, "signature")?;
        let header: Header = parse_object(&header, "header")?;
        let payload: Payload = parse_object(&payload, "payload")?;
        if let Some(alg) = &header.alg {
            check_signature_length(alg, signature.len())?;
        }
        let time = |seconds: Option<f64>| seconds.and_then(super::from_unix_seconds);
        let warn_after = payload
            .kubernetes
            .and_then(|kubernetes| kubernetes.warnafter);
        Ok(Self {
            times: Times {
                issued_at: time(payload.iat),
                expires_at: time(payload.exp),
                warn_after: time(warn_after),
            },
            audiences: match payload.aud {
                None => Vec::new(),
                Some(Audience::One(audience)) => vec![audience],
                Some(Audience::Several(audiences)) => audiences,
            },
        })
    }
}

/// Parses the claims of a JWT.
#[cfg(feature = "federation")]
pub(super) fn parse_payload<T: serde::de::DeserializeOwned>(
    token: &[u8],
) -> Result<T, TokenFormatError> {
    let mut parts = token.split(|&byte| byte == b'.').skip(1);
    let payload = parts.next().unwrap_or_default();
    parse_object(&decode(payload, "payload")?, "payload")
}

/// Decodes canonical base64url: padding, and non-zero bits after the last byte, are errors.
fn decode(part: &[u8], name: &'static str) -> Result<Zeroizing<Vec<u8>>, TokenFormatError> {
    if part.is_empty() {
        return Err(TokenFormatError::EmptyPart { part: name });
    }
    match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(_) => Err(TokenFormatError::Base64 { part: name }),
    }
}

/// Parses a JSON object.
fn parse_object<'j, T: Deserialize<'j>>(
    json: &'j [u8],
    part: &'static str,
) -> Result<T, TokenFormatError> {
    match serde_json::from_slice(json) {
        Ok(Object(value)) => Ok(value),
        Err(_) => Err(TokenFormatError::Json { part }),
    }
}

/// Returns an error if the length of a signature does not match its algorithm. Accepts any length for unknown algorithms.
fn check_signature_length(alg: &str, found: usize) -> Result<(), TokenFormatError> {
    let fixed = |alg, length, expected| (alg, found == length, expected);
    // A signature is as long as the modulus. RSA keys have 2048 to 8192 bits.
    let rsa = |alg| {
        let is_valid = (256..=1024).contains(&found) && found.is_multiple_of(8);
        (alg, is_valid, "256 to 1024")
    };
    let (alg, is_valid, expected) = match alg {
        "RS256" => rsa("RS256"),
        "RS384" => rsa("RS384"),
        "RS512" => rsa("RS512"),
        "PS256" => rsa("PS256"),
        "PS384" => rsa("PS384"),
        "PS512" => rsa("PS512"),
        "ES256" => fixed("ES256", 64, "64"),
        "ES256K" => fixed("ES256K", 64, "64"),
        "ES384" => fixed("ES384", 96, "96"),
        "ES512" => fixed("ES512", 132, "132"),
        "Ed25519" => fixed("Ed25519", 64, "64"),
        "Ed448" => fixed("Ed448", 114, "114"),
        // RFC 8037 uses this name for both curves.
        "EdDSA" => ("EdDSA", found == 64 || found == 114, "64 or 114"),
        "HS256" => fixed("HS256", 32, "32"),
        "HS384" => fixed("HS384", 48, "48"),
        "HS512" => fixed("HS512", 64, "64"),
        _ => return Ok(()),
    };
    if is_valid {
        return Ok(());
    }
    Err(TokenFormatError::SignatureLength {
        alg,
        found,
        expected,
    })
}

/// Formats audiences for an error message.
pub(crate) struct Audiences<'a>(pub(crate) &'a [String]);

impl fmt::Display for Audiences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no audience"),
            [audience] => write!(f, "the audience {audience:?}"),
            audiences => write!(f, "the audiences {audiences:?}"),
        }
    }
}
