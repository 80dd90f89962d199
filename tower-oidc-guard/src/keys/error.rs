//! What can go wrong on the way to an issuer's keys.

use http::StatusCode;

/// Why an issuer's keys could not be had.
///
/// The texts name the address that was asked, so that an operator can ask it too. What they quote of an issuer's answer
/// is shortened to 100 characters.
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
        /// The issuer that the document names, shortened to 100 characters.
        found: String,
        /// The issuer that is configured.
        expected: String,
        /// Whether the two differ by nothing but a slash at the end.
        slash: bool,
    },
    /// The discovery document's `jwks_uri` is not a URL that may be asked: https, or http on loopback
    /// where that is allowed, of at most 2,048 bytes.
    #[error("the jwks_uri in {url} is not an https URL of at most 2048 bytes")]
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
    /// The key set is well-formed, but has no key that can verify anything. It is in force all the same, since an
    /// issuer may withdraw all of its keys.
    #[error(
        "the key set at {url} has no usable key; all tokens of the issuer are refused until it has one"
    )]
    NoUsableKey {
        /// The URL or path of the key set.
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
    /// The fetch ended before it came to anything, since the runtime that it ran on was shut down or has no timers.
    #[error(
        "the fetch was cut off: the tokio runtime that it ran on was shut down, or has no timers"
    )]
    CutOff,
    /// There is no tokio runtime to fetch keys on.
    #[error("there is no tokio runtime here to fetch keys on; call this from within one")]
    NoRuntime,
}

/// The most characters of an issuer's answer that an error or a log entry quotes.
const EXCERPT: usize = 100;

/// Shortens a text that an issuer wrote, and escapes its control characters.
pub(crate) fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let mut short = String::new();
    for character in characters.by_ref().take(EXCERPT) {
        match character.is_control() {
            true => short.extend(character.escape_default()),
            false => short.push(character),
        }
    }
    if !characters.as_str().is_empty() {
        short.push('…');
    }
    short
}

/// Shortens what a JSON error says, which may quote the document.
pub(crate) fn json_excerpt(error: &serde_json::Error) -> serde_json::Error {
    serde::de::Error::custom(excerpt(&error.to_string()))
}

/// The most bytes of an error, with its causes, that are logged.
const LOGGED: usize = 1000;

/// Writes an error and its causes in one line, for the log.
pub(crate) fn chain(error: &KeysError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let mut end = text.len().min(LOGGED);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = end < text.len();
    text.truncate(end);
    if cut {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_issuer_wrote_is_quoted_in_one_line_and_shortened() {
        assert_eq!(excerpt("https://i.example"), "https://i.example");
        assert_eq!(excerpt("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
        let long = excerpt(&"é".repeat(500_000));
        assert_eq!(long.chars().count(), EXCERPT + 1);
    }

    #[test]
    fn a_logged_error_names_its_causes_and_is_short() {
        let source = serde::de::Error::custom("é".repeat(500_000));
        let url = "https://i.example/.well-known/openid-configuration".to_owned();
        let text = chain(&KeysError::Document { url, source });
        assert!(text.starts_with("the answer of https://i.example/") && text.contains("é"));
        assert!(text.len() <= LOGGED + '…'.len_utf8(), "{}", text.len());
    }
}
