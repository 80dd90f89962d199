//! A pod of the guarded service: its volume, with a token for the API server and the cluster's CA, and its guard.

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{TokenRequest, TokenRequestBuilder};
use tower_oidc_guard::{Issuer, OidcGuard, Policy, TokenReview};

use super::backend::Backend;

/// The audience of the service.
pub const AUDIENCE: &str = "https://auth-server.example";
/// The caller that the service admits.
pub const GKE_SA: &str = "system:serviceaccount:id-namespace:gke-sa";

pub struct Pod {
    pub kubelet: Kubelet,
    host: String,
    port: String,
    _folder: tempfile::TempDir,
}

impl Pod {
    /// Creates a pod with a valid token for the API server.
    pub async fn new(server: &Backend) -> Self {
        let token = server.token("other", "guard", None).await;
        Self::with(server, &token, &server.ca_pem())
    }

    /// Creates a pod with this token for the API server and this CA.
    pub fn with(server: &Backend, token: &str, ca: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet.write([("token", token), ("ca.crt", ca)]).unwrap();
        Self {
            kubelet,
            host: server.host(),
            port: server.port(),
            _folder: folder,
        }
    }

    pub fn issuer(&self) -> Issuer {
        Issuer::in_cluster_at(&self.host, &self.port)
            .unwrap()
            .api_token_file(self.kubelet.path("token"))
            .api_ca_file(self.kubelet.path("ca.crt"))
            // Jitter spreads the fetches of several replicas, and there is only one here.
            .unknown_key_jitter(Duration::ZERO)
            .audience(AUDIENCE)
    }

    /// Builds the guard of the pod, which admits `gke-sa`.
    pub fn guard(&self) -> OidcGuard {
        OidcGuard::builder()
            .issuer(self.issuer())
            .policy(Policy::members([GKE_SA]))
            .build()
            .unwrap()
    }

    /// Builds a guard of the pod that has each token reviewed.
    pub fn reviewing_guard(&self, review: TokenReview) -> OidcGuard {
        OidcGuard::builder()
            .issuer(self.issuer().token_review(review))
            .any_verified_caller()
            .build()
            .unwrap()
    }

    /// Returns the settings of a program in the pod that requests tokens, which are valid for 600 s.
    pub fn token_request(&self) -> TokenRequestBuilder {
        let (host, port) = (self.host.clone(), self.port.clone());
        let token = self.kubelet.path("token");
        TokenRequest::builder()
            .service_account_directory(token.parent().unwrap())
            .expiration(Duration::from_secs(600))
            .environment(move |name| match name {
                "KUBERNETES_SERVICE_HOST" => Some(host.clone()),
                "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
                _ => None,
            })
    }

    /// Returns the environment variables of an `auth-server` in the pod.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.kubelet.path(name).display().to_string();
        vec![
            ("KUBERNETES_SERVICE_HOST", self.host.clone()),
            ("KUBERNETES_SERVICE_PORT", self.port.clone()),
            ("ID_ISSUER", "kubernetes".to_owned()),
            ("JWT_AUDIENCE", AUDIENCE.to_owned()),
            ("API_TOKEN_FILE", path("token")),
            ("API_CA_FILE", path("ca.crt")),
            ("ADDRESS", "127.0.0.1".to_owned()),
            ("PORT", "0".to_owned()),
        ]
    }
}
