//! How the following of a file goes.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::FileError;

/// How the following of a [`WatchedFile`](super::WatchedFile) goes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileHealth {
    /// Whether the system reports changes; otherwise there is only the timer, which then runs faster.
    pub watching: bool,
    /// When the current value was read first.
    pub last_change: SystemTime,
    /// What was wrong at the last look, if anything. The value is the last sound one all the same.
    pub last_error: Option<FileError>,
}

/// Holds the current state.
pub(super) struct HealthCell(Mutex<FileHealth>);

impl HealthCell {
    pub(super) fn new(watching: bool, last_change: SystemTime) -> Self {
        Self(Mutex::new(FileHealth {
            watching,
            last_change,
            last_error: None,
        }))
    }

    pub(super) fn get(&self) -> FileHealth {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut FileHealth)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
