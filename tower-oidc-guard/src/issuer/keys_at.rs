//! How an issuer's keys are reached.

use std::path::PathBuf;

use super::Issuer;
use crate::keys::source::{ClusterApi, KeyFormat};

/// Where keys are.
#[derive(Debug, Clone)]
pub(crate) enum KeysAt {
    /// Where the discovery document says; below the issuer's URL, unless it is elsewhere.
    Discovery { elsewhere: Option<String> },
    /// At a URL of their own.
    Jwks { url: String },
    /// In a file.
    File { path: PathBuf },
    /// Here.
    Given { text: Vec<u8>, format: KeyFormat },
    /// At the API server of the cluster that this runs in.
    Cluster(ClusterApi),
}

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
        let elsewhere = Some(url.into());
        self.keys_at("discovery_url", KeysAt::Discovery { elsewhere })
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
        self.keys_at("jwks_url", KeysAt::Jwks { url: url.into() })
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
        let (text, format) = (jwks.into(), KeyFormat::Json);
        self.keys_at("keys_json", KeysAt::Given { text, format })
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
        let (text, format) = (pem.into(), KeyFormat::Pem);
        self.keys_at("keys_pem", KeysAt::Given { text, format })
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
        self.keys_at("keys_file", KeysAt::File { path: path.into() })
    }

    /// Sets where the keys are, if nothing else has.
    fn keys_at(mut self, setting: &'static str, keys_at: KeysAt) -> Self {
        match (self.keys_set_by, &self.keys_at) {
            (Some(first), _) => self.conflicts(format!(
                "`{setting}` would replace what `{first}` says about its keys; set one of them, once"
            )),
            (None, KeysAt::Cluster(_)) => self.conflicts(format!(
                "`{setting}` is not for `in_cluster`, which gets the keys from the API server"
            )),
            (None, _) => {
                self.keys_set_by = Some(setting);
                self.keys_at = keys_at;
            }
        }
        self
    }
}
