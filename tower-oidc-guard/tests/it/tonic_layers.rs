//! The guard together with the layers and interceptors that services on tonic usually have, and in front of one of several
//! services.

use std::time::Duration;

use axum::routing::get;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, ORIGIN};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use tokio::net::TcpListener;
use tonic::service::interceptor::{InterceptedService, InterceptorLayer};
use tonic::service::{LayerExt as _, Routes};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tower::{ServiceBuilder, ServiceExt as _};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Identity, OidcGuard, Policy};

use crate::grpc_frames::{assert_trailers_only, exchange, request};
use crate::support::grpc::{Orders, call, health};
use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec};

const CALLER: &str = "/shop.Orders/Caller";
const SECOND: Duration = Duration::from_secs(1);

/// Starts a router of tonic and returns its origin.
macro_rules! start {
    ($router:expr) => {{
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn($router.serve_with_incoming(TcpIncoming::from(listener)));
        origin
    }};
}

/// Starts an axum router and returns its origin.
async fn start_axum(router: axum::Router) -> String {
    start!(Server::builder().add_routes(Routes::from(router)))
}

/// Creates a guard that has no keys yet, so the first call with a token waits.
fn guard(cluster: &MemoryIssuer) -> OidcGuard {
    let guard = guard_builder(cluster).policy(Policy::members([GKE_SA]));
    guard.build().unwrap()
}

/// Checks the decisions of the guard on calls, and that a rejection is one HEADERS frame.
async fn check(origin: &str, cluster: &MemoryIssuer) {
    let token = token_spec(cluster);
    // The first call waits for the keys.
    for _ in 0..2 {
        let caller = call(origin, CALLER, Some(&token.mint())).await;
        assert_eq!(caller.unwrap(), GKE_SA);
    }
    let status = call(origin, CALLER, None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "no bearer token");
    let expired = token.clone().claim("exp", 1).mint();
    let status = call(origin, CALLER, Some(&expired)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "the token has expired");
    let stranger = token.service_account("a", "b").mint();
    let status = call(origin, CALLER, Some(&stranger)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let address = origin.strip_prefix("http://").unwrap();
    let mut rejected = request(Method::POST, "application/grpc", None);
    *rejected.uri_mut() = format!("{origin}{CALLER}").parse().unwrap();
    let (head, frames) = exchange(address, rejected).await;
    assert_eq!(head.headers()["grpc-status"], "16");
    assert_trailers_only(&frames);
}

#[tokio::test]
async fn a_layer_of_the_server_guards_all_services() {
    let cluster = cluster();
    let (_, health_service) = tonic_health::server::health_reporter();
    let origin = start!(
        Server::builder()
            .layer(guard(&cluster).layer())
            .add_service(health_service)
            .add_service(Orders)
    );
    check(&origin, &cluster).await;
    assert_eq!(health(&origin).await, Code::Unauthenticated);
}

#[tokio::test]
async fn a_named_layer_guards_one_service_and_leaves_the_health_service_open() {
    let cluster = cluster();
    let guarded = || guard(&cluster).layer().named_layer(Orders);
    let health_service = || tonic_health::server::health_reporter().1;
    for origin in [
        start!(
            Server::builder()
                .add_service(health_service())
                .add_service(guarded())
        ),
        start!(
            Server::builder()
                .add_service(guarded())
                .add_service(health_service())
        ),
        start!(
            Server::builder()
                .add_optional_service(Some(guarded()))
                .add_service(health_service())
        ),
        start!(
            Server::builder().add_routes(
                Routes::new(health_service())
                    .add_service(guarded())
                    .prepare()
            )
        ),
    ] {
        check(&origin, &cluster).await;
        assert_eq!(health(&origin).await, Code::Ok);
        // A method that the service does not have is guarded as well; one of an unknown service is not.
        let status = call(&origin, "/shop.Orders/Other", None).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let status = call(&origin, "/shop.Unknown/Other", None)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn the_usual_layers_in_front_of_the_guard_of_the_server() {
    let cluster = cluster();
    let layers = ServiceBuilder::new()
        .layer(SetSensitiveHeadersLayer::new([AUTHORIZATION]))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_grpc())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            60 * SECOND,
        ))
        .layer(CompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(1024))
        .layer(guard(&cluster).layer())
        .into_inner();
    let origin = start!(Server::builder().layer(layers).add_service(Orders));
    check(&origin, &cluster).await;
    check_panic(&origin, &cluster).await;
    check_headers_of_rejection(&origin, true).await;
}

