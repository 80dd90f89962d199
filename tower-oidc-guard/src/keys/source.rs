//! Where an issuer's keys come from: its discovery document, and the key set this one names.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use openidconnect::{
    AsyncHttpClient, DiscoveryError, HttpRequest, HttpResponse, JsonWebKeySet, JsonWebKeySetUrl,
};
use tokio::time::Instant;
use url::Url;

use super::discovery::{self, Discovered};
use super::error::KeysError;
use super::fetch::Fetcher;
use crate::verify::algorithm::{Algorithm, Algorithms};
use crate::verify::jwk::Jwk;
use crate::verify::key_set::KeySet;

/// A discovery document is asked for again after so long, or when its key set could not be had.
const DISCOVERY_MAX_AGE: Duration = Duration::from_secs(3600);

/// Where one issuer's keys are.
#[derive(Debug)]
pub(crate) enum KeyLocation {
    /// Where the discovery document at this URL says.
    Discovery(Url),
    /// At this URL.
    Jwks(Url),
    /// In this key set.
    Given(Vec<u8>),
}

impl KeyLocation {
    /// Keys that are given, if one of them at least can be used.
    pub(crate) fn given(json: &[u8]) -> Option<Self> {
        let keys: JsonWebKeySet<Jwk> = serde_json::from_slice(json).ok()?;
        let usable = keys.keys().iter().any(|key| key.unusable().is_none());
        usable.then(|| Self::Given(json.to_vec()))
    }
}

/// How to get one issuer's keys.
#[derive(Debug)]
pub(crate) struct KeySource {
    pub(crate) issuer: String,
    pub(crate) location: KeyLocation,
    /// The algorithms the user names; otherwise those that the issuer lists.
    pub(crate) algorithms: Option<Algorithms>,
    pub(crate) fetcher: Fetcher,
    pub(crate) discovered: Mutex<Option<(Discovered, Instant)>>,
}

/// Keys, and how long they may be kept.
pub(crate) struct Loaded {
    pub(crate) keys: KeySet,
    pub(crate) hash: String,
    pub(crate) max_age: Option<Duration>,
}

impl KeySource {
    /// Asks for the current keys.
    pub(crate) async fn load(&self) -> Result<Loaded, KeysError> {
        let url = match &self.location {
            KeyLocation::Discovery(url) => url,
            KeyLocation::Jwks(url) => return self.fetch_keys(url, Algorithms::default()).await,
            KeyLocation::Given(json) => return self.read(json),
        };
        let Discovered {
            jwks_uri,
            algorithms,
        } = self.discover(url).await?;
        let loaded = self.fetch_keys(&jwks_uri, algorithms).await;
        if loaded.is_err() {
            self.remember(None);
        }
        loaded
    }

    /// Keys that were looked at when the issuer was configured.
    fn read(&self, json: &[u8]) -> Result<Loaded, KeysError> {
        let keys = serde_json::from_slice(json).map_err(|error| KeysError::KeySet {
            url: "the given keys".to_owned(),
            reason: error.to_string(),
        })?;
        let keys = KeySet::new(keys, self.allowed(Algorithms::default()));
        Ok(Loaded {
            keys,
            hash: hash(json),
            max_age: None,
        })
    }

    async fn discover(&self, url: &Url) -> Result<Discovered, KeysError> {
        if let Some((discovered, at)) = self
            .discovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            && at.elapsed() < DISCOVERY_MAX_AGE
        {
            return Ok(discovered.clone());
        }
        let answer = self.fetcher.get(url).await?;
        let discovered = discovery::read(&answer.body, &self.issuer, url)?;
        if !self.fetcher.may_ask(&discovered.jwks_uri) {
            return Err(KeysError::KeysUrl {
                url: url.to_string(),
            });
        }
        self.remember(Some((discovered.clone(), Instant::now())));
        Ok(discovered)
    }

    fn remember(&self, discovered: Option<(Discovered, Instant)>) {
        *self
            .discovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = discovered;
    }

    async fn fetch_keys(&self, url: &Url, listed: Algorithms) -> Result<Loaded, KeysError> {
        let client = KeySetClient {
            fetcher: &self.fetcher,
            url,
            answer: Mutex::default(),
        };
        let key_set_url = JsonWebKeySetUrl::from_url(url.clone());
        let fetched = JsonWebKeySet::<Jwk>::fetch_async(&key_set_url, &client).await;
        let keys = fetched.map_err(|error| match error {
            DiscoveryError::Request(error) => error,
            DiscoveryError::Parse(error) => key_set_error(url, error.into_inner().to_string()),
            other => key_set_error(url, other.to_string()),
        })?;
        let keys = KeySet::new(keys, self.allowed(listed));
        if keys.usable() == 0 {
            return Err(KeysError::NoUsableKey {
                url: url.to_string(),
            });
        }
        let answer = client
            .answer
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (hash, max_age) = answer;
        Ok(Loaded {
            keys,
            hash,
            max_age,
        })
    }

    /// What the user says, else what the issuer lists, else RS256, which every issuer must support.
    fn allowed(&self, listed: Algorithms) -> Algorithms {
        let listed = Some(listed).filter(|listed| !listed.is_empty());
        self.algorithms
            .or(listed)
            .unwrap_or_else(|| [Algorithm::RS256].into_iter().collect())
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

fn key_set_error(url: &Url, reason: String) -> KeysError {
    KeysError::KeySet {
        url: url.to_string(),
        reason,
    }
}

/// The fetcher as openidconnect's client. That one drops the headers of an answer, so what is needed
/// of them is kept here.
struct KeySetClient<'s> {
    fetcher: &'s Fetcher,
    url: &'s Url,
    /// The hash of the body, and how long it may be kept.
    answer: Mutex<(String, Option<Duration>)>,
}

impl<'c> AsyncHttpClient<'c> for KeySetClient<'_> {
    type Error = KeysError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, KeysError>> + Send + 'c>>;

    fn call(&'c self, _: HttpRequest) -> Self::Future {
        Box::pin(async {
            let answer = self.fetcher.get(self.url).await?;
            *self.answer.lock().unwrap_or_else(PoisonError::into_inner) =
                (hash(&answer.body), answer.max_age);
            // No content type is handed on: some issuers are files on a plain web server.
            Ok(HttpResponse::new(answer.body))
        })
    }
}
