//! Which origin gets which token.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;

use crate::error::Error;
use crate::source::TokenSource;

/// Origins (scheme, host, port), each with the source of its tokens. No other origin gets one.
#[derive(Clone)]
pub(crate) struct Origins(Vec<(Origin, Arc<dyn TokenSource>)>);

/// An origin as in RFC 6454: compared without allocating.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origins {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an origin. https, or http on loopback.
    pub(crate) fn add(&mut self, url: &str, source: Arc<dyn TokenSource>) -> Result<(), Error> {
        let origin = Origin::parse(url).map_err(|reason| Error::Origin {
            // What stands before an @ may be a password.
            url: url.rsplit('@').next().unwrap_or_default().to_owned(),
            reason,
        })?;
        match self.0.iter_mut().find(|(known, _)| *known == origin) {
            Some(entry) => entry.1 = source,
            None => self.0.push((origin, source)),
        }
        Ok(())
    }

    /// The source of the tokens for a URL.
    pub(crate) fn source(&self, url: &Url) -> Option<&Arc<dyn TokenSource>> {
        self.0
            .iter()
            .find(|(origin, _)| origin.is_of(url))
            .map(|(_, source)| source)
    }

    /// The origins, for `Debug`.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.0
            .iter()
            .map(|(Origin { scheme, host, port }, _)| format!("{scheme}://{host}:{port}"))
    }
}

impl Origin {
    fn parse(url: &str) -> Result<Self, &'static str> {
        let url = Url::parse(url).map_err(|_| "it is not a URL")?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err("it has no host");
        };
        let scheme = match url.scheme() {
            "https" => "https",
            "http" if is_loopback(host) => "http",
            "http" => return Err("plain http shows the token to the network; use https"),
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

    fn is_of(&self, url: &Url) -> bool {
        url.scheme() == self.scheme
            && url.host_str() == Some(&self.host)
            && url.port_or_known_default() == Some(self.port)
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

    fn matches(origin: &str, url: &str) -> bool {
        Origin::parse(origin)
            .unwrap()
            .is_of(&Url::parse(url).unwrap())
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
            assert!(Origin::parse(url).is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "http://localhost.example",
            "http://a.example",
            "http://[::2]",
        ] {
            assert!(Origin::parse(url).is_err(), "{url}");
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
            assert!(Origin::parse(url).is_err(), "{url}");
        }
    }
}
