//! Decides whether a request is admitted.
//!
//! For each request, in this order:
//!
//! 1. Any identity left in the request's extensions by something in front of the guard is removed.
//! 2. A CORS preflight is admitted without an identity, if the guard allows preflights.
//! 3. The bearer token is extracted from the configured headers ([`bearer`](super::bearer)). Without a token, the request is
//!    admitted without an identity if the guard or its policy allows that.
//! 4. The token is verified: from the cache, or with the issuer's keys ([`TokenVerifier`]).
//! 5. The policy decides whether this caller is allowed. A [shadow policy](super::shadow) is evaluated as well, as it is for a
//!    request without a token, and affects nothing.
//! 6. The identity is stored in the request's extensions, and the token's headers are removed or marked as sensitive.
//!
//! A token that needs newer keys makes the request wait; see [`ResponseFuture`](super::ResponseFuture).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{Method, Request, Response};
use tracing::{Level, Span};

use super::audit::{Audit, AuditDecision, AuditedDecision};
use super::bearer::{Bearer, TokenHeaders, reject_token_in_query};
use super::endpoints::ProtectedResource;
use super::expected::expected;
use super::grpc::Protocol;
use super::identities::IdentityPlace;
use super::refusal_summary::RefusalSummary;
use super::rejection_response::RejectionResponses;
use super::shadow::{EnforcedDecision, MISSING_TOKEN_SETTING, ShadowDecision, ShadowPolicy};
use crate::identity::Identity;
use crate::policy::{Decision, Misfit, Policy, PolicyError, PolicyRole, ResolvedPolicy};
use crate::rejection::Rejection;
use crate::telemetry;
use crate::verifier::{
    FailedVerification, PendingToken, TokenStatus, TokenVerifier, WithNewerKeys,
};

/// Decides on requests: the settings of a guard with the policy of one layer.
#[derive(Debug, Clone)]
pub(super) struct AdmissionController {
    pub(super) verifier: TokenVerifier,
    pub(super) policy: ResolvedPolicy,
    /// The policy that the decisions of `policy` are compared with, if there is one.
    pub(super) shadow: Option<ShadowPolicy>,
    pub(super) requests: RequestSettings,
    pub(super) responses: RejectionResponses,
    /// The interval of the summaries in the log, or `None` if they are turned off.
    pub(super) summary_interval: Option<Duration>,
    /// Logs a summary of refused requests; `None` if that is turned off. Shared by all layers of the guard.
    pub(super) refusals: Option<RefusalSummary>,
    /// Receives each decision; `None` if that is turned off.
    pub(super) audit: Option<Audit>,
}

/// The settings for requests: which headers are read, what is admitted without a token, and what the service gets.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestSettings {
    pub(super) token_headers: TokenHeaders,
    /// Whether the token's headers are removed before the service is called.
    pub(super) strip_token: bool,
    /// Whether requests without a token are admitted, whatever the policy.
    pub(super) allow_missing_token: bool,
    pub(super) allow_cors_preflight: bool,
    pub(super) identity_place: IdentityPlace,
}

/// The decision on a request.
pub(super) enum Admission {
    /// The service is called, within this span.
    Admitted(Span),
    /// The request is answered with this response instead.
    Rejected(Response<Bytes>),
}

/// Why a request is admitted without an identity.
enum AnonymousRule {
    CorsPreflight,
    /// It has no token, and the guard or its policy allows that.
    MissingToken,
}

/// A request, or a token without one, that is rejected, with what is known about the token.
pub(super) struct RejectedRequest<'r> {
    rejection: Rejection,
    /// The label of the token's issuer, if that is a trusted one.
    issuer: Option<&'r Arc<str>>,
    /// The identity in the token, if its signature was verified.
    caller: Option<&'r Identity>,
    /// Which rule of the policy decided.
    rule: Option<&'r str>,
    /// The decision of the shadow policy, if it was evaluated for the audit.
    shadow: Option<&'r ShadowDecision>,
    /// How far the guard's clock is from the time in the token that the rejection is about.
    clock_difference: Option<Duration>,
}

impl From<Rejection> for RejectedRequest<'_> {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            issuer: None,
            caller: None,
            rule: None,
            shadow: None,
            clock_difference: None,
        }
    }
}

