//! The settings of a trusted issuer: its `iss`, the audiences of its tokens, and where its keys come from.
//!
//! The constructors are in this file and in [`presets`], [`in_cluster`] and [`openidconnect`].
//!
//! Setters only record values. Everything that can be checked without a network is checked when the guard is built, by
//! [`resolution`].

mod api_server_audience;
#[cfg(feature = "policy-file")]
mod comparison;
mod in_cluster;
mod openidconnect;
mod presets;
mod resolution;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

pub(crate) use self::api_server_audience::is_api_server_audience;
pub(crate) use self::presets::{GITHUB_ACTIONS, GITLAB};
pub(crate) use self::resolution::{IN_CLUSTER_LABEL, ResolvedIssuer};
use crate::identity::Platform;
use crate::jose::algorithm::Algorithm;
use crate::jose::claim_matcher::ClaimMatcher;
use crate::jose::required_claims::{ClaimPredicates, RequiredClaim, RequiredClaims};
use crate::keys::http_client::AllowedUrls;
use crate::keys::location::{InlineKeys, KeyFormat, KeyLocation};
use crate::text::{Escaped, audience_fault};
use crate::token_review::TokenReview;

/// A trusted OpenID Connect issuer: whose tokens a guard accepts, and for which audiences.
///
/// Created by the constructor for the kind of issuer, completed with at least one [`audience`](Self::audience), and passed to
/// [`OidcGuardBuilder::issuer`](crate::OidcGuardBuilder::issuer). Invalid settings are reported when the guard is built.
///
/// | constructor | issuer | identities have |
/// | --- | --- | --- |
/// | [`in_cluster`](Self::in_cluster) | the Kubernetes cluster that this process runs in | [`kubernetes`](crate::Identity::kubernetes) |
/// | [`kubernetes`](Self::kubernetes), [`gke`](Self::gke), [`eks`](Self::eks), [`aks`](Self::aks) | a Kubernetes cluster whose keys are public | [`kubernetes`](crate::Identity::kubernetes) |
/// | [`google`](Self::google) | Google, for workloads on Google Cloud and for users | [`google`](crate::Identity::google) |
/// | [`github_actions`](Self::github_actions), [`github_enterprise`](Self::github_enterprise) | GitHub Actions, for the jobs of workflows | [`github_actions`](crate::Identity::github_actions) |
/// | [`gitlab`](Self::gitlab) | an instance of GitLab, for the jobs of GitLab CI/CD | [`gitlab`](crate::Identity::gitlab) |
/// | [`oidc`](Self::oidc) | any other OpenID Connect provider | the standard claims |
///
/// ```
/// use tower_oidc_guard::{Issuer, OidcGuard};
///
/// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
/// let issuer = Issuer::kubernetes("https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE")
///     .audience("https://auth-server.example");
/// let guard = OidcGuard::builder().issuer(issuer).any_verified_caller().build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Issuer {
    /// The `iss` of its tokens. `None` for the cluster that this process runs in, which is asked for it.
    issuer: Option<String>,
    /// Values of `iss` that are spellings of the same issuer; identities show `issuer` instead.
    spellings: Vec<String>,
    /// Further values of `iss` that are accepted.
    also_known_as: Vec<String>,
    key_location: KeyLocation,
    /// The setting that `key_location` comes from, unless it is the constructor.
    key_setting: Option<&'static str>,
    platform: Platform,
    audiences: Vec<String>,
    algorithms: Option<Vec<Algorithm>>,
    /// The supported algorithms that the provider metadata lists, if the issuer was created from metadata.
    listed_algorithms: Option<Vec<Algorithm>>,
    leeway: Option<Duration>,
    token_types: Vec<String>,
    max_lifetime: Option<Duration>,
    required_claims: RequiredClaims,
    claim_predicates: ClaimPredicates,
    stale_after: Option<Duration>,
    unknown_key_jitter: Option<Duration>,
    fetch_timeout: Option<Duration>,
    max_document_bytes: Option<usize>,
    max_keys: Option<usize>,
    allowed_urls: AllowedUrls,
    accept_api_server_audience: bool,
    token_review: Option<TokenReview>,
    /// The fault of the first invalid setting; reported when the guard is built.
    fault: Option<String>,
}

