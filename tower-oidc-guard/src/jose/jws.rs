//! The compact serialization (RFC 7515, section 7.1) and its protected header.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memchr;
use serde_json::value::RawValue;

use super::algorithm::Algorithm;
use super::error::{SignatureError, TokenError};
use super::json;
use super::key_set::KeySet;

/// The default limit on the length of a token, in bytes. A Kubernetes token has about 1 kB.
pub(crate) const DEFAULT_MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The fault of a header that is not a JSON object, has a parameter of a wrong type, or has `crit`.
pub(crate) const MALFORMED_HEADER: TokenError = TokenError::Malformed("the header");

/// A JWS in compact serialization, decoded but not verified.
pub(crate) struct UnverifiedJws<'t> {
    header: Header,
    payload: Vec<u8>,
    signing_input: &'t [u8],
    signature: Vec<u8>,
}

/// The payload of a JWS whose signature has been verified. Only [`UnverifiedJws::verify`] creates one.
#[must_use]
pub(crate) struct VerifiedPayload<'t>(&'t [u8]);

/// Verifies a JWS of up to [`DEFAULT_MAX_TOKEN_BYTES`] and returns its payload, which may be any bytes.
pub(crate) fn verify_jws(jws: &[u8], keys: &KeySet) -> Result<Vec<u8>, TokenError> {
    let jws = UnverifiedJws::parse(jws, DEFAULT_MAX_TOKEN_BYTES)?;
    let payload = jws.verify(keys)?;
    Ok(payload.as_bytes().to_vec())
}

impl<'t> UnverifiedJws<'t> {
    /// Decodes a JWS of exactly three non-empty parts, each in canonical base64url.
    pub(crate) fn parse(jws: &'t [u8], max_bytes: usize) -> Result<Self, TokenError> {
        let parts = EncodedParts::split(jws, max_bytes)?;
        Ok(Self {
            header: Header::parse(&decode(parts.header)?)?,
            payload: decode(parts.payload)?,
            signing_input: parts.signing_input,
            signature: decode(parts.signature)?,
        })
    }

    /// Returns the `typ` header parameter.
    pub(super) fn typ(&self) -> Option<&str> {
        self.header.typ.as_deref()
    }

    /// Returns the payload, which anyone may have written.
    pub(super) fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies the algorithm and the signature, and returns the payload.
    ///
    /// # Errors
    ///
    /// Those of [`KeySet::verify`].
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<VerifiedPayload<'_>, SignatureError> {
        let (kid, algorithm) = (self.header.kid.as_deref(), self.header.algorithm);
        keys.verify(kid, algorithm, self.signing_input, &self.signature)?;
        Ok(VerifiedPayload(&self.payload))
    }
}

impl<'t> VerifiedPayload<'t> {
    /// Returns the bytes of the payload.
    pub(crate) fn as_bytes(&self) -> &'t [u8] {
        self.0
    }
}

/// The parts of a JWS in compact serialization. None of them is empty.
pub(super) struct EncodedParts<'t> {
    pub(super) header: &'t [u8],
    pub(super) payload: &'t [u8],
    pub(super) signature: &'t [u8],
    /// The header, a dot and the payload.
    pub(super) signing_input: &'t [u8],
}

impl<'t> EncodedParts<'t> {
    pub(super) fn split(jws: &'t [u8], max_bytes: usize) -> Result<Self, TokenError> {
        const PARTS: TokenError = TokenError::Malformed("not three parts");
        if jws.len() > max_bytes {
            return Err(TokenError::TooLong);
        }
        let header_end = memchr(b'.', jws).ok_or(PARTS)?;
        let rest = &jws[header_end + 1..];
        let payload_end = memchr(b'.', rest).ok_or(PARTS)?;
        let (header, payload) = (&jws[..header_end], &rest[..payload_end]);
        let signature = &rest[payload_end + 1..];
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(TokenError::Malformed("an empty part"));
        }
        if memchr(b'.', signature).is_some() {
            return Err(PARTS);
        }
        Ok(Self {
            header,
            payload,
            signature,
            signing_input: &jws[..header_end + 1 + payload_end],
        })
    }
}

