//! The current key set, read by every request and swapped whole.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use tokio::time::Instant;

use crate::verify::key_set::KeySet;

/// A key set and when its fetch was started.
pub(crate) struct Current {
    pub(crate) keys: KeySet,
    /// Of the text that it was read from.
    pub(crate) hash: String,
    /// The same for as long as the set is the same: another number means other keys.
    pub(crate) generation: u64,
    /// The issuer's name, where it came with the keys.
    pub(crate) issuer: Option<Arc<str>>,
    pub(crate) fetched: Instant,
    /// The same by the wall clock, counted from the Unix epoch: to be held against a token's `iat`.
    pub(crate) fetched_wall: Duration,
}

/// Holds the current key set, if there is one.
#[derive(Default)]
pub(crate) struct Store(ArcSwapOption<Current>);

impl Store {
    /// A look that leaves the count of owners alone, which all threads share.
    pub(crate) fn look(&self) -> Guard<Option<Arc<Current>>> {
        self.0.load()
    }

    pub(crate) fn get(&self) -> Option<Arc<Current>> {
        self.0.load_full()
    }

    pub(crate) fn set(&self, current: Current) {
        self.0.store(Some(Arc::new(current)));
    }
}
