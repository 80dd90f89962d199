//! The durations that govern one issuer's keys.

use std::time::Duration;

/// How often keys are fetched, and how long they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// The shortest time between a fetch and the next scheduled one, whatever `max-age` says.
    pub(crate) refresh_min: Duration,
    /// The longest time between a fetch and the next scheduled one: a key that its issuer withdraws is out of use
    /// by then.
    pub(crate) refresh_max: Duration,
    /// How many fetches requests may cause in quick succession.
    pub(crate) on_demand_burst: u32,
    /// How long it takes until one more of these fetches is permitted.
    pub(crate) on_demand_interval: Duration,
    /// A fetch that a request causes is delayed by a random part of this, so that replicas that meet a new key in the
    /// same moment do not all ask the issuer in the same moment.
    pub(crate) on_demand_jitter: Duration,
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
            on_demand_burst: 3,
            on_demand_interval: Duration::from_secs(5),
            on_demand_jitter: Duration::from_secs(2),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            stale_after: Duration::from_secs(24 * 3600),
        }
    }
}
