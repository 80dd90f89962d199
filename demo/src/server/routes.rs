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

use super::gate::SLOT;
use crate::SERVERLESS;

/// What the open path answers, to anyone.
pub const OPEN: &str = r#"{"msg": "hello-exposed"}"#;

/// The longest body of a request: nothing here takes one.
const MAX_BODY_BYTES: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the routes `/`, which answers anyone, and `/private` and `/whoami`, which answer whom the guard admits.
///
/// `seen` is called with the identity of each caller of `/private`: `None` for a request that the guard admits without a
/// token.
pub fn guarded<F>(guard: &OidcGuard, seen: F) -> Router
where
    F: Fn(Option<&Identity>) + Clone + Send + Sync + 'static,
{
    let private = move |caller: Option<Identity>| {
        seen(caller.as_ref());
        async move { Json(private(caller.as_ref())) }
    };
    Router::new()
        .route("/private", get(private))
        .route("/whoami", get(whoami))
        .route_layer(guard.layer())
        .route("/", get(open))
}

/// Returns the routes for operators: `/healthz`, `/readyz` (the guard's keys are there) and `/metrics`.
pub fn public(
    guard: &OidcGuard,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route_service("/readyz", guard.readiness())
        .route("/metrics", get(move || async move { (text, metrics()) }))
}

/// Adds limits, request IDs and, for failures, a line in the log.
///
/// Requests for operators are not logged: a readiness probe that fails while keys are loading is no failure of the server.
pub(super) fn with_layers(routes: Router, for_operators: Router) -> Router {
    let id = HeaderName::from_static("x-request-id");
    let trace = TraceLayer::new_for_http()
        .make_span_with(span)
        .on_failure(log_failure);
    with_limits(routes)
        .layer(trace)
        .merge(with_limits(for_operators))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .layer(SetSensitiveRequestHeadersLayer::new([
            AUTHORIZATION,
            SERVERLESS,
        ]))
}

/// Adds what keeps one request from harming others.
pub(super) fn with_limits(routes: Router) -> Router {
    routes
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            TIMEOUT,
        ))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
}

/// The span of a request. It has the path but never the query, which may contain a token.
fn span(request: &Request) -> Span {
    tracing::error_span!("request", method = %request.method(), path = request.uri().path())
}

/// Logs a request that failed. The guard logs once why keys are missing, so the many 503s that follow are for debugging
/// only.
fn log_failure(failure: ServerErrorsFailureClass, took: Duration, _: &Span) {
    let milliseconds = took.as_millis();
    match failure {
        ServerErrorsFailureClass::StatusCode(StatusCode::SERVICE_UNAVAILABLE) => {
            tracing::debug!(status = 503, milliseconds, "the request failed");
        }
        ServerErrorsFailureClass::StatusCode(status) => {
            tracing::error!(status = status.as_u16(), milliseconds, "the request failed");
        }
        ServerErrorsFailureClass::Error(error) => {
            tracing::error!(%error, milliseconds, "the request failed");
        }
    }
}

async fn open() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPEN)
}

/// What `/private` answers. There is no caller where the guard admits requests without a token.
fn private(caller: Option<&Identity>) -> Value {
    json!({ "msg": "hello-private", "caller": caller.map(summary) })
}

fn summary(caller: &Identity) -> Value {
    let mut who = json!({ "issuer": caller.issuer(), "subject": caller.subject() });
    if let Some(account) = caller.kubernetes() {
        who["namespace"] = account.namespace().into();
        who["service_account"] = account.service_account().name().into();
        who["pod"] = account.pod().map(|pod| pod.name()).into();
    }
    who
}

/// The identity that the application's guard has found, and the one of the gate before it, if there is one.
async fn whoami(caller: Option<Identity>, request: Request) -> Json<Value> {
    let gate = request.extensions().get::<Identities>();
    let gate = gate.and_then(|identities| identities.get(SLOT));
    Json(json!({ "application": caller.as_ref().map(identity), "gate": gate.map(identity) }))
}

fn identity(caller: &Identity) -> Value {
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

    /// A log in memory.
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
    async fn a_failure_is_logged_with_path_and_status_but_not_for_probes_or_missing_keys() {
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
        let operators = Router::new().route("/readyz", fails(StatusCode::SERVICE_UNAVAILABLE));
        let service = TowerToHyperService::new(with_layers(routes, operators));
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
