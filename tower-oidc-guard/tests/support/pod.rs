//! A pod in a cluster: its volume, and the API server that it is for.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest_wi_auth::testing::Kubelet;
use serde_json::Value;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard};

use super::api_server::{Answers, ApiServer, Ca, recorded};
use super::{AUDIENCE, seconds};

pub const NEW: &str = "v1.36/rs256";
pub const OLD: &str = "v1.20/rs256";
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub fn folder(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubernetes");
    data.join(name)
}

pub fn token(of: &str, name: &str) -> String {
    let token = std::fs::read_to_string(folder(of).join(name)).unwrap();
    token.trim_end().to_owned()
}

pub fn issued_at(token: &str) -> u64 {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    claims["iat"].as_u64().unwrap()
}

/// A pod's volume, the API server that it is for, and a caller's token.
pub struct Pod {
    pub api: ApiServer,
    pub ca: Ca,
    pub kubelet: Kubelet,
    pub volume: tempfile::TempDir,
    pub caller: String,
}

impl Pod {
    /// In a cluster of that version, with this own token.
    pub async fn new(of: &str, own: &str) -> Self {
        Self::with(of, own, "127.0.0.1:0", recorded).await
    }

    pub async fn with(of: &str, own: &str, at: &str, answers: Answers) -> Self {
        let (ca, own) = (Ca::new(), token(of, own));
        let volume = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(volume.path()).unwrap();
        kubelet
            .write([("token", own.as_str()), ("ca.crt", &ca.pem())])
            .unwrap();
        Self {
            api: ApiServer::start(at, &ca, &folder(of), &[&own, "rotated.e30.token"], answers)
                .await,
            ca,
            kubelet,
            volume,
            caller: token(of, "gke-sa-600s.jwt"),
        }
    }

    pub fn issuer(&self) -> Issuer {
        let (host, port) = (self.api.address.ip(), self.api.address.port());
        Issuer::in_cluster_at(&host.to_string(), &port.to_string())
            .unwrap()
            .api_token_file(self.kubelet.path("token"))
            .api_ca_file(self.kubelet.path("ca.crt"))
    }

    pub fn guard(&self) -> OidcGuard {
        self.build(self.issuer().audience(AUDIENCE)).unwrap()
    }

    pub fn build(&self, issuer: Issuer) -> Result<OidcGuard, BuildError> {
        let now = issued_at(&self.caller) + 1;
        OidcGuard::builder()
            .issuer(issuer)
            .any_verified_caller()
            .clock(move || seconds(now))
            .build()
    }
}
