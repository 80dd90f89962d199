//! Diagnoses a token: whether a request with it is admitted, and the result of every check.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::admission::{AdmissionController, NotAccepted};
use crate::diagnosis::{Check, CheckResult, Diagnosis, ShadowCheck};
use crate::identity::Identity;
use crate::jose::{TokenError, lookalike};
use crate::rejection::Rejection;
use crate::text::{quoted_excerpt, quoted_list};
use crate::verifier::{TokenChecks, TokenStatus};

const FORMAT: &str = "format";
const POLICY: &str = "policy";
const BROKEN: &str = "more than one token, or a broken one, in a header";
/// How often the checks are made again if they disagree with the decision, because keys or a policy have been replaced between
/// the two.
const MAX_ATTEMPTS: usize = 3;

impl AdmissionController {
    /// Diagnoses a token. Waits for the keys of its issuer if they are not available.
    pub(super) async fn diagnose(&self, token: &[u8]) -> Diagnosis {
        // Checked as well if it is within something that does not belong to a token.
        let inner = lookalike::unwrap(token);
        self.verifier.wait_for_keys_of(&inner).await;
        let mut attempt = 1;
        loop {
            let decision = self.decide_on_token(token).await;
            let (checks, shadow) = self.check(token, &inner);
            let reason = decision.as_ref().err().map(Rejection::reason);
            let is_last = attempt == MAX_ATTEMPTS;
            if is_last || first_failure(&checks) == reason {
                let checks = reconcile(checks, decision.as_ref().err());
                let caller = decision.map(|caller| {
                    let (subject, issuer) = (caller.subject(), caller.issuer());
                    format!("{} of {}", quoted_excerpt(subject), quoted_excerpt(issuer))
                });
                return Diagnosis::new(checks, shadow, caller);
            }
            attempt += 1;
        }
    }

    /// Decides on a request that has this token and no other credentials, as [`try_admit`](Self::try_admit) does.
    async fn decide_on_token(&self, token: &[u8]) -> Result<Identity, Rejection> {
        let mut headers = self.headers_with(token)?;
        let bearer = self.requests.token_headers.find(&mut headers)?;
        let verified = match self.verifier.try_verify(bearer.token()) {
            Ok(TokenStatus::Verified(identity)) => Ok(identity),
            Ok(TokenStatus::Pending(pending)) => self.verify_pending(bearer.token(), pending).await,
            Err(_) if bearer.is_malformed() => {
                return Err(Rejection::MalformedRequest(BROKEN));
            }
            Err(failed) => Err(failed.into()),
        };
        let identity = verified.map_err(|not_accepted| match not_accepted {
            NotAccepted::Failed(failed) => Rejection::from(failed.error),
            NotAccepted::NotAllowed(caller) => self.rejection_of(&caller),
        })?;
        if self.policy.allows(&identity) {
            Ok(identity)
        } else {
            Err(self.rejection_of(&identity))
        }
    }

    /// Returns the headers of a request with this token.
    fn headers_with(&self, token: &[u8]) -> Result<HeaderMap, Rejection> {
        let names = &self.requests.token_headers.names;
        let name = names.first().cloned().unwrap_or(AUTHORIZATION);
        match HeaderValue::from_bytes(&[b"Bearer ", token].concat()) {
            Ok(value) => Ok(HeaderMap::from_iter([(name, value)])),
            Err(_) => Err(Rejection::MalformedRequest(
                "a token that cannot be the value of a header",
            )),
        }
    }

