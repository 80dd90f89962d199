//! Errors of token reviews.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use crate::text::with_causes;

/// The reason why the API server did not review a token.
///
/// The text of an error contains the texts of all its causes, and what to do if that is known, so `source` returns `None`. It
/// contains nothing from the token. What it quotes from the API server's response is shortened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenReviewError {
    /// The request could not be sent, or no response was received.
    #[error("POST {url} failed: {}{}", with_causes(cause), advice(hint))]
    Request {
        /// The URL of the request.
        url: String,
        /// The error of the HTTP client.
        cause: reqwest_middleware::Error,
        /// A remedy for this cause, if one is known.
        hint: Option<&'static str>,
    },
    /// The guard's service account may not create TokenReviews: the status of the response was 403.
    #[error("POST {url} returned 403 Forbidden{}: {}", quoted(message), role_advice(account.as_deref()))]
    MissingRole {
        /// The URL of the request.
        url: String,
        /// The API server's message, shortened, if the response contains one.
        message: Option<String>,
        /// The guard's own service account, as in the `sub` of its token, if that can be read.
        account: Option<String>,
    },
    /// The status of the response was neither 201 nor 200.
    #[error("POST {url} returned {status}{}{}", quoted(message), advice(hint))]
    Status {
        /// The URL of the request.
        url: String,
        /// The status of the response.
        status: StatusCode,
        /// The API server's message, shortened, if the response contains one.
        message: Option<String>,
        /// A remedy for this status, if one is known.
        hint: Option<&'static str>,
        /// The time to wait before another request, if the response states it.
        retry_after: Option<Duration>,
    },
    /// The response was not complete within the time limit.
    #[error(
        "POST {url} timed out: it did not complete within {limit:?} (`time_limit`); check that the API server responds, and that no network policy drops the packets"
    )]
    Timeout {
        /// The URL of the request.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The response is not the review of the token.
    #[error("the response to POST {url} cannot be used: {reason}")]
    InvalidResponse {
        /// The URL of the request.
        url: String,
        /// The fault of the response.
        reason: String,
    },
    /// The API server itself failed to check the token, according to its response.
    #[error("the API server could not check the token: {message}")]
    ReviewFailed {
        /// The API server's message, shortened.
        message: String,
    },
    /// The file of the guard's token or of the CA cannot be used.
    #[error("{reason}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The reason, including the path.
        reason: String,
    },
    /// The review was dropped before it finished, because its tokio runtime was shut down.
    #[error("the review was interrupted: its tokio runtime was shut down")]
    Interrupted,
}

impl TokenReviewError {
    /// Returns the time to wait before another request, if the API server states it.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Returns a remedy as the end of a sentence.
fn advice(hint: &Option<&'static str>) -> String {
    hint.map(|hint| format!("; {hint}")).unwrap_or_default()
}

fn quoted(message: &Option<String>) -> String {
    let message = message.as_ref();
    message
        .map(|message| format!(" ({message})"))
        .unwrap_or_default()
}

/// Returns how to give the role to the guard's own service account.
fn role_advice(account: Option<&str>) -> String {
    let mut parts = account.unwrap_or_default().split(':').skip(2);
    match (parts.next(), parts.next()) {
        (Some(namespace), Some(name)) => format!(
            "the guard's service account {name:?} in the namespace {namespace:?} lacks the role `system:auth-delegator`; grant it with `kubectl create clusterrolebinding {namespace}-{name}-auth-delegator --clusterrole=system:auth-delegator --serviceaccount={namespace}:{name}`"
        ),
        _ => "the guard's service account lacks the role `system:auth-delegator`; grant it with `kubectl create clusterrolebinding NAME --clusterrole=system:auth-delegator --serviceaccount=NAMESPACE:ACCOUNT`"
            .to_owned(),
    }
}
