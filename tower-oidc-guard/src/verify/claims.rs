//! The claims set (RFC 7519, section 4), typed.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::kubernetes::Kubernetes;
use super::unique::{Names, Text};
use crate::rejection::Rejection;

/// What a token says of itself, typed. Times are counted from the Unix epoch.
#[derive(Debug)]
pub(crate) struct Claims {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires_at: Duration,
    pub(crate) not_before: Option<Duration>,
    pub(crate) issued_at: Option<Duration>,
    pub(crate) token_id: Option<String>,
    pub(crate) kubernetes: Option<Kubernetes>,
}

impl Claims {
    /// Reads the claims; one of a wrong type is refused, never taken for absent.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Rejection> {
        serde_json::from_slice(payload).map_err(|_| Rejection::Malformed("the claims"))
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JWT claims set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut names = Names::default();
        let (mut issuer, mut subject, mut expires_at) = (None, None, None);
        let (mut not_before, mut issued_at) = (None, None);
        let (mut audiences, mut token_id, mut kubernetes) = (Vec::new(), None, None);
        while let Some(Text(name)) = map.next_key()? {
            match name.as_ref() {
                "iss" => issuer = Some(map.next_value()?),
                "sub" => subject = Some(map.next_value()?),
                "aud" => audiences = map.next_value::<Audiences>()?.0,
                "exp" => expires_at = Some(map.next_value::<NumericDate>()?.0),
                "nbf" => not_before = Some(map.next_value::<NumericDate>()?.0),
                "iat" => issued_at = Some(map.next_value::<NumericDate>()?.0),
                "jti" => token_id = Some(map.next_value()?),
                "kubernetes.io" => kubernetes = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            names.take(name).map_err(A::Error::custom)?;
        }
        Ok(Claims {
            issuer: issuer.ok_or_else(|| A::Error::missing_field("iss"))?,
            subject: subject.ok_or_else(|| A::Error::missing_field("sub"))?,
            audiences,
            expires_at: expires_at.ok_or_else(|| A::Error::missing_field("exp"))?,
            not_before,
            issued_at,
            token_id,
            kubernetes,
        })
    }
}

/// One string, or an array of them (RFC 7519, section 4.1.3).
struct Audiences(Vec<String>);

impl<'de> Deserialize<'de> for Audiences {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audiences;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Audiences, E> {
                Ok(Audiences(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Audiences, A::Error> {
                let mut audiences = Vec::new();
                while let Some(one) = many.next_element()? {
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

    fn claims(members: &str) -> Result<Claims, Rejection> {
        Claims::parse(format!("{{{members}}}").as_bytes())
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
        assert_eq!(claims.expires_at, Duration::from_millis(200_500));
    }
}
