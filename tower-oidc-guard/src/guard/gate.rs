//! Who passes: a request in, and what becomes of it out.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tracing::Span;

use super::{OidcGuard, grpc};
use crate::bearer::Bearer;
use crate::identity::Identity;
use crate::policy::Bound;
use crate::rejection::Rejection;
use crate::verifier::{FailedVerification, PendingToken, TokenStatus};
use crate::{telemetry, text};

/// A guard, and the policy of the routes behind it.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    guard: OidcGuard,
    /// Where it is not the guard's own.
    policy: Option<Bound>,
}

/// The decision on a request.
pub(super) enum Admission {
    /// The service is called, within that span.
    Enter(Span),
    /// This is the answer.
    Refuse(Response<Bytes>),
}

/// What can be said of a request at once.
pub(super) enum Judgement {
    Decided(Admission),
    /// Newer keys for its token have to be waited for.
    Wait(Bearer<'static>, PendingToken),
}

impl Gate {
    pub(super) fn new(guard: OidcGuard, policy: Option<Bound>) -> Self {
        Self { guard, policy }
    }

    /// Judges a request by what is at hand.
    pub(super) fn judge<B>(&self, request: &mut Request<B>) -> Judgement {
        let intake = &self.guard.0.intake;
        intake.clear(request);
        if intake.is_preflight(request) {
            if intake.has_credentials(request) {
                let malformed = Rejection::MalformedRequest("a CORS preflight with credentials");
                return Judgement::Decided(self.refuse(request, malformed, None));
            }
            return Judgement::Decided(self.enter_without_identity(request));
        }
        let bearer = match intake.token(request) {
            Ok(bearer) => bearer,
            Err(Rejection::MissingToken) if self.lets_anonymous_in() => {
                return Judgement::Decided(self.enter_without_identity(request));
            }
            Err(rejection) => {
                return Judgement::Decided(self.refuse(request, rejection, None));
            }
        };
        match self.guard.verifier().try_verify(bearer.token()) {
            Ok(TokenStatus::Verified(identity)) => {
                Judgement::Decided(self.decide(request, Ok(identity)))
            }
            Ok(TokenStatus::NeedsNewerKeys(pending)) => {
                Judgement::Wait(bearer.into_owned(), pending)
            }
            Err(_) if bearer.is_malformed() => {
                let malformed = Rejection::MalformedRequest(
                    "more than one token, or a broken one, in a header",
                );
                Judgement::Decided(self.refuse(request, malformed, None))
            }
            Err(failed) => Judgement::Decided(self.decide(request, Err(failed))),
        }
    }

    /// Verifies a token that the current keys do not verify.
    pub(super) async fn verify(
        self,
        bearer: Bearer<'static>,
        pending: PendingToken,
    ) -> Result<Identity, FailedVerification> {
        let verifier = self.guard.verifier();
        verifier
            .verify_with_newer_keys(bearer.token(), pending)
            .await
    }

    /// Judges a request by what its token has come to.
    pub(super) fn decide<B>(
        &self,
        request: &mut Request<B>,
        verified: Result<Identity, FailedVerification>,
    ) -> Admission {
        match verified {
            Ok(identity) if self.policy().allows(&identity) => {
                let span = telemetry::record_allowed(&identity);
                self.guard.0.intake.finish(request, Some(identity));
                Admission::Enter(span)
            }
            Ok(identity) => {
                if tracing::enabled!(tracing::Level::DEBUG) {
                    let why = self.policy().policy().explain(&identity).to_string();
                    let subject = text::printable(identity.subject());
                    tracing::debug!(subject = &*subject, why, "not allowed");
                }
                let label = identity.issuer_label();
                self.refuse(request, Rejection::NotAllowed, Some(label))
            }
            Err(failed) => {
                let label = failed.issuer_label.as_ref();
                self.refuse(request, failed.error.into(), label)
            }
        }
    }

    fn policy(&self) -> &Bound {
        self.policy.as_ref().unwrap_or(&self.guard.0.policy)
    }

    fn lets_anonymous_in(&self) -> bool {
        self.guard.0.intake.optional || self.policy().allows_anonymous()
    }

    fn enter_without_identity<B>(&self, request: &mut Request<B>) -> Admission {
        self.guard.0.intake.finish(request, None);
        Admission::Enter(telemetry::record_anonymous())
    }

    fn refuse<B>(
        &self,
        request: &Request<B>,
        rejection: Rejection,
        issuer_label: Option<&Arc<str>>,
    ) -> Admission {
        telemetry::record_refused(&rejection, issuer_label);
        let protocol = grpc::Protocol::of(request);
        Admission::Refuse(self.guard.0.answers.to(&rejection, protocol))
    }
}