impl<'r> From<&'r FailedVerification> for RejectedRequest<'r> {
    fn from(failed: &'r FailedVerification) -> Self {
        Self {
            rejection: failed.error.into(),
            issuer: failed.issuer_label.as_ref(),
            caller: failed.caller.as_ref(),
            rule: None,
            shadow: None,
            clock_difference: failed.clock_difference,
        }
    }
}

/// The result of [`AdmissionController::try_admit`].
pub(super) enum TryAdmission {
    Decided(Admission),
    /// The request has to wait until its token is verified.
    Pending(Bearer<'static>, PendingToken),
}

/// Why a token that had to wait is not accepted.
pub(super) enum NotAccepted {
    Failed(FailedVerification),
    /// The policy does not allow the caller, so the cluster's API server was not asked to confirm the token.
    NotAllowed(Identity),
}

impl From<FailedVerification> for NotAccepted {
    fn from(failed: FailedVerification) -> Self {
        Self::Failed(failed)
    }
}

impl AdmissionController {
    pub(super) fn policy(&self) -> &Policy {
        self.policy.as_policy()
    }

    pub(super) fn protected_resource(&self) -> Option<&ProtectedResource> {
        self.responses.resource.as_ref()
    }

    /// Returns the settings of the same guard with another policy.
    pub(super) fn with_policy(&self, policy: Policy) -> Result<Self, PolicyError> {
        let trusted = self.verifier.policy_issuers();
        let role = PolicyRole::Enforced;
        let policy = self
            .policy
            .resolve_further(policy, role, &trusted, Misfit::Reject)?;
        Ok(Self {
            policy,
            // It was meant to be compared with the other policy.
            shadow: None,
            ..self.clone()
        })
    }

    /// Returns the settings of the same guard with this shadow policy.
    pub(super) fn with_shadow_policy(
        &self,
        policy: Policy,
        misfit: Misfit,
    ) -> Result<Self, PolicyError> {
        let trusted = self.verifier.policy_issuers();
        let role = PolicyRole::Shadow;
        let policy = self
            .policy
            .resolve_further(policy, role, &trusted, misfit)?;
        telemetry::register_shadow_policy(self.verifier.issuer_labels());
        let allow_missing_token = self.requests.allow_missing_token;
        let shadow = ShadowPolicy::new(policy, allow_missing_token, self.summary_interval);
        Ok(Self {
            shadow: Some(shadow),
            ..self.clone()
        })
    }

    /// Decides on a request with the keys that are available now. Prepares an admitted request for the service.
    pub(super) fn try_admit<B>(&self, request: &mut Request<B>) -> TryAdmission {
        let settings = &self.requests;
        if settings.allow_cors_preflight && is_cors_preflight(request) {
            let headers = &settings.token_headers;
            // A browser never sends credentials with a preflight.
            let admission = if headers.has_credentials(request.headers(), request.uri()) {
                let malformed = Rejection::MalformedRequest("a CORS preflight with credentials");
                self.reject(request, malformed.into())
            } else {
                self.admit_without_identity(request, AnonymousRule::CorsPreflight, None)
            };
            return TryAdmission::Decided(admission);
        }
        if let Err(rejection) = reject_token_in_query(request.uri()) {
            return TryAdmission::Decided(self.reject(request, rejection.into()));
        }
        let bearer = match settings.token_headers.find(request.headers_mut()) {
            Ok(bearer) => bearer,
            Err(rejection @ (Rejection::MissingToken | Rejection::UnsupportedScheme(_))) => {
                return TryAdmission::Decided(self.decide_without_token(request, rejection));
            }
            Err(rejection) => {
                return TryAdmission::Decided(self.reject(request, rejection.into()));
            }
        };
        let admission = match self.verifier.try_verify(bearer.token()) {
            Ok(TokenStatus::Verified(identity)) => self.decide(request, Ok(identity)),
            Ok(TokenStatus::Pending(PendingToken::Review(pending)))
                if !self.policy.allows(pending.identity()) =>
            {
                let caller = pending.identity().clone();
                self.decide(request, Err(NotAccepted::NotAllowed(caller)))
            }
            Ok(TokenStatus::Pending(pending)) => {
                return TryAdmission::Pending(bearer.into_owned(), pending);
            }
            Err(_) if bearer.is_malformed() => {
                let malformed = Rejection::MalformedRequest(
                    "more than one token, or a broken one, in a header",
                );
                self.reject(request, malformed.into())
            }
            Err(failed) => self.decide(request, Err(failed.into())),
        };
        TryAdmission::Decided(admission)
    }

