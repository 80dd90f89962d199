//! The settings of a guard, and how they become one.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
#[cfg(feature = "policy-file")]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "testing")]
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, Response};
use reqwest_middleware::ClientWithMiddleware;

use super::OidcGuard;
use super::admission::{AdmissionController, RequestSettings};
use super::admission_slot::AdmissionSlot;
use super::audit::{Audit, AuditEvent, AuditPath, DecisionCallback};
use super::bearer::{SeveralTokens, TokenHeaders};
use super::endpoints::ProtectedResource;
#[cfg(feature = "policy-file")]
use super::followed::ConfigWatch;
use super::identities::IdentityPlace;
use super::refusal_summary::RefusalSummary;
use super::rejection_response::{CustomResponse, Description, RejectionResponses};
use crate::build_error::BuildError;
use crate::clock::Clock;
#[cfg(feature = "policy-file")]
use crate::config_file::{CacheValues, GuardSettings, SettingValues, to_usize};
#[cfg(feature = "policy-file")]
use crate::issuer::is_api_server_audience;
use crate::issuer::{Issuer, ResolvedIssuer};
use crate::jose::DEFAULT_MAX_TOKEN_BYTES;
use crate::keys::Keys;
use crate::keys::http_client::{AllowedUrls, default_client};
use crate::keys::sources::{ApiServer, KeySource};
use crate::policy::{Misfit, Policy, ResolvedPolicy};
#[cfg(feature = "policy-file")]
use crate::policy::{PolicyContent, PolicyError, PolicyIssuers};
use crate::rejection::Rejection;
use crate::telemetry;
use crate::token_review::TokenReviews;
use crate::verifier::{
    CacheLimits, IssuerName, ReadyWhen, RequiredIssuers, TokenVerifier, TrustedIssuer,
};

const DEFAULT_REALM: &str = "protected";
const DEFAULT_REFUSAL_SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// The range of `refusal_summary_interval`.
const REFUSAL_SUMMARY_INTERVAL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);
/// The range of `max_token_bytes`. A lower limit would reject tokens of Kubernetes; a higher one is of no use, because no
/// server accepts such headers.
const MAX_TOKEN_BYTES: RangeInclusive<usize> = 1024..=1024 * 1024;

/// Builds an [`OidcGuard`].
///
/// At least one [`issuer`](Self::issuer) and exactly one of [`policy`](Self::policy) and
/// [`any_verified_caller`](Self::any_verified_caller) are required.
///
/// ```
/// use tower_oidc_guard::{BuildError, Issuer, OidcGuard};
///
/// let cluster = Issuer::kubernetes("https://cluster.example").audience("https://auth-server.example");
/// let builder = || OidcGuard::builder().issuer(cluster.clone());
/// assert!(matches!(builder().build(), Err(BuildError::NoPolicy)));
/// assert!(builder().any_verified_caller().build().is_ok());
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct OidcGuardBuilder {
    issuers: Vec<Issuer>,
    /// The policy, with the setting that it comes from.
    policy: Option<(&'static str, Policy)>,
    shadow_policy: Option<Policy>,
    http_client: Option<ClientWithMiddleware>,
    ready_when: Option<ReadyWhen>,
    clock: Clock,
    cache: Option<CacheSetting>,
    max_token_bytes: Option<usize>,
    /// The headers that a token is read from, with the setting that they come from.
    token_headers: Option<(&'static str, TokenHeaders)>,
    strip_token: bool,
    allow_missing_token: bool,
    allow_cors_preflight: bool,
    identity_name: Option<&'static str>,
    realm: Option<String>,
    description: Description,
    protected_resource: Option<String>,
    custom_response: Option<CustomResponseSetting>,
    refusal_summary: Option<RefusalSummarySetting>,
    logs_decisions: bool,
    decision_callback: Option<DecisionCallbackSetting>,
    audit_path: Option<AuditPath>,
    /// The file that further settings come from.
    #[cfg(feature = "policy-file")]
    config_file: Option<ConfigWatch>,
    /// The first setting that would have replaced an earlier one; reported by `build`.
    conflict: Option<Conflict>,
}

/// A setting that would have replaced an earlier one.
#[derive(Debug, Clone, Copy)]
struct Conflict {
    first: &'static str,
    second: &'static str,
    advice: &'static str,
}

/// Whether verified tokens are cached, and how many.
#[derive(Debug, Clone, Copy)]
enum CacheSetting {
    Off,
    Limited(CacheLimits),
}

impl Default for CacheSetting {
    fn default() -> Self {
        Self::Limited(CacheLimits::default())
    }
}

impl CacheSetting {
    /// Returns the limits of the cache, or `None` if it is off.
    fn limits(self) -> Result<Option<CacheLimits>, BuildError> {
        match self {
            Self::Off => Ok(None),
            Self::Limited(CacheLimits { tokens, bytes }) if tokens == 0 || bytes == 0 => {
                Err(BuildError::Cache { tokens, bytes })
            }
            Self::Limited(limits) => Ok(Some(limits)),
        }
    }
}

/// Whether a summary of refused requests is logged, and how often.
#[derive(Debug, Clone, Copy)]
enum RefusalSummarySetting {
    Off,
    Every(Duration),
}

impl Default for RefusalSummarySetting {
    fn default() -> Self {
        Self::Every(DEFAULT_REFUSAL_SUMMARY_INTERVAL)
    }
}

impl RefusalSummarySetting {
    /// Returns the interval of the summary, or `None` if it is off.
    fn interval(self) -> Result<Option<Duration>, BuildError> {
        match self {
            Self::Off => Ok(None),
            Self::Every(interval) if REFUSAL_SUMMARY_INTERVAL.contains(&interval) => {
                Ok(Some(interval))
            }
            Self::Every(interval) => Err(BuildError::RefusalSummaryInterval { interval }),
        }
    }
}

/// A [`CustomResponse`] with a `Debug` implementation.
#[derive(Clone)]
struct CustomResponseSetting(CustomResponse);

impl fmt::Debug for CustomResponseSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomResponse")
    }
}

/// A [`DecisionCallback`] with a `Debug` implementation.
#[derive(Clone)]
struct DecisionCallbackSetting(DecisionCallback);

impl fmt::Debug for DecisionCallbackSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecisionCallback")
    }
}

