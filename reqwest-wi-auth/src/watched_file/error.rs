//! What can be wrong with a file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why content is not sound, as the parser of it says.
pub type ParseError = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong with a file that is followed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read: it is missing, or this process may not.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// What stands in it is not sound: empty, half-written, or something else.
    #[error("the content of {} is not sound: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It had no sound content by the end of the time to wait at the start.
    #[error("nothing sound to read at {} within {limit:?}; is the volume mounted, and the path right? {source}", path.display())]
    NotInTime {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
        /// What was wrong at the last look.
        source: Box<FileError>,
    },
    /// It is not followed any more, since it was shut down.
    #[error("{} is not followed any more, since it was shut down", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// It was to be opened outside a tokio runtime.
    #[error("{} cannot be followed outside a tokio runtime; open it in one", path.display())]
    NoRuntime {
        /// The file.
        path: PathBuf,
    },
}
