//! The current key set, read by every request and swapped whole.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use tokio::time::Instant;

use crate::jose::key_set::KeySet;

/// A key set and the fetch that brought it.
pub(crate) struct Current {
    pub(crate) keys: KeySet,
    /// The hash of the text that the set was read from.
    pub(crate) hash: String,
    /// Stays the same for as long as the set does: another number means other keys.
    pub(crate) generation: u64,
    /// The names of the issuer that came with the keys.
    pub(crate) names: Vec<Arc<str>>,
    /// The number of the fetch.
    pub(crate) fetch: u64,
    /// When the fetch was started.
    pub(crate) fetched: Instant,
    /// When the fetch was started by the wall clock, counted from the Unix epoch.
    pub(crate) fetched_wall: Duration,
}

/// Holds the current key set, if there is one.
#[derive(Default)]
pub(crate) struct Store(ArcSwapOption<Current>);

impl Store {
    /// Returns the current set without touching its reference count, which all threads share.
    pub(crate) fn peek(&self) -> Guard<Option<Arc<Current>>> {
        self.0.load()
    }

    /// Returns the current set.
    pub(crate) fn get(&self) -> Option<Arc<Current>> {
        self.0.load_full()
    }

    /// Replaces the current set.
    pub(crate) fn set(&self, current: Current) {
        self.0.store(Some(Arc::new(current)));
    }
}
