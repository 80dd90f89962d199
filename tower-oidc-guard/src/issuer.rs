//! What is trusted: an issuer, the audiences it may name, and how its keys are reached.

mod check;
mod demands;
mod in_cluster;
mod keys_at;
mod limits;
mod presets;

use std::time::Duration;

pub(crate) use self::check::Checked;
pub(crate) use self::keys_at::KeysAt;
use crate::identity::Platform;
use crate::keys::fetch::Limits;
use crate::keys::schedule::Timing;
use crate::verify::algorithm::Algorithm;
use crate::verify::demands::Demands;

/// How far clocks may differ, unless said otherwise.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
/// More keys than any sound set has, unless said otherwise.
const DEFAULT_MAX_KEYS: usize = 200;

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
    /// As its tokens name it; empty where that is to be found out in the cluster.
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
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) max_keys: usize,
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
            timing: Timing::default(),
            limits: Limits::default(),
            max_keys: DEFAULT_MAX_KEYS,
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
}
