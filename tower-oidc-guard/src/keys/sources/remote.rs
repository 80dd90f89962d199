//! Keys that an issuer publishes on the web: named by a discovery document, or at a configured URL.

use openidconnect::JsonWebKeySetUrl;
use url::Url;

use super::{KeyRules, LoadedKeys};
use crate::jose::algorithm::Algorithms;
use crate::keys::discovery::DiscoveryDocument;
use crate::keys::error::KeysError;
use crate::keys::fetch::{CachePolicy, DocumentKind, FetchLimits, Fetcher};
use crate::keys::location::KeyLocation;
use crate::text::url_without_secrets;

/// Keys that are fetched from the web.
pub(crate) struct RemoteKeys {
    endpoint: Endpoint,
    fetcher: Fetcher,
    rules: KeyRules,
}

/// The URL that is fetched first.
enum Endpoint {
    Discovery {
        document: Url,
        issuer: String,
        /// Other values that `issuer` may have in the document.
        also_known_as: Vec<String>,
    },
    Jwks(JsonWebKeySetUrl),
}

impl RemoteKeys {
    /// Creates a source for the keys that the discovery document at `document` names. Its `issuer` must be `issuer` or one
    /// of `also_known_as`.
    pub(crate) fn from_discovery(
        document: Url,
        issuer: String,
        also_known_as: Vec<String>,
        fetcher: Fetcher,
        rules: KeyRules,
    ) -> Self {
        let endpoint = Endpoint::Discovery {
            document,
            issuer,
            also_known_as,
        };
        Self {
            endpoint,
            fetcher,
            rules,
        }
    }

    /// Creates a source for the keys at `url`.
    pub(crate) fn from_jwks_url(url: JsonWebKeySetUrl, fetcher: Fetcher, rules: KeyRules) -> Self {
        Self {
            endpoint: Endpoint::Jwks(url),
            fetcher,
            rules,
        }
    }

    pub(super) fn limits(&self) -> FetchLimits {
        self.fetcher.limits()
    }

    pub(super) fn provides_algorithms(&self) -> bool {
        matches!(self.endpoint, Endpoint::Discovery { .. }) && self.rules.algorithms.is_none()
    }

    /// Fetches the keys, and before them the discovery document: each time, because both the URL of the keys and the listed
    /// algorithms may have changed.
    pub(super) async fn load(&self, cache_policy: CachePolicy) -> Result<LoadedKeys, KeysError> {
        let (url, issuer, also_known_as) = match &self.endpoint {
            Endpoint::Jwks(url) => {
                return fetch_key_set(&self.fetcher, url.url(), None, &self.rules, cache_policy)
                    .await;
            }
            Endpoint::Discovery {
                document,
                issuer,
                also_known_as,
            } => (document, issuer, also_known_as),
        };
        let parse = |body: &[u8]| {
            let document = DiscoveryDocument::parse(body, url)?;
            document.check_issuer(issuer, also_known_as, url)?;
            if !self.fetcher.may_fetch(document.jwks_uri.url()) {
                return Err(KeysError::InvalidJwksUri {
                    url: url_without_secrets(url),
                });
            }
            Ok(document)
        };
        let fetched = self
            .fetcher
            .fetch(url, DocumentKind::Discovery, cache_policy, parse)
            .await?;
        let document = fetched.content;
        fetch_key_set(
            &self.fetcher,
            document.jwks_uri.url(),
            document.algorithms,
            &self.rules,
            cache_policy,
        )
        .await
    }
}

/// Fetches the key set at `url` of an issuer that lists these algorithms.
pub(super) async fn fetch_key_set(
    fetcher: &Fetcher,
    url: &Url,
    listed: Option<Algorithms>,
    rules: &KeyRules,
    cache_policy: CachePolicy,
) -> Result<LoadedKeys, KeysError> {
    let parse = |body: &[u8]| {
        let location = KeyLocation::JwksUrl(url_without_secrets(url));
        rules.parse_json(location, body, listed)
    };
    let fetched = fetcher
        .fetch(url, DocumentKind::KeySet, cache_policy, parse)
        .await?;
    Ok(LoadedKeys {
        max_age: fetched.max_age,
        issuer_time: fetched.issuer_time,
        ..fetched.content
    })
}
