//! What can go wrong on the way to an issuer's keys.

use http::StatusCode;

/// Why an issuer's keys could not be had.
///
/// The texts name the address that was asked, so that an operator can ask it too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The request could not be made, or no answer came: a name that does not resolve, a refused
    /// connection, a certificate that is not trusted, a timeout.
    #[error("asking {url} failed")]
    Request {
        /// What was asked.
        url: String,
        /// What the HTTP client says.
        #[source]
        source: reqwest_middleware::Error,
    },
    /// The response was not a 200.
    #[error("GET {url} returned {status} (sent Accept: {accept}){}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Status {
        /// The URL of the request.
        url: String,
        /// The status of the response.
        status: StatusCode,
        /// The `Accept` header of the request.
        accept: &'static str,
        /// What to do about this status, where that is known.
        hint: Option<&'static str>,
    },
    /// A redirect led to another origin: whoever answers there is not the issuer. Only an HTTP client that the user
    /// brings follows such a redirect at all.
    #[error(
        "GET {url} was redirected to another origin, {origin}: the answer is not used; name that URL directly if it is the right one"
    )]
    CrossOriginRedirect {
        /// The URL of the request.
        url: String,
        /// The origin that answered.
        origin: String,
    },
    /// The answer is longer than the limit.
    #[error("the answer of {url} is longer than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer took longer than the limit.
    #[error("{url} did not answer within {limit:?}")]
    Timeout {
        /// What was asked.
        url: String,
        /// The limit.
        limit: std::time::Duration,
    },
    /// The answer is not the document asked for.
    #[error("the answer of {url} is not a discovery document")]
    Document {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The discovery document speaks for another issuer (OpenID Connect Discovery 1.0, section 4.3).
    #[error("{url} is the document of the issuer {found:?}, not of {expected:?}; the two must be equal to the letter{}", if *slash { ", a slash at the end included" } else { "" })]
    OtherIssuer {
        /// What was asked.
        url: String,
        /// The issuer that the document names.
        found: String,
        /// The issuer that is configured.
        expected: String,
        /// Whether the two differ by nothing but a slash at the end.
        slash: bool,
    },
    /// The discovery document's `jwks_uri` is not a URL that may be asked: https, or http on loopback
    /// where that is allowed.
    #[error("the jwks_uri in {url} is not an https URL")]
    KeysUrl {
        /// The discovery document.
        url: String,
    },
    /// The answer is not a key set (RFC 7517, section 5).
    #[error("the answer of {url} is not a JSON Web Key Set: {reason}")]
    KeySet {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key set has no key that can verify anything.
    #[error("the key set at {url} has no usable key")]
    NoUsableKey {
        /// What was asked.
        url: String,
    },
    /// The key set has more keys than the limit.
    #[error("the key set at {url} has more than {limit} keys")]
    TooManyKeys {
        /// What was asked.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// A file cannot be read, or holds nothing that can be used.
    #[error("the file {} cannot be used: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An audience of the guard is the API server's own, as its discovery document shows: every pod has a
    /// token for that one.
    #[error(
        "the audience {audience:?} is the API server's own: every pod of the cluster has a token for it; name one of this service's"
    )]
    ApiAudience {
        /// The audience.
        audience: String,
    },
    /// The fetch ended before it came to anything, as the runtime it ran on was shut down.
    #[error("the fetch was cut off")]
    CutOff,
}
