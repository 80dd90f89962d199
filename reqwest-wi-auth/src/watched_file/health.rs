//! The state of the following of a file.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::FileError;

/// The state of the following of a [`WatchedFile`](super::WatchedFile).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileHealth {
    /// Whether a task follows the file. False after [`shutdown`](super::WatchedFile::shutdown), and from the end of the
    /// task's runtime to the next use of the file in another one.
    pub following: bool,
    /// Whether a task follows the file and the system reports changes to it. If only the timer is left, it runs faster.
    pub watching: bool,
    /// When the current value was first read.
    pub last_change: SystemTime,
    /// What was wrong at the last read, if anything. The value is the last valid one all the same.
    pub last_error: Option<FileError>,
}

/// What reads have shown so far.
pub(super) struct HealthCell(Mutex<Readings>);

#[derive(Clone)]
pub(super) struct Readings {
    pub(super) is_watching: bool,
    pub(super) last_change: SystemTime,
    pub(super) last_error: Option<FileError>,
    /// Failed reads since the last good one.
    pub(super) failures: u32,
    /// What is to be logged and counted by the next async caller.
    pub(super) reports: Vec<Report>,
}

/// Something to be logged and counted.
#[derive(Clone)]
pub(super) enum Report {
    Changed,
    Failed { error: FileError, is_first: bool },
}

impl HealthCell {
    pub(super) fn new(is_watching: bool, last_change: SystemTime) -> Self {
        Self(Mutex::new(Readings {
            is_watching,
            last_change,
            last_error: None,
            failures: 0,
            reports: Vec::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Readings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
