//! axum with oauth-resource-server.

use std::sync::Arc;

use bench_peers::{AUDIENCE, AnyResult, Settings};
use oauth_resource_server::axum::AuthLayer;
use oauth_resource_server::{KeyNaming, OAuthConfig, OAuthValidator, static_token_policy};

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    let config = OAuthConfig {
        enabled: true,
        issuer: settings.issuer.clone(),
        audience: AUDIENCE.to_owned(),
        resource: AUDIENCE.to_owned(),
        // Tokens of Kubernetes have no scopes.
        allow_unscoped_tokens: true,
        ..OAuthConfig::default()
    };
    let config = config
        .resolve(KeyNaming::Dotted("oauth"))?
        .ok_or("the configuration is not enabled")?;
    let validator = Arc::new(OAuthValidator::new(&config)?);
    validator.spawn_background_refresh();
    validator.refresh_now().await?;
    let decision = static_token_policy(None, Some(&config), false)?;
    let guard = AuthLayer::from_decision(decision, Some(validator))?;
    settings.serve(|routes| routes.route_layer(guard)).await
}
