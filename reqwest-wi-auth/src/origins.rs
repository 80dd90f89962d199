//! Which origin gets which token.

mod mapped;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Uri};
use reqwest::Url;

pub(crate) use self::mapped::{MappedOrigin, MappedOrigins};
use crate::error::Error;
use crate::source::TokenSource;

/// The origins that tokens are sent to, each with the source of its tokens.
#[derive(Clone, Default)]
pub(crate) struct Origins {
    listed: Vec<(Origin, Arc<dyn TokenSource>)>,
    others: Others,
}

/// The tokens for the origins that are not listed.
#[derive(Clone, Default)]
enum Others {
    /// No tokens are sent to them.
    #[default]
    None,
    /// The tokens of one source are sent to every https origin, and http on loopback.
    Any(Arc<dyn TokenSource>),
    /// A function returns the audience of each origin.
    Mapped(Arc<MappedOrigins>),
}

/// A source that is configured, or one that was created on demand.
pub(crate) type SourceCow<'s> = Cow<'s, Arc<dyn TokenSource>>;

/// Whether tokens may be sent over plain http to an origin that is not on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    LoopbackOnly,
    Allowed,
}

/// The web origin (RFC 6454) of a request, borrowed from its URL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OriginRef<'u> {
    scheme: &'u str,
    host: &'u str,
    port: u16,
}

/// A web origin (RFC 6454): scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origins {
    /// Creates a set of every https origin, and http on loopback.
    pub(crate) fn any(source: Arc<dyn TokenSource>) -> Self {
        Self {
            listed: Vec::new(),
            others: Others::Any(source),
        }
    }

    /// Sets the function that returns the audiences of the origins that are not listed.
    pub(crate) fn set_mapped(&mut self, mapped: MappedOrigins) {
        self.others = Others::Mapped(Arc::new(mapped));
    }

    /// Limits the number of sources that are created on demand.
    pub(crate) fn set_max_audiences(&mut self, max_audiences: usize) {
        if let Others::Mapped(mapped) = &self.others {
            self.others = Others::Mapped(Arc::new(mapped.with_max_audiences(max_audiences)));
        }
    }

    /// Adds an origin. If it is listed already, its source is replaced.
    pub(crate) fn insert(
        &mut self,
        url: &str,
        source: Arc<dyn TokenSource>,
        plain_http: PlainHttp,
    ) -> Result<(), Error> {
        let origin =
            Origin::parse(url, plain_http).map_err(|reason| Error::invalid_origin(url, reason))?;
        match self.listed.iter_mut().find(|(known, _)| *known == origin) {
            Some(entry) => entry.1 = source,
            None => self.listed.push((origin, source)),
        }
        Ok(())
    }

    /// Returns the source of the tokens for an origin, or `None` if none is configured: no tokens are sent to it, or its source
    /// is created on demand.
    #[inline]
    pub(crate) fn configured(&self, origin: OriginRef<'_>) -> Option<&Arc<dyn TokenSource>> {
        let listed = self.listed.iter().find(|(known, _)| known.matches(origin));
        let any = || match &self.others {
            Others::Any(source) => Some(source).filter(|_| origin.is_private()),
            Others::None | Others::Mapped(_) => None,
        };
        listed.map(|(_, source)| source).or_else(any)
    }

    /// Returns an origin without a configured source if its source is created on demand. Creates no source.
    pub(crate) fn mapped(&self, origin: OriginRef<'_>) -> Option<MappedOrigin<'_>> {
        match &self.others {
            Others::Mapped(mapped) => mapped.find(origin),
            Others::None | Others::Any(_) => None,
        }
    }

    /// Returns an origin as an owned value with its source, or without one if that is created on demand. Returns `None` if no
    /// tokens are sent to the origin.
    pub(crate) fn entry(
        &self,
        origin: OriginRef<'_>,
    ) -> Option<(Origin, Option<&Arc<dyn TokenSource>>)> {
        let configured = self.configured(origin);
        if configured.is_none() && self.mapped(origin).is_none() {
            return None;
        }
        let owned = Origin {
            scheme: if origin.scheme == "https" {
                "https"
            } else {
                "http"
            },
            host: origin.host.to_owned(),
            port: origin.port,
        };
        Some((owned, configured))
    }

    /// Returns descriptions of the origins, for `Debug`.
    pub(crate) fn descriptions(&self) -> impl Iterator<Item = String> + '_ {
        let others = match &self.others {
            Others::None => None,
            Others::Any(_) => Some("any https origin".to_owned()),
            Others::Mapped(mapped) => Some(mapped.to_string()),
        };
        self.listed
            .iter()
            .map(|(origin, _)| origin.borrow().to_string())
            .chain(others)
    }
}

