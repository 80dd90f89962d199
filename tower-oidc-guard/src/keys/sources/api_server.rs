//! The keys of the Kubernetes cluster that this process runs in, fetched from its API server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use reqwest_middleware::ClientWithMiddleware;
use serde::Deserialize;
use tokio::runtime::{Handle, Id};
use url::Url;

use super::remote::fetch_key_set;
use super::{KeyRules, LoadedKeys};
use crate::issuer::is_api_server_audience;
use crate::keys::discovery::{DISCOVERY_PATH, DiscoveryDocument};
use crate::keys::error::KeysError;
use crate::keys::fetch::{CachePolicy, DocumentKind, DocumentServer, FetchLimits, Fetcher};
use crate::keys::http_client::{AllowedUrls, api_server_client};
use reqwest_wi_auth::json_object::Object;

/// The path of the key set at a Kubernetes API server.
pub(crate) const JWKS_PATH: &str = "/openid/v1/jwks";

/// The issuer of tokens that Kubernetes created before it supported OIDC. It has no discovery document.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The address of an API server, and the files needed to authenticate it and to be authenticated by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiServer {
    /// The in-cluster address: `https`, host and port.
    pub(crate) address: Url,
    /// The pod's token for the API server.
    pub(crate) token_file: PathBuf,
    /// The CA that signed the API server's certificate.
    pub(crate) ca_file: PathBuf,
}

/// Keys that are fetched from the API server.
///
/// The `jwks_uri` in its discovery document is not used: it is usually the address of a node.
pub(crate) struct ApiServerKeys {
    api: ApiServer,
    limits: FetchLimits,
    rules: KeyRules,
    /// Audiences that the guard accepts and that must not be audiences of the API server.
    audiences: Mutex<Vec<String>>,
    connector: ApiServerConnector,
}

/// Reads the files that authenticate an API server and this process to it, and creates HTTP clients for it.
pub(crate) struct ApiServerConnector {
    api: ApiServer,
    /// The latest clients.
    clients: Mutex<Vec<ConnectorClient>>,
}

/// A client with the CA certificate that it was created with. The connections of a client run on the runtime that they were
/// opened on, so each runtime has a separate client.
struct ConnectorClient {
    ca: Vec<u8>,
    runtime: Option<Id>,
    client: ClientWithMiddleware,
}

/// The most clients that are kept.
const MAX_CLIENTS: usize = 4;

/// An HTTP client for an API server, with the authorization of its requests.
pub(crate) struct Connection {
    pub(crate) client: ClientWithMiddleware,
    /// The `Authorization` header of the request.
    pub(crate) authorization: HeaderValue,
    /// The `sub` of the token, if it has one: this process's service account.
    pub(crate) account: Option<String>,
    /// The claims of the token that concern its issuer.
    pub(super) own_token: PodToken,
}

impl ApiServerKeys {
    pub(crate) fn new(
        api: ApiServer,
        limits: FetchLimits,
        rules: KeyRules,
        audiences: Vec<String>,
    ) -> Self {
        let connector = ApiServerConnector::new(api.clone());
        Self {
            api,
            limits,
            rules,
            audiences: Mutex::new(audiences),
            connector,
        }
    }

    #[cfg(feature = "policy-file")]
    pub(super) fn set_audiences(&self, audiences: &[String]) {
        let mut own = self
            .audiences
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *own != audiences {
            *own = audiences.to_vec();
        }
    }

    pub(super) fn limits(&self) -> FetchLimits {
        self.limits
    }

    pub(super) fn provides_algorithms(&self) -> bool {
        self.rules.algorithms.is_none()
    }

