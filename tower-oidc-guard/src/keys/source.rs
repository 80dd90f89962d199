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
use super::error::KeysError;
use crate::verify::algorithm::{Algorithm, Algorithms};
use crate::verify::key_set::KeySet;
use crate::verify::pem;

/// How to get one issuer's keys.
pub(crate) struct KeySource {
    /// The issuer, as it is told.
    pub(crate) name: Arc<str>,
    pub(crate) origin: Origin,
    pub(crate) trust: Trust,
}

/// Who is asked for keys.
pub(crate) enum Origin {
    /// The issuer, or whoever publishes its documents.
    Web(WebKeys),
    /// The API server of the cluster that this runs in.
    Cluster(ClusterKeys),
    /// A file that is followed.
    File(KeyFile),
    /// Nobody: the text of a key set.
    Given(Vec<u8>),
}

/// What of a published key set is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trust {
    /// The algorithms the user names; otherwise those that the issuer lists.
    pub(crate) algorithms: Option<Algorithms>,
    /// A set with more keys than this is refused whole.
    pub(crate) max_keys: usize,
}

/// Keys, and how long they may be kept.
pub(crate) struct Loaded {
    pub(crate) keys: KeySet,
    pub(crate) hash: String,
    pub(crate) max_age: Option<Duration>,
    /// The issuer's name, where it came with the keys.
    pub(crate) issuer: Option<Arc<str>>,
}

impl KeySource {
    /// Asks for the current keys.
    pub(crate) async fn load(&self) -> Result<Loaded, KeysError> {
        match &self.origin {
            Origin::Web(web) => web.load(&self.name, &self.trust).await,
            Origin::Cluster(cluster) => cluster.load(&self.trust).await,
            Origin::File(file) => file.load(&self.trust).await,
            Origin::Given(text) => self.trust.read("the given keys", text),
        }
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
    /// What the user says, else what the issuer lists, else RS256, which every issuer must support.
    fn allowed(&self, listed: Algorithms) -> Algorithms {
        let listed = Some(listed).filter(|listed| !listed.is_empty());
        self.algorithms
            .or(listed)
            .unwrap_or_else(|| [Algorithm::RS256].into_iter().collect())
    }

    /// Reads keys that nobody lists algorithms for: a JSON Web Key Set, or PEM.
    pub(crate) fn read(&self, from: &str, text: &[u8]) -> Result<Loaded, KeysError> {
        let failed = |reason: String| KeysError::KeySet {
            url: from.to_owned(),
            reason,
        };
        let algorithms = self.allowed(Algorithms::default());
        let keys = if pem::is_pem(text) {
            let json = pem::to_jwks(text).map_err(|reason| failed(reason.to_owned()))?;
            KeySet::from_json(&json, algorithms)
        } else {
            KeySet::from_json(text, algorithms)
        };
        let keys = keys.map_err(|error| failed(error.to_string()))?;
        self.loaded(from, keys, hash(text), None)
    }

    /// A set that can be used, within the limit.
    fn loaded(
        &self,
        from: &str,
        keys: KeySet,
        hash: String,
        max_age: Option<Duration>,
    ) -> Result<Loaded, KeysError> {
        let url = from.to_owned();
        if keys.len() > self.max_keys {
            let limit = self.max_keys;
            return Err(KeysError::TooManyKeys { url, limit });
        }
        if keys.usable() == 0 {
            return Err(KeysError::NoUsableKey { url });
        }
        Ok(Loaded {
            keys,
            hash,
            max_age,
            issuer: None,
        })
    }
}

/// The first 16 digits of the SHA-256.
fn hash(text: &[u8]) -> String {
    let hash = digest(&SHA256, text);
    hash.as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
