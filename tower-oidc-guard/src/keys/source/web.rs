//! Keys over HTTP: where the discovery document says, or at a URL of their own.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openidconnect::{
    AsyncHttpClient, DiscoveryError, HttpRequest, HttpResponse, JsonWebKeySet, JsonWebKeySetUrl,
};
use tokio::time::Instant;
use url::Url;

use super::{Loaded, Trust, hash};
use crate::keys::discovery::{self, Discovered};
use crate::keys::error::KeysError;
use crate::keys::fetch::{Document, Fetcher};
use crate::verify::algorithm::Algorithms;
use crate::verify::jwk::Jwk;
use crate::verify::key_set::KeySet;

/// A discovery document is asked for again after so long, or when its key set could not be had.
const DISCOVERY_MAX_AGE: Duration = Duration::from_secs(3600);

/// Documents on the web.
pub(crate) struct WebKeys {
    at: Address,
    fetcher: Fetcher,
    discovered: Mutex<Option<(Discovered, Instant)>>,
}

enum Address {
    Discovery(Url),
    Jwks(Url),
}

impl WebKeys {
    /// Keys where the discovery document at this URL says.
    pub(crate) fn discovered(document: Url, fetcher: Fetcher) -> Self {
        Self::new(Address::Discovery(document), fetcher)
    }

    /// Keys at this URL.
    pub(crate) fn at(url: Url, fetcher: Fetcher) -> Self {
        Self::new(Address::Jwks(url), fetcher)
    }

    fn new(at: Address, fetcher: Fetcher) -> Self {
        Self {
            at,
            fetcher,
            discovered: Mutex::default(),
        }
    }

    pub(super) async fn load(&self, issuer: &str, trust: &Trust) -> Result<Loaded, KeysError> {
        let document = match &self.at {
            Address::Discovery(document) => document,
            Address::Jwks(url) => {
                return fetch_keys(&self.fetcher, url, Algorithms::default(), trust).await;
            }
        };
        let discovered = self.discover(document, issuer).await?;
        let (url, listed) = (&discovered.jwks_uri, discovered.algorithms);
        let loaded = fetch_keys(&self.fetcher, url, listed, trust).await;
        if loaded.is_err() {
            self.remember(None);
        }
        loaded
    }

    async fn discover(&self, url: &Url, issuer: &str) -> Result<Discovered, KeysError> {
        if let Some((discovered, at)) = self
            .discovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            && at.elapsed() < DISCOVERY_MAX_AGE
        {
            return Ok(discovered.clone());
        }
        let answer = self.fetcher.get(url, Document::Discovery).await?;
        let discovered = discovery::read(&answer.body, url)?.of(issuer, url)?;
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
}

/// Asks for the key set at a URL.
pub(super) async fn fetch_keys(
    fetcher: &Fetcher,
    url: &Url,
    listed: Algorithms,
    trust: &Trust,
) -> Result<Loaded, KeysError> {
    let client = KeySetClient {
        fetcher,
        url,
        answer: Mutex::default(),
    };
    let unreadable = |reason| KeysError::KeySet {
        url: url.to_string(),
        reason,
    };
    let key_set_url = JsonWebKeySetUrl::from_url(url.clone());
    let fetched = JsonWebKeySet::<Jwk>::fetch_async(&key_set_url, &client).await;
    let keys = fetched.map_err(|error| match error {
        DiscoveryError::Request(error) => error,
        DiscoveryError::Parse(error) => unreadable(error.into_inner().to_string()),
        other => unreadable(other.to_string()),
    })?;
    let keys = KeySet::new(keys, trust.allowed(listed));
    let answer = client.answer.into_inner();
    let (hash, max_age) = answer.unwrap_or_else(PoisonError::into_inner);
    trust.loaded(url.as_str(), keys, hash, max_age)
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
            let answer = self.fetcher.get(self.url, Document::KeySet).await?;
            *self.answer.lock().unwrap_or_else(PoisonError::into_inner) =
                (hash(&answer.body), answer.max_age);
            // No content type is handed on: some issuers are files on a plain web server.
            Ok(HttpResponse::new(answer.body))
        })
    }
}
