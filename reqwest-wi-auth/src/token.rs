//! A bearer token: the header value, built once, and the times it says of itself.

pub(crate) mod jwt;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

pub use self::jwt::TokenFault;
use self::jwt::{Claims, Times};
use crate::error::Error;

const SCHEME: &[u8] = b"Bearer ";

/// A bearer token, ready to be sent.
///
/// Cloning copies nothing of the token. Its memory is wiped with the last clone of it or of its
/// [`header`](Self::header), and `Debug` does not show it.
///
/// ```
/// # fn main() -> Result<(), reqwest_wi_auth::Error> {
/// let token = reqwest_wi_auth::Token::opaque("s3cr3t")?;
/// assert_eq!(token.header(), "Bearer s3cr3t");
/// assert_eq!(token.expires_at(), None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Token {
    header: HeaderValue,
    times: Times,
}

impl Token {
    /// Creates a token from a JWT in compact form (RFC 7519), without the white space around it.
    ///
    /// Its three parts have to be base64url, its header and payload JSON objects, and its signature as long as the
    /// header's `alg` implies. Its signature is not verified: that is up to the recipient.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Token`] if it is not a JWT.
    pub fn new(token: impl AsRef<[u8]>) -> Result<Self, Error> {
        Ok(Self::with_audiences(token.as_ref())?.0)
    }

    /// Creates a token from a JWT, and returns its audiences (`aud`).
    pub(crate) fn with_audiences(token: &[u8]) -> Result<(Self, Vec<String>), Error> {
        let token = jwt::trim(token, jwt::is_jwt_byte).map_err(fault)?;
        let claims = Claims::parse(token).map_err(fault)?;
        Ok((Self::build(token, claims.times)?, claims.audiences))
    }

    /// Creates a token of any kind (RFC 6750, section 2.1), without the white space around it. If it is a JWT, its times
    /// are read; otherwise it has none.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Token`] if it is empty, or has characters other than visible ASCII, or quotes.
    pub fn opaque(token: impl AsRef<[u8]>) -> Result<Self, Error> {
        let token = jwt::trim(token.as_ref(), jwt::is_opaque_byte).map_err(fault)?;
        let times = Claims::parse(token).unwrap_or_default().times;
        Self::build(token, times)
    }

    fn build(token: &[u8], times: Times) -> Result<Self, Error> {
        let mut header = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
        header.extend_from_slice(SCHEME);
        header.extend_from_slice(token);
        let header = HeaderValue::from_maybe_shared(Bytes::from_owner(header));
        let mut header = header.map_err(|_| fault(TokenFault::Header))?;
        header.set_sensitive(true);
        Ok(Self { header, times })
    }

    /// `Bearer` and the token, marked sensitive. Cloning it copies nothing of the token.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// The same without a clone.
    pub(crate) fn into_header(self) -> HeaderValue {
        self.header
    }

    /// When the token expires (`exp`), if it says.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.times.expires_at
    }

    /// When the token was issued (`iat`), if it says.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.times.issued_at
    }

    /// When a Kubernetes token that formally lives for a year should have been replaced
    /// (`kubernetes.io.warnafter`), if it says.
    pub fn warn_after(&self) -> Option<SystemTime> {
        self.times.warn_after
    }

    /// Returns the token with this expiry, unless it expires before by itself.
    pub(crate) fn expiring_by(mut self, time: SystemTime) -> Self {
        let expiry = self.times.expires_at;
        self.times.expires_at = Some(expiry.map_or(time, |expiry| expiry.min(time)));
        self
    }

    /// Returns whether this token expires before another one. One that does not say when it expires never does.
    pub(crate) fn expires_before(&self, other: &Self) -> bool {
        match (self.expires_at(), other.expires_at()) {
            (Some(this), Some(other)) => this < other,
            _ => false,
        }
    }

    /// Returns whether the token has expired by then.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at().is_some_and(|expiry| expiry <= now)
    }

    /// The next moment at which a newer token is to be looked for: at 80 % of its life, when Kubernetes
    /// would warn, when it expires.
    pub(crate) fn renewal_after(&self, now: SystemTime) -> Option<SystemTime> {
        let at_80_percent = || {
            let (from, to) = (self.issued_at()?, self.expires_at()?);
            from.checked_add(to.duration_since(from).ok()?.mul_f64(0.8))
        };
        [at_80_percent(), self.warn_after(), self.expires_at()]
            .into_iter()
            .flatten()
            .filter(|&time| time > now)
            .min()
    }
}

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

