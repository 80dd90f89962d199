//! The guard together with the usual layers on plain hyper, where no type is erased between them.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONTENT_ENCODING, WWW_AUTHENTICATE,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tower_http::ServiceBuilderExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use tower_http::cors::CorsLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::MakeRequestUuid;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Identity, OidcGuard, OidcGuardService, Policy, ResponseBody};

use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec};

/// Responds with the subject of the caller, and panics for the path `/panic`.
async fn respond<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_ne!(request.uri().path(), "/panic", "a panic of the service");
    let caller = request.extensions().get::<Identity>();
    let subject = caller.map_or("nobody", Identity::subject);
    Ok(Response::new(Full::from(subject.to_owned())))
}

/// Starts an HTTP/1 server and returns its origin.
async fn start<S, B>(service: S) -> String
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let connection = http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    origin
}

/// Creates a guard that has no keys yet, so the first request with a token waits.
fn guard(cluster: &MemoryIssuer) -> OidcGuard {
    let guard = guard_builder(cluster).policy(Policy::members([GKE_SA]));
    guard.build().unwrap()
}

async fn check(origin: &str, cluster: &MemoryIssuer) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let token = token_spec(cluster);
    for _ in 0..2 {
        let response = client.get(origin).bearer_auth(token.mint()).send().await;
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.text().await.unwrap(), GKE_SA);
    }
    let response = client.get(origin).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()[WWW_AUTHENTICATE],
        "Bearer realm=\"protected\""
    );
    assert_eq!(response.text().await.unwrap(), "401 - Unauthorized");
    let stranger = token.service_account("a", "b").mint();
    let response = client.get(origin).bearer_auth(stranger).send().await;
    let response = response.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(response.text().await.unwrap(), "403 - Forbidden");
}

async fn check_usual_layers(origin: &str, cluster: &MemoryIssuer) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let token = || token_spec(cluster).mint();
    let panic = client.get(format!("{origin}/panic")).bearer_auth(token());
    assert_eq!(panic.send().await.unwrap().status(), 500);
    let request = client.get(origin).bearer_auth(token());
    let request = request.header("origin", "https://app.example");
    let response = request.header("accept-encoding", "gzip").send().await;
    let response = response.unwrap();
    assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let long = client.post(origin).bearer_auth(token());
    let response = long.body("a".repeat(2000)).send().await.unwrap();
    assert_eq!(response.status(), 413);
}

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(60))
}

#[tokio::test]
async fn the_usual_layers_in_front_of_the_guard() {
    let cluster = cluster();
    let service = ServiceBuilder::new()
        .sensitive_headers([AUTHORIZATION])
        .set_x_request_id(MakeRequestUuid)
        .propagate_x_request_id()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(timeout())
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
        .layer(RequestBodyLimitLayer::new(1024))
        .layer(guard(&cluster).layer())
        .service_fn(respond);
    let origin = start(service).await;
    check(&origin, &cluster).await;
    check_usual_layers(&origin, &cluster).await;
}

#[tokio::test]
async fn the_usual_layers_behind_the_guard() {
    let cluster = cluster();
    let service = ServiceBuilder::new()
        .layer(guard(&cluster).layer())
        .sensitive_headers([AUTHORIZATION])
        .set_x_request_id(MakeRequestUuid)
        .propagate_x_request_id()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(timeout())
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
        .layer(RequestBodyLimitLayer::new(1024))
        .service_fn(respond);
    let origin = start(service).await;
    check(&origin, &cluster).await;
    check_usual_layers(&origin, &cluster).await;
}

#[tokio::test]
async fn fallible_layers_on_both_sides_of_the_guard() {
    let cluster = cluster();
    let service = ServiceBuilder::new()
        .buffer(16)
        .load_shed()
        .concurrency_limit(16)
        .timeout(Duration::from_secs(60))
        .layer(guard(&cluster).layer())
        .buffer(16)
        .rate_limit(1000, Duration::from_secs(1))
        .service_fn(respond);
    check(&start(service).await, &cluster).await;
}

#[tokio::test]
async fn boxed_services_and_bodies_on_both_sides_of_the_guard() {
    let cluster = cluster();
    let layer = || guard(&cluster).layer();
    let service = || service_fn(respond::<Incoming>);
    let origin = start(layer().layer(service()).boxed_clone()).await;
    check(&origin, &cluster).await;
    let origin = start(layer().layer(service().boxed_clone())).await;
    check(&origin, &cluster).await;
    let boxed = tower::util::BoxCloneSyncService::new(layer().layer(service()));
    check(&start(boxed).await, &cluster).await;
    let bodies = ServiceBuilder::new()
        .map_response_body(|body: ResponseBody<_>| body.boxed())
        .layer(layer())
        .map_response_body(|body: Full<Bytes>| body.boxed());
    check(&start(bodies.service(service())).await, &cluster).await;
    // A guard that is configured or not has one type if the bodies are boxed.
    let optional = ServiceBuilder::new()
        .map_response_body(|body: ResponseBody<_>| body.boxed())
        .layer(layer())
        .into_inner();
    let service = ServiceBuilder::new()
        .option_layer(Some(optional))
        .map_response_body(|body: Full<Bytes>| body.boxed())
        .service(service());
    check(&start(service).await, &cluster).await;
}

#[test]
fn public_types_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send + 'static>() {}
    type Guarded =
        OidcGuardService<tower::util::BoxCloneSyncService<Request<()>, Response<()>, BoxError>>;
    shared::<OidcGuard>();
    shared::<tower_oidc_guard::OidcGuardLayer>();
    shared::<Guarded>();
    shared::<ResponseBody<Full<Bytes>>>();
    sent::<<Guarded as Service<Request<()>>>::Future>();
}
