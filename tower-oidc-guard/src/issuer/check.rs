//! Checks an issuer's settings, as far as that is possible without fetching anything.

use std::path::Path;
use std::time::Duration;

use openidconnect::{IssuerUrl, JsonWebKeySetUrl};
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::{Issuer, is_api_audience};
use crate::error::BuildError;
use crate::identity::Platform;
use crate::keys::discovery::DISCOVERY_PATH;
use crate::keys::fetch::{DocumentServer, Fetcher};
use crate::keys::location::KeyLocation;
use crate::keys::sources::{
    ApiServer, ApiServerKeys, KeyFile, KeyRules, KeySource, PodToken, RemoteKeys,
};
use crate::text::{self, Escaped, audience_fault, is_invisible};

const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// An issuer whose settings can work.
pub(crate) struct Checked {
    /// The `iss` of its tokens; `None` if only the cluster's API server can say it.
    pub(crate) name: Option<String>,
    pub(crate) keys: KeySource,
}

impl Issuer {
    /// Checks the settings, and returns where the keys come from.
    pub(crate) fn check(&self, client: ClientWithMiddleware) -> Result<Checked, BuildError> {
        if let Some(conflict) = &self.conflict {
            return Err(self.wrong(conflict));
        }
        self.check_audiences()?;
        if self.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.wrong("no algorithm is allowed"));
        }
        if self.leeway > MAX_LEEWAY {
            return Err(self.wrong("the leeway is over 300 s"));
        }
        let limits = [
            (self.max_keys == 0, "max_keys"),
            (self.limits.bytes == 0, "max_document_bytes"),
            (self.limits.time.is_zero(), "fetch_timeout"),
        ];
        if let Some((_, setting)) = limits.iter().find(|(is_zero, _)| *is_zero) {
            return Err(self.wrong(format!("`{setting}` is zero, so it would never get a key")));
        }
        let algorithms = self.algorithms.iter().flatten().copied();
        let rules = KeyRules {
            algorithms: self.algorithms.is_some().then(|| algorithms.collect()),
            max_keys: self.max_keys,
        };
        let name = match &self.key_location {
            KeyLocation::ApiServer(api) => self.name_in_cluster(api)?,
            _ => Some(self.name()?),
        };
        for name in &self.also_known_as {
            self.check_name(name)?;
        }
        self.check_api_audience(name.as_deref(), &[])?;
        Ok(Checked {
            name,
            keys: self.key_source(client, rules)?,
        })
    }

    fn check_audiences(&self) -> Result<(), BuildError> {
        if self.audiences.is_empty() {
            return Err(BuildError::NoAudience {
                issuer: self.url.clone(),
            });
        }
        for (index, audience) in self.audiences.iter().enumerate() {
            if let Some(reason) = audience_fault(audience) {
                let audience = Escaped(audience);
                return Err(self.wrong(format!("the audience {audience} cannot be used: {reason}")));
            }
            if self
                .audiences
                .iter()
                .take(index)
                .any(|earlier| earlier == audience)
            {
                let audience = Escaped(audience);
                return Err(self.wrong(format!("the audience {audience} is named twice")));
            }
        }
        Ok(())
    }

    /// Refuses an audience of the API server's own; `api_audiences` are the ones that are known beside the usual.
    fn check_api_audience(
        &self,
        name: Option<&str>,
        api_audiences: &[String],
    ) -> Result<(), BuildError> {
        if self.platform != Platform::Kubernetes || self.accepts_api_audience {
            return Ok(());
        }
        let issuers = || {
            name.into_iter()
                .chain(self.aliases.iter().map(String::as_str))
                .chain(self.also_known_as.iter().map(String::as_str))
        };
        let is_of_api = |audience: &&String| {
            api_audiences.contains(audience) || is_api_audience(audience, issuers())
        };
        match self.audiences.iter().find(is_of_api) {
            None => Ok(()),
            Some(audience) => Err(BuildError::ApiServerAudience {
                audience: audience.clone(),
            }),
        }
    }

    /// The name that was given, if an issuer can have it.
    fn name(&self) -> Result<String, BuildError> {
        let name = &self.url;
        self.check_name(name)?;
        if matches!(self.key_location, KeyLocation::Discovery { url: None }) {
            let issuer = self.fetchable(name)?;
            if issuer.query().is_some() {
                return Err(self.wrong("a query or a fragment has no place in it"));
            }
        }
        Ok(name.clone())
    }

    /// Checks whether a name can be the `iss` of tokens.
    fn check_name(&self, name: &str) -> Result<(), BuildError> {
        if let Some(reason) = text::claim_value_fault(name) {
            return Err(self.wrong(format!("its name cannot be the `iss` of a token: {reason}")));
        }
        // StringOrURI (RFC 7519, section 2): with a colon it is a URI.
        if name.contains(':') {
            self.check_uri(name)?;
        }
        // Policies separate the issuer from the subject with it.
        if name.contains('#') {
            return Err(self.wrong("a fragment has no place in it"));
        }
        Ok(())
    }

    fn check_uri(&self, name: &str) -> Result<(), BuildError> {
        // RFC 3986, section 2. A parser for browsers would take, and silently change, others too.
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
        let url = match Url::parse(name) {
            Ok(url) if name.bytes().all(is_allowed) => url,
            _ => return Err(self.wrong("it is not a URL; without a colon it may be any text")),
        };
        if matches!(url.scheme(), "http" | "https") && !name.contains("://") {
            return Err(self.wrong("it is not a URL: `//` is missing after the scheme"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.wrong("a user has no place in it"));
        }
        let is_well_known = |part: &str| part.eq_ignore_ascii_case(".well-known");
        if let Some(start) = name.split('/').position(is_well_known) {
            let issuer: Vec<_> = name.split('/').take(start).collect();
            return Err(self.wrong(format!(
                "it is the URL of a document; the issuer is the `issuer` in that document, usually {}",
                Escaped(&issuer.join("/"))
            )));
        }
        Ok(())
    }

    fn key_source(
        &self,
        client: ClientWithMiddleware,
        rules: KeyRules,
    ) -> Result<KeySource, BuildError> {
        let server = match self.platform {
            Platform::Kubernetes => DocumentServer::Kubernetes,
            _ => DocumentServer::Public,
        };
        let fetcher = || Fetcher::new(client, self.allowed_urls, self.limits, server);
        Ok(match &self.key_location {
            KeyLocation::Discovery { url } => {
                let default = || format!("{}{DISCOVERY_PATH}", self.url.trim_end_matches('/'));
                let document = url.clone().unwrap_or_else(default);
                KeySource::Remote(RemoteKeys::from_discovery(
                    self.fetchable(&document)?,
                    self.url.clone(),
                    self.also_known_as.clone(),
                    fetcher(),
                    rules,
                ))
            }
            KeyLocation::JwksUrl(url) => {
                let url = JsonWebKeySetUrl::from_url(self.fetchable(url)?);
                KeySource::Remote(RemoteKeys::from_jwks_url(url, fetcher(), rules))
            }
            KeyLocation::File(path) if path.as_os_str().is_empty() => {
                return Err(self.wrong("the path of its `keys_file` is empty"));
            }
            KeyLocation::File(path) => KeySource::File(KeyFile::new(path.clone(), rules)),
            KeyLocation::Inline(keys) => {
                keys.check_format().map_err(|reason| self.wrong(reason))?;
                rules
                    .parse_inline(keys)
                    .map_err(|error| self.wrong(error.to_string()))?;
                KeySource::Inline(keys.clone(), rules)
            }
            KeyLocation::ApiServer(api) => {
                // The audiences that are refused if the API server turns out to accept them as well.
                let audiences = if self.accepts_api_audience {
                    Vec::new()
                } else {
                    self.audiences.clone()
                };
                KeySource::ApiServer(ApiServerKeys::new(
                    api.clone(),
                    self.limits,
                    rules,
                    audiences,
                ))
            }
        })
    }

    /// The pod's own token says who the issuer is, and which audiences are the API server's.
    fn name_in_cluster(&self, api: &ApiServer) -> Result<Option<String>, BuildError> {
        let token = self.mounted(&api.token_file)?;
        self.mounted(&api.ca_file)?;
        let own = PodToken::parse(&token)
            .ok_or_else(|| self.wrong(format!("{} holds no token", api.token_file.display())))?;
        self.check_api_audience(own.issuer.as_deref(), &own.audiences)?;
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
        let in_cluster = matches!(self.key_location, KeyLocation::ApiServer(_));
        BuildError::Issuer {
            issuer: match in_cluster {
                true => "this cluster's API server".to_owned(),
                false => self.url.clone(),
            },
            reason: reason.into(),
        }
    }

    /// Parses a URL that something is fetched from.
    fn fetchable(&self, url: &str) -> Result<Url, BuildError> {
        if url.contains(is_invisible) {
            let url = Escaped(url);
            return Err(self.wrong(format!(
                "the URL {url} contains white space or an invisible character"
            )));
        }
        let parsed = IssuerUrl::new(url.to_owned()).map_err(|_| {
            self.wrong(format!(
                "{} is not a URL, and something has to be fetched from it; an issuer that is not a URL needs `keys_json`, `keys_pem`, `keys_file`, `jwks_url` or `discovery_url`",
                Escaped(url)
            ))
        })?;
        let parsed = parsed.url().clone();
        if !self.allowed_urls.contains(&parsed) {
            return Err(self.wrong(
                "it is not an https URL (http is for loopback, by `insecure_loopback_http`)",
            ));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(self.wrong("a user has no place in it"));
        }
        Ok(parsed)
    }
}
