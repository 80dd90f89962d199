//! The discovery document (OpenID Connect Discovery 1.0, section 3), read tolerantly.
//!
//! Kubernetes and GitHub Actions publish no `authorization_endpoint`, since nobody logs in there; the
//! strict reading of the specification would refuse them. What a guard needs is the keys' address.

use serde::Deserialize;
use url::Url;

use super::error::KeysError;
use crate::verify::algorithm::{Algorithm, Algorithms};

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    #[serde(default)]
    id_token_signing_alg_values_supported: Vec<String>,
}

/// What a discovery document says about keys.
#[derive(Debug, Clone)]
pub(crate) struct Discovered {
    pub(crate) issuer: String,
    pub(crate) jwks_uri: Url,
    pub(crate) algorithms: Algorithms,
}

/// Reads the document found at `url`.
pub(crate) fn read(json: &[u8], url: &Url) -> Result<Discovered, KeysError> {
    let document: Document =
        serde_json::from_slice(json).map_err(|source| KeysError::Document {
            url: url.to_string(),
            source,
        })?;
    let jwks_uri = Url::parse(&document.jwks_uri).map_err(|_| KeysError::KeysUrl {
        url: url.to_string(),
    })?;
    let listed = document.id_token_signing_alg_values_supported.iter();
    let algorithms = listed
        .filter_map(|name| Algorithm::from_name(name))
        .collect();
    Ok(Discovered {
        issuer: document.issuer,
        jwks_uri,
        algorithms,
    })
}

impl Discovered {
    /// The document, if it is that of `issuer` and no other.
    pub(crate) fn of(self, issuer: &str, url: &Url) -> Result<Self, KeysError> {
        if self.issuer == issuer {
            return Ok(self);
        }
        Err(KeysError::OtherIssuer {
            url: url.to_string(),
            slash: self.issuer.trim_end_matches('/') == issuer.trim_end_matches('/'),
            found: self.issuer,
            expected: issuer.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discover(json: &str) -> Result<Discovered, KeysError> {
        let url = Url::parse("https://i.example/.well-known/openid-configuration").expect("a URL");
        read(json.as_bytes(), &url)?.of("https://i.example", &url)
    }

    #[test]
    fn a_document_without_authorization_endpoint_is_read() {
        let document = discover(
            r#"{"issuer":"https://i.example","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks",
                "id_token_signing_alg_values_supported":["ES256","HS256","none","ML-DSA-44"]}"#,
        );
        let document = document.expect("is sound");
        assert_eq!(
            document.jwks_uri.as_str(),
            "https://10.0.0.1:6443/openid/v1/jwks"
        );
        assert_eq!(
            document.algorithms,
            [Algorithm::ES256].into_iter().collect()
        );
    }

    #[test]
    fn a_document_of_another_issuer_is_refused() {
        let error =
            discover(r#"{"issuer":"https://evil.example","jwks_uri":"https://i.example/k"}"#);
        assert!(matches!(
            error,
            Err(KeysError::OtherIssuer { slash: false, .. })
        ));
    }

    #[test]
    fn a_slash_too_many_is_named_in_the_error() {
        let error = discover(r#"{"issuer":"https://i.example/","jwks_uri":"https://i.example/k"}"#);
        let text = error.expect_err("differs").to_string();
        assert!(text.contains("slash"), "{text}");
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_address() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"issuer":"https://i.example","jwks_uri":"/keys"}"#,
        ] {
            let text = discover(json).expect_err("is refused").to_string();
            assert!(text.contains("https://i.example/.well-known"), "{text}");
        }
    }
}
