//! How long keys are used, and what is spent on getting them. If one of these is set again, the last value
//! counts.

use std::time::Duration;

use super::Issuer;

impl Issuer {
    /// Sets how long keys stay in use while the issuer cannot be reached; after that, its tokens are answered with 503.
    /// Whoever can cut the issuer off keeps keys that it has withdrawn alive for that long. Default: 24 hours.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .stale_after(Duration::from_secs(6 * 3600))
    ///     .audience("me");
    /// ```
    pub fn stale_after(mut self, time: Duration) -> Self {
        self.timing.stale_after = time;
        self
    }

    /// Sets the longest random delay of a fetch that a request causes, because the current keys do not verify its token.
    /// It spreads the fetches of replicas that meet a new key in the same moment: the issuer sees about their number
    /// divided by this time, a second. Requests with the new key wait as long. Default: 2 s; at most 3 s, since a request
    /// waits 5 s in all.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .unknown_key_jitter(Duration::ZERO) // the only replica there is
    ///     .audience("me");
    /// ```
    pub fn unknown_key_jitter(mut self, time: Duration) -> Self {
        self.timing.on_demand_jitter = time.min(Duration::from_secs(3));
        self
    }

    /// How long a document may take, from the first byte sent to the last one received, so that a silent or
    /// dripping server holds nothing up. Default: 10 s.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .fetch_timeout(Duration::from_secs(3))
    ///     .audience("me");
    /// ```
    pub fn fetch_timeout(mut self, time: Duration) -> Self {
        self.limits.time = time;
        self
    }

    /// How many bytes a document may have. Default: 512 KiB.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").max_document_bytes(64 * 1024).audience("me");
    /// ```
    pub fn max_document_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// How many keys a set may have; one with more is refused whole. Default: 200.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").max_keys(10).audience("me");
    /// ```
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }
}
