//! axum 0.7 with jwt-authorizer, which requires that version.

use axum_07::Router;
use axum_07::routing::get;
use bench_peers::{AUDIENCE, AnyResult, BODY, Settings};
use jwt_authorizer::{Authorizer, IntoLayer, JwtAuthorizer, Validation};

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    let validation = Validation::new()
        .iss(&[&settings.issuer])
        .aud(&[AUDIENCE])
        .nbf(true);
    let guard: Authorizer = JwtAuthorizer::from_oidc(&settings.issuer)
        .validation(validation)
        .build()
        .await?;
    let app = Router::new()
        .route("/private", get(|| async { BODY }))
        .route_layer(guard.into_layer())
        .route("/", get(|| async { BODY }));
    Ok(axum_07::serve(settings.listener().await?, app).await?)
}
