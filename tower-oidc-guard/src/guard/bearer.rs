//! Extracts the bearer token from a request (RFC 6750, section 2).
//!
//! A request that two parsers could understand differently is malformed. It never counts as a request without a token, because
//! a guard that admits those would admit it as anonymous.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use url::form_urlencoded;

use crate::jose::TokenError;
use crate::rejection::{OtherScheme, Rejection};

const SCHEME: &[u8] = b"bearer";

/// The headers that a token is read from.
#[derive(Debug, Clone)]
pub(super) struct TokenHeaders {
    pub(super) names: Vec<HeaderName>,
    pub(super) several: SeveralTokens,
}

/// The treatment of a request with a token in several headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeveralTokens {
    /// The token in the first header is used.
    First,
    /// The request is malformed.
    Malformed,
}

impl Default for TokenHeaders {
    fn default() -> Self {
        Self {
            names: vec![AUTHORIZATION],
            several: SeveralTokens::First,
        }
    }
}

/// A token in a header.
pub(super) struct Bearer<'r> {
    value: Cow<'r, HeaderValue>,
    /// Where the token starts in the value.
    start: usize,
    end: usize,
}

impl Bearer<'_> {
    /// Returns a token that does not borrow from its request. Copies no text: header values are reference-counted.
    pub(super) fn into_owned(self) -> Bearer<'static> {
        Bearer {
            value: Cow::Owned(self.value.into_owned()),
            start: self.start,
            end: self.end,
        }
    }

    /// Returns the token, without the scheme.
    pub(super) fn token(&self) -> &[u8] {
        self.value
            .as_bytes()
            .get(self.start..self.end)
            .unwrap_or_default()
    }

    /// Returns whether the header contains more than one token, or a token with white space in it. No valid token does, so this
    /// is checked only for tokens that did not verify.
    pub(super) fn is_malformed(&self) -> bool {
        let is_part_of_token = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
        !self.token().iter().all(is_part_of_token)
    }
}

impl TokenHeaders {
    /// Returns the token of the one header that has one (RFC 6750, section 2.1).
    ///
    /// Marks the values of all these headers as sensitive, whether they are read or not, so that their `Debug` does not show
    /// them.
    ///
    /// # Errors
    ///
    /// [`Rejection::MissingToken`] if there is no such header, and [`Rejection::UnsupportedScheme`] if there is one with
    /// credentials of another scheme.
    /// [`Rejection::MalformedRequest`] if a header is repeated, if `Bearer` is followed by anything but one space, or if it
    /// follows the credentials of another scheme.
    pub(super) fn find<'r>(&self, headers: &'r mut HeaderMap) -> Result<Bearer<'r>, Rejection> {
        if let ([name], false) = (&*self.names, is_any_repeated(headers)) {
            // One look-up for both, since this is the case of almost every request.
            let value = headers.get_mut(name).ok_or(Rejection::MissingToken)?;
            value.set_sensitive(true);
            return read(name, value);
        }
        self.mark_sensitive(headers);
        let (mut found, mut none) = (None, Rejection::MissingToken);
        for name in &self.names {
            match read_unrepeated(name, headers) {
                Err(Rejection::MissingToken) => {}
                Err(other @ Rejection::UnsupportedScheme(_)) => none = other,
                Ok(_) if found.is_some() => {
                    return Err(Rejection::MalformedRequest(
                        "a token in more than one header",
                    ));
                }
                Ok(bearer) if self.several == SeveralTokens::Malformed => found = Some(bearer),
                first => {
                    found = Some(first?);
                    break;
                }
            }
        }
        found.ok_or(none)
    }

    /// Returns whether a request has any credentials: in one of these headers, in `Authorization`, or in the query.
    pub(super) fn has_credentials(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let has = |name: &HeaderName| headers.contains_key(name);
        has(&AUTHORIZATION) || self.names.iter().any(has) || has_token_in_query(uri)
    }

    fn mark_sensitive(&self, headers: &mut HeaderMap) {
        for (name, value) in headers.iter_mut() {
            if self.names.contains(name) {
                value.set_sensitive(true);
            }
        }
    }

    /// Removes these headers, so that the service cannot read the token.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.names {
            headers.remove(name);
        }
    }
}

