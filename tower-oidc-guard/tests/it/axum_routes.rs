//! Which requests to an axum router are guarded, by the order of `route`, `route_layer`, `layer`, `merge` and `nest`.

use axum::Router;
use axum::routing::{MethodRouter, get, post};
use http::{Method, Request};
use tower::ServiceExt as _;
use tower_oidc_guard::{Identity, OidcGuard, Policy};

use crate::support::body_text;
use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec};

/// A guard, and a token that it accepts.
struct Fixture {
    guard: OidcGuard,
    token: String,
}

impl Fixture {
    fn new() -> Self {
        let cluster = cluster();
        let guard = guard_builder(&cluster).policy(Policy::members([GKE_SA]));
        Self {
            guard: guard.build().unwrap(),
            token: token_spec(&cluster).mint(),
        }
    }

    /// Checks the statuses of `GET` requests to these paths: without a token, and with one.
    async fn check(&self, app: Router, expected: &[(&str, u16, u16)]) {
        for (path, without, with) in expected {
            for (token, expected) in [(None, without), (Some(&self.token), with)] {
                let status = status(&app, Method::GET, path, token).await;
                assert_eq!(status, *expected, "{path}, token: {}", token.is_some());
            }
        }
    }
}

async fn status(app: &Router, method: Method, path: &str, token: Option<&String>) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    response.status().as_u16()
}

fn open() -> MethodRouter {
    get(|| async { "open" })
}

/// A handler that fails if no guard is in front of it.
fn subject() -> MethodRouter {
    get(|caller: Identity| async move { caller.subject().to_owned() })
}

#[tokio::test]
async fn route_layer_guards_the_routes_before_it_and_neither_later_routes_nor_the_fallback() {
    let fixture = Fixture::new();
    let app = Router::new()
        .route("/before", subject())
        .route_layer(fixture.guard.layer())
        .route("/after", open())
        .route_service("/readyz", fixture.guard.readiness());
    let expected = [
        ("/before", 401, 200),
        ("/after", 200, 200),
        ("/unknown", 404, 404),
    ];
    fixture.check(app, &expected).await;
}

#[tokio::test]
async fn layer_guards_the_routes_before_it_and_the_fallback_but_not_later_routes() {
    let fixture = Fixture::new();
    let app = Router::new()
        .route("/before", subject())
        .layer(fixture.guard.layer())
        .route("/after", open());
    let expected = [
        ("/before", 401, 200),
        ("/after", 200, 200),
        ("/unknown", 401, 404),
    ];
    fixture.check(app, &expected).await;
}

#[tokio::test]
async fn a_fallback_is_guarded_by_layer_only_if_it_was_set_before() {
    let fixture = Fixture::new();
    let guarded = || Router::new().route("/before", subject()).fallback(open());
    let expected = [("/before", 401, 200), ("/unknown", 401, 200)];
    let app = guarded().layer(fixture.guard.layer());
    fixture.check(app, &expected).await;

    let expected = [("/before", 401, 200), ("/unknown", 200, 200)];
    let app = guarded().route_layer(fixture.guard.layer());
    fixture.check(app, &expected).await;
    let app = Router::new().route("/before", subject());
    let app = app.layer(fixture.guard.layer()).fallback(open());
    fixture.check(app, &expected).await;
}

#[tokio::test]
async fn all_methods_of_a_guarded_route_are_guarded() {
    let fixture = Fixture::new();
    let token = Some(&fixture.token);
    let routes = || Router::new().route("/orders", subject());
    for app in [
        routes().route_layer(fixture.guard.layer()),
        routes().layer(fixture.guard.layer()),
    ] {
        // There is no handler for POST.
        assert_eq!(status(&app, Method::POST, "/orders", None).await, 401);
        assert_eq!(status(&app, Method::POST, "/orders", token).await, 405);
        assert_eq!(status(&app, Method::HEAD, "/orders", None).await, 401);
    }
    // A method that is added to the same path later is not.
    let app = routes()
        .route_layer(fixture.guard.layer())
        .route("/orders", post(|| async { "open" }));
    assert_eq!(status(&app, Method::GET, "/orders", None).await, 401);
    assert_eq!(status(&app, Method::POST, "/orders", None).await, 200);
}

#[tokio::test]
async fn a_layer_of_one_method_or_handler_guards_only_that() {
    let fixture = Fixture::new();
    let orders = subject().layer(fixture.guard.layer());
    let app = Router::new().route("/orders", orders.post(|| async { "open" }));
    assert_eq!(status(&app, Method::GET, "/orders", None).await, 401);
    assert_eq!(status(&app, Method::POST, "/orders", None).await, 200);

    use axum::handler::Handler as _;
    let handler = |caller: Identity| async move { caller.subject().to_owned() };
    let guarded = get(handler.layer(fixture.guard.layer())).post(|| async { "open" });
    let app = Router::new().route("/orders", guarded);
    assert_eq!(status(&app, Method::GET, "/orders", None).await, 401);
    let token = Some(&fixture.token);
    assert_eq!(status(&app, Method::GET, "/orders", token).await, 200);
    assert_eq!(status(&app, Method::POST, "/orders", None).await, 200);
}

