//! Which origin gets which token.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
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

/// Where a request goes, as its URL says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'u> {
    scheme: &'u str,
    host: &'u str,
    port: u16,
}

/// An origin as in RFC 6454: compared without allocating.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
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

    /// The source of the tokens for a request's target.
    #[inline]
    pub(crate) fn source(&self, target: Target<'_>) -> Option<&Arc<dyn TokenSource>> {
        let named = self.named.iter().find(|(origin, _)| origin.is(target));
        let any = || self.any.as_ref().filter(|_| target.is_private());
        named.map(|(_, source)| source).or_else(any)
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
    #[inline]
    pub(crate) fn of_url(url: &'u Url) -> Option<Self> {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        Some(Self {
            scheme: url.scheme(),
            host,
            port,
        })
    }

    /// Nothing for a URI that names no origin, as behind a connection of its own.
    pub(crate) fn of_uri(uri: &'u Uri) -> Option<Self> {
        let (scheme, host) = (uri.scheme_str()?, uri.host()?);
        let port = match uri.port_u16() {
            Some(port) => port,
            None if scheme == "https" => 443,
            None if scheme == "http" => 80,
            None => return None,
        };
        Some(Self { scheme, host, port })
    }

    /// Whether nobody on the network can read what is sent.
    fn is_private(self) -> bool {
        self.scheme == "https" || self.scheme == "http" && is_loopback(self.host)
    }
}

impl Origin {
    fn parse(url: &str, plain_http: PlainHttp) -> Result<Self, &'static str> {
        let url = Url::parse(url).map_err(|_| "it is not a URL")?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err("it has no host");
        };
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

    #[inline]
    fn is(&self, target: Target<'_>) -> bool {
        self.scheme == target.scheme
            && self.port == target.port
            && self.host.eq_ignore_ascii_case(target.host)
    }
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
        let as_url = origin.is(Target::of_url(&Url::parse(url).unwrap()).unwrap());
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
    fn a_uri_without_an_origin_has_no_target() {
        for uri in ["/path", "auth-server.example:443", "*"] {
            assert!(Target::of_uri(&uri.parse().unwrap()).is_none(), "{uri}");
        }
    }
}
