//! The registered claims of a token (RFC 7519, section 4.1), typed.
//!
//! Strings borrow from the payload, so that a token that is refused leaves no copies in memory. A claim of a wrong type is
//! an error and never counts as absent.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use super::error::TokenError;
use super::json::{self, UnexpectedJson};

/// The times in a token, as durations since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// `exp`
    pub(crate) expires_at: Duration,
    /// `nbf`
    pub(crate) not_before: Option<Duration>,
    /// `iat`
    pub(crate) issued_at: Option<Duration>,
}

impl Times {
    /// Returns how far `now` is from the time that this error is about: the time since `exp`, or the time until `nbf` or `iat`.
    /// Returns `None` for an error that is about none of them.
    pub(crate) fn distance(&self, error: TokenError, now: Duration) -> Option<Duration> {
        match error {
            TokenError::Expired => Some(now.saturating_sub(self.expires_at)),
            TokenError::NotYetValid => Some(self.not_before?.saturating_sub(now)),
            TokenError::IssuedInFuture => Some(self.issued_at?.saturating_sub(now)),
            _ => None,
        }
    }
}

/// The registered claims of a token.
#[derive(Debug)]
pub(crate) struct Claims<'p> {
    pub(crate) issuer: Cow<'p, str>,
    pub(crate) subject: Cow<'p, str>,
    pub(crate) audiences: Audiences<'p>,
    pub(crate) times: Times,
    pub(crate) token_id: Option<Cow<'p, str>>,
    /// The JSON text of the claim `kubernetes.io`.
    pub(crate) kubernetes: Option<&'p RawValue>,
    /// The JSON texts of the claims `scope` and `scp`.
    pub(crate) scopes: [Option<&'p RawValue>; 2],
    /// Whether the token has a claim `cnf`, whatever its value.
    pub(crate) is_sender_constrained: bool,
}

/// The JSON texts of the registered claims.
#[derive(Default)]
struct RawClaims<'p> {
    iss: Option<&'p RawValue>,
    sub: Option<&'p RawValue>,
    aud: Option<&'p RawValue>,
    exp: Option<&'p RawValue>,
    nbf: Option<&'p RawValue>,
    iat: Option<&'p RawValue>,
    jti: Option<&'p RawValue>,
    kubernetes: Option<&'p RawValue>,
    scope: Option<&'p RawValue>,
    scp: Option<&'p RawValue>,
    cnf: Option<&'p RawValue>,
}

impl<'p> Claims<'p> {
    /// Parses the JSON text of a claims set.
    pub(crate) fn parse(payload: &'p [u8]) -> Result<Self, TokenError> {
        let mut raw = RawClaims::default();
        json::read_object(payload, |name, value| {
            let slot = match name {
                "iss" => &mut raw.iss,
                "sub" => &mut raw.sub,
                "aud" => &mut raw.aud,
                "exp" => &mut raw.exp,
                "nbf" => &mut raw.nbf,
                "iat" => &mut raw.iat,
                "jti" => &mut raw.jti,
                "kubernetes.io" => &mut raw.kubernetes,
                "scope" => &mut raw.scope,
                "scp" => &mut raw.scp,
                "cnf" => &mut raw.cnf,
                _ => return,
            };
            *slot = Some(value);
        })
        .map_err(|_| TokenError::Malformed("the claims"))?;
        let (string, time) = (json::parse_string, parse_numeric_date);
        Ok(Self {
            issuer: optional(raw.iss, string, "the claim `iss` is not a string")?
                .ok_or(TokenError::Malformed("the claim `iss` is missing"))?,
            subject: optional(raw.sub, string, "the claim `sub` is not a string")?
                .ok_or(TokenError::Malformed("the claim `sub` is missing"))?,
            audiences: optional(
                raw.aud,
                Audiences::parse,
                "the claim `aud` is not a string or an array of strings",
            )?
            .unwrap_or_default(),
            times: Times {
                expires_at: optional(raw.exp, time, "the claim `exp` is not a time in seconds")?
                    .ok_or(TokenError::Malformed("the claim `exp` is missing"))?,
                not_before: optional(raw.nbf, time, "the claim `nbf` is not a time in seconds")?,
                issued_at: optional(raw.iat, time, "the claim `iat` is not a time in seconds")?,
            },
            token_id: optional(raw.jti, string, "the claim `jti` is not a string")?,
            kubernetes: raw.kubernetes,
            scopes: [raw.scope, raw.scp],
            is_sender_constrained: raw.cnf.is_some(),
        })
    }
}