fn fault(reason: TokenFault) -> Error {
    Error::Token { reason }
}

/// Seconds since the epoch as a time; nothing for what no calendar has.
fn time(seconds: f64) -> Option<SystemTime> {
    let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn fault_of(text: impl AsRef<[u8]>) -> Option<TokenFault> {
        match Token::new(text) {
            Ok(_) => None,
            Err(Error::Token { reason }) => Some(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_character_that_a_token_cannot_have_is_named_with_its_position() {
        let good = jwt(CLAIMS);
        let cases: [(Vec<u8>, &str, usize); 15] = [
            (format!("\u{feff}{good}").into(), "BOM", 1),
            ([b"\xff\xfe", good.as_bytes()].concat(), "UTF-16", 1),
            (format!("\"{good}\"").into(), "double quote", 1),
            (format!("  \"{good}\"\n").into(), "double quote", 3),
            (format!("'{good}'").into(), "single quote", 1),
            (format!("{good}\"").into(), "double quote", good.len() + 1),
            (format!("{good}\r\n{good}").into(), "CR", good.len() + 1),
            (format!("{good}\n{good}").into(), "LF", good.len() + 1),
            (format!("Bearer {good}").into(), "space", 7),
            (format!("{good}\t{good}").into(), "tab", good.len() + 1),
            (format!("{good}\0").into(), "NUL", good.len() + 1),
            (format!("{good}=").into(), "padding", good.len() + 1),
            (format!("+{good}").into(), "base64", 1),
            (format!("ä{good}").into(), "U+00E4", 1),
            ([b"\x80", good.as_bytes()].concat(), "0x80", 1),
        ];
        for (bytes, name, position) in cases {
            let Some(TokenFault::Character {
                character,
                position: found,
            }) = fault_of(&bytes)
            else {
                panic!("{name}: {:?}", fault_of(&bytes));
            };
            assert!(character.contains(name), "{character}");
            assert_eq!(found, position, "{character}");
            let text = Token::new(&bytes).unwrap_err().to_string();
            for part in good.split('.') {
                assert!(!text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn all_three_parts_are_checked() {
        let good = jwt(CLAIMS);
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts");
        };
        let sum = |parts: &[&str]| fault_of(parts.join("."));
        for found in [1, 2, 4, 5] {
            let parts = vec![header; found];
            assert_eq!(sum(&parts), Some(TokenFault::Parts { found }));
        }
        let empty = |part| Some(TokenFault::EmptyPart { part });
        assert_eq!(sum(&["", payload, signature]), empty("header"));
        assert_eq!(sum(&[header, "", signature]), empty("payload"));
        assert_eq!(sum(&[header, payload, ""]), empty("signature"));
        // A length that base64 cannot have, and bits beyond the last byte.
        let base64 = |part| Some(TokenFault::Base64 { part });
        for broken in ["a", "abcde", "e31"] {
            assert_eq!(sum(&[broken, payload, signature]), base64("header"));
            assert_eq!(sum(&[header, broken, signature]), base64("payload"));
            assert_eq!(sum(&[header, payload, broken]), base64("signature"));
        }
        let json = |part| Some(TokenFault::Json { part });
        // `[]`, `"a"`, `null`, half an object, two objects, bytes.
        for broken in ["W10", "ImEi", "bnVsbA", "eyJh", "e317fQ", "gICA"] {
            assert_eq!(
                sum(&[broken, payload, signature]),
                json("header"),
                "{broken}"
            );
            assert_eq!(
                sum(&[header, broken, signature]),
                json("payload"),
                "{broken}"
            );
        }
        assert_eq!(sum(&[header, payload, signature]), None);
    }

    #[test]
    fn a_signature_has_the_length_that_its_algorithm_implies() {
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
                assert_eq!(fault_of(signed(alg, length)), None, "{alg} {length}");
                // Cut off anywhere, or with more behind it.
                for other in [1, 9, length / 2, length - 1, length + 1, 2048] {
                    if lengths.contains(&other) {
                        continue;
                    }
                    let fault = fault_of(signed(alg, other));
                    let is_length = matches!(
                        fault,
                        Some(TokenFault::SignatureLength { found, .. }) if found == other
                    );
                    assert!(is_length, "{alg} {other}: {fault:?}");
                }
            }
        }
        assert_eq!(fault_of(signed("of-the-future", 3)), None);
    }

    #[test]
    fn an_opaque_token_in_quotes_is_refused() {
        for text in [
            "\"s3cr3t\"",
            "'s3cr3t'",
            "s3cr3t\r\ns3cr3t",
            "\u{feff}s3cr3t",
        ] {
            assert!(Token::opaque(text).is_err(), "{text:?}");
        }
    }

    fn at(seconds: f64) -> SystemTime {
        time(seconds).unwrap()
    }

    #[test]
    fn white_space_around_a_token_is_taken_off() {
        let text = jwt(CLAIMS);
        let token = Token::new(format!("\n {text}\r\n")).unwrap();
        assert_eq!(token.header(), format!("Bearer {text}").as_str());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let long = jwt("[]");
        for text in [
            "", " \n", "a b", "a.b", "a.b.c.d", "..", "ä.b.c", "a\0", &long, "a.b.c",
        ] {
            assert!(
                matches!(Token::new(text), Err(Error::Token { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_opaque_token_is_taken_where_it_is_asked_for() {
        assert!(Token::new("s3cr3t").is_err());
        assert_eq!(Token::opaque("s3cr3t\n").unwrap().header(), "Bearer s3cr3t");
        assert!(Token::opaque("two words").is_err());
        assert_eq!(
            Token::opaque(jwt(CLAIMS)).unwrap().expires_at(),
            Some(at(2000.0))
        );
    }

    #[test]
    fn times_are_read_and_absent_ones_are_absent() {
        let token = Token::new(jwt(CLAIMS)).unwrap();
        assert_eq!(token.issued_at(), Some(at(1000.0)));
        assert_eq!(token.expires_at(), Some(at(2000.0)));
        assert_eq!(token.warn_after(), Some(at(1500.0)));
        let token = Token::new(jwt("{}")).unwrap();
        assert_eq!(
            (token.issued_at(), token.expires_at(), token.warn_after()),
            (None, None, None)
        );
    }

    #[test]
    fn a_newer_token_is_looked_for_at_warnafter_at_80_percent_and_at_expiry() {
        let token = Token::new(jwt(CLAIMS)).unwrap();
        for (now, next) in [
            (1000.0, Some(1500.0)),
            (1500.0, Some(1800.0)),
            (1800.0, Some(2000.0)),
            (2000.0, None),
        ] {
            assert_eq!(token.renewal_after(at(now)), next.map(at), "{now}");
        }
    }

    #[test]
    fn a_token_is_expired_from_exp_on() {
        let token = Token::new(jwt(CLAIMS)).unwrap();
        assert!(!token.is_expired(at(1999.9)));
        assert!(token.is_expired(at(2000.0)));
    }

    #[test]
    fn debug_shows_no_token() {
        let text = jwt(CLAIMS);
        let token = Token::new(&text).unwrap();
        let shown = format!("{token:?} {:?}", token.header());
        for part in text.split('.') {
            assert!(!shown.contains(part), "{shown}");
        }
    }
}
