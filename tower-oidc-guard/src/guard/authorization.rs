//! Decides on requests and tokens that do not go through the guard's layer: in other web frameworks, queues and sockets.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

use super::admission::{Admission, AdmissionController, TryAdmission};
use crate::identity::Identity;
use crate::rejection::Rejection;
use crate::verifier::TokenStatus;

/// In place of a request, for tokens that arrive without one.
const NO_REQUEST: Option<&Request<()>> = None;

impl AdmissionController {
    /// Decides on a request, after waiting for its token if necessary. Prepares an admitted request for the service.
    pub(super) async fn admit<B>(
        self: &Arc<Self>,
        request: &mut Request<B>,
    ) -> Result<(), Response<Bytes>> {
        let admission = match self.try_admit(request) {
            TryAdmission::Decided(admission) => admission,
            TryAdmission::Pending(bearer, pending) => {
                let verified = Arc::clone(self).verify_bearer(bearer, pending).await;
                self.decide(request, verified)
            }
        };
        match admission {
            Admission::Admitted(_) => Ok(()),
            Admission::Rejected(response) => Err(response),
        }
    }

    /// Verifies a token and evaluates the policy for its caller. Records the decision like that on a request.
    pub(super) async fn authorize(&self, token: &[u8]) -> Result<Identity, Rejection> {
        let verified = match self.verifier.try_verify(token) {
            Ok(TokenStatus::Verified(identity)) => Ok(identity),
            Ok(TokenStatus::Pending(pending)) => self.verify_pending(token, pending).await,
            Err(failed) => Err(failed.into()),
        };
        match verified {
            Ok(caller) => {
                self.evaluate_policy(NO_REQUEST, &caller)?;
                Ok(caller)
            }
            Err(not_accepted) => Err(self.record_not_accepted(NO_REQUEST, &not_accepted)),
        }
    }
}
