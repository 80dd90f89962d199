//! The server: an open path and a guarded one.

use std::future::Future;
use std::net::SocketAddr;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_http::trace::TraceLayer;
use tower_oidc_guard::{Identity, OidcGuard};

use crate::Error;

/// What the open path answers, to anyone.
pub const OPEN: &str = r#"{"msg": "hello-exposed"}"#;

/// `/` answers anyone, `/private` only whom the guard lets in; `seen` is told of each of these.
pub fn routes<F>(guard: &OidcGuard, seen: F) -> Router
where
    F: Fn(&Identity) + Clone + Send + Sync + 'static,
{
    let private = move |caller: Identity| {
        seen(&caller);
        async move { Json(private(&caller)) }
    };
    Router::new()
        .route("/private", get(private))
        .route_layer(guard.layer())
        .route("/", get(open))
        .layer(TraceLayer::new_for_http())
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

/// Listens at an address.
///
/// # Errors
///
/// [`Error::Listen`] where that is not possible.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// Serves until the future `end` is done and the requests in flight are answered.
///
/// # Errors
///
/// [`Error::Io`] if no connections can be taken any more.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let server = axum::serve(listener, routes).with_graceful_shutdown(end);
    server.await.map_err(Error::io("the server ended"))
}
