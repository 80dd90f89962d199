//! Issuers and keys from values of [`openidconnect`].

use openidconnect::{
    AdditionalProviderMetadata, AuthDisplay, ClaimName, ClaimType, ClientAuthMethod, GrantType,
    IssuerUrl, JsonWebKey, JsonWebKeySet, JweContentEncryptionAlgorithm, JweKeyManagementAlgorithm,
    JwsSigningAlgorithm, ProviderMetadata, ResponseMode, ResponseType, SubjectIdentifierType,
};
use serde::Serialize;
use serde_json::Value;

use super::Issuer;
use crate::jose::algorithm::Algorithm;
use crate::keys::location::{KeyFormat, KeyLocation};

impl Issuer {
    /// Creates the settings of an issuer from openidconnect's `IssuerUrl`. Its keys are found by discovery, as for
    /// [`oidc`](Self::oidc).
    ///
    /// It is an issuer of no particular platform. For a Kubernetes cluster use [`kubernetes`](Self::kubernetes), which rejects
    /// audiences of the API server itself, and for Google use [`google`](Self::google).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::Issuer;
    /// use tower_oidc_guard::openidconnect::IssuerUrl;
    ///
    /// let url = IssuerUrl::new("https://id.example".to_owned())?;
    /// let issuer = Issuer::from_issuer_url(&url).audience("https://auth-server.example");
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_issuer_url(url: &IssuerUrl) -> Self {
        Self::oidc(url.as_str())
    }

    /// Creates the settings of an issuer from openidconnect's provider metadata, for a service that uses the same provider
    /// for logins.
    ///
    /// The metadata must be from a trusted source: `discover_async`, which compares its issuer with the requested one, or a file
    /// of the operator's choice. As for [`from_issuer_url`](Self::from_issuer_url), it is an issuer of no particular platform.
    ///
    /// The issuer is the `issuer` of the metadata, and its keys are fetched from the `jwks_uri`, without discovery. The
    /// allowed signature algorithms are the supported ones of `id_token_signing_alg_values_supported`, unless
    /// [`algorithms`](Self::algorithms) is set; if there are none, it does not build. The keys in the metadata are not used,
    /// because they are not refreshed. To use them nevertheless, call
    /// `Issuer::from_issuer_url(metadata.issuer()).keys(metadata.jwks())` and set [`algorithms`](Self::algorithms).
    ///
    /// A provider that later publishes its keys at another URL requires new metadata. Where that may happen, use
    /// [`from_issuer_url`](Self::from_issuer_url).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::Issuer;
    /// use tower_oidc_guard::openidconnect::core::CoreProviderMetadata;
    ///
    /// let metadata: CoreProviderMetadata = serde_json::from_value(serde_json::json!({
    ///     "issuer": "https://id.example",
    ///     "authorization_endpoint": "https://id.example/authorize",
    ///     "jwks_uri": "https://id.example/jwks",
    ///     "response_types_supported": ["code"],
    ///     "subject_types_supported": ["public"],
    ///     "id_token_signing_alg_values_supported": ["RS256"],
    /// }))?;
    /// let issuer = Issuer::from_provider_metadata(&metadata).audience("https://auth-server.example");
    /// # Ok(())
    /// # }
    /// ```
    // The parameters are those of `ProviderMetadata`; a type alias would need all of them, too.
    #[allow(clippy::type_complexity)]
    pub fn from_provider_metadata<A, AD, CA, CN, CT, G, JE, JK, K, RM, RT, S>(
        metadata: &ProviderMetadata<A, AD, CA, CN, CT, G, JE, JK, K, RM, RT, S>,
    ) -> Self
    where
        A: AdditionalProviderMetadata,
        AD: AuthDisplay,
        CA: ClientAuthMethod,
        CN: ClaimName,
        CT: ClaimType,
        G: GrantType,
        JE: JweContentEncryptionAlgorithm<
            KeyType = <K::SigningAlgorithm as JwsSigningAlgorithm>::KeyType,
        >,
        JK: JweKeyManagementAlgorithm,
        K: JsonWebKey,
        RM: ResponseMode,
        RT: ResponseType,
        S: SubjectIdentifierType,
    {
        let listed = metadata.id_token_signing_alg_values_supported();
        let supported = listed.iter().filter_map(algorithm).collect();
        let location = KeyLocation::JwksUrl(metadata.jwks_uri().to_string());
        let mut issuer = Self::from_issuer_url(metadata.issuer());
        issuer.listed_algorithms = Some(supported);
        issuer.set_key_location("from_provider_metadata", location)
    }

    /// Uses the keys of openidconnect's `JsonWebKeySet`, and fetches nothing. They never change. A second
    /// source of keys does not build. Neither does a set without a usable key.
    ///
    /// Signatures are verified with aws-lc-rs, as for any other keys, and not with the verification that the key type `K`
    /// implements. `CoreJsonWebKeySet` drops keys that it cannot read, and the parameter `key_ops`: to apply
    /// `key_ops`, pass the JSON to [`keys_json`](Self::keys_json).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{Algorithm, Issuer, OidcGuard};
    /// use tower_oidc_guard::openidconnect::core::CoreJsonWebKeySet;
    ///
    /// let keys: CoreJsonWebKeySet = serde_json::from_value(serde_json::json!({ "keys": [{
    ///     "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    /// }]}))?;
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .keys(&keys)
    ///     .algorithms([Algorithm::EdDSA])
    ///     .audience("https://auth-server.example");
    /// let guard = OidcGuard::builder().issuer(issuer).any_verified_caller().build()?;
    /// assert!(guard.health()[0].is_ready);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys<K: JsonWebKey>(mut self, keys: &JsonWebKeySet<K>) -> Self {
        match serde_json::to_vec(keys) {
            Ok(text) => self.set_inline_keys("keys", KeyFormat::Json, text),
            Err(error) => {
                self.fault(format!(
                    "the key set passed to `keys` cannot be serialized: {error}"
                ));
                self
            }
        }
    }
}

/// Returns the supported algorithm that an algorithm of openidconnect is, by its JOSE name.
fn algorithm(algorithm: &impl Serialize) -> Option<Algorithm> {
    match serde_json::to_value(algorithm) {
        Ok(Value::String(name)) => Algorithm::from_name(&name),
        _ => None,
    }
}
