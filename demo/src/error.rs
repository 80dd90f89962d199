//! Errors of the programs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a program cannot start or continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on, most often because the port is in use.
    #[error("cannot listen on {address}; is the port in use? Choose another one with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets the port, with its environment variable.
        flag: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The settings of the guard contradict each other or are invalid.
    #[error("cannot configure the guard")]
    Guard(#[from] tower_oidc_guard::BuildError),
    /// An issuer's keys cannot be fetched.
    #[error("the guard is not ready")]
    NotReady(#[from] tower_oidc_guard::NotReady),
    /// The client cannot obtain a token.
    #[error("the client has no token")]
    Token(#[from] reqwest_wi_auth::Error),
    /// The file of the projected token contains no token that can be used.
    #[error("cannot use the token file of --token-path (TOKEN_PATH)")]
    TokenFile(#[source] reqwest_wi_auth::Error),
    /// The metadata server provides no token.
    #[error("cannot get a token from the metadata server of --metadata-host (METADATA_HOST)")]
    MetadataToken(#[source] reqwest_wi_auth::Error),
    /// Google does not exchange the token that the credential configuration names, or the configuration cannot be used.
    #[error(
        "cannot get a Google identity with the credential configuration of --google-credentials (GOOGLE_APPLICATION_CREDENTIALS)"
    )]
    FederatedToken(#[source] reqwest_wi_auth::Error),
    /// The environment has no source of tokens, or several, or the source provides no token.
    #[error("cannot get a token from the environment (--identity ambient)")]
    AmbientToken(#[source] reqwest_wi_auth::Error),
    /// Tokens must not be sent to the URL of a service.
    #[error("cannot send tokens to the URL of --service-url (SERVICE_URL)")]
    Origin(#[source] reqwest_wi_auth::Error),
    /// The HTTP client cannot be created.
    #[error("cannot create the HTTP client")]
    Client(#[from] reqwest::Error),
    /// A value of `--issuer` has none of the known forms.
    #[error(
        "cannot use {0:?} in --issuer (ID_ISSUER): expected `kubernetes`, `google`, `gke:PROJECT/LOCATION/CLUSTER`, `github-actions`, `gitlab:URL`, `oidc:URL`, or the URL of a Kubernetes cluster's issuer"
    )]
    Issuer(String),
    /// Tokens are to be reviewed, and there is no issuer whose API server reviews them.
    #[error(
        "cannot review tokens: --token-review (TOKEN_REVIEW) is for the issuer `kubernetes`, which is not in --issuer (ID_ISSUER)"
    )]
    TokenReviewIssuer,
    /// A value of `--issuer` contains an invalid URL.
    #[error("cannot use the URL in {issuer:?} of --issuer (ID_ISSUER): {reason}")]
    IssuerUrl {
        /// The value, as configured.
        issuer: String,
        /// The problem with its URL.
        reason: &'static str,
    },
    /// A watched file, such as a policy or a certificate, cannot be read or parsed.
    #[error("cannot load the file of {flag}")]
    File {
        /// The flag that names the file, with its environment variable, or the purpose of the file.
        flag: &'static str,
        /// Why the file cannot be loaded.
        #[source]
        source: reqwest_wi_auth::FileError,
    },
    /// The file of CA certificates cannot be read.
    #[error("cannot read the CA certificates of --ca-file (CA_FILE) from {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file of CA certificates contains no certificate, or one that cannot be used.
    #[error("the file {} of --ca-file (CA_FILE) {reason}; expected CA certificates in PEM", path.display())]
    CaCertificates {
        /// The file.
        path: PathBuf,
        /// The problem with its content.
        reason: String,
    },
    /// The server's certificate and private key cannot be used.
    #[error(
        "cannot use the certificate of --tls-certificate (TLS_CERTIFICATE) with the key of --tls-key (TLS_KEY); both must be in PEM, and the key must be the certificate's"
    )]
    Tls(#[source] tokio_rustls::rustls::Error),
    /// The client's identity requires a projected token, and no file for it is configured.
    #[error(
        "no projected token is configured; set the path of its file with --token-path (TOKEN_PATH)"
    )]
    NoTokenPath,
    /// The token of `auth-server explain` cannot be read.
    #[error("cannot read the token from {input}")]
    TokenInput {
        /// The file, or `standard input`.
        input: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The metrics recorder cannot be installed.
    #[error("cannot collect metrics: {0}")]
    Metrics(String),
    /// Another operation of the system failed.
    #[error("{operation}")]
    Io {
        /// The operation that failed.
        operation: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Returns a function that wraps the error of a watched file in [`Error::File`]. `flag` is the flag that names the file.
    pub(crate) fn file(flag: &'static str) -> impl FnOnce(reqwest_wi_auth::FileError) -> Self {
        move |source| Self::File { flag, source }
    }

    /// Returns a function that wraps an I/O error in [`Error::Io`]. `operation` says what was attempted.
    pub fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

/// Formats an error and all its causes in one line.
///
/// Control characters are escaped, because a cause may contain text from a server. Methods that a library's error suggests
/// are replaced by the flags of the programs.
pub fn error_chain(error: &dyn std::error::Error) -> String {
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
    crate::escape::escape(&name_flags(&text)).into_owned()
}

/// Methods as the libraries' errors name them, and the flags that call them.
const FLAGS: [(&str, &str); 12] = [
    (
        "`Ambient::builder().without(…)`",
        "--ambient-without (AMBIENT_WITHOUT)",
    ),
    ("`allow_origin`", "--allow-google-origin"),
    ("`Issuer::in_cluster()`", "--issuer kubernetes"),
    (
        "`Issuer::kubernetes(url)`",
        "its URL in --issuer (ID_ISSUER)",
    ),
    ("`insecure_loopback_http`", "--insecure-loopback-http"),
    ("`api_token_file`", "--api-token-file (API_TOKEN_FILE)"),
    ("`api_ca_file`", "--api-ca-file (API_CA_FILE)"),
    ("`audience`", "--audience (JWT_AUDIENCE)"),
    ("`policy`", "--policy-file (POLICY_FILE)"),
    ("`algorithms`", "--algorithms (ALGORITHMS)"),
    ("`token_types`", "--token-types (TOKEN_TYPES)"),
    ("`ready_when`", "--ready-issuers (READY_ISSUERS)"),
];
/// Methods that no flag calls. The libraries' errors name them as the last alternative: "use https, or …".
const METHODS_WITHOUT_FLAG: [&str; 3] = [
    "`insecure_http`",
    "`any_origin`",
    "`dangerous_accept_api_server_audience`",
];

/// Replaces methods by the flags that call them, and removes alternatives for which there is no flag. Text in quotes is not
/// changed, because it comes from settings, tokens and responses.
pub(crate) fn name_flags(text: &str) -> String {
    let mut named = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        let mut is_quoted = false;
        loop {
            let end = next_quote(rest).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            if is_quoted {
                named.push_str(part);
            } else {
                named.push_str(&name_flags_in(part.to_owned()));
            }
            let Some(after) = after.strip_prefix('"') else {
                break;
            };
            named.push('"');
            (rest, is_quoted) = (after, !is_quoted);
        }
    }
    named
}

/// Returns the position of the first quotation mark that is not escaped.
fn next_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(position, character)| {
        let is_end = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_end.then_some(position)
    })
}

