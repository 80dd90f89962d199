//! Describes what a verifier accepts, for operators who look for the reason of a failed verification.
//!
//! The texts consist of settings and of the status of the keys. They contain nothing from a token, so they can be logged.

use std::time::SystemTime;

use super::{TokenVerifier, TrustedIssuer, VerifyError};
use crate::jose::TokenError;
use crate::jose::algorithm::Algorithm;
use crate::keys::health::IssuerHealth;
use crate::text::{excerpt, log_line, printable};

/// The most settings that a text lists.
const MAX_LISTED: usize = 3;

impl TokenVerifier {
    /// Returns what is accepted instead of a token that failed verification with this error, or what to compare or to change.
    /// Returns `None` if the error does not depend on a setting.
    ///
    /// `issuer` is the label of the token's issuer, if that is a trusted one.
    pub(crate) fn expected(&self, error: VerifyError, issuer: Option<&str>) -> Option<String> {
        let error = match error {
            VerifyError::InvalidToken(error) => error,
            VerifyError::KeysUnavailable { .. } => {
                return Some(self.issuer(issuer)?.missing_keys());
            }
            VerifyError::TokenReviewUnavailable { .. } => {
                let reviews = self.issuer(issuer)?.reviews.as_ref()?;
                return Some(reviews.obstacle());
            }
        };
        match error {
            TokenError::TooLong => Some(format!(
                "expected at most {} bytes (`max_token_bytes`)",
                self.0.max_token_bytes
            )),
            TokenError::UnsupportedAlgorithm => {
                let names = Algorithm::ALL.map(Algorithm::name);
                Some(format!("expected {}", alternatives(names, names.len())))
            }
            TokenError::UnknownIssuer => {
                let trusted = self.accepted_issuers();
                let trusted = trusted.iter().map(String::as_str);
                Some(format!(
                    "expected {}, compared exactly, with any slash at the end",
                    alternatives(trusted, MAX_LISTED)
                ))
            }
            TokenError::SenderConstrained => {
                Some("expected a token without the claim `cnf`".to_owned())
            }
            TokenError::Malformed(_) => None,
            _ => self.issuer(issuer)?.expected(error, &self.clock_time()),
        }
    }

    /// Returns the number of trusted issuers.
    pub(crate) fn issuer_count(&self) -> usize {
        self.0.issuers.len()
    }

    fn issuer(&self, label: Option<&str>) -> Option<&TrustedIssuer> {
        let label = label?;
        self.0.issuers.iter().find(|issuer| *issuer.label == *label)
    }

    fn clock_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }

    /// Returns every accepted value of `iss` or, for an issuer of which it is not known yet, its label.
    fn accepted_issuers(&self) -> Vec<String> {
        let mut accepted = Vec::new();
        for issuer in &self.0.issuers {
            let current = issuer.current_issuer();
            accepted.push(current.as_ref().unwrap_or(&issuer.label).to_string());
            accepted.extend(issuer.other_issuers.iter().cloned());
        }
        accepted
    }
}

impl TrustedIssuer {
    fn expected(&self, error: TokenError, now: &SystemTime) -> Option<String> {
        let rules = &self.claim_rules;
        let leeway = rules.leeway.as_secs();
        let text = match error {
            TokenError::WrongAudience => {
                let audiences = rules.audiences.iter().map(String::as_str);
                format!("expected {}", alternatives(audiences, MAX_LISTED))
            }
            TokenError::WrongType if rules.types.is_empty() => {
                "expected the `typ` JWT or none".to_owned()
            }
            TokenError::WrongType => {
                let types = rules.types.iter().map(String::as_str);
                format!("expected the `typ` {}", alternatives(types, MAX_LISTED))
            }
            TokenError::AlgorithmNotAllowed => {
                let allowed = self.keys.algorithms()?;
                let count = allowed.len();
                format!("expected {}", alternatives(allowed, count))
            }
            TokenError::LivesTooLong => {
                let limit = rules.max_lifetime?.as_secs();
                format!("expected `iat`, and at most {limit} s from `iat` to `exp`")
            }
            TokenError::Expired => format!(
                "leeway {leeway} s: compare the clocks, and check that the caller replaces its token in time"
            ),
            TokenError::NotYetValid | TokenError::IssuedInFuture => {
                format!("leeway {leeway} s: compare this machine's clock with the issuer's")
            }
            TokenError::TokenRevoked => {
                "the pod, service account or node that the token is bound to is gone, unless a warning states that the API server does not recognize the issuer's tokens".to_owned()
            }
            TokenError::UnmetClaim => self.required_claims_text(),
            TokenError::UnknownKey | TokenError::BadSignature => {
                available_keys(&self.keys.health(), now)
            }
            _ => return None,
        };
        Some(text)
    }

