//! A pod in a cluster: its projected volume, and an API server that publishes recorded documents.

use std::net::{IpAddr, Ipv4Addr};

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard};

use super::recorded::{numeric_claim, recorded_path, recorded_token};
use super::{AUDIENCE, unix_time};

/// A pod in which a guard runs, the API server of its cluster, and the token of a caller.
pub struct Pod {
    pub api: FakeApiServer,
    pub kubelet: Kubelet,
    _volume: tempfile::TempDir,
    pub caller_token: String,
}

impl Pod {
    /// Creates a pod in a cluster with the recordings of this folder. The pod's own token is the recorded one with this
    /// name.
    pub async fn new(recordings: &str, own_token: &str) -> Self {
        Self::with_api_address(recordings, own_token, Ipv4Addr::LOCALHOST.into()).await
    }

    /// Creates a pod in a cluster whose API server listens on this address.
    pub async fn with_api_address(recordings: &str, own_token: &str, address: IpAddr) -> Self {
        let api = FakeApiServer::start_at(address).await.unwrap();
        let own_token = recorded_token(recordings, own_token);
        api.accept_token(own_token.as_str(), "id-namespace", "guard");
        publish(&api, recordings);
        let volume = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(volume.path()).unwrap();
        kubelet
            .write([("token", own_token.as_str()), ("ca.crt", &api.ca_pem())])
            .unwrap();
        Self {
            api,
            kubelet,
            _volume: volume,
            caller_token: recorded_token(recordings, "gke-sa-600s.jwt"),
        }
    }

    /// Returns the issuer of the pod's cluster.
    pub fn issuer(&self) -> Issuer {
        Issuer::in_cluster_at(&self.api.host(), &self.api.port())
            .unwrap()
            .api_token_file(self.kubelet.path("token"))
            .api_ca_file(self.kubelet.path("ca.crt"))
    }

    /// Creates a guard that trusts the pod's cluster for [`AUDIENCE`].
    pub fn guard(&self) -> OidcGuard {
        self.build(self.issuer().audience(AUDIENCE)).unwrap()
    }

    /// Builds a guard that trusts this issuer, with a clock that shows the second after the issue of the caller's token.
    pub fn build(&self, issuer: Issuer) -> Result<OidcGuard, BuildError> {
        let now = numeric_claim(&self.caller_token, "iat").unwrap() + 1;
        OidcGuard::builder()
            .issuer(issuer)
            .any_verified_caller()
            .clock(move || unix_time(now))
            .build()
    }

    /// Returns the path and the bearer token of each request that the API server answered with 200.
    pub fn successful_requests(&self) -> Vec<(String, Option<String>)> {
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

/// Publishes the recorded documents of this folder in place of the server's own, to the callers that may read those.
pub fn publish(api: &FakeApiServer, recordings: &str) {
    publish_mapped(api, recordings, |document| document);
}

/// Publishes the recorded documents of this folder, each changed by this function.
pub fn publish_mapped(
    api: &FakeApiServer,
    recordings: &str,
    map: impl Fn(String) -> String + Send + Sync + 'static,
) {
    let folder = recorded_path(recordings);
    api.map_responses(move |request, response| {
        let name = match request.uri().path() {
            "/.well-known/openid-configuration" => "discovery.json",
            "/openid/v1/jwks" => "jwks.json",
            _ => return response,
        };
        if response.status() != 200 {
            return response;
        }
        let document = std::fs::read_to_string(folder.join(name)).unwrap();
        response.map(|_| map(document))
    });
}
