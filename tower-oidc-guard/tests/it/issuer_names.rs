//! Issuers that change their names, or have several.

use std::time::Duration;

use crate::support::forge::Forge;
use crate::support::stage::answer;
use crate::support::{
    AUDIENCE, FORGED_ISSUER, HEADER, answering, bearer, canned, claims, guard_by, later,
};
use serde_json::json;
use tower_oidc_guard::testing::{FakeApiServer, TokenSpec};
use tower_oidc_guard::{Algorithm, BuildError, Issuer, KeysError, OidcGuard, Policy, Rejection};

const OLD: &str = "https://kubernetes.default.svc.cluster.local";
const NEW: &str = "https://issuer.example";
const WEB: &str = "system:serviceaccount:shop:web";

/// A cluster, and the volume of the pod that the guard runs in.
struct Cluster {
    api: FakeApiServer,
    volume: tempfile::TempDir,
}

impl Cluster {
    /// A cluster that is called [`OLD`].
    async fn new() -> Self {
        let api = FakeApiServer::start().await.unwrap();
        api.set_issuers([OLD]);
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join("ca.crt"), api.ca_pem()).unwrap();
        let cluster = Self { api, volume };
        cluster.rotate_own_token();
        cluster
    }

    /// Has the kubelet replace the pod's own token by one with the current name.
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

    /// A caller's token, with the current name.
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

async fn issuer_of(guard: &OidcGuard, token: &str) -> Result<String, Rejection> {
    let identity = guard.verifier().verify(token).await;
    identity.map(|identity| identity.issuer().to_owned())
}

/// Lets an hour pass, and waits for the refresh.
async fn refresh(cluster: &Cluster, guard: &OidcGuard) {
    let before = cluster.key_fetches();
    later(Duration::from_secs(3600)).await;
    for _ in 0..1000 {
        guard.prefetch();
        if cluster.key_fetches() > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_cluster_s_new_name_is_accepted_as_soon_as_its_api_server_has_it_and_the_old_one_stays() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    let old = cluster.caller().mint();
    assert_eq!(issuer_of(&guard, &old).await, Ok(OLD.to_owned()));
    cluster.api.set_issuers([NEW, OLD]);
    let new = cluster.caller().mint();
    assert_eq!(
        issuer_of(&guard, &new).await,
        Ok(NEW.to_owned()),
        "in the same request"
    );
    assert_eq!(cluster.key_fetches(), 2);
    assert_eq!(issuer_of(&guard, &old).await, Ok(OLD.to_owned()));
    assert_eq!(guard.health()[0].issuer, OLD, "the label stays");
    // The guard's own token has the new name now.
    cluster.rotate_own_token();
    refresh(&cluster, &guard).await;
    assert_eq!(issuer_of(&guard, &new).await, Ok(NEW.to_owned()));
    assert_eq!(issuer_of(&guard, &old).await, Err(Rejection::UnknownIssuer));
    assert_eq!(guard.health()[0].issuer, OLD);
}

#[tokio::test]
async fn a_guard_whose_own_token_has_the_new_name_accepts_the_old_one_if_it_is_named() {
    let cluster = Cluster::new().await;
    let old = cluster.caller().mint();
    cluster.api.set_issuers([NEW, OLD]);
    cluster.rotate_own_token();
    let new = cluster.caller().mint();
    for (issuer, expected) in [
        (cluster.issuer(), Err(Rejection::UnknownIssuer)),
        (cluster.issuer().also_known_as(OLD), Ok(OLD.to_owned())),
        // That the pod's own token says the same is no conflict.
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
async fn policies_call_a_cluster_by_any_of_its_names() {
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
            let response = answer(guard.layer(), bearer(token)).await;
            assert_eq!(response.status(), 200, "{:?}", guard.policy());
        }
        let denies = Policy::any_verified_caller().deny([WEB]);
        let layer = guard.layer_with(denies).unwrap();
        for token in [&old, &new] {
            let response = answer(layer.clone(), bearer(token)).await;
            assert_eq!(response.status(), 403);
        }
    }
}

/// The keys of the cluster `NEW` are given, so that it is never asked.
fn configured_as_new() -> Issuer {
    let keys = json!({ "keys": [Forge::new().jwk()] }).to_string();
    let issuer = Issuer::kubernetes(NEW).keys_json(keys);
    issuer.algorithms([Algorithm::ES256]).audience(AUDIENCE)
}

#[tokio::test]
async fn a_cluster_that_announces_the_name_of_another_issuer_does_not_get_that_one_s_members() {
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
        let response = answer(guard.layer(), bearer(&old)).await;
        response.status().as_u16()
    };
    assert_eq!(status().await, 403);
    cluster.api.set_issuers([NEW, OLD]);
    refresh(&cluster, &guard).await;
    assert_eq!(status().await, 403, "it is still the cluster called OLD");
    let new = cluster.caller().mint();
    assert!(
        guard.verifier().verify(new).await.is_err(),
        "tokens with that name are the other issuer's to sign"
    );
}

/// A token of the legacy kind does not name the cluster's issuer.
fn legacy_token(cluster: &Cluster) -> String {
    let token = cluster.caller().claim("iss", "kubernetes/serviceaccount");
    let token = token.claim("aud", json!([])).mint();
    cluster.api.accept_token(token.as_str(), "shop", "guard");
    token
}

