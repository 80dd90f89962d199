//! What can go wrong on the way to a token.

use std::time::SystemTime;

use crate::watched_file::FileError;

/// Why there is no token to send, or why a middleware could not be made.
///
/// No error contains a token.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The token's file could not be read, or holds no token.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes are no token.
    #[error("not a token: {reason}")]
    Token {
        /// What is wrong with them.
        reason: &'static str,
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
}

impl Error {
    /// Whether trying again later can help, with nothing changed in configuration or code.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::File(_) | Self::Expired { .. } => true,
            Self::Token { .. } | Self::Origin { .. } => false,
        }
    }
}

fn ago(since: &SystemTime) -> u64 {
    since.elapsed().unwrap_or_default().as_secs()
}