    /// Verifies the token of a request that has to wait.
    pub(super) async fn verify_bearer(
        self: Arc<Self>,
        bearer: Bearer<'static>,
        pending: PendingToken,
    ) -> Result<Identity, NotAccepted> {
        self.verify_pending(bearer.token(), pending).await
    }

    /// Verifies a token that has to wait: for newer keys, and for the review by the cluster's API server.
    ///
    /// The policy is evaluated before the review, so that valid tokens of callers that are not allowed cost the API server
    /// nothing.
    pub(super) async fn verify_pending(
        &self,
        token: &[u8],
        pending: PendingToken,
    ) -> Result<Identity, NotAccepted> {
        let review = match pending {
            PendingToken::Review(review) => review,
            PendingToken::NewerKeys(pending) => {
                match self.verifier.verify_with_newer_keys(token, pending).await? {
                    WithNewerKeys::Verified(identity) => return Ok(identity),
                    WithNewerKeys::Review(review) => review,
                }
            }
        };
        if !self.policy.allows(review.identity()) {
            return Err(NotAccepted::NotAllowed(review.identity().clone()));
        }
        Ok(self.verifier.confirm(token, review).await?)
    }

    /// Decides on a request whose token was verified with this result. Prepares an admitted request for the service.
    pub(super) fn decide<B>(
        &self,
        request: &mut Request<B>,
        verified: Result<Identity, NotAccepted>,
    ) -> Admission {
        match verified {
            Ok(identity) => self.decide_on_caller(request, identity),
            Err(not_accepted) => {
                let rejection = self.record_not_accepted(Some(&*request), &not_accepted);
                match &not_accepted {
                    NotAccepted::NotAllowed(caller) => {
                        self.respond_to_caller(request, &rejection, caller)
                    }
                    NotAccepted::Failed(_) => self.respond(request, &rejection, None),
                }
            }
        }
    }

    /// Records that a token that had to wait is not accepted.
    pub(super) fn record_not_accepted<B>(
        &self,
        request: Option<&Request<B>>,
        not_accepted: &NotAccepted,
    ) -> Rejection {
        match not_accepted {
            NotAccepted::Failed(failed) => self.record_rejected(request, failed.into()),
            NotAccepted::NotAllowed(caller) => {
                let is_explained = self.active_audit().is_some() || tracing::enabled!(Level::DEBUG);
                let decision = is_explained.then(|| self.policy.explain(caller));
                // The content of a policy file may have been replaced since the decision.
                let decision = decision.filter(|decision| !decision.is_allowed());
                let shadow = self.compare_with_shadow(&EnforcedDecision {
                    policy: &self.policy,
                    caller: Some(caller),
                    is_admitted: false,
                    rule: decision.as_ref().map(Decision::reason),
                });
                self.record_caller_rejected(request, caller, decision.as_ref(), shadow.as_ref())
            }
        }
    }

    /// Decides on a request with a valid token.
    fn decide_on_caller<B>(&self, request: &mut Request<B>, caller: Identity) -> Admission {
        match self.evaluate_policy(Some(&*request), &caller) {
            Ok(span) => {
                self.strip_token(request);
                let place = self.requests.identity_place;
                place.insert(request.extensions_mut(), caller);
                Admission::Admitted(span)
            }
            Err(rejection) => self.respond_to_caller(request, &rejection, &caller),
        }
    }