impl Issuer {
    /// Creates the settings of an OpenID Connect provider, which publishes a discovery document below its URL (OpenID Connect
    /// Discovery 1.0).
    ///
    /// The URL must equal the `iss` of the tokens exactly, including a trailing slash. It is the issuer's URL, without
    /// `/.well-known/openid-configuration`. Nothing is fetched before the guard is used.
    ///
    /// With [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem), [`keys_file`](Self::keys_file),
    /// [`jwks_url`](Self::jwks_url) or [`discovery_url`](Self::discovery_url), nothing is fetched from below the issuer's URL.
    /// The issuer may then be any StringOrURI (RFC 7519, section 2): any text without a colon, such as
    /// `kubernetes.default.svc`, or any URI without a fragment.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").audience("https://auth-server.example");
    /// ```
    pub fn oidc(url: impl Into<String>) -> Self {
        Self::new(
            Some(url.into()),
            Platform::Other,
            KeyLocation::Discovery { url: None },
        )
    }

    /// Creates the settings of a Kubernetes cluster whose discovery document can be fetched from below its issuer URL: the
    /// value of the API server's flag `--service-account-issuer`.
    ///
    /// Use [`in_cluster`](Self::in_cluster) for the cluster that this process runs in, and [`gke`](Self::gke),
    /// [`eks`](Self::eks) or [`aks`](Self::aks) for a cluster of those clouds.
    ///
    /// The guard does not build with an audience of the API server itself, such as the issuer URL or
    /// `https://kubernetes.default.svc`: every pod has a token for it. See
    /// [`dangerous_accept_api_server_audience`](Self::dangerous_accept_api_server_audience).
    ///
    /// ```
    /// use tower_oidc_guard::{BuildError, Issuer, OidcGuard};
    ///
    /// let cluster = || Issuer::kubernetes("https://cluster.example");
    /// let build = |issuer| OidcGuard::builder().issuer(issuer).any_verified_caller().build();
    /// assert!(build(cluster().audience("https://auth-server.example")).is_ok());
    /// assert!(build(cluster().audience("https://kubernetes.default.svc")).is_err());
    /// ```
    pub fn kubernetes(url: impl Into<String>) -> Self {
        Self::new(
            Some(url.into()),
            Platform::Kubernetes,
            KeyLocation::Discovery { url: None },
        )
    }

    fn new(issuer: Option<String>, platform: Platform, key_location: KeyLocation) -> Self {
        Self {
            issuer,
            spellings: Vec::new(),
            also_known_as: Vec::new(),
            key_location,
            key_setting: None,
            platform,
            audiences: Vec::new(),
            algorithms: None,
            listed_algorithms: None,
            leeway: None,
            token_types: Vec::new(),
            max_lifetime: None,
            required_claims: RequiredClaims::default(),
            claim_predicates: ClaimPredicates::default(),
            stale_after: None,
            unknown_key_jitter: None,
            fetch_timeout: None,
            max_document_bytes: None,
            max_keys: None,
            allowed_urls: AllowedUrls::HttpsOnly,
            accept_api_server_audience: false,
            token_review: None,
            fault: None,
        }
    }
}