fn is_any_repeated(headers: &HeaderMap) -> bool {
    headers.len() != headers.keys_len()
}

/// Reads the token from a header, if there is one and it is not repeated.
fn read_unrepeated<'r>(name: &HeaderName, headers: &'r HeaderMap) -> Result<Bearer<'r>, Rejection> {
    let value = headers.get(name).ok_or(Rejection::MissingToken)?;
    if is_any_repeated(headers) && headers.get_all(name).iter().nth(1).is_some() {
        return Err(Rejection::MalformedRequest(
            "a repeated header for the token",
        ));
    }
    read(name, value)
}

/// Reads the token from the value of a header.
fn read<'r>(name: &HeaderName, value: &'r HeaderValue) -> Result<Bearer<'r>, Rejection> {
    // White space around a value does not belong to it (RFC 9110, section 5.5).
    let bytes = value.as_bytes().trim_ascii_end();
    let text = bytes.trim_ascii_start();
    // Headers that platforms define for tokens may contain one without a scheme.
    let is_for_credentials = name == AUTHORIZATION || name == PROXY_AUTHORIZATION;
    let token = match after_scheme(text) {
        Some(none @ []) => none,
        Some([b' ', token @ ..]) if !token.starts_with(b" ") && !token.starts_with(b"\t") => token,
        Some(rest) if is_for_credentials && is_longer_scheme(rest) => return other_scheme(text),
        Some(_) => {
            return Err(Rejection::MalformedRequest(
                "`Bearer` is not followed by one space and a token",
            ));
        }
        None if is_for_credentials => return other_scheme(text),
        None => text,
    };
    if token.is_empty() {
        return Err(TokenError::Malformed("no token after the scheme").into());
    }
    Ok(Bearer {
        value: Cow::Borrowed(value),
        start: bytes.len() - token.len(),
        end: bytes.len(),
    })
}

/// Returns what follows `Bearer`, in any case, or `None` if the text does not begin with it.
fn after_scheme(text: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

/// Returns whether the text after `Bearer` continues the name of another scheme: letters or digits, and then a space. A token
/// that follows `Bearer` without a space does not.
fn is_longer_scheme(rest: &[u8]) -> bool {
    let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric());
    end.is_some_and(|end| end > 0 && rest.get(end) == Some(&b' '))
}

/// Returns the rejection for credentials of another scheme: the request has no bearer token, or is malformed if `Bearer` occurs
/// later in the text as a word. An empty header counts as none.
fn other_scheme<T>(text: &[u8]) -> Result<T, Rejection> {
    let is_separator =
        |byte: &u8| !byte.is_ascii_graphic() || matches!(byte, b',' | b';' | b'"' | b'\'');
    let is_bearer = |word: &[u8]| matches!(after_scheme(word), Some([] | [b':' | b'=', ..]));
    if text.split(is_separator).any(is_bearer) {
        Err(Rejection::MalformedRequest(
            "`Bearer` behind credentials of another scheme",
        ))
    } else if text.is_empty() {
        Err(Rejection::MissingToken)
    } else {
        Err(Rejection::UnsupportedScheme(OtherScheme::of_credentials(
            text,
        )))
    }
}

/// Rejects a request with a token in its query (RFC 6750, section 2.3).
///
/// # Errors
///
/// [`Rejection::MalformedRequest`].
pub(super) fn reject_token_in_query(uri: &Uri) -> Result<(), Rejection> {
    if has_token_in_query(uri) {
        return Err(Rejection::MalformedRequest("a token in the query"));
    }
    Ok(())
}

