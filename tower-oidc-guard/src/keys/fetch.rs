//! Fetches discovery documents and key sets over HTTP, within limits.
//!
//! Every request is a `GET` with these headers:
//!
//! | header | value |
//! | --- | --- |
//! | `Accept` | `application/json` for a discovery document; `application/jwk-set+json, application/json` for a key set |
//! | `Authorization` | the pod's own token, and only to the API server of the cluster that the pod runs in |
//! | `Cache-Control` | `no-cache`, if the fetch is made because a token was not verified by the keys at hand |
//! | `If-None-Match` | the `ETag` of the last answer that was accepted, if it had one |
//! | `User-Agent` | this crate's name and version, unless the user brings an HTTP client |
//!
//! A Kubernetes API server serves its key set as `application/jwk-set+json` only and answers 406 to a request that accepts
//! nothing but `application/json`; other issuers serve theirs as `application/json`. The type of the answer itself
//! is not checked: some issuers are files on a plain web server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AGE, AUTHORIZATION, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::client::may_be_asked;
use super::error::{KeysError, excerpt};

/// How much of an answer is read, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the body. Real key sets have some kB.
    pub(crate) bytes: usize,
    /// From the first byte sent to the last one received.
    pub(crate) time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 512 * 1024,
            time: Duration::from_secs(10),
        }
    }
}

/// The kinds of document that an issuer publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    /// The discovery document (OpenID Connect Discovery 1.0, section 3).
    Discovery,
    /// The JSON Web Key Set (RFC 7517, section 5).
    KeySet,
}

impl Document {
    /// Returns the media types to ask for (RFC 9110, section 12.5.1).
    fn accept(self) -> &'static str {
        match self {
            Self::Discovery => "application/json",
            Self::KeySet => "application/jwk-set+json, application/json",
        }
    }
}

/// Whether caches between here and the issuer may answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// They may.
    MayBeCached,
    /// They have to ask the issuer (RFC 9111, section 5.2.1.4): what they hold may lack the key that is looked for.
    Revalidate,
}

/// Who publishes the documents, as far as it matters to explain a refusal.
#[derive(Debug, Clone)]
pub(crate) enum Publisher {
    /// A web server that answers anyone.
    Public,
    /// The API server of a Kubernetes cluster, or a mirror of its documents, asked without a token.
    Kubernetes,
    /// The API server of the cluster that this process runs in, asked with the pod's own token.
    OwnApiServer {
        /// The `Authorization` header of each request.
        authorization: HeaderValue,
    },
}

impl Publisher {
    /// Returns what an operator can do about a status, where that is known.
    fn hint(&self, status: StatusCode) -> Option<&'static str> {
        match (self, status) {
            (Self::OwnApiServer { .. }, StatusCode::UNAUTHORIZED) => Some(
                "the API server did not accept this pod's token: it must be unexpired and for the API server's own audience, so the projected volume must not set `audience`",
            ),
            (Self::OwnApiServer { .. }, StatusCode::FORBIDDEN) => Some(
                "this pod's service account may not read the document: bind the ClusterRole `system:service-account-issuer-discovery` to it",
            ),
            (Self::Kubernetes, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Some(
                "this cluster does not publish its keys to anonymous clients: inside the cluster use `Issuer::in_cluster()`, outside it name a public copy with `discovery_url` or `jwks_url`",
            ),
            (Self::OwnApiServer { .. }, status) if status.is_redirection() => {
                Some("redirects of an API server are not followed")
            }
            (_, status) if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                Some("redirects are followed within one origin only, and three at most")
            }
            _ => None,
        }
    }
}

/// Fetches documents.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: ClientWithMiddleware,
    loopback_http: bool,
    limits: Limits,
    publisher: Publisher,
    /// Documents that were sent with an `ETag`, by their addresses.
    tagged: Mutex<HashMap<Url, Tagged>>,
}

/// An answer that was accepted and can be asked for by its tag (RFC 9110, section 13.1.2).
#[derive(Debug, Clone)]
struct Tagged {
    tag: HeaderValue,
    body: Vec<u8>,
    lifetime: Option<Duration>,
}

/// What a document says, and how long its sender says that it may be kept.
#[derive(Debug)]
pub(crate) struct Fetched<T> {
    pub(crate) content: T,
    pub(crate) max_age: Option<Duration>,
}

/// An answer whose body is not judged yet.
struct Answer {
    body: Vec<u8>,
    tag: Option<HeaderValue>,
    /// How long the answer may be kept, counted from when the issuer made it.
    lifetime: Option<Duration>,
    /// How long ago the issuer made it.
    age: Duration,
}

impl Fetcher {
    /// Creates a fetcher; `loopback_http` allows plain http to this machine.
    pub(crate) fn new(
        client: ClientWithMiddleware,
        loopback_http: bool,
        limits: Limits,
        publisher: Publisher,
    ) -> Self {
        Self {
            client,
            loopback_http,
            limits,
            publisher,
            tagged: Mutex::default(),
        }
    }

