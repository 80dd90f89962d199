//! The settings of a trusted issuer: its name, the audiences of its tokens, and where its keys are.

mod api_audience;
mod check;
mod demands;
mod in_cluster;
mod key_settings;
mod limits;
mod presets;

use std::time::Duration;

pub(crate) use self::api_audience::is_api_audience;
pub(crate) use self::check::Checked;
use crate::identity::Platform;
use crate::jose::algorithm::Algorithm;
use crate::jose::required_claims::{ClaimPredicates, RequiredClaims};
use crate::keys::fetch::FetchLimits;
use crate::keys::http_client::AllowedUrls;
use crate::keys::location::KeyLocation;
use crate::keys::schedule::FetchTiming;

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
    /// The value of `iss` in its tokens; empty if that is to be found out in the cluster.
    pub(crate) url: String,
    /// Other spellings of its name that its tokens have.
    pub(crate) aliases: Vec<String>,
    /// Other names that it has.
    pub(crate) also_known_as: Vec<String>,
    pub(crate) key_location: KeyLocation,
    pub(crate) platform: Platform,
    pub(crate) audiences: Vec<String>,
    pub(crate) algorithms: Option<Vec<Algorithm>>,
    pub(crate) leeway: Duration,
    pub(crate) types: Vec<String>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) required_claims: RequiredClaims,
    pub(crate) claim_predicates: ClaimPredicates,
    pub(crate) timing: FetchTiming,
    pub(crate) limits: FetchLimits,
    pub(crate) max_keys: usize,
    pub(crate) allowed_urls: AllowedUrls,
    /// Whether an audience of the API server's own is accepted.
    accepts_api_audience: bool,
    /// The setting that has said where the keys are.
    keys_set_by: Option<&'static str>,
    /// The first setting that conflicts with an earlier one, or has no meaning for this issuer; reported at building.
    conflict: Option<String>,
}

