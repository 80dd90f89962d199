//! axum with huskarl-axum and huskarl-resource-server.
//!
//! The URL of the keys is given, because huskarl's discovery requires a `token_endpoint`, which an issuer such as Kubernetes does
//! not have.

use bench_peers::{AUDIENCE, AnyResult, Settings, jwks_uri};
use huskarl_axum::layers::ValidatorLayer;
use huskarl_reqwest::ReqwestClient;
use huskarl_resource_server::validator::custom::CustomValidator;

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let validator = CustomValidator::builder()
        .authorization_server(&settings.issuer)
        .iss(settings.issuer.as_str())
        .aud(AUDIENCE)
        .jwks_uri(jwks_uri(&settings.issuer).parse()?)
        .jwks_source(ReqwestClient::from(http))
        .build()
        .await?;
    let guard = ValidatorLayer::builder().validator(validator).build();
    settings
        .serve(|routes| routes.route_layer(guard.authenticated()))
        .await
}
