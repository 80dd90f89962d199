//! Members of policies, in the words of their platforms.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::bearer;
use support::stage::{CLUSTER, GKE_SA, Google, answer, cluster, error, spec, status};
use tower_oidc_guard::{Policy, PolicyError};

#[tokio::test]
async fn kubernetes_members_are_accounts_namespaces_and_whole_clusters() {
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
            status(Policy::members([member])).await,
            expected,
            "{member}"
        );
    }
}

#[tokio::test]
async fn a_google_account_is_a_member_by_its_verified_email_only() {
    let (cluster, google) = (cluster(), Google::new());
    let email = "sa@p.iam.gserviceaccount.com";
    let policy = Policy::members([&format!("serviceAccount:{email}"), "user:Jane@Example.com"]);
    let guard = google.beside(&cluster, policy).await;
    for (token, expected) in [
        (google.account(email), 200),
        (google.account("jane@example.com"), 200),
        (google.account("other@p.iam.gserviceaccount.com"), 403),
        (google.account(email).claim("email_verified", false), 403),
        (google.account(email).without_claim("email_verified"), 403),
        // A cluster's administrator can have any claim signed.
        (
            spec(&cluster)
                .claim("email", email)
                .claim("email_verified", true),
            403,
        ),
    ] {
        let sent = bearer(&token.mint());
        assert_eq!(
            answer(guard.layer(), sent).await.status(),
            expected,
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn only_a_kubernetes_issuer_speaks_for_service_accounts() {
    let (cluster, google) = (cluster(), Google::new());
    let guard = google
        .beside(&cluster, Policy::members([GKE_SA, "system:authenticated"]))
        .await;
    let posing = google.account("a@example.com").claim("sub", GKE_SA);
    assert_eq!(
        answer(guard.layer(), bearer(&posing.mint())).await.status(),
        403
    );
}

#[tokio::test]
async fn a_principal_is_one_issuer_s() {
    let (cluster, google) = (cluster(), Google::new());
    let policy = Policy::members([format!("principal:{CLUSTER}#1234")]);
    let guard = google.beside(&cluster, policy).await;
    let same_subject = google.account("a@example.com");
    assert_eq!(
        answer(guard.layer(), bearer(&same_subject.mint()))
            .await
            .status(),
        403
    );
}

#[test]
fn members_that_are_none_do_not_build() {
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
                error(Policy::members([member])),
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
                error(Policy::members([member])),
                PolicyError::Incomplete { .. }
            ),
            "{member}"
        );
    }
}

#[test]
fn groups_are_an_error_that_says_why() {
    for member in ["group:a@example.com", "domain:example.com"] {
        let error = error(Policy::members([member]));
        assert!(error.to_string().contains("which groups"), "{error}");
    }
}
