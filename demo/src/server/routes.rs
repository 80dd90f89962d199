//! The server's routes, and the layers around them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::classify::ServerErrorsFailureClass;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_oidc_guard::{Identities, Identity, OidcGuard};
use tracing::Span;

use super::gate::GATE_IDENTITY;
use crate::X_SERVERLESS_AUTHORIZATION;
use crate::escape::escape;

/// The body of the response to `/`.
pub const OPEN_BODY: &str = r#"{"msg": "hello-exposed"}"#;

/// Where the metadata of a protected resource is: at this path, or below it if the URL of the resource has a path.
const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";
const RESOURCE_METADATA_BELOW: &str = "/.well-known/oauth-protected-resource/{*resource}";

/// The largest accepted request body. No route uses one.
const MAX_BODY_BYTES: usize = 64 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest part of the body of a readiness probe that is logged, in bytes.
const MAX_READINESS_BYTES: usize = 64 * 1024;
/// The path in the span of a request that no route matches. The path of the request is not logged, since it may contain
/// anything.
const NO_ROUTE: &str = "(no route)";

/// Returns the application's routes: `/private` and `/whoami`, which the guard protects, and `/`, which is open to any
/// caller. If the guard has the URL of a protected resource, so is the path of its metadata, which challenges name (RFC 9728).
///
/// `on_private_call` is called with the caller's identity for each request to `/private`, or with `None` if the guard
/// admitted the request without a token.
pub fn application_routes<F>(guard: &OidcGuard, on_private_call: F) -> Router
where
    F: Fn(Option<&Identity>) + Clone + Send + Sync + 'static,
{
    let private = move |caller: Option<Identity>| {
        on_private_call(caller.as_ref());
        async move { Json(private_body(caller.as_ref())) }
    };
    let metadata = {
        let guard = guard.clone();
        move |request: Request| resource_metadata(guard.clone(), request)
    };
    Router::new()
        .route("/private", get(private))
        .route("/whoami", get(whoami))
        // Protects the routes above, but not those that are added after it.
        .route_layer(guard.layer())
        .route("/", get(open))
        .route(RESOURCE_METADATA, get(metadata.clone()))
        .route(RESOURCE_METADATA_BELOW, get(metadata))
}

/// Responds with the metadata of the protected resource, at the path that is derived from the URL of the resource. The URL may
/// have any path, also one that a router takes for a pattern.
async fn resource_metadata(guard: OidcGuard, request: Request) -> Response {
    let metadata = guard.resource_metadata();
    let Some(metadata) = metadata.filter(|metadata| metadata.path() == request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match TowerToHyperService::new(metadata).call(request).await {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    }
}

/// Returns the routes for probes and scrapers, which need no token: `/healthz`, `/readyz` and `/metrics`.
///
/// `/readyz` responds with 200 once the guard has the keys of each issuer that its settings require. Otherwise the reason is
/// logged, once per change.
pub fn admin_routes(
    guard: &OidcGuard,
    render_metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let readiness = Router::new()
        .route_service("/readyz", guard.readiness())
        // Does not apply to the fallback, so that requests to unknown paths are no probes.
        .route_layer(from_fn_with_state(ReadinessLog::default(), log_readiness));
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .merge(readiness)
        .merge(metrics_route(render_metrics))
}

/// Returns the route for scrapers, which need no token: `/metrics`.
pub(super) fn metrics_route(
    render_metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    let metrics = move || async move { (content_type, render_metrics()) };
    Router::new().route("/metrics", get(metrics))
}

/// The reason that was last logged for which the server is not ready, or `None` if it is.
#[derive(Debug, Clone, Default)]
struct ReadinessLog(Arc<Mutex<Option<String>>>);

/// Logs the result of a readiness probe if it is not that of the previous one. Probes are GET requests: responses to other
/// methods do not contain the reason.
async fn log_readiness(State(log): State<ReadinessLog>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let (parts, body) = next.run(request).await.into_parts();
    // The guard responds with a short text, so that reading it cannot fail.
    let body = to_bytes(body, MAX_READINESS_BYTES)
        .await
        .unwrap_or_default();
    let reason = (!parts.status.is_success()).then(|| String::from_utf8_lossy(&body).into_owned());
    let mut logged = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    if *logged != reason {
        let status = parts.status.as_u16();
        match &reason {
            Some(reason) => tracing::warn!(
                path = "/readyz",
                status,
                reason = &*escape(reason),
                "not ready; this is logged again only if the reason changes"
            ),
            None => tracing::info!(path = "/readyz", status, "ready"),
        }
        *logged = reason;
    }
    drop(logged);
    Response::from_parts(parts, Body::from(body))
}

/// Merges the application's routes and the admin routes, with limits, request IDs, and a log event for each failed request.
pub(super) fn with_layers(application: Router, admin: Router) -> Router {
    let id = HeaderName::from_static("x-request-id");
    with_limits(application)
        .merge(with_limits(admin))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .layer(SetSensitiveRequestHeadersLayer::new([
            AUTHORIZATION,
            X_SERVERLESS_AUTHORIZATION,
        ]))
}

/// Adds limits on a request's body and duration, a response with status 500 if a handler panics, and a log event for each
/// failed request, with its method and the path of its route.
pub(super) fn with_limits(routes: Router) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(request_span)
        .on_failure(log_failure);
    routes
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            REQUEST_TIMEOUT,
        ))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(trace)
}

