//! Whose tokens a client sends, and where it has them from.

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
    /// A client of a service that sends that identity's tokens. Waits for the first of each.
    pub(crate) async fn client(
        &self,
        url: &str,
        http: reqwest::ClientBuilder,
        identity: Identity,
    ) -> Result<Client, Error> {
        let http = TokenClientBuilder::new(http);
        let http = match identity {
            Identity::None => http,
            Identity::Cluster => http.authorization(self.cluster(url).await?),
            Identity::Google => http.authorization(self.google(url).await?),
            Identity::Both => http
                .header(SERVERLESS, self.google(url).await?)
                .authorization(self.cluster(url).await?),
        };
        Ok(Client::new(url, http.build()?))
    }

    async fn cluster(&self, url: &str) -> Result<BearerAuth, Error> {
        let path = self.projected.as_ref().ok_or(Error::NoTokenPath)?;
        let token = ProjectedToken::open(path).await?;
        Ok(BearerAuth::for_origin(url, token)?)
    }

    async fn google(&self, url: &str) -> Result<BearerAuth, Error> {
        let server = match &self.metadata_host {
            Some(host) => MetadataServer::at(host)?,
            None => MetadataServer::new()?,
        };
        let token = server.open(&self.google_audience).await?;
        Ok(BearerAuth::for_origin(url, token)?)
    }
}
