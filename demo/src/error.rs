//! What can go wrong in the programs.

use std::io;
use std::net::SocketAddr;

/// Why a program could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port is taken, or may not be used.
    #[error("cannot listen at {address}; is the port taken? Choose another with --port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The guard's settings do not make one.
    #[error("the guard cannot be built")]
    Guard(#[from] tower_oidc_guard::BuildError),
    /// The issuer's keys cannot be had.
    #[error("the guard is not ready")]
    NotReady(#[from] tower_oidc_guard::NotReady),
    /// The client has no token.
    #[error("the client has no token")]
    Token(#[from] reqwest_wi_auth::Error),
    /// The client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
    /// An issuer is none of the kinds there are.
    #[error(
        "the issuer {0:?} is none: name `kubernetes`, `google`, `gke:PROJECT/LOCATION/CLUSTER`, `oidc:URL`, or the URL of a cluster's"
    )]
    Issuer(String),
    /// A file that is followed cannot be used.
    #[error("a file cannot be used")]
    File(#[from] reqwest_wi_auth::FileError),
    /// Certificate or key cannot be used.
    #[error(
        "the certificate and its key cannot be used; are they in PEM, and do they belong together?"
    )]
    Tls(#[source] tokio_rustls::rustls::Error),
    /// There is no file of a projected token.
    #[error("no file of a projected token is named; say it with --token-path")]
    NoTokenPath,
    /// Metrics cannot be collected.
    #[error("metrics cannot be collected: {0}")]
    Metrics(String),
    /// Anything else of the system's.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Says what was tried.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// An error with all that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
