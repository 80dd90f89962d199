//! The settings of token reviews.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::keys::sources::ApiServer;
use crate::text::{Escaped, is_invisible};

/// The default time for which a confirmation is used.
const DEFAULT_TTL: Duration = Duration::from_secs(60);
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(600);
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(3);
const MAX_TIME_LIMIT: Duration = Duration::from_secs(30);
const DEFAULT_PER_SECOND: u32 = 20;
const MAX_PER_SECOND: u32 = 10_000;
const DEFAULT_CONCURRENT: usize = 8;
const MAX_CONCURRENT: usize = 1024;
const DEFAULT_TOKENS: usize = 4096;
const MAX_TOKENS: usize = 1_000_000;

/// The treatment of a token that the API server has neither confirmed nor refused, because it cannot be reached, responds with
/// an error or too late, or because a limit on reviews is reached. There is no default.
///
/// A token that the API server has refused stays refused with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// The token is accepted, as it would be without reviews. The tokens of deleted pods are then accepted as well until the
    /// API server can be asked, also if it is a limit on reviews that prevents that, such as during a flood of valid tokens. Each acceptance is counted in the metric `oidc_guard_token_review_unconfirmed_total`.
    Accept,
    /// The token is refused with 503, unless the API server has confirmed it within the time to live.
    Refuse,
}

