//! The diagnosis of a token: every check, with what was found and what was expected.

use std::fmt;

use crate::rejection::Rejection;

/// The number of characters before the text of a check, beside the longest name: those of the longest result, and spaces.
const RESULT_WIDTH: usize = "not checked".len();
/// The name in the line of the shadow policy. It is not a check, because it does not affect the decision.
const SHADOW_POLICY: &str = "shadow policy";

/// The result of [`OidcGuard::diagnose`](crate::OidcGuard::diagnose): whether the guard admits a request with a token, and the
/// result of every check that it makes.
///
/// It is for operators and must not be sent to callers: it contains claims of the token, and what the guard is configured to
/// accept. It does not contain the token, its signature, or other parts of it that could be used. In all texts, everything but
/// printable ASCII is escaped, and long values are shortened.
///
/// Its `Display` form is a table for a terminal, with one line for each check, one for the decision of the shadow policy if
/// there is one, and the decision of the guard as the last line.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "testing")] {
/// # use tower_oidc_guard::{Issuer, OidcGuard, testing::MemoryIssuer};
/// # let issuer = MemoryIssuer::new("https://cluster.example")?;
/// # let guard = OidcGuard::builder()
/// #     .issuer(Issuer::kubernetes(issuer.url()).audience("https://a.example"))
/// #     .any_verified_caller()
/// #     .http_client(issuer.client())
/// #     .build()?;
/// let token = issuer.token().audience("https://b.example").mint();
/// let diagnosis = guard.diagnose(token).await;
/// assert!(!diagnosis.is_admitted());
/// let failed = diagnosis.failed_checks().next().expect("the token is rejected");
/// assert_eq!(failed.name(), "audience");
/// assert_eq!(failed.found(), r#"["https://b.example"]"#);
/// assert_eq!(failed.expected(), Some(r#"one of ["https://a.example"]"#));
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    checks: Vec<Check>,
    /// The decision of the shadow policy on the caller, if there is one and the token is valid.
    shadow: Option<ShadowCheck>,
    /// The caller of an admitted request, as text.
    decision: Result<String, Rejection>,
}

/// The decision of a shadow policy in a [`Diagnosis`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShadowCheck {
    pub(crate) is_admitted: bool,
    pub(crate) rule: String,
}

/// One check of a [`Diagnosis`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    name: &'static str,
    result: CheckResult,
    found: String,
    expected: Option<String>,
    hint: Option<String>,
}

/// The result of a [`Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckResult {
    /// The token passed the check.
    Passed,
    /// The token failed the check. If it is the first check that failed, the request is rejected for this reason.
    Failed {
        /// The reason, as [`Rejection::reason`] returns it.
        reason: &'static str,
    },
    /// The check was not made, because an earlier one has made it impossible.
    NotChecked,
}

impl Diagnosis {
    /// Creates a diagnosis of these checks, which agree with the decision.
    pub(crate) fn new(
        checks: Vec<Check>,
        shadow: Option<ShadowCheck>,
        decision: Result<String, Rejection>,
    ) -> Self {
        Self {
            checks,
            shadow,
            decision,
        }
    }

    /// Returns whether the guard admits a request with the token.
    pub fn is_admitted(&self) -> bool {
        self.decision.is_ok()
    }

    /// Returns why the guard rejects a request with the token, or `None` if it admits it.
    ///
    /// The [reason](Rejection::reason) of the rejection is that of the first check that failed.
    pub fn rejection(&self) -> Option<Rejection> {
        self.decision.as_ref().err().copied()
    }

    /// Returns whether the guard would admit a request with the token if its
    /// [shadow policy](crate::OidcGuardBuilder::shadow_policy) was enforced.
    ///
    /// Returns `None` if it has none, or if the token is rejected whatever the policy. A token that only the shadow policy would
    /// admit may still be rejected by a review, for which the API server is not asked here.
    pub fn is_admitted_by_shadow_policy(&self) -> Option<bool> {
        Some(self.shadow.as_ref()?.is_admitted)
    }

