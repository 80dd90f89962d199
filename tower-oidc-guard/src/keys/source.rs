//! Where an issuer's keys come from.

mod cluster;
mod file;
mod own_token;
mod web;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

pub(crate) use self::cluster::{ClusterApi, ClusterKeys};
pub(crate) use self::file::KeyFile;
pub(crate) use self::own_token::OwnToken;
pub(crate) use self::web::WebKeys;
use super::error::{KeysError, excerpt};
use super::fetch::Freshness;
use crate::jose::algorithm::{Algorithm, Algorithms};
use crate::jose::key_set::KeySet;
use crate::jose::pem;

/// How to get one issuer's keys.
pub(crate) struct KeySource {
    /// The issuer's label in logs and metrics. For keys from the web it is the issuer's name too.
    pub(crate) name: Arc<str>,
    pub(crate) origin: Origin,
    pub(crate) trust: Trust,
    /// Other names of the issuer that its discovery document may have.
    pub(crate) also_known_as: Vec<String>,
}

/// Where keys come from.
pub(crate) enum Origin {
    /// The issuer, or whoever publishes its documents.
    Web(WebKeys),
    /// The API server of the cluster that this process runs in.
    Cluster(ClusterKeys),
    /// A file that is followed.
    File(KeyFile),
    /// The text of a key set, which never changes.
    Given(Vec<u8>),
}

/// What of a published key set is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trust {
    /// The algorithms that the user allows; if `None`, those that the issuer lists.
    pub(crate) algorithms: Option<Algorithms>,
    /// A set with more keys than this is refused whole.
    pub(crate) max_keys: usize,
}

/// The format of a text of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFormat {
    /// A JSON Web Key Set.
    Json,
    /// PEM blocks.
    Pem,
}

impl KeyFormat {
    /// Recognizes the format of a text.
    fn of(text: &[u8]) -> Option<Self> {
        match text.trim_ascii_start().first() {
            Some(b'{') => Some(Self::Json),
            _ => pem::is_pem(text).then_some(Self::Pem),
        }
    }

    /// Checks whether a text that was given as this format is of this format. Returns what is wrong otherwise.
    pub(crate) fn check(self, text: &[u8]) -> Result<(), &'static str> {
        match (self, Self::of(text)) {
            (Self::Json, Some(Self::Json)) | (Self::Pem, Some(Self::Pem)) => Ok(()),
            (Self::Json, Some(Self::Pem)) => {
                Err("`keys_json` was given PEM; pass that to `keys_pem`")
            }
            (Self::Json, None) => Err("`keys_json` was given something that is not a JSON object"),
            (Self::Pem, Some(Self::Json)) => {
                Err("`keys_pem` was given JSON, which is not PEM; pass that to `keys_json`")
            }
            (Self::Pem, None) => Err(
                "`keys_pem` was given something that is not PEM: no line begins with `-----BEGIN`",
            ),
        }
    }
}

/// Keys, and how long they may be kept.
pub(crate) struct Loaded {
    pub(crate) keys: KeySet,
    /// The URL or path that they came from.
    pub(crate) from: String,
    pub(crate) hash: String,
    pub(crate) max_age: Option<Duration>,
    /// The names of the issuer that came with the keys: none, unless it is the API server of this cluster.
    pub(crate) names: Vec<Arc<str>>,
}

impl KeySource {
    /// Loads the current keys.
    pub(crate) async fn load(&self, freshness: Freshness) -> Result<Loaded, KeysError> {
        match &self.origin {
            Origin::Web(web) => {
                let names = (&*self.name, self.also_known_as.as_slice());
                web.load(names, &self.trust, freshness).await
            }
            Origin::Cluster(cluster) => cluster.load(&self.trust, freshness).await,
            Origin::File(file) => file.load(&self.trust).await,
            Origin::Given(text) => self.trust.read("the given keys", text),
        }
    }

    /// Returns the keys that are given, if they are.
    pub(super) fn given(&self) -> Option<Loaded> {
        match &self.origin {
            // They were read before, when the guard was built.
            Origin::Given(text) => self.trust.read("the given keys", text).ok(),
            _ => None,
        }
    }

