//! Responses to rejected requests, HTTP and gRPC.

use http::{Method, Request, Response, StatusCode};
use tower::ServiceExt as _;
use tower_oidc_guard::{BuildError, OidcGuard, Policy};

use crate::support::in_memory::{
    CLUSTER, GKE_SA, cluster, guard_builder, send_request, token_spec, token_status,
};
use crate::support::{Body, advance_clock, bearer_request, body_text, request};

fn guard() -> OidcGuard {
    guard_builder(&cluster())
        .policy(Policy::members([GKE_SA]))
        .build()
        .unwrap()
}

fn challenge<B>(response: &Response<B>) -> &str {
    response.headers()["www-authenticate"].to_str().unwrap()
}

#[tokio::test]
async fn missing_token_is_challenged_with_bearer_and_realm_only() {
    let response = send_request(guard().layer(), request(&[])).await;
    assert_eq!(
        (response.status().as_u16(), challenge(&response)),
        (401, "Bearer realm=\"protected\"")
    );
}

#[tokio::test]
async fn another_scheme_is_challenged_with_bearer_and_realm_only() {
    for authorization in ["Basic YTpi", "Negotiate", "a.b.c"] {
        let response = send_request(guard().layer(), request(&[authorization])).await;
        assert_eq!(
            (response.status().as_u16(), challenge(&response)),
            (401, "Bearer realm=\"protected\"")
        );
        let mut grpc = request(&[authorization]);
        *grpc.method_mut() = Method::POST;
        let content_type = http::HeaderValue::from_static("application/grpc");
        grpc.headers_mut().insert("content-type", content_type);
        let response = send_request(guard().layer(), grpc).await;
        assert_eq!(response.headers()["grpc-status"], "16");
        assert!(!format!("{response:?}").contains("YTpi"), "{response:?}");
    }
}

#[tokio::test]
async fn malformed_request_returns_400_invalid_request() {
    for authorization in [&["Bearer a", "Bearer b"][..], &["Basic a", "Bearer b"]] {
        let response = send_request(guard().layer(), request(authorization)).await;
        assert_eq!(response.status(), 400);
        assert!(challenge(&response).contains("error=\"invalid_request\""));
    }
}

#[tokio::test]
async fn invalid_token_returns_401_invalid_token() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let spoilt = token_spec(&cluster).bad_signature().mint();
    let expired = token_spec(&cluster).claim("exp", 1).mint();
    for token in ["x", "a.b.c", &spoilt, &expired] {
        let response = send_request(guard.layer(), bearer_request(token)).await;
        assert_eq!(response.status(), 401);
        assert!(challenge(&response).contains("error=\"invalid_token\", error_description=\""));
    }
}

#[tokio::test]
async fn caller_not_allowed_by_the_policy_gets_403_insufficient_scope_without_member_names() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(Policy::members([GKE_SA]))
        .build()
        .unwrap();
    let other = token_spec(&cluster)
        .service_account("id-namespace", "other")
        .mint();
    let response = send_request(guard.layer(), bearer_request(&other)).await;
    assert_eq!(response.status(), 403);
    assert!(challenge(&response).contains("error=\"insufficient_scope\""));
    let text = format!(
        "{:?} {}",
        response.headers(),
        String::from_utf8_lossy(response.body())
    );
    assert!(
        !text.contains("gke-sa") && !text.contains("other"),
        "{text}"
    );
}

#[tokio::test]
async fn without_keys_a_token_gets_503_with_retry_after_and_no_token_gets_401() {
    let cluster = cluster();
    cluster.fail(StatusCode::INTERNAL_SERVER_ERROR);
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let response = send_request(guard.layer(), bearer_request(&token_spec(&cluster).mint())).await;
    assert_eq!(response.status(), 503);
    assert!(
        response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert_eq!(
        send_request(guard.layer(), request(&[])).await.status(),
        401
    );
    cluster.recover();
    advance_clock(std::time::Duration::from_secs(61)).await;
    assert_eq!(
        token_status(guard.layer(), &token_spec(&cluster).mint()).await,
        200
    );
}

#[tokio::test]
async fn error_description_can_be_omitted_and_realm_is_configurable() {
    let guard = guard_builder(&cluster())
        .any_verified_caller()
        .without_error_description();
    let guard = guard.realm("a \"b\" \\c").build().unwrap();
    let response = send_request(guard.layer(), bearer_request("x")).await;
    assert_eq!(
        challenge(&response),
        "Bearer realm=\"a \\\"b\\\" \\\\c\", error=\"invalid_token\""
    );
    let built = guard_builder(&cluster())
        .any_verified_caller()
        .realm("a\r\nb")
        .build();
    assert!(matches!(built, Err(BuildError::Realm { .. })));
}

#[tokio::test]
async fn protected_resource_is_named_in_challenges_and_publishes_its_metadata() {
    let builder = || guard_builder(&cluster()).any_verified_caller();
    let guard = builder()
        .protected_resource("https://orders.example/api")
        .build()
        .unwrap();
    let response = send_request(guard.layer(), request(&[])).await;
    let url = "https://orders.example/.well-known/oauth-protected-resource/api";
    assert!(challenge(&response).ends_with(&format!(", resource_metadata=\"{url}\"")));
    let metadata = guard.resource_metadata().unwrap();
    assert_eq!(metadata.path(), "/.well-known/oauth-protected-resource/api");
    let document = body_text(metadata.oneshot(request(&[])).await.unwrap()).await;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["resource"], "https://orders.example/api");
    assert_eq!(
        document["authorization_servers"],
        serde_json::json!([CLUSTER])
    );
    for bad in [
        "http://orders.example",
        "orders",
        "https://orders.example/#a",
    ] {
        let built = builder().protected_resource(bad).build();
        assert!(matches!(built, Err(BuildError::Resource { .. })), "{bad}");
    }
}