/// Settings for what a token must contain.
impl Issuer {
    /// Accepts tokens for this audience (`aud`). Required; if called several times, a token for any one of the audiences is
    /// accepted.
    ///
    /// An audience that is empty, is repeated, or contains white space does not build.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(feature = "testing")] {
    /// use tower_oidc_guard::{Issuer, OidcGuard, testing::MemoryIssuer};
    ///
    /// let issuer = MemoryIssuer::new("https://id.example")?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::oidc("https://id.example").audience("shop").audience("billing"))
    ///     .http_client(issuer.client())
    ///     .any_verified_caller()
    ///     .build()?;
    /// let verifier = guard.verifier();
    /// assert!(verifier.verify(issuer.token().audience("billing").mint()).await.is_ok());
    /// assert!(verifier.verify(issuer.token().audience("orders").mint()).await.is_err());
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Also accepts tokens with this `iss`. They are verified with the same keys, and policies may name the issuer by any of
    /// these values; [`Identity::issuer`](crate::Identity::issuer) returns the value in the token. May be called several times.
    ///
    /// Use it while an issuer changes its `iss` and tokens with the old value are still in use. A Kubernetes API server that
    /// has several `--service-account-issuer` flags signs with the first value and accepts all of them. For
    /// [`in_cluster`](Self::in_cluster), the first value is read from the API server and need not be configured, unless a
    /// policy names the issuer and the pod's own token is a legacy one, which does not contain the value when the guard is
    /// built.
    ///
    /// A value that cannot be an `iss`, or that another issuer of the guard has, does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // The cluster is moving from the second issuer URL to the first.
    /// let issuer = Issuer::kubernetes("https://new.example")
    ///     .also_known_as("https://old.example")
    ///     .audience("https://auth-server.example");
    /// ```
    pub fn also_known_as(mut self, issuer: impl Into<String>) -> Self {
        self.also_known_as.push(issuer.into());
        self
    }

