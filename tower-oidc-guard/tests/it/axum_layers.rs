//! The guard together with the layers that services on axum usually have, in front of it and behind it.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::middleware::{Next, from_fn};
use axum::routing::{get, post};
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION,
    CONTENT_ENCODING, ORIGIN, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use reqwest_middleware::ClientWithMiddleware;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::util::BoxCloneSyncServiceLayer;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tower_http::add_extension::AddExtensionLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use tower_http::cors::CorsLayer;
use tower_http::decompression::DecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_http::normalize_path::NormalizePathLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tower_http::validate_request::ValidateRequestHeaderLayer;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy};

use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec};
use crate::support::logs::{CapturedLogs, assert_absent};
use crate::support::mock_client::pending_client;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::{AUDIENCE, body_text};

const SECOND: Duration = Duration::from_secs(1);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns 503 for the errors of layers such as load shedding, and so makes a service infallible, which axum requires.
async fn unavailable(_: BoxError) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

/// A layer by its name, and how it is added to a router.
type NamedLayer = (&'static str, fn(Router) -> Router);

/// The layers of the matrix, with settings with which none of them rejects the requests of [`check`].
const LAYERS: &[NamedLayer] = &[
    ("trace", |router| router.layer(TraceLayer::new_for_http())),
    ("cors", |router| router.layer(CorsLayer::permissive())),
    ("timeout", |router| {
        router.layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            60 * SECOND,
        ))
    }),
    ("compression", |router| {
        router.layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
    }),
    ("catch panic", |router| router.layer(CatchPanicLayer::new())),
    ("request id", |router| {
        router
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
    }),
    ("sensitive headers", |router| {
        router.layer(SetSensitiveHeadersLayer::new([AUTHORIZATION]))
    }),
    ("body limit", |router| {
        router.layer(RequestBodyLimitLayer::new(1024))
    }),
    ("map request body", |router| {
        router.layer(MapRequestBodyLayer::new(Body::new))
    }),
    ("map response body", |router| {
        router.layer(MapResponseBodyLayer::new(Body::new))
    }),
    ("boxed response body", |router| {
        use http_body_util::BodyExt as _;
        router.layer(MapResponseBodyLayer::new(|body: Body| body.boxed_unsync()))
    }),
    ("normalize path", |router| {
        router.layer(NormalizePathLayer::trim_trailing_slash())
    }),
    ("accept", |router| {
        router.layer(ValidateRequestHeaderLayer::accept("text/plain"))
    }),
    ("add extension", |router| {
        router.layer(AddExtensionLayer::new("an extension"))
    }),
    ("set header", |router| {
        let value = HeaderValue::from_static("nosniff");
        let name = HeaderName::from_static("x-content-type-options");
        router.layer(SetResponseHeaderLayer::overriding(name, value))
    }),
    ("middleware", |router| {
        router.layer(from_fn(|request, next: Next| next.run(request)))
    }),
    ("buffer", |router| {
        let layer = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(unavailable))
            .buffer(16);
        router.layer(layer)
    }),
    ("concurrency limit", |router| {
        router.layer(ServiceBuilder::new().concurrency_limit(16))
    }),
    ("load shed", |router| {
        let layer = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(unavailable))
            .load_shed()
            .concurrency_limit(16);
        router.layer(layer)
    }),
    ("rate limit", |router| {
        let layer = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(unavailable))
            .buffer(16)
            .rate_limit(1000, SECOND);
        router.layer(layer)
    }),
    ("timeout of tower", |router| {
        let layer = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(unavailable))
            .timeout(60 * SECOND);
        router.layer(layer)
    }),
    ("map result", |router| {
        let layer = ServiceBuilder::new()
            .map_request(|request: Request<Body>| request)
            .map_response(|response: Response<Body>| response)
            .map_err(|error: Infallible| error);
        router.layer(layer)
    }),
    ("boxed service", |router| {
        router.layer(BoxCloneSyncServiceLayer::new(
            tower::layer::util::Identity::new(),
        ))
    }),
];

/// A cluster, and the HTTP client with which guards fetch its keys.
struct Fixture {
    cluster: MemoryIssuer,
    client: ClientWithMiddleware,
}

impl Fixture {
    fn new() -> Self {
        let cluster = cluster();
        let client = cluster.client();
        Self { cluster, client }
    }

    /// Creates a guard that has no keys yet, so the first request with a token waits.
    fn guard(&self) -> OidcGuard {
        OidcGuard::builder()
            .issuer(Issuer::kubernetes(self.cluster.url()).audience(AUDIENCE))
            .http_client(self.client.clone())
            .policy(Policy::members([GKE_SA]))
            .build()
            .unwrap()
    }

    fn request(&self, path: &str) -> Request<Body> {
        let token = token_spec(&self.cluster).mint();
        request(path, Some(&token))
    }
}