    /// Returns which claims the issuer's tokens must have. The required values may be confidential.
    fn required_claims_text(&self) -> String {
        let names: Vec<_> = self.required_claims.names().collect();
        let condition = "true from the condition of `require`";
        if names.is_empty() {
            return format!("expected {condition}");
        }
        let and = if self.claim_predicates.is_empty() {
            String::new()
        } else {
            format!(", and {condition}")
        };
        let names = listed(names, MAX_LISTED, "and");
        format!("expected the required value of {names}{and}")
    }

    /// Returns why the issuer has no usable keys.
    fn missing_keys(&self) -> String {
        failure(&self.keys.health())
            .unwrap_or_else(|| "no keys have been fetched in time yet".to_owned())
    }
}

/// Returns which keys there are.
fn available_keys(health: &IssuerHealth, now: &SystemTime) -> String {
    let count = match health.usable_keys {
        1 => "1 usable key".to_owned(),
        count => format!("{count} usable keys"),
    };
    let age = health.last_success.map(|fetched| {
        let age = now.duration_since(fetched).unwrap_or_default();
        format!(", fetched {} s ago", age.as_secs())
    });
    let failure = failure(health).map(|failure| format!("; {failure}"));
    format!(
        "the issuer has {count}{}{}",
        age.unwrap_or_default(),
        failure.unwrap_or_default()
    )
}

/// Returns why the last fetch of keys failed, with all causes, or `None` if it succeeded.
fn failure(health: &IssuerHealth) -> Option<String> {
    let error = log_line(&**health.last_error.as_ref()?);
    Some(format!("the last fetch of keys failed: {error}"))
}

/// Returns settings as alternatives, for example `a, b or c`. At most `max` of them are named.
pub(crate) fn alternatives<'s>(values: impl IntoIterator<Item = &'s str>, max: usize) -> String {
    listed(values.into_iter().collect(), max, "or")
}

fn listed(values: Vec<&str>, max: usize, conjunction: &str) -> String {
    let shown = values.iter().take(max);
    let mut shown: Vec<_> = shown.map(|value| excerpt(&printable(value))).collect();
    let more = values.len() - shown.len();
    if more > 0 {
        return format!("{} and {more} more", shown.join(", "));
    }
    match (shown.pop(), shown.is_empty()) {
        (None, _) => "none".to_owned(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} {conjunction} {last}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_settings_is_short_and_in_one_line() {
        let long = "é".repeat(5000);
        for (values, expected) in [
            (&[][..], "none".to_owned()),
            (&["a"], "a".to_owned()),
            (&["a", "b"], "a or b".to_owned()),
            (&["a", "b", "c"], "a, b or c".to_owned()),
            (&["a", "b", "c", "d", "e"], "a, b, c and 2 more".to_owned()),
            (&["a\nb\u{202e}"], r"a\nb\u{202e}".to_owned()),
            (&[long.as_str()], format!("{}…", "é".repeat(100))),
        ] {
            assert_eq!(alternatives(values.iter().copied(), 3), expected);
        }
    }
}
