//! Makes the response to a rejected request (RFC 6750, section 3).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use super::endpoints::ProtectedResource;
use super::grpc::{self, Protocol};
use crate::rejection::Rejection;

/// The response depends on the caller's token and on the time, so it cannot be reused.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A user's function that makes the response from the rejection and the default response.
pub(super) type CustomResponse =
    Arc<dyn Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync>;

/// Whether a response contains a description of the rejection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Description {
    #[default]
    Sent,
    Omitted,
}

/// Makes the responses to rejected requests.
#[derive(Clone)]
pub(super) struct RejectionResponses {
    pub(super) realm: String,
    pub(super) description: Description,
    pub(super) resource: Option<ProtectedResource>,
    pub(super) custom: Option<CustomResponse>,
}

impl RejectionResponses {
    /// Returns the response to a rejected request. It has `Cache-Control: no-store`, unless the user's function sets another
    /// value.
    ///
    /// `scopes` are the scopes that the token needs, separated by spaces, if only those are missing.
    pub(super) fn response(
        &self,
        rejection: &Rejection,
        scopes: Option<&str>,
        protocol: Protocol,
    ) -> Response<Bytes> {
        if let Some(content_type) = protocol.content_type() {
            return grpc::trailers_only(rejection, scopes, content_type, self.description);
        }
        let response = self.default_response(rejection, scopes);
        let Some(custom) = &self.custom else {
            return response;
        };
        let mut response = custom(rejection, response);
        let headers = response.headers_mut();
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        response
    }

    fn default_response(&self, rejection: &Rejection, scopes: Option<&str>) -> Response<Bytes> {
        let status = rejection.status();
        let text = format!(
            "{} - {}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        );
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(CACHE_CONTROL, NO_STORE);
        if let Some(retry_after) = rejection.retry_after() {
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status != StatusCode::SERVICE_UNAVAILABLE {
            let challenge = HeaderValue::try_from(self.challenge(rejection, scopes));
            let challenge = challenge.ok();
            headers.extend(challenge.map(|challenge| (WWW_AUTHENTICATE, challenge)));
        }
        response
    }

    fn challenge(&self, rejection: &Rejection, scopes: Option<&str>) -> String {
        let mut challenge = format!("Bearer realm=\"{}\"", escaped(&self.realm));
        if let Some(code) = rejection.error_code() {
            challenge.push_str(&format!(", error=\"{code}\""));
            if self.description == Description::Sent {
                let description = escaped(&rejection.to_string());
                challenge.push_str(&format!(", error_description=\"{description}\""));
            }
        }
        if let Some(scopes) = scopes {
            challenge.push_str(&format!(", scope=\"{}\"", escaped(scopes)));
        }
        if let Some(resource) = &self.resource {
            let url = escaped(&resource.metadata_url);
            challenge.push_str(&format!(", resource_metadata=\"{url}\""));
        }
        challenge
    }
}

impl fmt::Debug for RejectionResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionResponses")
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

/// Returns text as the content of a quoted-string (RFC 9110, section 5.6.4), without control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars().filter(|character| !character.is_control()) {
        if matches!(character, '"' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::TokenError;

    fn response(rejection: &Rejection, realm: &str) -> Response<Bytes> {
        let responses = RejectionResponses {
            realm: realm.to_owned(),
            description: Description::Sent,
            resource: None,
            custom: None,
        };
        responses.response(rejection, None, Protocol::Http)
    }

    fn header(response: &Response<Bytes>, name: http::HeaderName) -> Option<&str> {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().expect("ASCII"))
    }

    #[test]
    fn without_a_token_the_challenge_has_a_realm_and_no_error() {
        let response = response(&Rejection::MissingToken, "here");
        assert_eq!(response.status(), 401);
        assert_eq!(
            header(&response, WWW_AUTHENTICATE),
            Some("Bearer realm=\"here\"")
        );
        assert_eq!(response.body(), "401 - Unauthorized");
    }

    #[test]
    fn a_rejected_token_is_invalid_token() {
        let response = response(&Rejection::InvalidToken(TokenError::Expired), "here");
        assert_eq!(
            header(&response, WWW_AUTHENTICATE),
            Some(
                "Bearer realm=\"here\", error=\"invalid_token\", error_description=\"the token has expired\""
            )
        );
    }

    #[test]
    fn a_malformed_request_is_a_400() {
        let response = response(&Rejection::MalformedRequest("two tokens"), "here");
        assert_eq!(response.status(), 400);
        let challenge = header(&response, WWW_AUTHENTICATE).expect("a challenge");
        assert!(
            challenge.contains("error=\"invalid_request\""),
            "{challenge}"
        );
    }

    #[test]
    fn without_keys_the_response_is_503_with_retry_after_in_whole_seconds() {
        for (milliseconds, seconds) in [
            (0, "1"),
            (300, "1"),
            (1000, "1"),
            (1001, "2"),
            (60_000, "60"),
        ] {
            let retry_after = Duration::from_millis(milliseconds);
            let response = response(&Rejection::KeysUnavailable { retry_after }, "here");
            assert_eq!(response.status(), 503);
            assert_eq!(header(&response, RETRY_AFTER), Some(seconds));
            assert_eq!(header(&response, WWW_AUTHENTICATE), None);
        }
    }

    #[test]
    fn quotes_and_line_breaks_in_the_realm_are_escaped_or_removed() {
        let response = response(&Rejection::MissingToken, "a\"b\\c\r\nX: y");
        assert_eq!(
            header(&response, WWW_AUTHENTICATE),
            Some("Bearer realm=\"a\\\"b\\\\cX: y\"")
        );
    }
}
