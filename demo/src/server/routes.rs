//! What the server answers.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_oidc_guard::{Identities, Identity, OidcGuard};

use super::gate::SLOT;
use crate::SERVERLESS;

/// What the open path answers, to anyone.
pub const OPEN: &str = r#"{"msg": "hello-exposed"}"#;

/// The longest body of a request: nothing here takes one.
const MAX_BODY_BYTES: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

/// `/` answers anyone; `/private` and `/whoami` only whom the guard lets in; `seen` is told of each who was let in to
/// `/private`.
pub fn guarded<F>(guard: &OidcGuard, seen: F) -> Router
where
    F: Fn(&Identity) + Clone + Send + Sync + 'static,
{
    let private = move |caller: Identity| {
        seen(&caller);
        async move { Json(private(&caller)) }
    };
    Router::new()
        .route("/private", get(private))
        .route("/whoami", get(whoami))
        .route_layer(guard.layer())
        .route("/", get(open))
}

/// `/healthz`, `/readyz` (the guard's keys are there) and `/metrics`, for those who look after the server.
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

/// What a server does beside its business.
pub(super) fn with_layers(routes: Router) -> Router {
    let id = HeaderName::from_static("x-request-id");
    routes
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            TIMEOUT,
        ))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(TraceLayer::new_for_http())
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .layer(SetSensitiveRequestHeadersLayer::new([
            AUTHORIZATION,
            SERVERLESS,
        ]))
}

async fn open() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPEN)
}

fn private(caller: &Identity) -> Value {
    let mut who = json!({ "issuer": caller.issuer(), "subject": caller.subject() });
    if let Some(account) = caller.kubernetes() {
        who["namespace"] = account.namespace().into();
        who["service_account"] = account.service_account().name().into();
        who["pod"] = account.pod().map(|pod| pod.name()).into();
    }
    json!({ "msg": "hello-private", "caller": who })
}

/// The identity as the application's guard has it, and as the gate before it has, if there is one.
async fn whoami(caller: Identity, request: axum::extract::Request) -> Json<Value> {
    let gate = request.extensions().get::<Identities>();
    let gate = gate.and_then(|identities| identities.get(SLOT));
    Json(json!({ "application": identity(&caller), "gate": gate.map(identity) }))
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
