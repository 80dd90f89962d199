//! Who may call.

use crate::support::stage::{
    CLUSTER, GKE_SA, answer, cluster, error, identity, settings, spec, status,
};
use crate::support::{AUDIENCE, bearer, request};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard, Policy, PolicyError};

#[tokio::test]
async fn nobody_named_means_nobody_enters() {
    assert_eq!(status(Policy::members([""; 0])).await, 403);
    assert_eq!(status(Policy::any_of([])).await, 403);
    assert_eq!(status(Policy::all_of([])).await, 403);
}

#[tokio::test]
async fn denied_members_win() {
    let all = || Policy::members(["system:serviceaccounts", "allAuthenticatedUsers"]);
    assert_eq!(status(all().deny([GKE_SA])).await, 403);
    assert_eq!(
        status(all().deny(["system:serviceaccounts:id-namespace"])).await,
        403
    );
    assert_eq!(
        status(all().deny(["system:serviceaccounts:other"])).await,
        200
    );
    assert_eq!(status(Policy::any_of([all()]).deny([GKE_SA])).await, 403);
}

#[tokio::test]
async fn claims_audiences_and_functions_narrow_a_policy() {
    let all = Policy::any_verified_caller;
    assert_eq!(status(all().require_claim("sub", GKE_SA)).await, 200);
    assert_eq!(status(all().require_claim("sub", "other")).await, 403);
    assert_eq!(status(all().audience(AUDIENCE)).await, 200);
    assert_eq!(
        status(all().require(|caller| caller.kubernetes().is_some())).await,
        200
    );
    assert_eq!(status(all().require(|_| false)).await, 403);
}

#[tokio::test]
async fn a_policy_s_audience_is_one_of_several_that_the_issuer_s_tokens_are_accepted_for() {
    const ADMIN: &str = "https://admin.example";
    let cluster = cluster();
    let issuer = Issuer::kubernetes(cluster.url());
    let guard = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE).audience(ADMIN))
        .http_client(cluster.client())
        .any_verified_caller()
        .build()
        .unwrap();
    let both = cluster.token().audience(AUDIENCE).audience(ADMIN);
    let any = Policy::any_verified_caller;
    let composite = || Policy::any_of([any()]);
    for (policy, own, admin) in [
        (any().audience(AUDIENCE), 200, 403),
        (any().audience(ADMIN), 403, 200),
        (any().audience(ADMIN).audience(AUDIENCE), 200, 200),
        (composite().audience(ADMIN), 403, 200),
        // One of the audiences is enough for a composition, too, and for a policy that is in use elsewhere.
        (composite().audience(ADMIN).audience(AUDIENCE), 200, 200),
        (any().audience(ADMIN).clone().audience(AUDIENCE), 200, 200),
    ] {
        let layer = guard.layer_with(policy.clone()).unwrap();
        for (token, expected) in [
            (cluster.token().audience(AUDIENCE), own),
            (cluster.token().audience(ADMIN), admin),
            (both.clone(), 200),
        ] {
            let response = answer(layer.clone(), bearer(&token.mint())).await;
            assert_eq!(response.status(), expected, "{policy:?} {token:?}");
        }
    }
}

#[test]
fn an_audience_that_no_issuer_accepts_does_not_build() {
    let cluster = cluster();
    let any = Policy::any_verified_caller;
    let guard = settings(&cluster).any_verified_caller().build().unwrap();
    for audience in [
        "https://admin.example",
        "https://auth-server.example/",
        CLUSTER,
    ] {
        for policy in [
            any().audience(audience),
            any().audience(AUDIENCE).audience(audience),
            Policy::members([GKE_SA]).audience(audience),
            Policy::any_of([any(), any().audience(audience)]),
            Policy::all_of([any(), Policy::any_of([any()]).audience(audience)]),
        ] {
            let unknown = PolicyError::UnknownAudience {
                audience: audience.to_owned(),
            };
            assert_eq!(
                guard.layer_with(policy.clone()).err(),
                Some(unknown.clone())
            );
        }
    }
    for audience in ["", " ", " https://auth-server.example", "a b", "a\u{200b}"] {
        let error = error(any().audience(audience));
        assert!(
            matches!(error, PolicyError::InvalidAudience { .. }),
            "{audience:?}: {error}"
        );
    }
}

#[test]
fn claims_that_cannot_be_required_do_not_build() {
    let any = Policy::any_verified_caller;
    for policy in [
        any().require_claim("", "x"),
        any().require_claim("hd", serde_json::Value::Null),
        any().require_claim("hd", None::<String>),
        Policy::any_of([any()]).require_claim("hd", serde_json::Value::Null),
    ] {
        assert!(matches!(error(policy), PolicyError::InvalidClaim { .. }));
    }
}

