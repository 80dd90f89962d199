//! Policies: members, claims, audiences, composition and explanations.

use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard, Policy, PolicyError};

use crate::support::in_memory::{
    CLUSTER, GKE_SA, cluster, fetch_jwks, guard_builder, policy_error, send_request,
    status_for_policy, token_spec, token_status, verified_identity,
};
use crate::support::{AUDIENCE, bearer_request, request};

#[tokio::test]
async fn empty_policies_allow_nobody() {
    assert_eq!(status_for_policy(Policy::members([""; 0])).await, 403);
    assert_eq!(status_for_policy(Policy::any_of([])).await, 403);
    assert_eq!(status_for_policy(Policy::all_of([])).await, 403);
}

#[tokio::test]
async fn deny_list_takes_precedence_over_members() {
    let all = || Policy::members(["system:serviceaccounts", "allAuthenticatedUsers"]);
    assert_eq!(status_for_policy(all().deny([GKE_SA])).await, 403);
    assert_eq!(
        status_for_policy(all().deny(["system:serviceaccounts:id-namespace"])).await,
        403
    );
    assert_eq!(
        status_for_policy(all().deny(["system:serviceaccounts:other"])).await,
        200
    );
    assert_eq!(
        status_for_policy(Policy::any_of([all()]).deny([GKE_SA])).await,
        403
    );
}

#[tokio::test]
async fn claims_audiences_and_functions_restrict_a_policy() {
    let all = Policy::any_verified_caller;
    assert_eq!(
        status_for_policy(all().require_claim("sub", GKE_SA)).await,
        200
    );
    assert_eq!(
        status_for_policy(all().require_claim("sub", "other")).await,
        403
    );
    assert_eq!(status_for_policy(all().audience(AUDIENCE)).await, 200);
    assert_eq!(
        status_for_policy(all().require(|caller| caller.kubernetes().is_some())).await,
        200
    );
    assert_eq!(status_for_policy(all().require(|_| false)).await, 403);
}

#[tokio::test]
async fn policy_audience_restricts_to_one_of_the_accepted_audiences() {
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
        // One of the audiences is sufficient for a composed policy, too, and for a cloned one.
        (composite().audience(ADMIN).audience(AUDIENCE), 200, 200),
        (any().audience(ADMIN).clone().audience(AUDIENCE), 200, 200),
    ] {
        let layer = guard.layer_with(policy.clone()).unwrap();
        for (token, expected) in [
            (cluster.token().audience(AUDIENCE), own),
            (cluster.token().audience(ADMIN), admin),
            (both.clone(), 200),
        ] {
            let response = send_request(layer.clone(), bearer_request(&token.mint())).await;
            assert_eq!(response.status(), expected, "{policy:?} {token:?}");
        }
    }
}

#[test]
fn policy_audience_that_no_issuer_accepts_does_not_build() {
    let cluster = cluster();
    let any = Policy::any_verified_caller;
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
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
        let error = policy_error(any().audience(audience));
        assert!(
            matches!(error, PolicyError::InvalidAudience { .. }),
            "{audience:?}: {error}"
        );
    }
}

#[test]
fn empty_or_null_required_claims_do_not_build() {
    let any = Policy::any_verified_caller;
    for policy in [
        any().require_claim("", "x"),
        any().require_claim("hd", serde_json::Value::Null),
        any().require_claim("hd", None::<String>),
        Policy::any_of([any()]).require_claim("hd", serde_json::Value::Null),
    ] {
        assert!(matches!(
            policy_error(policy),
            PolicyError::InvalidClaim { .. }
        ));
    }
}

#[tokio::test]
async fn policies_compose_with_any_of_and_all_of() {
    let (yes, no) = (
        || Policy::members([GKE_SA]),
        || Policy::members(["system:serviceaccounts:other"]),
    );
    assert_eq!(status_for_policy(Policy::any_of([no(), yes()])).await, 200);
    assert_eq!(status_for_policy(Policy::any_of([no(), no()])).await, 403);
    assert_eq!(status_for_policy(Policy::all_of([yes(), yes()])).await, 200);
    assert_eq!(status_for_policy(Policy::all_of([yes(), no()])).await, 403);
}

