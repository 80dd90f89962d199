//! The responses of a Kubernetes API server: content negotiation, headers, and errors as `Status` objects.
//!
//! The tests in `tests/it/fakes.rs` compare them with recorded responses of real API servers.

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

pub(super) use crate::keys::discovery::DISCOVERY_PATH;
pub(super) use crate::keys::sources::JWKS_PATH;

pub(super) const DISCOVERY_TYPE: &str = "application/json";
pub(super) const KEY_SET_TYPE: &str = "application/jwk-set+json";

/// The headers that name the flow-control rules of a request. Only responses to unauthenticated callers lack them.
const FLOW_CONTROL: [(HeaderName, HeaderValue); 2] = [
    (
        HeaderName::from_static("x-kubernetes-pf-flowschema-uid"),
        HeaderValue::from_static("0fb6a1a5-6b9b-4f7d-8f3f-f8b0f3f6b1a1"),
    ),
    (
        HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid"),
        HeaderValue::from_static("7d2c9d0e-5c53-4c4f-9a55-2d7f3a5f7c02"),
    ),
];

/// Returns the media type of the document at a path, or `None` if there is no document at that path.
pub(super) fn document_type(path: &str) -> Option<&'static str> {
    match path {
        DISCOVERY_PATH => Some(DISCOVERY_TYPE),
        JWKS_PATH => Some(KEY_SET_TYPE),
        _ => None,
    }
}

/// The treatment of the `Accept` header in requests for documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptHeader {
    /// The server responds with 406 if the header does not contain the document's media type, as Kubernetes does.
    Respected,
    /// The server ignores the header, as most other issuers do.
    Ignored,
}

/// Checks the method and the `Accept` header of a request for a document of that media type.
///
/// # Errors
///
/// The response to the request: 405 because of its method, or 406 because of its `Accept` header.
pub(super) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    media_type: &str,
    accept_header: AcceptHeader,
) -> Result<(), Box<Response<String>>> {
    if method != Method::GET {
        return Err(Box::new(method_not_allowed()));
    }
    if accept_header == AcceptHeader::Ignored {
        return Ok(());
    }
    // Only the first `Accept` header counts, a wildcard subtype matches nothing, and `q` is ignored.
    let accept = headers.get(ACCEPT).map(HeaderValue::to_str);
    let accept = match accept {
        None | Some(Ok("")) => return Ok(()),
        Some(accept) => accept.unwrap_or_default(),
    };
    let mut types = accept
        .split(',')
        .map(|range| range.split(';').next().unwrap_or_default().trim());
    if types.any(|range| range == "*/*" || range == media_type) {
        return Ok(());
    }
    Err(Box::new(status(
        StatusCode::NOT_ACCEPTABLE,
        "NotAcceptable",
        "406: Not Acceptable",
        Some(json!({})),
    )))
}

/// Creates a response with a published document.
pub(super) fn document(media_type: &'static str, document: &Value) -> Response<String> {
    let mut response = body(StatusCode::OK, media_type, document.to_string());
    response.headers_mut().insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    response
}

/// Creates a response with an API object.
pub(super) fn object(status: StatusCode, object: &Value) -> Response<String> {
    body(status, "application/json", pretty(object))
}

/// Creates the response of a health check.
pub(super) fn healthy() -> Response<String> {
    let mut response = body(StatusCode::OK, "text/plain; charset=utf-8", "ok".to_owned());
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Creates the response to a caller whose credentials are not valid.
pub(super) fn unauthorized() -> Response<String> {
    let mut response = status(
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
        "Unauthorized",
        None,
    );
    for (name, _) in &FLOW_CONTROL {
        response.headers_mut().remove(name);
    }
    response
}

/// Creates the response to an authenticated caller who lacks a permission.
pub(super) fn forbidden(message: &str, details: Value) -> Response<String> {
    let mut response = status(StatusCode::FORBIDDEN, "Forbidden", message, Some(details));
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Creates the response for an error, with a `Status` object.
pub(super) fn status(
    code: StatusCode,
    reason: &str,
    message: &str,
    details: Option<Value>,
) -> Response<String> {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    if let Some(details) = details {
        status["details"] = details;
    }
    object(code, &status)
}

fn method_not_allowed() -> Response<String> {
    // The API server sends no `Allow` header.
    status(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        Some(json!({})),
    )
}

fn body(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.extend(FLOW_CONTROL);
    response
}

fn pretty(value: &Value) -> String {
    // A `Value` always has a JSON form.
    serde_json::to_string_pretty(value).unwrap_or_default()
}
