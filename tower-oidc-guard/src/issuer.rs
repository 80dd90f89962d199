//! What is trusted: an issuer, the audiences it may name, and how its keys are reached.

mod demands;
mod keys_at;
mod presets;

use std::time::Duration;

use openidconnect::IssuerUrl;
use url::Url;

pub(crate) use self::keys_at::KeysAt;
use crate::error::BuildError;
use crate::identity::Platform;
use crate::keys::fetch::may_be_asked;
use crate::keys::source::KeyLocation;
use crate::verify::algorithm::Algorithm;
use crate::verify::demands::Demands;

/// How far clocks may differ, unless said otherwise.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// How long keys are used that could not be refreshed, unless said otherwise.
const DEFAULT_STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// A trusted OpenID Connect issuer.
///
/// ```
/// # use tower_oidc_guard::Issuer;
/// let issuer = Issuer::kubernetes("https://kubernetes.default.svc.cluster.local")
///     .audience("https://auth-server.example");
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Issuer {
    pub(crate) url: String,
    /// Other names that its tokens bear.
    pub(crate) aliases: Vec<String>,
    pub(crate) keys_at: KeysAt,
    pub(crate) platform: Platform,
    pub(crate) audiences: Vec<String>,
    pub(crate) algorithms: Option<Vec<Algorithm>>,
    pub(crate) leeway: Duration,
    pub(crate) types: Vec<String>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) demands: Demands,
    pub(crate) stale_after: Duration,
    pub(crate) loopback_http: bool,
}

impl Issuer {
    /// An issuer that publishes a discovery document below its URL (OpenID Connect Discovery 1.0).
    ///
    /// The URL is compared to the letter with the `iss` of tokens, a slash at its end included.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::discover("https://id.example").audience("https://auth-server.example");
    /// ```
    pub fn discover(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            aliases: Vec::new(),
            keys_at: KeysAt::Discovery { elsewhere: None },
            platform: Platform::Other,
            audiences: Vec::new(),
            algorithms: None,
            leeway: DEFAULT_LEEWAY,
            types: Vec::new(),
            max_lifetime: None,
            demands: Demands::default(),
            stale_after: DEFAULT_STALE_AFTER,
            loopback_http: false,
        }
    }

    /// A Kubernetes cluster whose discovery document can be had at its issuer URL: that of the API
    /// server's flag `--service-account-issuer`.
    ///
    /// Only such an issuer's identities have a [`kubernetes`](crate::Identity::kubernetes) side.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let cluster = "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
    /// let issuer = Issuer::kubernetes(cluster).audience("https://auth-server.example");
    /// ```
    pub fn kubernetes(url: impl Into<String>) -> Self {
        Self {
            platform: Platform::Kubernetes,
            ..Self::discover(url)
        }
    }

    /// Takes tokens for this audience; more than one may be named. An issuer without any does not
    /// build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::discover("https://id.example").audience("one").audience("two");
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Takes these signature algorithms only. Default: the asymmetric ones that the issuer's discovery
    /// document lists, or RS256 where it lists none.
    ///
    /// ```
    /// # use tower_oidc_guard::{Algorithm, Issuer};
    /// let issuer = Issuer::discover("https://id.example").audience("me").algorithms([Algorithm::ES256]);
    /// ```
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        self.algorithms = Some(algorithms.into_iter().collect());
        self
    }

    /// How far the issuer's clock may differ from this machine's: `exp`, `nbf` and `iat` are taken so
    /// much more leniently. Default: 60 s; more than 300 s does not build.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::discover("https://id.example").audience("me").leeway(Duration::from_secs(5));
    /// ```
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Allows plain http to this issuer, on loopback only: for tests and demonstrations. Whoever can
    /// listen on this machine's ports could pose as the issuer.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::discover("http://127.0.0.1:8080").audience("me").insecure_loopback_http();
    /// ```
    pub fn insecure_loopback_http(mut self) -> Self {
        self.loopback_http = true;
        self
    }

    /// Checks what can be checked without asking, and says how to get the keys.
    pub(crate) fn check(&self) -> Result<KeyLocation, BuildError> {
        let wrong = |reason| BuildError::Issuer {
            issuer: self.url.clone(),
            reason,
        };
        if self.audiences.is_empty() {
            return Err(BuildError::NoAudience {
                issuer: self.url.clone(),
            });
        }
        if self.audiences.iter().any(String::is_empty) {
            return Err(wrong("an audience is empty"));
        }
        if self.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(wrong("no algorithm is allowed"));
        }
        if self.leeway > MAX_LEEWAY {
            return Err(wrong("the leeway is over 300 s"));
        }
        let issuer = self.askable(&self.url)?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(wrong("a query or a fragment has no place in it"));
        }
        match &self.keys_at {
            KeysAt::Discovery {
                elsewhere: Some(url),
            } => self.askable(url).map(KeyLocation::Discovery),
            KeysAt::Discovery { elsewhere: None } => {
                let address = format!("{}{WELL_KNOWN}", self.url.trim_end_matches('/'));
                self.askable(&address).map(KeyLocation::Discovery)
            }
            KeysAt::Jwks { url } => self.askable(url).map(KeyLocation::Jwks),
            KeysAt::Given { json } => match KeyLocation::given(json) {
                Some(given) => Ok(given),
                None => Err(wrong("its keys are no JSON Web Key Set with a usable key")),
            },
        }
    }

    /// A URL that may be asked.
    fn askable(&self, url: &str) -> Result<Url, BuildError> {
        let wrong = |reason| BuildError::Issuer {
            issuer: self.url.clone(),
            reason,
        };
        let url = IssuerUrl::new(url.to_owned()).map_err(|_| wrong("it is not a URL"))?;
        let url = url.url().clone();
        if !may_be_asked(&url, self.loopback_http) {
            return Err(wrong(
                "it is not an https URL (http is for loopback, by `insecure_loopback_http`)",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("a user has no place in it"));
        }
        Ok(url)
    }
}
