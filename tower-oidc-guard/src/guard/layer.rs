//! The layer.

use tower_layer::Layer;

use super::OidcGuardService;
use super::gate::Gate;

/// Lays a guard over a service. Made by [`OidcGuard::layer`](super::OidcGuard::layer) and
/// [`OidcGuard::layer_with`](super::OidcGuard::layer_with).
#[derive(Debug, Clone)]
pub struct OidcGuardLayer {
    gate: Gate,
}

impl OidcGuardLayer {
    pub(super) fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for OidcGuardLayer {
    type Service = OidcGuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OidcGuardService::new(self.gate.clone(), inner)
    }
}
