//! The errors of this crate.

#[cfg(feature = "federation")]
mod ambient;
mod fetch;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

#[cfg(feature = "federation")]
pub(crate) use self::ambient::list;
#[cfg(feature = "federation")]
pub use self::ambient::{AmbientError, AmbientFinding};
pub use self::fetch::FetchError;
use crate::text::with_causes;
use crate::token::TokenFormatError;
use crate::watched_file::FileError;

/// The longest time that a server can ask to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// An error of a token source, an origin or a client.
///
/// The text of an error is one line that contains the texts of all its causes, and what to do if that is known. `source` returns
/// the causes as well, so a reporter that prints the whole chain of sources prints some of them twice.
///
/// No error contains a token.
///
/// The `Debug` form is the text as well, because that is what a program prints that returns the error from `main`.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The token file could not be read, or does not contain a valid token.
    #[error(transparent)]
    File(#[from] FileError),
    /// The metadata server did not return a token.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A server that exchanges or issues tokens did not return one.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No source was chosen by the environment.
    #[cfg(feature = "federation")]
    #[error(transparent)]
    Ambient(#[from] AmbientError),
    /// A configuration cannot be used: a file, an environment variable, or a setting of a builder.
    #[error("{location} cannot be used: {reason}")]
    Configuration {
        /// The path of the file, or the name of the variable or setting.
        location: String,
        /// The reason: what was found, what was expected, and what to do.
        reason: String,
    },
    /// The command did not print a token.
    #[error("the command {program:?} returned no token: {reason}")]
    Command {
        /// The program, without its arguments.
        program: String,
        /// The result of the command.
        reason: String,
    },
    /// No token was fetched yet; await [`TokenSource::refresh`](crate::TokenSource::refresh).
    #[error("no token from {location} was fetched yet")]
    NotFetched {
        /// Where the token is fetched from: a host or a command.
        location: String,
    },
    /// A request for a token, with all that it waited for, took longer than its time limits allow.
    #[error(
        "the request for a token from {location} was abandoned after {limit:?}; check that the source of the token that is sent to the server responds, and that the tokio runtime in which the source was opened is not blocked"
    )]
    Abandoned {
        /// Where the token is fetched from.
        location: String,
        /// The time limit.
        limit: Duration,
    },
    /// The bytes are not a valid token.
    #[error("invalid token: {reason}")]
    InvalidToken {
        /// Why the bytes are not a token.
        reason: TokenFormatError,
    },
    /// The newest token has expired, so it is not sent.
    #[error("the token from {location} expired {} s ago and was not replaced: {state}", seconds_since(.since))]
    Expired {
        /// Where the token came from: a path, a host and audience, a command, or `a fixed value`.
        location: String,
        /// When the token expired (its `exp` claim).
        since: SystemTime,
        /// Why there is no newer token: for a file, the result of the last read; for other sources, a fixed explanation.
        state: String,
    },
    /// Tokens cannot be sent to the origin of the URL.
    #[error("tokens cannot be sent to {url:?}: {reason}")]
    InvalidOrigin {
        /// The URL, without user information.
        url: String,
        /// Why tokens cannot be sent there, and what to do.
        reason: &'static str,
    },
    /// No source was created for an audience, since [`BearerAuth::for_each_origin`](crate::BearerAuth::for_each_origin) has
    /// created too many within a short time.
    #[error(
        "no tokens are fetched for the audience {audience:?} of {origin}: too many sources were created within a short time, with at most {max_audiences} at a time; return an audience only for origins of known services, or raise `max_audiences`"
    )]
    TooManyAudiences {
        /// The origin of the request.
        origin: String,
        /// The audience of the origin.
        audience: String,
        /// The number of sources that exist at a time.
        max_audiences: usize,
    },
    /// The HTTP client could not be created.
    #[error("the HTTP client could not be created: {}", with_causes(.0.as_ref()))]
    Client(#[source] Arc<reqwest::Error>),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error of a request to the metadata server.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The configured host of the metadata server is not a host name or address.
    #[error(
        "{host:?} is not the host of a metadata server; expected a name or an address, with an optional port"
    )]
    InvalidHost {
        /// The host, as configured.
        host: String,
    },
    /// No connection could be established: the name does not resolve, no server listens at the address, or the connection was
    /// not established in time.
    #[error(
        "cannot connect to the metadata server at {host}: {}; {}this process may not run on Google Cloud, or a network policy may block the connection",
        with_causes(source.as_ref()),
        name_advice(source.as_ref())
    )]
    Unreachable {
        /// The host of the metadata server.
        host: String,
        /// The error of the HTTP client.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// There was no complete response within the time limit, or the connection was closed.
    #[error(
        "no complete response from the metadata server at {host} within {limit:?}: {}{}",
        with_causes(source.as_ref()),
        if source.is_timeout() { "; check that no network policy drops the packets" } else { "" }
    )]
    NoResponse {
        /// The host of the metadata server.
        host: String,
        /// The time limit of a request.
        limit: Duration,
        /// The error of the HTTP client.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// The metadata server returned an error. It does so while it is starting, and if no service account is bound to the
    /// workload.
    #[error(
        "the metadata server at {host} returned {status}; check that a service account is bound to this workload"
    )]
    Status {
        /// The host of the metadata server.
        host: String,
        /// The status code of the response.
        status: StatusCode,
    },
    /// The response lacks the header `Metadata-Flavor: Google`, so it is from another server.
    #[error(
        "the server at {host} is not Google's metadata server: its response lacks `Metadata-Flavor: Google`"
    )]
    MissingFlavor {
        /// The host of the metadata server.
        host: String,
    },
    /// The source was opened outside a tokio runtime.
    #[error(
        "tokens of the metadata server at {host} cannot be fetched outside a tokio runtime; open the source within one"
    )]
    NoRuntime {
        /// The host of the metadata server.
        host: String,
    },
    /// The body of the response is not a token.
    #[error("the metadata server at {host} returned something other than a token: {reason}")]
    InvalidToken {
        /// The host of the metadata server.
        host: String,
        /// Why the body is not a token.
        reason: String,
    },
    /// The token is for an audience other than the requested one.
    #[error(
        "the metadata server at {host} returned a token for {found}, expected the audience {expected:?}"
    )]
    WrongAudience {
        /// The host of the metadata server.
        host: String,
        /// The requested audience.
        expected: String,
        /// A description of the token's audiences.
        found: String,
    },
}

