//! The guard: lets a request through with the identity that its token proves, or answers in its place.

mod answer;
mod body;
mod builder;
#[cfg(feature = "policy-file")]
mod from_file;
mod future;
mod gate;
mod grpc;
mod intake;
mod layer;
mod modes;
mod readiness;
mod resource;
mod service;
mod slots;
mod trust;

use std::fmt;
use std::sync::Arc;

use self::answer::Answers;
pub use self::body::ResponseBody;
pub use self::builder::OidcGuardBuilder;
pub use self::future::ResponseFuture;
use self::gate::Gate;
use self::intake::Intake;
pub use self::layer::OidcGuardLayer;
pub use self::readiness::Readiness;
pub use self::resource::ResourceMetadata;
pub use self::service::OidcGuardService;
pub use self::slots::Identities;
use crate::keys::health::IssuerHealth;
use crate::policy::{Bound, Policy, PolicyError};
use crate::verifier::{NotReady, TokenVerifier};

/// A guard for services: made once, laid over as many of them as need it.
///
/// Cloning copies a pointer; clones share keys and their refresh, which ends with the last of them.
#[derive(Clone)]
pub struct OidcGuard(Arc<Inner>);

struct Inner {
    verifier: TokenVerifier,
    policy: Bound,
    intake: Intake,
    answers: Answers,
}

impl OidcGuard {
    /// Starts a guard without issuers.
    pub fn builder() -> OidcGuardBuilder {
        OidcGuardBuilder::default()
    }

    /// The layer that guards a service. Nothing is spawned or fetched by it.
    pub fn layer(&self) -> OidcGuardLayer {
        OidcGuardLayer::new(Gate::new(self.clone(), None))
    }

    /// Returns a layer that guards a service with a policy of its own instead of the guard's: for routes that other callers
    /// may call, or for another audience. It may be called any number of times, also with the policy of a file.
    ///
    /// # Errors
    ///
    /// If the policy names members or audiences that belong to no trusted issuer, or cannot be used otherwise.
    ///
    /// ```
    /// # use tower_oidc_guard::{OidcGuard, Policy, PolicyError};
    /// # fn example(guard: OidcGuard) -> Result<(), PolicyError> {
    /// let admins = guard.layer_with(Policy::members(["system:serviceaccount:ops:admin"]))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer_with(&self, policy: Policy) -> Result<OidcGuardLayer, PolicyError> {
        let policy = Bound::new(policy, &self.0.verifier.trusted_names())?;
        Ok(OidcGuardLayer::new(Gate::new(self.clone(), Some(policy))))
    }

    /// The guard's policy, to [explain](Policy::explain) its decisions.
    pub fn policy(&self) -> &Policy {
        self.0.policy.policy()
    }

    /// A service that answers with the metadata of the protected resource (RFC 9728), to be mounted at its
    /// [path](ResourceMetadata::path). Nothing where [`protected_resource`](OidcGuardBuilder::protected_resource)
    /// was not said.
    ///
    /// ```
    /// # fn example(guard: tower_oidc_guard::OidcGuard) -> Option<()> {
    /// let metadata = guard.resource_metadata()?;
    /// let app: axum::Router = axum::Router::new().route_service(&metadata.path().to_owned(), metadata);
    /// # Some(())
    /// # }
    /// ```
    pub fn resource_metadata(&self) -> Option<ResourceMetadata> {
        ResourceMetadata::new(self.clone())
    }

    /// Starts fetching the keys of every issuer in the background, and returns immediately.
    ///
    /// Without it, the first request or the first call of [`ready`](Self::ready) starts the fetches. Building a guard never
    /// does. Calling it again is harmless: it starts a fetch only if one is due. Outside a tokio runtime it does nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Issuer, OidcGuard, testing::TestIssuer};
    /// # let issuer = TestIssuer::start().await?;
    /// # let trusted = Issuer::oidc(issuer.url()).audience("me").insecure_loopback_http();
    /// let guard = OidcGuard::builder().issuer(trusted).any_verified_caller().build()?;
    /// assert!(!guard.health()[0].is_ready);
    /// guard.prefetch();
    /// // The server starts here, and its first request finds the keys.
    /// # guard.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefetch(&self) {
        self.0.verifier.prefetch();
    }

    /// Waits until there are usable keys of every issuer. Not required: the first request does the same.
    ///
    /// # Errors
    ///
    /// If an issuer's keys cannot be fetched, or none of them is usable. The guard keeps trying all the same, so call
    /// this again to wait for the next attempt. Outside a tokio runtime, unless all keys are there already, the error is
    /// [`KeysError::NoRuntime`](crate::KeysError::NoRuntime).
    ///
    /// # Panics
    ///
    /// If it has to wait in a tokio runtime without timers (`enable_time`).
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.0.verifier.ready().await
    }

    /// Returns the key status of each issuer.
    ///
    /// Starts no fetch: call [`prefetch`](Self::prefetch) or [`ready`](Self::ready) for that.
    pub fn health(&self) -> Vec<IssuerHealth> {
        self.0.verifier.health()
    }

    /// Returns a service for readiness probes, which responds with 200 while there are usable keys of every issuer, and with
    /// 503 otherwise.
    ///
    /// A probe starts the fetches that are due, because a server that is not ready gets no other requests that could.
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
}

impl fmt::Debug for OidcGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcGuard")
            .field("verifier", &self.0.verifier)
            .finish_non_exhaustive()
    }
}