/// Returns the span of a request, with its method and the path of its route. The path and the query of the request itself
/// may contain a token.
fn request_span(request: &Request) -> Span {
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or(NO_ROUTE, MatchedPath::as_str);
    tracing::error_span!("request", method = %request.method(), path)
}

/// Logs a failed request. The guard and the readiness probe log once why keys are missing, so the 503 responses that follow
/// are logged at debug level only.
fn log_failure(failure: ServerErrorsFailureClass, latency: Duration, _: &Span) {
    let milliseconds = latency.as_millis();
    match failure {
        ServerErrorsFailureClass::StatusCode(StatusCode::SERVICE_UNAVAILABLE) => {
            tracing::debug!(status = 503, milliseconds, "request failed");
        }
        ServerErrorsFailureClass::StatusCode(status) => {
            tracing::error!(status = status.as_u16(), milliseconds, "request failed");
        }
        ServerErrorsFailureClass::Error(error) => {
            tracing::error!(error, milliseconds, "request failed");
        }
    }
}

async fn open() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPEN_BODY)
}

/// Returns the body of the response to `/private`. `caller` is `null` if the guard admitted the request without a token.
fn private_body(caller: Option<&Identity>) -> Value {
    json!({ "msg": "hello-private", "caller": caller.map(summary_json) })
}

fn summary_json(caller: &Identity) -> Value {
    let mut summary = json!({ "issuer": caller.issuer(), "subject": caller.subject() });
    if let Some(account) = caller.kubernetes() {
        summary["namespace"] = account.namespace().into();
        summary["service_account"] = account.service_account().name().into();
        summary["pod"] = account.pod().map(|pod| pod.name()).into();
    }
    summary
}

/// Responds with the identity that the application's guard verified and the one that the gate verified. Each is `null` if
/// there is none.
async fn whoami(caller: Option<Identity>, request: Request) -> Json<Value> {
    let gate = request.extensions().get::<Identities>();
    let gate = gate.and_then(|identities| identities.get(GATE_IDENTITY));
    Json(
        json!({ "application": caller.as_ref().map(identity_json), "gate": gate.map(identity_json) }),
    )
}

