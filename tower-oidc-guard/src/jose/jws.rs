//! The compact serialization (RFC 7515, section 7.1) and its protected header.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memchr;
use serde_json::value::RawValue;

use super::algorithm::Algorithm;
use super::json;
use crate::rejection::Rejection;

/// The length of the longest token that is accepted by default, in bytes. A Kubernetes token has about 1 kB.
pub(crate) const DEFAULT_MAX_TOKEN_BYTES: usize = 16 * 1024;

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

/// The members of the header that are used. `jku`, `x5u`, `jwk` and `x5c` are skipped like any unknown member: a
/// token does not say where its key is.
struct Header {
    algorithm: Option<Algorithm>,
    kid: Option<String>,
    typ: Option<String>,
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, Rejection> {
        const MALFORMED: Rejection = Rejection::Malformed("the header");
        let (mut alg, mut kid, mut typ, mut has_crit) = (None, None, None, false);
        json::read_object(json, |name, value| match name {
            "alg" => alg = Some(value),
            "kid" => kid = Some(value),
            "typ" => typ = Some(value),
            "crit" => has_crit = true,
            _ => {}
        })
        .map_err(|_| MALFORMED)?;
        // RFC 7515, section 4.1.11: extensions that are critical must be understood, and none is; nor may the list be
        // empty.
        if has_crit {
            return Err(MALFORMED);
        }
        let string = |value: Option<&RawValue>| {
            let string = value.map(json::string).transpose();
            string
                .map(|string| string.map(Into::into))
                .map_err(|_| MALFORMED)
        };
        let alg: Option<String> = string(alg)?;
        Ok(Self {
            algorithm: Algorithm::from_name(&alg.ok_or(MALFORMED)?),
            kid: string(kid)?,
            typ: string(typ)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> Vec<u8> {
        let header = URL_SAFE_NO_PAD.encode(header);
        format!("{header}.e30.AA").into_bytes()
    }

    fn refused(token: &[u8]) -> Rejection {
        Jws::parse(token, DEFAULT_MAX_TOKEN_BYTES)
            .err()
            .expect("is refused")
    }

    #[test]
    fn a_token_is_taken_apart() {
        let token = token(r#"{"alg":"RS256","kid":"k1","typ":"JWT","x":{"y":[1]}}"#);
        let jws = Jws::parse(&token, DEFAULT_MAX_TOKEN_BYTES).expect("a sound token");
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
