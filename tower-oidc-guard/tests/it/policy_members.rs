//! Members of policies: which callers they match, and how invalid members are reported.

use std::collections::HashMap;

use tower_oidc_guard::{BuildError, Issuer, OidcGuard, Policy, PolicyError};

use crate::support::in_memory::{
    CLUSTER, GKE_SA, GoogleIssuer, cluster, policy_error, send_request, status_for_policy,
    token_spec, token_status,
};
use crate::support::mock_client::document_client;
use crate::support::{AUDIENCE, bearer_request, request};

#[tokio::test]
async fn kubernetes_members_are_accounts_namespaces_and_clusters() {
    for (member, expected) in [
        (GKE_SA, 200),
        ("system:serviceaccount:id-namespace:other", 403),
        ("system:serviceaccount:id-namespac:gke-sa", 403),
        ("system:serviceaccounts:id-namespace", 200),
        ("system:serviceaccounts:other", 403),
        ("system:serviceaccounts", 200),
        ("system:authenticated", 200),
        ("allAuthenticatedUsers", 200),
        (&format!("principal:{CLUSTER}#{GKE_SA}"), 200),
        (&format!("principal:{CLUSTER}#other"), 403),
    ] {
        assert_eq!(
            status_for_policy(Policy::members([member])).await,
            expected,
            "{member}"
        );
    }
}