fn name_flags_in(mut text: String) -> String {
    for method in METHODS_WITHOUT_FLAG {
        while let Some(start) = text.find(method) {
            let alternative = text[..start].rfind(", or ").unwrap_or(start);
            text.replace_range(alternative..start + method.len(), "");
        }
    }
    let replace = |text: String, (method, flag): &(&str, &str)| text.replace(method, flag);
    FLAGS.iter().fold(text, replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes_and_the_programs_flags() {
        let source = io::Error::other("see `api_ca_file`\nGET /private: 200 forged\u{1b}[2J");
        let error = Error::Io {
            operation: "cannot fetch the keys",
            source,
        };
        assert_eq!(
            error_chain(&error),
            "cannot fetch the keys: see --api-ca-file (API_CA_FILE)\\nGET /private: 200 forged\\u{1b}[2J"
        );
    }

    #[test]
    fn an_alternative_without_a_flag_is_removed() {
        let error = Error::Metrics("use https, or `insecure_http`; see `audience`".to_owned());
        assert_eq!(
            error_chain(&error),
            "cannot collect metrics: use https; see --audience (JWT_AUDIENCE)"
        );
    }

    #[test]
    fn quoted_text_is_neither_replaced_nor_removed() {
        let text = "kid \"a, or b\"\nissuer FAILED\naudience [\"`any_origin`, \\\"`audience`\"]; use https, or `any_origin`";
        assert_eq!(
            name_flags(text),
            "kid \"a, or b\"\nissuer FAILED\naudience [\"`any_origin`, \\\"`audience`\"]; use https"
        );
    }

    #[test]
    fn the_readme_quotes_messages_that_the_libraries_contain() {
        let readme = include_str!("../README.md");
        let (_, rest) = readme.split_once("\n## Troubleshooting\n").unwrap();
        let section = rest.split("\n## ").next().unwrap();
        let sources = crate::test_support::library_sources();
        // Every second part is between backticks. Messages contain spaces and start with a small letter, as commands do.
        let quotes = section.split('`').skip(1).step_by(2);
        let messages = quotes.filter(|quote| {
            let is_command = quote.starts_with("kubectl ") || quote.starts_with("gcloud ");
            quote.contains(' ') && quote.starts_with(char::is_lowercase) && !is_command
        });
        let parts: Vec<_> = messages
            .flat_map(|message| message.split('…'))
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect();
        assert!(parts.len() >= 8, "{parts:?}");
        for part in parts {
            let is_contained = sources.iter().any(|source| source.contains(part));
            assert!(is_contained, "{part:?} is in no library");
        }
    }

    #[test]
    fn each_replaced_method_is_named_by_a_library() {
        let sources = crate::test_support::library_sources();
        let methods = FLAGS.iter().map(|(method, _)| *method);
        for method in methods.chain(METHODS_WITHOUT_FLAG) {
            let is_named = sources.iter().any(|source| source.contains(method));
            assert!(is_named, "{method} is in no library");
        }
    }
}
