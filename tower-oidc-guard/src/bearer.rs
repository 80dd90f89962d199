//! Request headers in, the one token they carry out, or why not.

use http::header::AUTHORIZATION;
use http::{HeaderMap, Uri};

use crate::rejection::Rejection;

const SCHEME: &[u8] = b"bearer";

/// The token of the one `Authorization: Bearer` header (RFC 6750, section 2.1).
///
/// A header of another scheme is no bearer token; a second header, or a second token in the query
/// (section 2.3), makes the request malformed, since two readers could read two callers from it.
pub(crate) fn token<'h>(headers: &'h HeaderMap, uri: &Uri) -> Result<&'h [u8], Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Rejection::MissingToken)?.as_bytes();
    if values.next().is_some() {
        return Err(Rejection::MalformedRequest(
            "more than one Authorization header",
        ));
    }
    let (scheme, rest) = value
        .split_at_checked(SCHEME.len())
        .ok_or(Rejection::MissingToken)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(Rejection::MissingToken);
    }
    let token = match rest {
        [] => return Err(Rejection::Malformed("no token after the scheme")),
        [b' ', ..] => rest.trim_ascii(),
        _ => return Err(Rejection::MissingToken),
    };
    if token.is_empty() {
        return Err(Rejection::Malformed("no token after the scheme"));
    }
    if uri.query().is_some_and(has_access_token) {
        return Err(Rejection::MalformedRequest("a second token in the query"));
    }
    Ok(token)
}

fn has_access_token(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair.split('=').next() == Some("access_token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&'static str], uri: &'static str) -> Result<Vec<u8>, Rejection> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, http::HeaderValue::from_static(value));
        }
        token(&headers, &Uri::from_static(uri)).map(<[u8]>::to_vec)
    }

    #[test]
    fn the_scheme_is_taken_in_any_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(read(&[value], "/"), Ok(b"a.b.c".to_vec()), "{value}");
        }
    }

    #[test]
    fn no_header_or_another_scheme_is_no_token() {
        for values in [&[][..], &["Basic YTpi"], &["Bear"], &["Bearerx a.b.c"]] {
            assert_eq!(
                read(values, "/"),
                Err(Rejection::MissingToken),
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_scheme_without_a_token_is_malformed() {
        for value in ["Bearer", "Bearer ", "Bearer   "] {
            assert!(
                matches!(read(&[value], "/"), Err(Rejection::Malformed(_))),
                "{value:?}"
            );
        }
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        let two = read(&["Bearer a.b.c", "Bearer a.b.c"], "/");
        assert!(matches!(two, Err(Rejection::MalformedRequest(_))));
        let mixed = read(&["Basic YTpi", "Bearer a.b.c"], "/");
        assert!(matches!(mixed, Err(Rejection::MalformedRequest(_))));
    }

    #[test]
    fn a_token_in_two_places_is_refused() {
        for uri in ["/?access_token=x", "/?a=b&access_token=x", "/?access_token"] {
            let both = read(&["Bearer a.b.c"], uri);
            assert!(matches!(both, Err(Rejection::MalformedRequest(_))), "{uri}");
        }
        assert!(read(&["Bearer a.b.c"], "/?my_access_token=x").is_ok());
    }
}
