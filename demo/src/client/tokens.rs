//! Creates clients that send the tokens of a chosen identity.

use std::path::{Path, PathBuf};

use http::HeaderName;
use http::header::AUTHORIZATION;
use reqwest_wi_auth::{
    Ambient, AmbientToken, BearerAuth, FetchedToken, GoogleFederation, GoogleFederationBuilder,
    MetadataServer, ProjectedToken, Token, TokenClientBuilder, TokenSource,
};

use super::Client;
use super::claims::UnverifiedClaims;
use super::rejection::SentToken;
use super::settings::{ClientIdentity, ClientSettings, GoogleSource, Service};
use crate::{Error, X_SERVERLESS_AUTHORIZATION};

/// The configuration of the token sources of one service.
pub(crate) struct TokenSettings {
    /// The file of the projected token. Required for identities that send the cluster's token.
    pub(crate) projected_path: Option<PathBuf>,
    /// Where Google's token is from.
    pub(crate) google: GoogleSource,
    /// Chooses among the sources that the environment has.
    pub(crate) ambient: Ambient,
    /// The audience of tokens that are requested for the service: Google's, and that of the environment.
    pub(crate) audience: String,
}

/// The token sources of a client.
#[derive(Debug, Default)]
pub(crate) struct TokenSources {
    /// The projected token, in `Authorization`.
    pub(crate) projected: Option<ProjectedToken>,
    /// Google's token, and the header in which it is sent.
    pub(crate) google: Option<(HeaderName, FetchedToken)>,
    /// The token of the environment, in `Authorization`.
    ambient: Option<AmbientToken>,
}

impl TokenSources {
    /// Returns the claims of the tokens that are sent now.
    pub(crate) fn current(&self) -> Vec<SentToken> {
        let claims = |token: Result<Token, reqwest_wi_auth::Error>| {
            token.ok().as_ref().and_then(UnverifiedClaims::parse)
        };
        let projected = self.projected.as_ref();
        let projected = projected.and_then(|token| Some((AUTHORIZATION, claims(token.current())?)));
        let google = self.google.as_ref();
        let google =
            google.and_then(|(header, token)| Some((header.clone(), claims(token.current())?)));
        let ambient = self.ambient.as_ref();
        let ambient = ambient.and_then(|token| Some((AUTHORIZATION, claims(token.current())?)));
        projected.into_iter().chain(google).chain(ambient).collect()
    }
}

impl TokenSettings {
    /// Returns the configuration for one of the services: the one at this index of the list.
    pub(crate) fn of_service(settings: &ClientSettings, index: usize, service: &Service) -> Self {
        let paths = &settings.token_path;
        Self {
            projected_path: paths.get(index).or(paths.last()).cloned(),
            google: settings.google_source(),
            ambient: settings.ambient(),
            audience: service.audience.clone(),
        }
    }

    /// Creates a client of the service at `url` that sends the identity's tokens. Also returns the sources of these tokens.
    ///
    /// Waits until the first token of each source is available.
    pub(crate) async fn client(
        &self,
        url: &str,
        http: reqwest::ClientBuilder,
        identity: ClientIdentity,
    ) -> Result<(Client, TokenSources), Error> {
        let mut http = TokenClientBuilder::new(http);
        let mut sources = TokenSources::default();
        let google_header = match identity {
            ClientIdentity::Google => Some(AUTHORIZATION),
            ClientIdentity::Both => Some(X_SERVERLESS_AUTHORIZATION),
            ClientIdentity::None | ClientIdentity::Cluster | ClientIdentity::Ambient => None,
        };
        if let Some(header) = google_header {
            let token = self.google_token().await?;
            http = http.header(header.clone(), origin(url, token.clone())?);
            sources.google = Some((header, token));
        }
        if matches!(identity, ClientIdentity::Cluster | ClientIdentity::Both) {
            let path = self.projected_path.as_ref().ok_or(Error::NoTokenPath)?;
            let token = ProjectedToken::open(path).await.map_err(Error::TokenFile)?;
            http = http.authorization(origin(url, token.clone())?);
            sources.projected = Some(token);
        }
        if identity == ClientIdentity::Ambient {
            let token = self.ambient_token().await?;
            http = http.authorization(origin(url, token.clone())?);
            sources.ambient = Some(token);
        }
        Ok((Client::new(url, http.build()?), sources))
    }

    /// Opens the token of the source that the environment has, and waits for it.
    pub(crate) async fn ambient_token(&self) -> Result<AmbientToken, Error> {
        let token = self.ambient.open(&self.audience).await;
        token.map_err(Error::AmbientToken)
    }

    /// Opens Google's token, and waits for it.
    pub(crate) async fn google_token(&self) -> Result<FetchedToken, Error> {
        match &self.google {
            GoogleSource::MetadataServer(host) => {
                let server = match host {
                    Some(host) => MetadataServer::with_host(host),
                    None => MetadataServer::new(),
                };
                let server = server.map_err(Error::MetadataToken)?;
                let token = server.open(&self.audience).await;
                token.map_err(Error::MetadataToken)
            }
            GoogleSource::Federation {
                credentials,
                allowed_origins,
            } => {
                let federation = federation(credentials, allowed_origins);
                let federation = federation.map_err(Error::FederatedToken)?;
                let token = federation.open(&self.audience).await;
                token.map_err(Error::FederatedToken)
            }
        }
    }
}

/// Reads a credential configuration, whose URLs must be Google's or of one of these origins.
fn federation(
    credentials: &Path,
    allowed_origins: &[String],
) -> Result<GoogleFederation, reqwest_wi_auth::Error> {
    let mut builder = GoogleFederationBuilder::from_file(credentials)?;
    for origin in allowed_origins {
        builder = builder.allow_origin(origin);
    }
    builder.build()
}

/// Returns the authentication that sends the source's tokens to the origin of the URL.
fn origin(url: &str, source: impl TokenSource) -> Result<BearerAuth, Error> {
    BearerAuth::for_origin(url, source).map_err(Error::Origin)
}
