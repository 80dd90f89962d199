//! HTTP with limits: a slow, endless or wandering answer ends in an error, not in a guard that hangs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::client::may_be_asked;
use super::error::KeysError;

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

/// Asks for documents.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: ClientWithMiddleware,
    loopback_http: bool,
    limits: Limits,
    authorization: Option<HeaderValue>,
    /// Documents that were sent with an `ETag`, by their addresses.
    tagged: Mutex<HashMap<Url, Tagged>>,
}

/// A document that can be asked for by its tag (RFC 9110, section 13.1.2).
#[derive(Debug, Clone)]
struct Tagged {
    tag: HeaderValue,
    answer: Answer,
}

/// A document, and how long its sender says it may be kept.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    pub(crate) max_age: Option<Duration>,
}

impl Fetcher {
    pub(crate) fn new(client: ClientWithMiddleware, loopback_http: bool, limits: Limits) -> Self {
        Self {
            client,
            loopback_http,
            limits,
            authorization: None,
            tagged: Mutex::default(),
        }
    }

    /// Sends this with every request.
    pub(crate) fn authorized(self, authorization: HeaderValue) -> Self {
        Self {
            authorization: Some(authorization),
            ..self
        }
    }

    pub(crate) fn may_ask(&self, url: &Url) -> bool {
        may_be_asked(url, self.loopback_http)
    }

    /// Asks for a document, within the limits.
    pub(crate) async fn get(&self, url: &Url) -> Result<Answer, KeysError> {
        let limit = self.limits.time;
        tokio::time::timeout(limit, self.get_unhurried(url))
            .await
            .unwrap_or_else(|_| {
                Err(KeysError::Timeout {
                    url: url.to_string(),
                    limit,
                })
            })
    }

    async fn get_unhurried(&self, url: &Url) -> Result<Answer, KeysError> {
        let tagged = self.tagged(url);
        let mut response = self.ask(url, tagged.as_ref()).await?;
        let max_age = max_age(response.headers());
        if let (StatusCode::NOT_MODIFIED, Some(tagged)) = (response.status(), tagged) {
            let Answer { body, max_age: old } = tagged.answer;
            let max_age = max_age.or(old);
            return Ok(Answer { body, max_age });
        }
        if response.status() != StatusCode::OK {
            return Err(status_error(url, response.status()));
        }
        let tag = response.headers().get(ETAG).cloned();
        let body = self.body(url, &mut response).await?;
        let answer = Answer { body, max_age };
        self.keep(url, tag, &answer);
        Ok(answer)
    }

    async fn ask(
        &self,
        url: &Url,
        tagged: Option<&Tagged>,
    ) -> Result<reqwest::Response, KeysError> {
        let mut request = self
            .client
            .get(url.clone())
            .header(ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(tagged) = tagged {
            request = request.header(IF_NONE_MATCH, &tagged.tag);
        }
        let response = request.send().await.map_err(|source| failed(url, source))?;
        // Without a redirect policy of ours, a client that the user brings may have left the origin.
        if response.url().origin() != url.origin() {
            return Err(status_error(url, StatusCode::FOUND));
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

    fn keep(&self, url: &Url, tag: Option<HeaderValue>, answer: &Answer) {
        let mut tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        // The discovery document and the key set; an address that has changed is not kept for ever.
        if tagged.len() > 2 {
            tagged.clear();
        }
        let answer = answer.clone();
        match tag {
            Some(tag) => tagged.insert(url.clone(), Tagged { tag, answer }),
            None => tagged.remove(url),
        };
    }
}

fn failed(url: &Url, source: reqwest_middleware::Error) -> KeysError {
    KeysError::Request {
        url: url.to_string(),
        source,
    }
}

fn status_error(url: &Url, status: StatusCode) -> KeysError {
    KeysError::Status {
        url: url.to_string(),
        status,
    }
}

/// `max-age` of `Cache-Control` (RFC 9111, section 5.2.2.1); zero where the answer is not to be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
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
                max_age(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
