//! Errors of requests for tokens to servers that exchange or issue them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::Error;
use crate::text::with_causes;

/// An error of a request for a token, other than to Google's metadata server.
///
/// Texts of a response are shown without the credentials of the request and without anything that looks like a token, in one
/// line, and shortened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no credential to authenticate the request with, such as the token that is to be exchanged.
    #[error("cannot request a token from {endpoint}: {credential}: {}", .source)]
    Credential {
        /// The URL of the endpoint.
        endpoint: String,
        /// The kind of the credential, such as `the subject token`.
        credential: &'static str,
        /// The error of its source.
        #[source]
        source: Arc<Error>,
    },
    /// The CA certificates cannot be used.
    #[error(
        "cannot request a token from {endpoint}: cannot load the CA certificates in {}: {reason}; expected a file with certificates in PEM", .path.display()
    )]
    CaFile {
        /// The URL of the endpoint.
        endpoint: String,
        /// The path of the file.
        path: PathBuf,
        /// Why the file cannot be used.
        reason: String,
    },
    /// No connection could be established: the name does not resolve, no server listens at the address, the certificate is
    /// not trusted, or the connection was not established in time.
    #[error(
        "cannot connect to {endpoint}: {}; check the host name, that no network policy blocks the connection, and whether it requires a proxy (`proxy_from_environment`) or a private CA (`ca_file`)",
        with_causes(source.as_ref())
    )]
    Unreachable {
        /// The URL of the endpoint.
        endpoint: String,
        /// The error of the HTTP client.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// There was no complete response within the time limit, or the connection was closed.
    #[error(
        "no complete response from {endpoint} within {limit:?}: {}",
        with_causes(source.as_ref())
    )]
    NoResponse {
        /// The URL of the endpoint.
        endpoint: String,
        /// The time limit of a request.
        limit: Duration,
        /// The error of the HTTP client.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// The endpoint returned an error as defined by OAuth 2.0 (RFC 6749, section 5.2).
    #[error("{endpoint} returned {status} with the error {error:?}{}{}", description_text(.description.as_deref()), advice_text(.advice.as_deref()))]
    OAuth {
        /// The URL of the endpoint.
        endpoint: String,
        /// The status code of the response.
        status: StatusCode,
        /// The error code: `error`, such as `invalid_grant`.
        error: String,
        /// The explanation of the server: `error_description`.
        description: Option<Box<str>>,
        /// Advice on what to do, if that is known.
        advice: Option<Box<str>>,
        /// Whether the error may disappear without a change, although its code alone does not imply that, such as a credential
        /// that takes effect some minutes after it was added.
        is_temporary: bool,
        /// How long the server asked to wait: `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The endpoint returned another error.
    #[error("{endpoint} returned {status}{}{}", description_text(.message.as_deref()), advice_text(.advice.as_deref()))]
    Status {
        /// The URL of the endpoint.
        endpoint: String,
        /// The status code of the response.
        status: StatusCode,
        /// The message in the response, or the beginning of its body, if it has one.
        message: Option<Box<str>>,
        /// Advice on what to do, if that is known.
        advice: Option<Box<str>>,
        /// How long the server asked to wait: `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The response is not one that a token can be taken from.
    #[error("{endpoint} returned an invalid response: {reason}")]
    InvalidResponse {
        /// The URL of the endpoint.
        endpoint: String,
        /// The reason: what was found, and what was expected.
        reason: String,
    },
    /// The token is for an audience other than the requested one.
    #[error(
        "{endpoint} returned a token for {found}, expected the audience {expected:?}; check that the server issues tokens for this audience"
    )]
    WrongAudience {
        /// The URL of the endpoint.
        endpoint: String,
        /// The requested audience.
        expected: String,
        /// A description of the token's audiences.
        found: String,
    },
    /// The source was opened outside a tokio runtime.
    #[error(
        "tokens from {endpoint} cannot be fetched outside a tokio runtime; open the source within one"
    )]
    NoRuntime {
        /// The URL of the endpoint.
        endpoint: String,
    },
}

impl FetchError {
    /// Returns whether a later attempt may succeed without a change of configuration or code.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Credential { source, .. } => source.is_transient(),
            Self::OAuth {
                is_temporary: true, ..
            } => true,
            Self::OAuth { status, error, .. } => {
                // Accounts and their bindings take effect minutes after they are created, and keys of an issuer rotate, so a
                // rejected grant may be accepted later.
                matches!(
                    error.as_str(),
                    "invalid_grant" | "server_error" | "temporarily_unavailable" | "slow_down"
                ) || is_transient_status(*status)
            }
            // A missing permission may be granted while the program is running.
            Self::Status { status, .. } => {
                is_transient_status(*status)
                    || matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            }
            Self::NoRuntime { .. } => false,
            Self::CaFile { .. }
            | Self::Unreachable { .. }
            | Self::NoResponse { .. }
            | Self::InvalidResponse { .. }
            | Self::WrongAudience { .. } => true,
        }
    }

    /// Returns whether both errors have the same cause. Repeated errors of the same cause are logged at a lower level.
    pub(super) fn has_same_cause(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::OAuth {
                    status,
                    error,
                    advice,
                    ..
                },
                Self::OAuth {
                    status: other_status,
                    error: other_error,
                    advice: other_advice,
                    ..
                },
                // The description may contain an identifier of the request. A source that knows more than the error code, for
                // example a code in the description, gives other advice.
            ) => (status, error, advice) == (other_status, other_error, other_advice),
            // The message may contain an identifier of the request.
            (Self::Status { status, .. }, Self::Status { status: other, .. }) => status == other,
            (Self::Credential { source, .. }, Self::Credential { source: other, .. }) => {
                source.has_same_cause(other)
            }
            _ => self.to_string() == other.to_string(),
        }
    }

    /// Returns how long the server asked to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OAuth { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Marks the error of a response as one that may disappear without a change.
    #[cfg(feature = "federation")]
    pub(crate) fn into_temporary(mut self) -> Self {
        if let Self::OAuth { is_temporary, .. } = &mut self {
            *is_temporary = true;
        }
        self
    }

    /// Adds what to do to the error of a response.
    #[cfg(feature = "federation")]
    pub(crate) fn with_advice(mut self, text: impl Into<String>) -> Self {
        if let Self::OAuth { advice, .. } | Self::Status { advice, .. } = &mut self {
            *advice = Some(text.into().into_boxed_str());
        }
        self
    }
}

fn is_transient_status(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

fn description_text(description: Option<&str>) -> String {
    description.map_or_else(String::new, |description| format!(": {description}"))
}

fn advice_text(advice: Option<&str>) -> String {
    advice.map_or_else(String::new, |advice| format!("; {advice}"))
}