/// Calls `visit` with the name and value of each claim that is a text and not empty. The payload must be a verified one.
pub(crate) fn for_each_text(
    payload: &[u8],
    mut visit: impl FnMut(&str, &str),
) -> Result<(), UnexpectedJson> {
    let payload = str::from_utf8(payload).map_err(|_| UnexpectedJson)?;
    json::for_each_member(payload, |name, value| {
        if let Ok(text) = json::parse_string(value)
            && !text.is_empty()
        {
            visit(&name, &text);
        }
    })
}

/// Parses a claim if the token has it; `message` describes a value of a wrong type.
fn optional<'p, T>(
    value: Option<&'p RawValue>,
    parse: impl FnOnce(&'p RawValue) -> Result<T, UnexpectedJson>,
    message: &'static str,
) -> Result<Option<T>, TokenError> {
    let parsed = value.map(parse).transpose();
    parsed.map_err(|UnexpectedJson| TokenError::Malformed(message))
}

/// The audiences of a token: one string or an array of strings (RFC 7519, section 4.1.3).
///
/// They are parsed at each use: a token may have thousands, and a list of them would be many times as large as the token.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Audiences<'p>(Option<&'p RawValue>);

impl<'p> Audiences<'p> {
    fn parse(value: &'p RawValue) -> Result<Self, UnexpectedJson> {
        for_each_string(value, |_| {})?;
        Ok(Self(Some(value)))
    }

    /// Returns whether any of the audiences is in `accepted`.
    pub(crate) fn contain_any_of(&self, accepted: &[String]) -> bool {
        let mut is_found = false;
        self.for_each(|audience| is_found |= accepted.iter().any(|own| *own == audience));
        is_found
    }

    /// Returns a copy of the audiences.
    pub(crate) fn to_vec(self) -> Vec<String> {
        let mut audiences = Vec::new();
        self.for_each(|audience| audiences.push(audience.into_owned()));
        audiences
    }

    fn for_each(&self, visit: impl FnMut(Cow<'p, str>)) {
        if let Some(value) = self.0 {
            // `parse` has checked the text, so this cannot fail.
            let _ = for_each_string(value, visit);
        }
    }
}

/// Calls `visit` for a string, or for each string of an array of strings.
fn for_each_string<'p>(
    value: &'p RawValue,
    mut visit: impl FnMut(Cow<'p, str>),
) -> Result<(), UnexpectedJson> {
    if let Ok(only) = json::parse_string(value) {
        visit(only);
        return Ok(());
    }
    let mut are_strings = Ok(());
    json::for_each_element(value.get(), |element| match json::parse_string(element) {
        Ok(string) => visit(string),
        Err(unexpected) => are_strings = Err(unexpected),
    })?;
    are_strings
}

/// Parses a NumericDate (RFC 7519, section 2): a number of seconds since the Unix epoch, possibly with a fraction.
fn parse_numeric_date(value: &RawValue) -> Result<Duration, UnexpectedJson> {
    let number = json::number_text(value)?;
    if let Ok(seconds) = number.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let seconds: f64 = number.parse().map_err(|_| UnexpectedJson)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| UnexpectedJson)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = r#""iss":"i","sub":"s","aud":["a","b"],"exp":200,"nbf":100,"iat":100"#;