#[tokio::test]
async fn google_account_matches_by_verified_email_only() {
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let email = "sa@p.iam.gserviceaccount.com";
    let policy = Policy::members([&format!("serviceAccount:{email}"), "user:Jane@Example.com"]);
    let guard = google.guard_with_cluster(&cluster, policy).await;
    for (token, expected) in [
        (google.account(email), 200),
        (google.account("jane@example.com"), 200),
        (google.account("other@p.iam.gserviceaccount.com"), 403),
        (google.account(email).claim("email_verified", false), 403),
        (google.account(email).without_claim("email_verified"), 403),
        // A cluster can sign any claim, but only Google vouches for email addresses.
        (
            token_spec(&cluster)
                .claim("email", email)
                .claim("email_verified", true),
            403,
        ),
    ] {
        let sent = bearer_request(&token.mint());
        assert_eq!(
            send_request(guard.layer(), sent).await.status(),
            expected,
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn service_account_members_match_only_kubernetes_issuers() {
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let guard = google
        .guard_with_cluster(&cluster, Policy::members([GKE_SA, "system:authenticated"]))
        .await;
    let posing = google.account("a@example.com").claim("sub", GKE_SA);
    assert_eq!(token_status(guard.layer(), &posing.mint()).await, 403);
}

#[tokio::test]
async fn principal_matches_only_its_issuer() {
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let policy = Policy::members([format!("principal:{CLUSTER}#1234")]);
    let guard = google.guard_with_cluster(&cluster, policy).await;
    let same_subject = google.account("a@example.com");
    assert_eq!(token_status(guard.layer(), &same_subject.mint()).await, 403);
}

#[test]
fn unknown_and_incomplete_members_do_not_build() {
    for member in [
        "",
        "gke-sa",
        "everyone",
        "system:masters",
        "serviceaccount:a@b",
        "user",
        "projectOwner:p",
    ] {
        assert!(
            matches!(
                policy_error(Policy::members([member])),
                PolicyError::UnknownMember { .. }
            ),
            "{member}"
        );
    }
    for member in [
        "system:serviceaccount:only",
        "system:serviceaccount:a:",
        "system:serviceaccount:a:b:c",
        "system:serviceaccounts:",
        "principal:https://x",
        "principal:#s",
        "user:jane",
        "serviceAccount:@p",
    ] {
        assert!(
            matches!(
                policy_error(Policy::members([member])),
                PolicyError::MalformedMember { .. }
            ),
            "{member}"
        );
    }
}

#[test]
fn groups_and_domains_are_rejected_with_an_explanation() {
    for member in ["group:a@example.com", "domain:example.com"] {
        let error = policy_error(Policy::members([member]));
        assert!(
            error.to_string().contains("do not contain the groups"),
            "{error}"
        );
    }
}

const GOOGLE: &str = "https://accounts.google.com";

thread_local! {
    /// Sends no requests. Shared, since creating one client for each guard would take most of the time of these tests.
    static CLIENT: reqwest_middleware::ClientWithMiddleware = document_client(HashMap::new());
}

/// Builds a guard of a cluster and of Google with this policy and returns the error.
///
/// Returns `None` if the guard builds.
fn build_error(policy: Policy) -> Option<PolicyError> {
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes(CLUSTER).audience(AUDIENCE))
        .issuer(Issuer::google().audience(AUDIENCE))
        .http_client(CLIENT.with(Clone::clone))
        .policy(policy)
        .build();
    match guard {
        Ok(_) => None,
        Err(BuildError::Policy(error)) => Some(error),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn members_of_matches_only_callers_of_that_issuer() {
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let guard = google
        .guard_with_cluster(&cluster, Policy::any_verified_caller())
        .await;
    let of_cluster = token_spec(&cluster);
    let of_google = google.account("a@example.com");
    let any = Policy::any_verified_caller;
    for (policy, in_cluster, at_google) in [
        (
            Policy::members_of(CLUSTER, ["allAuthenticatedUsers"]),
            200,
            403,
        ),
        (
            Policy::members_of(GOOGLE, ["allAuthenticatedUsers"]),
            403,
            200,
        ),
        (
            Policy::members_of("accounts.google.com", ["allAuthenticatedUsers"]),
            403,
            200,
        ),
        (
            Policy::members_of(CLUSTER, ["system:authenticated"]),
            200,
            403,
        ),
        (Policy::members_of(GOOGLE, ["user:a@example.com"]), 403, 200),
        (
            Policy::members_of(CLUSTER, [format!("principal:{CLUSTER}#{GKE_SA}")]),
            200,
            403,
        ),
        (
            Policy::any_of([
                Policy::members_of(CLUSTER, ["allAuthenticatedUsers"]),
                Policy::members_of(GOOGLE, ["user:b@example.com"]),
            ]),
            200,
            403,
        ),
        (any().deny(["system:authenticated"]), 403, 200),
        (any(), 200, 200),
    ] {
        let layer = guard.layer_with(policy.clone()).unwrap();
        for (token, expected) in [(&of_cluster, in_cluster), (&of_google, at_google)] {
            let status = token_status(layer.clone(), &token.mint()).await;
            assert_eq!(status, expected, "{policy:?} {token:?}");
        }
        assert_eq!(
            send_request(layer, request(&[])).await.status(),
            401,
            "{policy:?}"
        );
    }
}

#[test]
fn members_of_rejects_members_of_other_issuers() {
    for (issuer, member) in [
        (CLUSTER, "allUsers"),
        (GOOGLE, "allUsers"),
        (CLUSTER, "principal:https://accounts.google.com#1234"),
        (
            GOOGLE,
            "principal:https://cluster.example#system:serviceaccount:shop:web",
        ),
        (CLUSTER, "principal:https://cluster.example/#x"),
    ] {
        let policy = Policy::members_of(issuer, [member]);
        let expected = PolicyError::IssuerMismatch {
            member: member.to_owned(),
            issuer: issuer.to_owned(),
        };
        assert_eq!(build_error(policy.clone()), Some(expected.clone()));
        // Nested policies are checked, too.
        let nested = Policy::any_of([Policy::members([GKE_SA]), Policy::all_of([policy])]);
        assert_eq!(build_error(nested), Some(expected));
    }
    for (issuer, member, platform) in [
        (GOOGLE, "system:authenticated", "Kubernetes"),
        (GOOGLE, "system:serviceaccounts:shop", "Kubernetes"),
        (CLUSTER, "user:a@example.com", "Google"),
    ] {
        let other = PolicyError::PlatformMismatch {
            issuer: issuer.to_owned(),
            platform,
        };
        assert_eq!(
            build_error(Policy::members_of(issuer, [member])),
            Some(other)
        );
    }
}

#[test]
fn untrusted_issuer_in_a_policy_is_an_error_that_suggests_a_similar_one() {
    for (issuer, close) in [
        ("https://cluster.example/", Some(CLUSTER)),
        ("https://Cluster.example", Some(CLUSTER)),
        ("https://accounts.google.com/", Some(GOOGLE)),
        ("https://other.example", None),
    ] {
        let members = Policy::members_of(issuer, ["allAuthenticatedUsers"]);
        let principal = Policy::members([format!("principal:{issuer}#1234")]);
        for policy in [members, principal] {
            let untrusted = PolicyError::UntrustedIssuer {
                issuer: issuer.to_owned(),
                suggestion: close.map(str::to_owned),
            };
            assert_eq!(build_error(policy), Some(untrusted));
        }
    }
    for issuer in [
        "",
        " ",
        " https://cluster.example",
        "https://cluster.example\n",
        "a\u{200b}b",
    ] {
        let error = build_error(Policy::members_of(issuer, [GKE_SA])).unwrap();
        assert!(
            matches!(error, PolicyError::InvalidIssuer { .. }),
            "{error}"
        );
    }
}

/// Returns the error for a member, after asserting that allow lists and deny lists report the same one.
fn member_error(member: &str) -> PolicyError {
    let error =
        build_error(Policy::members([member])).unwrap_or_else(|| panic!("{member:?} builds"));
    let denying = Policy::any_verified_caller().deny([member]);
    assert_eq!(build_error(denying).as_ref(), Some(&error));
    assert!(
        build_error(Policy::members_of(CLUSTER, [member])).is_some(),
        "{member:?}"
    );
    error
}

#[test]
fn impossible_members_do_not_build() {
    let long = |count| "a".repeat(count);
    for member in [
        // Wildcards and other patterns.
        "system:serviceaccount:shop:*",
        "system:serviceaccount:*:web",
        "system:serviceaccount:shop:web-*",
        "system:serviceaccounts:*",
        "system:serviceaccounts:shop-?",
        "user:*@example.com",
        "serviceAccount:${ACCOUNT}@p.iam.gserviceaccount.com",
        "principal:https://cluster.example#*",
        "principal:https://cluster.example#system:serviceaccount:shop:*",
        "*",
        // White space and invisible characters.
        "system:serviceaccount:shop: web",
        "system:serviceaccount:shop:web ",
        " system:serviceaccount:shop:web",
        "system:serviceaccount:shop:web\n",
        "system:serviceaccount:shop:web\u{200b}",
        "\u{feff}system:serviceaccount:shop:web",
        "system:serviceaccount:shop\u{a0}:web",
        "system:serviceaccounts:shop\u{ad}",
        "system:serviceaccounts ",
        "allUsers\u{2060}",
        "allAuthenticatedUsers ",
        "user:jane@example.com ",
        "user: jane@example.com",
        "user:jane@exam\u{200d}ple.com",
        "principal:https://cluster.example#web ",
        "principal: https://cluster.example#web",
        "principal:https://cluster.example #web",
        "principal:https://cluster.example# web",
        "principal:https://cluster.example#we\u{200b}b",
        "principal:https://cluster.example#we\nb",
        // Names that Kubernetes does not allow.
        "system:serviceaccount:Shop:web",
        "system:serviceaccount:shop:Web",
        "system:serviceaccount:sh_op:web",
        "system:serviceaccount:shop:we_b",
        "system:serviceaccount:sh.op:web",
        "system:serviceaccount:-shop:web",
        "system:serviceaccount:shop-:web",
        "system:serviceaccount:shop:.web",
        "system:serviceaccount:shop:web.",
        "system:serviceaccount:shop:a..b",
        "system:serviceaccount:shop:a.-b",
        "system:serviceaccount:sh\u{43e}p:web",
        "system:serviceaccounts:SHOP",
        "system:serviceaccounts:shop.web",
        &format!("system:serviceaccounts:{}", long(64)),
        &format!("system:serviceaccount:{}:web", long(64)),
        &format!("system:serviceaccount:shop:{}", long(254)),
        "principal:https://cluster.example#system:serviceaccounts:shop",
        "principal:https://cluster.example#system:serviceaccount:shop",
        "principal:https://cluster.example#system:serviceaccount:Shop:web",
        "principal:https://cluster.example#System:ServiceAccount:shop:web",
        // Invalid email addresses.
        "user:jane@example",
        "user:jane@@example.com",
        "user:jane@doe@example.com",
        "user:jane@example..com",
        "user:jane@.example.com",
        "user:jane@example.com.",
        "user:jane@-example.com",
        "user:jane@exa_mple.com",
        "user:.jane@example.com",
        "user:jane.@example.com",
        "user:ja..ne@example.com",
        "user:ja,ne@example.com",
        "user:\"jane\"@example.com",
        "user:jane@[192.0.2.1]",
        "user:Jane <jane@example.com>",
        "user:jane@example.com,joe@example.com",
        "user:j\u{e4}ne@example.com",
        &format!("user:{}@example.com", long(65)),
        &format!("user:jane@{}.com", long(64)),
    ] {
        let error = member_error(member);
        assert!(
            matches!(
                error,
                PolicyError::InvalidMember { .. } | PolicyError::UnknownMember { .. }
            ),
            "{member:?}: {error}"
        );
        let text = error.to_string();
        assert!(text.is_ascii() && !text.contains('\n'), "{text:?}");
    }
    let by_email = build_error(Policy::members([format!(
        "principal:{GOOGLE}#jane@example.com"
    )]));
    assert!(
        matches!(by_email, Some(PolicyError::InvalidMember { .. })),
        "{by_email:?}"
    );
}

#[test]
fn valid_members_build() {
    for member in [
        "system:serviceaccount:0-a:a.b-c.0",
        &format!("system:serviceaccounts:{}", "a".repeat(63)),
        &format!("system:serviceaccount:shop:{}", "a".repeat(253)),
        "user:o'brien+test_1.x-y@mail.example.co.uk",
        "user:JANE@EXAMPLE.COM",
        "user:jane@xn--bcher-kva.example",
        "serviceAccount:123-compute@developer.gserviceaccount.com",
        "serviceAccount:a@p.example.com.iam.gserviceaccount.com",
        "principal:https://cluster.example#repo:octo-org/octo-repo:ref:refs/heads/main",
        "principal:https://cluster.example#CN=Jane Doe,O=J\u{e4}ne#1",
        "principal:https://cluster.example#system:node:n1",
    ] {
        assert_eq!(build_error(Policy::members([member])), None, "{member}");
    }
}

#[test]
fn member_errors_escape_invisible_characters_and_suggest_corrections() {
    for (member, shown) in [
        ("system:serviceaccount:shop:web\u{200b}", "web\\u{200b}"),
        ("system:serviceaccount:sh\u{43e}p:web", "sh\\u{43e}p"),
        ("user:jane@example.com\n", "com\\n"),
        ("allUsers\u{a0}", "allUsers\\u{a0}"),
    ] {
        let text = member_error(member).to_string();
        assert!(text.contains(shown), "{text}");
    }
    for (member, meant) in [
        (
            "system:serviceaccount:shop:*",
            "system:serviceaccounts:shop",
        ),
        ("system:serviceaccount:*:*", "system:serviceaccounts"),
        ("system:serviceaccounts:*", "system:serviceaccounts"),
        (
            "system:serviceaccounts:shop:web",
            "system:serviceaccount:shop:web",
        ),
        ("system:serviceaccount:shop", "system:serviceaccounts:shop"),
        (
            "system:serviceaccount:shop/web",
            "system:serviceaccount:shop:web",
        ),
        (
            "system:serviceaccount:shop: web",
            "system:serviceaccount:shop:web",
        ),
        (
            "system:serviceaccount:shop:web ",
            "system:serviceaccount:shop:web",
        ),
        (
            "system:serviceaccount:Shop:Web",
            "system:serviceaccount:shop:web",
        ),
        (
            "system:serviceAccount:shop:web",
            "system:serviceaccount:shop:web",
        ),
        (
            "system:service-account:shop:web",
            "system:serviceaccount:shop:web",
        ),
        ("serviceaccount:shop:web", "system:serviceaccount:shop:web"),
        ("shop/web", "system:serviceaccount:shop:web"),
        (
            "\u{feff}system:serviceaccounts:shop",
            "system:serviceaccounts:shop",
        ),
        (
            "serviceaccount:a@p.iam.gserviceaccount.com",
            "serviceAccount:a@p.iam.gserviceaccount.com",
        ),
        (
            "service-account:a@p.iam.gserviceaccount.com",
            "serviceAccount:a@p.iam.gserviceaccount.com",
        ),
        (
            "a@p.iam.gserviceaccount.com",
            "serviceAccount:a@p.iam.gserviceaccount.com",
        ),
        ("User:jane@example.com", "user:jane@example.com"),
        ("users:jane@example.com", "user:jane@example.com"),
        ("user: jane@example.com", "user:jane@example.com"),
        ("jane@example.com", "user:jane@example.com"),
        (
            "Principal:https://cluster.example#x",
            "principal:https://cluster.example#x",
        ),
        (
            "principle:https://cluster.example#x",
            "principal:https://cluster.example#x",
        ),
        (
            "principal: https://cluster.example # x",
            "principal:https://cluster.example#x",
        ),
        ("allauthenticatedusers", "allAuthenticatedUsers"),
        ("allAuthenticatedUser", "allAuthenticatedUsers"),
        ("AllUsers", "allUsers"),
        ("allUsers ", "allUsers"),
        ("system:Authenticated", "system:authenticated"),
    ] {
        let text = member_error(member).to_string();
        assert!(text.contains(&format!("did you mean {meant:?}?")), "{text}");
    }
    for member in [
        "",
        "everyone",
        "system:masters",
        "projectOwner:p",
        "user:jane",
        "shop:web",
    ] {
        let text = member_error(member).to_string();
        assert!(!text.contains("did you mean"), "{text}");
    }
}
