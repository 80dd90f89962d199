//! The sources that an issuer's keys are loaded from.

mod api_server;
mod file;
mod remote;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

#[cfg(feature = "testing")]
pub(crate) use self::api_server::JWKS_PATH;
pub(crate) use self::api_server::{
    ApiServer, ApiServerConnector, ApiServerKeys, Connection, PodToken,
};
pub(crate) use self::file::KeyFile;
pub(crate) use self::remote::RemoteKeys;
use super::clock_offset::IssuerTime;
use super::error::KeysError;
use super::fetch::CachePolicy;
use super::location::{InlineKeys, KeyFormat, KeyLocation};
use crate::jose::algorithm::{Algorithm, Algorithms};
use crate::jose::key_set::KeySet;
use crate::jose::pem;
use crate::text::excerpt;

/// A source of one issuer's keys.
pub(crate) enum KeySource {
    /// Documents on the web.
    Remote(RemoteKeys),
    /// The API server of the cluster that this process runs in.
    ApiServer(ApiServerKeys),
    /// A watched file.
    File(KeyFile),
    /// The value of a setting, which never changes.
    Inline(InlineKeys, KeyRules),
}

/// Which keys of a published key set are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRules {
    /// The algorithms that the user allows, or `None` to allow those that the issuer lists.
    pub(crate) algorithms: Option<Algorithms>,
    /// The largest number of keys that is accepted. A larger key set is rejected as a whole.
    pub(crate) max_keys: usize,
}

/// Keys that were loaded from a source.
pub(crate) struct LoadedKeys {
    pub(crate) keys: KeySet,
    pub(crate) location: KeyLocation,
    /// The hash of the text that the keys were read from.
    pub(crate) hash: String,
    /// How long the keys may be cached, if the source states it.
    pub(crate) max_age: Option<Duration>,
    /// The `iss` values that came with the keys. Only the API server of this cluster provides any.
    pub(crate) issuers: Vec<Arc<str>>,
    /// The time by the issuer's clock, if the keys came over HTTP and the response states it.
    pub(crate) issuer_time: Option<IssuerTime>,
}

impl KeySource {
    /// Loads the current keys.
    pub(super) async fn load(&self, cache_policy: CachePolicy) -> Result<LoadedKeys, KeysError> {
        match self {
            Self::Remote(remote) => remote.load(cache_policy).await,
            Self::ApiServer(api) => api.load(cache_policy).await,
            Self::File(file) => file.load().await,
            Self::Inline(keys, rules) => rules.parse_inline(keys),
        }
    }

    /// Returns the keys of an inline source, which are available without a fetch. Returns `None` for any other source.
    pub(super) fn inline_keys(&self) -> Option<LoadedKeys> {
        match self {
            // The same text was parsed without an error when the guard was built.
            Self::Inline(keys, rules) => rules.parse_inline(keys).ok(),
            _ => None,
        }
    }

    /// Replaces the audiences that must not be those of the API server.
    #[cfg(feature = "policy-file")]
    pub(super) fn set_audiences(&self, audiences: &[String]) {
        if let Self::ApiServer(api) = self {
            api.set_audiences(audiences);
        }
    }

    /// Returns the longest time that a [`load`](Self::load) takes.
    pub(super) fn time_limit(&self) -> Duration {
        let request = match self {
            Self::Remote(remote) => remote.limits().time,
            Self::ApiServer(api) => api.limits().time,
            Self::File(_) | Self::Inline(..) => Duration::ZERO,
        };
        // There are two requests: for the discovery document, and for the keys.
        request.saturating_mul(2)
    }

    /// Returns whether a later load may return other keys.
    pub(super) fn may_change(&self) -> bool {
        !matches!(self, Self::Inline(..))
    }

    /// Returns whether the allowed algorithms come from a discovery document, so that a later load may allow others.
    pub(super) fn provides_algorithms(&self) -> bool {
        match self {
            Self::Remote(remote) => remote.provides_algorithms(),
            Self::ApiServer(api) => api.provides_algorithms(),
            Self::File(_) | Self::Inline(..) => false,
        }
    }

    /// Completes when the source reports a change. The future does not borrow the source.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let file = match self {
            Self::File(file) => Some(file.changed()),
            _ => None,
        };
        async move {
            match file {
                Some(changed) => changed.await,
                None => std::future::pending().await,
            }
        }
    }
}

impl KeyRules {
    /// Returns the algorithms that the user allows; otherwise those that the issuer lists; otherwise RS256, which every
    /// issuer must support.
    fn allowed_algorithms(&self, listed: Option<Algorithms>) -> Algorithms {
        self.algorithms
            .or(listed)
            .unwrap_or_else(|| [Algorithm::RS256].into_iter().collect())
    }

    /// Parses the value of a setting. It never changes, so at least one of its keys must be usable.
    pub(crate) fn parse_inline(&self, keys: &InlineKeys) -> Result<LoadedKeys, KeysError> {
        let location = KeyLocation::Inline(keys.clone());
        let loaded = self.parse(location, &keys.text)?;
        if loaded.keys.usable() == 0 {
            return Err(KeysError::NoUsableKey {
                location: loaded.location.to_string(),
            });
        }
        Ok(loaded)
    }

    /// Parses a JSON Web Key Set or PEM for which no algorithms are listed. All of its keys may be unusable.
    fn parse(&self, location: KeyLocation, text: &[u8]) -> Result<LoadedKeys, KeysError> {
        match KeyFormat::detect(text) {
            Some(KeyFormat::Json) => self.parse_json(location, text, None),
            Some(KeyFormat::Pem) => match pem::parse(text) {
                Ok(keys) => {
                    let keys = KeySet::new(keys, self.allowed_algorithms(None));
                    self.loaded(location, text, keys)
                }
                Err(reason) => Err(malformed(&location, &reason)),
            },
            None => Err(malformed(&location, "expected a JSON object or PEM")),
        }
    }

    /// Parses a JSON Web Key Set of an issuer that lists these algorithms.
    fn parse_json(
        &self,
        location: KeyLocation,
        json: &[u8],
        listed: Option<Algorithms>,
    ) -> Result<LoadedKeys, KeysError> {
        match KeySet::from_json(json, self.allowed_algorithms(listed)) {
            Ok(keys) => self.loaded(location, json, keys),
            Err(error) => Err(malformed(&location, &error.to_string())),
        }
    }

    /// Returns the parsed keys, if there are not too many.
    fn loaded(
        &self,
        location: KeyLocation,
        text: &[u8],
        keys: KeySet,
    ) -> Result<LoadedKeys, KeysError> {
        if keys.len() > self.max_keys {
            return Err(KeysError::TooManyKeys {
                location: location.to_string(),
                count: keys.len(),
                limit: self.max_keys,
            });
        }
        Ok(LoadedKeys {
            keys,
            location,
            hash: hash(text),
            max_age: None,
            issuers: Vec::new(),
            issuer_time: None,
        })
    }
}

fn malformed(location: &KeyLocation, reason: &str) -> KeysError {
    KeysError::InvalidKeySet {
        location: location.to_string(),
        reason: excerpt(reason),
    }
}

/// Returns the first 16 hexadecimal digits of the SHA-256 hash.
fn hash(text: &[u8]) -> String {
    let hash = digest(&SHA256, text);
    hash.as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