/// Settings for trusted issuers and allowed callers.
impl OidcGuardBuilder {
    /// Creates a builder for a guard that follows a YAML or JSON file: its issuers, its policy and its settings.
    ///
    /// ```yaml
    /// issuers:
    ///   - platform: in-cluster               # or kubernetes, google, github-actions, gitlab, other (the default)
    ///     audiences: ["https://auth-server.example"]
    ///   - url: https://id.example            # not with in-cluster and google
    ///     audiences: ["https://auth-server.example"]
    ///     algorithms: [ES256]                # this and all further fields are optional
    ///     leeway_seconds: 60
    ///     jwks_url: https://id.example/keys  # or discovery_url, or keys_file
    /// allow:
    ///   - system:serviceaccount:id-namespace:gke-sa
    /// realm: orders
    /// ```
    ///
    /// The fields `allow`, `deny`, `audiences`, `scopes` and `claims` are described at [`PolicyFile`](crate::PolicyFile).
    /// The other fields have the names of the methods of this builder, and those of an issuer the names of the methods of
    /// [`Issuer`], except for `audiences`, `claims` and times in `…_seconds`; the README lists all of them. Required are
    /// `allow`, the `audiences` of an issuer, its `url` with the platforms `kubernetes`, `gitlab` and `other`, and
    /// `when_unavailable` within `token_review`. Issuers and settings may also be in code; a setting that is in both does
    /// not build. Functions, the HTTP client and [`identity_name`](Self::identity_name) can only be set in code. They stay
    /// when the file changes.
    ///
    /// # Changes of the file
    ///
    /// New content takes effect as a whole, for every layer, probe and [`verifier`](OidcGuard::verifier) of the guard, or not at all.
    /// It is rejected if it is invalid, if its policy does not fit its issuers, if that of a layer
    /// ([`layer_with`](OidcGuard::layer_with)) does not, or if the path of the
    /// [metadata of the protected resource](Self::protected_resource) would change. The previous content then stays in effect, and the
    /// error, with line and column, is logged (WARN), returned by [`policy_health`](OidcGuard::policy_health) and, with the feature
    /// `metrics`, counted.
    ///
    /// - A request is decided by the content that is in effect when it arrives, also if it waits for keys.
    /// - An issuer keeps its keys unless its `iss`, the place of its keys or its algorithms change. Its cached tokens are kept if none
    ///   of its settings changes, and are verified again otherwise.
    /// - The keys of a new issuer are fetched in the background. Requests with its tokens wait for them, as after the start, and get
    ///   503 if they cannot be fetched. A guard that was ready stays ready meanwhile, so that other requests are not affected, as long
    ///   as it has the keys of any issuer.
    /// - The fetches for an issuer that was removed end. Its gauges become NaN; if another guard of the program trusts it too, until
    ///   that guard fetches its keys again.
    ///
    /// A change is logged as one event with the differences, at WARN if callers may be admitted that were not before:
    ///
    /// ```text
    /// WARN configuration changed: the guard may admit callers that it did not admit before path=/etc/guard/guard.yaml
    ///   changes="+ issuer https://id.example (audiences: orders), realm: protected -> orders" widened_by="+ issuer …"
    /// ```
    ///
    /// [`policy`](OidcGuard::policy) returns the policy at the moment of the call.
    ///
    /// # Errors
    ///
    /// [`BuildError::PolicyFile`] if the file has no valid content within 5 s, or outside a tokio runtime, and another
    /// [`BuildError`] if the settings of an issuer are invalid.
    ///
    /// # Panics
    ///
    /// Panics in a tokio runtime without timers (`enable_time`).
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, OidcGuardBuilder};
    /// # async fn example() -> Result<(), BuildError> {
    /// let guard = OidcGuardBuilder::from_file("/etc/guard/guard.yaml").await?.realm("orders").build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "policy-file")]
    pub async fn from_file(path: impl Into<PathBuf>) -> Result<Self, BuildError> {
        Ok(Self {
            config_file: Some(ConfigWatch::open(path.into()).await?),
            ..Self::default()
        })
    }

    /// Trusts an issuer. Required; if called several times, all of the issuers are trusted.
    ///
    /// The `iss` of a token selects the issuer, and only that issuer's keys are tried. Two issuers with the same `iss` do not
    /// build.
    ///
    /// ```
    /// # use tower_oidc_guard::{Issuer, OidcGuard};
    /// // Accepts tokens of the cluster and of Google.
    /// let builder = OidcGuard::builder()
    ///     .issuer(Issuer::gke("shop", "europe-west1", "prod").audience("https://auth-server.example"))
    ///     .issuer(Issuer::google().audience("https://auth-server.example"));
    /// ```
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Sets which callers are allowed. Either this or [`any_verified_caller`](Self::any_verified_caller) is required; both, or
    /// one of them twice, does not build. Combine policies with [`Policy::any_of`] or [`Policy::all_of`].
    ///
    /// ```
    /// # use tower_oidc_guard::{OidcGuard, Policy};
    /// // Any other caller gets 403.
    /// let builder = OidcGuard::builder().policy(Policy::members(["system:serviceaccount:shop:orders"]));
    /// ```
    pub fn policy(self, policy: Policy) -> Self {
        self.set_policy("policy", policy)
    }

    /// Allows every caller with a valid token of a trusted issuer for one of its audiences. A guard that has a
    /// [`policy`](Self::policy) as well does not build.
    ///
    /// For a Kubernetes issuer these are all pods that request such a token, for Google it is anyone: the service has to decide
    /// by the [`Identity`](crate::Identity).
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // No caller with a valid token gets 403.
    /// let builder = OidcGuard::builder().any_verified_caller();
    /// ```
    pub fn any_verified_caller(self) -> Self {
        self.set_policy("any_verified_caller", Policy::any_verified_caller())
    }

    /// Sets a shadow policy: a second policy that is evaluated for each request and not enforced, to try a change of the
    /// [policy](Self::policy) before it is made. A second call does not build.
    ///
    /// Where the two differ, the shadow policy announces the requests whose outcome changes once it replaces the policy:
    ///
    /// - the metric `oidc_guard_shadow_policy_differences_total` counts them by issuer, as `would_reject` or `would_allow`;
    /// - each [audit event](Self::audit_events) has the decision of the shadow policy and the rule that decided;
    /// - the log has a summary (INFO): the first difference immediately, and then, as long as there are differences, one event per
    ///   [interval](Self::refusal_summary_interval), with their number, an example of a caller, and the rules of both policies.
    ///   [`without_refusal_summary`](Self::without_refusal_summary) turns it off, too. At the level DEBUG each
    ///   difference is an event.
    ///
    /// Requests without a token are compared as well, since a policy may allow `allUsers`. Requests that are rejected whatever the
    /// policy, such as those with an expired token, and CORS preflights are not. A request that would be allowed may still be
    /// rejected by a review of its token, because the API server is not asked about tokens of callers that the policy does not allow.
    ///
    /// The shadow policy has to fit the trusted issuers, like the policy. It may be that of a
    /// [file](crate::PolicyFile), which is reloaded when it changes; a reload that fails keeps the previous shadow policy and
    /// affects no request. Its [conditions](Policy::require) are called for each request in addition to those of the policy. If one
    /// panics, the panic is caught, and the request is counted as one that would be rejected; the shadow policy is then not
    /// evaluated for a minute, so that panics do not fill the log. In a program that is compiled with `panic = "abort"`, it ends the
    /// program. If the configuration file of a guard changes so that the shadow policy no longer fits the issuers, it is suspended until
    /// it does, with a warning.
    ///
    /// It is compared with the policy of the guard. A layer with another policy can have a separate one:
    /// [`OidcGuardLayer::with_shadow_policy`](crate::OidcGuardLayer::with_shadow_policy).
    ///
    /// ```
    /// # use tower_oidc_guard::{OidcGuard, Policy};
    /// let shop = Policy::members(["system:serviceaccounts:shop"]);
    /// // Logs and counts the requests of `legacy`, which are still admitted.
    /// let builder = OidcGuard::builder()
    ///     .shadow_policy(shop.clone().deny(["system:serviceaccount:shop:legacy"]))
    ///     .policy(shop);
    /// ```
    pub fn shadow_policy(mut self, policy: Policy) -> Self {
        if self.shadow_policy.is_some() {
            let advice = "a guard has one shadow policy; remove one, or combine them with `Policy::any_of` or `Policy::all_of`";
            self.conflict("shadow_policy", "shadow_policy", advice);
        }
        self.shadow_policy = Some(policy);
        self
    }

    fn set_policy(mut self, setting: &'static str, policy: Policy) -> Self {
        #[cfg(feature = "policy-file")]
        if self.config_file.is_some() {
            let advice = "the policy of the guard is in the file; remove one of them";
            self.conflict("from_file", setting, advice);
            return self;
        }
        match &self.policy {
            None => self.policy = Some((setting, policy)),
            Some((first, _)) => {
                let advice = "a guard has one policy; remove one, or combine them with `Policy::any_of` or `Policy::all_of`";
                self.conflict(first, setting, advice);
            }
        }
        self
    }
}

