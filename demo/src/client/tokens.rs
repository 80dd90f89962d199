//! Creates clients that send the tokens of a chosen identity.

use std::path::PathBuf;

use reqwest_wi_auth::{BearerAuth, MetadataServer, ProjectedToken, TokenClientBuilder};

use super::Client;
use super::settings::ClientIdentity;
use crate::{Error, X_SERVERLESS_AUTHORIZATION};

/// The configuration of the token sources of one service.
pub(crate) struct TokenSettings {
    /// The file of the projected token. Required for identities that send the cluster's token.
    pub(crate) projected_path: Option<PathBuf>,
    /// The host of the metadata server, if it is not the platform's.
    pub(crate) metadata_host: Option<String>,
    /// The audience of Google's token.
    pub(crate) google_audience: String,
}

impl TokenSettings {
    /// Creates a client of the service at `url` that sends the identity's tokens. Also returns the projected token, if it
    /// is among them.
    ///
    /// Waits until the first token of each source is available.
    pub(crate) async fn client(
        &self,
        url: &str,
        http: reqwest::ClientBuilder,
        identity: ClientIdentity,
    ) -> Result<(Client, Option<ProjectedToken>), Error> {
        let mut http = TokenClientBuilder::new(http);
        let mut projected = None;
        if identity == ClientIdentity::Both {
            http = http.header(X_SERVERLESS_AUTHORIZATION, self.google_auth(url).await?);
        }
        match identity {
            ClientIdentity::None => {}
            ClientIdentity::Google => http = http.authorization(self.google_auth(url).await?),
            ClientIdentity::Cluster | ClientIdentity::Both => {
                let path = self.projected_path.as_ref().ok_or(Error::NoTokenPath)?;
                let token = ProjectedToken::open(path).await?;
                http = http.authorization(BearerAuth::for_origin(url, token.clone())?);
                projected = Some(token);
            }
        }
        Ok((Client::new(url, http.build()?), projected))
    }

    async fn google_auth(&self, url: &str) -> Result<BearerAuth, Error> {
        let server = match &self.metadata_host {
            Some(host) => MetadataServer::with_host(host)?,
            None => MetadataServer::new()?,
        };
        let token = server.open(&self.google_audience).await?;
        Ok(BearerAuth::for_origin(url, token)?)
    }
}
