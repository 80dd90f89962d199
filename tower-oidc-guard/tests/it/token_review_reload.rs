//! Reviews of tokens when a followed configuration file changes.
#![cfg(all(feature = "policy-file", unix))]

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use tempfile::TempDir;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{OidcGuard, OidcGuardBuilder, VerifyError};

use crate::support::reviews::{REVOKED, is_unavailable, verify};
use crate::support::{AUDIENCE, wait_until};

/// A guard whose configuration file is followed, in real time: file watches need it.
struct Followed {
    api: FakeApiServer,
    volume: TempDir,
    kubelet: Kubelet,
    guard: OidcGuard,
    _folder: TempDir,
}

impl Followed {
    async fn new() -> Self {
        let api = FakeApiServer::start().await.unwrap();
        let (volume, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        api.write_pod_volume(&volume, "shop", "guard").unwrap();
        api.grant_token_reviews("shop", "guard");
        let kubelet = Kubelet::new(folder.path()).unwrap();
        let trusted = Trusted::new(&api, &volume);
        kubelet
            .write([("guard.yaml", content(&[trusted]))])
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

    /// Returns the first settings of the issuer.
    fn trusted(&self) -> Trusted {
        Trusted::new(&self.api, &self.volume)
    }

    /// Changes the settings, and waits until they are in effect.
    async fn change(&self, issuers: &[Trusted]) {
        let reads = self.guard.policy_health()[0].last_change;
        self.kubelet
            .write([("guard.yaml", content(issuers))])
            .unwrap();
        wait_until(async || self.guard.policy_health()[0].last_change != reads).await;
    }

    /// Changes the time to live alone, and waits until that is in effect.
    async fn change_ttl(&self, ttl: u64) {
        let first = self.trusted();
        self.change(&[Trusted { ttl, ..first }]).await;
    }

    async fn verify(&self, token: &str) -> Result<(), VerifyError> {
        verify(&self.guard, token).await
    }
}

/// The settings of an issuer whose tokens the API server reviews.
#[derive(Clone)]
struct Trusted {
    url: String,
    audience: &'static str,
    when_unavailable: &'static str,
    ttl: u64,
    api_server: String,
    token_file: PathBuf,
    ca_file: PathBuf,
}

impl Trusted {
    fn new(api: &FakeApiServer, volume: &TempDir) -> Self {
        Self {
            url: api.issuers()[0].clone(),
            audience: AUDIENCE,
            when_unavailable: "refuse",
            ttl: 60,
            api_server: format!("https://{}:{}", api.host(), api.port()),
            token_file: volume.path().join("token"),
            ca_file: volume.path().join("ca.crt"),
        }
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

/// Returns a configuration file with these issuers.
fn content(issuers: &[Trusted]) -> String {
    let mut content = "allow: [allAuthenticatedUsers]\nissuers:\n".to_owned();
    for issuer in issuers {
        let Trusted {
            url,
            audience,
            when_unavailable,
            ttl,
            api_server,
            token_file,
            ca_file,
        } = issuer;
        let (token_file, ca_file) = (token_file.display(), ca_file.display());
        content += &format!(
            "  - url: {url}
    platform: kubernetes
    jwks_url: {api_server}/openid/v1/jwks
    audiences: [{audience}]
    token_review:
      when_unavailable: {when_unavailable}
      ttl_seconds: {ttl}
      api_server: {api_server}
      token_file: {token_file}
      ca_file: {ca_file}
"
        );
    }
    content
}

#[tokio::test]
async fn a_stream_ends_with_its_revoked_token_after_the_settings_have_changed() {
    let followed = Followed::new().await;
    let token = followed.token("web");
    let caller = followed.guard.verifier().verify(&token).await.unwrap();
    let stream = tokio::spawn(caller.expired());
    followed.change_ttl(1).await;
    assert!(!stream.is_finished());
    followed.api.delete_pod("shop", "web");
    let ended = tokio::time::timeout(Duration::from_secs(10), stream);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_known_about_tokens_is_kept_when_the_settings_change() {
    let followed = Followed::new().await;
    let (kept, gone) = (followed.token("web"), followed.token("gone"));
    followed.verify(&kept).await.unwrap();
    followed.api.delete_pod("shop", "gone");
    assert_eq!(followed.verify(&gone).await, Err(REVOKED));
    followed.change_ttl(600).await;
    // No review can be made any more.
    followed.api.withdraw_token_reviews("shop", "guard");
    followed.verify(&kept).await.unwrap();
    assert_eq!(followed.verify(&gone).await, Err(REVOKED));
}

#[tokio::test]
async fn refusals_are_kept_when_the_files_for_the_api_server_change() {
    let followed = Followed::new().await;
    let when_unavailable = "accept";
    let first = Trusted {
        when_unavailable,
        ..followed.trusted()
    };
    followed.change(std::slice::from_ref(&first)).await;
    let gone = followed.token("gone");
    followed.api.delete_pod("shop", "gone");
    assert_eq!(followed.verify(&gone).await, Err(REVOKED));
    followed.api.withdraw_token_reviews("shop", "guard");
    let copy = |file: &Path| {
        let copy = file.with_extension("copy");
        std::fs::copy(file, &copy).unwrap();
        copy
    };
    let other_ca = Trusted {
        ca_file: copy(&first.ca_file),
        ..first.clone()
    };
    let other_token = Trusted {
        token_file: copy(&first.token_file),
        ..first.clone()
    };
    for changed in [other_ca, other_token] {
        followed.change(&[changed]).await;
        followed.verify(&followed.token("new")).await.unwrap();
        assert_eq!(followed.verify(&gone).await, Err(REVOKED));
    }
}

#[tokio::test]
async fn no_token_is_accepted_without_confirmation_once_that_is_refused() {
    let followed = Followed::new().await;
    let (when_unavailable, ttl) = ("accept", 600);
    let accepting = Trusted {
        when_unavailable,
        ttl,
        ..followed.trusted()
    };
    followed.change(&[accepting]).await;
    followed.api.withdraw_token_reviews("shop", "guard");
    let token = followed.token("web");
    for _ in 0..2 {
        followed.verify(&token).await.unwrap();
    }
    followed.change(&[followed.trusted()]).await;
    for token in [token, followed.token("new")] {
        let result = followed.verify(&token).await;
        assert!(is_unavailable(&result), "{result:?}");
    }
}

#[tokio::test]
async fn a_new_issuer_does_not_change_the_reviews_of_another_one_by_the_same_api_server() {
    let followed = Followed::new().await;
    let ttl = 1;
    let first = Trusted {
        ttl,
        ..followed.trusted()
    };
    followed.change(std::slice::from_ref(&first)).await;
    let (known, gone) = (followed.token("web"), followed.token("gone"));
    for token in [&known, &gone] {
        followed.verify(token).await.unwrap();
    }
    let second = Trusted {
        url: "https://second.example".to_owned(),
        audience: "https://second-service.example",
        ttl: 600,
        ..first.clone()
    };
    followed.change(&[first, second]).await;
    for token in [&known, &followed.token("new")] {
        followed.verify(token).await.unwrap();
    }
    followed.api.delete_pod("shop", "gone");
    // The confirmation is not used for the time to live of the new issuer.
    wait_until(async || followed.verify(&gone).await == Err(REVOKED)).await;
    followed.verify(&known).await.unwrap();
}
