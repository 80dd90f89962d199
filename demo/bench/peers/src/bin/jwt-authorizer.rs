//! axum 0.7, for which it is made, with jwt-authorizer.

use axum_07::Router;
use axum_07::routing::get;
use bench_peers::{AUDIENCE, Anything, PAGE, Settings};
use jwt_authorizer::{Authorizer, IntoLayer, JwtAuthorizer, Validation};

#[tokio::main]
async fn main() -> Anything {
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
        .route("/private", get(|| async { PAGE }))
        .route_layer(guard.into_layer())
        .route("/", get(|| async { PAGE }));
    Ok(axum_07::serve(settings.listener().await?, app).await?)
}
