//! Fetches discovery documents and key sets over HTTP, within limits.
//!
//! Every request is a `GET` with these headers:
//!
//! | header | value |
//! | --- | --- |
//! | `Accept` | `application/json` for a discovery document; `application/jwk-set+json, application/json` for a key set |
//! | `Authorization` | the pod's token; only in requests to the API server of the cluster that the pod runs in |
//! | `Cache-Control` | `no-cache`, if the fetch is made because the current keys do not verify a token |
//! | `If-None-Match` | the `ETag` of the last accepted response, if it had one |
//! | `User-Agent` | this crate's name and version, unless the user configures an HTTP client |
//!
//! A Kubernetes API server publishes its key set as `application/jwk-set+json` and responds with 406 to a request that
//! accepts only `application/json`; other issuers publish theirs as `application/json`. The `Content-Type` of the response
//! is not checked: some issuers are files on a plain web server.
//!
//! openidconnect's `JsonWebKeySet::fetch_async` is not used. It asks for `application/json` only, it fails if one key of
//! the set is nested too deeply, and it accepts text after the JSON object.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AGE, AUTHORIZATION, CACHE_CONTROL, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest_middleware::ClientWithMiddleware;
use url::{Origin, Url};

use super::clock_offset::IssuerTime;
use super::connection_fault::ConnectionFault;
use super::error::KeysError;
use super::http_client::AllowedUrls;
use crate::text::{excerpt, url_without_secrets};

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchLimits {
    /// The largest body in bytes. Typical key sets have a few kB.
    pub(crate) bytes: usize,
    /// The longest time from the first byte sent to the last one received.
    pub(crate) time: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            bytes: 512 * 1024,
            time: Duration::from_secs(10),
        }
    }
}

/// The kinds of document that an issuer publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    /// The discovery document (OpenID Connect Discovery 1.0, section 3).
    Discovery,
    /// The JSON Web Key Set (RFC 7517, section 5).
    KeySet,
}

impl DocumentKind {
    /// Returns the value of the `Accept` header (RFC 9110, section 12.5.1).
    fn accept(self) -> &'static str {
        match self {
            Self::Discovery => "application/json",
            Self::KeySet => "application/jwk-set+json, application/json",
        }
    }
}

/// Whether caches between this process and the issuer may answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CachePolicy {
    /// Caches may answer.
    AllowCached,
    /// Caches must ask the issuer (RFC 9111, section 5.2.1.4), because their content may lack the key of a token.
    Revalidate,
}

/// The kind of server that publishes the documents, as far as it matters for authorization and for hints in errors.
#[derive(Debug, Clone)]
pub(crate) enum DocumentServer {
    /// A web server that answers anyone.
    Public,
    /// The API server of a Kubernetes cluster, or a mirror of its documents. Requests carry no token.
    Kubernetes,
    /// The API server of the cluster that this process runs in. Requests carry the pod's token.
    OwnApiServer {
        /// The `Authorization` header of each request.
        authorization: HeaderValue,
    },
}

impl DocumentServer {
    /// Returns what an operator can do about a redirect to another origin, if anything.
    fn redirect_hint(&self) -> Option<&'static str> {
        match self {
            Self::Public | Self::Kubernetes => Some(
                "if that origin is correct, configure its URL with `discovery_url` or `jwks_url`",
            ),
            Self::OwnApiServer { .. } => None,
        }
    }

    /// Returns what an operator can do about a status, if it is known.
    fn status_hint(&self, status: StatusCode) -> Option<&'static str> {
        match (self, status) {
            (Self::OwnApiServer { .. }, StatusCode::UNAUTHORIZED) => Some(
                "the API server did not accept this pod's token: it must be unexpired and for the API server's own audience, so the projected volume must not set `audience`",
            ),
            (Self::OwnApiServer { .. }, StatusCode::FORBIDDEN) => Some(
                "this pod's service account may not read the document: bind the ClusterRole `system:service-account-issuer-discovery` to it",
            ),
            (Self::Kubernetes, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Some(
                "this cluster does not publish its keys to anonymous clients: inside the cluster use `Issuer::in_cluster()`, outside configure a public copy with `discovery_url` or `jwks_url`",
            ),
            (Self::OwnApiServer { .. }, status) if status.is_redirection() => {
                Some("redirects of an API server are not followed")
            }
            (_, status) if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                Some("at most three redirects are followed")
            }
            _ => None,
        }
    }
}