    /// Evaluates the policy for a caller with a valid token, and records the decision: on a request, or on a token without one.
    pub(super) fn evaluate_policy<B>(
        &self,
        request: Option<&Request<B>>,
        caller: &Identity,
    ) -> Result<Span, Rejection> {
        if let Some(audit) = self.active_audit() {
            // One evaluation, so that the audit has the rule that decided.
            let decision = self.policy.explain(caller);
            let shadow = self.compare_with_shadow(&EnforcedDecision {
                policy: &self.policy,
                caller: Some(caller),
                is_admitted: decision.is_allowed(),
                rule: Some(decision.reason()),
            });
            let shadow = shadow.as_ref();
            if !decision.is_allowed() {
                return Err(self.record_caller_rejected(request, caller, Some(&decision), shadow));
            }
            let allowed = AuditedDecision {
                decision: AuditDecision::Allowed,
                reason: AuditDecision::Allowed.as_str(),
                rule: Some(decision.reason()),
                issuer: Some(caller.issuer_label()),
                caller: Some(caller),
                shadow,
            };
            audit.record(request, self.verifier.now(), &allowed);
        } else {
            let is_admitted = self.policy.allows(caller);
            if let Some(shadow) = &self.shadow {
                shadow.compare(&EnforcedDecision {
                    policy: &self.policy,
                    caller: Some(caller),
                    is_admitted,
                    rule: None,
                });
            }
            if !is_admitted {
                let decision = tracing::enabled!(Level::DEBUG).then(|| self.policy.explain(caller));
                // The content of a policy file may have been replaced since the decision.
                let decision = decision.filter(|decision| !decision.is_allowed());
                return Err(self.record_caller_rejected(request, caller, decision.as_ref(), None));
            }
        }
        Ok(telemetry::record_allowed(caller))
    }

    /// Records that the policy does not allow a caller.
    fn record_caller_rejected<B>(
        &self,
        request: Option<&Request<B>>,
        caller: &Identity,
        decision: Option<&Decision>,
        shadow: Option<&ShadowDecision>,
    ) -> Rejection {
        let rejected = RejectedRequest {
            issuer: Some(caller.issuer_label()),
            caller: Some(caller),
            rule: decision.map(Decision::reason),
            shadow,
            ..self.rejection_of(caller).into()
        };
        self.record_rejected(request, rejected)
    }

    /// Returns the rejection of a caller that the policy does not allow.
    pub(super) fn rejection_of(&self, caller: &Identity) -> Rejection {
        match self.policy.missing_scopes(caller) {
            Some(_) => Rejection::InsufficientScope,
            None => Rejection::NotAllowed,
        }
    }

    /// Returns the audit if it is turned on and anything receives it.
    fn active_audit(&self) -> Option<&Audit> {
        self.audit.as_ref().filter(|audit| audit.is_active())
    }

    /// Compares a decision with that of the shadow policy, if there is one. Returns the latter for the audit, if it is active.
    fn compare_with_shadow(&self, enforced: &EnforcedDecision<'_>) -> Option<ShadowDecision> {
        let shadow = self.shadow.as_ref()?;
        if self.active_audit().is_some() {
            return shadow.compare_explained(enforced);
        }
        shadow.compare(enforced);
        None
    }

    /// Decides on a request without a token, which is rejected with this rejection unless the guard or its policy allows it.
    fn decide_without_token<B>(&self, request: &mut Request<B>, rejection: Rejection) -> Admission {
        let is_admitted = self.requests.allow_missing_token || self.policy.allows_anonymous();
        let shadow = self.compare_with_shadow(&EnforcedDecision {
            policy: &self.policy,
            caller: None,
            is_admitted,
            rule: None,
        });
        let shadow = shadow.as_ref();
        if is_admitted {
            self.admit_without_identity(request, AnonymousRule::MissingToken, shadow)
        } else {
            let rejected = RejectedRequest {
                shadow,
                ..rejection.into()
            };
            self.reject(request, rejected)
        }
    }