/// Settings for requests.
impl OidcGuardBuilder {
    /// Reads the token from the first of these headers that contains one. Default: `Authorization`.
    ///
    /// In `Authorization` and `Proxy-Authorization` the token follows the scheme `Bearer` and one space. In headers that
    /// platforms define for tokens (`X-Serverless-Authorization`, `X-Goog-IAP-JWT-Assertion`) the scheme is optional.
    ///
    /// The values of these headers are marked as [sensitive](http::HeaderValue::set_sensitive) in the request that the service
    /// gets, so a handler that logs its headers does not log the token.
    ///
    /// An empty list, a repeated header, or a second call of this or of
    /// [`token_from_exactly_one_of`](Self::token_from_exactly_one_of) does not build.
    ///
    /// ```
    /// # use {http::{HeaderName, header::AUTHORIZATION}, tower_oidc_guard::OidcGuard};
    /// // On Cloud Run: `Authorization` is read only if `X-Serverless-Authorization` is absent.
    /// const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");
    /// let builder = OidcGuard::builder().token_from([SERVERLESS, AUTHORIZATION]);
    /// ```
    pub fn token_from(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set_token_headers("token_from", headers, SeveralTokens::First)
    }

    /// Reads the token from one of these headers. A request with a token in more than one of them is malformed and gets 400.
    ///
    /// An empty list, a repeated header, or a second call of this or of [`token_from`](Self::token_from) does not build.
    ///
    /// ```
    /// # use {http::header::{AUTHORIZATION, PROXY_AUTHORIZATION}, tower_oidc_guard::OidcGuard};
    /// // A request with a token in both headers gets 400.
    /// let builder = OidcGuard::builder().token_from_exactly_one_of([PROXY_AUTHORIZATION, AUTHORIZATION]);
    /// ```
    pub fn token_from_exactly_one_of(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set_token_headers(
            "token_from_exactly_one_of",
            headers,
            SeveralTokens::Malformed,
        )
    }

    fn set_token_headers(
        mut self,
        setting: &'static str,
        headers: impl IntoIterator<Item = HeaderName>,
        several: SeveralTokens,
    ) -> Self {
        match self.token_headers {
            Some((first, _)) => self.conflict(first, setting, "list all headers in one call"),
            None => {
                let names = headers.into_iter().collect();
                self.token_headers = Some((setting, TokenHeaders { names, several }));
            }
        }
        self
    }

    /// Removes the token's headers before the service is called. By default the service gets them, marked as
    /// [sensitive](http::HeaderValue::set_sensitive).
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // The service does not get the token, so it cannot forward it.
    /// let builder = OidcGuard::builder().strip_token();
    /// ```
    pub fn strip_token(mut self) -> Self {
        self.strip_token = true;
        self
    }

    /// Admits requests without a token, without an identity. By default they get 401.
    ///
    /// The policy is not evaluated for them, so the service has to check whether there is an [`Identity`](crate::Identity). A
    /// request with an invalid token, or a malformed header, is rejected as usual.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().allow_missing_token();
    /// // With axum, a handler behind this guard takes an `Option<Identity>`.
    /// ```
    pub fn allow_missing_token(mut self) -> Self {
        self.allow_missing_token = true;
        self
    }

    /// Admits CORS preflights, which browsers send without a token: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`. By default they get 401.
    ///
    /// A preflight with `Authorization`, or with another header that a token is read from, is malformed and gets 400. Not
    /// needed if a CORS layer in front of the guard responds to preflights.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // For a service that responds to preflights itself.
    /// let builder = OidcGuard::builder().allow_cors_preflight();
    /// ```
    pub fn allow_cors_preflight(mut self) -> Self {
        self.allow_cors_preflight = true;
        self
    }

    /// Stores the identity in [`Identities`](crate::Identities) under this name, instead of as [`Identity`](crate::Identity) in
    /// the request's extensions. A second call does not build.
    ///
    /// Use it for two guards, one behind the other, such as those of a gateway and a service. Each guard removes only the
    /// identity under its name from a request before it decides.
    ///
    /// ```
    /// # use {http::HeaderName, tower_oidc_guard::OidcGuard};
    /// const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");
    /// let gateway = OidcGuard::builder().token_from([SERVERLESS]).identity_name("gateway");
    /// // Behind it: request.extensions().get::<Identities>()?.get("gateway")
    /// ```
    pub fn identity_name(mut self, name: &'static str) -> Self {
        if self.identity_name.is_some() {
            let advice = "a guard stores the identity under one name";
            self.conflict("identity_name", "identity_name", advice);
        }
        self.identity_name = Some(name);
        self
    }

