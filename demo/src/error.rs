//! What can go wrong in the programs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a program could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port is taken, or may not be used.
    #[error("cannot listen at {address}; is the port taken? Choose another with {flag}")]
    Listen {
        /// The address that was tried.
        address: SocketAddr,
        /// The flag that sets the port, with its environment variable.
        flag: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The settings of the guard contradict each other or cannot work.
    #[error("the guard cannot be built")]
    Guard(#[from] tower_oidc_guard::BuildError),
    /// The issuer's keys cannot be fetched.
    #[error("the guard is not ready")]
    NotReady(#[from] tower_oidc_guard::NotReady),
    /// The client has no token.
    #[error("the client has no token")]
    Token(#[from] reqwest_wi_auth::Error),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built")]
    Client(#[from] reqwest::Error),
    /// An issuer is of no known kind.
    #[error(
        "the issuer {0:?} of --issuer (ID_ISSUER) is of no known kind: give `kubernetes`, `google`, `gke:PROJECT/LOCATION/CLUSTER`, `oidc:URL`, or the URL of a cluster's issuer"
    )]
    Issuer(String),
    /// The URL of an issuer cannot be used.
    #[error("the URL of the issuer {issuer:?} of --issuer (ID_ISSUER) cannot be used: {reason}")]
    IssuerUrl {
        /// The issuer, as it was given.
        issuer: String,
        /// What is wrong with its URL.
        reason: &'static str,
    },
    /// A file that is followed cannot be used.
    #[error("a file cannot be used")]
    File(#[from] reqwest_wi_auth::FileError),
    /// The file of CAs cannot be read.
    #[error("cannot read the CAs of --ca-file (CA_FILE) from {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file of CAs has no certificate, or one that cannot be used.
    #[error("the file {} of --ca-file (CA_FILE) {reason}; expected certificates in PEM", path.display())]
    CaCertificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate and its key cannot be used.
    #[error(
        "the certificate of --tls-certificate (TLS_CERTIFICATE) and the key of --tls-key (TLS_KEY) cannot be used; are they in PEM, and do they belong together?"
    )]
    Tls(#[source] tokio_rustls::rustls::Error),
    /// No file of a projected token is named.
    #[error("no file of a projected token is named; give it with --token-path (TOKEN_PATH)")]
    NoTokenPath,
    /// Metrics cannot be collected.
    #[error("metrics cannot be collected: {0}")]
    Metrics(String),
    /// Any other error of the system's.
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
    /// Returns a function that makes an [`Error::Io`] of what was tried.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Returns an error with all its causes, in one line.
///
/// Control characters are escaped, since a cause may contain what a server sent. Settings that a library's error names by
/// its own methods are named by the programs' flags instead.
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
    crate::printable::escape(&in_flags(text)).into_owned()
}

/// What the libraries' errors call a setting, and the flag that sets it.
const FLAGS: [(&str, &str); 12] = [
    // There are no flags for these.
    (", or say `insecure_http`", ""),
    (
        ", or accept that with `dangerous_accept_api_server_audience`",
        "",
    ),
    ("`Issuer::in_cluster()`", "--issuer kubernetes"),
    ("`insecure_loopback_http`", "--insecure-loopback-http"),
    ("`api_token_file`", "--api-token-file (API_TOKEN_FILE)"),
    ("`api_ca_file`", "--api-ca-file (API_CA_FILE)"),
    (
        "`Issuer::kubernetes(url)`",
        "its URL in --issuer (ID_ISSUER)",
    ),
    ("`audience`", "--audience (JWT_AUDIENCE)"),
    ("`policy`", "--policy-file (POLICY_FILE)"),
    ("`leeway`", "--leeway (LEEWAY)"),
    ("`algorithms`", "--algorithms (ALGORITHMS)"),
    ("`token_types`", "--token-types (TOKEN_TYPES)"),
];

fn in_flags(text: String) -> String {
    let replaced = |text: String, (method, flag): &(&str, &str)| text.replace(method, flag);
    FLAGS.iter().fold(text, replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes_and_the_program_s_flags() {
        let source = io::Error::other("see `api_ca_file`\nGET /private: 200 forged\u{1b}[2J");
        let error = Error::Io {
            what: "the keys cannot be fetched",
            source,
        };
        assert_eq!(
            chain(&error),
            "the keys cannot be fetched: see --api-ca-file (API_CA_FILE)\\nGET /private: 200 forged\\u{1b}[2J"
        );
    }
}
