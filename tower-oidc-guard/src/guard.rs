//! The guard: lets a request through with the identity that its token proves, or answers in its place.

mod answer;
mod body;
mod builder;
mod future;
mod layer;
mod readiness;
mod service;
mod trust;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;

pub use self::body::ResponseBody;
pub use self::builder::OidcGuardBuilder;
pub use self::future::ResponseFuture;
pub use self::layer::OidcGuardLayer;
pub use self::readiness::Readiness;
pub use self::service::OidcGuardService;
use crate::keys::health::IssuerHealth;
use crate::rejection::Rejection;
use crate::verifier::{NotReady, TokenVerifier};

/// A guard for services: made once, laid over as many of them as need it.
///
/// Cloning copies a pointer; clones share keys and their refresh, which ends with the last of them.
#[derive(Clone)]
pub struct OidcGuard(Arc<Inner>);

struct Inner {
    verifier: TokenVerifier,
    realm: String,
}

impl OidcGuard {
    /// Starts a guard without issuers.
    pub fn builder() -> OidcGuardBuilder {
        OidcGuardBuilder::default()
    }

    /// The layer that guards a service. Nothing is spawned or fetched by it.
    pub fn layer(&self) -> OidcGuardLayer {
        OidcGuardLayer::new(self.clone())
    }

    /// Waits until the keys of every issuer are there. Not needed: the first request does the same.
    ///
    /// # Errors
    ///
    /// When an issuer's keys cannot be fetched. The guard goes on asking all the same, so call this
    /// again to wait for the next attempt.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.0.verifier.ready().await
    }

    /// How the keys of each issuer fare. Starts the first fetch, as a request does.
    pub fn health(&self) -> Vec<IssuerHealth> {
        self.0.verifier.health()
    }

    /// A service that answers whether every issuer's keys are at hand, to be mounted where readiness is
    /// asked for.
    ///
    /// ```
    /// # fn example(guard: tower_oidc_guard::OidcGuard) {
    /// let app: axum::Router = axum::Router::new().route_service("/readyz", guard.readiness());
    /// # }
    /// ```
    pub fn readiness(&self) -> Readiness {
        Readiness::new(self.clone())
    }

    /// The verifier behind the guard, for tokens that do not come with an HTTP request.
    pub fn verifier(&self) -> &TokenVerifier {
        &self.0.verifier
    }

    fn answer(&self, rejection: &Rejection) -> Response<Bytes> {
        tracing::debug!(reason = rejection.reason(), "refused");
        answer::to(rejection, &self.0.realm)
    }
}

impl fmt::Debug for OidcGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcGuard")
            .field("verifier", &self.0.verifier)
            .finish_non_exhaustive()
    }
}