    /// Sets the length of the longest accepted token, in bytes, without `Bearer`. Default: 16 KiB (16,384 bytes); from 1 KiB to
    /// 1 MiB. If called again, the last value is used.
    ///
    /// A longer token is rejected with [`TokenError::TooLong`](crate::TokenError::TooLong) before any of it is parsed. This is
    /// the only limit on a token: the number of members and audiences, the nesting and the escapes are bounded by it alone. The
    /// time and the memory that a token takes before its signature is verified are proportional to its length.
    ///
    /// HTTP servers limit headers as well, and respond with 431: hyper accepts 16 KiB of headers over HTTP/2 unless
    /// `max_header_list_size` sets more.
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// let builder = || OidcGuard::builder().issuer(Issuer::google().audience("shop")).any_verified_caller();
    /// assert!(builder().max_token_bytes(64 * 1024).build().is_ok());
    /// assert!(builder().max_token_bytes(64).build().is_err());
    /// ```
    pub fn max_token_bytes(mut self, bytes: usize) -> Self {
        self.max_token_bytes = Some(bytes);
        self
    }
}

/// Settings for the responses to rejected requests.
impl OidcGuardBuilder {
    /// Sets the realm of challenges (RFC 9110, section 11.5), in printable ASCII. Default: `protected`. If called again, the
    /// last realm is used.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // WWW-Authenticate: Bearer realm="orders"
    /// let builder = OidcGuard::builder().realm("orders");
    /// ```
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Omits the `error_description` from challenges, and the `grpc-message` from gRPC responses.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // WWW-Authenticate: Bearer realm="protected", error="invalid_token"
    /// let builder = OidcGuard::builder().without_error_description();
    /// ```
    pub fn without_error_description(mut self) -> Self {
        self.description = Description::Omitted;
        self
    }

    /// Sets the URL of the protected resource (RFC 9728), https and without a fragment. A second call does not build.
    ///
    /// Challenges then contain the URL of the resource's metadata, and
    /// [`OidcGuard::resource_metadata`](crate::OidcGuard::resource_metadata) returns a service that responds with the metadata.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // WWW-Authenticate: Bearer realm="protected",
    /// //     resource_metadata="https://orders.example/.well-known/oauth-protected-resource"
    /// let builder = OidcGuard::builder().protected_resource("https://orders.example");
    /// ```
    pub fn protected_resource(mut self, resource: impl Into<String>) -> Self {
        if self.protected_resource.is_some() {
            let advice = "a guard protects one resource";
            self.conflict("protected_resource", "protected_resource", advice);
        }
        self.protected_resource = Some(resource.into());
        self
    }

    /// Sets a function that makes the response to a rejected request, from the rejection and the default response. A second
    /// call does not build.
    ///
    /// It is not called for gRPC requests. A response without `Cache-Control` gets `no-store`, which the default response has.
    ///
    /// ```
    /// use http::header::CONTENT_TYPE;
    /// use tower_oidc_guard::OidcGuard;
    ///
    /// // Keeps the status and the challenge, and replaces the text with {"reason":"expired"}.
    /// let builder = OidcGuard::builder().rejection_response(|rejection, response| {
    ///     let mut response = response.map(|_| format!(r#"{{"reason":"{}"}}"#, rejection.reason()).into());
    ///     response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    ///     response
    /// });
    /// ```
    pub fn rejection_response(
        mut self,
        response: impl Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        if self.custom_response.is_some() {
            let advice = "a guard has one function for the responses to rejected requests";
            self.conflict("rejection_response", "rejection_response", advice);
        }
        self.custom_response = Some(CustomResponseSetting(Arc::new(response)));
        self
    }
}

/// Settings for verification.
impl OidcGuardBuilder {
    /// Sets how many verified tokens are cached, and how many bytes they may take, so that the next request with a cached
    /// token needs no signature check. Default: 4,096 tokens and 16 MiB. Zero of either does not build; use
    /// [`without_cache`](Self::without_cache). If called again, the last limits are used.
    ///
    /// Only tokens that have verified are cached. An entry is removed at the first use after its token has expired or its issuer's
    /// keys have changed, or to make room for another. The decision of a policy that depends on the token alone is remembered
    /// with it, until the policy changes. The memory of an entry is not zeroed when it is freed.
    ///
    /// Each thread has copies of up to eight tokens that it uses most, so that threads with the same token do not wait for each
    /// other. A copy is checked like the cached token at each use. If a token is removed because of its keys, its expiry or its
    /// revocation, each thread drops its copies at the thread's next request; if it made room for another, its copies stay until
    /// they make room in turn. All copies take at most an eighth of `bytes` in addition.
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// let builder = || OidcGuard::builder().issuer(Issuer::google().audience("shop")).any_verified_caller();
    /// assert!(builder().cache(100_000, 400 * 1024 * 1024).build().is_ok());
    /// assert!(builder().cache(0, 0).build().is_err());
    /// ```
    pub fn cache(mut self, tokens: usize, bytes: u64) -> Self {
        self.cache = Some(CacheSetting::Limited(CacheLimits { tokens, bytes }));
        self
    }

    /// Turns the cache of verified tokens off: every request needs a signature check. Replaces an earlier
    /// [`cache`](Self::cache), and is replaced by a later one.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// // No token is kept after its request, except for token reviews. (Freed memory is not zeroed.)
    /// let builder = OidcGuard::builder().without_cache();
    /// ```
    pub fn without_cache(mut self) -> Self {
        self.cache = Some(CacheSetting::Off);
        self
    }

    /// Fetches discovery documents and keys with this client, for example for a proxy, another CA, retries or tracing. A second
    /// call does not build.
    ///
    /// The default client trusts the system's root certificates, follows redirects within one origin only, connects within 5 s,
    /// and uses the proxy of the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`). [`in_cluster`](Issuer::in_cluster)
    /// always uses a separate client, without a proxy.
    ///
    /// Responses that this client gets from another origin through a redirect are not used.
    /// [`fetch_timeout`](Issuer::fetch_timeout) and [`max_document_bytes`](Issuer::max_document_bytes) apply to it as well. It
    /// has no effect for issuers from which nothing is fetched.
    ///
    /// ```
    /// use tower_oidc_guard::reqwest_middleware::{ClientBuilder, reqwest};
    /// use tower_oidc_guard::OidcGuard;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Fetches keys through a proxy.
    /// let client = reqwest::Client::builder().proxy(reqwest::Proxy::https("http://proxy.example:3128")?).build()?;
    /// let builder = OidcGuard::builder().http_client(ClientBuilder::new(client).build());
    /// # Ok(())
    /// # }
    /// ```
    pub fn http_client(mut self, client: ClientWithMiddleware) -> Self {
        if self.http_client.is_some() {
            let advice = "a guard has one HTTP client, which may have several middlewares";
            self.conflict("http_client", "http_client", advice);
        }
        self.http_client = Some(client);
        self
    }

