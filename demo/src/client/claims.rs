//! The claims of a token, as far as the sender of the token can see them: without verifying its signature.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use reqwest_wi_auth::Token;
use serde_json::Value;

use super::challenge::bounded;

/// The claims of a token whose signature was not verified. They describe the token to its sender, and decide nothing.
///
/// Their text is from the token's issuer. It is bounded, and has to be [escaped](crate::escape::escape) before it is
/// printed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct UnverifiedClaims {
    pub(crate) algorithm: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) issued_at: Option<SystemTime>,
    pub(crate) not_before: Option<SystemTime>,
    pub(crate) expires_at: Option<SystemTime>,
    /// When Kubernetes expects the token to have been replaced (`kubernetes.io.warnafter`).
    pub(crate) warn_after: Option<SystemTime>,
}

/// The largest number of audiences that are kept.
const MAX_AUDIENCES: usize = 8;

impl UnverifiedClaims {
    /// Parses the claims of a token. Returns `None` if it is not a JWT.
    pub(crate) fn parse(token: &Token) -> Option<Self> {
        Self::from_header(token.header())
    }

    fn from_header(header: &HeaderValue) -> Option<Self> {
        let header = std::str::from_utf8(header.as_bytes()).ok()?;
        let mut parts = header.strip_prefix("Bearer ")?.split('.');
        let (jose_header, payload) = (decode(parts.next()?)?, decode(parts.next()?)?);
        let text = |claim: &Value| claim.as_str().map(bounded);
        let time = |claim: &Value| time(claim.as_f64()?);
        let audiences = match &payload["aud"] {
            Value::Array(audiences) => audiences
                .iter()
                .filter_map(text)
                .take(MAX_AUDIENCES)
                .collect(),
            audience => text(audience).into_iter().collect(),
        };
        Some(Self {
            algorithm: text(&jose_header["alg"]),
            issuer: text(&payload["iss"]),
            subject: text(&payload["sub"]),
            audiences,
            issued_at: time(&payload["iat"]),
            not_before: time(&payload["nbf"]),
            expires_at: time(&payload["exp"]),
            warn_after: time(&payload["kubernetes.io"]["warnafter"]),
        })
    }

    /// Returns the time between issue and expiry, or `None` if a claim is missing.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.expires_at?.duration_since(self.issued_at?).ok()
    }
}

fn decode(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn time(seconds: f64) -> Option<SystemTime> {
    let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str, payload: &str) -> Option<UnverifiedClaims> {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("Bearer {}.{}.c2ln", encode(header), encode(payload));
        UnverifiedClaims::from_header(&HeaderValue::try_from(token).unwrap())
    }

    #[test]
    fn claims_are_parsed_and_claims_of_another_type_are_ignored() {
        let payload = r#"{"iss":"i","sub":"s","aud":["a","b"],"iat":100,"nbf":100.5,"exp":700,"kubernetes.io":{"warnafter":400}}"#;
        let claims = parse(r#"{"alg":"RS256"}"#, payload).unwrap();
        assert_eq!(claims.algorithm.as_deref(), Some("RS256"));
        assert_eq!(claims.issuer.as_deref(), Some("i"));
        assert_eq!(claims.subject.as_deref(), Some("s"));
        assert_eq!(claims.audiences, ["a", "b"]);
        assert_eq!(claims.lifetime(), Some(Duration::from_secs(600)));
        assert_eq!(claims.warn_after, time(400.0));
        assert_eq!(claims.not_before, time(100.5));
        let one = parse("{}", r#"{"aud":"a","iss":7,"exp":"soon","iat":1e300}"#).unwrap();
        assert_eq!(one.audiences, ["a"]);
        assert_eq!(
            (one.issuer, one.expires_at, one.issued_at),
            (None, None, None)
        );
        assert_eq!(parse("{}", "[]"), Some(UnverifiedClaims::default()));
        assert_eq!(parse("{}", "nonsense"), None);
    }

    #[test]
    fn text_and_number_of_claims_are_bounded() {
        let audiences = vec!["é".repeat(1000); 1000];
        let payload = serde_json::json!({ "aud": audiences, "sub": "a".repeat(100_000) });
        let claims = parse("{}", &payload.to_string()).unwrap();
        assert_eq!(claims.audiences.len(), MAX_AUDIENCES);
        assert!(claims.subject.unwrap().len() < 1000);
    }
}
