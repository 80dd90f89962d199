//! Reviews of tokens when a followed configuration file changes.
#![cfg(all(feature = "policy-file", unix))]

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{OidcGuard, OidcGuardBuilder, TokenError, VerifyError};

use crate::support::{AUDIENCE, wait_until};

/// A guard whose configuration file is followed, in real time: file watches need it.
struct Followed {
    api: FakeApiServer,
    volume: tempfile::TempDir,
    kubelet: Kubelet,
    guard: OidcGuard,
    _folder: tempfile::TempDir,
}

impl Followed {
    async fn new() -> Self {
        let api = FakeApiServer::start().await.unwrap();
        let (volume, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        api.write_pod_volume(&volume, "shop", "guard").unwrap();
        api.grant_token_reviews("shop", "guard");
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet
            .write([("guard.yaml", content(&api, &volume, 60))])
            .unwrap();
        let builder = OidcGuardBuilder::from_file(kubelet.path("guard.yaml")).await;
        let guard = builder.unwrap().http_client(client(&api)).build().unwrap();
        guard.ready().await.unwrap();
        Self {
            api,
            volume,
            kubelet,
            guard,
            _folder: folder,
        }
    }

    fn token(&self, name: &str) -> String {
        self.api.token("shop", name).audience(AUDIENCE).mint()
    }

    /// Changes the time to live, and waits until that is in effect.
    async fn change(&self, ttl: u64) {
        let reads = self.guard.policy_health()[0].last_change;
        let content = content(&self.api, &self.volume, ttl);
        self.kubelet.write([("guard.yaml", content)]).unwrap();
        wait_until(async || self.guard.policy_health()[0].last_change != reads).await;
    }
}

/// Returns a client that trusts the cluster and authenticates as its administrator, for the keys.
fn client(api: &FakeApiServer) -> reqwest_middleware::ClientWithMiddleware {
    let ca = reqwest::Certificate::from_pem(api.ca_pem().as_bytes()).unwrap();
    let authorization = format!("Bearer {}", api.admin_token());
    let headers =
        http::HeaderMap::from_iter([(http::header::AUTHORIZATION, authorization.parse().unwrap())]);
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
    client.default_headers(headers).build().unwrap().into()
}

fn content(api: &FakeApiServer, volume: &tempfile::TempDir, ttl: u64) -> String {
    let (server, volume) = (
        format!("https://{}:{}", api.host(), api.port()),
        volume.path().display(),
    );
    format!(
        "allow: [allAuthenticatedUsers]
issuers:
  - url: {}
    platform: kubernetes
    jwks_url: {server}/openid/v1/jwks
    audiences: [{AUDIENCE}]
    token_review:
      when_unavailable: refuse
      ttl_seconds: {ttl}
      api_server: {server}
      token_file: {volume}/token
      ca_file: {volume}/ca.crt
",
        api.issuers()[0]
    )
}

#[tokio::test]
async fn a_stream_ends_with_its_revoked_token_after_the_settings_have_changed() {
    let followed = Followed::new().await;
    let token = followed.token("web");
    let caller = followed.guard.verifier().verify(&token).await.unwrap();
    let stream = tokio::spawn(caller.expired());
    followed.change(1).await;
    assert!(!stream.is_finished());
    followed.api.delete_pod("shop", "web");
    let ended = tokio::time::timeout(Duration::from_secs(10), stream);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_known_about_tokens_is_kept_when_the_settings_change() {
    let followed = Followed::new().await;
    let (kept, gone) = (followed.token("web"), followed.token("gone"));
    let verifier = followed.guard.verifier();
    verifier.verify(&kept).await.unwrap();
    followed.api.delete_pod("shop", "gone");
    let revoked = VerifyError::InvalidToken(TokenError::TokenRevoked);
    assert_eq!(verifier.verify(&gone).await.err(), Some(revoked));
    followed.change(600).await;
    // No review can be made any more.
    followed.api.withdraw_token_reviews("shop", "guard");
    verifier.verify(&kept).await.unwrap();
    assert_eq!(verifier.verify(&gone).await.err(), Some(revoked));
}