    /// Sets which issuers must have usable keys for the guard to be ready. Default: all of them. If called again, the last
    /// choice is used.
    ///
    /// It applies to [`OidcGuard::ready`], [`OidcGuard::is_ready`] and [`OidcGuard::readiness`]. With more than one issuer, a
    /// service that is not to be taken out of rotation because one of them cannot be reached requires only some of them.
    /// Requests with a token of an issuer without keys are answered with 503 whatever is set here.
    ///
    /// An empty list, or a name that is neither the configured `iss` nor the label of a trusted issuer, does not build.
    ///
    /// ```
    /// use tower_oidc_guard::{BuildError, Issuer, OidcGuard, ReadyWhen};
    ///
    /// let builder = || {
    ///     OidcGuard::builder()
    ///         .issuer(Issuer::kubernetes("https://cluster.example").audience("shop"))
    ///         .issuer(Issuer::google().audience("shop"))
    ///         .any_verified_caller()
    /// };
    /// // Ready without Google's keys.
    /// assert!(builder().ready_when(ReadyWhen::issuers(["https://cluster.example"])).build().is_ok());
    /// assert!(builder().ready_when(ReadyWhen::AnyIssuer).build().is_ok());
    ///
    /// let unknown = builder().ready_when(ReadyWhen::issuers(["https://cluster.example/"])).build();
    /// assert!(matches!(unknown, Err(BuildError::ReadyWhen { .. })));
    /// ```
    pub fn ready_when(mut self, ready_when: ReadyWhen) -> Self {
        self.ready_when = Some(ready_when);
        self
    }

    /// Sets how often a summary of refused requests is logged: 1 s to 1 h, by default 10 s. If called again, or after
    /// [`without_refusal_summary`](Self::without_refusal_summary), the last call is used.
    ///
    /// The first refusal after a quiet time is logged immediately. Those that follow are counted, and logged as one event per
    /// interval, which also has what is configured, such as the accepted audiences. Nothing that a caller sent is logged. The
    /// level is WARN, or INFO if none of the requests had any credentials. One summary includes the requests of all layers of the guard:
    ///
    /// ```text
    /// WARN 1 request refused: 1 wrong_audience, expected https://a.example or https://b.example
    /// WARN 37 requests refused in the last 10 s: 30 wrong_audience, expected https://a.example or https://b.example; 7 expired, …
    /// ```
    ///
    /// Its fields are `count`, `seconds` (the time in which they were counted; absent for a request that is logged immediately)
    /// and `reasons`, such as `wrong_audience=30 expired=7`. Outside a tokio runtime, and in one without timers
    /// (`enable_time`), the summary of an interval is logged with the first refusal after it. In a runtime without timers, the
    /// task that waits for the end of the first interval panics, as any use of tokio's timers does, which has no other effect
    /// unless the program aborts at a panic; [`without_refusal_summary`](Self::without_refusal_summary) avoids it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::OidcGuard;
    /// // At most one event per minute, for a service that scanners on the internet find.
    /// let builder = OidcGuard::builder().refusal_summary_interval(Duration::from_secs(60));
    /// ```
    pub fn refusal_summary_interval(mut self, interval: Duration) -> Self {
        self.refusal_summary = Some(RefusalSummarySetting::Every(interval));
        self
    }

    /// Logs no summary of refused requests. By default there is one every 10 s while requests are refused; see
    /// [`refusal_summary_interval`](Self::refusal_summary_interval). Each refusal is still an event at the level DEBUG.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().without_refusal_summary();
    /// ```
    pub fn without_refusal_summary(mut self) -> Self {
        self.refusal_summary = Some(RefusalSummarySetting::Off);
        self
    }

    /// Logs each decision, for an audit log: allowed, anonymous and rejected requests. By default none is logged.
    ///
    /// The events have the target `oidc_guard::audit` and the level INFO, and the fields that [`AuditEvent`] lists. A
    /// subscriber can write them to a separate file. They are logged in the span of the request, if it has one.
    ///
    /// ```text
    /// INFO oidc_guard::audit: decision time_unix_ms=1795463114123 decision="allowed" reason="allowed"
    ///   rule="system:serviceaccount:shop:web is an allowed member" issuer="https://cluster.example"
    ///   subject="system:serviceaccount:shop:web" credential_id="d60d535c-5a57-40ed-840d-3ddf76538b70" audience="orders" method="GET"
    /// ```
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().audit_events();
    /// ```
    pub fn audit_events(mut self) -> Self {
        self.logs_decisions = true;
        self
    }