#[tokio::test]
async fn merged_routers_keep_their_own_layers() {
    let fixture = Fixture::new();
    let guarded = || {
        let router = Router::new().route("/guarded", subject());
        router.route_layer(fixture.guard.layer())
    };
    let open_routes = || Router::new().route("/open", open());
    let expected = [
        ("/guarded", 401, 200),
        ("/open", 200, 200),
        ("/unknown", 404, 404),
    ];
    fixture
        .check(guarded().merge(open_routes()), &expected)
        .await;
    fixture
        .check(open_routes().merge(guarded()), &expected)
        .await;
    // A layer after the merge guards both.
    let app = open_routes().merge(Router::new().route("/guarded", subject()));
    let expected = [("/guarded", 401, 200), ("/open", 401, 200)];
    fixture
        .check(app.route_layer(fixture.guard.layer()), &expected)
        .await;
}

#[tokio::test]
async fn nested_routes_are_guarded_by_a_layer_after_nest_and_not_by_one_before() {
    let fixture = Fixture::new();
    let nested = || Router::new().route("/orders", open());
    let start = || Router::new().route("/top", subject());

    let app = start().nest("/api", nested());
    let expected = [
        ("/top", 401, 200),
        ("/api/orders", 401, 200),
        ("/api/unknown", 404, 404),
    ];
    let guarded = app.clone().route_layer(fixture.guard.layer());
    fixture.check(guarded, &expected).await;
    let expected = [("/api/orders", 401, 200), ("/api/unknown", 401, 404)];
    fixture
        .check(app.layer(fixture.guard.layer()), &expected)
        .await;

    for app in [
        start().route_layer(fixture.guard.layer()),
        start().layer(fixture.guard.layer()),
    ] {
        let app = app.nest("/api", nested());
        let expected = [("/top", 401, 200), ("/api/orders", 200, 200)];
        fixture.check(app, &expected).await;
    }

    // A nested router with its own guard.
    let own = nested().route_layer(fixture.guard.layer());
    let app = Router::new().route("/top", open()).nest("/api", own);
    let expected = [
        ("/top", 200, 200),
        ("/api/orders", 401, 200),
        ("/api/unknown", 404, 404),
    ];
    fixture.check(app, &expected).await;
}

#[tokio::test]
async fn a_fallback_of_a_nested_router_is_guarded_by_layer_and_not_by_route_layer() {
    let fixture = Fixture::new();
    let app = || {
        let nested = Router::new().route("/orders", subject()).fallback(open());
        Router::new().nest("/api", nested)
    };
    let expected = [("/api/orders", 401, 200), ("/api/unknown", 401, 200)];
    fixture
        .check(app().layer(fixture.guard.layer()), &expected)
        .await;
    let expected = [("/api/orders", 401, 200), ("/api/unknown", 200, 200)];
    fixture
        .check(app().route_layer(fixture.guard.layer()), &expected)
        .await;
}

#[tokio::test]
async fn another_policy_applies_to_the_routes_of_its_layer_only() {
    let fixture = Fixture::new();
    let members = Policy::members(["system:serviceaccount:ops:admin"]);
    let admins = fixture.guard.layer_with(members).unwrap();
    let admin_routes = Router::new().route("/admin", subject());
    let app = Router::new()
        .route("/orders", subject())
        .route_layer(fixture.guard.layer())
        .merge(admin_routes.route_layer(admins));
    fixture
        .check(app, &[("/orders", 401, 200), ("/admin", 401, 403)])
        .await;
}

#[tokio::test]
#[should_panic(expected = "before any routes")]
async fn route_layer_on_a_router_without_routes_panics() {
    let _app: Router = Router::new().route_layer(Fixture::new().guard.layer());
}

#[tokio::test]
async fn a_handler_of_a_route_that_is_not_guarded_gets_no_identity() {
    let fixture = Fixture::new();
    let app = Router::new()
        .route("/guarded", subject())
        .route_layer(fixture.guard.layer())
        .route("/forgotten", subject());
    fixture
        .check(app, &[("/guarded", 401, 200), ("/forgotten", 500, 500)])
        .await;
}

#[tokio::test]
async fn two_layers_run_in_opposite_orders_in_router_and_service_builder() {
    use axum::middleware::{Next, from_fn};
    // Responds with whether the guard has run before.
    async fn probe(request: axum::extract::Request, _: Next) -> String {
        let identity = request.extensions().get::<Identity>();
        identity.is_some().to_string()
    }
    let fixture = Fixture::new();
    let call = async |app: Router| {
        let token = format!("Bearer {}", fixture.token);
        let request = Request::get("/").header("authorization", token);
        let request = request.body(axum::body::Body::empty()).unwrap();
        body_text(app.oneshot(request).await.unwrap()).await
    };
    let routes = || Router::new().route("/", open());
    // The last layer of a router is the first to see a request.
    let last = routes().layer(from_fn(probe)).layer(fixture.guard.layer());
    assert_eq!(call(last).await, "true");
    let first = routes().layer(fixture.guard.layer()).layer(from_fn(probe));
    assert_eq!(call(first).await, "false");
    // The first layer of a `ServiceBuilder` is the first to see a request.
    let builder = tower::ServiceBuilder::new()
        .layer(fixture.guard.layer())
        .layer(from_fn(probe));
    assert_eq!(call(routes().layer(builder)).await, "true");
}
