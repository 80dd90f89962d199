//! axum with tower-oauth2-resource-server. The environment variable `AWS_LC` selects its fastest cryptography instead of its default.

use bench_peers::{AUDIENCE, AnyResult, Settings};
use jsonwebtoken::crypto::{aws_lc, rust_crypto};
use tower_oauth2_resource_server::claims::DefaultClaims;
use tower_oauth2_resource_server::server::OAuth2ResourceServer;
use tower_oauth2_resource_server::tenant::TenantConfiguration;

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    let provider = match std::env::var_os("AWS_LC") {
        Some(_) => &aws_lc::DEFAULT_PROVIDER,
        None => &rust_crypto::DEFAULT_PROVIDER,
    };
    provider
        .install_default()
        .map_err(|_| "a provider is installed already")?;
    let issuer = TenantConfiguration::builder(&settings.issuer)
        .audiences(&[AUDIENCE])
        .build()
        .await?;
    let guard = OAuth2ResourceServer::<DefaultClaims>::builder()
        .add_tenant(issuer)
        .build()
        .await?;
    settings
        .serve(|routes| routes.route_layer(guard.into_layer()))
        .await
}
