//! Policies, and whole guards, from a file.
#![cfg(all(feature = "testing", feature = "policy-file", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use support::stage::{CLUSTER, GKE_SA, answer, cluster, jwks, settings, spec};
use support::{AUDIENCE, bearer};
use tower_oidc_guard::{BuildError, OidcGuard, OidcGuardBuilder, PolicyFile};

const ALLOW: &str = "allow: [\"system:serviceaccount:id-namespace:gke-sa\"]\n";

struct Volume {
    kubelet: Kubelet,
    _folder: tempfile::TempDir,
}

impl Volume {
    fn new(content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet.write([("policy.yaml", content)]).unwrap();
        Self {
            kubelet,
            _folder: folder,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.kubelet.path("policy.yaml")
    }

    fn write(&self, content: &str) {
        self.kubelet.rotate("policy.yaml", content).unwrap();
    }
}

async fn status(guard: &OidcGuard, token: &str) -> u16 {
    answer(guard.layer(), bearer(token)).await.status().as_u16()
}

/// Waits for something that a change of a file brings about.
async fn until(what: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if what().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came");
}

#[tokio::test]
async fn a_config_map_s_swap_changes_who_may_call() {
    let (volume, cluster) = (Volume::new(ALLOW), cluster());
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let guard = settings(&cluster).policy(file.policy()).build().unwrap();
    let token = spec(&cluster).mint();
    assert_eq!(status(&guard, &token).await, 200);
    volume.write("allow: []\n");
    until(async || status(&guard, &token).await == 403).await;
    volume.write(
        r#"{ "allow": ["system:serviceaccounts"], "deny": ["system:serviceaccounts:other"] }"#,
    );
    until(async || status(&guard, &token).await == 200).await;
}

#[tokio::test]
async fn a_bad_new_file_keeps_the_old_policy_and_is_told_with_line_and_column() {
    let (volume, cluster) = (Volume::new(ALLOW), cluster());
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let guard = settings(&cluster).policy(file.policy()).build().unwrap();
    let token = spec(&cluster).mint();
    for (bad, told) in [
        ("allow: []\nallwo: []\n", "line 2"),
        ("allow: [\"gke-sa\"]\n", "no known kind"),
        ("allow: [\"user:a@example.com\"]\n", "no trusted issuer"),
        ("allow: [\n", "line"),
    ] {
        volume.write(bad);
        let is_told = async || {
            let error = guard.policy_health()[0].last_error.clone();
            error.is_some_and(|error| error.to_string().contains(told))
        };
        until(is_told).await;
        assert_eq!(status(&guard, &token).await, 200, "{bad}");
    }
    volume.write("allow: []\n");
    until(async || status(&guard, &token).await == 403).await;
    assert!(guard.policy_health()[0].last_error.is_none());
}

#[tokio::test]
async fn a_bad_first_file_does_not_start() {
    for bad in [
        "allow: [\"gke-sa\"]",
        "",
        "allow: []\nunknown: 1",
        "deny: []",
    ] {
        let volume = Volume::new(bad);
        tokio::time::pause();
        assert!(PolicyFile::open(volume.path()).await.is_err(), "{bad}");
        tokio::time::resume();
    }
    let volume = Volume::new("allow: [\"user:a@example.com\"]");
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let built = settings(&cluster()).policy(file.policy()).build();
    assert!(
        matches!(built, Err(BuildError::Policy(_))),
        "nobody speaks for its members"
    );
}

#[tokio::test]
async fn members_of_an_issuer_claims_and_audiences_can_be_said_in_the_file() {
    let cluster = cluster();
    for (content, expected) in [
        (
            format!("allow:\n  - issuer: {CLUSTER}\n    members: [\"system:serviceaccounts\"]\n"),
            200,
        ),
        (format!("{ALLOW}claims: {{ sub: \"{GKE_SA}\" }}\n"), 200),
        (format!("{ALLOW}claims: {{ sub: x }}\n"), 403),
        (format!("{ALLOW}audiences: [\"{AUDIENCE}\"]\n"), 200),
        (
            format!("{ALLOW}audiences: [\"https://other.example\"]\n"),
            403,
        ),
    ] {
        let volume = Volume::new(&content);
        let file = PolicyFile::open(volume.path()).await.unwrap();
        let guard = settings(&cluster).policy(file.policy()).build().unwrap();
        assert_eq!(
            status(&guard, &spec(&cluster).mint()).await,
            expected,
            "{content}"
        );
    }
}

#[tokio::test]
async fn a_guard_is_configured_whole_from_a_file() {
    let cluster = cluster();
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), jwks(&cluster).await).unwrap();
    let volume = Volume::new(&format!(
        "issuers:\n  - url: {CLUSTER}\n    platform: kubernetes\n    audiences: [\"{AUDIENCE}\"]\n    algorithms: [RS256]\n    leeway_seconds: 5\n    max_lifetime_seconds: 3600\n    keys_file: {}\n{ALLOW}",
        keys.path().display()
    ));
    let guard = OidcGuardBuilder::from_file(volume.path())
        .await
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(status(&guard, &spec(&cluster).mint()).await, 200);
    let long = spec(&cluster).lifetime(Duration::from_secs(3601)).mint();
    assert_eq!(status(&guard, &long).await, 401);
}

#[tokio::test]
async fn issuers_that_cannot_work_are_errors() {
    for (issuer, told) in [
        ("{ platform: kubernetes, audiences: [a] }", "no `url`"),
        (
            "{ platform: google, url: \"https://x\", audiences: [a] }",
            "leave it out",
        ),
        (
            "{ url: \"https://x\", audiences: [a], jwks_url: \"https://x/k\", keys_file: /k }",
            "more than one place",
        ),
    ] {
        let volume = Volume::new(&format!("issuers: [{issuer}]\nallow: []\n"));
        let error = OidcGuardBuilder::from_file(volume.path())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}
