//! Which origin gets which token.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Uri};
use reqwest::Url;

use crate::error::Error;
use crate::source::TokenSource;

/// Origins (scheme, host, port), each with the source of its tokens. No other origin gets one.
#[derive(Clone, Default)]
pub(crate) struct Origins {
    named: Vec<(Origin, Arc<dyn TokenSource>)>,
    /// The source for every other https origin, where the user wants that.
    any: Option<Arc<dyn TokenSource>>,
}

/// Whether plain http is good enough for an origin that is not on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    LoopbackOnly,
    Allowed,
}

/// The origin that a request is sent to, taken from its URL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'u> {
    scheme: &'u str,
    host: &'u str,
    port: u16,
}

/// A web origin (RFC 6454). Compared with a [`Target`] without allocating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origins {
    /// Every https origin, and http on loopback.
    pub(crate) fn any(source: Arc<dyn TokenSource>) -> Self {
        Self {
            named: Vec::new(),
            any: Some(source),
        }
    }

    /// Adds an origin, or gives one that is known another source.
    pub(crate) fn add(
        &mut self,
        url: &str,
        source: Arc<dyn TokenSource>,
        plain_http: PlainHttp,
    ) -> Result<(), Error> {
        let origin = Origin::parse(url, plain_http).map_err(|reason| Error::Origin {
            // What stands before an @ may be a password.
            url: url.rsplit('@').next().unwrap_or_default().to_owned(),
            reason,
        })?;
        match self.named.iter_mut().find(|(known, _)| *known == origin) {
            Some(entry) => entry.1 = source,
            None => self.named.push((origin, source)),
        }
        Ok(())
    }

    /// Returns the source of the tokens for a request's target.
    #[inline]
    pub(crate) fn source(&self, target: Target<'_>) -> Option<&Arc<dyn TokenSource>> {
        let named = self.named.iter().find(|(origin, _)| origin.is(target));
        let any = || self.any.as_ref().filter(|_| target.is_private());
        named.map(|(_, source)| source).or_else(any)
    }

    /// Returns the origin of a target that tokens are sent to, with the source of its tokens.
    pub(crate) fn find(&self, target: Target<'_>) -> Option<(Origin, &Arc<dyn TokenSource>)> {
        if let Some((origin, source)) = self.named.iter().find(|(origin, _)| origin.is(target)) {
            return Some((origin.clone(), source));
        }
        let source = self.any.as_ref().filter(|_| target.is_private())?;
        let origin = Origin {
            scheme: if target.scheme == "https" {
                "https"
            } else {
                "http"
            },
            host: target.host.to_owned(),
            port: target.port,
        };
        Some((origin, source))
    }

    /// The origins, for `Debug`.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        let name = |Origin { scheme, host, port }: &Origin| format!("{scheme}://{host}:{port}");
        let any = self.any.iter().map(|_| "any https origin".to_owned());
        self.named
            .iter()
            .map(move |(origin, _)| name(origin))
            .chain(any)
    }
}

impl<'u> Target<'u> {
    /// Returns the origin of a URL, or `None` if it has no host, or user information before the host.
    #[inline]
    pub(crate) fn of_url(url: &'u Url) -> Option<Self> {
        if !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        Some(Self {
            scheme: url.scheme(),
            host,
            port,
        })
    }

