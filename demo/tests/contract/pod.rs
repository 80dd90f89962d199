//! A pod of the service that is guarded: its volume with a token for the API server and the CA, and its guard.

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::{Issuer, OidcGuard, Policy};

use super::backend::Backend;
use super::support::AUDIENCE;

pub const GKE_SA: &str = "system:serviceaccount:id-namespace:gke-sa";

pub struct Pod {
    pub kubelet: Kubelet,
    host: String,
    port: String,
    _folder: tempfile::TempDir,
}

impl Pod {
    /// A pod with a valid token of its own.
    pub async fn new(server: &Backend) -> Self {
        let token = server.token("other", "guard", None).await;
        Self::with(server, &token, &server.ca_pem())
    }

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
            // The only replica there is.
            .unknown_key_jitter(Duration::ZERO)
            .audience(AUDIENCE)
    }

    /// A guard of that pod that lets `gke-sa` in.
    pub fn guard(&self) -> OidcGuard {
        OidcGuard::builder()
            .issuer(self.issuer())
            .policy(Policy::members([GKE_SA]))
            .build()
            .unwrap()
    }

    /// The environment of such a pod, with the files of this volume.
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
