//! The responses of Google's issuer.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

/// The URL of Google's keys, which is not below the URL of the issuer.
pub(super) const JWKS_URI: &str = "https://www.googleapis.com/oauth2/v3/certs";
/// The path of that URL.
pub(super) const JWKS_PATH: &str = "/oauth2/v3/certs";

/// Adds the members of Google's discovery document that the document of a Kubernetes cluster does not have.
pub(super) fn add_members(document: &mut Value) {
    let members = json!({
        "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
        "device_authorization_endpoint": "https://oauth2.googleapis.com/device/code",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
        "response_types_supported": [
            "code", "token", "id_token", "code token", "code id_token", "token id_token", "code token id_token", "none",
        ],
        "scopes_supported": ["openid", "email", "profile"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "claims_supported": [
            "aud", "email", "email_verified", "exp", "family_name", "given_name", "iat", "iss", "name", "picture", "sub",
        ],
        "code_challenge_methods_supported": ["plain", "S256"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:device_code",
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
        ],
    });
    for (name, value) in members.as_object().into_iter().flatten() {
        document[name.as_str()] = value.clone();
    }
}

/// Creates the response with the discovery document.
pub(super) fn document(document: &Value) -> Response<String> {
    published("application/json", "public, max-age=3600", document)
}

/// Creates the response with the key set.
pub(super) fn key_set(key_set: &Value) -> Response<String> {
    let cache_control = "public, max-age=19800, must-revalidate, no-transform";
    published("application/json; charset=UTF-8", cache_control, key_set)
}

/// Creates the response to a request for anything else.
pub(super) fn not_found() -> Response<String> {
    error(StatusCode::NOT_FOUND)
}

/// Creates the response to a method that the documents do not have.
pub(super) fn method_not_allowed() -> Response<String> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED);
    let allowed = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(ALLOW, allowed);
    response
}

fn published(
    content_type: &'static str,
    cache_control: &'static str,
    document: &Value,
) -> Response<String> {
    let mut response = Response::new(document.to_string());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    response
}

fn error(status: StatusCode) -> Response<String> {
    let mut response = Response::new(format!("<title>Error {status}</title>"));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/html; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
