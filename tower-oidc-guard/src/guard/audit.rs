//! Audit of decisions: an event and a callback for each of them.

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request};
use tracing::Level;

use super::shadow::ShadowDecision;
use crate::identity::Identity;
use crate::text::{excerpt, printable};

/// The target of audit events, which subscribers filter by.
const TARGET: &str = "oidc_guard::audit";

/// A user's function that is called for each decision.
pub(super) type DecisionCallback = Arc<dyn Fn(&AuditEvent<'_>) + Send + Sync>;

/// A decision of a guard on a request, for an audit log.
///
/// It is passed to the function of [`on_decision`](crate::OidcGuardBuilder::on_decision), and
/// [`audit_events`](crate::OidcGuardBuilder::audit_events) logs it as an event of the `tracing` target `oidc_guard::audit` at
/// the level INFO, with the message `decision`. There is one for each request that reaches the guard, and
/// for each token that is passed to [`authorize`](crate::OidcGuard::authorize). It never contains a token,
/// and claims only of tokens whose signature was verified.
///
/// | field | field of the event | type in the event | present |
/// | --- | --- | --- | --- |
/// | [`time`](Self::time) | `time_unix_ms` | integer, milliseconds since the Unix epoch | always |
/// | [`decision`](Self::decision) | `decision` | string: `allowed`, `anonymous` or `rejected` | always |
/// | [`reason`](Self::reason) | `reason` | string: `allowed`, `anonymous`, or one of the values of [`Rejection::reason`](crate::Rejection::reason) | always |
/// | [`rule`](Self::rule) | `rule` | string | if the policy, or a setting, decided: `allowed`, `anonymous`, and the reasons `not_allowed` and `insufficient_scope` |
/// | [`issuer`](Self::issuer) | `issuer` | string: one of the labels of the trusted issuers | if the token names a trusted issuer, verified or not |
/// | [`subject`](Self::subject) | `subject` | string, the claim `sub` | if the signature was verified |
/// | [`credential_id`](Self::credential_id) | `credential_id` | string, the claim `jti` | if the signature was verified and the token has the claim; tokens of Kubernetes have it from version 1.29 on |
/// | [`audiences`](Self::audiences) | `audience` | string, the values of the claim `aud` with a space between them | if the signature was verified |
/// | [`method`](Self::method) | `method` | string | if the decision is on a request |
/// | [`path`](Self::path) | `path` | string | as chosen with [`audit_path`](crate::OidcGuardBuilder::audit_path) |
/// | [`shadow_decision`](Self::shadow_decision) | `shadow_decision` | string, as `decision` | if there is a [shadow policy](crate::OidcGuardBuilder::shadow_policy) and the policy decided: `allowed`, `anonymous` without a preflight, and the reasons `not_allowed`, `insufficient_scope`, `missing_token` and `unsupported_scheme` |
/// | [`shadow_rule`](Self::shadow_rule) | `shadow_rule` | string | with `shadow_decision` |
///
/// The signature was verified if the decision is `allowed`, if the reason is `not_allowed`, `insufficient_scope` or `unmet_claim`, and for a token
/// that has expired since it was cached.
///
/// Characters that are not printable are escaped in the event, so a token cannot forge a line of the log. The fields of this
/// struct are not escaped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AuditEvent<'a> {
    /// The time of the decision, by the clock that tokens are verified with.
    pub time: SystemTime,
    /// The decision.
    pub decision: AuditDecision,
    /// The reason, as in the metric `oidc_guard_decisions_total`: `allowed`, `anonymous`, or the reason of the rejection.
    pub reason: &'static str,
    /// Which member or rule of the policy, or which setting of the guard, decided. The text is for people and may change.
    /// Characters in it that are not printable are escaped.
    pub rule: Option<&'a str>,
    /// The label of the token's issuer, if that is a trusted one. Unless the signature was verified, anyone may have made the
    /// token.
    pub issuer: Option<&'a str>,
    /// The subject of the token (`sub`).
    pub subject: Option<&'a str>,
    /// The ID of the token (`jti`). Kubernetes writes it to the API server's audit log as the credential ID, after `JTI=`.
    pub credential_id: Option<&'a str>,
    /// The audiences of the token (`aud`), or an empty list if its signature was not verified.
    pub audiences: &'a [String],
    /// The method of the request, or `None` for a token without a request.
    pub method: Option<&'a Method>,
    /// The path of the request, as chosen with [`audit_path`](crate::OidcGuardBuilder::audit_path).
    pub path: Option<&'a str>,
    /// The decision that would be made if the [shadow policy](crate::OidcGuardBuilder::shadow_policy) was enforced.
    pub shadow_decision: Option<AuditDecision>,
    /// Which member or rule of the shadow policy, or which setting of the guard, would decide. The text is like that of `rule`.
    pub shadow_rule: Option<&'a str>,
}

/// The decision in an [`AuditEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditDecision {
    /// The caller has a valid token and is allowed.
    Allowed,
    /// The request is admitted without a token.
    Anonymous,
    /// The request is rejected.
    Rejected,
}

