//! Required scopes, and the response to a caller whose token lacks one.

use http::header::WWW_AUTHENTICATE;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_oidc_guard::testing::{MemoryIssuer, TestIdentity, TokenSpec};
use tower_oidc_guard::{OidcGuard, Policy, PolicyError, Rejection};

use crate::support::in_memory::{
    GKE_SA, cluster, guard_builder, policy_error, send_request, token_spec,
};
use crate::support::{Body, bearer_request};

fn any() -> Policy {
    Policy::any_verified_caller()
}

fn guard(cluster: &MemoryIssuer, policy: Policy) -> OidcGuard {
    guard_builder(cluster).policy(policy).build().unwrap()
}

async fn respond(guard: &OidcGuard, token: &TokenSpec) -> Response<Vec<u8>> {
    send_request(guard.layer(), bearer_request(&token.mint())).await
}

fn challenge(response: &Response<Vec<u8>>) -> &str {
    let challenge = response.headers().get(WWW_AUTHENTICATE);
    challenge.expect("a challenge").to_str().unwrap()
}

#[test]
fn scopes_are_read_from_both_claims_in_both_forms() {
    for (name, value) in [
        ("scope", json!("orders.read orders.write")),
        ("scope", json!(["orders.read", "orders.write"])),
        ("scp", json!("orders.read orders.write")),
        ("scp", json!(["orders.read", "orders.write"])),
    ] {
        let caller = TestIdentity::oidc("https://id.example", "s").claim(name, value.clone());
        let caller = caller.build();
        let scopes: Vec<_> = caller.scopes().collect();
        assert_eq!(scopes, ["orders.read", "orders.write"], "{name} {value}");
        let read = any().require_scope("orders.read");
        assert!(read.explain(&caller).is_allowed());
        assert!(
            read.clone()
                .require_scope("orders.write")
                .explain(&caller)
                .is_allowed()
        );
        let decision = read
            .require_scope("orders")
            .require_scope("admin")
            .explain(&caller);
        assert_eq!(
            decision.to_string(),
            "rejected: the token does not have the required scope orders admin"
        );
    }
    let none = TestIdentity::oidc("https://id.example", "s").build();
    assert_eq!(none.scopes().count(), 0);
    assert!(!any().require_scope("a").explain(&none).is_allowed());
}

#[tokio::test]
async fn a_caller_that_lacks_only_a_scope_is_told_which_ones_are_required() {
    let cluster = cluster();
    let token = || token_spec(&cluster).claim("scope", "a");
    let none = || Policy::members([""; 0]);
    for (policy, scope) in [
        (any().require_scope("b"), Some("b")),
        (any().require_scope("b").require_scope("a"), Some("b a")),
        (Policy::members([GKE_SA]).require_scope("b"), Some("b")),
        // Several policies: the first one that allows the caller but for its scopes.
        (
            Policy::any_of([any().require_scope("b"), any().require_scope("c")]),
            Some("b"),
        ),
        (
            Policy::any_of([none().require_scope("x"), any().require_scope("c")]),
            Some("c"),
        ),
        (
            Policy::any_of([any().require_claim("x", 1), any().require_scope("c")]),
            Some("c"),
        ),
        (
            Policy::all_of([
                any().require_scope("b"),
                any().require_scope("a"),
                any().require_scope("b"),
            ]),
            Some("b a"),
        ),
        (Policy::all_of([any(), any()]).require_scope("b"), Some("b")),
        (
            Policy::any_of([any().require_scope("b")]).require_scope("c"),
            Some("b c"),
        ),
        // A scope that is required twice is listed once.
        (
            any()
                .require_scope("a")
                .require_scope("b")
                .require_scope("a"),
            Some("a b"),
        ),
        // Something else than a scope is missing as well.
        (none().require_scope("b"), None),
        (any().require_claim("x", 1).require_scope("b"), None),
        (any().require_scope("b").require(|_| false), None),
        (any().require_scope("b").deny([GKE_SA]), None),
        (
            Policy::any_of([any().require_scope("b"), none().deny([GKE_SA])]),
            None,
        ),
        (Policy::all_of([any().require_scope("b"), none()]), None),
        (Policy::any_of([none()]).require_scope("b"), None),
        (
            Policy::any_of([any()])
                .require_scope("b")
                .require_claim("x", 1),
            None,
        ),
        // The scope is not missing.
        (any().require_scope("a").require_claim("x", 1), None),
        (
            Policy::any_of([none(), any().require_scope("a").require(|_| false)]),
            None,
        ),
    ] {
        let guard = guard(&cluster, policy.clone());
        let response = respond(&guard, &token()).await;
        assert_eq!(response.status(), 403, "{policy:?}");
        let challenge = challenge(&response);
        assert!(
            challenge.contains("error=\"insufficient_scope\""),
            "{challenge}"
        );
        let (rejection, description) = match scope {
            Some(_) => (
                Rejection::InsufficientScope,
                "the token lacks a required scope",
            ),
            None => (Rejection::NotAllowed, "the caller is not allowed"),
        };
        assert!(
            challenge.contains(&format!("error_description=\"{description}\"")),
            "{challenge}"
        );
        match scope {
            Some(scope) => assert!(
                challenge.contains(&format!(", scope=\"{scope}\"")),
                "{challenge}"
            ),
            None => assert!(!challenge.contains("scope=\""), "{policy:?}: {challenge}"),
        }
        let authorized = guard.authorize(token().mint()).await;
        assert_eq!(authorized.unwrap_err(), rejection, "{policy:?}");
        let diagnosis = guard.diagnose(token().mint()).await;
        assert_eq!(
            diagnosis.rejection().unwrap().reason(),
            rejection.reason(),
            "{policy:?}"
        );
    }
}