    /// Calls this function for each decision, with the content of [`audit_events`](Self::audit_events), also if those are not
    /// logged. It may not be set twice.
    ///
    /// It is called before the service and before the response, so it must not block. Tokens that are verified with
    /// [`OidcGuard::verifier`] are no decisions; those that are passed to [`OidcGuard::authorize`] are.
    ///
    /// If the function panics, the panic is caught and logged as an error, and the request proceeds as decided. In a program
    /// that is compiled with `panic = "abort"`, it ends the program.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tower_oidc_guard::{AuditDecision, OidcGuard};
    ///
    /// let (sender, denied) = mpsc::channel();
    /// let builder = OidcGuard::builder().on_decision(move |event| {
    ///     if event.decision == AuditDecision::Rejected {
    ///         let subject = event.subject.unwrap_or("unknown");
    ///         // The receiver is gone when the program ends.
    ///         let _ = sender.send(format!("{subject}: {}", event.reason));
    ///     }
    /// });
    /// ```
    pub fn on_decision(
        mut self,
        callback: impl Fn(&AuditEvent<'_>) + Send + Sync + 'static,
    ) -> Self {
        if self.decision_callback.is_some() {
            let advice = "a guard calls one function, which may call several";
            self.conflict("on_decision", "on_decision", advice);
        }
        self.decision_callback = Some(DecisionCallbackSetting(Arc::new(callback)));
        self
    }

    /// Sets which path [`audit_events`](Self::audit_events) and [`on_decision`](Self::on_decision) contain. By default they
    /// contain none. If called again, the last path is used.
    ///
    /// A path may contain what identifies a person, or a secret. The query is never included.
    ///
    /// ```
    /// # use tower_oidc_guard::{AuditPath, OidcGuard};
    /// let builder = OidcGuard::builder().audit_events().audit_path(AuditPath::Uri);
    /// ```
    pub fn audit_path(mut self, path: AuditPath) -> Self {
        self.audit_path = Some(path);
        self
    }

    /// Reads the time of day from this function instead of from the system, for tests. If called again, the last function is
    /// used.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use tower_oidc_guard::OidcGuard;
    /// // Verifies a recorded token as of the day when it was recorded.
    /// let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_462_877);
    /// let builder = OidcGuard::builder().clock(move || then);
    /// ```
    #[cfg(feature = "testing")]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Records a setting that would replace an earlier one. The first conflict is reported by `build`.
    fn conflict(&mut self, first: &'static str, second: &'static str, advice: &'static str) {
        self.conflict.get_or_insert(Conflict {
            first,
            second,
            advice,
        });
    }

    /// Builds the guard. Nothing is fetched and no task is started.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if there is no issuer or no policy, if a setting is invalid, if the policy does not fit the issuers, or
    /// if a setting would replace another.
    #[cfg_attr(not(feature = "policy-file"), expect(unused_mut))]
    pub fn build(mut self) -> Result<OidcGuard, BuildError> {
        if let Some(Conflict {
            first,
            second,
            advice,
        }) = self.conflict
        {
            return Err(BuildError::Conflict {
                first,
                second,
                advice,
            });
        }
        #[cfg(feature = "policy-file")]
        if let Some(file) = self.config_file.take() {
            return file.follow(self);
        }
        let admission = self.assemble(&mut Assembly::default())?;
        Ok(OidcGuard::new(AdmissionSlot::fixed(admission)))
    }

    /// Resolves the settings into those of the guard's layer.
    pub(super) fn assemble(
        self,
        assembly: &mut Assembly<'_>,
    ) -> Result<AdmissionController, BuildError> {
        if self.issuers.is_empty() {
            return Err(BuildError::NoIssuer);
        }
        let (_, policy) = self.policy.ok_or(BuildError::NoPolicy)?;
        let token_headers = self
            .token_headers
            .map(|(_, headers)| headers)
            .unwrap_or_default();
        check_token_headers(&token_headers.names)?;
        let realm = self.realm.unwrap_or_else(|| DEFAULT_REALM.to_owned());
        if !realm
            .chars()
            .all(|character| matches!(character, ' '..='~'))
        {
            return Err(BuildError::Realm { realm });
        }
        let resource = self.protected_resource.map(|resource| {
            ProtectedResource::new(&resource).ok_or(BuildError::Resource { resource })
        });
        let max_token_bytes = self.max_token_bytes.unwrap_or(DEFAULT_MAX_TOKEN_BYTES);
        if !MAX_TOKEN_BYTES.contains(&max_token_bytes) {
            return Err(BuildError::MaxTokenBytes {
                bytes: max_token_bytes,
            });
        }
        let responses = RejectionResponses {
            realm,
            description: self.description,
            resource: resource.transpose()?,
            custom: self
                .custom_response
                .map(|CustomResponseSetting(response)| response),
        };
        let requests = RequestSettings {
            token_headers,
            strip_token: self.strip_token,
            allow_missing_token: self.allow_missing_token,
            allow_cors_preflight: self.allow_cors_preflight,
            identity_place: self
                .identity_name
                .map_or(IdentityPlace::Extension, IdentityPlace::Named),
        };
        let cache = self.cache.unwrap_or_default().limits()?;
        let interval = self.refusal_summary.unwrap_or_default().interval()?;
        telemetry::describe();
        let issuers = trusted_issuers(self.issuers, self.http_client, &self.clock, assembly)?;
        let ready_when = self.ready_when.unwrap_or_default();
        let required = RequiredIssuers::resolve(&ready_when, &issuers)?;
        let verifier = TokenVerifier::new(issuers, required, cache, max_token_bytes, self.clock);
        let trusted = verifier.policy_issuers();
        #[cfg(feature = "policy-file")]
        if let Some(file) = &assembly.file {
            file.check_issuers(&trusted)?;
        }
        let policy = ResolvedPolicy::new(policy, &trusted)?;
        let callback = self.decision_callback;
        let audit = Audit {
            is_logged: self.logs_decisions,
            callback: callback.map(|DecisionCallbackSetting(callback)| callback),
            path: self.audit_path.unwrap_or_default(),
        };
        let is_audited = audit.is_logged || audit.callback.is_some();
        let headers = &requests.token_headers.names;
        let refusals = interval
            .map(|interval| RefusalSummary::new(interval, verifier.clone(), headers.clone()));
        let admission = AdmissionController {
            verifier,
            policy,
            shadow: None,
            requests,
            responses,
            summary_interval: interval,
            refusals,
            audit: is_audited.then_some(audit),
        };
        match self.shadow_policy {
            Some(policy) => admission
                .with_shadow_policy(policy, assembly.shadow_misfit())
                .map_err(BuildError::ShadowPolicy),
            None => Ok(admission),
        }
    }
}

/// Parts that a guard is assembled from, besides its settings.
#[derive(Default)]
pub(super) struct Assembly<'a> {
    /// The file that the policy comes from.
    #[cfg(feature = "policy-file")]
    pub(super) file: Option<FileInUse<'a>>,
    /// The settings that the new ones replace.
    #[cfg(feature = "policy-file")]
    pub(super) previous: Option<&'a AdmissionController>,
    /// The default HTTP clients.
    pub(super) clients: HttpClients,
    #[cfg(not(feature = "policy-file"))]
    pub(super) lifetime: std::marker::PhantomData<&'a ()>,
}

impl Assembly<'_> {
    /// Returns the treatment of a shadow policy that does not fit: a change of the file must not fail because of it.
    fn shadow_misfit(&self) -> Misfit {
        #[cfg(feature = "policy-file")]
        if self.previous.is_some() {
            return Misfit::Suspend;
        }
        Misfit::Reject
    }
}

/// The default HTTP clients, which are created when they are first needed.
#[derive(Debug, Clone, Default)]
pub(super) struct HttpClients {
    https: Option<ClientWithMiddleware>,
    loopback: Option<ClientWithMiddleware>,
}