/// Returns whether the query has a parameter `access_token`, also with percent-encoding, in any case, and after `;` instead of
/// `&`.
fn has_token_in_query(uri: &Uri) -> bool {
    let Some(query) = uri.query() else {
        return false;
    };
    let parameters = query.split(['&', ';']);
    let mut names = parameters.filter_map(|parameter| parameter.split('=').next());
    names.any(|name| {
        let decoded = form_urlencoded::parse(name.as_bytes()).next();
        decoded.is_some_and(|(name, _)| name.eq_ignore_ascii_case("access_token"))
    })
}

#[cfg(test)]
pub(super) mod fuzz;

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
        reject_token_in_query(&Uri::from_static(uri))?;
        let found = wanted.find(&mut headers);
        found.map(|bearer| bearer.token().to_vec())
    }

    fn read(values: &[&'static str], uri: &'static str) -> Result<Vec<u8>, Rejection> {
        let sent: Vec<_> = values.iter().map(|value| (AUTHORIZATION, *value)).collect();
        find(&TokenHeaders::default(), &sent, uri)
    }

    #[test]
    fn the_scheme_is_accepted_in_any_case() {
        for value in [
            "Bearer a.b.c",
            "bearer a.b.c",
            "BEARER a.b.c",
            "Bearer a.b.c ",
            " Bearer a.b.c",
            "\tbearer a.b.c\t",
        ] {
            assert_eq!(read(&[value], "/"), Ok(b"a.b.c".to_vec()), "{value}");
        }
    }

    #[test]
    fn no_header_or_an_empty_one_is_no_token() {
        for values in [&[][..], &[""], &["  "]] {
            let read = read(values, "/");
            assert_eq!(read, Err(Rejection::MissingToken), "{values:?}");
        }
    }

    #[test]
    fn another_scheme_is_reported_without_anything_from_the_header() {
        for (value, expected) in [
            ("Basic YTpi", OtherScheme::Known("Basic")),
            ("bASIC YTpi", OtherScheme::Known("Basic")),
            ("Negotiate", OtherScheme::Known("Negotiate")),
            ("Digest username=\"a\"", OtherScheme::Known("Digest")),
            ("DPoP a.b.c", OtherScheme::Known("DPoP")),
            ("Token a.b.c", OtherScheme::Known("Token")),
            ("Bearerx a.b.c", OtherScheme::Unknown),
            ("secret1 secret2", OtherScheme::Unknown),
            ("Bear", OtherScheme::NoScheme),
            ("a.b.c", OtherScheme::NoScheme),
            ("\"a.b.c\"", OtherScheme::NoScheme),
        ] {
            let rejection = read(&[value], "/").expect_err("no bearer token");
            assert_eq!(rejection, Rejection::UnsupportedScheme(expected), "{value}");
            for secret in ["YTpi", "a.b.c", "secret", "bASIC", "Bearerx"] {
                assert!(!rejection.to_string().contains(secret), "{rejection}");
            }
        }
        let (basic, token) = ("Basic YTpi", "Bearer a.b.c");
        let wanted = TokenHeaders {
            names: vec![SERVERLESS, AUTHORIZATION],
            several: SeveralTokens::Malformed,
        };
        let other = Rejection::UnsupportedScheme(OtherScheme::Known("Basic"));
        assert_eq!(find(&wanted, &[(AUTHORIZATION, basic)], "/"), Err(other));
        let both = [(AUTHORIZATION, basic), (SERVERLESS, token)];
        assert_eq!(find(&wanted, &both, "/"), Ok(b"a.b.c".to_vec()));
    }

    #[test]
    fn a_scheme_that_is_not_followed_by_one_space_makes_the_request_malformed() {
        for value in [
            "BEARER   a.b.c",
            "Bearer  a.b.c",
            "Bearer\ta.b.c",
            "Bearer \ta.b.c",
            "Bearer\t a.b.c",
            "Bearer:a.b.c",
            "Bearer: a.b.c",
            "Bearer=a.b.c",
            "Bearer,a.b.c",
            "Bearer, a.b.c",
            "Bearer;a.b.c",
            "Bearer\"a.b.c\"",
            "Bearer/a.b.c",
            "Bearer.a.b.c",
            "Bearer-a.b.c",
            "Bearer_a.b.c",
            "BearereyJhbGciOiJFUzI1NiJ9.e30.AA",
            "Bearer1",
        ] {
            let read = read(&[value], "/");
            let is_malformed = matches!(read, Err(Rejection::MalformedRequest(_)));
            assert!(is_malformed, "{value:?}");
        }
        // Not ASCII: a no-break space, and a letter.
        for bytes in [
            &b"Bearer\xc2\xa0a.b.c"[..],
            b"Bearer\xa0a.b.c",
            b"bearer\xc3\xa9 a.b.c",
        ] {
            let value = HeaderValue::from_bytes(bytes).expect("a header value");
            let mut headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            let found = TokenHeaders::default().find(&mut headers);
            let is_malformed = matches!(found, Err(Rejection::MalformedRequest(_)));
            assert!(is_malformed, "{bytes:?}");
        }
    }

    #[test]
    fn a_second_scheme_in_one_header_makes_the_request_malformed() {
        for value in [
            "Basic YTpi, Bearer a.b.c",
            "Basic YTpi,Bearer a.b.c",
            "Basic YTpi ,\tbearer a.b.c",
            "Basic YTpi Bearer a.b.c",
            "Basic YTpi; Bearer a.b.c",
            "Basic YTpi, Bearer",
            "Basic YTpi, Bearer: a.b.c",
            "Digest username=\"a\", BEARER a.b.c",
            "Bearerx YTpi, Bearer a.b.c",
            "\"Bearer a.b.c\"",
            ", Bearer a.b.c",
            "Authorization: Bearer a.b.c",
        ] {
            let read = read(&[value], "/");
            let is_malformed = matches!(read, Err(Rejection::MalformedRequest(_)));
            assert!(is_malformed, "{value:?}");
        }
        for value in [
            "Basic YmVhcmVyOmJlYXJlcg==",
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-bearer-token, Signature=c",
            "Digest username=\"bearers\", realm=\"forbearer\"",
        ] {
            let read = read(&[value], "/");
            let is_other = matches!(read, Err(Rejection::UnsupportedScheme(_)));
            assert!(is_other, "{value}");
        }
    }

    #[test]
    fn more_than_one_token_in_a_header_is_detected() {
        for (value, expected) in [
            ("Bearer a.b.c", false),
            ("Bearer a.b.c, Bearer d.e.f", true),
            ("Bearer a.b.c,d.e.f", true),
            ("Bearer a.b.c,", true),
            ("Bearer a.b.c Bearer d.e.f", true),
            ("Bearer a.b .c", true),
            ("Bearer a.b\t.c", true),
            ("Bearer a.b.c=", false),
        ] {
            let mut headers =
                HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            let found = TokenHeaders::default().find(&mut headers);
            let found = found.expect("found; rejected later, because it does not verify");
            assert_eq!(found.is_malformed(), expected, "{value}");
        }
    }

    #[test]
    fn a_scheme_without_a_token_is_malformed() {
        for value in ["Bearer", "Bearer ", "Bearer   "] {
            let read = read(&[value], "/");
            assert!(
                matches!(read, Err(Rejection::InvalidToken(TokenError::Malformed(_)))),
                "{value:?}"
            );
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
    fn a_token_in_the_query_makes_the_request_malformed_with_and_without_a_header() {
        for uri in [
            "/?access_token=x",
            "/?a=b&access_token=x",
            "/?access_token",
            "/?access_token=",
            "/?access%5Ftoken=x",
            "/?access%5ftoken=x",
            "/?%61ccess_token=x",
            "/?%61%63%63%65%73%73%5F%74%6F%6B%65%6E=x",
            "/?a=b;access_token=x",
            "/?a=b;access%5Ftoken=x",
            "/?a;access_token",
            "/?ACCESS_TOKEN=x",
            "/?Access%5FToken=x",
            "/?&&access_token=x",
        ] {
            for values in [&["Bearer a.b.c"][..], &["Basic YTpi"], &[]] {
                let read = read(values, uri);
                let is_malformed = matches!(read, Err(Rejection::MalformedRequest(_)));
                assert!(is_malformed, "{uri} {values:?}");
            }
        }
        for uri in [
            "/?my_access_token=x",
            "/?access_token_type=x",
            "/?access+token=x",
            "/?x=access_token",
            "/?x=%26access_token",
            "/access_token",
            "/?",
        ] {
            assert!(read(&["Bearer a.b.c"], uri).is_ok(), "{uri}");
        }
    }

    #[test]
    fn platform_headers_contain_a_token_with_or_without_a_scheme() {
        let wanted = TokenHeaders {
            names: vec![IAP],
            several: SeveralTokens::First,
        };
        for value in ["a.b.c", "Bearer a.b.c"] {
            assert_eq!(find(&wanted, &[(IAP, value)], "/"), Ok(b"a.b.c".to_vec()));
        }
    }

    #[test]
    fn in_platform_headers_a_scheme_is_followed_by_one_space_too() {
        let wanted = TokenHeaders {
            names: vec![SERVERLESS, IAP],
            several: SeveralTokens::First,
        };
        for value in [
            "Bearer  a.b.c",
            "Bearer\ta.b.c",
            "Bearer:a.b.c",
            "Bearer.a.b.c",
            "Bearerx a.b.c",
        ] {
            for name in [SERVERLESS, IAP] {
                let found = find(&wanted, &[(name, value)], "/");
                let is_malformed = matches!(found, Err(Rejection::MalformedRequest(_)));
                assert!(is_malformed, "{value:?}");
            }
        }
    }

    #[test]
    fn only_values_of_the_token_headers_are_marked_as_sensitive() {
        let wanted = TokenHeaders {
            names: vec![SERVERLESS, AUTHORIZATION],
            several: SeveralTokens::First,
        };
        let marked = |sent: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(name, HeaderValue::from_static(value));
            }
            let _ = wanted.find(&mut headers);
            let marked = headers.values().filter(|value| value.is_sensitive());
            marked
                .map(|value| value.as_bytes().to_vec())
                .collect::<Vec<_>>()
        };
        assert!(marked(&[(IAP, "a")]).is_empty());
        assert_eq!(marked(&[(IAP, "a"), (AUTHORIZATION, "b")]), [b"b"]);
        let both = [(AUTHORIZATION, "b"), (SERVERLESS, "c"), (IAP, "a")];
        assert_eq!(marked(&both).len(), 2);
        let repeated = [
            (AUTHORIZATION, "b"),
            (AUTHORIZATION, "c"),
            (IAP, "a"),
            (IAP, "d"),
        ];
        assert_eq!(marked(&repeated), [b"b", b"c"]);
    }

    #[test]
    fn the_first_of_several_headers_is_used_or_the_request_is_malformed() {
        let mut wanted = TokenHeaders {
            names: vec![SERVERLESS, AUTHORIZATION],
            several: SeveralTokens::First,
        };
        let both = [
            (AUTHORIZATION, "Bearer a.b.c"),
            (SERVERLESS, "Bearer d.e.f"),
        ];
        assert_eq!(find(&wanted, &both, "/"), Ok(b"d.e.f".to_vec()));
        assert_eq!(find(&wanted, &both[..1], "/"), Ok(b"a.b.c".to_vec()));
        wanted.several = SeveralTokens::Malformed;
        assert!(matches!(
            find(&wanted, &both, "/"),
            Err(Rejection::MalformedRequest(_))
        ));
        assert_eq!(find(&wanted, &both[..1], "/"), Ok(b"a.b.c".to_vec()));
    }
}
