//! The server's routes, and the layers around them.

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
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

/// The body of the response to `/`.
pub const OPEN_BODY: &str = r#"{"msg": "hello-exposed"}"#;

/// The largest accepted request body. No route uses one.
const MAX_BODY_BYTES: usize = 64 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the application's routes: `/private` and `/whoami`, which the guard protects, and `/`, which is open to any
/// caller.
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
    Router::new()
        .route("/private", get(private))
        .route("/whoami", get(whoami))
        // Protects the routes above, but not those that are added after it.
        .route_layer(guard.layer())
        .route("/", get(open))
}

/// Returns the routes for probes and scrapers, which need no token: `/healthz`, `/readyz` and `/metrics`.
///
/// `/readyz` responds with 200 once the guard has the keys of each issuer that its settings require.
pub fn admin_routes(
    guard: &OidcGuard,
    render_metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    let metrics = move || async move { (content_type, render_metrics()) };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route_service("/readyz", guard.readiness())
        .route("/metrics", get(metrics))
}

/// Merges the application's routes and the admin routes, with limits and request IDs for both, and a log event for each
/// failed request to the application.
///
/// Failed requests to the admin routes are not logged: a readiness probe that fails while keys are being fetched is not an
/// error of the server.
pub(super) fn with_layers(application: Router, admin: Router) -> Router {
    let id = HeaderName::from_static("x-request-id");
    let trace = TraceLayer::new_for_http()
        .make_span_with(request_span)
        .on_failure(log_failure);
    with_limits(application)
        .layer(trace)
        .merge(with_limits(admin))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .layer(SetSensitiveRequestHeadersLayer::new([
            AUTHORIZATION,
            X_SERVERLESS_AUTHORIZATION,
        ]))
}

/// Adds limits on a request's body and duration, and a response with status 500 if a handler panics.
pub(super) fn with_limits(routes: Router) -> Router {
    routes
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            REQUEST_TIMEOUT,
        ))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
}

/// Returns the span of a request, with its path but without its query, which may contain a token.
fn request_span(request: &Request) -> Span {
    tracing::error_span!("request", method = %request.method(), path = request.uri().path())
}

/// Logs a failed request. The guard logs once why keys are missing, so the 503 responses that follow are logged at debug
/// level only.
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
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use axum::body::Body;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    /// An in-memory log.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn failed_requests_are_logged_with_path_and_status_except_for_probes_and_missing_keys() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let fails = |status: StatusCode| get(move || async move { status });
        let routes = Router::new()
            .route("/fails", fails(StatusCode::INTERNAL_SERVER_ERROR))
            .route("/loading", fails(StatusCode::SERVICE_UNAVAILABLE));
        let admin = Router::new().route("/readyz", fails(StatusCode::SERVICE_UNAVAILABLE));
        let service = TowerToHyperService::new(with_layers(routes, admin));
        for path in ["/fails", "/loading", "/readyz"] {
            let request = Request::builder().uri(format!("{path}?access_token=secret"));
            let request = request.body(Body::empty()).unwrap();
            assert!(
                service
                    .call(request)
                    .await
                    .unwrap()
                    .status()
                    .is_server_error()
            );
        }
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 1, "{log}");
        for part in ["ERROR", "path=\"/fails\"", "status=500"] {
            assert!(lines[0].contains(part), "{part}: {log}");
        }
        assert!(!log.contains("secret"), "{log}");
    }
}
