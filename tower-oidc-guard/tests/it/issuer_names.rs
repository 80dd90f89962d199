//! Issuers with several names, and issuers whose name changes.

use std::time::Duration;

use serde_json::json;
use tower_oidc_guard::testing::{FakeApiServer, TokenSpec};
use tower_oidc_guard::{
    Algorithm, BuildError, Issuer, KeysError, OidcGuard, Policy, TokenError, VerifyError,
};

use crate::support::in_memory::{send_request, token_status};
use crate::support::mock_client::{document_client, unused_client};
use crate::support::signer::Signer;
use crate::support::{
    AUDIENCE, HEADER, ISSUER_URL, advance_clock, bearer_request, claims, guard_with_client,
    wait_until,
};

const OLD: &str = "https://kubernetes.default.svc.cluster.local";
const NEW: &str = "https://issuer.example";
const WEB: &str = "system:serviceaccount:shop:web";

/// A cluster, and the volume of the pod in which the guard runs.
struct Cluster {
    api: FakeApiServer,
    volume: tempfile::TempDir,
}

impl Cluster {
    /// Creates a cluster with the issuer [`OLD`].
    async fn new() -> Self {
        let api = FakeApiServer::start().await.unwrap();
        api.set_issuers([OLD]);
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join("ca.crt"), api.ca_pem()).unwrap();
        let cluster = Self { api, volume };
        cluster.rotate_own_token();
        cluster
    }

    /// Replaces the pod's own token with one of the current issuer.
    fn rotate_own_token(&self) {
        let token = self.api.pod_token("shop", "guard");
        std::fs::write(self.volume.path().join("token"), token).unwrap();
    }

    fn issuer(&self) -> Issuer {
        Issuer::in_cluster_at(&self.api.host(), &self.api.port())
            .unwrap()
            .api_token_file(self.volume.path().join("token"))
            .api_ca_file(self.volume.path().join("ca.crt"))
            .unknown_key_jitter(Duration::ZERO)
            .audience(AUDIENCE)
    }

    fn guard(&self, issuer: Issuer, policy: Policy) -> OidcGuard {
        let builder = OidcGuard::builder().issuer(issuer);
        builder.policy(policy).build().unwrap()
    }

    /// Returns the specification of a caller's token of the current issuer.
    fn caller(&self) -> TokenSpec {
        let spec = self.api.token("shop", "web").audience(AUDIENCE);
        spec.lifetime(Duration::from_secs(48 * 3600))
    }

    fn key_fetches(&self) -> usize {
        let requests = self.api.requests().into_iter();
        requests
            .filter(|request| request.path == "/openid/v1/jwks")
            .count()
    }
}

async fn issuer_of(guard: &OidcGuard, token: &str) -> Result<String, VerifyError> {
    let identity = guard.verifier().verify(token).await;
    identity.map(|identity| identity.issuer().to_owned())
}

