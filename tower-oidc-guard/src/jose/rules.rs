//! What a token must say to be taken: the checks that need no key.

use std::time::Duration;

use super::claims::{Claims, Times};
use crate::rejection::Rejection;

/// What a token must say to be taken from its issuer.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) audiences: Vec<String>,
    pub(crate) leeway: Duration,
    /// The types that are taken; none named means `JWT`, or none.
    pub(crate) types: Vec<String>,
    pub(crate) max_lifetime: Option<Duration>,
}

impl Rules {
    /// Everything that can be said without a key. `now` is counted from the Unix epoch.
    pub(crate) fn check(
        &self,
        typ: Option<&str>,
        claims: &Claims<'_>,
        now: Duration,
    ) -> Result<(), Rejection> {
        if !self.takes_type(typ) {
            return Err(Rejection::WrongType);
        }
        if !claims.audiences.has_any_of(&self.audiences) {
            return Err(Rejection::WrongAudience);
        }
        if claims.is_sender_constrained {
            return Err(Rejection::SenderConstrained);
        }
        if let Some(most) = self.max_lifetime {
            let issued = claims.times.issued_at.ok_or(Rejection::LivesTooLong)?;
            if claims.times.expires_at.saturating_sub(issued) > most {
                return Err(Rejection::LivesTooLong);
            }
        }
        self.check_times(&claims.times, now)
    }

    /// What has to be looked at each time that a token is used.
    pub(crate) fn check_times(&self, times: &Times, now: Duration) -> Result<(), Rejection> {
        if now >= times.expires_at.saturating_add(self.leeway) {
            return Err(Rejection::Expired);
        }
        let soon = now.saturating_add(self.leeway);
        if times.not_before.is_some_and(|time| soon < time) {
            return Err(Rejection::NotYetValid);
        }
        if times.issued_at.is_some_and(|time| soon < time) {
            return Err(Rejection::IssuedInFuture);
        }
        Ok(())
    }

    fn takes_type(&self, typ: Option<&str>) -> bool {
        let typ = typ.map(without_application);
        match typ {
            None => self.types.is_empty(),
            Some(typ) if self.types.is_empty() => typ.eq_ignore_ascii_case("JWT"),
            Some(typ) => self
                .types
                .iter()
                .any(|taken| without_application(taken).eq_ignore_ascii_case(typ)),
        }
    }
}

/// The prefix that RFC 7515, section 4.1.9, has senders leave out.
fn without_application(typ: &str) -> &str {
    const PREFIX: &str = "application/";
    match typ.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => typ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#""iss":"i","sub":"s","aud":["a","b"],"exp":200,"nbf":100,"iat":100"#;

    fn claims(members: &str) -> Claims<'static> {
        Claims::parse(format!("{{{members}}}").leak().as_bytes()).unwrap()
    }

    fn at(seconds: u64, leeway: u64) -> Result<(), Rejection> {
        let rules = Rules {
            audiences: vec!["b".into()],
            leeway: Duration::from_secs(leeway),
            types: Vec::new(),
            max_lifetime: None,
        };
        rules.check(None, &claims(SOUND), Duration::from_secs(seconds))
    }

    #[test]
    fn a_token_lives_from_nbf_up_to_but_not_at_exp() {
        assert_eq!(at(99, 0), Err(Rejection::NotYetValid));
        assert_eq!(at(100, 0), Ok(()));
        assert_eq!(at(199, 0), Ok(()));
        assert_eq!(at(200, 0), Err(Rejection::Expired));
    }

    #[test]
    fn leeway_stretches_both_ends() {
        assert_eq!(at(89, 10), Err(Rejection::NotYetValid));
        assert_eq!(at(90, 10), Ok(()));
        assert_eq!(at(209, 10), Ok(()));
        assert_eq!(at(210, 10), Err(Rejection::Expired));
    }

    #[test]
    fn a_token_issued_in_the_future_is_refused_without_nbf_too() {
        let rules = Rules {
            audiences: vec!["a".into()],
            leeway: Duration::ZERO,
            types: Vec::new(),
            max_lifetime: None,
        };
        let claims = claims(r#""iss":"i","sub":"s","aud":"a","exp":200,"iat":100"#);
        assert_eq!(
            rules.check(None, &claims, Duration::from_secs(99)),
            Err(Rejection::IssuedInFuture)
        );
    }

    #[test]
    fn a_token_for_nobody_or_for_another_is_refused() {
        let rules = Rules {
            audiences: vec!["a".into()],
            leeway: Duration::ZERO,
            types: Vec::new(),
            max_lifetime: None,
        };
        for aud in [r#""aud":[],"#, r#""aud":"A","#, r#""aud":["b","a "],"#, ""] {
            let claims = claims(&format!(r#""iss":"i","sub":"s",{aud}"exp":200"#));
            let verdict = rules.check(None, &claims, Duration::from_secs(100));
            assert_eq!(verdict, Err(Rejection::WrongAudience), "{aud}");
        }
    }

    #[test]
    fn a_token_that_is_bound_to_a_key_of_its_sender_is_refused() {
        let rules = Rules {
            audiences: vec!["a".into()],
            leeway: Duration::ZERO,
            types: Vec::new(),
            max_lifetime: None,
        };
        for value in ["{}", "null", r#"{"x5t#S256":"x"}"#, "[]"] {
            let claims = claims(&format!(r#"{SOUND},"cnf":{value}"#));
            let verdict = rules.check(None, &claims, Duration::from_secs(150));
            assert_eq!(verdict, Err(Rejection::SenderConstrained), "{value}");
        }
    }

    #[test]
    fn a_typ_other_than_jwt_is_refused() {
        let rules = Rules {
            audiences: vec!["a".into()],
            leeway: Duration::ZERO,
            types: Vec::new(),
            max_lifetime: None,
        };
        let claims = claims(SOUND);
        let check = |typ| rules.check(typ, &claims, Duration::from_secs(150));
        assert_eq!(check(Some("JWT")), Ok(()));
        assert_eq!(check(Some("jwt")), Ok(()));
        assert_eq!(check(Some("dpop+jwt")), Err(Rejection::WrongType));
    }
}
