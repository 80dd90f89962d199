//! gRPC requests and their answers (gRPC over HTTP/2, "Responses").

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::rejection::Rejection;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is one of gRPC, `application/grpc+proto` and the like included.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ' | b'-', ..]))
}

/// An answer of trailers only: the status stands in the headers, and there is no body.
pub(super) fn answer(rejection: &Rejection, describe: bool) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        STATUS,
        HeaderValue::from(u16::from(rejection.grpc_status())),
    );
    let message = HeaderValue::try_from(percent_encoded(&rejection.to_string()));
    if let (true, Ok(message)) = (describe, message) {
        headers.insert(MESSAGE, message);
    }
    response
}

/// Printable ASCII but for the percent sign stays as it is.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_grpc_is_told_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", true),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(content_type))];
            assert_eq!(
                is_grpc(&headers.into_iter().collect()),
                expected,
                "{content_type}"
            );
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("100 %\nü"), "100 %25%0A%C3%BC");
    }
}