    /// Accepts only these signature algorithms. Default: the supported algorithms that the discovery document or the provider
    /// metadata lists, or RS256 if no document is fetched or it lists none.
    ///
    /// [`EdDSA`](Algorithm::EdDSA) and [`Ed25519`](Algorithm::Ed25519) are two names of one algorithm; each allows both. An
    /// empty list, or a second call, does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{Algorithm, Issuer};
    /// // A token signed with RS256 is rejected, even if the issuer publishes an RSA key.
    /// let issuer = Issuer::oidc("https://id.example").audience("shop").algorithms([Algorithm::ES256]);
    /// ```
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        if self.algorithms.is_some() {
            self.fault("`algorithms` is set twice; list all algorithms in one call");
        }
        self.algorithms = Some(algorithms.into_iter().collect());
        self
    }

    /// Sets by how much the issuer's clock may differ from this machine's. A token is accepted for that much longer after
    /// `exp`, and that much earlier than `nbf` and `iat`. Default: 60 s; from 0 to 300 s. If called again, the last value is
    /// used.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::Issuer;
    /// // A token whose `exp` is 6 s ago is rejected.
    /// let issuer = Issuer::oidc("https://id.example").audience("shop").leeway(Duration::from_secs(5));
    /// ```
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = Some(leeway);
        self
    }

    /// Accepts only tokens whose header has one of these types (`typ`; RFC 8725, section 3.11). Default: `JWT`, or no `typ`.
    ///
    /// Types are compared without regard to case, and without the prefix `application/` (RFC 7515, section 4.1.9). An empty
    /// list, an empty type, or a second call does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // Accepts access tokens of RFC 9068; rejects ID tokens, whose `typ` is `JWT` or absent.
    /// let issuer = Issuer::oidc("https://id.example").audience("shop").token_types(["at+jwt"]);
    /// ```
    pub fn token_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        if !self.token_types.is_empty() {
            self.fault("`token_types` is set twice; list all types in one call");
        }
        self.token_types = types.into_iter().map(Into::into).collect();
        if self.token_types.is_empty() {
            self.fault("`token_types` lists no type; list one, or leave the setting out");
        }
        if self
            .token_types
            .iter()
            .any(|typ| audience_fault(typ).is_some())
        {
            self.fault("a type in `token_types` is empty or contains white space");
        }
        self
    }

    /// Rejects tokens that were issued for longer than this: those whose `exp` is further from their `iat`, and those without
    /// `iat`. Default: no limit. Zero, or a second call, does not build.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::Issuer;
    /// // A token that was issued for more than an hour gets 401.
    /// let issuer = Issuer::kubernetes("https://cluster.example")
    ///     .audience("shop")
    ///     .max_lifetime(Duration::from_secs(3600));
    /// ```
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        if self.max_lifetime.is_some() {
            self.fault("`max_lifetime` is set twice; set it once");
        }
        if lifetime.is_zero() {
            self.fault("`max_lifetime` is zero, so no token would be accepted");
        }
        self.max_lifetime = Some(lifetime);
        self
    }

    /// Requires a claim to have this value, or to match this [matcher](ClaimMatcher). Other tokens are invalid: the caller gets
    /// 401, with [`TokenError::UnmetClaim`](crate::TokenError::UnmetClaim). If called several times, all of the claims are
    /// required. An empty name, a null value or an invalid matcher does not build.
    ///
    /// A name that begins with `/` is a JSON pointer to a nested claim, as for
    /// [`Policy::require_claim`](crate::Policy::require_claim).
    ///
    /// Use this for claims that decide whether this service may accept a token at all, such as a tenant, independent of the
    /// caller: the token is rejected before any policy is evaluated, and [`TokenVerifier`](crate::TokenVerifier) rejects it
    /// too. Use [`Policy::require_claim`](crate::Policy::require_claim), which responds with 403, for claims that decide what a
    /// verified caller may do, and for rules that differ between routes.
    ///
    /// Objects are equal whatever the order of their fields. Integers of up to 64 bits are compared exactly, other numbers as
    /// `f64`: `1.50` equals `1.5`, and `1.0` does not equal `1`. This does not depend on the features of `serde_json` that are
    /// enabled in a build.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(feature = "testing")] {
    /// use tower_oidc_guard::{Issuer, OidcGuard, testing::MemoryIssuer};
    ///
    /// let issuer = MemoryIssuer::new("https://id.example")?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::oidc("https://id.example").audience("shop").require_claim("tenant", "acme"))
    ///     .http_client(issuer.client())
    ///     .any_verified_caller()
    ///     .build()?;
    /// let token = |tenant: &str| issuer.token().audience("shop").claim("tenant", tenant).mint();
    /// assert!(guard.verifier().verify(token("acme")).await.is_ok());
    /// assert!(guard.verifier().verify(token("evil")).await.is_err());
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn require_claim(
        mut self,
        name: impl Into<String>,
        value: impl Into<ClaimMatcher>,
    ) -> Self {
        let claim = RequiredClaim::new(name, value.into());
        if let Some(reason) = claim.fault() {
            let name = Escaped(claim.name());
            self.fault(format!("the claim {name} cannot be required: {reason}"));
        }
        self.required_claims.push(claim);
        self
    }

    /// Requires `condition(claims)` to return true. Other tokens are invalid: the caller gets 401, with
    /// [`TokenError::UnmetClaim`](crate::TokenError::UnmetClaim). If called several times, every condition has to return true.
    ///
    /// The condition is evaluated only for tokens whose signature is valid, and its result is cached with the token. Use
    /// [`Policy::require`](crate::Policy::require) for a condition that changes with time, and for one that decides what a
    /// verified caller may do: it is evaluated for each request, and responds with 403.
    ///
    /// With a condition, a token whose claims are nested more than 128 levels deep, or contain a number that `f64` cannot
    /// represent, is rejected as malformed.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // Rejects tokens of workflows that a pull request started.
    /// let issuer = Issuer::github_actions()
    ///     .audience("shop")
    ///     .require(|claims| claims.get("event_name").is_some_and(|event| event != "pull_request"));
    /// ```
    pub fn require(
        mut self,
        condition: impl Fn(&Map<String, Value>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.claim_predicates.push(condition);
        self
    }

    /// Accepts an audience of the Kubernetes API server itself.
    ///
    /// Every pod has a token for the API server, so the mounted token of every pod is then valid here: only the policy
    /// keeps a pod out, and this service can use its callers' tokens against the API server. Use it only while callers move
    /// to a token from a projected volume with this
    /// service's `audience`. For an issuer that is not a Kubernetes cluster it does not build.
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// let issuer = Issuer::kubernetes("https://cluster.example").audience("https://kubernetes.default.svc");
    /// let build = |issuer| OidcGuard::builder().issuer(issuer).any_verified_caller().build();
    /// assert!(build(issuer.clone()).is_err());
    /// assert!(build(issuer.dangerous_accept_api_server_audience()).is_ok());
    /// ```
    pub fn dangerous_accept_api_server_audience(mut self) -> Self {
        if self.platform != Platform::Kubernetes {
            self.fault(
                "`dangerous_accept_api_server_audience` is for Kubernetes issuers, and this issuer is not one",
            );
        }
        self.accept_api_server_audience = true;
        self
    }
}

