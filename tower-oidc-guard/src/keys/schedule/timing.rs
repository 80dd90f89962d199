//! The times of an issuer's keys.

use std::time::Duration;

/// How often keys are asked for, and how long they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A refresh comes no sooner after the last, whatever `max-age` says.
    pub(crate) refresh_min: Duration,
    /// A refresh comes no later after the last: a key the issuer withdraws is out of use by then.
    pub(crate) refresh_max: Duration,
    /// Fetches for a `kid` that is not known lie at least so far apart.
    pub(crate) unknown_kid_interval: Duration,
    /// Such a fetch is put off by a random part of this, so that replicas that meet a new key together do
    /// not ask together.
    pub(crate) unknown_kid_jitter: Duration,
    /// The first pause after a failed fetch; doubled at each further one.
    pub(crate) backoff_min: Duration,
    /// The longest pause after a failed fetch. Short, so that a server that started while its issuer was away is
    /// ready within seconds of the issuer's return.
    pub(crate) backoff_max: Duration,
    /// Keys that could not be refreshed for so long are not used any more.
    pub(crate) stale_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            refresh_min: Duration::from_secs(60),
            refresh_max: Duration::from_secs(3600),
            unknown_kid_interval: Duration::from_secs(5),
            unknown_kid_jitter: Duration::from_secs(2),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            stale_after: Duration::from_secs(24 * 3600),
        }
    }
}