fn identity_json(caller: &Identity) -> Value {
    let object = |object: &tower_oidc_guard::ObjectRef| json!({ "name": object.name(), "uid": object.uid() });
    let kubernetes = caller.kubernetes().map(|account| {
        json!({
            "namespace": account.namespace(),
            "service_account": object(account.service_account()),
            "pod": account.pod().map(object),
            "node": account.node().map(object),
        })
    });
    let google = caller.google().map(
        |account| json!({ "email": account.email(), "email_verified": account.email_verified() }),
    );
    let expires_at = caller.expires_at().duration_since(std::time::UNIX_EPOCH);
    json!({
        "issuer": caller.issuer(),
        "subject": caller.subject(),
        "audiences": caller.audiences(),
        "expires_at": expires_at.unwrap_or_default().as_secs(),
        "token_id": caller.token_id(),
        "kubernetes": kubernetes,
        "google": google,
    })
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::test_support::Log;

    /// Runs requests to paths in turn, and returns the lines that are logged meanwhile.
    async fn logged(routes: Router, paths: &[&str]) -> Vec<String> {
        let (log, _guard) = Log::start();
        let service = TowerToHyperService::new(routes);
        for path in paths {
            let request = Request::builder().uri(format!("{path}?access_token=secret"));
            let request = request.body(Body::empty()).unwrap();
            service.call(request).await.unwrap();
        }
        let lines = log.lines();
        assert!(
            lines.iter().all(|line| !line.contains("secret")),
            "{lines:?}"
        );
        lines
    }

    #[tokio::test]
    async fn failed_requests_are_logged_with_method_path_of_the_route_and_status() {
        let fails = |status: StatusCode| get(move || async move { status });
        let routes = Router::new()
            .route("/fails/{token}", fails(StatusCode::INTERNAL_SERVER_ERROR))
            .route("/loading", fails(StatusCode::SERVICE_UNAVAILABLE));
        let admin = Router::new()
            .route("/metrics", fails(StatusCode::BAD_GATEWAY))
            .fallback(|| async { StatusCode::INTERNAL_SERVER_ERROR });
        let paths = ["/fails/secret", "/loading", "/metrics", "/secret"];
        let lines = logged(with_layers(routes, admin), &paths).await;
        let expected = [
            ("path=\"/fails/{token}\"", "status=500"),
            ("path=\"/metrics\"", "status=502"),
            ("path=\"(no route)\"", "status=500"),
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, (path, status)) in lines.iter().zip(expected) {
            for part in ["ERROR", "method=GET", path, status] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
    }

    #[tokio::test]
    async fn a_readiness_probe_is_logged_when_its_result_changes() {
        let results = Mutex::new(
            [
                (200, "ready"),
                (503, "no keys of a"),
                (503, "no keys of a"),
                (503, "no keys of\nb"),
                (200, "ready"),
                (200, "ready"),
            ]
            .into_iter(),
        );
        let results = Arc::new(results);
        let probe = move || {
            let (status, text) = results.lock().unwrap().next().unwrap();
            async move { (StatusCode::from_u16(status).unwrap(), text) }
        };
        let readiness = Router::new()
            .route("/readyz", get(probe))
            .route_layer(from_fn_with_state(ReadinessLog::default(), log_readiness));
        let lines = logged(with_layers(Router::new(), readiness), &["/readyz"; 6]).await;
        let expected = [
            (" WARN ", "status=503 reason=\"no keys of a\""),
            (" WARN ", "no keys of\\\\nb"),
            (" INFO ", "ready path=\"/readyz\" status=200"),
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, (level, text)) in lines.iter().zip(expected) {
            assert!(
                line.contains(level) && line.contains(text),
                "{text}: {line}"
            );
        }
    }

    #[tokio::test]
    async fn a_request_to_an_unknown_path_is_no_readiness_probe() {
        let issuer = tower_oidc_guard::testing::TestIssuer::start()
            .await
            .unwrap();
        let guard = OidcGuard::builder()
            .issuer(issuer.issuer().audience("https://auth-server.example"))
            .any_verified_caller()
            .build()
            .unwrap();
        guard.ready().await.unwrap();
        let admin = admin_routes(&guard, String::new);
        let application = application_routes(&guard, |_| {});
        let paths = ["/x1", "/readyz", "/x2", "/readyz/x", "/readyz"];
        for routes in [
            // The port of the application, with and without the admin routes, and the admin port.
            with_layers(application.clone(), admin.clone()),
            with_layers(application, Router::new()),
            with_limits(admin),
        ] {
            assert_eq!(logged(routes, &paths).await, Vec::<String>::new());
        }
    }
}