    /// Returns the origin of a URI, or `None` if the URI does not name exactly one: it has no scheme or no
    /// authority, user information, or a port that is not a number.
    pub(crate) fn of_uri(uri: &'u Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let host = authority.host();
        let default_port = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => Some(443),
            _ if scheme.eq_ignore_ascii_case("http") => Some(80),
            _ => None,
        };
        let port = port_after(authority.as_str(), host, default_port)?;
        Some(Self { scheme, host, port })
    }

    /// Returns whether a request's `Host` headers, if it has any, name this origin's host and port. A server routes by
    /// that header, so another name in it would hand the token to another virtual host.
    #[inline]
    pub(crate) fn agrees_with_host(self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(HOST) {
            return true;
        }
        headers.get_all(HOST).iter().all(|value| {
            let authority = value.to_str().ok();
            authority.is_some_and(|authority| self.is_authority(authority))
        })
    }

    fn is_authority(self, authority: &str) -> bool {
        let Some(name) = authority.get(..self.host.len()) else {
            return false;
        };
        let default_port = if self.scheme.eq_ignore_ascii_case("https") {
            443
        } else {
            80
        };
        name.eq_ignore_ascii_case(self.host)
            && port_after(authority, name, Some(default_port)) == Some(self.port)
    }

    /// Whether nobody on the network can read what is sent.
    fn is_private(self) -> bool {
        self.scheme == "https" || self.scheme == "http" && is_loopback(self.host)
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// Returns the port that follows the host in an authority, or the default if none follows.
fn port_after(authority: &str, host: &str, default: Option<u16>) -> Option<u16> {
    match authority.strip_prefix(host)? {
        "" | ":" => default,
        port => {
            let digits = port.strip_prefix(':')?;
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten()
        }
    }
}

impl Origin {
    fn parse(url: &str, plain_http: PlainHttp) -> Result<Self, &'static str> {
        let url = Url::parse(url).map_err(|_| "it is not a URL")?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err("it has no host");
        };
        if url.domain().is_some_and(|domain| !is_dns_name(domain)) {
            return Err(
                "its host is not a DNS name, so no request can match it; wildcards are not supported: name each \
                 origin, or use `any_origin`",
            );
        }
        if port == 0 {
            return Err("no request can be sent to port 0");
        }
        let scheme = match url.scheme() {
            "https" => "https",
            "http" if plain_http == PlainHttp::Allowed || is_loopback(host) => "http",
            "http" => {
                return Err(
                    "plain http shows the token to the network; use https, or say `insecure_http`",
                );
            }
            _ => return Err("it is neither https nor http"),
        };
        let whole_origin = matches!(url.path(), "" | "/") && url.query().is_none();
        if !whole_origin || url.fragment().is_some() {
            return Err("a token is for a whole origin; leave out path, query and fragment");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user has no place in an origin");
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }

    /// Returns whether a request to this target is sent to this origin.
    #[inline]
    pub(crate) fn is(&self, target: Target<'_>) -> bool {
        self.port == target.port
            && self.scheme.eq_ignore_ascii_case(target.scheme)
            && self.host.eq_ignore_ascii_case(target.host)
    }

    /// Returns this origin as the target of a request.
    pub(crate) fn as_target(&self) -> Target<'_> {
        Target {
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
        }
    }
}