fn request(path: &str, token: Option<&str>) -> Request<Body> {
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Body::empty()).unwrap()
}

/// The routes of the service behind the guard.
fn routes() -> Router {
    Router::new()
        .route(
            "/subject",
            get(|caller: Identity| async move { caller.subject().to_owned() }),
        )
        .route("/slow", get(|| tokio::time::sleep(10 * SECOND)))
        .route("/panic", get(panics))
        .route(
            "/length",
            post(|body: String| async move { body.len().to_string() }),
        )
}

async fn panics() {
    panic!("a panic of the handler");
}

/// Sends a request like a client that accepts compressed responses.
async fn send(app: &Router, request: Request<Body>) -> Response<String> {
    let client = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .service(app.clone());
    let (parts, body) = client.oneshot(request).await.unwrap().into_parts();
    let body = body_text(Response::new(body)).await;
    Response::from_parts(parts, body)
}

fn challenge<B>(response: &Response<B>) -> &str {
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str();
    challenge.unwrap()
}

/// Checks the decisions of the guard, and that headers and bodies of responses are intact.
async fn check(app: &Router, cluster: &MemoryIssuer, layers: &str) {
    let token = token_spec(cluster);
    // The first request waits for the keys.
    for _ in 0..2 {
        let response = send(app, request("/subject", Some(&token.mint()))).await;
        assert_eq!(response.status(), 200, "{layers}");
        assert_eq!(response.body(), GKE_SA, "{layers}");
    }
    let response = send(app, request("/subject", None)).await;
    assert_eq!(response.status(), 401, "{layers}");
    assert_eq!(
        challenge(&response),
        "Bearer realm=\"protected\"",
        "{layers}"
    );
    assert_eq!(response.body(), "401 - Unauthorized", "{layers}");

    let expired = token.clone().claim("exp", 1).mint();
    let response = send(app, request("/subject", Some(&expired))).await;
    assert_eq!(response.status(), 401, "{layers}");
    let challenge_text = challenge(&response);
    assert!(
        challenge_text.contains("error=\"invalid_token\""),
        "{layers}"
    );

    let stranger = token.service_account("a", "b").mint();
    let response = send(app, request("/subject", Some(&stranger))).await;
    assert_eq!(response.status(), 403, "{layers}");
    assert_eq!(response.body(), "403 - Forbidden", "{layers}");
}

#[tokio::test]
async fn the_guard_works_between_any_two_layers() {
    let fixture = Fixture::new();
    for (inner_name, inner) in LAYERS {
        for (outer_name, outer) in LAYERS {
            let names = format!("{outer_name}, guard, {inner_name}");
            let guarded = inner(routes()).layer(fixture.guard().layer());
            check(&outer(guarded), &fixture.cluster, &names).await;
        }
    }
}

#[tokio::test]
async fn the_guard_works_as_route_layer_in_a_nested_router_below_any_layer() {
    let fixture = Fixture::new();
    for (name, layer) in LAYERS {
        let nested = routes().route_layer(fixture.guard().layer());
        let app = layer(
            Router::new()
                .merge(nested)
                .route("/open", get(|| async { "open" })),
        );
        check(&app, &fixture.cluster, name).await;
        let response = send(&app, request("/open", None)).await;
        assert_eq!(
            (response.status().as_u16(), &**response.body()),
            (200, "open")
        );
    }
}

#[tokio::test]
async fn one_service_builder_with_the_usual_layers_in_front_of_the_guard() {
    let fixture = Fixture::new();
    let layers = ServiceBuilder::new()
        .layer(SetSensitiveHeadersLayer::new([AUTHORIZATION]))
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            60 * SECOND,
        ))
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
        .layer(RequestBodyLimitLayer::new(1024))
        .layer(fixture.guard().layer());
    let app = routes().layer(layers);
    check(&app, &fixture.cluster, "in front").await;
    check_usual_layers(&app, &fixture).await;
    let response = send(&app, with_origin(request("/subject", None))).await;
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}

#[tokio::test]
async fn one_service_builder_with_the_usual_layers_behind_the_guard() {
    let fixture = Fixture::new();
    let layers = ServiceBuilder::new()
        .layer(fixture.guard().layer())
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            60 * SECOND,
        ))
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
        .layer(RequestBodyLimitLayer::new(1024));
    let app = routes().layer(layers);
    check(&app, &fixture.cluster, "behind").await;
    check_usual_layers(&app, &fixture).await;
    // The layers behind the guard see no rejected request.
    let response = send(&app, with_origin(request("/subject", None))).await;
    assert!(!response.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
}