    fn claims(members: &str) -> Result<Claims<'static>, TokenError> {
        Claims::parse(format!("{{{members}}}").leak().as_bytes())
    }

    #[test]
    fn times_of_a_wrong_type_are_refused_rather_than_ignored() {
        for name in ["exp", "nbf", "iat"] {
            for value in [
                r#""100""#,
                "null",
                "true",
                "[100]",
                "{}",
                "-1",
                "1e300",
                "-0.5",
                "1e400",
                "18446744073709551616",
                r#""1e2""#,
            ] {
                let members = format!(r#""iss":"i","sub":"s","{name}":{value},"x":1"#);
                let members = if name == "exp" {
                    members
                } else {
                    format!(r#"{members},"exp":200"#)
                };
                assert!(
                    matches!(claims(&members), Err(TokenError::Malformed(_))),
                    "{members}"
                );
            }
        }
    }

    #[test]
    fn issuers_and_audiences_of_a_wrong_type_are_refused() {
        for members in [
            r#""iss":["i"],"sub":"s","exp":200"#,
            r#""iss":"i","sub":1,"exp":200"#,
            r#""iss":"i","sub":"s","aud":1,"exp":200"#,
            r#""iss":"i","sub":"s","aud":["a",1],"exp":200"#,
            r#""iss":"i","sub":"s","aud":{"a":1},"exp":200"#,
        ] {
            assert!(
                matches!(claims(members), Err(TokenError::Malformed(_))),
                "{members}"
            );
        }
    }

    #[test]
    fn a_token_without_expiry_issuer_or_subject_is_refused() {
        for (name, members) in [
            ("`exp`", r#""iss":"i","sub":"s""#),
            ("`iss`", r#""sub":"s","exp":200"#),
            ("`sub`", r#""iss":"i","exp":200"#),
        ] {
            let refused = claims(members).expect_err(members);
            assert!(matches!(refused, TokenError::Malformed(_)), "{members}");
            let text = refused.to_string();
            assert!(text.contains(name) && text.contains("missing"), "{text}");
        }
    }

    #[test]
    fn the_error_names_the_claim_of_a_wrong_type() {
        for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
            let mut members = serde_json::json!({
                "iss": "i", "sub": "s", "aud": "a", "exp": 200, "nbf": 100, "iat": 100, "jti": "j",
            });
            assert!(Claims::parse(members.to_string().as_bytes()).is_ok());
            for wrong in [serde_json::json!(null), serde_json::json!({ "a": 1 })] {
                members[name] = wrong;
                let payload = members.to_string();
                let refused = Claims::parse(payload.as_bytes());
                let text = refused.expect_err(name).to_string();
                assert!(text.contains(&format!("claim `{name}` is not")), "{text}");
            }
        }
    }

    #[test]
    fn audiences_are_one_string_or_an_array_of_strings() {
        for (aud, expected) in [
            (r#""a""#, &["a"][..]),
            (r#""\u0061""#, &["a"]),
            (r#"["a","b\n","a"]"#, &["a", "b\n", "a"]),
            ("[]", &[]),
        ] {
            let claims = claims(&format!(r#""iss":"i","sub":"s","aud":{aud},"exp":200"#));
            let audiences = claims.expect("valid claims").audiences;
            assert_eq!(audiences.to_vec(), expected, "{aud}");
            assert_eq!(
                audiences.contain_any_of(&["a".into()]),
                expected.contains(&"a")
            );
            assert!(!audiences.contain_any_of(&["b".into()]));
        }
    }

    #[test]
    fn a_confirmation_claim_is_detected_whatever_its_value() {
        assert!(!claims(VALID).unwrap().is_sender_constrained);
        for value in ["{}", "null", "1", r#"{"jkt":"x"}"#, "[]", r#""""#] {
            for name in ["cnf", r"\u0063nf"] {
                let claims = claims(&format!(r#"{VALID},"{name}":{value}"#));
                assert!(claims.unwrap().is_sender_constrained, "{name} {value}");
            }
        }
    }

    #[test]
    fn repeated_claims_are_refused() {
        for extra in [
            r#""exp":300"#,
            r#""x":1,"x":1"#,
            r#""\u0073ub":"other""#,
            r#""aud":"a""#,
        ] {
            assert!(
                matches!(
                    claims(&format!("{VALID},{extra}")),
                    Err(TokenError::Malformed(_))
                ),
                "{extra}"
            );
        }
    }

    #[test]
    fn times_may_have_fractions_and_exponents() {
        for (exp, milliseconds) in [
            ("200.5", 200_500),
            ("2.005e2", 200_500),
            ("1e3", 1_000_000),
            ("1E+3", 1_000_000),
            ("1000.0", 1_000_000),
            ("0", 0),
            ("-0", 0),
        ] {
            let claims = claims(&format!(r#""iss":"i","sub":"s","aud":"a","exp":{exp}"#));
            let expires_at = claims.unwrap().times.expires_at;
            assert_eq!(expires_at, Duration::from_millis(milliseconds), "{exp}");
        }
    }

    #[test]
    fn an_object_never_counts_as_a_number() {
        // With the feature `arbitrary_precision`, serde_json represents numbers in this way.
        let exp = r#"{"$serde_json::private::Number":"200"}"#;
        let refused = claims(&format!(r#""iss":"i","sub":"s","aud":"a","exp":{exp}"#));
        assert!(matches!(refused, Err(TokenError::Malformed(_))));
    }
}
