//! The discovery document (OpenID Connect Discovery 1.0, section 3), read tolerantly.
//!
//! Kubernetes and GitHub Actions publish no `authorization_endpoint`, since nobody logs in there; the
//! strict reading of the specification would refuse them. What a guard needs is the keys' address.

use serde::Deserialize;
use url::Url;

use super::error::{KeysError, excerpt, json_excerpt};
use crate::jose::algorithm::{Algorithm, Algorithms};

/// The longest issuer name and the longest `jwks_uri` that are accepted, in bytes.
const MAX_URL_BYTES: usize = 2048;

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    #[serde(default)]
    id_token_signing_alg_values_supported: Option<Vec<String>>,
}

/// What a discovery document says about keys.
#[derive(Debug, Clone)]
pub(crate) struct Discovered {
    pub(crate) issuer: String,
    pub(crate) jwks_uri: Url,
    /// The algorithms that the issuer lists and this library supports, or `None` if it lists nothing.
    pub(crate) algorithms: Option<Algorithms>,
}

/// Reads the document found at `url`.
pub(crate) fn read(json: &[u8], url: &Url) -> Result<Discovered, KeysError> {
    let malformed = |source| KeysError::Document {
        url: url.to_string(),
        source,
    };
    // A derived `Deserialize` would take an array for the members in their order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed(serde::de::Error::custom(
            "it is not a JSON object",
        )));
    }
    let document: Document =
        serde_json::from_slice(json).map_err(|error| malformed(json_excerpt(&error)))?;
    if document.issuer.len() > MAX_URL_BYTES {
        let reason = format!("its issuer is longer than {MAX_URL_BYTES} bytes");
        return Err(malformed(serde::de::Error::custom(reason)));
    }
    let jwks_uri = Some(document.jwks_uri).filter(|uri| uri.len() <= MAX_URL_BYTES);
    let jwks_uri = jwks_uri.and_then(|uri| Url::parse(&uri).ok());
    let jwks_uri = jwks_uri.ok_or_else(|| KeysError::KeysUrl {
        url: url.to_string(),
    })?;
    let listed = document.id_token_signing_alg_values_supported;
    let listed = listed.filter(|listed| !listed.is_empty());
    let supported = |listed: Vec<String>| {
        let names = listed.iter();
        names
            .filter_map(|name| Algorithm::from_name(name))
            .collect()
    };
    Ok(Discovered {
        issuer: document.issuer,
        jwks_uri,
        algorithms: listed.map(supported),
    })
}

impl Discovered {
    /// Returns the document if it is that of `issuer`, under this name or another one that it is known by.
    pub(crate) fn of(
        self,
        issuer: &str,
        other_names: &[String],
        url: &Url,
    ) -> Result<Self, KeysError> {
        if self.issuer == issuer || other_names.contains(&self.issuer) {
            return Ok(self);
        }
        Err(KeysError::OtherIssuer {
            url: url.to_string(),
            slash: self.issuer.trim_end_matches('/') == issuer.trim_end_matches('/'),
            found: excerpt(&self.issuer),
            expected: issuer.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discover(json: &str) -> Result<Discovered, KeysError> {
        let url = Url::parse("https://i.example/.well-known/openid-configuration").expect("a URL");
        read(json.as_bytes(), &url)?.of("https://i.example", &[], &url)
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
            Some([Algorithm::ES256].into_iter().collect())
        );
    }

    #[test]
    fn an_issuer_that_lists_only_unsupported_algorithms_lists_something_all_the_same() {
        for (listed, expected) in [
            (r#"["ES256K"]"#, Some(Algorithms::default())),
            (r#"["none","HS256"]"#, Some(Algorithms::default())),
            ("[]", None),
            ("null", None),
        ] {
            let document = format!(
                r#"{{"issuer":"https://i.example","jwks_uri":"https://i.example/k",
                    "id_token_signing_alg_values_supported":{listed}}}"#
            );
            let document = discover(&document).expect("is sound");
            assert_eq!(document.algorithms, expected, "{listed}");
        }
        let document =
            discover(r#"{"issuer":"https://i.example","jwks_uri":"https://i.example/k"}"#);
        assert_eq!(document.expect("is sound").algorithms, None);
    }

    #[test]
    fn what_a_document_says_is_quoted_in_short() {
        let long = "x".repeat(500_000);
        for json in [
            format!(r#"{{"issuer":"{long}","jwks_uri":"https://i.example/k"}}"#),
            format!(
                r#"{{"issuer":"https://i.example/{}","jwks_uri":"https://i.example/k"}}"#,
                &long[..1000]
            ),
            format!(r#"{{"issuer":"https://i.example","jwks_uri":"https://i.example/{long}"}}"#),
            format!(r#"{{"issuer":["{long}"],"jwks_uri":"https://i.example/k"}}"#),
            format!(
                r#"{{"issuer":"https://i.example","jwks_uri":"https://i.example/k",
                "id_token_signing_alg_values_supported":"{long}"}}"#
            ),
        ] {
            let error = discover(&json).expect_err("is refused");
            let text = super::super::error::chain(&error);
            assert!(text.len() < 500 && !text.contains(&long[..200]), "{text}");
        }
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
            r#"["https://i.example","https://i.example/k"]"#,
            r#"{"issuer":"https://i.example","jwks_uri":"https://i.example/k"} {}"#,
            r#"{"issuer":"https://i.example","issuer":"https://i.example","jwks_uri":"https://i.example/k"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":"/keys"}"#,
        ] {
            let text = discover(json).expect_err("is refused").to_string();
            assert!(text.contains("https://i.example/.well-known"), "{text}");
        }
    }
}