async fn check_usual_layers(app: &Router, fixture: &Fixture) {
    let response = send(app, fixture.request("/panic")).await;
    assert_eq!(response.status(), 500);
    let response = send(app, with_origin(fixture.request("/subject"))).await;
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    let mut long = fixture.request("/length");
    *long.method_mut() = Method::POST;
    *long.body_mut() = Body::from("a".repeat(2000));
    assert_eq!(send(app, long).await.status(), 413);
    let mut compressed = fixture.request("/subject");
    let gzip = HeaderValue::from_static("gzip");
    compressed.headers_mut().insert("accept-encoding", gzip);
    let response = app.clone().oneshot(compressed).await.unwrap();
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
}

fn with_origin(mut request: Request<Body>) -> Request<Body> {
    let origin = HeaderValue::from_static("https://app.example");
    request.headers_mut().insert(ORIGIN, origin);
    request
}

fn preflight() -> Request<Body> {
    let mut preflight = with_origin(request("/subject", None));
    *preflight.method_mut() = Method::OPTIONS;
    let method = HeaderValue::from_static("GET");
    let headers = preflight.headers_mut();
    headers.insert(ACCESS_CONTROL_REQUEST_METHOD, method);
    preflight
}

#[tokio::test]
async fn cors_in_front_of_the_guard_responds_to_preflights_without_a_token() {
    let app = routes()
        .layer(Fixture::new().guard().layer())
        .layer(CorsLayer::permissive());
    let response = send(&app, preflight()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    // A browser shows the reason of a rejection to the page.
    let response = send(&app, with_origin(request("/subject", None))).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}

#[tokio::test]
async fn cors_behind_the_guard_gets_preflights_only_if_the_guard_allows_them() {
    let cluster = cluster();
    let builder = || guard_builder(&cluster).any_verified_caller();
    let app = |guard: OidcGuard| routes().layer(CorsLayer::permissive()).layer(guard.layer());
    let response = send(&app(builder().build().unwrap()), preflight()).await;
    assert_eq!(response.status(), 401);
    let allowing = app(builder().allow_cors_preflight().build().unwrap());
    let response = send(&allowing, preflight()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    let response = send(&allowing, with_origin(request("/subject", None))).await;
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn compressed_rejections_are_intact() {
    let cluster = cluster();
    let text = "not without a token ".repeat(100);
    let long = text.clone();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .rejection_response(move |_, response| response.map(|_| long.clone().into()))
        .build()
        .unwrap();
    // With the default conditions for compression.
    let app = routes().layer(guard.layer()).layer(CompressionLayer::new());
    let response = send(&app, request("/subject", None)).await;
    assert_eq!((response.status().as_u16(), response.body()), (401, &text));
    let mut compressed = request("/subject", None);
    let gzip = HeaderValue::from_static("gzip");
    compressed.headers_mut().insert("accept-encoding", gzip);
    let response = app.oneshot(compressed).await.unwrap();
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    assert_eq!(challenge(&response), "Bearer realm=\"protected\"");
}

#[tokio::test(start_paused = true)]
async fn timeouts_on_both_sides_of_the_guard_end_slow_handlers() {
    let fixture = Fixture::new();
    let guard = fixture.guard();
    guard.ready().await.unwrap();
    let limit = || TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, SECOND);
    let tower = || {
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(unavailable))
            .timeout(SECOND)
    };
    for (app, expected) in [
        (routes().layer(guard.layer()).layer(limit()), 408),
        (routes().layer(limit()).layer(guard.layer()), 408),
        (routes().layer(guard.layer()).layer(tower()), 503),
        (routes().layer(tower()).layer(guard.layer()), 503),
    ] {
        let response = send(&app, fixture.request("/slow")).await;
        assert_eq!(response.status(), expected);
        let response = send(&app, fixture.request("/subject")).await;
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_front_of_the_guard_includes_the_wait_for_keys_and_one_behind_does_not() {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    let guard = || {
        OidcGuard::builder()
            .issuer(Issuer::kubernetes(cluster.url()).audience(AUDIENCE))
            .http_client(pending_client())
            .any_verified_caller()
            .build()
            .unwrap()
    };
    let limit = || TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, SECOND);
    let app = routes().layer(guard().layer()).layer(limit());
    let response = send(&app, request("/subject", Some(&token))).await;
    assert_eq!(response.status(), 408);
    let app = routes().layer(limit()).layer(guard().layer());
    let response = send(&app, request("/subject", Some(&token))).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn panics_of_handlers_and_of_the_rejection_response_give_500() {
    let fixture = Fixture::new();
    let app = routes()
        .layer(fixture.guard().layer())
        .layer(CatchPanicLayer::new());
    assert_eq!(send(&app, fixture.request("/panic")).await.status(), 500);
    let app = routes()
        .layer(CatchPanicLayer::new())
        .layer(fixture.guard().layer());
    assert_eq!(send(&app, fixture.request("/panic")).await.status(), 500);
    // The guard is usable after a panic.
    assert_eq!(send(&app, fixture.request("/subject")).await.status(), 200);

    let guard = guard_builder(&fixture.cluster)
        .any_verified_caller()
        .rejection_response(|_, _| panic!("a panic of the function"))
        .build()
        .unwrap();
    let app = routes().layer(guard.layer()).layer(CatchPanicLayer::new());
    assert_eq!(send(&app, request("/subject", None)).await.status(), 500);
    assert_eq!(send(&app, fixture.request("/subject")).await.status(), 200);
}

#[tokio::test]
async fn a_body_limit_in_front_of_the_guard_is_checked_first() {
    let fixture = Fixture::new();
    let long = |token: bool| {
        let mut long = if token {
            fixture.request("/length")
        } else {
            request("/length", None)
        };
        *long.method_mut() = Method::POST;
        let headers = long.headers_mut();
        headers.insert("content-length", HeaderValue::from(2000));
        *long.body_mut() = Body::from("a".repeat(2000));
        long
    };
    let limit = || RequestBodyLimitLayer::new(1024);
    let front = routes().layer(fixture.guard().layer()).layer(limit());
    let behind = routes().layer(limit()).layer(fixture.guard().layer());
    assert_eq!(send(&front, long(false)).await.status(), 413);
    assert_eq!(send(&front, long(true)).await.status(), 413);
    assert_eq!(send(&behind, long(false)).await.status(), 401);
    assert_eq!(send(&behind, long(true)).await.status(), 413);
}

#[tokio::test]
async fn request_ids_that_are_set_in_front_of_the_guard_are_in_rejections() {
    let fixture = Fixture::new();
    let layers = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(fixture.guard().layer());
    let app = routes().layer(layers);
    for (request, status) in [
        (request("/subject", None), 401),
        (fixture.request("/subject"), 200),
    ] {
        let response = send(&app, request).await;
        assert_eq!(response.status(), status);
        assert!(response.headers().contains_key(REQUEST_ID));
    }
}

#[tokio::test]
async fn an_accept_check_in_front_of_the_guard_rejects_without_a_token() {
    let fixture = Fixture::new();
    let app = routes()
        .layer(fixture.guard().layer())
        .layer(ValidateRequestHeaderLayer::accept("text/plain"));
    let mut json = request("/subject", None);
    let value = HeaderValue::from_static("application/json");
    json.headers_mut().insert(ACCEPT, value);
    assert_eq!(send(&app, json).await.status(), 406);
}

#[tokio::test(start_paused = true)]
async fn load_shedding_behind_the_guard_gives_503_to_callers_with_a_token_only() {
    let fixture = Fixture::new();
    // A limit of a router is one for each route, unless it is global.
    let layers = ServiceBuilder::new()
        .layer(fixture.guard().layer())
        .layer(HandleErrorLayer::new(unavailable))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let app = routes().layer(layers);
    let first = tokio::spawn(app.clone().oneshot(fixture.request("/slow")));
    // The first request waits for the keys, and then in the handler with the only permit.
    tokio::time::sleep(5 * SECOND).await;
    let response = send(&app, fixture.request("/subject")).await;
    assert_eq!(response.status(), 503);
    assert_eq!(send(&app, request("/subject", None)).await.status(), 401);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    let response = send(&app, fixture.request("/subject")).await;
    assert_eq!(response.status(), 200);
}

#[test]
fn headers_are_logged_with_the_token_only_in_front_of_a_layer_that_marks_them_as_sensitive() {
    run_in_child_process("axum_layers::log_requests_with_headers", &[]);
}

#[tokio::test(flavor = "current_thread")]
async fn log_requests_with_headers() {
    if !is_child_process() {
        return;
    }
    let logs = CapturedLogs::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(logs.clone())
        .init();
    let fixture = Fixture::new();
    let guard = fixture.guard();
    let trace = || {
        let span = DefaultMakeSpan::new().include_headers(true);
        TraceLayer::new_for_http().make_span_with(span)
    };
    let sensitive = || SetSensitiveHeadersLayer::new([AUTHORIZATION]);
    let token = token_spec(&fixture.cluster).mint();
    let traced = || routes().layer(guard.layer()).layer(trace());
    for (app, is_logged) in [
        (traced(), true),
        (traced().layer(sensitive()), false),
        // Behind the guard, which marks the header.
        (routes().layer(trace()).layer(guard.layer()), false),
    ] {
        logs.clear();
        let response = send(&app, request("/subject", Some(&token))).await;
        assert_eq!(response.status(), 200);
        let text = logs.text();
        assert!(text.contains("uri=/subject"), "{text}");
        if is_logged {
            assert!(text.contains(&token), "{text}");
        } else {
            assert_absent(&token, &text);
        }
    }
}
