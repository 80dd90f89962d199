//! Policies and whole guards that are configured from a file.
#![cfg(all(feature = "policy-file", unix))]

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::{BuildError, OidcGuard, OidcGuardBuilder, PolicyFile};

use crate::support::in_memory::{
    CLUSTER, GKE_SA, GoogleIssuer, cluster, fetch_jwks, guard_builder, token_spec, token_status,
};
use crate::support::{AUDIENCE, wait_until};

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
    token_status(guard.layer(), token).await
}

#[tokio::test]
async fn config_map_update_changes_the_policy() {
    let (volume, cluster) = (Volume::new(ALLOW), cluster());
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let guard = guard_builder(&cluster)
        .policy(file.policy())
        .build()
        .unwrap();
    let token = token_spec(&cluster).mint();
    assert_eq!(status(&guard, &token).await, 200);
    volume.write("allow: []\n");
    wait_until(async || status(&guard, &token).await == 403).await;
    volume.write(
        r#"{ "allow": ["system:serviceaccounts"], "deny": ["system:serviceaccounts:other"] }"#,
    );
    wait_until(async || status(&guard, &token).await == 200).await;
}

#[tokio::test]
async fn invalid_file_keeps_the_old_policy_and_is_reported_with_its_line() {
    let (volume, cluster) = (Volume::new(ALLOW), cluster());
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let guard = guard_builder(&cluster)
        .policy(file.policy())
        .build()
        .unwrap();
    let token = token_spec(&cluster).mint();
    for (bad, message) in [
        ("allow: []\nallwo: []\n", "line 2"),
        ("allow: [\"gke-sa\"]\n", "no known form"),
        ("allow: [\"user:a@example.com\"]\n", "no trusted issuer"),
        ("allow: [\n", "line"),
    ] {
        volume.write(bad);
        let is_reported = async || {
            let error = guard.policy_health()[0].last_error.clone();
            error.is_some_and(|error| error.to_string().contains(message))
        };
        wait_until(is_reported).await;
        assert_eq!(status(&guard, &token).await, 200, "{bad}");
    }
    volume.write("allow: []\n");
    wait_until(async || status(&guard, &token).await == 403).await;
    assert!(guard.policy_health()[0].last_error.is_none());
}

#[tokio::test]
async fn invalid_first_file_is_an_error() {
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
    let built = guard_builder(&cluster()).policy(file.policy()).build();
    assert!(
        matches!(built, Err(BuildError::Policy(_))),
        "no trusted issuer for the members"
    );
}

#[tokio::test]
async fn file_can_restrict_by_issuer_claims_and_audiences() {
    let cluster = cluster();
    for (content, expected) in [
        (
            format!("allow:\n  - issuer: {CLUSTER}\n    members: [\"system:serviceaccounts\"]\n"),
            200,
        ),
        (format!("{ALLOW}claims: {{ sub: \"{GKE_SA}\" }}\n"), 200),
        (format!("{ALLOW}claims: {{ sub: x }}\n"), 403),
        (format!("{ALLOW}audiences: [\"{AUDIENCE}\"]\n"), 200),
    ] {
        let volume = Volume::new(&content);
        let file = PolicyFile::open(volume.path()).await.unwrap();
        let guard = guard_builder(&cluster)
            .policy(file.policy())
            .build()
            .unwrap();
        assert_eq!(
            status(&guard, &token_spec(&cluster).mint()).await,
            expected,
            "{content}"
        );
    }
}

#[tokio::test]
async fn whole_guard_can_be_configured_from_a_file() {
    let cluster = cluster();
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), fetch_jwks(&cluster).await).unwrap();
    let volume = Volume::new(&format!(
        "issuers:\n  - url: {CLUSTER}\n    platform: kubernetes\n    audiences: [\"{AUDIENCE}\"]\n    algorithms: [RS256]\n    leeway_seconds: 5\n    max_lifetime_seconds: 3600\n    keys_file: {}\n{ALLOW}",
        keys.path().display()
    ));
    let guard = OidcGuardBuilder::from_file(volume.path())
        .await
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(status(&guard, &token_spec(&cluster).mint()).await, 200);
    let long = token_spec(&cluster)
        .lifetime(Duration::from_secs(3601))
        .mint();
    assert_eq!(status(&guard, &long).await, 401);
}

