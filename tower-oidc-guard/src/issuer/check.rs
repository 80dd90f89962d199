//! What can be said of an issuer's settings without asking anybody.

use std::path::Path;
use std::time::Duration;

use openidconnect::IssuerUrl;
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::{Issuer, KeysAt};
use crate::error::BuildError;
use crate::identity::Platform;
use crate::keys::client::may_be_asked;
use crate::keys::fetch::{Fetcher, Publisher};
use crate::keys::source::{ClusterApi, ClusterKeys, KeyFile, Origin, OwnToken, Trust, WebKeys};

const MAX_LEEWAY: Duration = Duration::from_secs(300);
const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// What API servers go by in their own tokens (kubeadm's default, and that of Kubernetes' documentation).
const API_AUDIENCES: [&str; 2] = [
    "https://kubernetes.default.svc",
    "https://kubernetes.default.svc.cluster.local",
];

/// An issuer whose settings can work.
pub(crate) struct Checked {
    /// As its tokens name it; nothing where only the cluster's API server can say it.
    pub(crate) name: Option<String>,
    pub(crate) origin: Origin,
    pub(crate) trust: Trust,
}

impl Issuer {
    /// Checks what can be checked without asking, and says how to get the keys.
    pub(crate) fn check(&self, client: ClientWithMiddleware) -> Result<Checked, BuildError> {
        if self.audiences.is_empty() {
            return Err(BuildError::NoAudience {
                issuer: self.url.clone(),
            });
        }
        if self.audiences.iter().any(String::is_empty) {
            return Err(self.wrong("an audience is empty"));
        }
        if self.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.wrong("no algorithm is allowed"));
        }
        if self.leeway > MAX_LEEWAY {
            return Err(self.wrong("the leeway is over 300 s"));
        }
        let algorithms = self.algorithms.iter().flatten().copied();
        let trust = Trust {
            algorithms: self.algorithms.is_some().then(|| algorithms.collect()),
            max_keys: self.max_keys,
        };
        let name = match &self.keys_at {
            KeysAt::Cluster(api) => self.name_in_cluster(api)?,
            _ => Some(self.name()?),
        };
        Ok(Checked {
            name,
            origin: self.origin(client, &trust)?,
            trust,
        })
    }

    /// The name that was given, if it can be an issuer's.
    fn name(&self) -> Result<String, BuildError> {
        let issuer = self.askable(&self.url)?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(self.wrong("a query or a fragment has no place in it"));
        }
        Ok(self.url.clone())
    }

    fn origin(&self, client: ClientWithMiddleware, trust: &Trust) -> Result<Origin, BuildError> {
        let publisher = match self.platform {
            Platform::Kubernetes => Publisher::Kubernetes,
            _ => Publisher::Public,
        };
        let fetcher = || Fetcher::new(client, self.loopback_http, self.limits, publisher);
        Ok(match &self.keys_at {
            KeysAt::Discovery { elsewhere } => {
                let below = || format!("{}{WELL_KNOWN}", self.url.trim_end_matches('/'));
                let document = elsewhere.clone().unwrap_or_else(below);
                Origin::Web(WebKeys::discovered(self.askable(&document)?, fetcher()))
            }
            KeysAt::Jwks { url } => Origin::Web(WebKeys::at(self.askable(url)?, fetcher())),
            KeysAt::File { path } => Origin::File(KeyFile::new(path.clone())),
            KeysAt::Given { text } => {
                let read = trust.read("the given keys", text);
                read.map_err(|error| self.wrong(error.to_string()))?;
                Origin::Given(text.clone())
            }
            KeysAt::Cluster(api) => {
                let audiences = self.audiences.clone();
                Origin::Cluster(ClusterKeys::new(api.clone(), self.limits, audiences))
            }
        })
    }

    /// The pod's own token says who the issuer is, and which audiences are the API server's.
    fn name_in_cluster(&self, api: &ClusterApi) -> Result<Option<String>, BuildError> {
        let token = self.mounted(&api.token_file)?;
        self.mounted(&api.ca_file)?;
        let own = OwnToken::read(&token)
            .ok_or_else(|| self.wrong(format!("{} holds no token", api.token_file.display())))?;
        let is_of_api = |audience: &&String| {
            own.audiences.contains(audience)
                || own.issuer.as_ref() == Some(audience)
                || API_AUDIENCES.contains(&audience.as_str())
        };
        if let Some(audience) = self.audiences.iter().find(is_of_api) {
            return Err(BuildError::ApiAudience {
                audience: audience.clone(),
            });
        }
        Ok(own.issuer)
    }

    fn mounted(&self, path: &Path) -> Result<Vec<u8>, BuildError> {
        let hint = "is a service account's token mounted? See `api_token_file` and `api_ca_file`";
        let failed = |error| {
            self.wrong(format!(
                "{} cannot be read: {error}; {hint}",
                path.display()
            ))
        };
        std::fs::read(path).map_err(failed)
    }

    fn wrong(&self, reason: impl Into<String>) -> BuildError {
        let in_cluster = matches!(self.keys_at, KeysAt::Cluster(_));
        BuildError::Issuer {
            issuer: match in_cluster {
                true => "this cluster's API server".to_owned(),
                false => self.url.clone(),
            },
            reason: reason.into(),
        }
    }

    /// A URL that may be asked.
    fn askable(&self, url: &str) -> Result<Url, BuildError> {
        let url = IssuerUrl::new(url.to_owned()).map_err(|_| self.wrong("it is not a URL"))?;
        let url = url.url().clone();
        if !may_be_asked(&url, self.loopback_http) {
            return Err(self.wrong(
                "it is not an https URL (http is for loopback, by `insecure_loopback_http`)",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.wrong("a user has no place in it"));
        }
        Ok(url)
    }
}
