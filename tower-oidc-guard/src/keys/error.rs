//! Errors of fetching and reading keys.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use crate::text::with_causes;

/// The longest text of an error with its causes that is logged, in bytes.
const MAX_LOG_BYTES: usize = 1000;

/// The reason why the keys of an issuer are not available.
///
/// The texts name the URL or path, so that an operator can try it as well. What they quote from an issuer's response is
/// shortened to 100 characters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The request could not be sent, or no response was received: the name does not resolve, the connection was refused,
    /// the certificate is not trusted.
    #[error("GET {url} failed")]
    Request {
        /// The URL of the request.
        url: String,
        /// The error of the HTTP client.
        #[source]
        source: reqwest_middleware::Error,
    },
    /// The status of the response was not 200.
    #[error("GET {url} returned {status} (sent Accept: {accept}){}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Status {
        /// The URL of the request.
        url: String,
        /// The status of the response.
        status: StatusCode,
        /// The `Accept` header of the request.
        accept: &'static str,
        /// A remedy for this status, if one is known.
        hint: Option<&'static str>,
    },
    /// The request was redirected to another origin, which is not the issuer. Such a redirect is not followed, and if an
    /// HTTP client that the user configured follows it, the response is not used.
    #[error(
        "GET {url} was redirected to another origin, {origin}, which is not accepted{}",
        hint.map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    CrossOriginRedirect {
        /// The URL of the request.
        url: String,
        /// The origin that the redirect leads to.
        origin: String,
        /// A remedy, if the settings of the issuer allow one.
        hint: Option<&'static str>,
    },
    /// The body of the response is larger than the limit.
    #[error("the response to GET {url} is larger than {limit} bytes (`max_document_bytes`)")]
    TooLarge {
        /// The URL of the request.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The response was not complete within the time limit.
    #[error("GET {url} did not complete within {limit:?} (`fetch_timeout`)")]
    Timeout {
        /// The URL of the request.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The response is not a discovery document.
    #[error("the response to GET {url} is not a discovery document")]
    InvalidDiscovery {
        /// The URL of the request.
        url: String,
        /// The error of parsing the response.
        #[source]
        source: serde_json::Error,
    },
    /// The discovery document is about another issuer (OpenID Connect Discovery 1.0, section 4.3).
    #[error(
        "the discovery document {url} has the issuer {found:?}; expected exactly {expected:?}{}",
        hint.map(|hint| format!(" ({hint})")).unwrap_or_default()
    )]
    IssuerMismatch {
        /// The URL of the discovery document.
        url: String,
        /// The `issuer` in the document, shortened to 100 characters.
        found: String,
        /// The configured issuer.
        expected: String,
        /// How the two differ, if it is easily overlooked.
        hint: Option<&'static str>,
    },
    /// The `jwks_uri` in the discovery document is not a URL that may be fetched: https, or http on loopback if that is
    /// allowed, of at most 2,048 bytes.
    #[error(
        "the `jwks_uri` in the discovery document {url} cannot be used; expected an https URL of at most 2048 bytes"
    )]
    InvalidJwksUri {
        /// The URL of the discovery document.
        url: String,
    },
    /// The keys are neither a JSON Web Key Set (RFC 7517, section 5) nor PEM, where PEM is supported.
    #[error("the keys from {location} cannot be read: {reason}")]
    InvalidKeySet {
        /// The URL, file or setting that the keys come from.
        location: String,
        /// The reason, without the location.
        reason: String,
    },
    /// The key set is well-formed, but none of its keys can verify a signature. It replaces the previous one nevertheless,
    /// because an issuer may withdraw all of its keys.
    #[error(
        "the key set from {location} contains no usable key; all tokens of the issuer are rejected until it contains one"
    )]
    NoUsableKey {
        /// The URL, file or setting that the keys come from.
        location: String,
    },
    /// The key set contains more keys than the limit.
    #[error(
        "the key set from {location} contains {count} keys; expected at most {limit} (`max_keys`)"
    )]
    TooManyKeys {
        /// The URL, file or setting that the keys come from.
        location: String,
        /// The number of keys.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A file cannot be read, or its content cannot be used.
    #[error("{reason}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The reason, including the path.
        reason: String,
    },
    /// An audience of the guard is one of the API server's own audiences, according to its discovery document. Every pod has
    /// a token for that audience.
    #[error(
        "the audience {audience:?} is one of the API server's own: every pod of the cluster has a token for it. Configure an audience that belongs to this service only"
    )]
    ApiServerAudience {
        /// The audience.
        audience: String,
    },
    /// The fetch was dropped before it finished, because its tokio runtime was shut down or has no timers.
    #[error("the fetch was interrupted: its tokio runtime was shut down, or has no timers")]
    Interrupted,
    /// The call was made outside a tokio runtime, so keys cannot be fetched.
    #[error("keys cannot be fetched outside a tokio runtime; make this call inside one")]
    NoRuntime,
}

impl KeysError {
    /// Returns the error and its causes in one line, shortened to 1,000 bytes.
    pub(crate) fn log_text(&self) -> String {
        let mut text = with_causes(self);
        if text.len() > MAX_LOG_BYTES {
            let mut end = MAX_LOG_BYTES;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_text_includes_the_causes_and_is_short() {
        let source = serde::de::Error::custom("é".repeat(500_000));
        let url = "https://i.example/.well-known/openid-configuration".to_owned();
        let text = KeysError::InvalidDiscovery { url, source }.log_text();
        assert!(text.starts_with("the response to GET https://i.example/") && text.contains('é'));
        assert!(
            text.len() <= MAX_LOG_BYTES + '…'.len_utf8(),
            "{}",
            text.len()
        );
    }
}