impl MetadataError {
    /// Returns whether both errors have the same cause. Repeated errors of the same cause are logged at a lower level.
    fn has_same_cause(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Status { status, .. }, Self::Status { status: other, .. }) => status == other,
            (Self::Unreachable { .. }, Self::Unreachable { .. })
            | (Self::NoResponse { .. }, Self::NoResponse { .. }) => {
                self.to_string() == other.to_string()
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Error {
    /// Finds this crate's error in an error of a [`reqwest_middleware`] client, even if other middleware has wrapped it.
    ///
    /// Returns `None` if the request failed for another reason.
    ///
    /// # Examples
    ///
    /// By default, `reqwest-retry` retries no error of a middleware. This strategy retries those that are
    /// [transient](Self::is_transient):
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

    /// Returns whether a later attempt may succeed without a change of configuration or code. Also true for an expired
    /// [`FixedToken`](crate::FixedToken), and for a command that cannot be started.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Metadata(error) => !matches!(
                error,
                MetadataError::InvalidHost { .. }
                    | MetadataError::MissingFlavor { .. }
                    | MetadataError::NoRuntime { .. }
            ),
            Self::Fetch(error) => error.is_transient(),
            #[cfg(feature = "federation")]
            Self::Ambient(error) => error.is_transient(),
            Self::File(FileError::NoRuntime { .. } | FileError::Closed { .. }) => false,
            Self::File(_)
            | Self::Expired { .. }
            | Self::NotFetched { .. }
            | Self::Abandoned { .. } => true,
            Self::Command { .. } | Self::TooManyAudiences { .. } => true,
            Self::Configuration { .. }
            | Self::InvalidToken { .. }
            | Self::InvalidOrigin { .. }
            | Self::Client(_) => false,
        }
    }

    /// Returns whether no connection to the server of the token could be established.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Metadata(MetadataError::Unreachable { .. })
                | Self::Fetch(FetchError::Unreachable { .. })
        )
    }

    /// Returns whether both errors have the same cause. Repeated errors of the same cause are logged at a lower level.
    pub(crate) fn has_same_cause(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Metadata(error), Self::Metadata(other)) => error.has_same_cause(other),
            (Self::Fetch(error), Self::Fetch(other)) => error.has_same_cause(other),
            // The text contains how long ago the token expired.
            (
                Self::Expired {
                    location, state, ..
                },
                Self::Expired {
                    location: other_location,
                    state: other_state,
                    ..
                },
            ) => (location, state) == (other_location, other_state),
            _ => self.to_string() == other.to_string(),
        }
    }

    /// Returns how long the server of the token asked to wait before the next request, up to 5 min.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            _ => None,
        }
        .map(|delay| delay.min(MAX_RETRY_AFTER))
    }

    /// Creates an error about a URL. User information in the URL, which may contain a password, is left out.
    pub(crate) fn invalid_origin(url: &str, reason: &'static str) -> Self {
        Self::InvalidOrigin {
            url: url.rsplit('@').next().unwrap_or_default().to_owned(),
            reason,
        }
    }

    /// Returns this error as the source of a middleware error.
    pub(crate) fn into_middleware_error(self) -> reqwest_middleware::Error {
        let message = format!("the request was not sent: {self}");
        reqwest_middleware::Error::Middleware(anyhow::Error::new(self).context(message))
    }
}

/// Converts an error to `Unavailable` if it is [transient](Error::is_transient), otherwise to `Unauthenticated`.
#[cfg(feature = "tonic")]
impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let message = format!("the call was not sent: {error}");
        let mut status = if error.is_transient() {
            Self::unavailable(message)
        } else {
            Self::unauthenticated(message)
        };
        status.set_source(Arc::new(error));
        status
    }
}

fn seconds_since(time: &SystemTime) -> u64 {
    time.elapsed().unwrap_or_default().as_secs()
}

/// Returns advice if an error is that a host name does not resolve. The HTTP client has no public type for it.
fn name_advice(error: &reqwest::Error) -> &'static str {
    let text = with_causes(error);
    if text.contains("dns error") || text.contains("failed to lookup address") {
        "check the host name (`MetadataServer::with_host` or GCE_METADATA_HOST) and that this process can reach a DNS server; "
    } else {
        ""
    }
}