/// Advances the clock by an hour and waits for the refresh.
async fn refresh(cluster: &Cluster, guard: &OidcGuard) {
    let before = cluster.key_fetches();
    advance_clock(Duration::from_secs(3600)).await;
    wait_until(async || {
        guard.prefetch();
        cluster.key_fetches() > before
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn new_issuer_name_is_accepted_as_soon_as_the_api_server_announces_it_beside_the_old_one() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    let old = cluster.caller().mint();
    assert_eq!(issuer_of(&guard, &old).await, Ok(OLD.to_owned()));
    cluster.api.set_issuers([NEW, OLD]);
    let new = cluster.caller().mint();
    assert_eq!(
        issuer_of(&guard, &new).await,
        Ok(NEW.to_owned()),
        "accepted by the same request"
    );
    assert_eq!(cluster.key_fetches(), 2);
    assert_eq!(issuer_of(&guard, &old).await, Ok(OLD.to_owned()));
    assert_eq!(guard.health()[0].issuer, OLD, "the label does not change");
    // From here on, the pod's own token has the new name.
    cluster.rotate_own_token();
    refresh(&cluster, &guard).await;
    assert_eq!(issuer_of(&guard, &new).await, Ok(NEW.to_owned()));
    assert_eq!(
        issuer_of(&guard, &old).await,
        Err(VerifyError::InvalidToken(TokenError::UnknownIssuer))
    );
    assert_eq!(guard.health()[0].issuer, OLD);
}

#[tokio::test]
async fn old_issuer_name_is_accepted_after_a_rename_if_it_is_configured() {
    let cluster = Cluster::new().await;
    let old = cluster.caller().mint();
    cluster.api.set_issuers([NEW, OLD]);
    cluster.rotate_own_token();
    let new = cluster.caller().mint();
    for (issuer, expected) in [
        (
            cluster.issuer(),
            Err(VerifyError::InvalidToken(TokenError::UnknownIssuer)),
        ),
        (cluster.issuer().also_known_as(OLD), Ok(OLD.to_owned())),
        // Configuring the name that the pod's own token has is no conflict.
        (
            cluster.issuer().also_known_as(OLD).also_known_as(NEW),
            Ok(OLD.to_owned()),
        ),
    ] {
        let guard = cluster.guard(issuer, Policy::any_verified_caller());
        assert_eq!(issuer_of(&guard, &old).await, expected);
        assert_eq!(issuer_of(&guard, &new).await, Ok(NEW.to_owned()));
    }
}

#[tokio::test]
async fn policies_may_use_any_name_of_an_issuer() {
    let cluster = Cluster::new().await;
    let old = cluster.caller().mint();
    for policy in [
        Policy::members([WEB]),
        Policy::members_of(OLD, [WEB]),
        Policy::members([format!("principal:{OLD}#{WEB}")]),
        Policy::members_of(NEW, [WEB]),
        Policy::members([format!("principal:{NEW}#{WEB}")]),
    ] {
        cluster.api.set_issuers([OLD]);
        let guard = cluster.guard(cluster.issuer().also_known_as(NEW), policy);
        guard.ready().await.unwrap();
        cluster.api.set_issuers([NEW, OLD]);
        let new = cluster.caller().mint();
        for token in [&old, &new] {
            let response = send_request(guard.layer(), bearer_request(token)).await;
            assert_eq!(response.status(), 200, "{:?}", guard.policy());
        }
        let denies = Policy::any_verified_caller().deny([WEB]);
        let layer = guard.layer_with(denies).unwrap();
        for token in [&old, &new] {
            let response = send_request(layer.clone(), bearer_request(token)).await;
            assert_eq!(response.status(), 403);
        }
    }
}

/// Returns an issuer with the name [`NEW`] whose keys are configured, so that none are fetched.
fn configured_as_new() -> Issuer {
    let keys = json!({ "keys": [Signer::new().jwk()] }).to_string();
    let issuer = Issuer::kubernetes(NEW).keys_json(keys);
    issuer.algorithms([Algorithm::ES256]).audience(AUDIENCE)
}

#[tokio::test]
async fn cluster_announcing_another_issuers_name_does_not_match_its_members() {
    let cluster = Cluster::new().await;
    let policy = Policy::any_of([
        Policy::members_of(NEW, [WEB]),
        Policy::members([format!("principal:{NEW}#{WEB}")]),
    ]);
    let builder = OidcGuard::builder().issuer(cluster.issuer());
    let builder = builder.issuer(configured_as_new()).policy(policy);
    let guard = builder.build().unwrap();
    let old = cluster.caller().mint();
    let status = async || {
        let response = send_request(guard.layer(), bearer_request(&old)).await;
        response.status().as_u16()
    };
    assert_eq!(status().await, 403);
    cluster.api.set_issuers([NEW, OLD]);
    refresh(&cluster, &guard).await;
    assert_eq!(status().await, 403, "the token belongs to the cluster OLD");
    let new = cluster.caller().mint();
    assert!(
        guard.verifier().verify(new).await.is_err(),
        "tokens with that name need a key of the other issuer"
    );
}

/// Mints a legacy token, which does not contain the issuer of the cluster.
fn legacy_token(cluster: &Cluster) -> String {
    let token = cluster.caller().claim("iss", "kubernetes/serviceaccount");
    let token = token.claim("aud", json!([])).mint();
    cluster.api.accept_token(token.as_str(), "shop", "guard");
    token
}

#[tokio::test]
async fn policy_must_use_configured_issuer_names_if_the_pod_token_is_a_legacy_token() {
    let cluster = Cluster::new().await;
    let token = legacy_token(&cluster);
    std::fs::write(cluster.volume.path().join("token"), token).unwrap();
    let deny = || Policy::any_verified_caller().deny([format!("principal:{OLD}#{WEB}")]);
    let unnamed = OidcGuard::builder().issuer(cluster.issuer());
    assert!(
        matches!(unnamed.policy(deny()).build(), Err(BuildError::Policy(_))),
        "a misspelled name would deny nobody"
    );
    let guard = cluster.guard(cluster.issuer().also_known_as(OLD), deny());
    for issuers in [vec![OLD], vec![NEW, OLD]] {
        cluster.api.set_issuers(issuers);
        let caller = cluster.caller().mint();
        let response = send_request(guard.layer(), bearer_request(&caller)).await;
        assert_eq!(response.status(), 403);
    }
}

#[tokio::test]
async fn audience_added_to_the_pod_token_later_makes_the_next_fetch_fail() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    guard.ready().await.unwrap();
    let own = cluster.api.token("shop", "guard").audience(OLD);
    let own = own.audience(AUDIENCE).mint();
    std::fs::write(cluster.volume.path().join("token"), own).unwrap();
    advance_clock(Duration::from_secs(3600)).await;
    wait_until(async || guard.health()[0].last_error.is_some()).await;
    let error = guard.health()[0].last_error.clone().unwrap();
    assert!(
        matches!(*error, KeysError::ApiServerAudience { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn unknown_issuer_is_rejected_and_fetches_are_rate_limited() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    guard.ready().await.unwrap();
    for number in 0..50 {
        let stranger = cluster
            .caller()
            .claim("iss", format!("https://{number}.example"));
        let result = issuer_of(&guard, &stranger.mint()).await;
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::UnknownIssuer))
        );
    }
    assert!(
        cluster.key_fetches() <= 1 + 3 + 1,
        "{}",
        cluster.key_fetches()
    );
    let known = cluster.caller().mint();
    assert_eq!(issuer_of(&guard, &known).await, Ok(OLD.to_owned()));
    // A token that is invalid for another reason causes no fetch.
    let before = cluster.key_fetches();
    let other = cluster
        .caller()
        .claim("iss", NEW)
        .claim("aud", "https://other.example");
    let result = issuer_of(&guard, &other.mint()).await;
    assert_eq!(
        result,
        Err(VerifyError::InvalidToken(TokenError::UnknownIssuer))
    );
    assert_eq!(cluster.key_fetches(), before);
}

#[tokio::test]
async fn new_issuer_name_equal_to_an_accepted_audience_makes_the_fetch_fail() {
    let cluster = Cluster::new().await;
    for audience in [NEW.to_owned(), format!("{NEW}/")] {
        cluster.api.set_issuers([OLD]);
        let issuer = cluster.issuer().audience(audience);
        let guard = cluster.guard(issuer, Policy::any_verified_caller());
        guard.ready().await.unwrap();
        cluster.api.set_issuers([NEW, OLD]);
        let new = cluster.caller().mint();
        assert_eq!(
            issuer_of(&guard, &new).await,
            Err(VerifyError::InvalidToken(TokenError::UnknownIssuer))
        );
        let error = guard.health().remove(0).last_error.unwrap();
        assert!(
            matches!(&*error, KeysError::ApiServerAudience { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn cluster_that_switches_to_es256_is_accepted_by_the_same_request() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    guard.ready().await.unwrap();
    cluster.api.rotate_key_to(Algorithm::ES256).unwrap();
    let token = cluster.caller().mint();
    assert_eq!(issuer_of(&guard, &token).await, Ok(OLD.to_owned()));
}

#[tokio::test]
async fn any_issuer_can_have_several_names() {
    let signer = Signer::new();
    let named = || {
        let issuer = Issuer::oidc(ISSUER_URL).also_known_as(OLD);
        issuer
            .also_known_as("not a URL")
            .algorithms([Algorithm::ES256])
    };
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let given = guard_with_client(named().keys_json(keys.clone()), unused_client());
    // A discovery document may have any of the names.
    let document = json!({ "issuer": OLD, "jwks_uri": "https://keys.example/jwks" });
    let documents = [
        (
            format!("{ISSUER_URL}/.well-known/openid-configuration"),
            document.to_string(),
        ),
        ("https://keys.example/jwks".to_owned(), keys),
    ];
    let documents = documents.map(|(url, body)| (url, body.into_bytes()));
    let discovered = guard_with_client(named(), document_client(documents.into_iter().collect()));
    for guard in [given, discovered] {
        for iss in [ISSUER_URL, OLD, "not a URL"] {
            let token = signer.sign(HEADER, &claims(json!({ "iss": iss })));
            assert_eq!(issuer_of(&guard, &token).await, Ok(iss.to_owned()));
            let policy = Policy::members([format!("principal:{ISSUER_URL}#caller")]);
            let layer = guard.layer_with(policy).unwrap();
            assert_eq!(token_status(layer, &token).await, 200);
        }
        let stranger = signer.sign(HEADER, &claims(json!({ "iss": "https://evil.example" })));
        assert_eq!(
            issuer_of(&guard, &stranger).await,
            Err(VerifyError::InvalidToken(TokenError::UnknownIssuer))
        );
    }
}

#[test]
fn invalid_or_duplicate_issuer_name_does_not_build() {
    let keys = json!({ "keys": [Signer::new().jwk()] }).to_string();
    let build = |issuers: Vec<Issuer>| {
        let builder = OidcGuard::builder().any_verified_caller();
        let with_keys = |issuer: Issuer| issuer.audience("me").keys_json(keys.clone());
        let issuers = issuers.into_iter().map(with_keys);
        issuers
            .fold(builder, |builder, issuer| builder.issuer(issuer))
            .build()
    };
    let one = || Issuer::oidc("https://one.example");
    assert!(build(vec![one().also_known_as(OLD)]).is_ok());
    for name in [
        "",
        " ",
        " https://a.example",
        "https://a.example/#b",
        "https://a b.example",
    ] {
        let built = build(vec![one().also_known_as(name)]);
        assert!(matches!(built, Err(BuildError::Issuer { .. })), "{name:?}");
    }
    for other in [Issuer::oidc(NEW), Issuer::oidc(OLD).also_known_as(NEW)] {
        let built = build(vec![one().also_known_as(NEW), other]);
        assert!(
            matches!(built, Err(BuildError::DuplicateIssuer { .. })),
            "{built:?}"
        );
    }
}
