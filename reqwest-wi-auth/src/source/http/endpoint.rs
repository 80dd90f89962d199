//! A URL that credentials are sent to.

use std::fmt;

use reqwest::Url;

use crate::error::Error;
use crate::origins::{OriginRef, PlainHttp};

/// A URL that credentials are sent to: https, or http if the host is on loopback or plain http is allowed.
///
/// Its text, and its `Debug` form, contain neither the query nor the fragment, which may contain credentials.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Url);

impl Endpoint {
    /// Parses the URL of an endpoint.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if credentials cannot be sent to it.
    pub(crate) fn parse(url: &str, plain_http: PlainHttp) -> Result<Self, Error> {
        // The part before an `@` may be a password, which may contain any of the characters that end a part of a URL.
        let shown = if url.contains('@') {
            "(a URL that contains @)"
        } else {
            url.split(['?', '#']).next().unwrap_or_default()
        };
        let invalid = |reason| Error::invalid_origin(shown, reason);
        let parsed = Url::parse(url).map_err(|_| invalid("not a URL"))?;
        let origin = OriginRef::from_url(&parsed)
            .ok_or_else(|| invalid("expected a URL with a host, and without user information"))?;
        if !(origin.is_private() || origin.is_http() && plain_http == PlainHttp::Allowed) {
            return Err(invalid("expected https, or http for a host on loopback"));
        }
        Ok(Self(parsed))
    }

    /// Returns the URL.
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// Returns whether requests are sent over plain http to a host on loopback.
    pub(crate) fn is_plain_loopback(&self) -> bool {
        let origin = OriginRef::from_url(&self.0);
        origin.is_some_and(|origin| origin.is_http() && origin.is_private())
    }

    /// Returns an endpoint of the same server with another path, and without a query.
    pub(crate) fn with_path(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(path);
        url.set_query(None);
        url.set_fragment(None);
        Self(url)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.0.origin().ascii_serialization();
        write!(f, "{origin}{}", self.0.path())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_sent_over_https_or_to_loopback() {
        let parse = |url| Endpoint::parse(url, PlainHttp::LoopbackOnly);
        for url in [
            "https://sts.example/token",
            "http://127.0.0.1:8080/token",
            "http://[::1]/token",
            "http://localhost/token",
        ] {
            assert_eq!(parse(url).unwrap().to_string(), url);
        }
        for url in [
            "http://sts.example/token",
            "http://127.0.0.1.example/token",
            "https://user:password@sts.example/token",
            "https://user:pass#password@sts.example/token",
            "https://user:password?@sts.example/token",
            "ftp://sts.example/token",
            "file:///token",
            "sts.example/token",
            "",
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(
                !error.contains("password") && !error.contains("user:"),
                "{error}"
            );
        }
        assert!(Endpoint::parse("http://sts.example/token", PlainHttp::Allowed).is_ok());
        assert!(Endpoint::parse("ftp://sts.example/token", PlainHttp::Allowed).is_err());
    }

    #[test]
    fn the_query_is_not_shown() {
        let url = "https://sts.example/token?key=s3cr3t#s3cr3t";
        let endpoint = Endpoint::parse(url, PlainHttp::LoopbackOnly).unwrap();
        let shown = format!("{endpoint} {endpoint:?}");
        assert_eq!(shown.matches("https://sts.example/token").count(), 2);
        assert!(!shown.contains("s3cr3t"), "{shown}");
        let error = Endpoint::parse("http://sts.example/?key=s3cr3t", PlainHttp::LoopbackOnly);
        let error = error.unwrap_err().to_string();
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}