#[tokio::test]
async fn contradictory_issuers_are_errors() {
    for (issuer, message) in [
        (
            "{ platform: kubernetes, audiences: [a] }",
            "`url` is missing",
        ),
        (
            "{ platform: google, url: \"https://x\", audiences: [a] }",
            "leave the field `url` out",
        ),
        (
            "{ url: \"https://x\", audiences: [a], jwks_url: \"https://x/k\", keys_file: /k }",
            "more than one of",
        ),
    ] {
        let volume = Volume::new(&format!("issuers: [{issuer}]\nallow: []\n"));
        let error = OidcGuardBuilder::from_file(volume.path())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// Returns the error of opening a file with this content, with its sources.
async fn open_error(content: &str) -> String {
    let volume = Volume::new(content);
    tokio::time::pause();
    let opened = PolicyFile::open(volume.path()).await;
    tokio::time::resume();
    let mut error: &dyn std::error::Error = &opened
        .err()
        .unwrap_or_else(|| panic!("{content:?} is opened"));
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source;
    }
    text
}

#[tokio::test]
async fn null_or_empty_fields_are_errors_that_name_the_field() {
    let issuer = |fields: &str| {
        format!(
            "{ALLOW}issuers:\n  - url: {CLUSTER}\n    audiences: [\"{AUDIENCE}\"]\n    {fields}\n"
        )
    };
    for (content, said) in [
        ("allow:\n".to_owned(), "`allow` is null"),
        ("allow: ~\n".to_owned(), "`allow` is null"),
        ("{ \"allow\": null }".to_owned(), "`allow` is null"),
        ("allow: [~]\n".to_owned(), "member"),
        ("allow:\n  -\n".to_owned(), "member"),
        (format!("{ALLOW}deny:\n"), "`deny` is null or empty"),
        (format!("{ALLOW}deny: null\n"), "`deny` is null or empty"),
        (format!("{ALLOW}deny: []\n"), "`deny` is null or empty"),
        (format!("{ALLOW}deny: [~]\n"), "null"),
        (format!("{ALLOW}deny:\n  -\n"), "null"),
        (
            format!("{ALLOW}audiences:\n"),
            "`audiences` is null or empty",
        ),
        (
            format!("{ALLOW}audiences: []\n"),
            "`audiences` is null or empty",
        ),
        (format!("{ALLOW}audiences: [~]\n"), "null"),
        (
            format!("{ALLOW}audiences: [\"\"]\n"),
            "at least one character",
        ),
        (format!("{ALLOW}audiences: [\" \"]\n"), "white space"),
        (format!("{ALLOW}claims:\n"), "`claims` is null or empty"),
        (
            format!("{ALLOW}claims: {{}}\n"),
            "`claims` is null or empty",
        ),
        (format!("{ALLOW}claims: {{ hd: }}\n"), "null"),
        (format!("{ALLOW}claims:\n  hd: ~\n"), "null"),
        (format!("{ALLOW}claims: {{ \"\": x }}\n"), "empty"),
        (format!("{ALLOW}issuers:\n"), "`issuers` is null or empty"),
        (
            format!("{ALLOW}issuers: []\n"),
            "`issuers` is null or empty",
        ),
        (format!("{ALLOW}issuers: [~]\n"), "null"),
        (
            format!("allow: [{{ issuer: \"{CLUSTER}\", members: }}]\n"),
            "`members`",
        ),
        (
            format!("allow: [{{ issuer: \"{CLUSTER}\", members: [] }}]\n"),
            "`members`",
        ),
        (
            format!("allow: [{{ issuer: \"{CLUSTER}\", members: [~] }}]\n"),
            "null",
        ),
        (format!("allow: [{{ issuer: \"{CLUSTER}\" }}]\n"), "members"),
        (
            "allow: [{ issuer: ~, members: [allAuthenticatedUsers] }]\n".to_owned(),
            "null",
        ),
        (
            "allow: [{ issuer: \"\", members: [allAuthenticatedUsers] }]\n".to_owned(),
            "at least one character",
        ),
        (
            format!("{ALLOW}deny: [{{ issuer: \"{CLUSTER}\", members: [] }}]\n"),
            "`members`",
        ),
        (issuer("algorithms:"), "`algorithms` is null or empty"),
        (issuer("algorithms: []"), "`algorithms` is null or empty"),
        (issuer("token_types:"), "`token_types` is null or empty"),
        (issuer("token_types: []"), "`token_types` is null or empty"),
        (issuer("claims:"), "`claims` is null or empty"),
        (issuer("claims: {}"), "`claims` is null or empty"),
        (issuer("claims: { tenant: }"), "null"),
        (issuer("max_lifetime_seconds:"), "null"),
        (issuer("leeway_seconds: ~"), "null"),
        (issuer("platform:"), "null"),
        (issuer("keys_file:"), "null"),
        (issuer("jwks_url: ~"), "null"),
        (issuer("discovery_url:"), "null"),
        (
            format!("{ALLOW}issuers: [{{ url: \"{CLUSTER}\", audiences: [] }}]\n"),
            "`audiences`",
        ),
        (
            format!("{ALLOW}issuers: [{{ url: \"{CLUSTER}\", audiences: }}]\n"),
            "`audiences`",
        ),
        (
            format!("{ALLOW}issuers: [{{ url: , audiences: [a] }}]\n"),
            "null",
        ),
        (format!("{ALLOW}{ALLOW}"), "allow"),
        (
            format!("{ALLOW}claims: {{ tenant: shop, tenant: all }}\n"),
            "tenant",
        ),
        (format!("{ALLOW}---\ndeny: [\"{GKE_SA}\"]\n"), "document"),
        (
            "allow: allAuthenticatedUsers\n".to_owned(),
            "must be a list",
        ),
        (
            format!("{ALLOW}deny: [{{ members: [\"{GKE_SA}\"] }}]\n"),
            "issuer",
        ),
        (
            format!("{ALLOW}deny: [\"system:serviceaccount:shop:*\"]\n"),
            "system:serviceaccounts:shop",
        ),
    ] {
        let text = open_error(&content).await;
        assert!(text.contains(said), "{content:?}: {text}");
    }
    let volume = Volume::new("allow: []\n");
    assert!(
        PolicyFile::open(volume.path()).await.is_ok(),
        "an empty allow list is valid"
    );
}

#[tokio::test]
async fn emptied_restriction_keeps_the_old_policy() {
    let cluster = cluster();
    let restricted = format!(
        "allow: [allAuthenticatedUsers]\nclaims: {{ tenant: shop }}\ndeny: [\"{GKE_SA}\"]\n"
    );
    let volume = Volume::new(&restricted);
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let guard = guard_builder(&cluster)
        .policy(file.policy())
        .build()
        .unwrap();
    let token = token_spec(&cluster).mint();
    for emptied in [
        "allow: [allAuthenticatedUsers]\nclaims:\n",
        "allow: [allAuthenticatedUsers]\nclaims: {}\n",
        "allow: [allAuthenticatedUsers]\naudiences:\n",
        "allow: [allAuthenticatedUsers]\ndeny: []\n",
        "allow: [allAuthenticatedUsers]\naudiences: [\"https://admin.example\"]\n",
    ] {
        volume.write("allow: [\n");
        let is_broken = async || guard.policy_health()[0].last_error.is_some();
        wait_until(is_broken).await;
        volume.write(emptied);
        let is_reported = async || {
            let error = guard.policy_health()[0].last_error.clone();
            error.is_some_and(|error| {
                let text = error.to_string();
                text.contains("null or empty") || text.contains("admin.example")
            })
        };
        wait_until(is_reported).await;
        assert_eq!(status(&guard, &token).await, 403, "{emptied}");
    }
}

#[tokio::test]
async fn deny_list_of_a_file_takes_precedence_over_combined_policies() {
    use tower_oidc_guard::Policy;
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let token = token_spec(&cluster).mint();
    let volume = Volume::new(&format!("allow: []\ndeny: [\"{GKE_SA}\"]\n"));
    let file = PolicyFile::open(volume.path()).await.unwrap();
    let any = Policy::any_verified_caller;
    let policies = || {
        [
            Policy::any_of([file.policy(), any()]),
            Policy::any_of([any(), file.policy()]),
            Policy::any_of([any(), Policy::all_of([any(), file.policy()])]),
            Policy::any_of([any(), file.policy().audience(AUDIENCE)]),
        ]
    };
    for policy in policies() {
        let layer = guard.layer_with(policy.clone()).unwrap();
        assert_eq!(token_status(layer, &token).await, 403, "{policy:?}");
    }
    let layers = policies().map(|policy| guard.layer_with(policy).unwrap());
    volume.write("allow: []\n");
    for layer in layers {
        wait_until(async || token_status(layer.clone(), &token).await == 200).await;
    }
}

#[tokio::test]
async fn entries_with_an_issuer_match_only_that_issuer() {
    use tower_oidc_guard::Policy;
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let guard = google
        .guard_with_cluster(&cluster, Policy::any_verified_caller())
        .await;
    let of_google = google.account("a@example.com").mint();
    let of_cluster = token_spec(&cluster).mint();
    let entry = |issuer: &str, member: &str| {
        format!("[{{ issuer: \"{issuer}\", members: [\"{member}\"] }}]")
    };
    let name = "https://accounts.google.com";
    for (content, at_google, in_cluster) in [
        (
            format!("allow: {}\n", entry(name, "allAuthenticatedUsers")),
            200,
            403,
        ),
        (
            format!("allow: {}\n", entry(CLUSTER, "allAuthenticatedUsers")),
            403,
            200,
        ),
        (
            format!(
                "allow: [allAuthenticatedUsers]\ndeny: {}\n",
                entry(name, "allAuthenticatedUsers")
            ),
            403,
            200,
        ),
        (
            format!(
                "allow: [allAuthenticatedUsers]\ndeny: {}\n",
                entry(CLUSTER, "allAuthenticatedUsers")
            ),
            200,
            403,
        ),
        (
            format!(
                "allow: [allAuthenticatedUsers]\ndeny: {}\n",
                entry(name, "user:b@example.com")
            ),
            200,
            200,
        ),
    ] {
        let volume = Volume::new(&content);
        let file = PolicyFile::open(volume.path()).await.unwrap();
        let layer = guard.layer_with(file.policy()).unwrap();
        for (token, expected) in [(&of_google, at_google), (&of_cluster, in_cluster)] {
            let status = token_status(layer.clone(), token).await;
            assert_eq!(status, expected, "{content}");
        }
    }
    for member in ["allUsers", "principal:https://accounts.google.com#1"] {
        for list in ["allow: ", "allow: []\ndeny: "] {
            let text = open_error(&format!("{list}{}\n", entry(CLUSTER, member))).await;
            assert!(text.contains("to which it does not belong"), "{text}");
        }
    }
}

#[tokio::test]
async fn issuers_of_a_file_are_validated_like_issuers_in_code() {
    let build = async |issuer: &str, policy: &str| {
        let volume = Volume::new(&format!("issuers: [{issuer}]\n{policy}\n"));
        match OidcGuardBuilder::from_file(volume.path()).await {
            Ok(builder) => builder.build().map(drop),
            Err(error) => Err(error),
        }
    };
    let allow = "allow: [allAuthenticatedUsers]";
    let api = "{ url: \"https://c.example\", platform: kubernetes, audiences: [\"https://kubernetes.default.svc\"]";
    let refused = build(&format!("{api} }}"), allow).await;
    assert!(
        matches!(refused, Err(BuildError::ApiServerAudience { .. })),
        "{refused:?}"
    );
    let accepted = format!("{api}, dangerous_accept_api_server_audience: true }}");
    assert!(build(&accepted, allow).await.is_ok());
    for issuer in [
        "{ url: \"https://c.example/ \", audiences: [a] }",
        "{ url: \"https://c.example/.well-known/openid-configuration\", audiences: [a] }",
        "{ url: \"https://c.example\", audiences: [a, a] }",
        "{ url: \"https://c.example\", audiences: [\"a b\"] }",
        "{ url: \"https://c.example\", audiences: [a], keys_file: \"\" }",
        "{ url: \"https://c.example\", audiences: [a], token_types: [\"\"] }",
        "{ url: \"https://c.example\", audiences: [a], max_lifetime_seconds: 0 }",
        "{ url: \"c.example\", audiences: [a] }",
        "{ platform: google, audiences: [a], dangerous_accept_api_server_audience: true }",
    ] {
        let built = build(issuer, allow).await;
        assert!(
            matches!(built, Err(BuildError::Issuer { .. })),
            "{issuer}: {built:?}"
        );
    }
    let sound = "{ url: \"https://c.example\", audiences: [a] }";
    assert!(build(sound, allow).await.is_ok());
    let audience = build(sound, &format!("{allow}\naudiences: [b]")).await;
    assert!(
        matches!(audience, Err(BuildError::Policy(_))),
        "{audience:?}"
    );
}