#[test]
fn members_of_untrusted_platforms_do_not_build() {
    let google = policy_error(Policy::members(["user:a@example.com"]));
    assert_eq!(
        google,
        PolicyError::NoIssuerForPlatform { platform: "Google" }
    );
    let stranger = policy_error(Policy::members(["principal:https://evil.example#x"]));
    assert!(matches!(stranger, PolicyError::UntrustedIssuer { .. }));
    let denied = policy_error(Policy::members([GKE_SA]).deny(["user:a@example.com"]));
    assert_eq!(
        denied,
        PolicyError::NoIssuerForPlatform { platform: "Google" }
    );
}

#[tokio::test]
async fn ambiguous_members_must_name_their_issuer() {
    let (one, two) = (
        cluster(),
        MemoryIssuer::new("https://other.example").unwrap(),
    );
    let other = Issuer::kubernetes(two.url()).keys_json(fetch_jwks(&two).await);
    let build = |policy| {
        guard_builder(&one)
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
        token_status(guard.layer(), &token_spec(&two).mint()).await,
        200
    );
    assert_eq!(
        token_status(guard.layer(), &token_spec(&one).mint()).await,
        403
    );
}

#[tokio::test]
async fn all_users_includes_requests_without_a_token_but_not_invalid_tokens() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(Policy::members(["allUsers"]))
        .build()
        .unwrap();
    assert_eq!(
        send_request(guard.layer(), request(&[])).await.body(),
        b"nobody"
    );
    assert_eq!(
        send_request(guard.layer(), bearer_request(&token_spec(&cluster).mint()))
            .await
            .body(),
        GKE_SA.as_bytes()
    );
    let bad = token_spec(&cluster).bad_signature().mint();
    assert_eq!(token_status(guard.layer(), &bad).await, 401);
    for narrowed in [
        Policy::members(["allUsers"]).require_claim("a", 1),
        Policy::members(["allUsers"]).require(|_| true),
    ] {
        let layer = guard.layer_with(narrowed).unwrap();
        assert_eq!(
            send_request(layer, request(&[])).await.status(),
            401,
            "a policy that requires claims rejects requests without a token"
        );
    }
}

#[tokio::test]
async fn routes_can_have_different_policies() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(Policy::members([GKE_SA]))
        .build()
        .unwrap();
    let admins = Policy::members(["system:serviceaccount:ops:admin"]);
    let sent = || bearer_request(&token_spec(&cluster).mint());
    assert_eq!(send_request(guard.layer(), sent()).await.status(), 200);
    assert_eq!(
        send_request(guard.layer_with(admins).unwrap(), sent())
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
async fn decisions_are_explained() {
    let cluster = cluster();
    let policy = Policy::members(["system:serviceaccounts:id-namespace"])
        .deny(["system:serviceaccount:id-namespace:bad"]);
    let guard = guard_builder(&cluster).policy(policy).build().unwrap();
    let explain = |name: &str| {
        let spec = token_spec(&cluster).service_account("id-namespace", name);
        let guard = guard.clone();
        async move {
            guard
                .policy()
                .explain(&verified_identity(&guard, &spec).await)
                .to_string()
        }
    };
    assert_eq!(
        explain("gke-sa").await,
        "allowed: system:serviceaccounts:id-namespace is an allowed member"
    );
    assert_eq!(
        explain("bad").await,
        "rejected: system:serviceaccount:id-namespace:bad is denied"
    );
    let stranger = token_spec(&cluster).service_account("other", "x");
    let decision = guard
        .policy()
        .explain(&verified_identity(&guard, &stranger).await);
    assert!(
        !decision.is_allowed() && decision.reason().contains("not an allowed member"),
        "{decision}"
    );
}

#[test]
fn guard_without_a_policy_does_not_build() {
    assert!(matches!(
        guard_builder(&cluster()).build(),
        Err(BuildError::NoPolicy)
    ));
}