    fn admit_without_identity<B>(
        &self,
        request: &mut Request<B>,
        rule: AnonymousRule,
        shadow: Option<&ShadowDecision>,
    ) -> Admission {
        if let Some(audit) = self.active_audit() {
            let rule = match rule {
                AnonymousRule::CorsPreflight => {
                    Some("the setting `allow_cors_preflight`".to_owned())
                }
                AnonymousRule::MissingToken if self.requests.allow_missing_token => {
                    Some(MISSING_TOKEN_SETTING.to_owned())
                }
                AnonymousRule::MissingToken => {
                    let decision = self.policy.explain_anonymous();
                    // The content of a policy file may have been replaced since the decision.
                    let reason = decision.is_allowed().then(|| decision.reason());
                    reason.map(str::to_owned)
                }
            };
            let anonymous = AuditedDecision {
                decision: AuditDecision::Anonymous,
                reason: AuditDecision::Anonymous.as_str(),
                rule: rule.as_deref(),
                issuer: None,
                caller: None,
                shadow,
            };
            audit.record(Some(&*request), self.verifier.now(), &anonymous);
        }
        self.strip_token(request);
        let place = self.requests.identity_place;
        place.clear(request.extensions_mut());
        #[cfg(feature = "axum")]
        place.mark_without_token(request.extensions_mut());
        Admission::Admitted(telemetry::record_anonymous())
    }

    /// Removes the headers that a token may come in, if the guard is configured to. Otherwise their values stay, marked as
    /// sensitive.
    fn strip_token<B>(&self, request: &mut Request<B>) {
        if self.requests.strip_token {
            let headers = &self.requests.token_headers;
            headers.strip(request.headers_mut());
        }
    }

    /// Rejects a request.
    fn reject<B>(&self, request: &Request<B>, rejected: RejectedRequest<'_>) -> Admission {
        let rejection = self.record_rejected(Some(request), rejected);
        self.respond(request, &rejection, None)
    }

    /// Returns the response to a request of a caller that the policy does not allow.
    fn respond_to_caller<B>(
        &self,
        request: &Request<B>,
        rejection: &Rejection,
        caller: &Identity,
    ) -> Admission {
        let scopes = match rejection {
            Rejection::InsufficientScope => self.policy.missing_scopes(caller),
            _ => None,
        };
        self.respond(request, rejection, scopes.as_deref())
    }

    /// Returns the response to a rejected request. `scopes` are the scopes that its token needs, if only those are missing.
    fn respond<B>(
        &self,
        request: &Request<B>,
        rejection: &Rejection,
        scopes: Option<&str>,
    ) -> Admission {
        let protocol = Protocol::detect(request);
        Admission::Rejected(self.responses.response(rejection, scopes, protocol))
    }

    /// Records that a request, or a token without a request, is rejected. Returns the reason.
    pub(super) fn record_rejected<B>(
        &self,
        request: Option<&Request<B>>,
        rejected: RejectedRequest<'_>,
    ) -> Rejection {
        let RejectedRequest {
            rejection, issuer, ..
        } = rejected;
        telemetry::count_rejected(&rejection, issuer);
        if let Some(refusals) = &self.refusals {
            refusals.record(rejection, issuer, &self.policy);
        }
        if tracing::enabled!(Level::DEBUG) {
            self.log_rejected(&rejected);
        }
        if let Some(audit) = self.active_audit() {
            let audited = AuditedDecision {
                decision: AuditDecision::Rejected,
                reason: rejection.reason(),
                rule: rejected.rule,
                issuer: issuer.map(|issuer| &**issuer),
                caller: rejected.caller,
                shadow: rejected.shadow,
            };
            audit.record(request, self.verifier.now(), &audited);
        }
        rejection
    }

    /// Logs all that is known about a rejected request, except for what the caller sent without proof.
    fn log_rejected(&self, rejected: &RejectedRequest<'_>) {
        let rejection = &rejected.rejection;
        let issuer = rejected.issuer.map(|issuer| &**issuer);
        let headers = &self.requests.token_headers.names;
        let expected = expected(rejection, issuer, &self.verifier, headers);
        let expected = expected.as_deref();
        let subject = rejected.caller.map(Identity::printable_subject);
        tracing::debug!(
            decision = "rejected",
            reason = rejection.reason(),
            issuer = issuer.unwrap_or(telemetry::NO_ISSUER),
            status = rejection.status().as_u16(),
            error = rejection.to_string(),
            subject,
            rule = rejected.rule,
            expected = expected.map(|text| text.strip_prefix("expected ").unwrap_or(text)),
            clock_difference_seconds = rejected.clock_difference.map(|time| time.as_secs()),
            "request rejected"
        );
    }
}

/// Returns whether a request is a CORS preflight (Fetch, section 3.2.2).
fn is_cors_preflight<B>(request: &Request<B>) -> bool {
    let has = |name| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
}