fn with_content_type(
    method: Method,
    content_type: &str,
    mut request: Request<Body>,
) -> Request<Body> {
    *request.method_mut() = method;
    let content_type = content_type.parse().unwrap();
    request.headers_mut().insert("content-type", content_type);
    request
}

#[tokio::test]
async fn only_post_requests_get_grpc_responses() {
    let guard = guard();
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::OPTIONS] {
        for content_type in ["application/grpc", "application/grpc-web+proto"] {
            let request = with_content_type(method.clone(), content_type, request(&[]));
            let response = send_request(guard.layer(), request).await;
            assert_eq!(response.status(), 401, "{method} {content_type}");
            assert!(!response.headers().contains_key("grpc-status"));
            assert_eq!(challenge(&response), "Bearer realm=\"protected\"");
        }
    }
    for (sent, answered) in [
        ("application/grpc+proto", "application/grpc"),
        ("APPLICATION/GRPC", "application/grpc"),
        ("application/grpc-web+proto", "application/grpc-web"),
        ("application/grpc-web-text", "application/grpc-web-text"),
    ] {
        let request = with_content_type(Method::POST, sent, request(&[]));
        let response = send_request(guard.layer(), request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "16");
        assert_eq!(response.headers()["content-type"], answered);
    }
    let json = with_content_type(Method::POST, "application/json", request(&[]));
    assert_eq!(send_request(guard.layer(), json).await.status(), 401);
}

#[tokio::test]
async fn rejections_are_not_cacheable() {
    let cluster = cluster();
    let policy = || Policy::members([GKE_SA]);
    let standard = guard_builder(&cluster).policy(policy()).build().unwrap();
    let another = guard_builder(&cluster).policy(policy());
    // Creates a new response, without the headers of the default one.
    let another =
        another.rejection_response(|rejection, _| Response::new(rejection.reason().into()));
    let another = another.build().unwrap();
    cluster.fail(StatusCode::BAD_GATEWAY);
    let away = guard_builder(&cluster).policy(policy()).build().unwrap();
    let unavailable = token_spec(&cluster).mint();
    let response = send_request(away.layer(), bearer_request(&unavailable)).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let grpc = with_content_type(
        Method::POST,
        "application/grpc",
        bearer_request(&unavailable),
    );
    let response = send_request(away.layer(), grpc).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    cluster.recover();
    let stranger = token_spec(&cluster).service_account("a", "b").mint();
    for guard in [&standard, &another] {
        for authorization in [
            &[][..],
            &["Bearer x"],
            &["Bearer a", "Bearer b"],
            &[&format!("Bearer {stranger}")],
        ] {
            for method in [Method::GET, Method::POST] {
                for content_type in ["text/plain", "application/grpc", "application/grpc-web"] {
                    let sent = request(authorization);
                    let request = with_content_type(method.clone(), content_type, sent);
                    let response = send_request(guard.layer(), request).await;
                    assert_eq!(response.headers()["cache-control"], "no-store");
                }
            }
        }
    }
    let own = guard_builder(&cluster)
        .policy(policy())
        .rejection_response(|_, mut answer| {
            let value = "private, max-age=1".parse().unwrap();
            answer.headers_mut().insert("cache-control", value);
            answer
        });
    let response = send_request(own.build().unwrap().layer(), request(&[])).await;
    assert_eq!(response.headers()["cache-control"], "private, max-age=1");
    // Responses of the service are not changed.
    let good = bearer_request(&token_spec(&cluster).mint());
    let response = send_request(standard.layer(), good).await;
    assert!(!response.headers().contains_key("cache-control"));
}

#[tokio::test]
async fn rejected_grpc_requests_get_trailers_only_responses() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(Policy::members([GKE_SA]))
        .build()
        .unwrap();
    let grpc = |request| with_content_type(Method::POST, "application/grpc+proto", request);
    let stranger = token_spec(&cluster).service_account("a", "b").mint();
    for (sent, status) in [
        (request(&[]), "16"),
        (bearer_request("x"), "16"),
        (bearer_request(&stranger), "7"),
    ] {
        let response = send_request(guard.layer(), grpc(sent)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], status);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(response.headers().contains_key("grpc-message") && response.body().is_empty());
    }
    cluster.fail(StatusCode::BAD_GATEWAY);
    let away = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let response = send_request(
        away.layer(),
        grpc(bearer_request(&token_spec(&cluster).mint())),
    )
    .await;
    assert_eq!(response.headers()["grpc-status"], "14");
}

#[tokio::test]
async fn rejection_responses_can_be_replaced() {
    let guard = guard_builder(&cluster())
        .any_verified_caller()
        .rejection_response(|rejection, answer| {
            let (mut parts, _) = answer.into_parts();
            parts
                .headers
                .insert("content-type", "application/problem+json".parse().unwrap());
            Response::from_parts(
                parts,
                format!("{{\"reason\":\"{}\"}}", rejection.reason()).into(),
            )
        });
    let guard = guard.build().unwrap();
    let response = send_request(guard.layer(), request(&[])).await;
    assert_eq!(
        (response.status().as_u16(), response.body().as_slice()),
        (401, &b"{\"reason\":\"missing_token\"}"[..])
    );
    assert_eq!(challenge(&response), "Bearer realm=\"protected\"");
}
