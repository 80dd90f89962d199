//! The settings and audiences that the reviews of an issuer are made with, which a followed configuration file can replace.

use std::sync::atomic::{AtomicU64, Ordering};

use super::settings::ReviewSettings;

/// The number of policies that were created.
static CREATED: AtomicU64 = AtomicU64::new(0);

/// The settings and the audiences of reviews.
pub(super) struct ReviewPolicy {
    /// Greater than those of the policies that were created before.
    pub(super) version: u64,
    pub(super) settings: ReviewSettings,
    /// The audiences that the guard accepts.
    pub(super) audiences: Vec<String>,
}

impl ReviewPolicy {
    pub(super) fn new(settings: ReviewSettings, audiences: Vec<String>) -> Self {
        Self {
            version: CREATED.fetch_add(1, Ordering::Relaxed) + 1,
            settings,
            audiences,
        }
    }
}
