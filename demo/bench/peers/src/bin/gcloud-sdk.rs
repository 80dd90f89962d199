//! axum with the verifier of Google's ID tokens in gcloud-sdk, with the keys of another issuer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bench_peers::{AUDIENCE, AnyResult, Settings, jwks_uri};
use gcloud_sdk::IdTokenAudience;
use gcloud_sdk::error::{Error, ErrorKind};
use gcloud_sdk::id_token_verify::{
    IdTokenKeys, IdTokenKeysSource, IdTokenVerifier, VerifyIdTokenLayer,
};

/// As the issuer announces.
const MAX_AGE: Duration = Duration::from_secs(3600);

struct Keys {
    http: reqwest::Client,
    url: String,
}

#[async_trait]
impl IdTokenKeysSource for Keys {
    async fn fetch_keys(&self) -> Result<IdTokenKeys, Error> {
        let failed = |error| Error::from(ErrorKind::Http(error));
        let response = self.http.get(&self.url).send().await;
        let response = response.and_then(reqwest::Response::error_for_status);
        let keys = response.map_err(failed)?.json().await;
        Ok(IdTokenKeys::new(keys.map_err(failed)?, MAX_AGE))
    }
}

#[tokio::main]
async fn main() -> AnyResult {
    let settings = Settings::from_arguments()?;
    let keys = Keys {
        http: reqwest::Client::builder().no_proxy().build()?,
        url: jwks_uri(&settings.issuer),
    };
    let verifier = IdTokenVerifier::with_keys_source(IdTokenAudience::new(AUDIENCE), keys);
    let guard = VerifyIdTokenLayer::new(Arc::new(verifier));
    settings.serve(|routes| routes.route_layer(guard)).await
}