/// Has each token of a Kubernetes issuer confirmed by the cluster's API server with a
/// [TokenReview](https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/), after it has
/// passed all other checks. Passed to [`Issuer::token_review`](crate::Issuer::token_review).
///
/// The API server knows whether the pod, the service account and the node that a token is bound to still exist. A token whose
/// pod is gone is refused with 401 and the reason `token_revoked` within the time to live ([`ttl`](Self::ttl)).
///
/// A request waits only for the first confirmation of its token. Tokens in use are confirmed again in the background.
///
/// The guard's own service account needs the role `system:auth-delegator`.
///
/// ```
/// use std::time::Duration;
/// use tower_oidc_guard::{BuildError, Issuer, TokenReview, WhenUnavailable};
///
/// # fn example() -> Result<(), BuildError> {
/// let review = TokenReview::new(WhenUnavailable::Refuse).ttl(Duration::from_secs(30));
/// let issuer = Issuer::in_cluster()?.token_review(review).audience("https://auth-server.example");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct TokenReview {
    when_unavailable: WhenUnavailable,
    ttl: Duration,
    time_limit: Duration,
    per_second: u32,
    concurrent: usize,
    tokens: usize,
    api_server: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl TokenReview {
    /// Creates the settings. What happens while no review can be made has to be chosen.
    ///
    /// ```
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// // During an outage of the API server, tokens are accepted as they are without reviews.
    /// let review = TokenReview::new(WhenUnavailable::Accept);
    /// ```
    pub fn new(when_unavailable: WhenUnavailable) -> Self {
        Self {
            when_unavailable,
            ttl: DEFAULT_TTL,
            time_limit: DEFAULT_TIME_LIMIT,
            per_second: DEFAULT_PER_SECOND,
            concurrent: DEFAULT_CONCURRENT,
            tokens: DEFAULT_TOKENS,
            api_server: None,
            token_file: None,
            ca_file: None,
        }
    }

    /// Sets for how long a confirmation is used, and so how long a token may still be accepted after the API server has noticed
    /// that its pod is gone. Default: 60 s; from 1 to 600 s. If called again, the last value is used.
    ///
    /// Tokens in use are confirmed again after five sixths of this time. The API server itself repeats a positive answer for up to
    /// 10 s, so with less than 60 s, a token may be accepted for up to 10 s longer. A pod that is being deleted exists until it
    /// has terminated, at the latest after its `terminationGracePeriodSeconds`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Refuse).ttl(Duration::from_secs(10));
    /// ```
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long a review may take, and so how long a request may wait for one. Default: 3 s; at most 30 s, and not zero.
    /// If called again, the last value is used.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Accept).time_limit(Duration::from_millis(500));
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Sets how many reviews per second are made at most, whatever the number of tokens. Default: 20; from 1 to 10,000. If
    /// called again, the last value is used.
    ///
    /// Reviews that are not made in one second can be made in the next. A token in use needs a review in five sixths of the time
    /// to live, so with the default of 60 s, 50 times this number of tokens can be in use. If reviews have to wait, every second
    /// one is of a token in use, and the others are first reviews. A review is repeated at once if its connection fails,
    /// or if the token was confirmed before and its pod seems to be gone.
    ///
    /// ```
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Refuse).max_reviews_per_second(100);
    /// ```
    pub fn max_reviews_per_second(mut self, reviews: u32) -> Self {
        self.per_second = reviews;
        self
    }

    /// Sets how many reviews are under way at a time at most. Default: 8; from 1 to 1,024. If called again, the last value is
    /// used.
    ///
    /// ```
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Refuse).max_concurrent_reviews(2);
    /// ```
    pub fn max_concurrent_reviews(mut self, reviews: usize) -> Self {
        self.concurrent = reviews;
        self
    }

    /// Sets how many tokens are remembered at most. Default: 4,096; from 1 to 1,000,000. If called again, the last value is
    /// used.
    ///
    /// A token is kept in memory until it has expired or others displace it, so the limit on the memory is this number times
    /// [`max_token_bytes`](crate::OidcGuardBuilder::max_token_bytes). Tokens that are not in use are displaced first. If all of
    /// them are in use, further tokens are refused with 503 with [`WhenUnavailable::Refuse`]; with [`WhenUnavailable::Accept`]
    /// they displace the token that was confirmed first.
    ///
    /// Refused tokens are remembered in addition, without their text, four times as many. A token that is forgotten nevertheless
    /// is not accepted without a review until it has expired.
    ///
    /// ```
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Refuse).max_tokens(100_000);
    /// ```
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets the URL of the cluster's API server, for issuers other than [`Issuer::in_cluster`](crate::Issuer::in_cluster), which
    /// know it. It must be an https URL without a path. [`token_file`](Self::token_file) and [`ca_file`](Self::ca_file) have to
    /// be set as well.
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, TokenReview, WhenUnavailable};
    ///
    /// let review = TokenReview::new(WhenUnavailable::Refuse)
    ///     .api_server("https://api.cluster.example:6443")
    ///     .token_file("/etc/cluster/token")
    ///     .ca_file("/etc/cluster/ca.crt");
    /// let issuer = Issuer::kubernetes("https://cluster.example")
    ///     .token_review(review)
    ///     .audience("https://auth-server.example");
    /// ```
    pub fn api_server(mut self, url: impl Into<String>) -> Self {
        self.api_server = Some(url.into());
        self
    }

    /// Sets the file of the token that authenticates the guard at [`api_server`](Self::api_server). It is read again for each
    /// review.
    ///
    /// ```
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Refuse)
    ///     .api_server("https://api.cluster.example:6443")
    ///     .token_file("/etc/cluster/token")
    ///     .ca_file("/etc/cluster/ca.crt");
    /// ```
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the file of the CA that signed the certificate of [`api_server`](Self::api_server), in PEM. It is read again for
    /// each review.
    ///
    /// ```
    /// # use tower_oidc_guard::{TokenReview, WhenUnavailable};
    /// let review = TokenReview::new(WhenUnavailable::Refuse)
    ///     .api_server("https://api.cluster.example:6443")
    ///     .token_file("/etc/cluster/token")
    ///     .ca_file("/etc/cluster/ca.crt");
    /// ```
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Checks the settings. `own` is the API server that the issuer fetches its keys from, if it does.
    ///
    /// # Errors
    ///
    /// Returns which setting is invalid, and why.
    pub(crate) fn resolve(&self, own: Option<&ApiServer>) -> Result<ReviewSettings, String> {
        self.check_ranges()?;
        let api = match own {
            Some(own) => {
                self.check_in_cluster()?;
                own.clone()
            }
            None => self.explicit_api_server()?,
        };
        Ok(ReviewSettings {
            when_unavailable: self.when_unavailable,
            ttl: self.ttl,
            time_limit: self.time_limit,
            per_second: self.per_second,
            concurrent: self.concurrent,
            tokens: self.tokens,
            api,
        })
    }

    /// Checks the ranges of the values.
    ///
    /// # Errors
    ///
    /// Returns which setting is out of range, and the range.
    pub(crate) fn check_ranges(&self) -> Result<(), String> {
        let invalid = |setting, range| {
            Err(format!(
                "`{setting}` of `token_review` is out of range; expected {range}"
            ))
        };
        if !(MIN_TTL..=MAX_TTL).contains(&self.ttl) {
            return invalid("ttl", "1 to 600 s");
        }
        if self.time_limit.is_zero() || self.time_limit > MAX_TIME_LIMIT {
            return invalid("time_limit", "more than 0 and at most 30 s");
        }
        if !(1..=MAX_PER_SECOND).contains(&self.per_second) {
            return invalid("max_reviews_per_second", "1 to 10000");
        }
        if !(1..=MAX_CONCURRENT).contains(&self.concurrent) {
            return invalid("max_concurrent_reviews", "1 to 1024");
        }
        if !(1..=MAX_TOKENS).contains(&self.tokens) {
            return invalid("max_tokens", "1 to 1000000");
        }
        Ok(())
    }

    fn check_in_cluster(&self) -> Result<(), String> {
        let settings = [
            ("api_server", self.api_server.is_some()),
            ("token_file", self.token_file.is_some()),
            ("ca_file", self.ca_file.is_some()),
        ];
        match settings.iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) => Err(format!(
                "`{setting}` of `token_review` is for issuers other than `in_cluster`, whose API server, token and CA are those of its keys; leave it out"
            )),
            None => Ok(()),
        }
    }

    fn explicit_api_server(&self) -> Result<ApiServer, String> {
        let missing = |setting| {
            format!(
                "`token_review` needs the cluster's API server, and `{setting}` is not set; set `api_server`, `token_file` and `ca_file` of `TokenReview`, or use `Issuer::in_cluster()` for the cluster that this process runs in"
            )
        };
        let url = self.api_server.as_deref();
        let url = url.ok_or_else(|| missing("api_server"))?;
        let token_file = self.token_file.clone();
        let token_file = token_file.ok_or_else(|| missing("token_file"))?;
        let ca_file = self.ca_file.clone().ok_or_else(|| missing("ca_file"))?;
        let address = server_address(url).ok_or_else(|| {
            format!(
                "{}, the `api_server` of `token_review`, is not an https URL without path and user name, such as `https://api.cluster.example:6443`",
                Escaped(url)
            )
        })?;
        Ok(ApiServer {
            address,
            token_file,
            ca_file,
        })
    }
}

/// Parses the URL of an API server.
fn server_address(url: &str) -> Option<Url> {
    let address = Url::parse(url)
        .ok()
        .filter(|_| !url.contains(is_invisible))?;
    let is_bare = address.path() == "/"
        && address.query().is_none()
        && address.fragment().is_none()
        && address.username().is_empty()
        && address.password().is_none();
    (address.scheme() == "https" && address.has_host() && is_bare).then_some(address)
}

/// Settings that have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReviewSettings {
    pub(crate) when_unavailable: WhenUnavailable,
    pub(crate) ttl: Duration,
    pub(crate) time_limit: Duration,
    pub(crate) per_second: u32,
    pub(crate) concurrent: usize,
    pub(crate) tokens: usize,
    pub(crate) api: ApiServer,
}
