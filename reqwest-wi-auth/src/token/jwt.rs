//! The form of a JWT (RFC 7519, in the compact form of RFC 7515), and the claims that its sender goes by.
//!
//! The signature is not verified: that is up to the recipient. What is checked here are the faults that files and
//! commands show: text around the token, half of a token, something else.

use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

/// What is wrong with bytes that should be a token.
///
/// Its text names at most one character of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// There is nothing but white space.
    #[error("it is empty")]
    Empty,
    /// It has a character that a token cannot have.
    #[error("it has {character} at byte {position}, which a token cannot have")]
    Character {
        /// The character in words.
        character: String,
        /// Its position in the bytes as they were given. The first byte is 1.
        position: usize,
    },
    /// It does not have the three parts of a JWT.
    #[error("it is not a JWT: it has {found} parts between dots, expected 3")]
    Parts {
        /// The number of parts.
        found: usize,
    },
    /// A part of the JWT is empty.
    #[error("it is not a JWT: its {part} is empty")]
    EmptyPart {
        /// `header`, `payload` or `signature`.
        part: &'static str,
    },
    /// A part of the JWT is not base64url in its only valid form, as if it had been cut off.
    #[error("it is not a JWT: its {part} is not base64url; was it cut off?")]
    Base64 {
        /// `header`, `payload` or `signature`.
        part: &'static str,
    },
    /// A part of the JWT is not a JSON object with the claims that RFC 7519 defines.
    #[error("it is not a JWT: its {part} is not a JSON object as defined by RFC 7519")]
    Json {
        /// `header` or `payload`.
        part: &'static str,
    },
    /// The signature does not have the length that the header's `alg` implies.
    #[error("its signature has {found} bytes, expected {expected} for {alg}; was it cut off?")]
    SignatureLength {
        /// The algorithm.
        alg: &'static str,
        /// The length of the signature in bytes.
        found: usize,
        /// The length that it should have, in words.
        expected: &'static str,
    },
    /// It cannot be put into a header.
    #[error("it cannot be put into a header")]
    Header,
}

/// The claims of a JWT that its sender goes by.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    pub(super) times: Times,
    pub(super) audiences: Vec<String>,
}

/// The times in a token.
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
    #[serde(rename = "kubernetes.io")]
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

/// Returns the bytes without the white space around them, if none of them is outside what is allowed.
pub(super) fn trim(bytes: &[u8], is_allowed: fn(u8) -> bool) -> Result<&[u8], TokenFault> {
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Err(TokenFault::Empty);
    }
    let Some(index) = trimmed.iter().position(|&byte| !is_allowed(byte)) else {
        return Ok(trimmed);
    };
    let before = bytes.len() - bytes.trim_ascii_start().len();
    Err(TokenFault::Character {
        character: describe(&trimmed[index..]),
        position: before + index + 1,
    })
}

/// The characters of base64url, and the dots between the parts.
pub(super) fn is_jwt_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Visible ASCII, but for quotes: those are put around tokens by mistake.
pub(super) fn is_opaque_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'')
}

/// Names the first character of some bytes.
fn describe(bytes: &[u8]) -> String {
    let name = match bytes {
        [0xef, 0xbb, 0xbf, ..] => "a byte order mark (BOM)",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "a byte order mark (BOM) of UTF-16",
        [b'"', ..] => "a double quote (\")",
        [b'\'', ..] => "a single quote (')",
        [b'\r', ..] => "a carriage return (CR)",
        [b'\n', ..] => "a line feed (LF)",
        [b'\t', ..] => "a tab",
        [b' ', ..] => "a space",
        [0, ..] => "a NUL byte",
        [b'=', ..] => "an equals sign (=), the padding of base64",
        [b'+', ..] => "a plus sign (+) of base64 that is not base64url",
        [b'/', ..] => "a slash (/) of base64 that is not base64url",
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
    /// Parses a JWT whose characters have been checked.
    pub(super) fn parse(token: &[u8]) -> Result<Self, TokenFault> {
        let mut parts = token.split(|&byte| byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            let found = token.split(|&byte| byte == b'.').count();
            return Err(TokenFault::Parts { found });
        };
        let header = decode(header, "header")?;
        let payload = decode(payload, "payload")?;
        let signature = decode(signature, "signature")?;
        let header: Header = object(&header, "header")?;
        let payload: Payload = object(&payload, "payload")?;
        if let Some(alg) = &header.alg {
            check_length(alg, signature.len())?;
        }
        let time = |seconds: Option<f64>| seconds.and_then(super::time);
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

fn decode(part: &[u8], name: &'static str) -> Result<Zeroizing<Vec<u8>>, TokenFault> {
    if part.is_empty() {
        return Err(TokenFault::EmptyPart { part: name });
    }
    // Padding and bits beyond the last byte are refused.
    match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(_) => Err(TokenFault::Base64 { part: name }),
    }
}

fn object<'j, T: Deserialize<'j>>(json: &'j [u8], part: &'static str) -> Result<T, TokenFault> {
    // A struct would be read from an array as well.
    let is_object = json.trim_ascii_start().first() == Some(&b'{');
    let parsed = is_object
        .then(|| serde_json::from_slice(json).ok())
        .flatten();
    parsed.ok_or(TokenFault::Json { part })
}

/// Checks the length of a signature, if the algorithm is known.
fn check_length(alg: &str, found: usize) -> Result<(), TokenFault> {
    let fixed = |alg, length, expected| (alg, found == length, expected);
    // A signature is as long as the modulus: RSA keys of 2048 to 8192 bits.
    let rsa = |alg| {
        let is_whole = (256..=1024).contains(&found) && found.is_multiple_of(8);
        (alg, is_whole, "256 to 1024")
    };
    let (alg, is_right, expected) = match alg {
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
        // RFC 8037 has both curves under this name.
        "EdDSA" => ("EdDSA", found == 64 || found == 114, "64 or 114"),
        "HS256" => fixed("HS256", 32, "32"),
        "HS384" => fixed("HS384", 48, "48"),
        "HS512" => fixed("HS512", 64, "64"),
        _ => return Ok(()),
    };
    if is_right {
        return Ok(());
    }
    Err(TokenFault::SignatureLength {
        alg,
        found,
        expected,
    })
}

/// Audiences for an error message.
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