impl<'u> OriginRef<'u> {
    /// Returns the origin of a URL, or `None` if the URL has no host, or user information before the host.
    #[inline]
    pub(crate) fn from_url(url: &'u Url) -> Option<Self> {
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

    /// Returns the origin of a URI, or `None` if the URI does not specify exactly one: it has no scheme, no authority, user
    /// information, or a port that is not a number.
    pub(crate) fn from_uri(uri: &'u Uri) -> Option<Self> {
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

    /// Returns whether all `Host` headers of a request, if there are any, match the host and port of this origin.
    ///
    /// Servers route by that header, so a request with another name in it would send the token to another virtual host.
    #[inline]
    pub(crate) fn matches_host_headers(self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(HOST) {
            return true;
        }
        headers.get_all(HOST).iter().all(|value| {
            let authority = value.to_str().ok();
            authority.is_some_and(|authority| self.matches_authority(authority))
        })
    }

    fn matches_authority(self, authority: &str) -> bool {
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

    /// Returns whether nobody on the network can read what is sent to this origin: it is https, or on loopback.
    pub(crate) fn is_private(self) -> bool {
        self.scheme == "https" || self.scheme == "http" && is_loopback(self.host)
    }
}

#[cfg(feature = "federation")]
impl OriginRef<'_> {
    /// Returns whether the scheme is http.
    pub(crate) fn is_http(self) -> bool {
        self.scheme == "http"
    }
}

impl fmt::Display for OriginRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// Returns the port that follows the host in an authority, or the default if none follows. Returns `None` if something
/// other than a port follows.
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
    pub(crate) fn parse(url: &str, plain_http: PlainHttp) -> Result<Self, &'static str> {
        let url = Url::parse(url).map_err(|_| "not a URL")?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err("the URL has no host");
        };
        if url.domain().is_some_and(|domain| !is_dns_name(domain)) {
            return Err(
                "the host is not a DNS name, so no request can match it; wildcards are not supported: list each \
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
                    "plain http exposes the token to the network; use https, or `insecure_http`",
                );
            }
            _ => return Err("the scheme is neither https nor http"),
        };
        let is_whole_origin = matches!(url.path(), "" | "/") && url.query().is_none();
        if !is_whole_origin || url.fragment().is_some() {
            return Err("tokens are sent to a whole origin; remove the path, query and fragment");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an origin has no user information; remove it");
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }

    /// Returns the origin of a request as an owned value in normal form, or `None` if tokens cannot be sent to it, or its host
    /// is not in normal form.
    fn from_request(origin: OriginRef<'_>, plain_http: PlainHttp) -> Option<Self> {
        let parsed = Self::parse(&origin.to_string(), plain_http).ok()?;
        // A parsed host is in normal form: clients of URIs connect to hosts such as `0x7f.1` as they are written.
        parsed.matches(origin).then_some(parsed)
    }

    /// Compares this origin with that of a request, in the order of lists of origins, which is not alphabetical.
    fn compare(&self, origin: OriginRef<'_>) -> Ordering {
        compare_ignoring_case(&self.host, origin.host)
            .then(self.port.cmp(&origin.port))
            .then_with(|| compare_ignoring_case(self.scheme, origin.scheme))
    }

    /// Returns whether this is the same origin as that of a request.
    #[inline]
    pub(crate) fn matches(&self, origin: OriginRef<'_>) -> bool {
        self.port == origin.port
            && self.scheme.eq_ignore_ascii_case(origin.scheme)
            && self.host.eq_ignore_ascii_case(origin.host)
    }

    /// Returns this origin as a borrowed value.
    pub(crate) fn borrow(&self) -> OriginRef<'_> {
        OriginRef {
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
        }
    }
}