#[tokio::test]
async fn policies_compose_by_any_and_all() {
    let (yes, no) = (
        || Policy::members([GKE_SA]),
        || Policy::members(["system:serviceaccounts:other"]),
    );
    assert_eq!(status(Policy::any_of([no(), yes()])).await, 200);
    assert_eq!(status(Policy::any_of([no(), no()])).await, 403);
    assert_eq!(status(Policy::all_of([yes(), yes()])).await, 200);
    assert_eq!(status(Policy::all_of([yes(), no()])).await, 403);
}

#[test]
fn members_that_nobody_speaks_for_do_not_build() {
    let google = error(Policy::members(["user:a@example.com"]));
    assert_eq!(
        google,
        PolicyError::NoIssuerForPlatform { platform: "Google" }
    );
    let stranger = error(Policy::members(["principal:https://evil.example#x"]));
    assert!(matches!(stranger, PolicyError::UntrustedIssuer { .. }));
    let denied = error(Policy::members([GKE_SA]).deny(["user:a@example.com"]));
    assert_eq!(
        denied,
        PolicyError::NoIssuerForPlatform { platform: "Google" }
    );
}

#[tokio::test]
async fn with_two_issuers_of_one_platform_a_member_must_say_which_it_means() {
    let (one, two) = (
        cluster(),
        MemoryIssuer::new("https://other.example").unwrap(),
    );
    let other = Issuer::kubernetes(two.url()).keys_json(crate::support::stage::jwks(&two).await);
    let build = |policy| {
        settings(&one)
            .issuer(other.clone().audience(AUDIENCE))
            .policy(policy)
            .build()
    };
    let unsaid = build(Policy::members([GKE_SA]));
    assert!(matches!(
        unsaid,
        Err(BuildError::Policy(PolicyError::AmbiguousIssuer { .. }))
    ));
    let guard: OidcGuard = build(Policy::members_of(two.url(), [GKE_SA])).unwrap();
    assert_eq!(
        answer(guard.layer(), bearer(&spec(&two).mint()))
            .await
            .status(),
        200
    );
    assert_eq!(
        answer(guard.layer(), bearer(&spec(&one).mint()))
            .await
            .status(),
        403
    );
}

#[tokio::test]
async fn all_users_are_those_without_a_token_too_and_a_bad_token_is_refused_all_the_same() {
    let cluster = cluster();
    let guard = settings(&cluster)
        .policy(Policy::members(["allUsers"]))
        .build()
        .unwrap();
    assert_eq!(answer(guard.layer(), request(&[])).await.body(), b"nobody");
    assert_eq!(
        answer(guard.layer(), bearer(&spec(&cluster).mint()))
            .await
            .body(),
        GKE_SA.as_bytes()
    );
    let bad = spec(&cluster).bad_signature().mint();
    assert_eq!(answer(guard.layer(), bearer(&bad)).await.status(), 401);
    for narrowed in [
        Policy::members(["allUsers"]).require_claim("a", 1),
        Policy::members(["allUsers"]).require(|_| true),
    ] {
        let layer = guard.layer_with(narrowed).unwrap();
        assert_eq!(
            answer(layer, request(&[])).await.status(),
            401,
            "what a token must say, nobody says"
        );
    }
}

#[tokio::test]
async fn routes_have_policies_of_their_own() {
    let cluster = cluster();
    let guard = settings(&cluster)
        .policy(Policy::members([GKE_SA]))
        .build()
        .unwrap();
    let admins = Policy::members(["system:serviceaccount:ops:admin"]);
    let sent = || bearer(&spec(&cluster).mint());
    assert_eq!(answer(guard.layer(), sent()).await.status(), 200);
    assert_eq!(
        answer(guard.layer_with(admins).unwrap(), sent())
            .await
            .status(),
        403
    );
    assert!(
        guard
            .layer_with(Policy::members(["user:a@example.com"]))
            .is_err()
    );
}

#[tokio::test]
async fn a_decision_is_explained_to_the_operator() {
    let cluster = cluster();
    let policy = Policy::members(["system:serviceaccounts:id-namespace"])
        .deny(["system:serviceaccount:id-namespace:bad"]);
    let guard = settings(&cluster).policy(policy).build().unwrap();
    let explain = |name: &str| {
        let spec = spec(&cluster).service_account("id-namespace", name);
        let guard = guard.clone();
        async move {
            guard
                .policy()
                .explain(&identity(&guard, &spec).await)
                .to_string()
        }
    };
    assert_eq!(
        explain("gke-sa").await,
        "allowed: system:serviceaccounts:id-namespace is an allowed member"
    );
    assert_eq!(
        explain("bad").await,
        "refused: system:serviceaccount:id-namespace:bad is denied"
    );
    let stranger = spec(&cluster).service_account("other", "x");
    let decision = guard.policy().explain(&identity(&guard, &stranger).await);
    assert!(
        !decision.is_allowed() && decision.reason().contains("no allowed member"),
        "{decision}"
    );
}

#[test]
fn without_a_policy_a_guard_does_not_build() {
    assert!(matches!(
        settings(&cluster()).build(),
        Err(BuildError::NoPolicy)
    ));
}