/// Fetches documents.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: ClientWithMiddleware,
    urls: AllowedUrls,
    limits: FetchLimits,
    server: DocumentServer,
    /// Accepted responses that had an `ETag`, by URL.
    cache: Mutex<HashMap<Url, CachedResponse>>,
}

/// An accepted response that can be revalidated by its `ETag` (RFC 9110, section 13.1.2).
#[derive(Debug, Clone)]
struct CachedResponse {
    etag: HeaderValue,
    body: Vec<u8>,
    lifetime: Option<Duration>,
}

/// A parsed document, how long its server allows it to be cached, and the time by that server's clock.
#[derive(Debug)]
pub(crate) struct Fetched<T> {
    pub(crate) content: T,
    pub(crate) max_age: Option<Duration>,
    pub(crate) issuer_time: Option<IssuerTime>,
}

/// A response whose body has not been parsed yet.
struct Response {
    body: Vec<u8>,
    etag: Option<HeaderValue>,
    /// How long the response may be cached, counted from when the issuer created it.
    lifetime: Option<Duration>,
    /// How long ago the issuer created it.
    age: Duration,
    issuer_time: Option<IssuerTime>,
}

impl Fetcher {
    pub(crate) fn new(
        client: ClientWithMiddleware,
        urls: AllowedUrls,
        limits: FetchLimits,
        server: DocumentServer,
    ) -> Self {
        Self {
            client,
            urls,
            limits,
            server,
            cache: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> FetchLimits {
        self.limits
    }

    /// Returns whether `url` may be fetched.
    pub(crate) fn may_fetch(&self, url: &Url) -> bool {
        self.urls.contains(url)
    }

    /// Fetches a document within the limits, and parses its body.
    ///
    /// The `ETag` of a response that `parse` refuses is not stored, so that a later 304 cannot refer to that response.
    pub(crate) async fn fetch<T>(
        &self,
        url: &Url,
        kind: DocumentKind,
        cache_policy: CachePolicy,
        parse: impl FnOnce(&[u8]) -> Result<T, KeysError>,
    ) -> Result<Fetched<T>, KeysError> {
        let limit = self.limits.time;
        let timeout = |_| KeysError::Timeout {
            url: url_without_secrets(url),
            limit,
        };
        let response = tokio::time::timeout(limit, self.get(url, kind, cache_policy));
        let response = response.await.map_err(timeout)??;
        let content = parse(&response.body)?;
        let max_age = response
            .lifetime
            .map(|lifetime| lifetime.saturating_sub(response.age));
        let issuer_time = response.issuer_time;
        self.store(url, response);
        Ok(Fetched {
            content,
            max_age,
            issuer_time,
        })
    }

    async fn get(
        &self,
        url: &Url,
        kind: DocumentKind,
        cache_policy: CachePolicy,
    ) -> Result<Response, KeysError> {
        let cached = self.cached(url);
        let mut response = self.send(url, kind, cache_policy, cached.as_ref()).await?;
        let (lifetime, age) = (lifetime(response.headers()), age(response.headers()));
        let issuer_time = IssuerTime::read(response.headers(), age);
        let etag = response.headers().get(ETAG).cloned();
        if let (StatusCode::NOT_MODIFIED, Some(cached)) = (response.status(), cached) {
            return Ok(Response {
                body: cached.body,
                etag: etag.or(Some(cached.etag)),
                lifetime: lifetime.or(cached.lifetime),
                age,
                issuer_time,
            });
        }
        if response.status() != StatusCode::OK {
            return Err(KeysError::Status {
                url: url_without_secrets(url),
                status: response.status(),
                accept: kind.accept(),
                hint: self.server.status_hint(response.status()),
            });
        }
        Ok(Response {
            body: self.body(url, &mut response).await?,
            etag,
            lifetime,
            age,
            issuer_time,
        })
    }

    async fn send(
        &self,
        url: &Url,
        kind: DocumentKind,
        cache_policy: CachePolicy,
        cached: Option<&CachedResponse>,
    ) -> Result<reqwest::Response, KeysError> {
        let mut request = self.client.get(url.clone()).header(ACCEPT, kind.accept());
        if let DocumentServer::OwnApiServer { authorization } = &self.server {
            request = request.header(AUTHORIZATION, authorization);
        }
        if cache_policy == CachePolicy::Revalidate {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        if let Some(cached) = cached {
            request = request.header(IF_NONE_MATCH, &cached.etag);
        }
        let response = request
            .send()
            .await
            .map_err(|cause| self.request_error(url, cause))?;
        // An HTTP client that the user configures may follow redirects to any origin. The default client stops there and
        // returns the redirect itself.
        let origins = [Some(response.url().origin()), redirect_target(&response)];
        let other = origins
            .into_iter()
            .flatten()
            .find(|origin| *origin != url.origin());
        if let Some(origin) = other {
            return Err(KeysError::CrossOriginRedirect {
                url: url_without_secrets(url),
                origin: excerpt(&origin.ascii_serialization()),
                hint: self.server.redirect_hint(),
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
            .map_err(|cause| self.request_error(url, cause.into()))?
        {
            if body.len() + chunk.len() > limit {
                return Err(KeysError::TooLarge {
                    url: url_without_secrets(url),
                    limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn request_error(&self, url: &Url, cause: reqwest_middleware::Error) -> KeysError {
        // The error contains the URL already, and the URL in `cause` may be the target of a redirect, which the issuer chose.
        let cause = cause.without_url();
        KeysError::Request {
            url: url_without_secrets(url),
            hint: ConnectionFault::find(&cause).map(|fault| fault.hint(&self.server)),
            cause,
        }
    }

    fn cached(&self, url: &Url) -> Option<CachedResponse> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(url).cloned()
    }

    fn store(&self, url: &Url, response: Response) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(etag) = response.etag else {
            cache.remove(url);
            return;
        };
        // An issuer has two documents. The entry of a URL that is no longer used must not stay forever.
        if cache.len() >= 2 && !cache.contains_key(url) {
            cache.clear();
        }
        let (body, lifetime) = (response.body, response.lifetime);
        let response = CachedResponse {
            etag,
            body,
            lifetime,
        };
        cache.insert(url.clone(), response);
    }
}

/// Returns the origin that a redirect which was not followed leads to, or `None` if the response is not a redirect.
fn redirect_target(response: &reqwest::Response) -> Option<Origin> {
    let is_redirect =
        response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?;
    let target = response.url().join(location.to_str().ok()?).ok()?;
    Some(target.origin())
}

/// Returns `max-age` from `Cache-Control` (RFC 9111, section 5.2.2.1), or zero if the response must not be cached.
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

/// Returns how long ago the issuer created a response that a cache may have stored (RFC 9111, section 5.1).
fn age(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(AGE).and_then(|value| value.to_str().ok());
    let seconds = seconds.and_then(|seconds| seconds.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifetime_comes_from_cache_control() {
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
    fn the_age_comes_from_the_age_header() {
        for (value, expected) in [("0", 0), ("1800", 1800), ("-1", 0), ("old", 0)] {
            let headers = [(AGE, http::HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            assert_eq!(age(&headers), Duration::from_secs(expected), "{value}");
        }
    }
}
