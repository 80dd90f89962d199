//! Keys over HTTP: where the discovery document says, or at a URL of their own.

use url::Url;

use super::{Loaded, Trust};
use crate::jose::algorithm::Algorithms;
use crate::keys::discovery;
use crate::keys::error::KeysError;
use crate::keys::fetch::{Document, Fetcher, Freshness, Limits};

/// Documents on the web.
pub(crate) struct WebKeys {
    at: Address,
    fetcher: Fetcher,
}

enum Address {
    Discovery(Url),
    Jwks(Url),
}

impl WebKeys {
    /// Keys where the discovery document at this URL says.
    pub(crate) fn discovered(document: Url, fetcher: Fetcher) -> Self {
        let at = Address::Discovery(document);
        Self { at, fetcher }
    }

    /// Keys at this URL.
    pub(crate) fn at(url: Url, fetcher: Fetcher) -> Self {
        let at = Address::Jwks(url);
        Self { at, fetcher }
    }

    /// Returns the limits of each request.
    pub(super) fn limits(&self) -> Limits {
        self.fetcher.limits()
    }

    /// Returns whether a discovery document says where the keys are.
    pub(super) fn has_document(&self) -> bool {
        matches!(self.at, Address::Discovery(_))
    }

    /// Fetches the discovery document, each time anew since both the address of the keys and the algorithms may have
    /// changed, and then the keys.
    pub(super) async fn load(
        &self,
        (issuer, other_names): (&str, &[String]),
        trust: &Trust,
        freshness: Freshness,
    ) -> Result<Loaded, KeysError> {
        let url = match &self.at {
            Address::Discovery(url) => url,
            Address::Jwks(url) => {
                return fetch_keys(&self.fetcher, url, None, trust, freshness).await;
            }
        };
        let accept = |body: &[u8]| {
            let discovered = discovery::read(body, url)?.of(issuer, other_names, url)?;
            match self.fetcher.may_ask(&discovered.jwks_uri) {
                true => Ok(discovered),
                false => Err(KeysError::KeysUrl {
                    url: url.to_string(),
                }),
            }
        };
        let fetched = self
            .fetcher
            .fetch(url, Document::Discovery, freshness, accept);
        let discovered = fetched.await?.content;
        let (keys, listed) = (&discovered.jwks_uri, discovered.algorithms);
        fetch_keys(&self.fetcher, keys, listed, trust, freshness).await
    }
}

/// Fetches the key set at a URL, of an issuer that lists these algorithms.
pub(super) async fn fetch_keys(
    fetcher: &Fetcher,
    url: &Url,
    listed: Option<Algorithms>,
    trust: &Trust,
    freshness: Freshness,
) -> Result<Loaded, KeysError> {
    let accept = |body: &[u8]| trust.read_json(url.as_str(), body, listed);
    let fetched = fetcher.fetch(url, Document::KeySet, freshness, accept);
    let fetched = fetched.await?;
    Ok(Loaded {
        max_age: fetched.max_age,
        ..fetched.content
    })
}
