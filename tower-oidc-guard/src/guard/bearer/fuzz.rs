//! Fuzz targets for the extraction of a token from a request.
//!
//! For each request, the extraction does not panic, and it finds exactly the token that the grammar of RFC 6750, section 2.1,
//! allows (see [`expected`]): one header, `Bearer` in any case, one space, and a token without white space and commas. The header
//! is sensitive after [`TokenHeaders::find`], and absent after [`TokenHeaders::strip`].

use bolero::generator::produce;
use bolero::{TypeGenerator, check};

use super::*;
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::ByteEdit;

const IAP: HeaderName = HeaderName::from_static("x-goog-iap-jwt-assertion");

/// Returns the token in the values of `Authorization`, by the grammar.
fn expected(values: &[Vec<u8>]) -> Option<&[u8]> {
    let [value] = values else { return None };
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte))?;
    let end = value.iter().rposition(|byte| !is_space(byte))? + 1;
    let (scheme, rest) = value[start..end].split_at_checked(6)?;
    let (space, token) = rest.split_first()?;
    let is_token = !token.is_empty()
        && token
            .iter()
            .all(|byte| (0x21..=0x7e).contains(byte) && *byte != b',');
    let is_bearer = String::from_utf8_lossy(scheme).to_lowercase() == "bearer";
    (is_bearer && *space == b' ' && is_token).then_some(token)
}

/// Returns whether a query contains the parameter `access_token`, decoded by hand.
fn is_in_query(query: &str) -> bool {
    query.split(['&', ';']).any(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default().as_bytes();
        let mut decoded = Vec::new();
        let mut index = 0;
        while index < name.len() {
            let digits = name
                .get(index + 1..index + 3)
                .filter(|_| name[index] == b'%');
            let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => {
                    decoded.push(byte);
                    index += 3;
                }
                None => {
                    decoded.push(name[index]);
                    index += 1;
                }
            }
        }
        decoded.eq_ignore_ascii_case(b"access_token")
    })
}

/// Extracts the token of a request and asserts everything that the module states.
fn check(values: &[Vec<u8>], query: &str) {
    let headers = |name: &HeaderName| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        Some(headers)
    };
    let (Some(mut sent), Ok(uri)) = (
        headers(&AUTHORIZATION),
        format!("/path?{query}").parse::<Uri>(),
    ) else {
        return;
    };
    let query = uri.query().unwrap_or_default();
    let wanted = TokenHeaders::default();
    let find = |wanted: &TokenHeaders, sent: &mut HeaderMap| {
        reject_token_in_query(&uri)?;
        let bearer = wanted.find(sent)?.into_owned();
        Ok::<_, Rejection>(bearer)
    };
    let found = find(&wanted, &mut sent);
    let found = found.as_ref().ok().filter(|bearer| !bearer.is_malformed());
    let token = found.map(|bearer| bearer.token().to_vec());
    let expected = expected(values).filter(|_| !is_in_query(query));
    assert_eq!(token.as_deref(), expected, "{values:?} {query}");
    assert!(token.is_none() || wanted.has_credentials(&sent, &uri));
    assert!(wanted.has_credentials(&sent, &uri) || (values.is_empty() && !is_in_query(query)));

    // A header that a platform defines for tokens may have no scheme, and makes the token of another one ambiguous.
    let both = TokenHeaders {
        names: vec![AUTHORIZATION, IAP],
        several: SeveralTokens::Malformed,
    };
    sent.insert(IAP, HeaderValue::from_static("a.b.c"));
    match find(&both, &mut sent) {
        Ok(bearer) => assert!(
            bearer.token() == b"a.b.c" || bearer.token().is_empty(),
            "the token of an ambiguous request"
        ),
        Err(rejection) => {
            assert!(token.is_some() || values.len() != 1 || !rejection.to_string().is_empty())
        }
    }
    assert!(token.is_none() || find(&both, &mut sent).is_err());
    let _ = both.find(&mut sent);
    assert!(sent.values().all(HeaderValue::is_sensitive));
    both.strip(&mut sent);
    assert!(sent.is_empty());
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<(Base, Vec<ByteEdit>)>>().with().len(0usize..3))]
    values: Vec<(Base, Vec<ByteEdit>)>,
    query: u8,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..3))]
    query_edits: Vec<ByteEdit>,
}

#[derive(Debug, Clone, Copy, TypeGenerator)]
enum Base {
    Bearer,
    LowerCase,
    Basic,
    Digest,
    TwoSchemes,
    Longer,
    NoScheme,
    Empty,
}

impl Base {
    fn text(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer a.b.c",
            Self::LowerCase => "bearer e30.e30.AA",
            Self::Basic => "Basic YTpi",
            Self::Digest => "Digest username=\"a\", realm=\"b\"",
            Self::TwoSchemes => "Basic YTpi, Bearer a.b.c",
            Self::Longer => "Bearerx a.b.c",
            Self::NoScheme => "a.b.c",
            Self::Empty => "",
        }
    }
}

#[test]
fn edited_headers() {
    let queries = [
        "",
        "a=b",
        "access_token=x",
        "a&access%5Ftoken=x",
        "a=access_token",
        "ACCESS_TOKEN",
        "access_token[]=x",
        ";access_token",
    ];
    check!()
        .with_iterations(4 * ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let values = recipe.values.iter().map(|(base, edits)| {
                // A few edits, so that some values stay valid.
                ByteEdit::apply_all(&edits[..edits.len().min(2)], base.text())
            });
            let values: Vec<_> = values.collect();
            let query = queries[usize::from(recipe.query) % queries.len()];
            let query = ByteEdit::apply_all(&recipe.query_edits, query);
            check(&values, &String::from_utf8_lossy(&query));
        });
}

/// The input is the values of the header, in lines, after the query in the first one.
#[test]
fn header_bytes() {
    check!().with_iterations(ITERATIONS).for_each(|input| {
        let mut lines = input.split(|byte| *byte == b'\n');
        let query = String::from_utf8_lossy(lines.next().unwrap_or_default());
        let values: Vec<_> = lines.map(<[u8]>::to_vec).collect();
        check(&values, &query);
    });
}

/// Extracts the token of a request with this header, to count the instructions of that.
pub(crate) fn extract_token(value: &[u8]) {
    let value = HeaderValue::from_bytes(value).unwrap();
    let mut headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let found = TokenHeaders::default().find(&mut headers);
    let _ = std::hint::black_box(found.is_ok_and(|bearer| bearer.is_malformed()));
}