    /// Returns how long a [`load`](Self::load) takes at most.
    pub(super) fn time_limit(&self) -> Duration {
        match &self.origin {
            // The discovery document, and the keys.
            Origin::Web(web) => web.limits().time.saturating_mul(2),
            Origin::Cluster(cluster) => cluster.limits.time.saturating_mul(2),
            Origin::File(_) | Origin::Given(_) => Duration::ZERO,
        }
    }

    /// Returns whether loading again may bring other keys.
    pub(super) fn may_change(&self) -> bool {
        !matches!(self.origin, Origin::Given(_))
    }

    /// Returns whether loading again may bring other algorithms: those that a discovery document lists.
    pub(super) fn lists_algorithms(&self) -> bool {
        let has_document = match &self.origin {
            Origin::Web(web) => web.has_document(),
            Origin::Cluster(_) => true,
            Origin::File(_) | Origin::Given(_) => false,
        };
        has_document && self.trust.algorithms.is_none()
    }

    /// Ends when the source has changed of its own accord. Does not hold on to the source.
    pub(super) fn changes(&self) -> impl Future<Output = ()> + Send + use<> {
        let file = match &self.origin {
            Origin::File(file) => Some(file.changes()),
            _ => None,
        };
        async move {
            match file {
                Some(changes) => changes.await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Trust {
    /// Returns what the user allows, else what the issuer lists, else RS256, which every issuer must support.
    fn allowed(&self, listed: Option<Algorithms>) -> Algorithms {
        self.algorithms
            .or(listed)
            .unwrap_or_else(|| [Algorithm::RS256].into_iter().collect())
    }

    /// Reads keys that never change, so one of them at least has to be usable.
    pub(crate) fn read(&self, from: &str, text: &[u8]) -> Result<Loaded, KeysError> {
        let loaded = self.read_set(from, text)?;
        match loaded.keys.usable() {
            0 => Err(KeysError::NoUsableKey {
                url: from.to_owned(),
            }),
            _ => Ok(loaded),
        }
    }

    /// Reads keys for which nobody lists algorithms: a JSON Web Key Set, or PEM. They may all be unusable.
    fn read_set(&self, from: &str, text: &[u8]) -> Result<Loaded, KeysError> {
        let malformed = |reason: String| KeysError::KeySet {
            url: from.to_owned(),
            reason: excerpt(&reason),
        };
        match KeyFormat::of(text) {
            Some(KeyFormat::Json) => self.read_json(from, text, None),
            Some(KeyFormat::Pem) => {
                let keys = pem::parse(text).map_err(malformed)?;
                self.loaded(from, text, KeySet::new(keys, self.allowed(None)))
            }
            None => Err(malformed("it is neither JSON nor PEM".to_owned())),
        }
    }

    /// Reads a JSON Web Key Set of an issuer that lists these algorithms.
    fn read_json(
        &self,
        from: &str,
        json: &[u8],
        listed: Option<Algorithms>,
    ) -> Result<Loaded, KeysError> {
        let malformed = |error: serde_json::Error| KeysError::KeySet {
            url: from.to_owned(),
            reason: excerpt(&error.to_string()),
        };
        let keys = KeySet::from_json(json, self.allowed(listed)).map_err(malformed)?;
        self.loaded(from, json, keys)
    }

    /// Returns what was read of that text, if it is within the limit.
    fn loaded(&self, from: &str, text: &[u8], keys: KeySet) -> Result<Loaded, KeysError> {
        if keys.len() > self.max_keys {
            return Err(KeysError::TooManyKeys {
                url: from.to_owned(),
                limit: self.max_keys,
            });
        }
        Ok(Loaded {
            keys,
            from: from.to_owned(),
            hash: hash(text),
            max_age: None,
            names: Vec::new(),
        })
    }
}

/// Returns the first 16 digits of the SHA-256.
fn hash(text: &[u8]) -> String {
    let hash = digest(&SHA256, text);
    hash.as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