    /// Returns the limits of each request.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn may_ask(&self, url: &Url) -> bool {
        may_be_asked(url, self.loopback_http)
    }

    /// Fetches a document within the limits, and returns what `accept` makes of its body.
    ///
    /// An answer that `accept` refuses leaves nothing behind: its `ETag` is not used, so a later 304 cannot bring it
    /// back.
    pub(crate) async fn fetch<T>(
        &self,
        url: &Url,
        document: Document,
        freshness: Freshness,
        accept: impl FnOnce(&[u8]) -> Result<T, KeysError>,
    ) -> Result<Fetched<T>, KeysError> {
        let limit = self.limits.time;
        let timeout = |_| KeysError::Timeout {
            url: url.to_string(),
            limit,
        };
        let answer = tokio::time::timeout(limit, self.get(url, document, freshness));
        let answer = answer.await.map_err(timeout)??;
        let content = accept(&answer.body)?;
        let max_age = answer
            .lifetime
            .map(|lifetime| lifetime.saturating_sub(answer.age));
        self.keep(url, answer);
        Ok(Fetched { content, max_age })
    }

    async fn get(
        &self,
        url: &Url,
        document: Document,
        freshness: Freshness,
    ) -> Result<Answer, KeysError> {
        let tagged = self.tagged(url);
        let mut response = self.send(url, document, freshness, tagged.as_ref()).await?;
        let (lifetime, age) = (lifetime(response.headers()), age(response.headers()));
        let tag = response.headers().get(ETAG).cloned();
        if let (StatusCode::NOT_MODIFIED, Some(tagged)) = (response.status(), tagged) {
            return Ok(Answer {
                body: tagged.body,
                tag: tag.or(Some(tagged.tag)),
                lifetime: lifetime.or(tagged.lifetime),
                age,
            });
        }
        if response.status() != StatusCode::OK {
            return Err(KeysError::Status {
                url: url.to_string(),
                status: response.status(),
                accept: document.accept(),
                hint: self.publisher.hint(response.status()),
            });
        }
        Ok(Answer {
            body: self.body(url, &mut response).await?,
            tag,
            lifetime,
            age,
        })
    }

    async fn send(
        &self,
        url: &Url,
        document: Document,
        freshness: Freshness,
        tagged: Option<&Tagged>,
    ) -> Result<reqwest::Response, KeysError> {
        let mut request = self
            .client
            .get(url.clone())
            .header(ACCEPT, document.accept());
        if let Publisher::OwnApiServer { authorization } = &self.publisher {
            request = request.header(AUTHORIZATION, authorization);
        }
        if freshness == Freshness::Revalidate {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        if let Some(tagged) = tagged {
            request = request.header(IF_NONE_MATCH, &tagged.tag);
        }
        let response = request.send().await.map_err(|source| failed(url, source))?;
        // An HTTP client that the user brings may follow redirects to anywhere.
        if response.url().origin() != url.origin() {
            return Err(KeysError::CrossOriginRedirect {
                url: url.to_string(),
                origin: excerpt(&response.url().origin().ascii_serialization()),
            });
        }
        Ok(response)
    }

    async fn body(
        &self,
        url: &Url,
        response: &mut reqwest::Response,
    ) -> Result<Vec<u8>, KeysError> {
        let limit = self.limits.bytes;
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| failed(url, error.into()))?
        {
            if body.len() + chunk.len() > limit {
                return Err(KeysError::TooLarge {
                    url: url.to_string(),
                    limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn tagged(&self, url: &Url) -> Option<Tagged> {
        let tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        tagged.get(url).cloned()
    }

    fn keep(&self, url: &Url, answer: Answer) {
        let mut tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tag) = answer.tag else {
            tagged.remove(url);
            return;
        };
        // There are two documents; an address that is no longer used must not stay for ever.
        if tagged.len() >= 2 && !tagged.contains_key(url) {
            tagged.clear();
        }
        let (body, lifetime) = (answer.body, answer.lifetime);
        tagged.insert(
            url.clone(),
            Tagged {
                tag,
                body,
                lifetime,
            },
        );
    }
}

fn failed(url: &Url, source: reqwest_middleware::Error) -> KeysError {
    // The error names the URL already, and the one that a redirect led to was chosen by the issuer.
    let source = match source {
        reqwest_middleware::Error::Reqwest(error) => error.without_url().into(),
        other => other,
    };
    KeysError::Request {
        url: url.to_string(),
        source,
    }
}

/// Returns `max-age` of `Cache-Control` (RFC 9111, section 5.2.2.1), or zero if the answer must not be kept.
fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let values = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut found = None;
    for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
        let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") {
            found = argument
                .trim_matches('"')
                .parse()
                .ok()
                .map(Duration::from_secs);
        }
    }
    found
}

/// Returns how long ago the issuer made an answer that caches have held (RFC 9111, section 5.1).
fn age(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(AGE).and_then(|value| value.to_str().ok());
    let seconds = seconds.and_then(|seconds| seconds.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_control_is_read() {
        for (value, expected) in [
            ("public, max-age=3600", Some(3600)),
            ("Max-Age=\"60\"", Some(60)),
            ("no-cache, private", Some(0)),
            ("max-age=60, no-store", Some(0)),
            ("max-age=soon", None),
            ("public", None),
        ] {
            let headers = [(CACHE_CONTROL, http::HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            assert_eq!(
                lifetime(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    #[test]
    fn age_is_read() {
        for (value, expected) in [("0", 0), ("1800", 1800), ("-1", 0), ("old", 0)] {
            let headers = [(AGE, http::HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            assert_eq!(age(&headers), Duration::from_secs(expected), "{value}");
        }
    }
}
