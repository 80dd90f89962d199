//! A pod in a cluster: its volume, and an API server that publishes recorded documents.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest_wi_auth::testing::Kubelet;
use serde_json::Value;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard};

use super::{AUDIENCE, unix_time};

pub const V1_36: &str = "v1.36/rs256";
pub const V1_20: &str = "v1.20/rs256";
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub fn recorded_folder(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubernetes");
    data.join(name)
}

pub fn recorded_token(of: &str, name: &str) -> String {
    let token = std::fs::read_to_string(recorded_folder(of).join(name)).unwrap();
    token.trim_end().to_owned()
}

pub fn issued_at(token: &str) -> u64 {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    claims["iat"].as_u64().unwrap()
}

/// A pod's volume, the API server of its cluster, and a caller's token.
pub struct Pod {
    pub api: FakeApiServer,
    pub kubelet: Kubelet,
    _volume: tempfile::TempDir,
    pub caller: String,
}

impl Pod {
    /// In a cluster of that version, with this own token.
    pub async fn new(of: &str, own: &str) -> Self {
        Self::at(of, own, Ipv4Addr::LOCALHOST.into()).await
    }

    pub async fn at(of: &str, own: &str, address: IpAddr) -> Self {
        let api = FakeApiServer::start_at(address).await.unwrap();
        let own = recorded_token(of, own);
        api.accept_token(own.as_str(), "id-namespace", "guard");
        publish(&api, of);
        let volume = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(volume.path()).unwrap();
        kubelet
            .write([("token", own.as_str()), ("ca.crt", &api.ca_pem())])
            .unwrap();
        Self {
            api,
            kubelet,
            _volume: volume,
            caller: recorded_token(of, "gke-sa-600s.jwt"),
        }
    }

    pub fn issuer(&self) -> Issuer {
        Issuer::in_cluster_at(&self.api.host(), &self.api.port())
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
            .clock(move || unix_time(now))
            .build()
    }

    /// The paths that were requested with success, and the tokens that came with the requests.
    pub fn answered(&self) -> Vec<(String, Option<String>)> {
        let requests = self.api.requests().into_iter();
        requests
            .filter(|request| request.status == 200)
            .map(|request| {
                let token = request.bearer_token().map(str::to_owned);
                (request.path, token)
            })
            .collect()
    }
}

/// Publishes the recorded documents of that folder in place of the server's own, to whom the server would give its own.
pub fn publish(api: &FakeApiServer, of: &str) {
    publish_mapped(api, of, |document| document);
}

/// Publishes the recorded documents of that folder, each changed by this function.
pub fn publish_mapped(
    api: &FakeApiServer,
    of: &str,
    map: impl Fn(String) -> String + Send + Sync + 'static,
) {
    let of = of.to_owned();
    api.map_responses(move |request, response| {
        let name = match request.uri().path() {
            "/.well-known/openid-configuration" => "discovery.json",
            "/openid/v1/jwks" => "jwks.json",
            _ => return response,
        };
        if response.status() != 200 {
            return response;
        }
        let document = std::fs::read_to_string(recorded_folder(&of).join(name)).unwrap();
        response.map(|_| map(document))
    });
}