impl Issuer {
    /// Creates the settings of an issuer that publishes a discovery document below its URL (OpenID Connect Discovery 1.0).
    ///
    /// The URL has to equal the `iss` of tokens to the letter, a slash at its end included. It is that of the issuer, without
    /// `/.well-known/openid-configuration`.
    ///
    /// If nothing is fetched from below that URL, because [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem),
    /// [`keys_file`](Self::keys_file), [`jwks_url`](Self::jwks_url) or [`discovery_url`](Self::discovery_url) says where the keys
    /// are, the issuer may have any name that `iss` can have (StringOrURI; RFC 7519, section 2): any text without a colon, such
    /// as `kubernetes.default.svc`, or any URI without a fragment.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").audience("https://auth-server.example");
    /// ```
    pub fn oidc(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            aliases: Vec::new(),
            also_known_as: Vec::new(),
            key_location: KeyLocation::Discovery { url: None },
            platform: Platform::Other,
            audiences: Vec::new(),
            algorithms: None,
            leeway: DEFAULT_LEEWAY,
            types: Vec::new(),
            max_lifetime: None,
            required_claims: RequiredClaims::default(),
            claim_predicates: ClaimPredicates::default(),
            timing: FetchTiming::default(),
            limits: FetchLimits::default(),
            max_keys: DEFAULT_MAX_KEYS,
            allowed_urls: AllowedUrls::HttpsOnly,
            accepts_api_audience: false,
            keys_set_by: None,
            conflict: None,
        }
    }

    /// Creates the settings of a Kubernetes cluster whose discovery document can be fetched from below its issuer URL: that
    /// of the API server's flag `--service-account-issuer`.
    ///
    /// Only such an issuer's identities have a [`kubernetes`](crate::Identity::kubernetes) side.
    ///
    /// An audience that is the API server's own does not build, because the token that Kubernetes mounts into every pod is for
    /// it: the issuer URL itself, `https://kubernetes.default.svc` and its other forms. See
    /// [`dangerous_accept_api_server_audience`](Self::dangerous_accept_api_server_audience).
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let cluster = "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
    /// let issuer = Issuer::kubernetes(cluster).audience("https://auth-server.example");
    /// ```
    pub fn kubernetes(url: impl Into<String>) -> Self {
        Self {
            platform: Platform::Kubernetes,
            ..Self::oidc(url)
        }
    }

    /// Accepts tokens for this audience (`aud`). Required; if called several times, one of the audiences is enough. One that is
    /// empty, repeated or contains white space does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").audience("one").audience("two");
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Accepts tokens with this `iss` as well. They are verified with the same keys, and policies may call the issuer by any of
    /// its names; [`Identity::issuer`](crate::Identity::issuer) returns the one in the token. May be called several times.
    ///
    /// It is for an issuer that changes its name while tokens with the old one are in use. A Kubernetes API server whose flag
    /// `--service-account-issuer` is given several times signs with the first value and accepts all of them. For
    /// [`in_cluster`](Self::in_cluster), the first one is known from the API server and need not be named, unless a policy
    /// names the issuer and the pod's own token is of the legacy kind, which does not tell the name when the guard is built.
    ///
    /// A name that cannot be an `iss`, or that another issuer of the guard has, does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::kubernetes("https://new.example")
    ///     .also_known_as("https://old.example")
    ///     .audience("https://auth-server.example");
    /// ```
    pub fn also_known_as(mut self, name: impl Into<String>) -> Self {
        self.also_known_as.push(name.into());
        self
    }

    /// Accepts these signature algorithms only. Default: the asymmetric ones that the issuer's discovery document lists, or
    /// RS256 if it lists none. [`EdDSA`](Algorithm::EdDSA) and [`Ed25519`](Algorithm::Ed25519) mean the same: each allows
    /// both names. An empty list, or a second call, does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{Algorithm, Issuer};
    /// let issuer = Issuer::oidc("https://id.example").audience("me").algorithms([Algorithm::ES256]);
    /// ```
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        if self.algorithms.is_some() {
            self.conflicts("`algorithms` is set twice; name all of them in one call");
        }
        self.algorithms = Some(algorithms.into_iter().collect());
        self
    }

    /// Allows the issuer's clock to differ from this machine's by this much: `exp`, `nbf` and `iat` are checked that much more
    /// leniently. Default: 60 s; more than 300 s does not build. If called again, the last value counts.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::oidc("https://id.example").audience("me").leeway(Duration::from_secs(5));
    /// ```
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Allows plain http to this issuer, on loopback only: for tests and demonstrations. Any process that can listen on this
    /// machine's ports could pose as the issuer.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("http://127.0.0.1:8080").audience("me").insecure_loopback_http();
    /// ```
    pub fn insecure_loopback_http(mut self) -> Self {
        self.allowed_urls = AllowedUrls::HttpsOrLoopback;
        self
    }

    /// Accepts an audience that is the API server's own, for a Kubernetes issuer.
    ///
    /// This gives up that a token was meant for this service: every pod has a token for the API server, so every pod of the
    /// cluster can call. It also lets this service use its callers' tokens against the API server. Meant for the time in which
    /// callers move to a token of their own, from a projected volume with this service's `audience`. For an issuer that is
    /// not a Kubernetes one it does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::kubernetes("https://cluster.example")
    ///     .audience("https://kubernetes.default.svc")
    ///     .dangerous_accept_api_server_audience();
    /// ```
    pub fn dangerous_accept_api_server_audience(mut self) -> Self {
        if self.platform != Platform::Kubernetes {
            self.conflicts(
                "`dangerous_accept_api_server_audience` is for Kubernetes issuers, and this is none",
            );
        }
        self.accepts_api_audience = true;
        self
    }

    /// Notes a setting that cannot stand; the first one is reported when the guard is built.
    fn conflicts(&mut self, reason: impl Into<String>) {
        self.conflict.get_or_insert_with(|| reason.into());
    }
}
