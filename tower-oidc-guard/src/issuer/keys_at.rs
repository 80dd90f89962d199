//! How an issuer's keys are reached.

use std::time::Duration;

use super::Issuer;

/// Where keys are.
#[derive(Debug, Clone)]
pub(crate) enum KeysAt {
    /// Where the discovery document says; below the issuer's URL, unless it is elsewhere.
    Discovery { elsewhere: Option<String> },
    /// At a URL of their own.
    Jwks { url: String },
    /// Here.
    Given { json: Vec<u8> },
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

    /// How long keys stay in use while the issuer cannot be reached; after that, its tokens are answered
    /// with 503. Who can cut the issuer off keeps keys that it has withdrawn alive for that long. Default:
    /// 24 hours.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::discover("https://id.example")
    ///     .stale_after(Duration::from_secs(6 * 3600))
    ///     .audience("me");
    /// ```
    pub fn stale_after(mut self, time: Duration) -> Self {
        self.stale_after = time;
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
        self.keys_at = KeysAt::Given { json: jwks.into() };
        self
    }
}