#[tokio::test]
async fn a_policy_names_a_cluster_whose_pods_have_legacy_tokens_only_by_configured_names() {
    let cluster = Cluster::new().await;
    let token = legacy_token(&cluster);
    std::fs::write(cluster.volume.path().join("token"), token).unwrap();
    let deny = || Policy::any_verified_caller().deny([format!("principal:{OLD}#{WEB}")]);
    let unnamed = OidcGuard::builder().issuer(cluster.issuer());
    assert!(
        matches!(unnamed.policy(deny()).build(), Err(BuildError::Policy(_))),
        "a name that may be misspelt would deny nobody"
    );
    let guard = cluster.guard(cluster.issuer().also_known_as(OLD), deny());
    for issuers in [vec![OLD], vec![NEW, OLD]] {
        cluster.api.set_issuers(issuers);
        let caller = cluster.caller().mint();
        let response = answer(guard.layer(), bearer(&caller)).await;
        assert_eq!(response.status(), 403);
    }
}

#[tokio::test]
async fn an_audience_that_the_pod_s_own_token_gets_later_makes_the_next_fetch_fail() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    guard.ready().await.unwrap();
    let own = cluster.api.token("shop", "guard").audience(OLD);
    let own = own.audience(AUDIENCE).mint();
    std::fs::write(cluster.volume.path().join("token"), own).unwrap();
    later(Duration::from_secs(3600)).await;
    for _ in 0..1000 {
        if guard.health()[0].last_error.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = guard.health()[0].last_error.clone().unwrap();
    assert!(matches!(*error, KeysError::ApiAudience { .. }), "{error:?}");
}

#[tokio::test]
async fn an_issuer_that_nobody_has_is_refused_and_causes_no_more_fetches_than_the_limit() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    guard.ready().await.unwrap();
    for number in 0..50 {
        let stranger = cluster
            .caller()
            .claim("iss", format!("https://{number}.example"));
        let verdict = issuer_of(&guard, &stranger.mint()).await;
        assert_eq!(verdict, Err(Rejection::UnknownIssuer));
    }
    assert!(
        cluster.key_fetches() <= 1 + 3 + 1,
        "{}",
        cluster.key_fetches()
    );
    let known = cluster.caller().mint();
    assert_eq!(issuer_of(&guard, &known).await, Ok(OLD.to_owned()));
    // What is wrong with the token otherwise is not even asked about.
    let before = cluster.key_fetches();
    let other = cluster
        .caller()
        .claim("iss", NEW)
        .claim("aud", "https://other.example");
    let verdict = issuer_of(&guard, &other.mint()).await;
    assert_eq!(verdict, Err(Rejection::UnknownIssuer));
    assert_eq!(cluster.key_fetches(), before);
}

#[tokio::test]
async fn a_new_name_that_is_an_audience_of_the_guard_makes_it_stop() {
    let cluster = Cluster::new().await;
    for audience in [NEW.to_owned(), format!("{NEW}/")] {
        cluster.api.set_issuers([OLD]);
        let issuer = cluster.issuer().audience(audience);
        let guard = cluster.guard(issuer, Policy::any_verified_caller());
        guard.ready().await.unwrap();
        cluster.api.set_issuers([NEW, OLD]);
        let new = cluster.caller().mint();
        assert_eq!(issuer_of(&guard, &new).await, Err(Rejection::UnknownIssuer));
        let error = guard.health().remove(0).last_error.unwrap();
        assert!(matches!(&*error, KeysError::ApiAudience { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_cluster_that_signs_with_es256_from_now_on_is_accepted_in_the_same_request() {
    let cluster = Cluster::new().await;
    let guard = cluster.guard(cluster.issuer(), Policy::any_verified_caller());
    guard.ready().await.unwrap();
    cluster.api.rotate_key_to(Algorithm::ES256).unwrap();
    let token = cluster.caller().mint();
    assert_eq!(issuer_of(&guard, &token).await, Ok(OLD.to_owned()));
}

#[tokio::test]
async fn any_issuer_can_have_several_names() {
    let forge = Forge::new();
    let named = || {
        let issuer = Issuer::oidc(FORGED_ISSUER).also_known_as(OLD);
        issuer
            .also_known_as("not a URL")
            .algorithms([Algorithm::ES256])
    };
    let keys = json!({ "keys": [forge.jwk()] }).to_string();
    let given = guard_by(
        named().keys_json(keys.clone()),
        answering(|request| panic!("{request:?}")),
    );
    // A discovery document may have any of the names.
    let document = json!({ "issuer": OLD, "jwks_uri": "https://keys.example/jwks" });
    let documents = [
        (
            format!("{FORGED_ISSUER}/.well-known/openid-configuration"),
            document.to_string(),
        ),
        ("https://keys.example/jwks".to_owned(), keys),
    ];
    let documents = documents.map(|(url, body)| (url, body.into_bytes()));
    let discovered = guard_by(named(), canned(documents.into_iter().collect()));
    for guard in [given, discovered] {
        for iss in [FORGED_ISSUER, OLD, "not a URL"] {
            let token = forge.sign(HEADER, &claims(json!({ "iss": iss })));
            assert_eq!(issuer_of(&guard, &token).await, Ok(iss.to_owned()));
            let policy = Policy::members([format!("principal:{FORGED_ISSUER}#caller")]);
            let layer = guard.layer_with(policy).unwrap();
            assert_eq!(answer(layer, bearer(&token)).await.status(), 200);
        }
        let stranger = forge.sign(HEADER, &claims(json!({ "iss": "https://evil.example" })));
        assert_eq!(
            issuer_of(&guard, &stranger).await,
            Err(Rejection::UnknownIssuer)
        );
    }
}

#[test]
fn a_name_that_cannot_be_one_or_is_another_issuer_s_does_not_build() {
    let keys = json!({ "keys": [Forge::new().jwk()] }).to_string();
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
