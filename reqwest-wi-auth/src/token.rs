//! A bearer token: its header value, and the times in its claims.

pub(crate) mod jwt;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

pub use self::jwt::TokenFormatError;
use self::jwt::{Claims, Times};
use crate::error::Error;

const SCHEME: &[u8] = b"Bearer ";

/// A bearer token, ready to be sent.
///
/// Cloning it does not copy the token. Its memory is wiped when the last clone of it and of its
/// [`header`](Self::header) is dropped. `Debug` does not show the token.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), reqwest_wi_auth::Error> {
/// let token = reqwest_wi_auth::Token::opaque("s3cr3t")?;
/// assert_eq!(token.header(), "Bearer s3cr3t");
/// assert_eq!(token.expires_at(), None);
/// assert!(!format!("{token:?}").contains("s3cr3t"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Token {
    header: HeaderValue,
    times: Times,
}

/// Which tokens are accepted from a file or a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenFormat {
    Jwt,
    /// A JWT or any other token.
    Opaque,
}

impl Token {
    /// Creates a token from a JWT in compact form (RFC 7519). White space around it is removed.
    ///
    /// The token has three parts in canonical base64url. The header and the payload are JSON objects, and the signature
    /// has the length that the header's `alg` implies (for RSA: 256 to 1024 bytes; any length if `alg` is missing or
    /// unknown). The signature is not verified: that
    /// is up to the recipient.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidToken`] if it is not a JWT.
    ///
    /// # Examples
    ///
    /// The error names the first character that a token cannot have, and its position, but does not contain the token:
    ///
    /// ```
    /// use reqwest_wi_auth::Token;
    ///
    /// let error = Token::new("Bearer eyJhbGciOiJSUzI1NiJ9").unwrap_err();
    /// assert!(error.to_string().contains("a space at byte 7"));
    /// ```
    pub fn new(token: impl AsRef<[u8]>) -> Result<Self, Error> {
        Ok(Self::parse_jwt(token.as_ref())?.0)
    }

    /// Creates a token from a JWT, and returns it with its audiences (`aud`).
    pub(crate) fn parse_jwt(token: &[u8]) -> Result<(Self, Vec<String>), Error> {
        let token = jwt::trim(token, jwt::is_jwt_byte).map_err(invalid)?;
        let claims = Claims::parse(token).map_err(invalid)?;
        Ok((Self::build(token, claims.times)?, claims.audiences))
    }

    /// Creates a token of any format: visible ASCII characters other than quotes, which includes the tokens of RFC 6750,
    /// section 2.1. White space around it is removed.
    ///
    /// If it is a JWT, the times in its claims are available; otherwise it has none.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidToken`] if it is empty, or contains quotes or anything other than visible ASCII characters.
    pub fn opaque(token: impl AsRef<[u8]>) -> Result<Self, Error> {
        let token = jwt::trim(token.as_ref(), jwt::is_opaque_byte).map_err(invalid)?;
        let times = Claims::parse(token).unwrap_or_default().times;
        Self::build(token, times)
    }

    /// Creates a token of a configured format.
    pub(crate) fn parse(token: &[u8], format: TokenFormat) -> Result<Self, Error> {
        match format {
            TokenFormat::Jwt => Self::new(token),
            TokenFormat::Opaque => Self::opaque(token),
        }
    }

    fn build(token: &[u8], times: Times) -> Result<Self, Error> {
        let mut header = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
        header.extend_from_slice(SCHEME);
        header.extend_from_slice(token);
        let header = HeaderValue::from_maybe_shared(Bytes::from_owner(header));
        let mut header = header.map_err(|_| invalid(TokenFormatError::InvalidHeaderValue))?;
        header.set_sensitive(true);
        Ok(Self { header, times })
    }

    /// Returns the value for the `Authorization` header: `Bearer` and the token, marked as sensitive.
    ///
    /// Cloning it does not copy the token.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Returns the value for the `Authorization` header, without cloning it.
    pub(crate) fn into_header(self) -> HeaderValue {
        self.header
    }

