//! Discovery documents (OpenID Connect Discovery 1.0, section 3).
//!
//! Only the members that concern keys are read. openidconnect's `ProviderMetadata` cannot be used for this: it requires
//! `authorization_endpoint`, which Kubernetes and GitHub Actions do not publish, because nobody logs in there.

use openidconnect::JsonWebKeySetUrl;
use serde::Deserialize;
use url::Url;

use super::error::KeysError;
use crate::jose::algorithm::{Algorithm, Algorithms};
use crate::text::{excerpt, url_without_secrets};

/// The path of the discovery document below an issuer's URL.
pub(crate) const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// The longest `issuer` and the longest `jwks_uri` that are accepted, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// The members of a discovery document that concern keys.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryDocument {
    /// The issuer. Not necessarily a URL: Kubernetes accepts any string.
    pub(crate) issuer: String,
    pub(crate) jwks_uri: JsonWebKeySetUrl,
    /// The listed algorithms that this library supports, or `None` if the document lists no algorithms at all.
    pub(crate) algorithms: Option<Algorithms>,
}

#[derive(Deserialize)]
struct Members {
    issuer: String,
    jwks_uri: String,
    #[serde(default)]
    id_token_signing_alg_values_supported: Option<Vec<String>>,
}

impl DiscoveryDocument {
    /// Parses the document that was fetched from `url`.
    pub(crate) fn parse(json: &[u8], url: &Url) -> Result<Self, KeysError> {
        let invalid = |cause| KeysError::InvalidDiscovery {
            url: url_without_secrets(url),
            cause,
        };
        // A derived `Deserialize` would accept an array that contains the members in order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(invalid(serde::de::Error::custom("expected a JSON object")));
        }
        let members: Members = serde_json::from_slice(json).map_err(|error| {
            // The text may quote the document.
            invalid(serde::de::Error::custom(excerpt(&error.to_string())))
        })?;
        if members.issuer.len() > MAX_URL_BYTES {
            let reason = format!("`issuer` is longer than {MAX_URL_BYTES} bytes");
            return Err(invalid(serde::de::Error::custom(reason)));
        }
        let jwks_uri = Some(members.jwks_uri).filter(|uri| uri.len() <= MAX_URL_BYTES);
        let jwks_uri = jwks_uri.and_then(|uri| JsonWebKeySetUrl::new(uri).ok());
        let jwks_uri = jwks_uri.ok_or_else(|| KeysError::InvalidJwksUri {
            url: url_without_secrets(url),
        })?;
        let listed = members.id_token_signing_alg_values_supported;
        let listed = listed.filter(|listed| !listed.is_empty());
        let supported = |listed: Vec<String>| {
            let names = listed.iter();
            names
                .filter_map(|name| Algorithm::from_name(name))
                .collect()
        };
        Ok(Self {
            issuer: members.issuer,
            jwks_uri,
            algorithms: listed.map(supported),
        })
    }

    /// Checks that the document is about `issuer`, or about one of its other names.
    pub(crate) fn check_issuer(
        &self,
        issuer: &str,
        also_known_as: &[String],
        url: &Url,
    ) -> Result<(), KeysError> {
        if self.issuer == issuer || also_known_as.contains(&self.issuer) {
            return Ok(());
        }
        let only_slash_differs = self.issuer.trim_end_matches('/') == issuer.trim_end_matches('/');
        Err(KeysError::IssuerMismatch {
            url: url_without_secrets(url),
            found: excerpt(&self.issuer),
            expected: issuer.to_owned(),
            hint: only_slash_differs.then_some("they differ in the slash at the end"),
        })
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn discover(json: &str) -> Result<DiscoveryDocument, KeysError> {
        let url = Url::parse("https://i.example/.well-known/openid-configuration").unwrap();
        let document = DiscoveryDocument::parse(json.as_bytes(), &url)?;
        document.check_issuer("https://i.example", &[], &url)?;
        Ok(document)
    }

    #[test]
    fn a_document_without_authorization_endpoint_is_accepted() {
        let document = discover(
            r#"{"issuer":"https://i.example","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks",
                "id_token_signing_alg_values_supported":["ES256","HS256","none","ML-DSA-44"]}"#,
        );
        let document = document.unwrap();
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
    fn a_list_of_unsupported_algorithms_is_not_treated_as_an_absent_list() {
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
            let document = discover(&document).unwrap();
            assert_eq!(document.algorithms, expected, "{listed}");
        }
        let document =
            discover(r#"{"issuer":"https://i.example","jwks_uri":"https://i.example/k"}"#);
        assert_eq!(document.unwrap().algorithms, None);
    }

    #[test]
    fn errors_quote_only_an_excerpt_of_the_document() {
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
            let text = discover(&json).unwrap_err().to_string();
            assert!(text.len() < 500 && !text.contains(&long[..200]), "{text}");
        }
    }

    #[test]
    fn a_document_of_another_issuer_is_refused() {
        let error =
            discover(r#"{"issuer":"https://evil.example","jwks_uri":"https://i.example/k"}"#);
        assert!(matches!(
            error,
            Err(KeysError::IssuerMismatch { hint: None, .. })
        ));
    }

    #[test]
    fn the_error_points_out_a_difference_in_the_trailing_slash() {
        let error = discover(r#"{"issuer":"https://i.example/","jwks_uri":"https://i.example/k"}"#);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("slash"), "{text}");
    }

    #[test]
    fn an_invalid_document_is_refused_and_the_error_contains_its_url() {
        for json in [
            "",
            "[]",
            "{}",
            r#"["https://i.example","https://i.example/k"]"#,
            r#"{"issuer":"https://i.example","jwks_uri":"https://i.example/k"} {}"#,
            r#"{"issuer":"https://i.example","issuer":"https://i.example","jwks_uri":"https://i.example/k"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":"/keys"}"#,
        ] {
            let text = discover(json).unwrap_err().to_string();
            assert!(text.contains("https://i.example/.well-known"), "{text}");
        }
    }
}