/// Formats the ASCII serialization of RFC 6454, section 6.2: without the port if it is the scheme's default.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default_port = if self.scheme == "https" { 443 } else { 80 };
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == default_port {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

/// Compares two texts by their lengths, and then by their characters, ignoring the case of ASCII letters.
fn compare_ignoring_case(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| {
        let lower_case = |byte: u8| byte.to_ascii_lowercase();
        a.bytes().map(lower_case).cmp(b.bytes().map(lower_case))
    })
}

/// Returns whether a domain, in lower case and ASCII form, can be a DNS name: labels of letters, digits, hyphens and
/// underscores, with or without a trailing dot.
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

    /// Returns whether a URL has an origin. Asserts that a URI of the same text gives the same result.
    fn has_origin(url: &str, origin: &str) -> bool {
        let origin = parse(origin).unwrap();
        let parsed = Url::parse(url).unwrap();
        let as_url = OriginRef::from_url(&parsed).is_some_and(|found| origin.matches(found));
        let uri = url.parse().unwrap();
        assert_eq!(
            OriginRef::from_uri(&uri).is_some_and(|found| origin.matches(found)),
            as_url,
            "{url}"
        );
        as_url
    }

    #[test]
    fn an_origin_consists_of_scheme_host_and_port() {
        let origin = "https://Auth-Server.example";
        assert!(has_origin(
            "https://auth-server.example/any/path?query",
            origin
        ));
        assert!(has_origin("https://auth-server.example:443/", origin));
        for other in [
            "http://auth-server.example/",
            "https://auth-server.example:8443/",
            "https://auth-server.example.evil.example/",
            "https://evil.example/auth-server.example",
            "https://auth-server.example@evil.example/",
            "https://sub.auth-server.example/",
            "https://auth-server.example./",
        ] {
            assert!(!has_origin(other, origin), "{other}");
        }
        assert!(has_origin("https://[::1]:8443/x", "https://[::1]:8443"));
    }

    #[test]
    fn plain_http_is_accepted_on_loopback_only() {
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
    fn a_url_with_more_or_less_than_an_origin_is_rejected() {
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
    fn an_origin_that_no_request_can_match_is_rejected() {
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
    fn a_uri_matches_an_origin_only_if_it_specifies_exactly_that_one() {
        let origin = parse("https://auth-server.example").unwrap();
        let matches = |uri: &str| {
            let uri: Uri = uri.parse().unwrap();
            OriginRef::from_uri(&uri).is_some_and(|found| origin.matches(found))
        };
        for uri in [
            "https://auth-server.example",
            "https://auth-server.example/",
            "https://auth-server.example:443/a?b",
            "https://AUTH-server.EXAMPLE/",
            "HTTPS://auth-server.example/",
            "https://auth-server.example:/",
        ] {
            assert!(matches(uri), "{uri}");
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
            assert!(!matches(uri), "{uri}");
        }
    }

    #[test]
    fn a_host_header_has_to_match_host_and_port_of_the_origin() {
        let matches = |origin: &str, hosts: &[&str]| {
            let origin = Origin::parse(origin, PlainHttp::Allowed).unwrap();
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            origin.borrow().matches_host_headers(&headers)
        };
        for (origin, hosts) in [
            ("https://a.example", &[] as &[&str]),
            ("https://a.example", &["a.example"]),
            ("https://a.example", &["A.example:443"]),
            ("https://a.example:8443", &["a.example:8443"]),
            ("http://a.example", &["a.example:80"]),
            ("https://[::1]", &["[::1]"]),
        ] {
            assert!(matches(origin, hosts), "{origin} {hosts:?}");
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
            assert!(!matches(origin, hosts), "{origin} {hosts:?}");
        }
    }

    #[test]
    fn a_uri_without_scheme_or_authority_has_no_origin() {
        for uri in ["/path", "auth-server.example:443", "*"] {
            assert!(
                OriginRef::from_uri(&uri.parse().unwrap()).is_none(),
                "{uri}"
            );
        }
    }
}
