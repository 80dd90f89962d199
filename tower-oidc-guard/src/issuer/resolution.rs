//! Checks an issuer's settings when a guard is built, and resolves them into rules and a source of keys.
//!
//! Everything that can be checked without a network is checked here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openidconnect::{IssuerUrl, JsonWebKeySetUrl};
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::{Issuer, is_api_server_audience};
use crate::build_error::BuildError;
use crate::identity::Platform;
use crate::jose::claim_rules::ClaimRules;
use crate::jose::required_claims::{ClaimPredicates, RequiredClaims};
use crate::keys::discovery::DISCOVERY_PATH;
use crate::keys::fetch::{DocumentServer, FetchLimits, Fetcher};
use crate::keys::http_client::AllowedUrls;
use crate::keys::location::KeyLocation;
use crate::keys::schedule::FetchTiming;
use crate::keys::sources::{
    ApiServer, ApiServerKeys, KeyFile, KeyRules, KeySource, PodToken, RemoteKeys,
};
use crate::text::{self, Escaped, audience_fault, is_invisible};
use crate::token_review::ReviewSettings;

const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// A request waits for newer keys for 5 s in all, which has to be enough for the delay and the fetch.
const MAX_UNKNOWN_KEY_JITTER: Duration = Duration::from_secs(3);
const DEFAULT_MAX_KEYS: usize = 200;
/// The label of the cluster that this process runs in, unless the pod's own token contains the issuer.
pub(crate) const IN_CLUSTER_LABEL: &str = "kubernetes (in cluster)";

/// An issuer whose settings have been checked.
pub(crate) struct ResolvedIssuer {
    /// The `iss` of its tokens. `None` if only the API server of this cluster can tell it.
    pub(crate) issuer: Option<Arc<str>>,
    /// Label for logs and metrics.
    pub(crate) label: Arc<str>,
    /// Values of `iss` that are spellings of `issuer`.
    pub(crate) spellings: Vec<String>,
    /// Further values of `iss` that are accepted.
    pub(crate) also_known_as: Vec<String>,
    pub(crate) platform: Platform,
    pub(crate) claim_rules: ClaimRules,
    pub(crate) required_claims: RequiredClaims,
    pub(crate) claim_predicates: ClaimPredicates,
    pub(crate) key_source: KeySource,
    /// Has tokens confirmed by the cluster's API server.
    pub(crate) review: Option<ReviewSettings>,
    pub(crate) timing: FetchTiming,
    /// The settings that this was resolved from.
    pub(crate) settings: Issuer,
}

impl ResolvedIssuer {
    /// Returns every value of `iss` that is known to be this issuer's.
    pub(crate) fn all_issuers(&self) -> impl Iterator<Item = &str> {
        let others = self.spellings.iter().chain(&self.also_known_as);
        self.issuer
            .as_deref()
            .into_iter()
            .chain(others.map(String::as_str))
    }
}

impl Issuer {
    /// Returns the name of this issuer for settings such as [`ReadyWhen::Issuers`](crate::ReadyWhen::Issuers): the configured
    /// `iss`, or `kubernetes (in cluster)` for [`in_cluster`](Self::in_cluster).
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// assert_eq!(Issuer::google().label(), "https://accounts.google.com");
    /// ```
    pub fn label(&self) -> &str {
        self.issuer.as_deref().unwrap_or(IN_CLUSTER_LABEL)
    }

    /// Returns the URLs that documents may be fetched from.
    pub(crate) fn allowed_urls(&self) -> AllowedUrls {
        self.allowed_urls
    }

