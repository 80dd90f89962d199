//! Handlers that extract an identity which the request does not have: the reason is in the log and, in builds with debug
//! assertions, in the response.

use axum::Router;
use axum::routing::get;
use http::Request;
use tower::ServiceExt as _;
use tower_oidc_guard::{Identities, Identity, OidcGuard, Policy};
use tracing_subscriber::filter::LevelFilter;

use crate::support::body_text;
use crate::support::in_memory::{cluster, guard_builder, token_spec};
use crate::support::logs::BothFormats;
use crate::support::process::{is_child_process, run_in_child_process};

async fn private(caller: Identity) -> String {
    caller.subject().to_owned()
}

async fn named(callers: Identities) -> String {
    callers
        .get("gateway")
        .map_or("nobody", Identity::subject)
        .to_owned()
}

/// Sends a request and returns the status and the body of the response.
async fn send(app: &Router, path: &str, token: Option<&str>) -> (u16, String) {
    let mut request = Request::builder().uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), body_text(response).await)
}

/// Asserts that the response is a 500 without an identity, that one event contains the same reason, the type and the path
/// pattern, and that the reason contains this text.
async fn assert_explained(
    app: Router,
    path: &str,
    token: Option<&str>,
    (extracted, pattern): (&str, &str),
    reason: &str,
) {
    let logs = BothFormats::default();
    let subscribed = logs.subscribe(LevelFilter::ERROR);
    let (status, body) = send(&app, path, token).await;
    drop(subscribed);
    assert_eq!(status, 500, "{body}");
    let text = logs.plain_text();
    let line = text.lines().find(|line| line.contains(reason));
    let line = line.unwrap_or_else(|| panic!("{reason:?} is not in {text}"));
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        " ERROR ",
        &format!("extracted={extracted:?}"),
        &format!("path={pattern:?}"),
        "requests=1",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    if cfg!(debug_assertions) {
        for part in [extracted, pattern, reason] {
            assert!(body.contains(part), "{part}: {body}");
        }
    } else {
        assert_eq!(body, "");
    }
}

#[tokio::test]
async fn the_reason_for_a_missing_identity_is_in_the_log_and_in_the_response() {
    if !is_child_process() {
        return run_in_child_process(
            "extractors::the_reason_for_a_missing_identity_is_in_the_log_and_in_the_response",
            &[],
        );
    }
    let cluster = cluster();
    let builder = || guard_builder(&cluster).any_verified_caller();
    let guard = builder().build().unwrap();
    let optional = builder().allow_missing_token().build().unwrap();
    let everyone = guard_builder(&cluster).policy(Policy::members(["allUsers"]));
    let everyone = everyone.build().unwrap();
    let gateway = || builder().identity_name("gateway");
    let required_gateway = gateway().build().unwrap();
    let optional_gateway = gateway().allow_missing_token().build().unwrap();
    let token = token_spec(&cluster).mint();
    let token = Some(token.as_str());
    let routes = |path: &str| Router::new().route(path, get(private));
    let behind = |path: &str, guard: &OidcGuard| routes(path).route_layer(guard.layer());

    let no_layer = "no guard's layer was applied to this route";
    assert_explained(
        routes("/users/{id}"),
        "/users/7?q=1",
        token,
        ("Identity", "/users/{id}"),
        no_layer,
    )
    .await;
    // `route_layer` does not apply to a route that is added later.
    let too_late = behind("/first", &guard).route("/late", get(private));
    assert_explained(too_late, "/late", token, ("Identity", "/late"), no_layer).await;
    let nested = Router::new().nest("/api", routes("/inner"));
    assert_explained(
        nested,
        "/api/inner",
        token,
        ("Identity", "/api/inner"),
        no_layer,
    )
    .await;

    let without_token = "extract `Option<Identity>` instead";
    for (path, guard) in [("/optional", &optional), ("/everyone", &everyone)] {
        let app = behind(path, guard);
        assert_eq!(send(&app, path, token).await.0, 200);
        assert_explained(app, path, None, ("Identity", path), without_token).await;
    }

    let other_name = "extract `Identities` and call `get(\"gateway\")`";
    let app = behind("/gateway", &required_gateway);
    assert_explained(
        app,
        "/gateway",
        token,
        ("Identity", "/gateway"),
        "stores it under the name \"gateway\"",
    )
    .await;
    let app = behind("/gateway/optional", &optional_gateway);
    assert_explained(
        app,
        "/gateway/optional",
        None,
        ("Identity", "/gateway/optional"),
        other_name,
    )
    .await;

    let app = Router::new().route("/named", get(named));
    assert_explained(app, "/named", token, ("Identities", "/named"), no_layer).await;
    let app = Router::new()
        .route("/unnamed", get(named))
        .route_layer(guard.layer());
    assert_explained(
        app,
        "/unnamed",
        token,
        ("Identities", "/unnamed"),
        "has no `identity_name`",
    )
    .await;
}

#[tokio::test]
async fn identities_are_extracted_behind_a_guard_with_a_name() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .identity_name("gateway")
        .allow_missing_token()
        .build()
        .unwrap();
    let app = Router::new()
        .route("/", get(named))
        .route_layer(guard.layer());
    let token = token_spec(&cluster).mint();
    let subject = "system:serviceaccount:id-namespace:gke-sa".to_owned();
    assert_eq!(send(&app, "/", Some(&token)).await, (200, subject));
    assert_eq!(send(&app, "/", None).await, (200, "nobody".to_owned()));
}

#[tokio::test]
async fn a_flood_of_requests_to_routes_without_a_guard_is_one_event_for_each_route() {
    if !is_child_process() {
        return run_in_child_process(
            "extractors::a_flood_of_requests_to_routes_without_a_guard_is_one_event_for_each_route",
            &[],
        );
    }
    let app = Router::new()
        .route("/a/{id}", get(private))
        .route("/b", get(private));
    let logs = BothFormats::default();
    let subscribed = logs.subscribe(LevelFilter::TRACE);
    for index in 0..500 {
        assert_eq!(send(&app, &format!("/a/{index}"), None).await.0, 500);
        assert_eq!(send(&app, "/b", None).await.0, 500);
    }
    drop(subscribed);
    let text = logs.plain_text();
    let logged = text
        .lines()
        .filter(|line| line.contains("no guard's layer"));
    assert_eq!(logged.count(), 2, "{text}");
}

#[tokio::test]
async fn an_optional_identity_without_a_guard_is_logged_at_debug_level() {
    if !is_child_process() {
        return run_in_child_process(
            "extractors::an_optional_identity_without_a_guard_is_logged_at_debug_level",
            &[],
        );
    }
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .allow_missing_token()
        .build()
        .unwrap();
    let handler = |caller: Option<Identity>| async move { caller.is_some().to_string() };
    let app = Router::new()
        .route("/guarded", get(handler))
        .route_layer(guard.layer())
        .route("/open", get(handler));
    let logs = BothFormats::default();
    let subscribed = logs.subscribe(LevelFilter::DEBUG);
    for path in ["/guarded", "/open"] {
        assert_eq!(send(&app, path, None).await, (200, "false".to_owned()));
    }
    drop(subscribed);
    let text = logs.plain_text();
    let mut lines = text
        .lines()
        .filter(|line| line.contains("no guard's layer"));
    let line = lines.next().unwrap();
    assert!(
        line.contains("DEBUG") && line.contains("path=\"/open\""),
        "{line}"
    );
    assert!(lines.next().is_none(), "{text}");
}