/// Settings for what only the cluster's API server knows.
impl Issuer {
    /// Has each token confirmed by the cluster's API server after it has passed all other checks, so that the tokens of deleted
    /// pods and service accounts are refused. By default nothing is asked. For an issuer that is not a Kubernetes cluster, or
    /// if called twice, it does not build.
    ///
    /// The policy is evaluated first: a token of a caller that it does not allow is not sent to the API server.
    ///
    /// ```
    /// use tower_oidc_guard::{BuildError, Issuer, TokenReview, WhenUnavailable};
    ///
    /// # fn example() -> Result<(), BuildError> {
    /// let issuer = Issuer::in_cluster()?
    ///     .token_review(TokenReview::new(WhenUnavailable::Refuse))
    ///     .audience("https://auth-server.example");
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_review(mut self, review: TokenReview) -> Self {
        if self.platform != Platform::Kubernetes {
            self.fault(
                "`token_review` is for Kubernetes issuers, whose API server reviews tokens, and this issuer is not one",
            );
        }
        if self.token_review.is_some() {
            self.fault("`token_review` is set twice; set it once");
        }
        self.token_review = Some(review);
        self
    }
}

/// Settings for where the keys come from. At most one of [`discovery_url`](Self::discovery_url), [`jwks_url`](Self::jwks_url),
/// [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem), [`keys_file`](Self::keys_file) and [`keys`](Self::keys) can
/// be set, once, and none for [`in_cluster`](Self::in_cluster) and
/// [`from_provider_metadata`](Self::from_provider_metadata); anything else does not build.
impl Issuer {
    /// Fetches the discovery document from this URL instead of from below the issuer's URL. The `issuer` in the document must
    /// still equal the configured one. A second source of keys does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // Fetches https://mirror.example/openid-configuration; tokens still have the cluster's own `iss`.
    /// let issuer = Issuer::kubernetes("https://kubernetes.default.svc.cluster.local")
    ///     .discovery_url("https://mirror.example/openid-configuration")
    ///     .audience("shop");
    /// ```
    pub fn discovery_url(self, url: impl Into<String>) -> Self {
        let url = Some(url.into());
        self.set_key_location("discovery_url", KeyLocation::Discovery { url })
    }

    /// Fetches the keys from this URL, without discovery. A second source of keys does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // Fetches https://keys.example/jwks.json and nothing else.
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .jwks_url("https://keys.example/jwks.json")
    ///     .audience("shop");
    /// ```
    pub fn jwks_url(self, url: impl Into<String>) -> Self {
        self.set_key_location("jwks_url", KeyLocation::JwksUrl(url.into()))
    }

