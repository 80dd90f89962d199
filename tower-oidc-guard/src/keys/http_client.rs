//! The HTTP clients that keys are fetched with, and the URLs that may be fetched.

use std::time::Duration;

use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use crate::text::with_causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 3;

/// The URLs that documents may be fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AllowedUrls {
    /// Only https.
    #[default]
    HttpsOnly,
    /// https, and plain http on loopback.
    HttpsOrLoopback,
}

impl AllowedUrls {
    pub(crate) fn contains(self, url: &Url) -> bool {
        match url.scheme() {
            "https" => url.has_host(),
            "http" => self == Self::HttpsOrLoopback && is_loopback(url),
            _ => false,
        }
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

/// Creates the client that is used if the user configures none. It follows redirects within one origin only.
///
/// For [`AllowedUrls::HttpsOrLoopback`] it uses no proxy, because `HTTP_PROXY` would apply to loopback as well.
pub(crate) fn default_client(urls: AllowedUrls) -> Result<ClientWithMiddleware, reqwest::Error> {
    let within_origin = reqwest::redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().map(Url::origin);
        if first != Some(attempt.url().origin()) || attempt.previous().len() > MAX_REDIRECTS {
            attempt.stop()
        } else {
            attempt.follow()
        }
    });
    let builder = match urls {
        AllowedUrls::HttpsOnly => builder(),
        AllowedUrls::HttpsOrLoopback => builder().no_proxy(),
    };
    Ok(builder.redirect(within_origin).build()?.into())
}

/// Creates the client for an API server. It uses no proxy, follows no redirects, and trusts only the CA certificates in
/// `ca`, which is PEM.
///
/// # Errors
///
/// Returns what is wrong with `ca`.
pub(crate) fn api_server_client(ca: &[u8]) -> Result<ClientWithMiddleware, String> {
    let fault = |error: reqwest::Error| {
        let causes = with_causes(&error);
        format!("does not contain a certificate in PEM that can be used as a CA: {causes}")
    };
    let certificates = reqwest::Certificate::from_pem_bundle(ca).map_err(fault)?;
    if certificates.is_empty() {
        return Err("does not contain a certificate in PEM".to_owned());
    }
    let client = builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only(certificates)
        // Less than the idle timeout of API servers, so that no request is sent on a connection that is being closed.
        .pool_idle_timeout(Duration::from_secs(30))
        .build();
    Ok(client.map_err(fault)?.into())
}

fn builder() -> reqwest::ClientBuilder {
    const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(USER_AGENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_on_loopback_only_and_only_if_configured() {
        let is_allowed = |url, urls: AllowedUrls| urls.contains(&Url::parse(url).unwrap());
        assert!(is_allowed("https://i.example/", AllowedUrls::HttpsOnly));
        for url in [
            "http://127.0.0.1:1/",
            "http://[::1]:1/",
            "http://localhost:1/",
        ] {
            assert!(!is_allowed(url, AllowedUrls::HttpsOnly), "{url}");
            assert!(is_allowed(url, AllowedUrls::HttpsOrLoopback), "{url}");
        }
        for url in [
            "http://i.example/",
            "http://127.0.0.1.example/",
            "http://10.0.0.1/",
            "file:///keys",
            "ftp://i.example/",
        ] {
            assert!(!is_allowed(url, AllowedUrls::HttpsOrLoopback), "{url}");
        }
    }
}
