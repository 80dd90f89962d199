//! axum with tower-oauth2-resource-server.

use bench_peers::{AUDIENCE, AnyResult, Settings};
use tower_oauth2_resource_server::claims::DefaultClaims;
use tower_oauth2_resource_server::server::OAuth2ResourceServer;
use tower_oauth2_resource_server::tenant::TenantConfiguration;

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
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