    /// Makes every check of a token, and evaluates the shadow policy for a caller that no other check rejects than that of the
    /// policy. `inner` is the token without anything around it.
    fn check(&self, token: &[u8], inner: &[u8]) -> (Vec<Check>, Option<ShadowCheck>) {
        let mut checks = vec![self.check_format(token)];
        let TokenChecks {
            checks: more,
            caller,
        } = self.verifier.check_token(inner);
        checks.extend(more);
        let is_valid = first_failure(&checks).is_none();
        checks.push(match &caller {
            Some(caller) => self.check_policy(caller),
            None => Check::not_checked(POLICY, "the caller is not verified"),
        });
        // The API server is asked last, and only about tokens that have passed all other checks.
        let is_allowed = first_failure(&checks).is_none();
        let review = caller.as_ref().and_then(|caller| {
            let outcome = is_allowed.then_some(inner);
            self.verifier.check_review(caller, outcome)
        });
        checks.extend(review);
        let is_rejected_by_review = is_allowed && first_failure(&checks).is_some();
        let shadow = match (&self.shadow, &caller) {
            (Some(shadow), Some(caller)) if is_valid && !is_rejected_by_review => {
                let decision = shadow.diagnose(caller);
                decision.map(|decision| ShadowCheck {
                    is_admitted: decision.is_admitted(),
                    rule: decision.rule,
                })
            }
            _ => None,
        };
        (checks, shadow)
    }

    fn check_format(&self, token: &[u8]) -> Check {
        let rejection = match self.headers_with(token) {
            Ok(mut headers) => match self.requests.token_headers.find(&mut headers) {
                Ok(bearer) if bearer.is_malformed() => Some(Rejection::MalformedRequest(BROKEN)),
                Ok(bearer) => self
                    .verifier
                    .check_format(bearer.token())
                    .err()
                    .map(Into::into),
                Err(rejection) => Some(rejection),
            },
            Err(rejection) => Some(rejection),
        };
        let bytes = token.len();
        let Some(rejection) = rejection else {
            return Check::passed(FORMAT, format!("{bytes} bytes in three parts"));
        };
        let found = format!("{bytes} bytes: {rejection}");
        let check = Check::failed(FORMAT, rejection.reason(), found);
        if rejection == Rejection::InvalidToken(TokenError::TooLong) {
            let limit = self.verifier.max_token_bytes();
            return check.with_expected(format!("at most {limit} bytes (`max_token_bytes`)"));
        }
        check.with_hint(lookalike::describe(token))
    }

    fn check_policy(&self, caller: &Identity) -> Check {
        let decision = self.policy.explain(caller);
        if decision.is_allowed() {
            return Check::passed(POLICY, decision.reason());
        }
        let near = self.policy.as_policy().members_near(caller);
        let hint = (!near.is_empty())
            .then(|| format!("the policy allows, among others, {}", quoted_list(near)));
        Check::failed(
            POLICY,
            self.rejection_of(caller).reason(),
            decision.reason(),
        )
        .with_hint(hint)
    }
}

/// Returns the reason of the first check that failed.
fn first_failure(checks: &[Check]) -> Option<&'static str> {
    checks.iter().find_map(|check| match check.result() {
        CheckResult::Failed { reason } => Some(reason),
        _ => None,
    })
}

/// Makes the results agree with a decision that they do not explain, because something was replaced between the two.
fn reconcile(checks: Vec<Check>, rejection: Option<&Rejection>) -> Vec<Check> {
    let reason = rejection.map(Rejection::reason);
    if first_failure(&checks) == reason {
        return checks;
    }
    let is_cause = |check: &Check| matches!(check.result(), CheckResult::Failed { reason: own } if Some(own) == reason);
    let cause = checks.iter().position(is_cause);
    let mut reconciled: Vec<_> = checks
        .into_iter()
        .enumerate()
        .map(|(index, check)| match check.result() {
            CheckResult::Failed { .. } if cause.is_none_or(|cause| index < cause) => {
                check.with_result(CheckResult::NotChecked)
            }
            _ => check,
        })
        .collect();
    if let (Some(rejection), None) = (rejection, cause) {
        let found = format!("{rejection}; what has caused it has changed meanwhile");
        reconciled.push(Check::failed("decision", rejection.reason(), found));
    }
    reconciled
}