    /// Returns which rule and which member of the [shadow policy](crate::OidcGuardBuilder::shadow_policy) would decide.
    ///
    /// Returns `None` if the guard has none, or if the token is rejected whatever the policy.
    pub fn shadow_rule(&self) -> Option<&str> {
        Some(&self.shadow.as_ref()?.rule)
    }

    /// Returns all checks, in the order in which the guard makes them.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Returns the checks that failed, in the order in which the guard makes them.
    pub fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        let is_failed = |check: &&Check| matches!(check.result, CheckResult::Failed { .. });
        self.checks.iter().filter(is_failed)
    }
}

impl Check {
    pub(crate) fn passed(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            result: CheckResult::Passed,
            found: found.into(),
            expected: None,
            hint: None,
        }
    }

    pub(crate) fn failed(
        name: &'static str,
        reason: &'static str,
        found: impl Into<String>,
    ) -> Self {
        Self {
            result: CheckResult::Failed { reason },
            ..Self::passed(name, found)
        }
    }

    pub(crate) fn not_checked(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            result: CheckResult::NotChecked,
            ..Self::passed(name, why)
        }
    }

    pub(crate) fn with_expected(self, expected: impl Into<String>) -> Self {
        Self {
            expected: Some(expected.into()),
            ..self
        }
    }

    pub(crate) fn with_hint(self, hint: impl Into<Option<String>>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }

    /// Replaces the result by another one, for a check that disagrees with the decision.
    pub(crate) fn with_result(self, result: CheckResult) -> Self {
        Self { result, ..self }
    }

    /// Returns the name of the check, such as `audience`: one of a fixed set.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the result.
    pub fn result(&self) -> CheckResult {
        self.result
    }

    /// Returns what was found. For a check that was not made, returns why not.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// Returns what was expected, if that is not obvious.
    pub fn expected(&self) -> Option<&str> {
        self.expected.as_deref()
    }

    /// Returns what is probably wrong or what to do, if it is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "FAILED",
            Self::NotChecked => "not checked",
        })
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.checks.iter().map(|check| check.name.len());
        let shadow = self.shadow.as_ref().map(|shadow| (SHADOW_POLICY, shadow));
        let shadow_width = shadow.map_or(0, |(name, _)| name.len());
        let width = names.max().unwrap_or(0).max(shadow_width);
        for check in &self.checks {
            let Check { name, result, .. } = check;
            write!(f, "{name:width$}  {result:RESULT_WIDTH$}  ")?;
            match &check.expected {
                Some(expected) => writeln!(f, "found {}, expected {expected}", check.found)?,
                None => writeln!(f, "{}", check.found)?,
            }
            if let Some(hint) = &check.hint {
                let indent = width + RESULT_WIDTH + 4;
                writeln!(f, "{:indent$}hint: {hint}", "")?;
            }
        }
        if let Some((name, shadow)) = shadow {
            let result = if shadow.is_admitted {
                "allowed"
            } else {
                "rejected"
            };
            writeln!(f, "{name:width$}  {result:RESULT_WIDTH$}  {}", shadow.rule)?;
            if shadow.is_admitted != self.is_admitted() {
                let indent = width + RESULT_WIDTH + 4;
                let changed = if shadow.is_admitted {
                    "would be admitted"
                } else {
                    "would be rejected with 403"
                };
                let hint = "hint: if the shadow policy was enforced, the request";
                writeln!(f, "{:indent$}{hint} {changed}", "")?;
            }
        }
        match &self.decision {
            Ok(caller) => write!(f, "admitted: {caller}"),
            Err(rejection) => write!(
                f,
                "rejected with {}: {rejection} ({})",
                rejection.status().as_u16(),
                rejection.reason()
            ),
        }
    }
}
