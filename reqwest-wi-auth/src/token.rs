//! A bearer token: the header value, built once, and the times it says of itself.

mod times;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use self::times::Times;
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
    /// A JWT in compact form (RFC 7519), with white space around it taken off. Its times are read; its
    /// signature is not checked: that is up to who receives it.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] if it is empty, cannot stand in a header, or is not a JWT.
    pub fn new(token: impl AsRef<[u8]>) -> Result<Self, Error> {
        let token = checked(token.as_ref())?;
        let times = Times::of_jwt(token).map_err(|reason| Error::Token { reason })?;
        Self::build(token, times)
    }

    /// A token of any kind (RFC 6750, section 2.1), with white space around it taken off. Where it is a
    /// JWT, its times are read; otherwise it has none.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] if it is empty or cannot stand in a header.
    pub fn opaque(token: impl AsRef<[u8]>) -> Result<Self, Error> {
        let token = checked(token.as_ref())?;
        Self::build(token, Times::of_jwt(token).unwrap_or_default())
    }

    fn build(token: &[u8], times: Times) -> Result<Self, Error> {
        let mut header = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
        header.extend_from_slice(SCHEME);
        header.extend_from_slice(token);
        let mut header =
            HeaderValue::from_maybe_shared(Bytes::from_owner(header)).map_err(|_| {
                let reason = "it cannot stand in a header";
                Error::Token { reason }
            })?;
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

    /// Whether the token has expired by then.
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

/// Without the white space around it; visible ASCII without white space in it.
fn checked(token: &[u8]) -> Result<&[u8], Error> {
    let token = token.trim_ascii();
    let wrong = |reason| Err(Error::Token { reason });
    if token.is_empty() {
        return wrong("it is empty");
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return wrong("it has characters that a token does not have");
    }
    Ok(token)
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
        let encode = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        format!("{}.{}.c2ln", encode(r#"{"alg":"RS256"}"#), encode(claims))
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
