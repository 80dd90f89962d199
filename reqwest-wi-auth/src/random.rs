//! Chance, to spread load; it guards nothing.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// A number from 0 to 1 that differs between processes and calls.
pub(crate) fn fraction() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}
