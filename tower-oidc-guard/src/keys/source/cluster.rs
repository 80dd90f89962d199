//! The keys of the cluster that this runs in, from its API server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::web::fetch_keys;
use super::{Loaded, OwnToken, Trust};
use crate::issuer::is_api_audience;
use crate::keys::client::cluster_client;
use crate::keys::discovery;
use crate::keys::error::KeysError;
use crate::keys::fetch::{Document, Fetcher, Freshness, Limits, Publisher};

const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/openid/v1/jwks";

/// The API server, and what it takes to ask it.
#[derive(Debug, Clone)]
pub(crate) struct ClusterApi {
    /// Its in-cluster address: `https`, host and port.
    pub(crate) address: Url,
    /// The pod's token for it.
    pub(crate) token_file: PathBuf,
    /// The CA that signed its certificate.
    pub(crate) ca_file: PathBuf,
}

/// Asks the API server, and nobody else: the address that its discovery document names for the keys is a
/// node's, and is left alone.
pub(crate) struct ClusterKeys {
    pub(crate) api: ClusterApi,
    pub(crate) limits: Limits,
    /// The audiences that the guard accepts tokens for and that must not be the API server's own.
    pub(crate) audiences: Vec<String>,
    /// The client, and the CA's certificate that it was made with.
    client: Mutex<Option<(Vec<u8>, ClientWithMiddleware)>>,
}

impl ClusterKeys {
    pub(crate) fn new(api: ClusterApi, limits: Limits, audiences: Vec<String>) -> Self {
        Self {
            api,
            limits,
            audiences,
            client: Mutex::default(),
        }
    }

    pub(super) async fn load(
        &self,
        trust: &Trust,
        freshness: Freshness,
    ) -> Result<Loaded, KeysError> {
        // Both are read afresh: the kubelet replaces them.
        let token = read(&self.api.token_file).await?;
        let client = self.client(read(&self.api.ca_file).await?)?;
        let unusable = |reason: &str| file_error(&self.api.token_file, reason);
        let own = OwnToken::read(&token).ok_or_else(|| unusable("it holds no token"))?;
        let value = [b"Bearer ", token.trim_ascii()].concat();
        let mut authorization =
            HeaderValue::try_from(value).map_err(|_| unusable("it holds no token"))?;
        authorization.set_sensitive(true);
        let publisher = Publisher::OwnApiServer { authorization };
        let fetcher = Fetcher::new(client, false, self.limits, publisher);

        let document = self.url(DISCOVERY_PATH);
        let accept = |body: &[u8]| discovery::read(body, &document);
        let fetched = fetcher.fetch(&document, Document::Discovery, freshness, accept);
        let discovered = fetched.await?.content;
        // The API server signs with the name in its document, and accepts tokens with earlier names as well: that of this
        // pod's own token is one of them.
        let mut names = vec![discovered.issuer];
        names.extend(own.issuer.filter(|own| *own != names[0]));
        let issuers = || names.iter().map(String::as_str);
        let is_of_api = |audience: &&String| {
            own.audiences.contains(audience) || is_api_audience(audience, issuers())
        };
        if let Some(audience) = self.audiences.iter().find(is_of_api) {
            let audience = audience.clone();
            return Err(KeysError::ApiAudience { audience });
        }
        let (keys, listed) = (self.url(KEYS_PATH), discovered.algorithms);
        let loaded = fetch_keys(&fetcher, &keys, listed, trust, freshness).await?;
        Ok(Loaded {
            names: names.into_iter().map(Arc::from).collect(),
            ..loaded
        })
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.api.address.clone();
        url.set_path(path);
        url
    }

    /// The client that trusts that CA and no other.
    fn client(&self, ca: Vec<u8>) -> Result<ClientWithMiddleware, KeysError> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = kept.as_ref()
            && *of == ca
        {
            return Ok(client.clone());
        }
        let client = cluster_client(&ca)
            .ok_or_else(|| file_error(&self.api.ca_file, "it holds no certificate in PEM"))?;
        *kept = Some((ca, client.clone()));
        Ok(client)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    let owned = path.to_owned();
    let content = tokio::task::spawn_blocking(move || std::fs::read(owned)).await;
    match content {
        Ok(Ok(content)) => Ok(content),
        Ok(Err(error)) => Err(file_error(path, &error.to_string())),
        Err(_) => Err(KeysError::CutOff),
    }
}

fn file_error(path: &Path, reason: &str) -> KeysError {
    KeysError::File {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
