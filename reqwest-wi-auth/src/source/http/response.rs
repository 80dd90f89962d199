//! The response of a server that exchanges or issues tokens.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Endpoint, Secrets};
use crate::error::FetchError;
use crate::json_object::{Object, optional_object};

/// The size limit of a response.
const MAX_BYTES: usize = 64 * 1024;

/// A response, read as a whole.
#[derive(Debug)]
pub(crate) struct Response {
    endpoint: String,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
    secrets: Secrets,
}

/// An error response of OAuth 2.0 (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct OAuthError {
    error: String,
    error_description: Option<String>,
}

/// The error of a Google API, or a `Status` of Kubernetes.
#[derive(Deserialize)]
struct ApiError {
    #[serde(default, deserialize_with = "optional_object")]
    error: Option<GoogleError>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct GoogleError {
    message: Option<String>,
    status: Option<String>,
}

impl Response {
    pub(super) async fn read(
        endpoint: &Endpoint,
        mut response: reqwest::Response,
        secrets: Secrets,
        error: impl Fn(reqwest::Error) -> FetchError,
    ) -> Result<Self, FetchError> {
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        while let Some(chunk) = response.chunk().await.map_err(&error)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::InvalidResponse {
                    endpoint: endpoint.to_string(),
                    reason: format!("status {status}, and a body of more than the limit of 64 KiB"),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Self {
            endpoint: endpoint.to_string(),
            status,
            retry_after,
            body,
            secrets,
        })
    }

    /// Creates a response that was read before, for tests.
    #[cfg(test)]
    pub(crate) fn for_test(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        secrets: Secrets,
    ) -> Self {
        Self {
            endpoint: "https://id.example/token".to_owned(),
            status,
            retry_after: retry_after(headers),
            body: Zeroizing::new(body.to_vec()),
            secrets,
        }
    }

    /// Returns the status code.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the URL of the endpoint, without its query.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the body.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns a text of the response in one line, without credentials, and shortened.
    pub(crate) fn redacted(&self, text: &str) -> String {
        self.secrets.remove_from(text)
    }

    /// Returns the error of a response that lacks something: `reason` states what was found, and what was expected.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> FetchError {
        FetchError::InvalidResponse {
            endpoint: self.endpoint.clone(),
            reason: reason.into(),
        }
    }

    /// Parses the body of a successful response as JSON. A token that is borrowed from the body is not copied.
    ///
    /// # Errors
    ///
    /// Returns the error that the response states if its status is not 2xx, and [`FetchError::InvalidResponse`] if its body
    /// does not have the expected members.
    pub(crate) fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, FetchError> {
        if !self.status.is_success() {
            return Err(self.error());
        }
        let parsed: Result<Object<T>, _> = serde_json::from_slice(&self.body);
        parsed.map(|Object(value)| value).map_err(|error| {
            // The message of serde_json contains values, so only its position is shown.
            let (line, column) = (error.line(), error.column());
            let found = match error.classify() {
                serde_json::error::Category::Data => "JSON without the expected members",
                _ => "a body that is not JSON",
            };
            self.invalid(format!("{found} (line {line}, column {column})"))
        })
    }

    /// Returns the error that the response states: that of OAuth 2.0, or the message of a Google or Kubernetes API, or the
    /// beginning of the body.
    pub(crate) fn error(&self) -> FetchError {
        let status = self.status;
        let endpoint = self.endpoint.clone();
        if let Ok(Object(error)) = serde_json::from_slice::<Object<OAuthError>>(&self.body) {
            let description = error.error_description.as_deref().unwrap_or_default();
            return FetchError::OAuth {
                endpoint,
                status,
                error: self.redacted(&error.error),
                description: some_text(self.redacted(description)),
                advice: None,
                is_temporary: false,
                retry_after: self.retry_after,
            };
        }
        let message = match serde_json::from_slice::<Object<ApiError>>(&self.body) {
            Ok(Object(ApiError {
                error: Some(error), ..
            })) => {
                let code = error.status.unwrap_or_default();
                format!("{code} {}", error.message.unwrap_or_default())
            }
            Ok(Object(ApiError {
                message: Some(message),
                ..
            })) => message,
            _ => String::from_utf8_lossy(&self.body).into_owned(),
        };
        let advice = status.is_redirection().then(|| {
            "redirects are not followed, since a request contains credentials; configure the URL of the server itself"
                .into()
        });
        FetchError::Status {
            endpoint,
            status,
            message: some_text(self.redacted(&message)),
            advice,
            retry_after: self.retry_after,
        }
    }
}

fn some_text(text: String) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into_boxed_str())
}

/// Returns the delay of a `Retry-After` header: a number of seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    // `parse` also accepts a plus sign.
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    date.duration_since(SystemTime::now()).ok()
}