    /// Returns the token as text, without `Bearer`, to send it in a form or another body.
    #[cfg(feature = "federation")]
    pub(crate) fn text(&self) -> &str {
        // Tokens consist of ASCII characters.
        let text = std::str::from_utf8(self.header.as_bytes()).unwrap_or_default();
        text.strip_prefix("Bearer ").unwrap_or_default()
    }

    /// Returns the claims of a JWT. They are not verified.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not a JWT, or its claims do not have the expected types.
    #[cfg(feature = "federation")]
    pub(crate) fn claims<T: serde::de::DeserializeOwned>(&self) -> Result<T, TokenFormatError> {
        jwt::parse_payload(self.text().as_bytes())
    }

    /// Returns when the token expires (`exp`), or `None` if it has no such claim.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.times.expires_at
    }

    /// Returns when the token was issued (`iat`), or `None` if it has no such claim.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.times.issued_at
    }

    /// Returns when the token should have been replaced (`kubernetes.io.warnafter`), or `None` if it has no such claim.
    ///
    /// Kubernetes adds this claim to tokens that are valid for a year but replaced every hour.
    pub fn warn_after(&self) -> Option<SystemTime> {
        self.times.warn_after
    }

    /// Returns the token with its expiry limited to a time.
    pub(crate) fn with_max_expiry(mut self, time: SystemTime) -> Self {
        let expiry = self.times.expires_at;
        self.times.expires_at = Some(expiry.map_or(time, |expiry| expiry.min(time)));
        self
    }

    /// Returns whether this token expires before another one. Returns false if either has no expiry.
    pub(crate) fn expires_before(&self, other: &Self) -> bool {
        match (self.expires_at(), other.expires_at()) {
            (Some(this), Some(other)) => this < other,
            _ => false,
        }
    }

    /// Returns whether the token has expired at a time. Returns false if it has no expiry.
    pub fn is_expired(&self, at: SystemTime) -> bool {
        self.expires_at().is_some_and(|expiry| expiry <= at)
    }

    /// Returns when a newer token should be available: at 80 % of the lifetime, at `warnafter`, or at the expiry, whichever
    /// comes next after `now`. Returns `None` if none of them does.
    pub(crate) fn next_renewal(&self, now: SystemTime) -> Option<SystemTime> {
        [self.at_80_percent(), self.warn_after(), self.expires_at()]
            .into_iter()
            .flatten()
            .filter(|&time| time > now)
            .min()
    }

    /// Returns when its issuer should have replaced the token: at `warnafter`, or else at 80 % of the lifetime, but no later
    /// than 24 hours after it was issued, as the kubelet does. Returns `None` if the token does not contain these times.
    #[cfg(feature = "metrics")]
    pub(crate) fn rotation_due(&self) -> Option<SystemTime> {
        const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);
        let latest = || self.issued_at()?.checked_add(LONGEST_USE);
        let by_lifetime = || Some(self.at_80_percent()?.min(latest()?));
        self.warn_after().or_else(by_lifetime)
    }

    fn at_80_percent(&self) -> Option<SystemTime> {
        let (issued, expires) = (self.issued_at()?, self.expires_at()?);
        issued.checked_add(expires.duration_since(issued).ok()?.mul_f64(0.8))
    }
}

/// Compares the text of the tokens.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

fn invalid(reason: TokenFormatError) -> Error {
    Error::InvalidToken { reason }
}