    /// Checks the settings and resolves them. Documents are fetched with `client`, once they are needed.
    pub(crate) fn resolve(
        self,
        client: ClientWithMiddleware,
    ) -> Result<ResolvedIssuer, BuildError> {
        if let Some(fault) = &self.fault {
            return Err(self.invalid(fault));
        }
        self.check_audiences()?;
        self.check_values()?;
        self.check_effects()?;
        let issuer = match &self.key_location {
            KeyLocation::ApiServer(api) => self.issuer_in_cluster(api)?,
            _ => self.configured_issuer()?,
        };
        for other in &self.also_known_as {
            self.check_iss(other)?;
        }
        self.check_api_server_audience(issuer.as_deref(), &[])?;
        let key_source = self.key_source(client)?;
        let review = self.review_settings()?;
        let issuer: Option<Arc<str>> = issuer.map(Arc::from);
        let label = issuer
            .clone()
            .unwrap_or_else(|| Arc::from(IN_CLUSTER_LABEL));
        let defaults = FetchTiming::default();
        Ok(ResolvedIssuer {
            settings: self.clone(),
            issuer,
            label,
            spellings: self.spellings,
            also_known_as: self.also_known_as,
            platform: self.platform,
            claim_rules: ClaimRules {
                audiences: self.audiences,
                leeway: self.leeway.unwrap_or(DEFAULT_LEEWAY),
                types: self.token_types,
                max_lifetime: self.max_lifetime,
            },
            required_claims: self.required_claims,
            claim_predicates: self.claim_predicates,
            key_source,
            review,
            timing: FetchTiming {
                stale_after: self.stale_after.unwrap_or(defaults.stale_after),
                on_demand_jitter: self.unknown_key_jitter.unwrap_or(defaults.on_demand_jitter),
                ..defaults
            },
        })
    }

    /// Checks the settings of token reviews, and reads their files.
    fn review_settings(&self) -> Result<Option<ReviewSettings>, BuildError> {
        let Some(review) = &self.token_review else {
            return Ok(None);
        };
        let own = match &self.key_location {
            KeyLocation::ApiServer(api) => Some(api),
            _ => None,
        };
        let settings = review.resolve(own);
        let settings = settings.map_err(|reason| self.invalid(reason))?;
        if own.is_none() {
            let ReviewSettings { api, .. } = &settings;
            for (setting, path) in [("token_file", &api.token_file), ("ca_file", &api.ca_file)] {
                std::fs::read(path).map_err(|error| {
                    self.invalid(format!(
                        "{}, the `{setting}` of `token_review`, cannot be read: {error}",
                        path.display()
                    ))
                })?;
            }
        }
        Ok(Some(settings))
    }

    fn check_audiences(&self) -> Result<(), BuildError> {
        if self.audiences.is_empty() {
            return Err(BuildError::NoAudience {
                issuer: self.label().to_owned(),
            });
        }
        for (index, audience) in self.audiences.iter().enumerate() {
            let escaped = Escaped(audience);
            if let Some(reason) = audience_fault(audience) {
                return Err(
                    self.invalid(format!("the audience {escaped} cannot be used: {reason}"))
                );
            }
            if self
                .audiences
                .iter()
                .take(index)
                .any(|earlier| earlier == audience)
            {
                return Err(self.invalid(format!("the audience {escaped} is set twice")));
            }
        }
        Ok(())
    }

