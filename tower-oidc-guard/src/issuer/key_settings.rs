//! The settings of an issuer that configure where its keys come from.

use std::path::PathBuf;

use super::Issuer;
use crate::keys::location::{InlineKeys, KeyFormat, KeyLocation};

impl Issuer {
    /// Fetches the discovery document from this URL instead of from below the issuer's. The `issuer` in it has to be the
    /// configured one all the same.
    ///
    /// Only one of `discovery_url`, [`jwks_url`](Self::jwks_url), [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem) and
    /// [`keys_file`](Self::keys_file) may be set, and none for [`in_cluster`](Self::in_cluster); anything else does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::kubernetes("https://kubernetes.default.svc.cluster.local")
    ///     .discovery_url("https://mirror.example/openid-configuration")
    ///     .audience("me");
    /// ```
    pub fn discovery_url(self, url: impl Into<String>) -> Self {
        let url = Some(url.into());
        self.set_key_location("discovery_url", KeyLocation::Discovery { url })
    }

    /// Fetches the keys from this URL, without discovery. Excludes the settings that
    /// [`discovery_url`](Self::discovery_url) names.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .jwks_url("https://keys.example/jwks.json")
    ///     .audience("me");
    /// ```
    pub fn jwks_url(self, url: impl Into<String>) -> Self {
        self.set_key_location("jwks_url", KeyLocation::JwksUrl(url.into()))
    }

    /// Uses the keys of this JSON Web Key Set (RFC 7517, section 5), and fetches nothing. They never change. Excludes the
    /// settings that [`discovery_url`](Self::discovery_url) names.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// # let jwks = "";
    /// let issuer = Issuer::oidc("https://id.example").keys_json(jwks).audience("me");
    /// ```
    pub fn keys_json(self, jwks: impl Into<Vec<u8>>) -> Self {
        self.set_inline_keys("keys_json", KeyFormat::Json, jwks.into())
    }

    /// Uses the keys of this PEM text (RFC 7468), and fetches nothing: those of its `PUBLIC KEY` and `CERTIFICATE` blocks. They
    /// never change. A single key is used for any `kid`; several are named as Kubernetes names its keys, by a hash, so that
    /// the files of an API server's `--service-account-key-file` can be used, unless they are private keys. Excludes the
    /// settings that [`discovery_url`](Self::discovery_url) names.
    ///
    /// Of a certificate, only the public key is used. Its validity and its issuer are not checked.
    ///
    /// A text that is not PEM, that contains a private key, or that has no usable key does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{Algorithm, Issuer};
    /// # let pem = "";
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .keys_pem(pem)
    ///     .algorithms([Algorithm::ES256])
    ///     .audience("me");
    /// ```
    pub fn keys_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        self.set_inline_keys("keys_pem", KeyFormat::Pem, pem.into())
    }

    /// Uses the keys of this file, and follows it: a JSON Web Key Set or PEM, in the form of [`keys_json`](Self::keys_json) or
    /// [`keys_pem`](Self::keys_pem). It may be a plain file or one of a mounted ConfigMap or Secret. Excludes the settings that
    /// [`discovery_url`](Self::discovery_url) names.
    ///
    /// A new content that is malformed is logged and changes nothing. A well-formed one replaces the keys even if none of its
    /// keys is usable, as `{"keys":[]}`: then all tokens of the issuer are refused.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").keys_file("/etc/keys/jwks.json").audience("me");
    /// ```
    pub fn keys_file(self, path: impl Into<PathBuf>) -> Self {
        self.set_key_location("keys_file", KeyLocation::File(path.into()))
    }

    fn set_inline_keys(self, setting: &'static str, format: KeyFormat, text: Vec<u8>) -> Self {
        let keys = InlineKeys {
            setting,
            format,
            text,
        };
        self.set_key_location(setting, KeyLocation::Inline(keys))
    }

    /// Sets where the keys come from. A second call, and any call for `in_cluster`, is reported when the guard is built.
    fn set_key_location(mut self, setting: &'static str, location: KeyLocation) -> Self {
        match (self.keys_set_by, &self.key_location) {
            (Some(first), _) => self.conflicts(format!(
                "`{setting}` conflicts with `{first}`, which was set before; set one of them, once"
            )),
            (None, KeyLocation::ApiServer(_)) => self.conflicts(format!(
                "`{setting}` cannot be combined with `in_cluster`, which fetches the keys from the API server"
            )),
            (None, _) => {
                self.keys_set_by = Some(setting);
                self.key_location = location;
            }
        }
        self
    }
}