/// Converts seconds since the Unix epoch to a time. Returns `None` if the time cannot be represented.
fn from_unix_seconds(seconds: f64) -> Option<SystemTime> {
    let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "metrics")]
    #[test]
    fn rotation_is_due_at_warnafter_or_80_percent_of_the_lifetime_or_after_a_day() {
        let due = |claims: &str| {
            let due = Token::new(jwt(claims)).unwrap().rotation_due();
            due.map(|due| {
                due.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs()
            })
        };
        assert_eq!(due(CLAIMS), Some(1500));
        assert_eq!(due(r#"{"iat":1000,"exp":2000}"#), Some(1800));
        assert_eq!(due(r#"{"iat":1000,"exp":864000}"#), Some(1000 + 86_400));
        assert_eq!(due(r#"{"exp":2000}"#), None);
        assert_eq!(due(r#"{"iat":3000,"exp":2000}"#), None);
    }

    const CLAIMS: &str = r#"{"iat":1000,"exp":2000,"kubernetes.io":{"warnafter":1500}}"#;

    fn jwt(claims: &str) -> String {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let header = encode(br#"{"alg":"RS256"}"#);
        format!(
            "{header}.{}.{}",
            encode(claims.as_bytes()),
            encode(&[0xa5; 256])
        )
    }

    fn signed(alg: &str, length: usize) -> String {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let header = encode(format!(r#"{{"alg":"{alg}"}}"#).as_bytes());
        format!("{header}.e30.{}", encode(&vec![0xa5; length]))
    }

    fn format_error(text: impl AsRef<[u8]>) -> Option<TokenFormatError> {
        match Token::new(text) {
            Ok(_) => None,
            Err(Error::InvalidToken { reason }) => Some(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_error_names_the_first_invalid_character_and_its_position() {
        let valid = jwt(CLAIMS);
        let cases: [(Vec<u8>, &str, usize); 15] = [
            (format!("\u{feff}{valid}").into(), "BOM", 1),
            ([b"\xff\xfe", valid.as_bytes()].concat(), "UTF-16", 1),
            (format!("\"{valid}\"").into(), "double quote", 1),
            (format!("  \"{valid}\"\n").into(), "double quote", 3),
            (format!("'{valid}'").into(), "single quote", 1),
            (format!("{valid}\"").into(), "double quote", valid.len() + 1),
            (format!("{valid}\r\n{valid}").into(), "CR", valid.len() + 1),
            (format!("{valid}\n{valid}").into(), "LF", valid.len() + 1),
            (format!("Bearer {valid}").into(), "space", 7),
            (format!("{valid}\t{valid}").into(), "tab", valid.len() + 1),
            (format!("{valid}\0").into(), "NUL", valid.len() + 1),
            (format!("{valid}=").into(), "padding", valid.len() + 1),
            (format!("+{valid}").into(), "base64", 1),
            (format!("ä{valid}").into(), "U+00E4", 1),
            ([b"\x80", valid.as_bytes()].concat(), "0x80", 1),
        ];
        for (bytes, name, position) in cases {
            let Some(TokenFormatError::Character {
                character,
                position: found,
            }) = format_error(&bytes)
            else {
                panic!("{name}: {:?}", format_error(&bytes));
            };
            assert!(character.contains(name), "{character}");
            assert_eq!(found, position, "{character}");
            let text = Token::new(&bytes).unwrap_err().to_string();
            for part in valid.split('.') {
                assert!(!text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn all_three_parts_are_validated() {
        let valid = jwt(CLAIMS);
        let [header, payload, signature] = valid.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts");
        };
        let error = |parts: &[&str]| format_error(parts.join("."));
        for found in [1, 2, 4, 5] {
            let parts = vec![header; found];
            assert_eq!(error(&parts), Some(TokenFormatError::Parts { found }));
        }
        let empty = |part| Some(TokenFormatError::EmptyPart { part });
        assert_eq!(error(&["", payload, signature]), empty("header"));
        assert_eq!(error(&[header, "", signature]), empty("payload"));
        assert_eq!(error(&[header, payload, ""]), empty("signature"));
        // A length that base64 cannot have, and non-zero bits after the last byte.
        let base64 = |part| Some(TokenFormatError::Base64 { part });
        for broken in ["a", "abcde", "e31"] {
            assert_eq!(error(&[broken, payload, signature]), base64("header"));
            assert_eq!(error(&[header, broken, signature]), base64("payload"));
            assert_eq!(error(&[header, payload, broken]), base64("signature"));
        }
        let json = |part| Some(TokenFormatError::Json { part });
        // `[]`, `"a"`, `null`, half an object, two objects, bytes.
        for broken in ["W10", "ImEi", "bnVsbA", "eyJh", "e317fQ", "gICA"] {
            assert_eq!(
                error(&[broken, payload, signature]),
                json("header"),
                "{broken}"
            );
            assert_eq!(
                error(&[header, broken, signature]),
                json("payload"),
                "{broken}"
            );
        }
        assert_eq!(error(&[header, payload, signature]), None);
    }

    #[test]
    fn the_length_of_the_signature_has_to_match_the_algorithm() {
        let cases: [(&str, &[usize]); 13] = [
            ("RS256", &[256, 384, 512, 1024]),
            ("RS384", &[256, 512]),
            ("RS512", &[256, 512]),
            ("PS256", &[256, 384]),
            ("PS384", &[256]),
            ("PS512", &[256, 512]),
            ("ES256", &[64]),
            ("ES384", &[96]),
            ("ES512", &[132]),
            ("EdDSA", &[64, 114]),
            ("Ed25519", &[64]),
            ("Ed448", &[114]),
            ("HS256", &[32]),
        ];
        for (alg, lengths) in cases {
            for &length in lengths {
                assert_eq!(format_error(signed(alg, length)), None, "{alg} {length}");
                // Truncated, or with trailing bytes.
                for other in [1, 9, length / 2, length - 1, length + 1, 2048] {
                    if lengths.contains(&other) {
                        continue;
                    }
                    let error = format_error(signed(alg, other));
                    let is_length = matches!(
                        error,
                        Some(TokenFormatError::SignatureLength { found, .. }) if found == other
                    );
                    assert!(is_length, "{alg} {other}: {error:?}");
                }
            }
        }
        assert_eq!(format_error(signed("unknown", 3)), None);
    }

    #[test]
    fn an_opaque_token_with_quotes_or_line_breaks_is_rejected() {
        for text in [
            "\"s3cr3t\"",
            "'s3cr3t'",
            "s3cr3t\r\ns3cr3t",
            "\u{feff}s3cr3t",
        ] {
            assert!(Token::opaque(text).is_err(), "{text:?}");
        }
    }

    fn unix_time(seconds: f64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    #[test]
    fn white_space_around_a_token_is_removed() {
        let text = jwt(CLAIMS);
        let token = Token::new(format!("\n {text}\r\n")).unwrap();
        assert_eq!(token.header(), format!("Bearer {text}").as_str());
    }

    #[test]
    fn bytes_that_are_not_a_token_are_rejected() {
        let long = jwt("[]");
        for text in [
            "", " \n", "a b", "a.b", "a.b.c.d", "..", "ä.b.c", "a\0", &long, "a.b.c",
        ] {
            assert!(
                matches!(Token::new(text), Err(Error::InvalidToken { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn opaque_tokens_are_accepted_only_on_request() {
        assert!(Token::new("s3cr3t").is_err());
        assert_eq!(Token::opaque("s3cr3t\n").unwrap().header(), "Bearer s3cr3t");
        assert!(Token::opaque("two words").is_err());
        assert_eq!(
            Token::opaque(jwt(CLAIMS)).unwrap().expires_at(),
            Some(unix_time(2000.0))
        );
    }

    #[test]
    fn times_are_read_from_the_claims() {
        let token = Token::new(jwt(CLAIMS)).unwrap();
        assert_eq!(token.issued_at(), Some(unix_time(1000.0)));
        assert_eq!(token.expires_at(), Some(unix_time(2000.0)));
        assert_eq!(token.warn_after(), Some(unix_time(1500.0)));
        let token = Token::new(jwt("{}")).unwrap();
        assert_eq!(
            (token.issued_at(), token.expires_at(), token.warn_after()),
            (None, None, None)
        );
    }

    #[test]
    fn the_next_renewal_is_at_warnafter_80_percent_or_expiry() {
        let token = Token::new(jwt(CLAIMS)).unwrap();
        for (now, next) in [
            (1000.0, Some(1500.0)),
            (1500.0, Some(1800.0)),
            (1800.0, Some(2000.0)),
            (2000.0, None),
        ] {
            assert_eq!(
                token.next_renewal(unix_time(now)),
                next.map(unix_time),
                "{now}"
            );
        }
    }

    #[test]
    fn a_token_is_expired_from_its_exp_on() {
        let token = Token::new(jwt(CLAIMS)).unwrap();
        assert!(!token.is_expired(unix_time(1999.9)));
        assert!(token.is_expired(unix_time(2000.0)));
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let text = jwt(CLAIMS);
        let token = Token::new(&text).unwrap();
        let shown = format!("{token:?} {:?}", token.header());
        for part in text.split('.') {
            assert!(!shown.contains(part), "{shown}");
        }
    }
}
