//! HTTP with limits: a slow, endless or wandering answer ends in an error, not in a guard that hangs.

use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, StatusCode};
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::error::KeysError;

/// The most that is read of one answer by default. Real key sets have some kB.
pub(crate) const MAX_BODY_BYTES: usize = 512 * 1024;
/// From the first byte sent to the last one received.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 3;

/// The client that is used where the user brings none: redirects stay within the origin. What is on
/// this machine is asked without a proxy, which `HTTP_PROXY` would name for loopback too.
pub(crate) fn default_client(loopback_http: bool) -> Result<ClientWithMiddleware, reqwest::Error> {
    let within_origin = reqwest::redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().map(Url::origin);
        if first != Some(attempt.url().origin()) || attempt.previous().len() > MAX_REDIRECTS {
            attempt.stop()
        } else {
            attempt.follow()
        }
    });
    let builder = reqwest::Client::builder();
    let builder = if loopback_http {
        builder.no_proxy()
    } else {
        builder
    };
    let client = builder
        .redirect(within_origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
        .build()?;
    Ok(client.into())
}

/// Whether a URL may be asked: https always, http only on loopback and by choice.
pub(crate) fn may_be_asked(url: &Url, loopback_http: bool) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => loopback_http && is_loopback(url),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Asks for documents.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: ClientWithMiddleware,
    loopback_http: bool,
}

/// A document, and how long its sender says it may be kept.
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    pub(crate) max_age: Option<Duration>,
}

impl Fetcher {
    pub(crate) fn new(client: ClientWithMiddleware, loopback_http: bool) -> Self {
        Self {
            client,
            loopback_http,
        }
    }

    pub(crate) fn may_ask(&self, url: &Url) -> bool {
        may_be_asked(url, self.loopback_http)
    }

    /// Asks for a document, within the limits.
    pub(crate) async fn get(&self, url: &Url) -> Result<Answer, KeysError> {
        tokio::time::timeout(TOTAL_TIMEOUT, self.get_unhurried(url))
            .await
            .unwrap_or_else(|_| {
                Err(KeysError::Timeout {
                    url: url.to_string(),
                    limit: TOTAL_TIMEOUT,
                })
            })
    }

    async fn get_unhurried(&self, url: &Url) -> Result<Answer, KeysError> {
        let failed = |source| KeysError::Request {
            url: url.to_string(),
            source,
        };
        let request = self
            .client
            .get(url.clone())
            .header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(failed)?;
        // Without a redirect policy of ours, a client that the user brings may have left the origin.
        let strayed = response.url().origin() != url.origin();
        if strayed || response.status() != StatusCode::OK {
            let status = if strayed {
                StatusCode::FOUND
            } else {
                response.status()
            };
            return Err(KeysError::Status {
                url: url.to_string(),
                status,
            });
        }
        let max_age = max_age(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| failed(error.into()))?
        {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(KeysError::TooLarge {
                    url: url.to_string(),
                    limit: MAX_BODY_BYTES,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { body, max_age })
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
    fn only_https_is_asked_but_for_loopback_by_choice() {
        let ask = |url, loopback| may_be_asked(&Url::parse(url).expect("a URL"), loopback);
        assert!(ask("https://i.example/", false));
        for url in [
            "http://127.0.0.1:1/",
            "http://[::1]:1/",
            "http://localhost:1/",
        ] {
            assert!(!ask(url, false), "{url}");
            assert!(ask(url, true), "{url}");
        }
        for url in [
            "http://i.example/",
            "http://127.0.0.1.example/",
            "http://10.0.0.1/",
            "file:///keys",
            "ftp://i.example/",
        ] {
            assert!(!ask(url, true), "{url}");
        }
    }

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