    pub(super) async fn load(&self, cache_policy: CachePolicy) -> Result<LoadedKeys, KeysError> {
        let connection = self.connector.connect().await?;
        let (client, pod_token) = (connection.client, connection.own_token);
        let server = DocumentServer::OwnApiServer {
            authorization: connection.authorization,
        };
        let fetcher = Fetcher::new(client, AllowedUrls::HttpsOnly, self.limits, server);

        let url = self.url(DISCOVERY_PATH);
        let parse = |body: &[u8]| DiscoveryDocument::parse(body, &url);
        let fetched = fetcher
            .fetch(&url, DocumentKind::Discovery, cache_policy, parse)
            .await?;
        let document = fetched.content;
        // The API server signs with the issuer in its document, and accepts tokens of earlier issuers as well, such as this
        // pod's token.
        let mut issuers = vec![document.issuer];
        let earlier = pod_token.issuer.filter(|issuer| *issuer != issuers[0]);
        issuers.extend(earlier);
        let is_api_server_audience = |audience: &&String| {
            pod_token.audiences.contains(audience)
                || is_api_server_audience(audience, issuers.iter().map(String::as_str))
        };
        let fault = {
            let audiences = self
                .audiences
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            audiences.iter().find(is_api_server_audience).cloned()
        };
        if let Some(audience) = fault {
            return Err(KeysError::ApiServerAudience { audience });
        }
        let url = self.url(JWKS_PATH);
        let listed = document.algorithms;
        let loaded = fetch_key_set(&fetcher, &url, listed, &self.rules, cache_policy).await?;
        Ok(LoadedKeys {
            issuers: issuers.into_iter().map(Arc::from).collect(),
            ..loaded
        })
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.api.address.clone();
        url.set_path(path);
        url
    }
}

impl ApiServerConnector {
    pub(crate) fn new(api: ApiServer) -> Self {
        Self {
            api,
            clients: Mutex::default(),
        }
    }

    /// Reads the token and the CA, and returns what a request needs. Both files are read each time, because the kubelet replaces
    /// them.
    ///
    /// # Errors
    ///
    /// [`KeysError::File`] if a file cannot be used, and [`KeysError::Interrupted`] if the runtime is shut down.
    pub(crate) async fn connect(&self) -> Result<Connection, KeysError> {
        let token = read(&self.api.token_file).await?;
        let client = self.client(read(&self.api.ca_file).await?)?;
        let invalid_token = || {
            let path = &self.api.token_file;
            file_error(path, "does not contain a service account token (a JWT)")
        };
        let own_token = PodToken::parse(&token).ok_or_else(invalid_token)?;
        let value = [b"Bearer ", token.trim_ascii()].concat();
        let mut authorization = HeaderValue::try_from(value).map_err(|_| invalid_token())?;
        authorization.set_sensitive(true);
        Ok(Connection {
            client,
            authorization,
            account: own_token.account.clone(),
            own_token,
        })
    }

    /// Returns a client that trusts this CA only. It is created again when the CA changes.
    fn client(&self, ca: Vec<u8>) -> Result<ClientWithMiddleware, KeysError> {
        let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = |cached: &&ConnectorClient| cached.ca == ca && cached.runtime == runtime;
        if let Some(cached) = clients.iter().find(is_current) {
            return Ok(cached.client.clone());
        }
        let client =
            api_server_client(&ca).map_err(|fault| file_error(&self.api.ca_file, &fault))?;
        // No connection of a client for another CA is used any more.
        clients.retain(|cached| cached.ca == ca);
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push(ConnectorClient {
            ca,
            runtime,
            client: client.clone(),
        });
        Ok(client)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    let owned = path.to_owned();
    let content = tokio::task::spawn_blocking(move || std::fs::read(owned)).await;
    match content {
        Ok(Ok(content)) => Ok(content),
        Ok(Err(error)) => Err(file_error(path, &format!("cannot be read: {error}"))),
        Err(_) => Err(KeysError::Interrupted),
    }
}

/// Creates an error whose text is the path followed by `fault`.
fn file_error(path: &Path, fault: &str) -> KeysError {
    KeysError::File {
        path: path.to_owned(),
        reason: format!("{} {fault}", path.display()),
    }
}

/// The claims of the pod's token that concern the issuer.
///
/// The token is not verified: it is mounted by the same kubelet that mounts the CA certificate.
pub(crate) struct PodToken {
    /// The cluster's issuer, or `None` if the token is of the legacy kind.
    pub(crate) issuer: Option<String>,
    /// The API server's audiences.
    pub(crate) audiences: Vec<String>,
    /// The service account (`sub`).
    account: Option<String>,
}

#[derive(Deserialize)]
struct PodTokenClaims {
    iss: String,
    #[serde(default)]
    aud: Audiences,
    sub: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl PodToken {
    /// Parses a token. Returns `None` if it is not a JWT with an `iss`.
    pub(crate) fn parse(token: &[u8]) -> Option<Self> {
        let payload = token.trim_ascii().split(|&byte| byte == b'.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let Object(claims): Object<PodTokenClaims> = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            issuer: Some(claims.iss).filter(|issuer| issuer != LEGACY_ISSUER),
            account: claims.sub,
            audiences: match claims.aud {
                Audiences::One(audience) => vec![audience],
                Audiences::Many(audiences) => audiences,
            },
        })
    }
}
