//! What can go wrong on the way to a token.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::token::TokenFault;
use crate::watched_file::error::FileError;

/// Why there is no token to send, or why a middleware could not be made.
///
/// No error contains a token.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The token's file could not be read, or holds no token.
    #[error(transparent)]
    File(#[from] FileError),
    /// The metadata server gave no token.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The command provided no token.
    #[error("the command {program:?} provided no token: {reason}")]
    Command {
        /// The program, without its arguments.
        program: String,
        /// What happened instead.
        reason: String,
    },
    /// No token has been fetched yet: await [`refresh`](crate::TokenSource::refresh).
    #[error("no token of {origin} has been fetched yet")]
    NotFetched {
        /// Where the token is to come from.
        origin: String,
    },
    /// The bytes are not a token.
    #[error("not a token: {reason}")]
    Token {
        /// What is wrong with them.
        reason: TokenFault,
    },
    /// The newest token has expired, so it is not sent.
    #[error("the token of {origin} expired {} s ago and was not replaced: {state}", ago(.since))]
    Expired {
        /// Where the token came from: a path or a URL.
        origin: String,
        /// The token's `exp`.
        since: SystemTime,
        /// What was found at the last look for a newer one.
        state: String,
    },
    /// The URL is not one whose origin tokens may be sent to.
    #[error("no token can be sent to {url:?}: {reason}")]
    Origin {
        /// The URL, as given.
        url: String,
        /// What is wrong with it, and what to do.
        reason: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made")]
    Client(#[source] Arc<reqwest::Error>),
}

/// What is wrong with the metadata server.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Nothing answers: its name does not resolve, or nobody listens.
    #[error("the metadata server {host} cannot be reached; this is not Google Cloud, or it is kept from this process: {}", root(source.as_ref()))]
    Unreachable {
        /// The host that was asked.
        host: String,
        /// What the HTTP client says.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// It took too long, or broke off.
    #[error("the metadata server {host} did not answer in time")]
    Silent {
        /// The host that was asked.
        host: String,
        /// How long was waited at most.
        limit: Duration,
    },
    /// It refused: the account may not have an identity, or the server is still starting.
    #[error(
        "the metadata server {host} answered {status}; is a service account bound to this workload?"
    )]
    Status {
        /// The host that was asked.
        host: String,
        /// What was answered.
        status: StatusCode,
    },
    /// Something else answers there: the answer lacks `Metadata-Flavor: Google`.
    #[error("what answers at {host} is no metadata server of Google's")]
    Flavor {
        /// The host that was asked.
        host: String,
    },
    /// The source was to be opened outside a tokio runtime.
    #[error(
        "tokens of the metadata server {host} cannot be fetched outside a tokio runtime; open the source in one"
    )]
    NoRuntime {
        /// The host that was to be asked.
        host: String,
    },
    /// The response is not a token.
    #[error("the response of the metadata server {host} is not a token: {reason}")]
    Answer {
        /// The host that was asked.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token is for another audience than the one that was asked for.
    #[error(
        "the metadata server {host} returned a token for {found}, expected the audience {expected:?}"
    )]
    Audience {
        /// The host that was asked.
        host: String,
        /// The audience that was asked for.
        expected: String,
        /// What the token is for, in words.
        found: String,
    },
}

impl MetadataError {
    /// Whether it is the same kind of error as another.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Status { status, .. }, Self::Status { status: other, .. }) => status == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Error {
    /// Finds this crate's error in an error of a reqwest client with middleware, beneath whatever other middleware has
    /// wrapped it in.
    ///
    /// `None` if the request failed for another reason. `reqwest-retry` takes every error of a middleware for a permanent
    /// one. This strategy retries those that are [transient](Self::is_transient):
    ///
    /// ```
    /// use reqwest_middleware::ClientBuilder;
    /// use reqwest_retry::policies::ExponentialBackoff;
    /// use reqwest_retry::{DefaultRetryableStrategy, Retryable, RetryableStrategy, RetryTransientMiddleware};
    /// use reqwest_wi_auth::{BearerAuth, Error};
    ///
    /// struct RetryTokens;
    ///
    /// impl RetryableStrategy for RetryTokens {
    ///     fn handle(
    ///         &self,
    ///         result: &Result<reqwest::Response, reqwest_middleware::Error>,
    ///     ) -> Option<Retryable> {
    ///         match result {
    ///             Err(error) if Error::find(error).is_some_and(Error::is_transient) => Some(Retryable::Transient),
    ///             other => DefaultRetryableStrategy.handle(other),
    ///         }
    ///     }
    /// }
    ///
    /// # fn example(auth: BearerAuth) {
    /// let policy = ExponentialBackoff::builder().build_with_max_retries(3);
    /// let client = ClientBuilder::new(reqwest::Client::new())
    ///     .with(RetryTransientMiddleware::new_with_policy_and_strategy(policy, RetryTokens))
    ///     .with(auth)
    ///     .build();
    /// # }
    /// ```
    pub fn find(error: &reqwest_middleware::Error) -> Option<&Self> {
        let reqwest_middleware::Error::Middleware(error) = error else {
            return None;
        };
        error.downcast_ref::<Self>().or_else(|| {
            error.chain().find_map(|cause| {
                let wrapped = cause.downcast_ref::<reqwest_middleware::Error>();
                let direct = cause.downcast_ref::<Self>();
                direct.or_else(|| wrapped.and_then(Self::find))
            })
        })
    }

    /// The error of a middleware, with this error as its source.
    pub(crate) fn into_middleware_error(self) -> reqwest_middleware::Error {
        let message = format!("the request was not sent: {self}");
        reqwest_middleware::Error::Middleware(anyhow::Error::new(self).context(message))
    }

    /// Returns whether trying again later can help, with nothing changed in configuration or code.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Metadata(error) => !matches!(
                error,
                MetadataError::Flavor { .. } | MetadataError::NoRuntime { .. }
            ),
            Self::File(FileError::NoRuntime { .. } | FileError::Closed { .. }) => false,
            Self::File(_) | Self::Expired { .. } | Self::NotFetched { .. } => true,
            Self::Command { .. } => true,
            Self::Token { .. } | Self::Origin { .. } | Self::Client(_) => false,
        }
    }
}

fn ago(since: &SystemTime) -> u64 {
    since.elapsed().unwrap_or_default().as_secs()
}

/// What lies at the bottom of an error.
fn root(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
