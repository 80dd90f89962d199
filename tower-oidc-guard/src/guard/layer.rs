//! The layer.

use tower_layer::Layer;

use super::{OidcGuard, OidcGuardService};

/// Lays a guard over a service. Made by [`OidcGuard::layer`].
#[derive(Debug, Clone)]
pub struct OidcGuardLayer {
    guard: OidcGuard,
}

impl OidcGuardLayer {
    pub(super) fn new(guard: OidcGuard) -> Self {
        Self { guard }
    }
}

impl<S> Layer<S> for OidcGuardLayer {
    type Service = OidcGuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OidcGuardService::new(self.guard.clone(), inner)
    }
}
