//! The claims set (RFC 7519, section 4), typed.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::frugal;
use super::unique::{Names, Text};
use crate::rejection::Rejection;

/// More audiences than any sound token has.
const MAX_AUDIENCES: usize = 64;

/// When a token is valid, counted from the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) expires_at: Duration,
    pub(crate) not_before: Option<Duration>,
    pub(crate) issued_at: Option<Duration>,
}

/// What a token says of itself, typed. Texts borrow from the payload,
/// so that a token that is refused leaves no copies behind.
#[derive(Debug)]
pub(crate) struct Claims<'p> {
    pub(crate) issuer: Cow<'p, str>,
    pub(crate) subject: Cow<'p, str>,
    pub(crate) audiences: Vec<Cow<'p, str>>,
    pub(crate) times: Times,
    pub(crate) token_id: Option<Cow<'p, str>>,
    /// The claim `kubernetes.io`, as it stands.
    pub(crate) kubernetes: Option<&'p RawValue>,
}

impl<'p> Claims<'p> {
    /// Reads the claims; one of a wrong type is refused, never taken for absent.
    pub(crate) fn parse(payload: &'p [u8]) -> Result<Self, Rejection> {
        let malformed = Rejection::Malformed("the claims");
        if !frugal::is_cheap_to_read(payload) {
            return Err(malformed);
        }
        serde_json::from_slice(payload).map_err(|_| malformed)
    }
}

impl<'de: 'p, 'p> Deserialize<'de> for Claims<'p> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JWT claims set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims<'de>, A::Error> {
        let mut names = Names::default();
        let (mut issuer, mut subject, mut expires_at) = (None, None, None);
        let (mut not_before, mut issued_at) = (None, None);
        let (mut audiences, mut token_id, mut kubernetes) = (Vec::new(), None, None);
        while let Some(Text(name)) = map.next_key()? {
            match name.as_ref() {
                "iss" => issuer = Some(map.next_value::<Text<'_>>()?.0),
                "sub" => subject = Some(map.next_value::<Text<'_>>()?.0),
                "aud" => audiences = map.next_value::<Audiences<'_>>()?.0,
                "exp" => expires_at = Some(map.next_value::<NumericDate>()?.0),
                "nbf" => not_before = Some(map.next_value::<NumericDate>()?.0),
                "iat" => issued_at = Some(map.next_value::<NumericDate>()?.0),
                "jti" => token_id = Some(map.next_value::<Text<'_>>()?.0),
                "kubernetes.io" => kubernetes = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            names.take(name).map_err(A::Error::custom)?;
        }
        Ok(Claims {
            issuer: issuer.ok_or_else(|| A::Error::missing_field("iss"))?,
            subject: subject.ok_or_else(|| A::Error::missing_field("sub"))?,
            audiences,
            times: Times {
                expires_at: expires_at.ok_or_else(|| A::Error::missing_field("exp"))?,
                not_before,
                issued_at,
            },
            token_id,
            kubernetes,
        })
    }
}

/// One string, or an array of them (RFC 7519, section 4.1.3).
struct Audiences<'a>(Vec<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Audiences<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audiences<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_borrowed_str<E: serde::de::Error>(
                self,
                one: &'de str,
            ) -> Result<Audiences<'de>, E> {
                Ok(Audiences(vec![Cow::Borrowed(one)]))
            }

            fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Audiences<'de>, E> {
                Ok(Audiences(vec![Cow::Owned(one.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Audiences<'de>, A::Error> {
                let mut audiences = Vec::new();
                while let Some(Text(one)) = many.next_element()? {
                    if audiences.len() == MAX_AUDIENCES {
                        return Err(A::Error::custom("too many audiences"));
                    }
                    audiences.push(one);
                }
                Ok(Audiences(audiences))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Seconds since the epoch, possibly with a fraction (RFC 7519, section 2); never a string.
struct NumericDate(Duration);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;
        impl Visitor<'_> for Seconds {
            type Value = NumericDate;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("seconds since the epoch")
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(Duration::from_secs(seconds)))
            }

            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<NumericDate, E> {
                Duration::try_from_secs_f64(seconds)
                    .map(NumericDate)
                    .map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Seconds)
    }
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
                r#""100""#, "null", "true", "[100]", "{}", "-1", "1e300", "-0.5",
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
        for members in [
            r#""iss":"i","sub":"s""#,
            r#""sub":"s","exp":200"#,
            r#""iss":"i","exp":200"#,
        ] {
            assert!(
                matches!(claims(members), Err(Rejection::Malformed(_))),
                "{members}"
            );
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
    fn fractions_of_a_second_count() {
        let claims = claims(r#""iss":"i","sub":"s","aud":"a","exp":200.5"#).unwrap();
        assert_eq!(claims.times.expires_at, Duration::from_millis(200_500));
    }
}
