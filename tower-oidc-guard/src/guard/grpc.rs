//! Recognizes gRPC requests, and makes the responses to those that are rejected (gRPC over HTTP/2, "Responses").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};

use super::message_boundary::{TRAILERS, WebEncoding};
use super::rejection_response::{Description, NO_STORE};
use super::token_bound_body::BodyEnded;
use crate::rejection::Rejection;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// The status `UNAUTHENTICATED`.
const UNAUTHENTICATED: HeaderValue = HeaderValue::from_static("16");

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

    /// Returns the protocol of a response by its content type.
    pub(super) fn of_response(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE);
        content_type.map_or(Self::Http, |content_type| {
            Self::from_content_type(content_type.as_bytes())
        })
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
/// tonic require that. `scopes` are the scopes that the token needs, if only those are missing; the message names them.
pub(super) fn trailers_only(
    rejection: &Rejection,
    scopes: Option<&str>,
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
        let message = match scopes {
            Some(scopes) => format!("{rejection}: {scopes}"),
            None => rejection.to_string(),
        };
        let message = HeaderValue::try_from(percent_encoded(&message));
        headers.extend(message.ok().map(|message| (MESSAGE, message)));
    }
    response
}

/// Returns the trailers of a call that was ended with its token.
pub(super) fn unauthenticated_trailers(ended: &BodyEnded, description: Description) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, UNAUTHENTICATED);
    if description == Description::Sent {
        let message = HeaderValue::try_from(percent_encoded(&ended.to_string()));
        trailers.extend(message.ok().map(|message| (MESSAGE, message)));
    }
    trailers
}

/// Returns trailers as the last frame of a gRPC-Web body.
pub(super) fn web_trailers(trailers: &HeaderMap, encoding: WebEncoding) -> Bytes {
    let mut text = Vec::new();
    for (name, value) in trailers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.push(b':');
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let frame = [&[TRAILERS], &length[..], &text].concat();
    match encoding {
        WebEncoding::Binary => frame.into(),
        WebEncoding::Base64 => STANDARD.encode(frame).into(),
    }
}

/// Returns whether headers or trailers have a status other than `OK`.
pub(super) fn has_failed(headers: &HeaderMap) -> bool {
    headers.get(STATUS).is_some_and(|status| *status != "0")
}

/// Returns whether headers have a status, so that the response has no body.
pub(super) fn has_status(headers: &HeaderMap) -> bool {
    headers.contains_key(STATUS)
}

/// Replaces the status in headers or trailers, with its description, by that of others.
pub(super) fn replace_status(headers: &mut HeaderMap, status: HeaderMap) {
    headers.remove(MESSAGE);
    headers.remove(DETAILS);
    for (name, value) in status
        .into_iter()
        .filter_map(|(name, value)| Some((name?, value)))
    {
        headers.insert(name, value);
    }
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
