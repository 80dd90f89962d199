//! axum with tower-oidc-guard. The environment variable `UNCACHED` turns the cache of verified tokens off.

use bench_peers::{ACCOUNT, AUDIENCE, AnyResult, Settings};
use tower_oidc_guard::{Issuer, OidcGuard, Policy};

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    let issuer = Issuer::kubernetes(&settings.issuer).audience(AUDIENCE);
    let (namespace, name) = ACCOUNT;
    let member = format!("system:serviceaccount:{namespace}:{name}");
    let mut guard = OidcGuard::builder()
        .issuer(issuer.insecure_loopback_http())
        .policy(Policy::members([member]));
    if std::env::var_os("UNCACHED").is_some() {
        guard = guard.without_cache();
    }
    let guard = guard.build()?;
    guard.ready().await?;
    settings
        .serve(|routes| routes.route_layer(guard.layer()))
        .await
}