/// Decodes canonical base64url: no padding, no white space, unused bits zero. Each value has one encoding only.
pub(super) fn decode(part: &[u8]) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed("a part is not canonical base64url"))
}

/// The header parameters that are used.
struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
    typ: Option<String>,
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, TokenError> {
        let HeaderParameters { alg, kid, typ } = HeaderParameters::parse(json)?;
        Ok(Self {
            algorithm: Algorithm::from_name(&alg).ok_or(TokenError::UnsupportedAlgorithm)?,
            kid,
            typ,
        })
    }
}

/// The header parameters that are used, as the token has them.
///
/// `jku`, `x5u`, `jwk` and `x5c` are ignored like any unknown parameter: a token must not determine its own key.
pub(super) struct HeaderParameters {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
}

impl HeaderParameters {
    pub(super) fn parse(json: &[u8]) -> Result<Self, TokenError> {
        let (mut alg, mut kid, mut typ, mut has_crit) = (None, None, None, false);
        json::read_object(json, |name, value| match name {
            "alg" => alg = Some(value),
            "kid" => kid = Some(value),
            "typ" => typ = Some(value),
            "crit" => has_crit = true,
            _ => {}
        })
        .map_err(|_| MALFORMED_HEADER)?;
        // RFC 7515, section 4.1.11: every critical extension must be understood, and this library understands none. An
        // empty list is not allowed either.
        if has_crit {
            return Err(MALFORMED_HEADER);
        }
        let string = |value: Option<&RawValue>| {
            let string = value.map(json::parse_string).transpose();
            string
                .map(|string| string.map(Into::into))
                .map_err(|_| MALFORMED_HEADER)
        };
        Ok(Self {
            alg: string(alg)?.ok_or(MALFORMED_HEADER)?,
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

    fn refused(token: &[u8]) -> TokenError {
        UnverifiedJws::parse(token, DEFAULT_MAX_TOKEN_BYTES)
            .err()
            .expect("is refused")
    }

    #[test]
    fn a_compact_jws_is_decoded() {
        let token = token(r#"{"alg":"RS256","kid":"k1","typ":"JWT","x":{"y":[1]}}"#);
        let jws = UnverifiedJws::parse(&token, DEFAULT_MAX_TOKEN_BYTES).expect("a valid token");
        assert_eq!(jws.header.algorithm, Algorithm::RS256);
        assert_eq!(jws.header.kid.as_deref(), Some("k1"));
        assert_eq!(jws.typ(), Some("JWT"));
        assert_eq!(jws.payload, b"{}");
        assert_eq!(jws.signature, [0]);
        assert!(jws.signing_input.ends_with(b".e30"));
    }

    #[test]
    fn only_three_non_empty_parts_are_accepted() {
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
                matches!(refused(token.as_bytes()), TokenError::Malformed(_)),
                "{token}"
            );
        }
    }

    #[test]
    fn a_token_over_the_limit_is_not_decoded() {
        assert_eq!(
            UnverifiedJws::parse(&[b'.'; 101], 100).err(),
            Some(TokenError::TooLong)
        );
    }

    #[test]
    fn non_canonical_base64url_is_refused() {
        let good = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        for bad in ["AB", "AA==", "A+", "A/", "A A", "AA\n"] {
            assert!(
                matches!(
                    refused(format!("{good}.e30.{bad}").as_bytes()),
                    TokenError::Malformed(_)
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
                TokenError::UnsupportedAlgorithm,
                "{alg}"
            );
        }
    }

    #[test]
    fn a_crit_parameter_is_refused_even_if_empty() {
        for crit in [r#"[]"#, r#"["exp"]"#, r#"["b64"]"#, "null"] {
            let header = format!(r#"{{"alg":"RS256","crit":{crit},"b64":true}}"#);
            assert!(
                matches!(refused(&token(&header)), TokenError::Malformed(_)),
                "{crit}"
            );
        }
    }

    #[test]
    fn repeated_header_parameters_and_wrong_types_are_refused() {
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
                matches!(refused(&token(header)), TokenError::Malformed(_)),
                "{header}"
            );
        }
    }
}