#[tokio::test]
async fn the_usual_layers_behind_the_guard_of_the_server() {
    let cluster = cluster();
    let layers = ServiceBuilder::new()
        .layer(guard(&cluster).layer())
        .layer(SetSensitiveHeadersLayer::new([AUTHORIZATION]))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_grpc())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            60 * SECOND,
        ))
        .layer(CompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(1024))
        .into_inner();
    let origin = start!(Server::builder().layer(layers).add_service(Orders));
    check(&origin, &cluster).await;
    check_panic(&origin, &cluster).await;
    check_headers_of_rejection(&origin, false).await;
}

#[tokio::test]
async fn the_usual_layers_around_the_guard_of_one_service() {
    let cluster = cluster();
    let front = ServiceBuilder::new()
        .layer(TraceLayer::new_for_grpc())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            60 * SECOND,
        ))
        .layer(CompressionLayer::new())
        .layer(guard(&cluster).layer())
        .named_layer(Orders);
    let behind = ServiceBuilder::new()
        .layer(guard(&cluster).layer())
        .layer(TraceLayer::new_for_grpc())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            60 * SECOND,
        ))
        .layer(CompressionLayer::new())
        .layer(MapResponseBodyLayer::new(tonic::body::Body::new))
        .named_layer(Orders);
    let (_, health_service) = tonic_health::server::health_reporter();
    for origin in [
        start!(
            Server::builder()
                .add_service(health_service.clone())
                .add_service(front)
        ),
        start!(
            Server::builder()
                .add_service(health_service)
                .add_service(behind)
        ),
    ] {
        check(&origin, &cluster).await;
        check_panic(&origin, &cluster).await;
        assert_eq!(health(&origin).await, Code::Ok);
    }
}

async fn check_panic(origin: &str, cluster: &MemoryIssuer) {
    let token = token_spec(cluster).mint();
    let panicked = call(origin, "/shop.Orders/Panic", Some(&token)).await;
    let status = panicked.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(call(origin, CALLER, Some(&token)).await.unwrap(), GKE_SA);
}

/// Checks whether the layers for CORS and request IDs see rejections.
async fn check_headers_of_rejection(origin: &str, are_in_front: bool) {
    let address = origin.strip_prefix("http://").unwrap();
    let mut rejected = request(Method::POST, "application/grpc", None);
    let value = HeaderValue::from_static("https://app.example");
    rejected.headers_mut().insert(ORIGIN, value);
    let (head, frames) = exchange(address, rejected).await;
    assert_trailers_only(&frames);
    let request_id = HeaderName::from_static("x-request-id");
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, request_id] {
        assert_eq!(head.headers().contains_key(&name), are_in_front, "{name}");
    }
}

/// Requires an identity, like an interceptor that checks more than the guard's policy.
fn require_identity(request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
    match request.extensions().get::<Identity>() {
        Some(_) => Ok(request),
        None => Err(Status::internal("no identity")),
    }
}

/// Requires that there is no identity yet.
fn require_no_identity(request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
    match request.extensions().get::<Identity>() {
        Some(_) => Err(Status::internal("an identity")),
        None => Ok(request),
    }
}