#[tokio::test]
async fn a_caller_with_the_scopes_is_allowed_and_other_rejections_name_none() {
    let cluster = cluster();
    let guard = guard(&cluster, any().require_scope("a").require_scope("b"));
    for scope in [json!("a b"), json!("b x a"), json!(["b", "a"])] {
        let token = token_spec(&cluster).claim("scp", scope);
        assert_eq!(respond(&guard, &token).await.status(), 200);
    }
    let expired = token_spec(&cluster).issued_at(std::time::SystemTime::UNIX_EPOCH);
    for response in [
        respond(&guard, &expired).await,
        respond(&guard, &token_spec(&cluster).bad_signature()).await,
        send_request(guard.layer(), crate::support::request(&[])).await,
    ] {
        assert_eq!(response.status(), 401);
        assert!(
            !challenge(&response).contains("scope"),
            "{}",
            challenge(&response)
        );
    }
}

#[tokio::test]
async fn all_users_with_a_scope_requires_a_token() {
    let cluster = cluster();
    let guard = guard(&cluster, Policy::members(["allUsers"]).require_scope("a"));
    let anonymous = send_request(guard.layer(), crate::support::request(&[])).await;
    assert_eq!(anonymous.status(), 401);
    let token = token_spec(&cluster).claim("scope", "a");
    assert_eq!(respond(&guard, &token).await.status(), 200);
}

#[tokio::test]
async fn the_grpc_message_names_the_scopes() {
    let cluster = cluster();
    let hidden = guard_builder(&cluster)
        .policy(any().require_scope("a").require_scope("b%"))
        .without_error_description()
        .build()
        .unwrap();
    let shown = guard(&cluster, any().require_scope("a").require_scope("b%"));
    let request = || -> Request<Body> {
        let mut request = bearer_request(&token_spec(&cluster).mint());
        *request.method_mut() = Method::POST;
        let content_type = http::HeaderValue::from_static("application/grpc");
        request.headers_mut().insert("content-type", content_type);
        request
    };
    let response = send_request(shown.layer(), request()).await;
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(
        response.headers()["grpc-message"],
        "the token lacks a required scope: a b%25"
    );
    let response = send_request(hidden.layer(), request()).await;
    assert_eq!(response.headers()["grpc-status"], "7");
    assert!(!response.headers().contains_key("grpc-message"));
}

#[test]
fn a_text_that_cannot_be_a_scope_does_not_build() {
    for (scope, text) in [
        ("", "empty"),
        ("a b", "require each scope by itself"),
        ("a\"b", "RFC 6749"),
        ("a\\b", "RFC 6749"),
        ("\u{e9}", "RFC 6749"),
        ("a\n", "RFC 6749"),
    ] {
        for policy in [
            any().require_scope(scope),
            Policy::any_of([any(), any().require_scope(scope)]),
            Policy::any_of([any()]).require_scope(scope),
        ] {
            let error = policy_error(policy);
            assert!(
                matches!(error, PolicyError::InvalidScope { .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    for scope in [
        "a",
        "https://graph.example/.default",
        "orders:read",
        "!#[]~",
    ] {
        let cluster = cluster();
        assert!(
            guard_builder(&cluster)
                .policy(any().require_scope(scope))
                .build()
                .is_ok()
        );
    }
}

#[cfg(feature = "policy-file")]
#[tokio::test]
async fn a_file_requires_all_of_its_scopes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(
        &path,
        "allow: [allAuthenticatedUsers]\nscopes: [orders.read, a]\n",
    )
    .unwrap();
    let summary = tower_oidc_guard::PolicyFile::check(&path).unwrap();
    assert_eq!(summary.scopes(), ["orders.read", "a"]);
    let file = tower_oidc_guard::PolicyFile::open(&path).await.unwrap();
    let cluster = cluster();
    let guard = guard(&cluster, file.policy());
    let response = respond(&guard, &token_spec(&cluster).claim("scope", "a")).await;
    assert!(
        challenge(&response).contains(", scope=\"orders.read a\""),
        "{}",
        challenge(&response)
    );
    let token = token_spec(&cluster).claim("scope", "a orders.read");
    assert_eq!(respond(&guard, &token).await.status(), 200);
}

#[tokio::test]
async fn the_metadata_of_the_resource_lists_the_scopes_of_the_policy() {
    let cluster = cluster();
    for (policy, scopes) in [
        (any(), None),
        (
            Policy::any_of([any().require_scope("a"), any().require_scope("b")]).require_scope("a"),
            Some(json!(["a", "b"])),
        ),
    ] {
        let guard = guard_builder(&cluster)
            .policy(policy)
            .protected_resource("https://orders.example")
            .build()
            .unwrap();
        let metadata = guard.resource_metadata().unwrap();
        let response = metadata.oneshot(Request::new(())).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document.get("scopes_supported"), scopes.as_ref());
    }
}
