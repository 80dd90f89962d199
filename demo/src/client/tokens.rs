//! Whose tokens a client sends, and where they come from.

use std::path::PathBuf;

use reqwest_wi_auth::{BearerAuth, MetadataServer, ProjectedToken, TokenClientBuilder};

use super::Client;
use super::settings::Identity;
use crate::{Error, SERVERLESS};

/// Where tokens come from.
pub(crate) struct Tokens {
    /// The file of the cluster's.
    pub(crate) projected: Option<PathBuf>,
    /// The metadata server of Google's, where it is not the platform's.
    pub(crate) metadata_host: Option<String>,
    /// What Google's is for.
    pub(crate) google_audience: String,
}

impl Tokens {
    /// Returns a client of a service that sends that identity's tokens, and the projected token if it sends that. Waits
    /// for the first of each.
    pub(crate) async fn client(
        &self,
        url: &str,
        http: reqwest::ClientBuilder,
        identity: Identity,
    ) -> Result<(Client, Option<ProjectedToken>), Error> {
        let mut http = TokenClientBuilder::new(http);
        let mut projected = None;
        if identity == Identity::Both {
            http = http.header(SERVERLESS, self.google(url).await?);
        }
        match identity {
            Identity::None => {}
            Identity::Google => http = http.authorization(self.google(url).await?),
            Identity::Cluster | Identity::Both => {
                let path = self.projected.as_ref().ok_or(Error::NoTokenPath)?;
                let token = ProjectedToken::open(path).await?;
                http = http.authorization(BearerAuth::for_origin(url, token.clone())?);
                projected = Some(token);
            }
        }
        Ok((Client::new(url, http.build()?), projected))
    }

    async fn google(&self, url: &str) -> Result<BearerAuth, Error> {
        let server = match &self.metadata_host {
            Some(host) => MetadataServer::with_host(host)?,
            None => MetadataServer::new()?,
        };
        let token = server.open(&self.google_audience).await?;
        Ok(BearerAuth::for_origin(url, token)?)
    }
}
