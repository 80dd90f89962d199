//! Errors of fetching and reading keys.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use crate::text::with_causes;

/// The reason why the keys of an issuer are not available.
///
/// The text of an error contains the texts of all its causes, and what to do if that is known. `source` therefore returns
/// `None`: a reporter that prints the chain of sources prints nothing twice. To handle a cause, match on the variant.
///
/// The texts name the URL or path, so that an operator can try it as well. What they quote from an issuer's response is
/// shortened to 100 characters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The request could not be sent, or no response was received: the name does not resolve, the connection was refused,
    /// the certificate is not trusted.
    #[error("GET {url} failed: {}{}", with_causes(cause), advice(hint))]
    Request {
        /// The URL of the request.
        url: String,
        /// The error of the HTTP client.
        cause: reqwest_middleware::Error,
        /// A remedy for this cause, if one is known.
        hint: Option<&'static str>,
    },
    /// The status of the response was not 200.
    #[error("GET {url} returned {status} (sent Accept: {accept}){}", advice(hint))]
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
        advice(hint)
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
    #[error(
        "GET {url} timed out: it did not complete within {limit:?} (`fetch_timeout`); check that the server responds, and that no firewall or network policy drops the packets"
    )]
    Timeout {
        /// The URL of the request.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The response is not a discovery document.
    #[error(
        "the response to GET {url} is not a discovery document: {}",
        with_causes(cause)
    )]
    InvalidDiscovery {
        /// The URL of the request.
        url: String,
        /// The error of parsing the response.
        cause: serde_json::Error,
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

/// Returns a remedy as the end of a sentence.
fn advice(hint: &Option<&'static str>) -> String {
    hint.map(|hint| format!("; {hint}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_text_contains_the_cause_and_the_remedy_and_there_is_no_source() {
        let cause = anyhow_error("the proxy is closed");
        let error = KeysError::Request {
            url: "https://i.example/keys".to_owned(),
            cause,
            hint: Some("open it"),
        };
        assert_eq!(
            error.to_string(),
            "GET https://i.example/keys failed: the proxy is closed; open it"
        );
        assert!(error.source().is_none());
    }

    fn anyhow_error(text: &'static str) -> reqwest_middleware::Error {
        reqwest_middleware::Error::middleware(std::io::Error::other(text))
    }
}