impl AuditDecision {
    /// Returns the name of the decision in events: `allowed`, `anonymous` or `rejected`.
    ///
    /// ```
    /// # use tower_oidc_guard::AuditDecision;
    /// assert_eq!(AuditDecision::Anonymous.as_str(), "anonymous");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Anonymous => "anonymous",
            Self::Rejected => "rejected",
        }
    }
}

/// The path that an [`AuditEvent`] contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditPath {
    /// No path.
    #[default]
    Omitted,
    /// The route that axum has matched, such as `/orders/{id}`, from its `MatchedPath`; none for a service without one. It is
    /// one of a fixed set of texts and contains nothing from the request.
    #[cfg(feature = "axum")]
    Matched,
    /// The path of the request's URI, without its query. Callers choose it, also those that are rejected.
    Uri,
}

/// The settings of the audit.
#[derive(Clone)]
pub(super) struct Audit {
    /// Whether each decision is logged.
    pub(super) is_logged: bool,
    pub(super) callback: Option<DecisionCallback>,
    pub(super) path: AuditPath,
}

/// A decision, without what the request and the token contribute.
pub(super) struct AuditedDecision<'d> {
    pub(super) decision: AuditDecision,
    pub(super) reason: &'static str,
    pub(super) rule: Option<&'d str>,
    /// The label of the token's issuer.
    pub(super) issuer: Option<&'d str>,
    /// The identity in the token, if its signature was verified.
    pub(super) caller: Option<&'d Identity>,
    /// The decision of the shadow policy, if it was evaluated.
    pub(super) shadow: Option<&'d ShadowDecision>,
}

impl Audit {
    /// Returns whether anything receives decisions at the moment.
    pub(super) fn is_active(&self) -> bool {
        self.callback.is_some() || self.logs()
    }

    fn logs(&self) -> bool {
        self.is_logged && tracing::enabled!(target: TARGET, Level::INFO)
    }

    /// Records a decision, on a request if there is one. `now` is the time since the Unix epoch.
    pub(super) fn record<B>(
        &self,
        request: Option<&Request<B>>,
        now: Duration,
        decided: &AuditedDecision<'_>,
    ) {
        let caller = decided.caller;
        let event = AuditEvent {
            time: SystemTime::UNIX_EPOCH + now,
            decision: decided.decision,
            reason: decided.reason,
            rule: decided.rule,
            issuer: decided.issuer,
            subject: caller.map(Identity::subject),
            credential_id: caller.and_then(Identity::token_id),
            audiences: caller.map(Identity::audiences).unwrap_or_default(),
            method: request.map(Request::method),
            path: request.and_then(|request| self.path.of_request(request)),
            shadow_decision: decided.shadow.map(|shadow| shadow.decision),
            shadow_rule: decided.shadow.map(|shadow| &*shadow.rule),
        };
        if self.logs() {
            event.log(now);
        }
        let Some(callback) = &self.callback else {
            return;
        };
        // A panic would look like a fault of the request, and a decision must not depend on its audit.
        if catch_unwind(AssertUnwindSafe(|| callback(&event))).is_err() {
            tracing::error!(
                "the function of `on_decision` panicked, so the audit may lack a decision; the decision is not affected"
            );
        }
    }
}

impl AuditPath {
    fn of_request<B>(self, request: &Request<B>) -> Option<&str> {
        match self {
            Self::Omitted => None,
            #[cfg(feature = "axum")]
            Self::Matched => {
                let matched = request.extensions().get::<axum::extract::MatchedPath>();
                matched.map(axum::extract::MatchedPath::as_str)
            }
            Self::Uri => Some(request.uri().path()),
        }
    }
}

impl AuditEvent<'_> {
    fn log(&self, now: Duration) {
        let milliseconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let audience = (!self.audiences.is_empty()).then(|| joined(self.audiences));
        tracing::info!(
            target: TARGET,
            time_unix_ms = milliseconds,
            decision = self.decision.as_str(),
            reason = self.reason,
            rule = self.rule,
            issuer = self.issuer,
            subject = self.subject.map(printable).as_deref(),
            credential_id = self.credential_id.map(printable).as_deref(),
            audience = audience.as_deref(),
            method = self.method.map(|method| excerpt(method.as_str())).as_deref(),
            path = self.path.map(printable).as_deref(),
            shadow_decision = self.shadow_decision.map(AuditDecision::as_str),
            shadow_rule = self.shadow_rule,
            "decision"
        );
    }
}

/// Returns audiences with a space between them. Spaces within them are escaped.
fn joined(audiences: &[String]) -> Cow<'_, str> {
    let escaped = |audience: &'_ String| printable(audience).replace(' ', r"\u{20}");
    match audiences {
        [only] if !only.contains(' ') => printable(only),
        _ => {
            let escaped: Vec<_> = audiences.iter().map(escaped).collect();
            escaped.join(" ").into()
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("is_logged", &self.is_logged)
            .field("has_callback", &self.callback.is_some())
            .field("path", &self.path)
            .finish()
    }
}
