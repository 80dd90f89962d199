//! Validation of the type, the audience and the times of a token, which needs no key.

use std::time::Duration;

use super::claims::{Claims, Times};
use super::error::TokenError;

/// The settings of an issuer that its tokens are validated with.
#[derive(Debug, Clone)]
pub(crate) struct ClaimRules {
    /// Accepted values of `aud`.
    pub(crate) audiences: Vec<String>,
    /// The allowed difference between the clocks of the issuer and this machine.
    pub(crate) leeway: Duration,
    /// Accepted values of the header parameter `typ`. If empty, a token has the type `JWT` or none.
    pub(crate) types: Vec<String>,
    /// The longest accepted time between `iat` and `exp`.
    pub(crate) max_lifetime: Option<Duration>,
}

impl ClaimRules {
    /// Validates the type and the registered claims of a token. `now` is the time since the Unix epoch.
    pub(crate) fn validate(
        &self,
        typ: Option<&str>,
        claims: &Claims<'_>,
        now: Duration,
    ) -> Result<(), TokenError> {
        self.validate_type(typ)?;
        self.validate_audience(claims)?;
        self.validate_sender(claims)?;
        self.validate_lifetime(&claims.times)?;
        self.validate_times(&claims.times, now)
    }

    pub(super) fn validate_type(&self, typ: Option<&str>) -> Result<(), TokenError> {
        ok_if(self.accepts_type(typ), TokenError::WrongType)
    }

    pub(super) fn validate_audience(&self, claims: &Claims<'_>) -> Result<(), TokenError> {
        let is_accepted = claims.audiences.contain_any_of(&self.audiences);
        ok_if(is_accepted, TokenError::WrongAudience)
    }

    pub(super) fn validate_sender(&self, claims: &Claims<'_>) -> Result<(), TokenError> {
        let is_bearer_token = !claims.is_sender_constrained;
        ok_if(is_bearer_token, TokenError::SenderConstrained)
    }

    pub(super) fn validate_lifetime(&self, times: &Times) -> Result<(), TokenError> {
        let Some(max) = self.max_lifetime else {
            return Ok(());
        };
        let issued_at = times.issued_at.ok_or(TokenError::LivesTooLong)?;
        let lifetime = times.expires_at.saturating_sub(issued_at);
        ok_if(lifetime <= max, TokenError::LivesTooLong)
    }

    /// Validates the times of a token, which has to be done at each use. `now` is the time since the Unix epoch.
    pub(crate) fn validate_times(&self, times: &Times, now: Duration) -> Result<(), TokenError> {
        self.validate_expiry(times, now)?;
        self.validate_not_before(times, now)?;
        self.validate_issued_at(times, now)
    }

    pub(super) fn validate_expiry(&self, times: &Times, now: Duration) -> Result<(), TokenError> {
        let end = times.expires_at.saturating_add(self.leeway);
        ok_if(now < end, TokenError::Expired)
    }

    pub(super) fn validate_not_before(
        &self,
        times: &Times,
        now: Duration,
    ) -> Result<(), TokenError> {
        let latest = now.saturating_add(self.leeway);
        let is_valid = times.not_before.is_none_or(|time| time <= latest);
        ok_if(is_valid, TokenError::NotYetValid)
    }

    pub(super) fn validate_issued_at(
        &self,
        times: &Times,
        now: Duration,
    ) -> Result<(), TokenError> {
        let latest = now.saturating_add(self.leeway);
        let is_valid = times.issued_at.is_none_or(|time| time <= latest);
        ok_if(is_valid, TokenError::IssuedInFuture)
    }

    fn accepts_type(&self, typ: Option<&str>) -> bool {
        let typ = typ.map(without_application);
        match typ {
            None => self.types.is_empty(),
            Some(typ) if self.types.is_empty() => typ.eq_ignore_ascii_case("JWT"),
            Some(typ) => self
                .types
                .iter()
                .any(|accepted| without_application(accepted).eq_ignore_ascii_case(typ)),
        }
    }
}

fn ok_if(is_valid: bool, error: TokenError) -> Result<(), TokenError> {
    if is_valid { Ok(()) } else { Err(error) }
}

/// Removes the prefix `application/`, which a `typ` may omit (RFC 7515, section 4.1.9).
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

    const VALID: &str = r#""iss":"i","sub":"s","aud":["a","b"],"exp":200,"nbf":100,"iat":100"#;

    fn claims(members: &str) -> Claims<'static> {
        Claims::parse(format!("{{{members}}}").leak().as_bytes()).unwrap()
    }

    fn rules(audience: &str, leeway: Duration) -> ClaimRules {
        ClaimRules {
            audiences: vec![audience.to_owned()],
            leeway,
            types: Vec::new(),
            max_lifetime: None,
        }
    }

    fn validate_at(seconds: u64, leeway: u64) -> Result<(), TokenError> {
        let rules = rules("b", Duration::from_secs(leeway));
        rules.validate(None, &claims(VALID), Duration::from_secs(seconds))
    }

    #[test]
    fn a_token_is_valid_from_nbf_until_just_before_exp() {
        assert_eq!(validate_at(99, 0), Err(TokenError::NotYetValid));
        assert_eq!(validate_at(100, 0), Ok(()));
        assert_eq!(validate_at(199, 0), Ok(()));
        assert_eq!(validate_at(200, 0), Err(TokenError::Expired));
    }

    #[test]
    fn leeway_applies_to_nbf_and_exp() {
        assert_eq!(validate_at(89, 10), Err(TokenError::NotYetValid));
        assert_eq!(validate_at(90, 10), Ok(()));
        assert_eq!(validate_at(209, 10), Ok(()));
        assert_eq!(validate_at(210, 10), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_issued_in_the_future_is_refused_even_without_nbf() {
        let rules = rules("a", Duration::ZERO);
        let claims = claims(r#""iss":"i","sub":"s","aud":"a","exp":200,"iat":100"#);
        assert_eq!(
            rules.validate(None, &claims, Duration::from_secs(99)),
            Err(TokenError::IssuedInFuture)
        );
    }

    #[test]
    fn a_token_without_an_accepted_audience_is_refused() {
        let rules = rules("a", Duration::ZERO);
        for aud in [r#""aud":[],"#, r#""aud":"A","#, r#""aud":["b","a "],"#, ""] {
            let claims = claims(&format!(r#""iss":"i","sub":"s",{aud}"exp":200"#));
            let result = rules.validate(None, &claims, Duration::from_secs(100));
            assert_eq!(result, Err(TokenError::WrongAudience), "{aud}");
        }
    }

    #[test]
    fn a_sender_constrained_token_is_refused() {
        let rules = rules("a", Duration::ZERO);
        for value in ["{}", "null", r#"{"x5t#S256":"x"}"#, "[]"] {
            let claims = claims(&format!(r#"{VALID},"cnf":{value}"#));
            let result = rules.validate(None, &claims, Duration::from_secs(150));
            assert_eq!(result, Err(TokenError::SenderConstrained), "{value}");
        }
    }

    #[test]
    fn a_typ_other_than_jwt_is_refused() {
        let rules = rules("a", Duration::ZERO);
        let claims = claims(VALID);
        let validate = |typ| rules.validate(typ, &claims, Duration::from_secs(150));
        assert_eq!(validate(Some("JWT")), Ok(()));
        assert_eq!(validate(Some("jwt")), Ok(()));
        assert_eq!(validate(Some("dpop+jwt")), Err(TokenError::WrongType));
    }
}
