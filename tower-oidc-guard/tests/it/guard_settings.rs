//! Settings of a guard that conflict with each other or are invalid.

use http::HeaderName;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use tower_oidc_guard::{BuildError, Issuer, OidcGuard, OidcGuardBuilder, Policy};

use crate::support::AUDIENCE;
use crate::support::in_memory::{CLUSTER, SERVERLESS};

fn builder() -> OidcGuardBuilder {
    OidcGuard::builder().issuer(Issuer::kubernetes(CLUSTER).audience(AUDIENCE))
}

fn client() -> reqwest_middleware::ClientWithMiddleware {
    reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).build()
}

/// Returns the names of the two settings that conflict.
fn conflict(builder: OidcGuardBuilder) -> (&'static str, &'static str) {
    match builder.build() {
        Err(BuildError::Conflict { first, second, .. }) => (first, second),
        other => panic!("{other:?}"),
    }
}

#[test]
fn second_policy_is_a_conflict() {
    let policy = || Policy::members(["system:serviceaccount:shop:web"]);
    for (builder, expected) in [
        (
            builder().policy(policy()).policy(policy()),
            ("policy", "policy"),
        ),
        (
            builder().policy(policy()).any_verified_caller(),
            ("policy", "any_verified_caller"),
        ),
        (
            builder().any_verified_caller().policy(policy()),
            ("any_verified_caller", "policy"),
        ),
        (
            builder().any_verified_caller().any_verified_caller(),
            ("any_verified_caller", "any_verified_caller"),
        ),
    ] {
        assert_eq!(conflict(builder), expected);
    }
}

#[cfg(feature = "policy-file")]
#[tokio::test]
async fn policy_beside_a_config_file_is_a_conflict() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content = format!(
        "issuers: [{{ url: \"{CLUSTER}\", platform: kubernetes, audiences: [\"{AUDIENCE}\"] }}]\nallow: [\"system:serviceaccount:shop:web\"]\n"
    );
    std::fs::write(file.path(), content).unwrap();
    let open = async || OidcGuardBuilder::from_file(file.path()).await.unwrap();
    assert!(open().await.realm("orders").build().is_ok());
    assert_eq!(
        conflict(open().await.any_verified_caller()),
        ("from_file", "any_verified_caller")
    );
    assert_eq!(
        conflict(open().await.policy(Policy::any_verified_caller())),
        ("from_file", "policy")
    );
}

#[test]
fn settings_that_may_be_set_once_conflict_if_set_twice() {
    let builder = || builder().any_verified_caller();
    for (twice, expected) in [
        (
            builder().http_client(client()).http_client(client()),
            ("http_client", "http_client"),
        ),
        (
            builder()
                .token_from([SERVERLESS])
                .token_from([AUTHORIZATION]),
            ("token_from", "token_from"),
        ),
        (
            builder()
                .token_from_exactly_one_of([SERVERLESS, AUTHORIZATION])
                .token_from([AUTHORIZATION]),
            ("token_from_exactly_one_of", "token_from"),
        ),
        (
            builder()
                .token_from([AUTHORIZATION])
                .token_from_exactly_one_of([SERVERLESS]),
            ("token_from", "token_from_exactly_one_of"),
        ),
        (
            builder().identity_name("a").identity_name("b"),
            ("identity_name", "identity_name"),
        ),
        (
            builder()
                .protected_resource("https://a.example")
                .protected_resource("https://b.example"),
            ("protected_resource", "protected_resource"),
        ),
        (
            builder()
                .rejection_response(|_, answer| answer)
                .rejection_response(|_, answer| answer),
            ("rejection_response", "rejection_response"),
        ),
    ] {
        assert_eq!(conflict(twice), expected);
    }
}

#[test]
fn first_conflict_is_reported_with_its_remedy() {
    let policy = Policy::members(["system:serviceaccount:shop:web"]);
    let builder = builder()
        .policy(policy)
        .any_verified_caller()
        .identity_name("a")
        .identity_name("b");
    let text = builder.build().unwrap_err().to_string();
    assert!(text.contains("Policy::any_of"), "{text}");
}

#[test]
fn documented_settings_can_be_replaced() {
    let now = std::time::SystemTime::now;
    let builder = builder().any_verified_caller().realm("a").realm("b");
    assert!(
        builder
            .cache(1, 1)
            .without_cache()
            .clock(now)
            .clock(now)
            .build()
            .is_ok()
    );
}

#[test]
fn a_cache_that_can_hold_nothing_does_not_build_and_the_error_names_without_cache() {
    for (tokens, bytes) in [(0, 1 << 20), (100, 0), (0, 0)] {
        let built = builder().any_verified_caller().cache(tokens, bytes).build();
        match built {
            Err(error @ BuildError::Cache { .. }) => {
                assert!(error.to_string().contains("`without_cache`"), "{error}");
            }
            other => panic!("({tokens}, {bytes}): {other:?}"),
        }
    }
    let replaced = builder().any_verified_caller().cache(0, 0).cache(1, 1);
    assert!(replaced.build().is_ok());
}

#[test]
fn empty_or_duplicate_token_headers_do_not_build() {
    let none: [HeaderName; 0] = [];
    for builder in [
        builder().token_from(none.clone()),
        builder().token_from_exactly_one_of(none),
        builder().token_from([AUTHORIZATION, AUTHORIZATION]),
        builder().token_from_exactly_one_of([PROXY_AUTHORIZATION, SERVERLESS, PROXY_AUTHORIZATION]),
    ] {
        let built = builder.any_verified_caller().build();
        assert!(
            matches!(built, Err(BuildError::TokenHeaders { .. })),
            "{built:?}"
        );
    }
}