impl HttpClients {
    fn get(&mut self, urls: AllowedUrls) -> Result<ClientWithMiddleware, BuildError> {
        let client = match urls {
            AllowedUrls::HttpsOnly => &mut self.https,
            AllowedUrls::HttpsOrLoopback => &mut self.loopback,
        };
        if let Some(client) = client {
            return Ok(client.clone());
        }
        let created = default_client(urls).map_err(BuildError::HttpClient)?;
        Ok(client.insert(created).clone())
    }
}

/// A configuration file with the content that is to be put into effect.
#[cfg(feature = "policy-file")]
pub(super) struct FileInUse<'a> {
    pub(super) path: &'a Path,
    pub(super) content: &'a PolicyContent,
}

#[cfg(feature = "policy-file")]
impl FileInUse<'_> {
    /// Checks the policy against the trusted issuers. The error has the position in the file.
    fn check_issuers(&self, trusted: &PolicyIssuers) -> Result<(), PolicyError> {
        let checked = self.content.check_issuers(trusted);
        checked.map_err(|(position, error)| PolicyError::InFile {
            path: self.path.to_owned(),
            line: position.line,
            column: position.column,
            error: Box::new(error),
        })
    }
}

/// Settings in a configuration file.
#[cfg(feature = "policy-file")]
impl OidcGuardBuilder {
    /// Adds the issuers, the policy and the settings of a file to those in code.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is in both, or an issuer in the file is invalid.
    pub(super) fn with_file(mut self, content: &PolicyContent) -> Result<Self, BuildError> {
        let config = content.config();
        self.issuers.extend(config.issuers()?);
        self.policy = Some(("from_file", content.policy()));
        self.with_file_settings(&config.settings)
    }

    /// Adds the settings of a file to those in code.
    pub(super) fn with_file_settings(
        mut self,
        settings: &GuardSettings,
    ) -> Result<Self, BuildError> {
        // All fields, so that a new one is not forgotten.
        let SettingValues {
            realm,
            token_from,
            token_from_exactly_one_of,
            strip_token,
            allow_missing_token,
            allow_cors_preflight,
            max_token_bytes,
            without_error_description,
            protected_resource,
            cache,
            without_cache,
            ready_when,
            refusal_summary_interval_seconds,
            without_refusal_summary,
            audit_events,
            audit_path,
        } = settings.values.clone();
        let has_headers = self.token_headers.is_some();
        let has_cache = self.cache.is_some();
        let has_summary = self.refusal_summary.is_some();
        for (setting, in_code, in_file) in [
            ("realm", self.realm.is_some(), realm.is_some()),
            ("token_from", has_headers, token_from.is_some()),
            (
                "token_from_exactly_one_of",
                has_headers,
                token_from_exactly_one_of.is_some(),
            ),
            ("strip_token", self.strip_token, strip_token.is_some()),
            (
                "allow_missing_token",
                self.allow_missing_token,
                allow_missing_token.is_some(),
            ),
            (
                "allow_cors_preflight",
                self.allow_cors_preflight,
                allow_cors_preflight.is_some(),
            ),
            (
                "max_token_bytes",
                self.max_token_bytes.is_some(),
                max_token_bytes.is_some(),
            ),
            (
                "without_error_description",
                self.description == Description::Omitted,
                without_error_description.is_some(),
            ),
            (
                "protected_resource",
                self.protected_resource.is_some(),
                protected_resource.is_some(),
            ),
            ("cache", has_cache, cache.is_some()),
            ("without_cache", has_cache, without_cache.is_some()),
            (
                "ready_when",
                self.ready_when.is_some(),
                ready_when.is_some(),
            ),
            (
                "refusal_summary_interval_seconds",
                has_summary,
                refusal_summary_interval_seconds.is_some(),
            ),
            (
                "without_refusal_summary",
                has_summary,
                without_refusal_summary.is_some(),
            ),
            ("audit_events", self.logs_decisions, audit_events.is_some()),
            (
                "audit_path",
                self.audit_path.is_some(),
                audit_path.is_some(),
            ),
        ] {
            if in_code && in_file {
                return Err(BuildError::SettingInFile { setting });
            }
        }
        if let Some(headers) = token_from {
            self = self.token_from(headers);
        }
        if let Some(headers) = token_from_exactly_one_of {
            self = self.token_from_exactly_one_of(headers);
        }
        if let Some(CacheValues { tokens, bytes }) = cache {
            self = self.cache(to_usize(tokens), bytes);
        }
        if without_cache == Some(true) {
            self = self.without_cache();
        }
        if let Some(seconds) = refusal_summary_interval_seconds {
            self = self.refusal_summary_interval(Duration::from_secs(seconds));
        }
        if without_refusal_summary == Some(true) {
            self = self.without_refusal_summary();
        }
        if without_error_description == Some(true) {
            self = self.without_error_description();
        }
        self.strip_token |= strip_token == Some(true);
        self.allow_missing_token |= allow_missing_token == Some(true);
        self.allow_cors_preflight |= allow_cors_preflight == Some(true);
        self.logs_decisions |= audit_events == Some(true);
        self.realm = realm.or(self.realm);
        self.max_token_bytes = max_token_bytes.map(to_usize).or(self.max_token_bytes);
        self.protected_resource = protected_resource.or(self.protected_resource);
        self.ready_when = ready_when.or(self.ready_when);
        self.audit_path = audit_path.or(self.audit_path);
        Ok(self)
    }
}

fn check_token_headers(names: &[HeaderName]) -> Result<(), BuildError> {
    let invalid = |reason: String| Err(BuildError::TokenHeaders { reason });
    if names.is_empty() {
        return invalid("the list is empty, so no request could carry a token".to_owned());
    }
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier == name) {
            return invalid(format!("the header `{name}` is listed twice"));
        }
    }
    Ok(())
}

/// Resolves the issuers, each of which must have an `iss` that no other has.
fn trusted_issuers(
    issuers: Vec<Issuer>,
    http_client: Option<ClientWithMiddleware>,
    clock: &Clock,
    assembly: &mut Assembly<'_>,
) -> Result<Vec<TrustedIssuer>, BuildError> {
    let mut all = HashSet::new();
    let mut resolved = Vec::with_capacity(issuers.len());
    for issuer in issuers {
        let client = match &http_client {
            Some(client) => client.clone(),
            None => assembly.clients.get(issuer.allowed_urls())?,
        };
        let issuer = issuer.resolve(client)?;
        // In the order of the settings, so that the error is always about the same one.
        let own: Vec<_> = issuer.all_issuers().map(str::to_owned).collect();
        if let Some(duplicate) = own.iter().find(|iss| all.contains(*iss)) {
            return Err(BuildError::DuplicateIssuer {
                issuer: duplicate.clone(),
            });
        }
        all.extend(own);
        resolved.push(issuer);
    }
    #[cfg(feature = "policy-file")]
    let previous = assembly.previous.map(|previous| &previous.verifier);
    #[cfg(not(feature = "policy-file"))]
    let previous = None;
    let mut earlier_reviews = EarlierReviews::new(previous, &resolved);
    let mut trusted = Vec::with_capacity(resolved.len());
    for issuer in resolved {
        let reviews = token_reviews(&issuer, &mut earlier_reviews, clock);
        trusted.push(trusted_issuer(issuer, reviews, clock, assembly)?);
    }
    for issuer in &mut trusted {
        let own = &issuer.configured_issuers;
        let others = all.iter().filter(|iss| !own.contains(iss));
        issuer.issuers_of_others = others.cloned().collect();
    }
    Ok(trusted)
}

