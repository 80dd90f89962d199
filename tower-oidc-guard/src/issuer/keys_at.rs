//! How an issuer's keys are reached.

use std::path::PathBuf;

use super::Issuer;
use crate::keys::source::ClusterApi;

/// Where keys are.
#[derive(Debug, Clone)]
pub(crate) enum KeysAt {
    /// Where the discovery document says; below the issuer's URL, unless it is elsewhere.
    Discovery { elsewhere: Option<String> },
    /// At a URL of their own.
    Jwks { url: String },
    /// In a file.
    File { path: PathBuf },
    /// Here: a JSON Web Key Set, or PEM.
    Given { text: Vec<u8> },
    /// At the API server of the cluster that this runs in.
    Cluster(ClusterApi),
}

impl Issuer {
    /// Takes the discovery document from this URL instead of from below the issuer's. The `issuer` in it
    /// must be the configured one all the same.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::kubernetes("https://kubernetes.default.svc.cluster.local")
    ///     .discovery_url("https://mirror.example/openid-configuration")
    ///     .audience("me");
    /// ```
    pub fn discovery_url(mut self, url: impl Into<String>) -> Self {
        self.keys_at = KeysAt::Discovery {
            elsewhere: Some(url.into()),
        };
        self
    }

    /// Takes the keys from this URL, without discovery.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::discover("https://id.example")
    ///     .jwks_url("https://keys.example/jwks.json")
    ///     .audience("me");
    /// ```
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.keys_at = KeysAt::Jwks { url: url.into() };
        self
    }

    /// Takes the keys from this JSON Web Key Set (RFC 7517, section 5), and asks nobody. They never change.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// # let jwks = "";
    /// let issuer = Issuer::discover("https://id.example").keys_json(jwks).audience("me");
    /// ```
    pub fn keys_json(mut self, jwks: impl Into<Vec<u8>>) -> Self {
        self.keys_at = KeysAt::Given { text: jwks.into() };
        self
    }

    /// Takes the keys from this text of one or several `PUBLIC KEY` blocks in PEM (RFC 7468, section 13), and
    /// asks nobody. They never change. A single key is used for any `kid`; several are named as Kubernetes names
    /// its keys, by a hash, so the public halves of an API server's `--service-account-key-file` do.
    ///
    /// ```
    /// # use tower_oidc_guard::{Algorithm, Issuer};
    /// # let pem = "";
    /// let issuer = Issuer::discover("https://id.example")
    ///     .keys_pem(pem)
    ///     .algorithms([Algorithm::ES256])
    ///     .audience("me");
    /// ```
    pub fn keys_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.keys_at = KeysAt::Given { text: pem.into() };
        self
    }

    /// Takes the keys from this file, and follows it: a JSON Web Key Set or PEM, as
    /// [`keys_json`](Self::keys_json) and [`keys_pem`](Self::keys_pem) have them. It may be a plain file or one
    /// of a mounted ConfigMap or Secret. A new content without a usable key is told, and changes nothing.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::discover("https://id.example").keys_file("/etc/keys/jwks.json").audience("me");
    /// ```
    pub fn keys_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.keys_at = KeysAt::File { path: path.into() };
        self
    }
}
