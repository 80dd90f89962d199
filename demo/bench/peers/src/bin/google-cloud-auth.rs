//! axum with the verifier of Google's ID tokens in google-cloud-auth, with the keys of another issuer. The crate has no layer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use bench_peers::{AUDIENCE, AnyResult, Settings, jwks_uri};
use google_cloud_auth::credentials::idtoken::verifier::{Builder, Verifier};
use jsonwebtoken::crypto::aws_lc;

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    // Another guard of this package enables another provider as well, so the choice of the crate's default features is repeated.
    aws_lc::DEFAULT_PROVIDER
        .install_default()
        .map_err(|_| "a provider is installed already")?;
    let verifier = Builder::new([AUDIENCE]).with_jwks_url(jwks_uri(&settings.issuer));
    let guard = from_fn_with_state(Arc::new(verifier.build()), verify);
    settings.serve(|routes| routes.route_layer(guard)).await
}

/// Passes the claims of a valid token on in the request's extensions.
async fn verify(
    State(verifier): State<Arc<Verifier>>,
    mut request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    // The body is not `Sync`, so the request must not be borrowed while the verifier waits.
    let header = request.headers().get(AUTHORIZATION).cloned();
    let token = header
        .as_ref()
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let claims = verifier.verify(token).await;
    let claims = claims.map_err(|_| StatusCode::UNAUTHORIZED)?;
    request.extensions_mut().insert(Arc::new(claims));
    Ok(next.run(request).await)
}
