//! The compact serialization (RFC 7515, section 7.1) and its protected header.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memchr;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use super::algorithm::Algorithm;
use super::unique::{Names, Text};
use crate::rejection::Rejection;

/// The longest token that is looked at by default, in bytes. A Kubernetes token has about 1 kB.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The longest header that is decoded, as it stands in the token. A Kubernetes header has 90 bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// The longest `kid` or `typ` that is taken. A Kubernetes `kid` has 43 bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// A token taken apart. Nothing of it is verified.
pub(crate) struct Jws<'t> {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    pub(crate) payload: Vec<u8>,
    pub(crate) signing_input: &'t [u8],
    pub(crate) signature: Vec<u8>,
}

impl<'t> Jws<'t> {
    /// Takes a token apart: exactly three parts, none empty, each in its one base64url spelling.
    pub(crate) fn parse(token: &'t [u8], max_bytes: usize) -> Result<Self, Rejection> {
        if token.len() > max_bytes {
            return Err(Rejection::TooLong);
        }
        let parts = Rejection::Malformed("not three parts");
        let header_end = memchr(b'.', token).ok_or(parts)?;
        let rest = &token[header_end + 1..];
        let payload_end = memchr(b'.', rest).ok_or(parts)?;
        let (header, payload) = (&token[..header_end], &rest[..payload_end]);
        let signature = &rest[payload_end + 1..];
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Rejection::Malformed("an empty part"));
        }
        if memchr(b'.', signature).is_some() {
            return Err(parts);
        }
        if header.len() > MAX_HEADER_BYTES {
            return Err(Rejection::Malformed("the header is too long"));
        }
        let header = Header::parse(&decode(header)?)?;
        Ok(Self {
            algorithm: header.algorithm.ok_or(Rejection::UnsupportedAlgorithm)?,
            kid: header.kid,
            typ: header.typ,
            payload: decode(payload)?,
            signing_input: &token[..header_end + 1 + payload_end],
            signature: decode(signature)?,
        })
    }
}

/// One spelling for each value: no padding, no white space, unused bits zero.
fn decode(part: &[u8]) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Rejection::Malformed("a part is not canonical base64url"))
}

/// What is read of the header. `jku`, `x5u`, `jwk` and `x5c` are skipped like any unknown member: a
/// token does not say where its key is.
#[derive(Default)]
struct Header {
    algorithm: Option<Algorithm>,
    kid: Option<String>,
    typ: Option<String>,
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, Rejection> {
        serde_json::from_slice(json).map_err(|_| Rejection::Malformed("the header"))
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JOSE header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_algorithm = false;
        let mut names = Names::default();
        while let Some(Text(name)) = map.next_key()? {
            match name.as_ref() {
                "alg" => {
                    header.algorithm = Algorithm::from_name(&map.next_value::<Text<'_>>()?.0);
                    has_algorithm = true;
                }
                "kid" => header.kid = Some(short(map.next_value()?)?),
                "typ" => header.typ = Some(short(map.next_value()?)?),
                // Section 4.1.11: what is critical must be understood, and nothing is; nor may it be empty.
                "crit" => return Err(A::Error::custom("crit")),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            names.take(name).map_err(A::Error::custom)?;
        }
        if has_algorithm {
            Ok(header)
        } else {
            Err(A::Error::custom("no alg"))
        }
    }
}

/// A text of the length that identifiers and type names have; a longer one is not copied.
fn short<E: serde::de::Error>(Text(text): Text<'_>) -> Result<String, E> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(E::custom("too long"));
    }
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> Vec<u8> {
        let header = URL_SAFE_NO_PAD.encode(header);
        format!("{header}.e30.AA").into_bytes()
    }

    fn refused(token: &[u8]) -> Rejection {
        Jws::parse(token, MAX_TOKEN_BYTES)
            .err()
            .expect("is refused")
    }

    #[test]
    fn a_token_is_taken_apart() {
        let token = token(r#"{"alg":"RS256","kid":"k1","typ":"JWT","x":{"y":[1]}}"#);
        let jws = Jws::parse(&token, MAX_TOKEN_BYTES).expect("a sound token");
        assert_eq!(jws.algorithm, Algorithm::RS256);
        assert_eq!(jws.kid.as_deref(), Some("k1"));
        assert_eq!(jws.typ.as_deref(), Some("JWT"));
        assert_eq!(jws.payload, b"{}");
        assert_eq!(jws.signature, [0]);
        assert!(jws.signing_input.ends_with(b".e30"));
    }

    #[test]
    fn only_three_parts_that_are_not_empty_are_taken() {
        for token in [
            "",
            ".",
            "..",
            "e30.e30",
            "e30.e30.",
            ".e30.AA",
            "e30..AA",
            "a.b.c.d.e",
            "e30.e30.A.A",
        ] {
            assert!(
                matches!(refused(token.as_bytes()), Rejection::Malformed(_)),
                "{token}"
            );
        }
    }

    #[test]
    fn a_token_over_the_cap_is_not_looked_at() {
        assert_eq!(
            Jws::parse(&[b'.'; 101], 100).err(),
            Some(Rejection::TooLong)
        );
    }

    #[test]
    fn base64_has_one_spelling() {
        let good = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        for bad in ["AB", "AA==", "A+", "A/", "A A", "AA\n"] {
            assert!(
                matches!(
                    refused(format!("{good}.e30.{bad}").as_bytes()),
                    Rejection::Malformed(_)
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn none_and_symmetric_algorithms_are_refused() {
        for alg in ["none", "None", "HS256", "RSA-OAEP", ""] {
            assert_eq!(
                refused(&token(&format!(r#"{{"alg":"{alg}"}}"#))),
                Rejection::UnsupportedAlgorithm,
                "{alg}"
            );
        }
    }

    #[test]
    fn any_crit_is_refused_even_an_empty_one() {
        for crit in [r#"[]"#, r#"["exp"]"#, r#"["b64"]"#, "null"] {
            let header = format!(r#"{{"alg":"RS256","crit":{crit},"b64":true}}"#);
            assert!(
                matches!(refused(&token(&header)), Rejection::Malformed(_)),
                "{crit}"
            );
        }
    }

    #[test]
    fn repeated_members_and_wrong_types_are_refused() {
        for header in [
            r#"{"alg":"RS256","alg":"RS256"}"#,
            r#"{"alg":"RS256","kid":"a","kid":"b"}"#,
            r#"{"alg":"RS256","x":1,"x":1}"#,
            r#"{"alg":"RS256","\u0061lg":"ES256"}"#,
            r#"{"kid":"a"}"#,
            r#"{"alg":1}"#,
            r#"{"alg":"RS256","kid":1}"#,
            r#"{"alg":"RS256","kid":null}"#,
            r#"{"alg":"RS256"} {}"#,
            r#"["RS256"]"#,
        ] {
            assert!(
                matches!(refused(&token(header)), Rejection::Malformed(_)),
                "{header}"
            );
        }
    }
}
