//! Why a file could not be read.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::text::with_causes;

/// Why a file's content is not valid, as returned by the parser of a [`WatchedFile`](super::WatchedFile).
pub type ParseError = Box<dyn std::error::Error + Send + Sync>;

/// An error of opening or reading a [`WatchedFile`](super::WatchedFile).
///
/// The text of an error contains the path and the texts of all its causes.
///
/// The `Debug` form is the text as well, because that is what a program prints that returns the error from `main`.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read: it is missing, is not a regular file, this process lacks the permission, or reading took
    /// too long.
    #[error("reading {} failed: {}{}", path.display(), with_causes(source.as_ref()), advice(source))]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The file was read, but its content is not valid: it is empty, truncated, or something else.
    #[error("the content of {} is not valid: {}", path.display(), with_causes(source.as_ref()))]
    InvalidContent {
        /// The path of the file.
        path: PathBuf,
        /// The error that the parser returned.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The file had no valid content within the startup limit.
    #[error("{} had no valid content within {limit:?}{}{source}", path.display(), before_cause(source))]
    StartupTimeout {
        /// The path of the file.
        path: PathBuf,
        /// The startup limit.
        limit: Duration,
        /// The error of the last read.
        source: Box<FileError>,
    },
    /// The file is no longer watched, because [`shutdown`](super::WatchedFile::shutdown) was called.
    #[error("{} is no longer watched: it was shut down", path.display())]
    Closed {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file was opened outside a tokio runtime.
    #[error("{} cannot be watched outside a tokio runtime; open it within one", path.display())]
    NoRuntime {
        /// The path of the file.
        path: PathBuf,
    },
}

impl fmt::Debug for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns what to do about an error of the operating system, if it is known and not obvious.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; check the permissions of the file and of the directories on its path (in a pod, set `fsGroup`)"
        }
        _ => "",
    }
}

/// Returns the text between the path of a file that had no valid content and the error of the last read. The remedy depends
/// on whether the file could be read.
fn before_cause(error: &FileError) -> &'static str {
    match error {
        FileError::InvalidContent { .. } => "; last error: ",
        _ => "; check that the volume is mounted and that the path is correct; last error: ",
    }
}
