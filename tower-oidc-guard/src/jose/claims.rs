//! The claims set (RFC 7519, section 4), typed.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use super::json::{self, Unexpected};
use crate::rejection::Rejection;

/// When a token is valid, counted from the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) expires_at: Duration,
    pub(crate) not_before: Option<Duration>,
    pub(crate) issued_at: Option<Duration>,
}

/// The registered claims of a token, typed. Strings borrow from the payload, so that a token that is refused leaves
/// no copies behind.
#[derive(Debug)]
pub(crate) struct Claims<'p> {
    pub(crate) issuer: Cow<'p, str>,
    pub(crate) subject: Cow<'p, str>,
    pub(crate) audiences: Audiences<'p>,
    pub(crate) times: Times,
    pub(crate) token_id: Option<Cow<'p, str>>,
    /// The claim `kubernetes.io`, as it stands.
    pub(crate) kubernetes: Option<&'p RawValue>,
    /// Whether there is a claim `cnf`, whatever its value.
    pub(crate) is_sender_constrained: bool,
}

/// The claims as they stand in the payload.
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
    cnf: Option<&'p RawValue>,
}

impl<'p> Claims<'p> {
    /// Reads the claims. A claim of a wrong type is an error; it never counts as absent.
    pub(crate) fn parse(payload: &'p [u8]) -> Result<Self, Rejection> {
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
                "cnf" => &mut raw.cnf,
                _ => return,
            };
            *slot = Some(value);
        })
        .map_err(|_| Rejection::Malformed("the claims"))?;
        let (string, time) = (json::string, numeric_date);
        Ok(Self {
            issuer: optional(raw.iss, string, "the claim `iss` is not a string")?
                .ok_or(Rejection::Malformed("the claim `iss` is missing"))?,
            subject: optional(raw.sub, string, "the claim `sub` is not a string")?
                .ok_or(Rejection::Malformed("the claim `sub` is missing"))?,
            audiences: optional(
                raw.aud,
                Audiences::read,
                "the claim `aud` is not a string or an array of strings",
            )?
            .unwrap_or_default(),
            times: Times {
                expires_at: optional(raw.exp, time, "the claim `exp` is not a time in seconds")?
                    .ok_or(Rejection::Malformed("the claim `exp` is missing"))?,
                not_before: optional(raw.nbf, time, "the claim `nbf` is not a time in seconds")?,
                issued_at: optional(raw.iat, time, "the claim `iat` is not a time in seconds")?,
            },
            token_id: optional(raw.jti, string, "the claim `jti` is not a string")?,
            kubernetes: raw.kubernetes,
            is_sender_constrained: raw.cnf.is_some(),
        })
    }
}

fn optional<'p, T>(
    value: Option<&'p RawValue>,
    read: impl FnOnce(&'p RawValue) -> Result<T, Unexpected>,
    otherwise: &'static str,
) -> Result<Option<T>, Rejection> {
    let read = value.map(read).transpose();
    read.map_err(|Unexpected| Rejection::Malformed(otherwise))
}

/// The audiences of a token: one string, or an array of strings (RFC 7519, section 4.1.3). They are read anew each
/// time they are asked for: a token may have thousands, and a list of them would be many times as large as the token.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Audiences<'p>(Option<&'p RawValue>);

impl<'p> Audiences<'p> {
    fn read(value: &'p RawValue) -> Result<Self, Unexpected> {
        for_each_string(value, |_| {})?;
        Ok(Self(Some(value)))
    }

    /// Returns whether one of the audiences is one of these.
    pub(crate) fn has_any_of(&self, accepted: &[String]) -> bool {
        let mut has = false;
        self.for_each(|audience| has |= accepted.iter().any(|accepted| *accepted == audience));
        has
    }

    /// Returns a copy of the audiences.
    pub(crate) fn to_vec(self) -> Vec<String> {
        let mut audiences = Vec::new();
        self.for_each(|audience| audiences.push(audience.into_owned()));
        audiences
    }

    fn for_each(&self, visit: impl FnMut(Cow<'p, str>)) {
        if let Some(value) = self.0 {
            // It was read before, and so can be read again.
            let _ = for_each_string(value, visit);
        }
    }
}

/// Calls `visit` for a string, or for each string of an array of strings.
fn for_each_string<'p>(
    value: &'p RawValue,
    mut visit: impl FnMut(Cow<'p, str>),
) -> Result<(), Unexpected> {
    if let Ok(only) = json::string(value) {
        visit(only);
        return Ok(());
    }
    let mut are_strings = Ok(());
    json::elements(value.get(), |element| match json::string(element) {
        Ok(string) => visit(string),
        Err(unexpected) => are_strings = Err(unexpected),
    })?;
    are_strings
}

/// Reads seconds since the epoch, possibly with a fraction (RFC 7519, section 2): a number, never a string.
fn numeric_date(value: &RawValue) -> Result<Duration, Unexpected> {
    let number = json::number(value)?;
    if let Ok(seconds) = number.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let seconds: f64 = number.parse().map_err(|_| Unexpected)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| Unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#""iss":"i","sub":"s","aud":["a","b"],"exp":200,"nbf":100,"iat":100"#;

    fn claims(members: &str) -> Result<Claims<'static>, Rejection> {
        Claims::parse(format!("{{{members}}}").leak().as_bytes())
    }

    #[test]
    fn times_of_a_wrong_type_are_refused_not_taken_for_absent() {
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
                    matches!(claims(&members), Err(Rejection::Malformed(_))),
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
                matches!(claims(members), Err(Rejection::Malformed(_))),
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
            assert!(matches!(refused, Rejection::Malformed(_)), "{members}");
            let text = refused.to_string();
            assert!(text.contains(name) && text.contains("missing"), "{text}");
        }
    }

    #[test]
    fn a_claim_of_a_wrong_type_is_named() {
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
            let audiences = claims.expect("sound claims").audiences;
            assert_eq!(audiences.to_vec(), expected, "{aud}");
            assert_eq!(audiences.has_any_of(&["a".into()]), expected.contains(&"a"));
            assert!(!audiences.has_any_of(&["b".into()]));
        }
    }

    #[test]
    fn a_confirmation_claim_is_noticed_whatever_its_value() {
        assert!(!claims(SOUND).unwrap().is_sender_constrained);
        for value in ["{}", "null", "1", r#"{"jkt":"x"}"#, "[]", r#""""#] {
            for name in ["cnf", r"\u0063nf"] {
                let claims = claims(&format!(r#"{SOUND},"{name}":{value}"#));
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
                    claims(&format!("{SOUND},{extra}")),
                    Err(Rejection::Malformed(_))
                ),
                "{extra}"
            );
        }
    }

    #[test]
    fn fractions_of_a_second_and_exponents_count() {
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
        assert!(matches!(refused, Err(Rejection::Malformed(_))));
    }
}