    /// Uses the keys of this JSON Web Key Set (RFC 7517, section 5), which never change. Nothing is fetched.
    ///
    /// Text that is not a key set, or that has no usable key, does not build. Neither does a second source of keys.
    ///
    /// ```
    /// use tower_oidc_guard::{Algorithm, Issuer, OidcGuard};
    ///
    /// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
    /// // The key of RFC 8037, appendix A.
    /// let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .keys_json(keys)
    ///     .algorithms([Algorithm::EdDSA])
    ///     .audience("shop");
    /// let guard = OidcGuard::builder().issuer(issuer).any_verified_caller().build()?;
    /// assert!(guard.health()[0].is_ready);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys_json(self, jwks: impl Into<Vec<u8>>) -> Self {
        self.set_inline_keys("keys_json", KeyFormat::Json, jwks.into())
    }

    /// Uses the keys of the `PUBLIC KEY` and `CERTIFICATE` blocks of this PEM text (RFC 7468), which never change. Nothing is
    /// fetched.
    ///
    /// A single key is used for any `kid`. Several keys get the `kid`s that Kubernetes derives from their hashes, so the public
    /// keys of an API server's `--service-account-key-file` can be used. Of a certificate only the public key is used; its
    /// validity period and its issuer are not checked.
    ///
    /// Text that is not PEM, that contains a private key, or that has no usable key does not build. Neither does a second
    /// source of keys.
    ///
    /// ```
    /// use tower_oidc_guard::{Algorithm, Issuer, OidcGuard};
    ///
    /// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
    /// let pem = "-----BEGIN PUBLIC KEY-----
    /// MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
    /// -----END PUBLIC KEY-----";
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .keys_pem(pem)
    ///     .algorithms([Algorithm::EdDSA])
    ///     .audience("shop");
    /// let guard = OidcGuard::builder().issuer(issuer).any_verified_caller().build()?;
    /// assert_eq!(guard.health()[0].usable_keys, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        self.set_inline_keys("keys_pem", KeyFormat::Pem, pem.into())
    }

    /// Uses the keys of this file, and reloads them when it changes. It contains a JSON Web Key Set or PEM, as for
    /// [`keys_json`](Self::keys_json) and [`keys_pem`](Self::keys_pem), and may be a plain file or part of a mounted ConfigMap
    /// or Secret.
    ///
    /// New content that is malformed is logged, and the previous keys stay in use. Well-formed content replaces the keys even
    /// if none of its keys is usable, such as `{"keys":[]}`: all tokens of the issuer are then rejected. The operating system
    /// reports changes; the file is also read every 60 s. A second source of keys does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // Replacing the file replaces the keys, without a restart.
    /// let issuer = Issuer::oidc("https://id.example").keys_file("/etc/keys/jwks.json").audience("shop");
    /// ```
    pub fn keys_file(self, path: impl Into<PathBuf>) -> Self {
        self.set_key_location("keys_file", KeyLocation::File(path.into()))
    }

    /// Sets the file of the pod's token for the API server, for [`in_cluster`](Self::in_cluster). Default:
    /// `/var/run/secrets/kubernetes.io/serviceaccount/token`. If called again, the last path is used. For any other issuer it
    /// does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, Issuer};
    /// # fn example() -> Result<(), BuildError> {
    /// // For a pod with `automountServiceAccountToken: false` and a projected volume at /var/run/secrets/api.
    /// let issuer = Issuer::in_cluster()?
    ///     .api_token_file("/var/run/secrets/api/token")
    ///     .api_ca_file("/var/run/secrets/api/ca.crt")
    ///     .audience("shop");
    /// # Ok(())
    /// # }
    /// ```
    pub fn api_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        match &mut self.key_location {
            KeyLocation::ApiServer(api) => api.token_file = path.into(),
            _ => self.fault("`api_token_file` is for `in_cluster` only"),
        }
        self
    }

    /// Sets the file of the CA that signed the API server's certificate, in PEM, for [`in_cluster`](Self::in_cluster). Default:
    /// `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`. If called again, the last path is used. For any other issuer it
    /// does not build. For an example see [`api_token_file`](Self::api_token_file).
    pub fn api_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        match &mut self.key_location {
            KeyLocation::ApiServer(api) => api.ca_file = path.into(),
            _ => self.fault("`api_ca_file` is for `in_cluster` only"),
        }
        self
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
        if let Some(first) = self.key_setting {
            self.fault(format!(
                "`{setting}` conflicts with `{first}`, which was set before; set one of them, once"
            ));
        } else if matches!(self.key_location, KeyLocation::ApiServer(_)) {
            self.fault(format!(
                "`{setting}` cannot be combined with `in_cluster`, which fetches the keys from the API server"
            ));
        } else {
            self.key_setting = Some(setting);
            self.key_location = location;
        }
        self
    }
}

