//! The guard's settings.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use reqwest_middleware::ClientWithMiddleware;

use super::answer::Answers;
use super::intake::Intake;
use super::modes::Render;
use super::resource::Resource;
use super::trust::trust;
use super::{Inner, OidcGuard};
use crate::clock::Clock;
use crate::error::BuildError;
use crate::issuer::Issuer;
use crate::jose::DEFAULT_MAX_TOKEN_BYTES;
use crate::policy::{Bound, Policy};
use crate::verifier::{CacheLimits, TokenVerifier};

const DEFAULT_REALM: &str = "protected";
/// What `max_token_bytes` may be: a shorter limit would refuse Kubernetes tokens, a longer one invites tokens that no
/// server takes in a header.
const MAX_TOKEN_BYTES: RangeInclusive<usize> = 1024..=1024 * 1024;

/// Builds an [`OidcGuard`].
///
/// ```
/// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
/// use tower_oidc_guard::{Issuer, OidcGuard};
///
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::kubernetes("https://cluster.example").audience("https://auth-server.example"))
///     .any_verified_caller()
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct OidcGuardBuilder {
    issuers: Vec<Issuer>,
    /// With the setting that it comes from.
    policy: Option<(&'static str, Policy)>,
    http_client: Option<ClientWithMiddleware>,
    /// The first setting that would have replaced an earlier one; reported by `build`.
    conflict: Option<BuildError>,
    clock: Clock,
    cache: CacheSetting,
    max_token_bytes: Option<usize>,
    pub(super) intake: Intake,
    /// The setting that the headers of `intake` come from.
    pub(super) headers_set_by: Option<&'static str>,
    pub(super) realm: Option<String>,
    pub(super) without_description: bool,
    pub(super) resource: Option<String>,
    pub(super) render: Option<Render>,
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
    /// Returns the limits of the cache, which hold nothing if it is off.
    fn limits(self) -> Result<CacheLimits, BuildError> {
        match self {
            Self::Off => Ok(CacheLimits {
                tokens: 0,
                bytes: 0,
            }),
            Self::Limited(CacheLimits { tokens, bytes }) if tokens == 0 || bytes == 0 => {
                Err(BuildError::Cache { tokens, bytes })
            }
            Self::Limited(limits) => Ok(limits),
        }
    }
}

impl OidcGuardBuilder {
    /// Trusts an issuer; several may be named. A token's `iss` picks one, and only that one's keys are
    /// tried.
    ///
    /// ```
    /// # use tower_oidc_guard::{Issuer, OidcGuard};
    /// let builder = OidcGuard::builder().issuer(Issuer::oidc("https://id.example").audience("me"));
    /// ```
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Sets which callers are allowed. This or [`any_verified_caller`](Self::any_verified_caller) is required; both, or one
    /// of them twice, does not build. Combine policies with [`Policy::any_of`] or [`Policy::all_of`].
    ///
    /// ```
    /// # use tower_oidc_guard::{OidcGuard, Policy};
    /// let builder = OidcGuard::builder().policy(Policy::members(["system:serviceaccount:shop:orders"]));
    /// ```
    pub fn policy(self, policy: Policy) -> Self {
        self.policy_by("policy", policy)
    }

    /// Allows everyone with a valid token of a trusted issuer for one of its audiences. For a Kubernetes issuer that is
    /// every pod that asks for such a token, for Google it is everybody: the service behind has to look at the
    /// [`Identity`](crate::Identity) itself. A guard that has a [`policy`](Self::policy) as well does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().any_verified_caller();
    /// ```
    pub fn any_verified_caller(self) -> Self {
        self.policy_by("any_verified_caller", Policy::any_verified_caller())
    }

    pub(super) fn policy_by(mut self, setting: &'static str, policy: Policy) -> Self {
        match &self.policy {
            None => self.policy = Some((setting, policy)),
            Some((first, _)) => {
                let advice = "a guard has one policy; leave one out, or combine them with `Policy::any_of` or `Policy::all_of`";
                self.conflicts(first, setting, advice);
            }
        }
        self
    }

    /// Notes a setting that would replace an earlier one; the first such is reported by `build`.
    pub(super) fn conflicts(
        &mut self,
        first: &'static str,
        second: &'static str,
        advice: &'static str,
    ) {
        self.conflict.get_or_insert(BuildError::Conflict {
            first,
            second,
            advice,
        });
    }

    /// Sets how many verified tokens are cached, and how many bytes they may take, so that the next request with a cached
    /// token needs no signature check. Default: 4,096 tokens and 16 MiB. Zero of either does not build; use
    /// [`without_cache`](Self::without_cache). If called again, the last limits are used.
    ///
    /// Only tokens that have verified are cached, never the policy's decisions. An entry is dropped when its token expires or
    /// its issuer's keys change.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().cache(100_000, 400 * 1024 * 1024);
    /// ```
    pub fn cache(mut self, tokens: usize, bytes: u64) -> Self {
        self.cache = CacheSetting::Limited(CacheLimits { tokens, bytes });
        self
    }

    /// Turns the cache of verified tokens off: every request needs a signature check. Replaces an earlier
    /// [`cache`](Self::cache), and is replaced by a later one.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().without_cache();
    /// ```
    pub fn without_cache(mut self) -> Self {
        self.cache = CacheSetting::Off;
        self
    }

    /// Sets the length of the longest token that is accepted, in bytes, as it stands in the header, without `Bearer`.
    /// Default: 16 KiB (16,384 bytes); from 1 KiB to 1 MiB.
    ///
    /// A longer token is refused with [`TokenError::TooLong`](crate::TokenError::TooLong) before anything of it is read. This
    /// is the only limit on a token: the number of members and audiences, the nesting and the escapes are bounded by it
    /// alone. The time and the memory that a token takes before its signature is verified are proportional to its length.
    ///
    /// HTTP servers limit headers as well, and answer 431 themselves: hyper accepts 16 KiB of headers over HTTP/2 unless
    /// `max_header_list_size` sets more.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().max_token_bytes(64 * 1024);
    /// ```
    pub fn max_token_bytes(mut self, bytes: usize) -> Self {
        self.max_token_bytes = Some(bytes);
        self
    }

    /// Fetches discovery documents and keys with this client: for a proxy, another CA, retries,
    /// tracing. Default: one of this library's, with the system's roots, that stays within the origin
    /// it asks, connects within 5 s and is done within 10 s.
    ///
    /// A client that follows redirects away from the origin is of no use: such answers are refused. Two clients do not build.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).build();
    /// let builder = OidcGuard::builder().http_client(client);
    /// ```
    pub fn http_client(mut self, client: ClientWithMiddleware) -> Self {
        if self.http_client.is_some() {
            let advice =
                "a guard has one HTTP client, which may be composed of several middlewares";
            self.conflicts("http_client", "http_client", advice);
        }
        self.http_client = Some(client);
        self
    }

    /// Reads the time of day from this function instead of from the system, for tests. If called again, the last function is
    /// used.
    ///
    /// ```
    /// # use {std::time::{Duration, SystemTime}, tower_oidc_guard::OidcGuard};
    /// let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_462_877);
    /// let builder = OidcGuard::builder().clock(move || then);
    /// ```
    #[cfg(feature = "testing")]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Builds the guard. No network is touched and nothing is spawned.
    ///
    /// # Errors
    ///
    /// If the settings do not make a guard: no issuer, an issuer without an audience or with a URL that is not https, no
    /// policy, a policy that does not fit the issuers, or settings of which one would replace another.
    pub fn build(self) -> Result<OidcGuard, BuildError> {
        if let Some(conflict) = self.conflict {
            return Err(conflict);
        }
        if self.issuers.is_empty() {
            return Err(BuildError::NoIssuer);
        }
        let (_, policy) = self.policy.ok_or(BuildError::NoPolicy)?;
        check_headers(&self.intake.headers.names)?;
        let realm = self.realm.unwrap_or_else(|| DEFAULT_REALM.to_owned());
        if !realm
            .chars()
            .all(|character| matches!(character, ' '..='~'))
        {
            return Err(BuildError::Realm { realm });
        }
        let resource = self
            .resource
            .map(|name| Resource::new(name.clone()).ok_or(BuildError::Resource { resource: name }));
        let answers = Answers {
            realm,
            describe: !self.without_description,
            resource: resource.transpose()?,
            render: self.render.map(|Render(render)| render),
        };
        let max_token_bytes = self.max_token_bytes.unwrap_or(DEFAULT_MAX_TOKEN_BYTES);
        if !MAX_TOKEN_BYTES.contains(&max_token_bytes) {
            return Err(BuildError::MaxTokenBytes {
                bytes: max_token_bytes,
            });
        }
        let issuers = trust(self.issuers, self.http_client, &self.clock)?;
        let verifier =
            TokenVerifier::new(issuers, self.cache.limits()?, max_token_bytes, self.clock);
        let policy = Bound::new(policy, &verifier.trusted_names())?;
        Ok(OidcGuard(Arc::new(Inner {
            verifier,
            policy,
            intake: self.intake,
            answers,
        })))
    }
}

fn check_headers(names: &[HeaderName]) -> Result<(), BuildError> {
    let wrong = |reason: String| Err(BuildError::TokenHeaders { reason });
    if names.is_empty() {
        return wrong("no header is named, so no request could carry a token".to_owned());
    }
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier == name) {
            return wrong(format!("the header `{name}` is named twice"));
        }
    }
    Ok(())
}
