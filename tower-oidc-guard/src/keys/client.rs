//! The HTTP clients that keys are fetched with, and what they may ask.

use std::time::Duration;

use reqwest_middleware::ClientWithMiddleware;
use url::Url;

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
    let builder = if loopback_http {
        builder().no_proxy()
    } else {
        builder()
    };
    Ok(builder.redirect(within_origin).build()?.into())
}

/// The client for an API server: no proxy, no redirect, and no other CA than its own. Nothing where there is
/// no certificate of a CA.
pub(crate) fn cluster_client(ca: &[u8]) -> Option<ClientWithMiddleware> {
    let certificates = reqwest::Certificate::from_pem_bundle(ca).ok()?;
    if certificates.is_empty() {
        return None;
    }
    let client = builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only(certificates)
        .build();
    Some(client.ok()?.into())
}

fn builder() -> reqwest::ClientBuilder {
    const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(USER_AGENT)
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
}
