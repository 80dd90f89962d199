//! Request headers in, the one token they carry out, or why not.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::rejection::Rejection;

const SCHEME: &[u8] = b"bearer";

/// Which headers a token may come in.
#[derive(Debug, Clone)]
pub(crate) struct TokenHeaders {
    pub(crate) names: Vec<HeaderName>,
    /// Whether a request with more than one of them is malformed; otherwise the first counts.
    pub(crate) exactly_one: bool,
}

impl Default for TokenHeaders {
    fn default() -> Self {
        Self {
            names: vec![AUTHORIZATION],
            exactly_one: false,
        }
    }
}

/// A token in a header.
pub(crate) struct Bearer<'r> {
    value: Cow<'r, HeaderValue>,
    /// Where the token starts in the value.
    start: usize,
    end: usize,
}

impl Bearer<'_> {
    /// The same beyond its request. Copies a pointer.
    pub(crate) fn into_owned(self) -> Bearer<'static> {
        Bearer {
            value: Cow::Owned(self.value.into_owned()),
            start: self.start,
            end: self.end,
        }
    }

    pub(crate) fn token(&self) -> &[u8] {
        self.value
            .as_bytes()
            .get(self.start..self.end)
            .unwrap_or_default()
    }
}

impl TokenHeaders {
    /// The token of the one header that has one (RFC 6750, section 2.1).
    ///
    /// A header of another scheme is no bearer token; a header that is repeated, or a second token in the query
    /// (section 2.3), makes the request malformed, since two readers could read two callers from it.
    pub(crate) fn find<'r>(
        &self,
        headers: &'r HeaderMap,
        uri: &Uri,
    ) -> Result<Bearer<'r>, Rejection> {
        let mut found = None;
        for name in &self.names {
            match read(name, headers) {
                Err(Rejection::MissingToken) => {}
                Ok(_) if found.is_some() => {
                    return Err(Rejection::MalformedRequest(
                        "a token in more than one header",
                    ));
                }
                Ok(bearer) if self.exactly_one => found = Some(bearer),
                first => {
                    found = Some(first?);
                    break;
                }
            }
        }
        let found = found.ok_or(Rejection::MissingToken)?;
        if uri.query().is_some_and(has_access_token) {
            return Err(Rejection::MalformedRequest("a second token in the query"));
        }
        Ok(found)
    }

    /// Takes the headers away, so that what comes later does not see the token.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.names {
            headers.remove(name);
        }
    }
}

fn read<'r>(name: &HeaderName, headers: &'r HeaderMap) -> Result<Bearer<'r>, Rejection> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Rejection::MissingToken)?;
    if values.next().is_some() {
        return Err(Rejection::MalformedRequest(
            "a repeated header for the token",
        ));
    }
    let bytes = value.as_bytes();
    // Headers that platforms have made for tokens may hold one without a scheme.
    let is_for_credentials = name == AUTHORIZATION || name == PROXY_AUTHORIZATION;
    let rest = match bytes.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => Some(rest),
        _ => None,
    };
    let text = match rest {
        Some([]) => &[],
        Some(rest @ [b' ', ..]) => rest.trim_ascii(),
        _ if is_for_credentials => return Err(Rejection::MissingToken),
        _ => bytes.trim_ascii(),
    };
    if text.is_empty() {
        return Err(Rejection::Malformed("no token after the scheme"));
    }
    let end = bytes.trim_ascii_end().len();
    Ok(Bearer {
        value: Cow::Borrowed(value),
        start: end - text.len(),
        end,
    })
}

fn has_access_token(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair.split('=').next() == Some("access_token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IAP: HeaderName = HeaderName::from_static("x-goog-iap-jwt-assertion");
    const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");

    fn find(
        wanted: &TokenHeaders,
        sent: &[(HeaderName, &'static str)],
        uri: &'static str,
    ) -> Result<Vec<u8>, Rejection> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name, HeaderValue::from_static(value));
        }
        let found = wanted.find(&headers, &Uri::from_static(uri));
        found.map(|bearer| bearer.token().to_vec())
    }

    fn read(values: &[&'static str], uri: &'static str) -> Result<Vec<u8>, Rejection> {
        let sent: Vec<_> = values.iter().map(|value| (AUTHORIZATION, *value)).collect();
        find(&TokenHeaders::default(), &sent, uri)
    }

    #[test]
    fn the_scheme_is_taken_in_any_case() {
        for value in [
            "Bearer a.b.c",
            "bearer a.b.c",
            "BEARER   a.b.c",
            "Bearer a.b.c ",
        ] {
            assert_eq!(read(&[value], "/"), Ok(b"a.b.c".to_vec()), "{value}");
        }
    }

    #[test]
    fn no_header_or_another_scheme_is_no_token() {
        for values in [&[][..], &["Basic YTpi"], &["Bear"], &["Bearerx a.b.c"]] {
            let read = read(values, "/");
            assert_eq!(read, Err(Rejection::MissingToken), "{values:?}");
        }
    }

    #[test]
    fn a_scheme_without_a_token_is_malformed() {
        for value in ["Bearer", "Bearer ", "Bearer   "] {
            let read = read(&[value], "/");
            assert!(matches!(read, Err(Rejection::Malformed(_))), "{value:?}");
        }
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        for values in [
            ["Bearer a.b.c", "Bearer a.b.c"],
            ["Basic YTpi", "Bearer a.b.c"],
        ] {
            let two = read(&values, "/");
            assert!(matches!(two, Err(Rejection::MalformedRequest(_))));
        }
    }

    #[test]
    fn a_token_in_two_places_is_refused() {
        for uri in ["/?access_token=x", "/?a=b&access_token=x", "/?access_token"] {
            let both = read(&["Bearer a.b.c"], uri);
            assert!(matches!(both, Err(Rejection::MalformedRequest(_))), "{uri}");
        }
        assert!(read(&["Bearer a.b.c"], "/?my_access_token=x").is_ok());
    }

    #[test]
    fn headers_that_platforms_made_hold_a_token_with_or_without_a_scheme() {
        let wanted = TokenHeaders {
            names: vec![IAP],
            exactly_one: false,
        };
        for value in ["a.b.c", "Bearer a.b.c"] {
            assert_eq!(find(&wanted, &[(IAP, value)], "/"), Ok(b"a.b.c".to_vec()));
        }
    }

    #[test]
    fn of_several_headers_the_first_that_is_there_counts_or_there_may_be_one_only() {
        let mut wanted = TokenHeaders {
            names: vec![SERVERLESS, AUTHORIZATION],
            exactly_one: false,
        };
        let both = [
            (AUTHORIZATION, "Bearer a.b.c"),
            (SERVERLESS, "Bearer d.e.f"),
        ];
        assert_eq!(find(&wanted, &both, "/"), Ok(b"d.e.f".to_vec()));
        assert_eq!(find(&wanted, &both[..1], "/"), Ok(b"a.b.c".to_vec()));
        wanted.exactly_one = true;
        assert!(matches!(
            find(&wanted, &both, "/"),
            Err(Rejection::MalformedRequest(_))
        ));
        assert_eq!(find(&wanted, &both[..1], "/"), Ok(b"a.b.c".to_vec()));
    }
}