#[tokio::test]
async fn interceptors_behind_the_guard_see_the_identity_and_those_in_front_do_not() {
    let cluster = cluster();
    let guard = || guard(&cluster).layer();
    let (before, after) = (require_no_identity, require_identity);
    for origin in [
        // An interceptor of one service, with the guard of the server or of the service.
        start!(
            Server::builder()
                .layer(guard())
                .add_service(InterceptedService::new(Orders, after))
        ),
        start!(
            Server::builder()
                .add_service(guard().named_layer(InterceptedService::new(Orders, after)))
        ),
        start!(
            Server::builder()
                .add_service(InterceptedService::new(guard().named_layer(Orders), before))
        ),
        // Interceptors as layers.
        start!(
            Server::builder()
                .layer(InterceptorLayer::new(before))
                .layer(guard())
                .layer(InterceptorLayer::new(after))
                .add_service(Orders)
        ),
        start!({
            let layers = ServiceBuilder::new()
                .layer(InterceptorLayer::new(before))
                .layer(guard())
                .layer(InterceptorLayer::new(after));
            Server::builder().add_service(layers.named_layer(Orders))
        }),
    ] {
        check(&origin, &cluster).await;
    }
}

#[tokio::test]
async fn settings_of_the_server_work_with_the_guard() {
    let cluster = cluster();
    let origin = start!(
        Server::builder()
            .timeout(60 * SECOND)
            .concurrency_limit_per_connection(16)
            .load_shed(true)
            .trace_fn(|_| tracing::info_span!("request"))
            .layer(guard(&cluster).layer())
            .add_service(Orders)
    );
    check(&origin, &cluster).await;
}

#[tokio::test]
async fn timeouts_on_both_sides_of_the_guard_end_slow_calls() {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    let limit = || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, SECOND / 20);
    for (origin, expected) in [
        (
            start!(
                Server::builder()
                    .layer(limit())
                    .layer(guard(&cluster).layer())
                    .add_service(Orders)
            ),
            Code::Unavailable,
        ),
        (
            start!(
                Server::builder()
                    .layer(guard(&cluster).layer())
                    .layer(limit())
                    .add_service(Orders)
            ),
            Code::Unavailable,
        ),
        (
            start!(
                Server::builder()
                    .timeout(SECOND / 20)
                    .layer(guard(&cluster).layer())
                    .add_service(Orders)
            ),
            Code::Cancelled,
        ),
    ] {
        let ended = call(&origin, "/shop.Orders/Slow", Some(&token)).await;
        assert_eq!(ended.unwrap_err().code(), expected);
    }
}

#[tokio::test]
async fn grpc_and_http_routes_of_one_router_have_their_own_guards() {
    let cluster = cluster();
    let guard = guard(&cluster);
    let (_, health_service) = tonic_health::server::health_reporter();
    let grpc = Routes::new(health_service).add_service(guard.layer().named_layer(Orders));
    let private = get(|caller: Identity| async move { caller.subject().to_owned() });
    let http = axum::Router::new()
        .route("/private", private)
        .route_layer(guard.layer())
        .route("/healthz", get(|| async { "ok" }));
    let app = grpc.into_axum_router().merge(http);
    let status = async |path: &str| {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap().status()
    };
    assert_eq!(status("/private").await, 401);
    assert_eq!(status("/healthz").await, 200);
    let origin = start_axum(app.clone()).await;
    check(&origin, &cluster).await;
    assert_eq!(health(&origin).await, Code::Ok);
}

#[tokio::test]
async fn a_route_layer_on_the_routes_of_tonic_guards_all_services_but_not_the_fallback() {
    let cluster = cluster();
    let (_, health_service) = tonic_health::server::health_reporter();
    let routes = Routes::new(health_service).add_service(Orders);
    let router = routes.into_axum_router();
    let origin = start_axum(router.route_layer(guard(&cluster).layer())).await;
    check(&origin, &cluster).await;
    assert_eq!(health(&origin).await, Code::Unauthenticated);
    let status = call(&origin, "/shop.Unknown/Other", None).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
}