    /// Checks the ranges of values.
    fn check_values(&self) -> Result<(), BuildError> {
        if self.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.invalid(
                "`algorithms` lists no algorithm, so no token would be accepted; list one, or leave the setting out",
            ));
        }
        if self.algorithms.is_none() && self.listed_algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.invalid(
                "the provider metadata lists no supported signature algorithm; set `algorithms`",
            ));
        }
        if self.leeway.is_some_and(|leeway| leeway > MAX_LEEWAY) {
            return Err(self.invalid("`leeway` is more than 300 s"));
        }
        if self
            .unknown_key_jitter
            .is_some_and(|jitter| jitter > MAX_UNKNOWN_KEY_JITTER)
        {
            return Err(self.invalid(
                "`unknown_key_jitter` is more than 3 s, and a request waits for newer keys for 5 s in all",
            ));
        }
        let limits = [
            ("max_keys", self.max_keys == Some(0)),
            ("max_document_bytes", self.max_document_bytes == Some(0)),
            (
                "fetch_timeout",
                self.fetch_timeout.is_some_and(|limit| limit.is_zero()),
            ),
            (
                "stale_after",
                self.stale_after.is_some_and(|age| age.is_zero()),
            ),
        ];
        match limits.iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => {
                Err(self.invalid(format!("`{setting}` is zero, so no key could ever be used")))
            }
            None => Ok(()),
        }
    }

    /// Checks that no setting is without effect for the place that the keys come from.
    fn check_effects(&self) -> Result<(), BuildError> {
        let location = &self.key_location;
        let is_remote = matches!(
            location,
            KeyLocation::Discovery { .. } | KeyLocation::JwksUrl(_)
        );
        let is_fetched = is_remote || matches!(location, KeyLocation::ApiServer(_));
        let may_change = !matches!(location, KeyLocation::Inline(_));
        let is_loopback_allowed = self.allowed_urls == AllowedUrls::HttpsOrLoopback;
        let settings = [
            ("stale_after", self.stale_after.is_some(), may_change),
            (
                "unknown_key_jitter",
                self.unknown_key_jitter.is_some(),
                may_change,
            ),
            ("fetch_timeout", self.fetch_timeout.is_some(), is_fetched),
            (
                "max_document_bytes",
                self.max_document_bytes.is_some(),
                is_fetched,
            ),
            ("insecure_loopback_http", is_loopback_allowed, is_remote),
        ];
        let unused = settings
            .iter()
            .find(|(_, is_set, has_effect)| *is_set && !has_effect);
        match unused {
            Some((setting, ..)) => {
                let keys = self.key_setting.unwrap_or("in_cluster");
                Err(self.invalid(format!(
                    "`{setting}` has no effect with `{keys}`; leave it out"
                )))
            }
            None => Ok(()),
        }
    }

    /// Rejects an audience of the API server's own. `known` are the audiences of the pod's own token for the API server.
    fn check_api_server_audience(
        &self,
        issuer: Option<&str>,
        known: &[String],
    ) -> Result<(), BuildError> {
        if self.platform != Platform::Kubernetes || self.accept_api_server_audience {
            return Ok(());
        }
        let issuers = || {
            issuer
                .into_iter()
                .chain(self.also_known_as.iter().map(String::as_str))
        };
        let is_api_server = |audience: &&String| {
            known.contains(audience) || is_api_server_audience(audience, issuers())
        };
        match self.audiences.iter().find(is_api_server) {
            None => Ok(()),
            Some(audience) => Err(BuildError::ApiServerAudience {
                audience: audience.clone(),
            }),
        }
    }

    /// Returns the configured `iss`, if it can be one.
    fn configured_issuer(&self) -> Result<Option<String>, BuildError> {
        let Some(issuer) = &self.issuer else {
            return Ok(None);
        };
        self.check_iss(issuer)?;
        if matches!(self.key_location, KeyLocation::Discovery { url: None }) {
            let url = self.fetchable(issuer)?;
            if url.query().is_some() {
                return Err(self.invalid("the URL of an issuer cannot have a query"));
            }
        }
        Ok(Some(issuer.clone()))
    }

    /// Checks whether a value can be the `iss` of tokens.
    fn check_iss(&self, iss: &str) -> Result<(), BuildError> {
        let invalid = |reason: String| {
            Err(self.invalid(format!(
                "{} cannot be the `iss` of a token: {reason}",
                Escaped(iss)
            )))
        };
        if let Some(reason) = text::claim_value_fault(iss) {
            return invalid(reason);
        }
        // StringOrURI (RFC 7519, section 2): a value with a colon is a URI.
        if iss.contains(':')
            && let Some(reason) = uri_fault(iss)
        {
            return invalid(reason);
        }
        // Policies separate the issuer from the subject with it.
        if iss.contains('#') {
            return invalid("it has a fragment (`#`)".to_owned());
        }
        Ok(())
    }

    fn key_source(&self, client: ClientWithMiddleware) -> Result<KeySource, BuildError> {
        let algorithms = self.algorithms.as_ref().or(self.listed_algorithms.as_ref());
        let rules = KeyRules {
            algorithms: algorithms.map(|all| all.iter().copied().collect()),
            max_keys: self.max_keys.unwrap_or(DEFAULT_MAX_KEYS),
        };
        let server = match self.platform {
            Platform::Kubernetes => DocumentServer::Kubernetes,
            _ => DocumentServer::Public,
        };
        let defaults = FetchLimits::default();
        let limits = FetchLimits {
            time: self.fetch_timeout.unwrap_or(defaults.time),
            bytes: self.max_document_bytes.unwrap_or(defaults.bytes),
        };
        let fetcher = || Fetcher::new(client, self.allowed_urls, limits, server);
        Ok(match &self.key_location {
            KeyLocation::Discovery { url } => {
                let issuer = self.issuer.clone().unwrap_or_default();
                let default = || format!("{}{DISCOVERY_PATH}", issuer.trim_end_matches('/'));
                let document = self.fetchable(&url.clone().unwrap_or_else(default))?;
                let others = self.also_known_as.clone();
                KeySource::Remote(RemoteKeys::from_discovery(
                    document,
                    issuer,
                    others,
                    fetcher(),
                    rules,
                ))
            }
            KeyLocation::JwksUrl(url) => {
                let url = JsonWebKeySetUrl::from_url(self.fetchable(url)?);
                KeySource::Remote(RemoteKeys::from_jwks_url(url, fetcher(), rules))
            }
            KeyLocation::File(path) if path.as_os_str().is_empty() => {
                return Err(self.invalid("the path in `keys_file` is empty"));
            }
            KeyLocation::File(path) => KeySource::File(KeyFile::new(path.clone(), rules)),
            KeyLocation::Inline(keys) => {
                keys.check_format().map_err(|reason| self.invalid(reason))?;
                rules
                    .parse_inline(keys)
                    .map_err(|error| self.invalid(error.to_string()))?;
                KeySource::Inline(keys.clone(), rules)
            }
            KeyLocation::ApiServer(api) => {
                // Rejected later if the API server's documents show that they are its own.
                let audiences = if self.accept_api_server_audience {
                    Vec::new()
                } else {
                    self.audiences.clone()
                };
                let keys = ApiServerKeys::new(api.clone(), limits, rules, audiences);
                KeySource::ApiServer(keys)
            }
        })
    }

    /// Reads the issuer from the pod's own token, and rejects audiences that this token shows to be the API server's own.
    fn issuer_in_cluster(&self, api: &ApiServer) -> Result<Option<String>, BuildError> {
        let token = self.read_mounted(&api.token_file)?;
        self.read_mounted(&api.ca_file)?;
        let own = PodToken::parse(&token).ok_or_else(|| {
            self.invalid(format!(
                "{} does not contain a token",
                api.token_file.display()
            ))
        })?;
        self.check_api_server_audience(own.issuer.as_deref(), &own.audiences)?;
        Ok(own.issuer)
    }

    fn read_mounted(&self, path: &Path) -> Result<Vec<u8>, BuildError> {
        std::fs::read(path).map_err(|error| {
            self.invalid(format!(
                "{} cannot be read: {error}; mount a service account token, or set its path with `api_token_file` and `api_ca_file`",
                path.display()
            ))
        })
    }

    fn invalid(&self, reason: impl Into<String>) -> BuildError {
        BuildError::Issuer {
            issuer: self.label().to_owned(),
            reason: reason.into(),
        }
    }

    /// Parses a URL that a document is fetched from.
    fn fetchable(&self, url: &str) -> Result<Url, BuildError> {
        let escaped = Escaped(url);
        if url.contains(is_invisible) {
            return Err(self.invalid(format!(
                "the URL {escaped} contains white space or an invisible character"
            )));
        }
        let parsed = IssuerUrl::new(url.to_owned()).map_err(|_| {
            self.invalid(format!(
                "{escaped} is not a URL, so no document can be fetched from it; an issuer that is not a URL requires `keys_json`, `keys_pem`, `keys_file`, `jwks_url` or `discovery_url`"
            ))
        })?;
        let parsed = parsed.url().clone();
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(self.invalid("a URL with a user name or password cannot be used"));
        }
        if !self.allowed_urls.contains(&parsed) {
            return Err(self.invalid(format!(
                "{escaped} is not an https URL; plain http is allowed on loopback only, with `insecure_loopback_http`"
            )));
        }
        Ok(parsed)
    }
}

/// Returns why a URI cannot be the `iss` of an issuer, or `None` if it can.
fn uri_fault(uri: &str) -> Option<String> {
    // RFC 3986, section 2. A parser for browsers would accept others too, and change them silently.
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    let url = Url::parse(uri).ok().filter(|_| uri.bytes().all(is_allowed));
    let Some(url) = url else {
        return Some("it is not a URL; only text without a colon may be something else".to_owned());
    };
    if matches!(url.scheme(), "http" | "https") && !uri.contains("://") {
        return Some("it is not a URL: `//` is missing after the scheme".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("it contains a user name or password".to_owned());
    }
    let is_well_known = |part: &str| part.eq_ignore_ascii_case(".well-known");
    let start = uri.split('/').position(is_well_known)?;
    let issuer: Vec<_> = uri.split('/').take(start).collect();
    Some(format!(
        "it is the URL of a discovery document; use the `issuer` in that document, usually {}",
        Escaped(&issuer.join("/"))
    ))
}