/// Whether a domain, lower case and in its ASCII form, can be a name in the DNS: labels of letters, digits, hyphens and
/// underscores, with a dot at the end or without.
fn is_dns_name(domain: &str) -> bool {
    let name = domain.strip_suffix('.').unwrap_or(domain);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    name.len() <= 253
        && name
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.bytes().all(is_allowed))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Origin, &'static str> {
        Origin::parse(url, PlainHttp::LoopbackOnly)
    }

    /// Whether a URL is of an origin, as a URL and as a URI.
    fn matches(origin: &str, url: &str) -> bool {
        let origin = parse(origin).unwrap();
        let parsed = Url::parse(url).unwrap();
        let as_url = Target::of_url(&parsed).is_some_and(|target| origin.is(target));
        let uri = url.parse().unwrap();
        assert_eq!(
            Target::of_uri(&uri).is_some_and(|target| origin.is(target)),
            as_url,
            "{url}"
        );
        as_url
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = "https://Auth-Server.example";
        assert!(matches(
            origin,
            "https://auth-server.example/any/path?query"
        ));
        assert!(matches(origin, "https://auth-server.example:443/"));
        for other in [
            "http://auth-server.example/",
            "https://auth-server.example:8443/",
            "https://auth-server.example.evil.example/",
            "https://evil.example/auth-server.example",
            "https://auth-server.example@evil.example/",
            "https://sub.auth-server.example/",
            "https://auth-server.example./",
        ] {
            assert!(!matches(origin, other), "{other}");
        }
        assert!(matches("https://[::1]:8443", "https://[::1]:8443/x"));
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for url in [
            "http://127.0.0.1:80",
            "http://127.1.2.3",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(parse(url).is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "http://localhost.example",
            "http://a.example",
            "http://[::2]",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for url in [
            "",
            "a.example",
            "ftp://a.example",
            "file:///a",
            "https://a.example/path",
            "https://a.example/?q",
            "https://a.example/#f",
            "https://user@a.example",
            "https://:password@a.example",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_origin_that_no_request_can_match_is_refused() {
        for url in [
            "https://*.example.com",
            "https://*",
            "https://a.*.example",
            "https://.example.com",
            "https://a..example",
            "https://${HOST}",
            "https://{{host}}",
            "https://a,b.example",
            "https://a+b.example",
            "https://a.example:0",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        for url in [
            "https://a_b.example",
            "https://xn--bcher-kva.example",
            "https://bücher.example",
            "https://a.example.",
            "https://10.0.0.1",
            "https://[fd20:ce::254]",
            "https://a",
        ] {
            assert!(parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_uri_is_of_an_origin_only_if_it_names_exactly_that() {
        let origin = parse("https://auth-server.example").unwrap();
        let is = |uri: &str| {
            let uri: Uri = uri.parse().unwrap();
            Target::of_uri(&uri).is_some_and(|target| origin.is(target))
        };
        for uri in [
            "https://auth-server.example",
            "https://auth-server.example/",
            "https://auth-server.example:443/a?b",
            "https://AUTH-server.EXAMPLE/",
            "HTTPS://auth-server.example/",
            "https://auth-server.example:/",
        ] {
            assert!(is(uri), "{uri}");
        }
        for uri in [
            "http://auth-server.example/",
            "http://auth-server.example:443/",
            "https://auth-server.example:8443/",
            "https://auth-server.example:99999/",
            "https://auth-server.example./",
            "https://user@auth-server.example/",
            "https://user:password@auth-server.example:443/",
            "https://auth-server.example@evil.example/",
            "https://other.example/",
            "wss://auth-server.example/",
            "ws://auth-server.example:443/",
            "auth-server.example:443",
            "/path",
            "*",
        ] {
            assert!(!is(uri), "{uri}");
        }
    }

    #[test]
    fn a_host_header_must_name_the_origin_s_host_and_port() {
        let agrees = |origin: &str, hosts: &[&str]| {
            let origin = Origin::parse(origin, PlainHttp::Allowed).unwrap();
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            origin.as_target().agrees_with_host(&headers)
        };
        for (origin, hosts) in [
            ("https://a.example", &[] as &[&str]),
            ("https://a.example", &["a.example"]),
            ("https://a.example", &["A.example:443"]),
            ("https://a.example:8443", &["a.example:8443"]),
            ("http://a.example", &["a.example:80"]),
            ("https://[::1]", &["[::1]"]),
        ] {
            assert!(agrees(origin, hosts), "{origin} {hosts:?}");
        }
        for (origin, hosts) in [
            ("https://a.example", &["b.example"] as &[&str]),
            ("https://a.example", &["a.example", "b.example"]),
            ("https://a.example", &["a.example.evil.example"]),
            ("https://a.example", &["a.example:80"]),
            ("https://a.example", &[""]),
            ("https://a.example", &["user@a.example"]),
            ("https://a.example:8443", &["a.example"]),
            ("http://a.example", &["a.example:443"]),
        ] {
            assert!(!agrees(origin, hosts), "{origin} {hosts:?}");
        }
    }

    #[test]
    fn a_uri_without_an_origin_has_no_target() {
        for uri in ["/path", "auth-server.example:443", "*"] {
            assert!(Target::of_uri(&uri.parse().unwrap()).is_none(), "{uri}");
        }
    }
}
