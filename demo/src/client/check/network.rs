//! Checks the way to the server, step by step: origin, proxy, DNS and TCP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use reqwest_wi_auth::{BearerAuth, Token, TokenSource};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::report::Check;
use crate::client::failure::Failure;
use crate::error_chain;

/// How long a look-up and each attempt to connect may take.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// The largest number of addresses to which connecting is attempted.
const MAX_ADDRESSES: usize = 8;

/// A source without tokens, for checking whether tokens may be sent to an origin.
struct NoToken;

#[reqwest_wi_auth::async_trait]
impl TokenSource for NoToken {
    fn current(&self) -> Result<Token, reqwest_wi_auth::Error> {
        Token::new("")
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, reqwest_wi_auth::Error> {
        self.current()
    }
}

/// Checks whether tokens may be sent to the origin of the URL.
pub(super) fn check_origin(url: &str) -> Check {
    match BearerAuth::for_origin(url, NoToken) {
        Ok(_) if url.starts_with("https:") => Check::passed(
            "origin",
            format!("tokens are sent to {url} alone, and encrypted"),
        ),
        Ok(_) => Check::passed(
            "origin",
            format!("tokens are sent to {url} alone, over plain http, as it is on this machine"),
        ),
        Err(error) => Check::failed("origin", error_chain(&error))
            .expected("https://HOST or https://HOST:PORT, without a path; plain http only on this machine")
            .advice("correct --service-url (SERVICE_URL)"),
    }
}

/// The host and port to which the connection is made: those of the server or of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    host: String,
    port: u16,
    is_proxy: bool,
}

impl Target {
    /// Returns the target of requests to a URL, according to the environment variables for proxies.
    pub(super) fn for_url(url: &str) -> Option<Self> {
        Self::with_proxies(url, &Matcher::from_env())
    }

    fn with_proxies(url: &str, proxies: &Matcher) -> Option<Self> {
        let uri = url.parse::<http::Uri>().ok()?;
        let proxy = proxies.intercept(&uri);
        let is_proxy = proxy.is_some();
        let url = match proxy {
            Some(proxy) => Url::parse(&proxy.uri().to_string()).ok()?,
            None => Url::parse(url).ok()?,
        };
        Some(Self {
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
            is_proxy,
        })
    }

    /// Returns a check that names the proxy, if there is one.
    pub(super) fn check_proxy(&self) -> Option<Check> {
        let found = format!(
            "requests go through the proxy {}:{} of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY; NO_PROXY lists hosts without a proxy",
            self.host, self.port
        );
        self.is_proxy.then(|| Check::passed("proxy", found))
    }

    /// Resolves the host.
    pub(super) async fn check_dns(&self) -> (Check, Vec<SocketAddr>) {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            let check = Check::passed("DNS", format!("{address} is an address"));
            return (check, vec![SocketAddr::new(address, self.port)]);
        }
        let failed = |found: String| {
            let check = Check::failed("DNS", found).expected("the address of the server");
            let advice = Failure::Dns.advice().unwrap_or_default();
            (check.advice(advice), Vec::new())
        };
        let resolved = match timeout(STEP_LIMIT, lookup_host((host, self.port))).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(error)) => {
                return failed(format!(
                    "{host} cannot be resolved: {}",
                    error_chain(&error)
                ));
            }
            Err(_) => {
                let seconds = STEP_LIMIT.as_secs();
                return failed(format!("{host} was not resolved within {seconds} s"));
            }
        };
        let mut addresses: Vec<_> = resolved.collect();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return failed(format!("{host} has no address"));
        }
        let listed: Vec<_> = addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        let check = Check::passed("DNS", format!("{host} is {}", listed.join(", ")));
        (check, addresses)
    }
}

/// Connects to each address until one connection is established.
pub(super) async fn check_tcp(addresses: &[SocketAddr]) -> Check {
    let mut failures = Vec::new();
    let mut last = Failure::Other;
    for address in addresses {
        match timeout(STEP_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                let found = format!("{address} accepts connections");
                return if failures.is_empty() {
                    Check::passed("TCP", found)
                } else {
                    Check::warning("TCP", format!("{found}, but {}", failures.join(", ")))
                        .expected("each address of the name accepts connections")
                        .advice(
                            "let the server listen on each address, or remove the others from DNS",
                        )
                };
            }
            Ok(Err(error)) => {
                failures.push(format!("{address}: {error}"));
                last = Failure::classify(&error);
            }
            Err(_) => {
                let seconds = STEP_LIMIT.as_secs();
                failures.push(format!("{address}: no connection within {seconds} s"));
                last = Failure::ConnectTimeout;
            }
        }
    }
    let advice = last.advice().unwrap_or("check that the server is running");
    Check::failed("TCP", failures.join(", "))
        .expected("a server that accepts connections")
        .advice(advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::check::report::Status;

    fn target(url: &str, proxies: &Matcher) -> Option<(String, u16, bool)> {
        let target = Target::with_proxies(url, proxies)?;
        Some((target.host, target.port, target.is_proxy))
    }

    #[test]
    fn the_connection_is_made_to_the_proxy_if_there_is_one() {
        let none = Matcher::builder().build();
        let direct = target("https://a.example/b", &none);
        assert_eq!(direct, Some(("a.example".to_owned(), 443, false)));
        assert_eq!(
            target("http://[::1]:8080", &none),
            Some(("[::1]".to_owned(), 8080, false))
        );
        let proxy = Matcher::builder()
            .https("http://user:secret@proxy.example:3128")
            .no("b.example")
            .build();
        let through = Target::with_proxies("https://a.example", &proxy).unwrap();
        let check = through.check_proxy().unwrap();
        assert!(check.found.contains("proxy.example:3128"), "{check:?}");
        assert!(!check.found.contains("secret"), "{check:?}");
        let direct = Target::with_proxies("https://b.example", &proxy).unwrap();
        assert_eq!(direct.check_proxy(), None);
    }

    #[test]
    fn an_origin_to_which_no_token_may_be_sent_fails() {
        for (url, status) in [
            ("https://a.example", Status::Passed),
            ("http://127.0.0.1:8080", Status::Passed),
            ("http://a.example", Status::Failed),
            ("https://a.example/path", Status::Failed),
        ] {
            assert_eq!(check_origin(url).status, status, "{url}");
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_connections_fails_or_is_a_warning_if_another_accepts_them() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        assert_eq!(check_tcp(&[open]).await.status, Status::Passed);
        assert_eq!(check_tcp(&[closed, open]).await.status, Status::Warning);
        let refused = check_tcp(&[closed]).await;
        assert!(
            refused.is_failed() && refused.found.contains("refused"),
            "{refused:?}"
        );
    }
}
