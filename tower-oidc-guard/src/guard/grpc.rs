//! Recognizes gRPC requests, and makes the responses to those that are rejected (gRPC over HTTP/2, "Responses").

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response};

use super::rejection_response::{Description, NO_STORE};
use crate::rejection::Rejection;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The protocol of a request, and so of the response that its client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP, with its status codes.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web. Its clients read the status from the headers too, if there is no body; a browser shows them to its
    /// client if a CORS layer in front of the guard exposes `grpc-status` and `grpc-message`.
    GrpcWeb,
    /// gRPC-Web in base64.
    GrpcWebText,
}

impl Protocol {
    /// Returns the protocol of a request. gRPC is a `POST` with a content type of gRPC, such as `application/grpc` or
    /// `application/grpc+proto`; any other method is HTTP whatever its content type.
    pub(super) fn detect<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(CONTENT_TYPE);
        match content_type {
            Some(content_type) if request.method() == Method::POST => {
                Self::from_content_type(content_type.as_bytes())
            }
            _ => Self::Http,
        }
    }

    fn from_content_type(content_type: &[u8]) -> Self {
        let end = content_type
            .iter()
            .position(|byte| matches!(byte, b'+' | b';' | b' ' | b'\t'));
        let essence = content_type.get(..end.unwrap_or(content_type.len()));
        let essence = essence.unwrap_or_default();
        let all = [Self::Grpc, Self::GrpcWeb, Self::GrpcWebText].into_iter();
        let mut all = all.filter_map(|protocol| Some((protocol, protocol.content_type()?)));
        let found = all.find(|(_, name)| essence.eq_ignore_ascii_case(name.as_bytes()));
        found.map_or(Self::Http, |(protocol, _)| protocol)
    }

    /// Returns the content type of gRPC responses, or `None` for HTTP.
    pub(super) fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Http => None,
            Self::Grpc => Some("application/grpc"),
            Self::GrpcWeb => Some("application/grpc-web"),
            Self::GrpcWebText => Some("application/grpc-web-text"),
        }
    }
}

/// Returns a response that consists of trailers only (gRPC over HTTP/2, "Trailers-Only").
///
/// The status is in the headers and there is no body, so it is sent as one HEADERS frame with END_STREAM. Clients other than
/// tonic require that.
pub(super) fn trailers_only(
    rejection: &Rejection,
    content_type: &'static str,
    description: Description,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(
        STATUS,
        HeaderValue::from(u16::from(rejection.grpc_status())),
    );
    if description == Description::Sent {
        let message = HeaderValue::try_from(percent_encoded(&rejection.to_string()));
        headers.extend(message.ok().map(|message| (MESSAGE, message)));
    }
    response
}

/// Percent-encodes a message: everything but printable ASCII, and the percent sign itself (gRPC over HTTP/2, "Responses").
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
    fn only_a_post_with_a_grpc_content_type_is_grpc() {
        use Protocol::{Grpc, GrpcWeb, GrpcWebText, Http};
        for (content_type, expected) in [
            ("application/grpc", Grpc),
            ("application/grpc+proto", Grpc),
            ("application/grpc+json", Grpc),
            ("application/grpc;charset=utf-8", Grpc),
            ("application/grpc ; charset=utf-8", Grpc),
            ("Application/gRPC", Grpc),
            ("application/grpc-web", GrpcWeb),
            ("application/grpc-web+proto", GrpcWeb),
            ("application/grpc-web-text", GrpcWebText),
            ("application/grpc-web-text+proto", GrpcWebText),
            ("application/grpc-other", Http),
            ("application/grpcx", Http),
            ("application/json", Http),
            ("text/plain; a=application/grpc", Http),
            ("", Http),
        ] {
            for method in [
                Method::POST,
                Method::GET,
                Method::HEAD,
                Method::PUT,
                Method::OPTIONS,
                Method::CONNECT,
            ] {
                let expected = match method {
                    Method::POST => expected,
                    _ => Http,
                };
                let mut request = Request::new(());
                *request.method_mut() = method.clone();
                let content_type = HeaderValue::from_static(content_type);
                request
                    .headers_mut()
                    .insert(CONTENT_TYPE, content_type.clone());
                assert_eq!(
                    Protocol::detect(&request),
                    expected,
                    "{method} {content_type:?}"
                );
            }
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        assert_eq!(Protocol::detect(&request), Http);
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("100 %\nü"), "100 %25%0A%C3%BC");
    }
}