/// Settings for fetching keys and for how long they are used. If one of these is called again, the last value is used. A
/// setting that would have no effect, such as a timeout for keys that are not fetched, does not build.
impl Issuer {
    /// Sets how long keys stay in use while they cannot be refreshed. After that, requests with the issuer's tokens get 503.
    /// Default: 24 hours; zero does not build. If called again, the last value is used.
    ///
    /// Anyone who can cut the issuer off keeps keys that it has withdrawn in use for that long. Keys from
    /// [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem) and [`keys`](Self::keys) are never refreshed, so it does not build with those.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::Issuer;
    /// // During an outage of the issuer, its tokens are accepted for six hours.
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .stale_after(Duration::from_secs(6 * 3600))
    ///     .audience("shop");
    /// ```
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = Some(age);
        self
    }

    /// Sets the longest random delay before a fetch that a request causes because the current keys do not verify its token.
    /// Default: 2 s; from 0 to 3 s, since a request waits for at most 5 s. If called again, the
    /// last value is used.
    ///
    /// The delay spreads the fetches of replicas that receive tokens with a new key at the same moment: the issuer gets about
    /// as many requests per second as there are replicas, divided by this number of seconds. A request with the new key waits
    /// for the delay as well. It does not build with [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem) and
    /// [`keys`](Self::keys).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::Issuer;
    /// // A single replica has no reason to wait.
    /// let issuer = Issuer::oidc("https://id.example").unknown_key_jitter(Duration::ZERO).audience("shop");
    /// ```
    pub fn unknown_key_jitter(mut self, longest: Duration) -> Self {
        self.unknown_key_jitter = Some(longest);
        self
    }

    /// Sets how long the fetch of one document may take, including the connection. Default: 10 s; zero does not build.
    /// If called again, the last value is used.
    ///
    /// It does not build with [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem), [`keys`](Self::keys) and
    /// [`keys_file`](Self::keys_file), which fetch nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::Issuer;
    /// // A server that sends one byte per second is given up after three seconds.
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .fetch_timeout(Duration::from_secs(3))
    ///     .audience("shop");
    /// ```
    pub fn fetch_timeout(mut self, limit: Duration) -> Self {
        self.fetch_timeout = Some(limit);
        self
    }

    /// Sets the largest accepted size of a fetched document, in bytes. Default: 512 KiB; zero does not build. If called
    /// again, the last value is used.
    ///
    /// It does not build with [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem), [`keys`](Self::keys) and
    /// [`keys_file`](Self::keys_file), which fetch nothing.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // A larger document is an error, and the previous keys stay in use.
    /// let issuer = Issuer::oidc("https://id.example").max_document_bytes(64 * 1024).audience("shop");
    /// ```
    pub fn max_document_bytes(mut self, bytes: usize) -> Self {
        self.max_document_bytes = Some(bytes);
        self
    }

    /// Sets the largest accepted number of keys in a key set. A set with more keys is rejected as a whole. Default: 200; zero
    /// does not build. If called again, the last value is used.
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AQ"}]}"#;
    /// let issuer = Issuer::oidc("https://id.example").keys_json(keys).max_keys(1).audience("shop");
    /// let error = OidcGuard::builder().issuer(issuer).any_verified_caller().build().unwrap_err();
    /// assert!(error.to_string().contains("expected at most 1"));
    /// ```
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = Some(keys);
        self
    }

    /// Allows plain http to this issuer, on loopback only: for tests and demonstrations. Any process that can listen on this
    /// machine's ports could then pose as the issuer.
    ///
    /// It does not build for an issuer from which nothing is fetched over http: with [`in_cluster`](Self::in_cluster),
    /// [`keys_json`](Self::keys_json), [`keys_pem`](Self::keys_pem), [`keys`](Self::keys) and [`keys_file`](Self::keys_file).
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// let build = |issuer| OidcGuard::builder().issuer(issuer).any_verified_caller().build();
    /// let issuer = |url| Issuer::oidc(url).audience("shop");
    /// assert!(build(issuer("http://127.0.0.1:8080")).is_err());
    /// assert!(build(issuer("http://127.0.0.1:8080").insecure_loopback_http()).is_ok());
    /// assert!(build(issuer("http://id.example").insecure_loopback_http()).is_err());
    /// ```
    pub fn insecure_loopback_http(mut self) -> Self {
        self.allowed_urls = AllowedUrls::HttpsOrLoopback;
        self
    }

    /// Records what is wrong with a setting. The first fault is reported when the guard is built.
    fn fault(&mut self, reason: impl Into<String>) {
        self.fault.get_or_insert_with(|| reason.into());
    }
}