fn trusted_issuer(
    issuer: ResolvedIssuer,
    reviews: Option<Arc<TokenReviews>>,
    clock: &Clock,
    assembly: &Assembly<'_>,
) -> Result<TrustedIssuer, BuildError> {
    #[cfg(feature = "policy-file")]
    let earlier = match assembly.previous {
        Some(previous) => earlier_keys(&issuer, &previous.verifier)?,
        None => None,
    };
    #[cfg(not(feature = "policy-file"))]
    let _ = assembly;
    let other_issuers = issuer.spellings.iter().chain(&issuer.also_known_as);
    let other_issuers = other_issuers.cloned().collect();
    let configured_issuers = issuer.all_issuers().map(str::to_owned).collect();
    let in_cluster = matches!(issuer.key_source, KeySource::ApiServer(_));
    let (label, timing) = (issuer.label.clone(), issuer.timing);
    let leeway = issuer.claim_rules.leeway;
    let new_keys = || Keys::new(label, issuer.key_source, timing, clock.clone(), leeway);
    #[cfg(feature = "policy-file")]
    let keys = match earlier {
        Some(EarlierKeys::Same(keys)) => keys,
        Some(EarlierKeys::OtherLimits(earlier)) => {
            let keys = new_keys();
            keys.inherit(&earlier);
            Arc::new(keys)
        }
        None => Arc::new(new_keys()),
    };
    #[cfg(not(feature = "policy-file"))]
    let keys = Arc::new(new_keys());
    Ok(TrustedIssuer {
        other_issuers,
        configured_issuers,
        issuer: match issuer.issuer {
            Some(iss) if !in_cluster => IssuerName::Configured(iss),
            initial => IssuerName::FromKeys { initial },
        },
        spellings: issuer.spellings,
        issuers_of_others: HashSet::new(),
        platform: issuer.platform,
        keys,
        settings: issuer.settings,
        reviews,
        claim_rules: issuer.claim_rules,
        required_claims: issuer.required_claims,
        claim_predicates: issuer.claim_predicates,
        allowed: Arc::new(telemetry::AllowedCounter::new(&issuer.label)),
        label: issuer.label,
        clock: clock.clone(),
    })
}

/// The token reviews of the issuers of another verifier. Each is taken over by one issuer at most, since its settings apply to all that
/// use it.
struct EarlierReviews<'v> {
    issuers: Vec<&'v TrustedIssuer>,
    /// The labels of the issuers that may take them over.
    labels: HashSet<Arc<str>>,
}

impl<'v> EarlierReviews<'v> {
    fn new(previous: Option<&'v TokenVerifier>, issuers: &[ResolvedIssuer]) -> Self {
        Self {
            issuers: previous.map_or_else(Vec::new, |previous| previous.issuers().iter().collect()),
            labels: issuers.iter().map(|issuer| issuer.label.clone()).collect(),
        }
    }

    /// Returns the reviews that an issuer takes over.
    fn take(&mut self, label: &Arc<str>, api: &ApiServer) -> Option<&'v TokenReviews> {
        let same_label = self.issuers.iter().position(|own| own.label == *label);
        // The cluster that this process runs in may have another label by now.
        let renamed = || {
            self.issuers.iter().position(|own| {
                let reviews = own.reviews.as_ref();
                let is_same_server = reviews.is_some_and(|own| own.api() == api);
                is_same_server && !self.labels.contains(&own.label)
            })
        };
        let index = same_label.or_else(renamed)?;
        self.issuers.swap_remove(index).reviews.as_deref()
    }
}

/// Returns the reviews of an issuer's tokens, which keep what earlier reviews by the same API server know.
fn token_reviews(
    issuer: &ResolvedIssuer,
    earlier: &mut EarlierReviews<'_>,
    clock: &Clock,
) -> Option<Arc<TokenReviews>> {
    let settings = issuer.review.as_ref()?;
    let earlier = earlier.take(&issuer.label, &settings.api);
    let reviews = TokenReviews::new(
        issuer.label.clone(),
        settings.clone(),
        issuer.claim_rules.audiences.clone(),
        clock.clone(),
        earlier,
    );
    Some(Arc::new(reviews))
}

/// The keys of an issuer that the previous settings have.
#[cfg(feature = "policy-file")]
enum EarlierKeys {
    /// They come from the same place, in the same way.
    Same(Arc<Keys>),
    /// They come from the same place, and are fetched or kept with other limits.
    OtherLimits(Arc<Keys>),
}

/// Returns the keys of an issuer that another verifier trusts already, if they come from the same place.
#[cfg(feature = "policy-file")]
fn earlier_keys(
    issuer: &ResolvedIssuer,
    previous: &TokenVerifier,
) -> Result<Option<EarlierKeys>, BuildError> {
    let is_same = |own: &&TrustedIssuer| {
        own.label == issuer.label && own.settings.has_same_key_source(&issuer.settings)
    };
    let Some(same) = previous.issuers().iter().find(is_same) else {
        return Ok(None);
    };
    if let (KeySource::ApiServer(_), Some(announced)) = (&issuer.key_source, same.keys.issuers()) {
        // The next fetch would find this as well, and then there would be no keys.
        let is_api_server = |audience: &&String| {
            is_api_server_audience(audience, announced.iter().map(|iss| &**iss))
        };
        let mut audiences = issuer.settings.audiences_to_check().iter();
        if let Some(audience) = audiences.find(is_api_server) {
            let audience = audience.clone();
            return Err(BuildError::ApiServerAudience { audience });
        }
    }
    let keys = same.keys.clone();
    Ok(Some(if same.settings.has_same_keys(&issuer.settings) {
        EarlierKeys::Same(keys)
    } else {
        EarlierKeys::OtherLimits(keys)
    }))
}
