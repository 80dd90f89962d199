//! A file that is replaced while it is in use, followed.

mod builder;
pub(crate) mod error;
mod folders;
mod follower;
mod functions;
mod health;
mod hub;
mod mount;
mod timing;
mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use self::builder::WatchedFileBuilder;
pub use self::error::{FileError, ParseError};
pub use self::health::FileHealth;
use self::health::HealthCell;
use self::worker::{Progress, Worker};

/// A file whose content is read, parsed, and kept at hand while others replace it: by the kubelet's swap
/// of a projected volume, secret or config map, by a rename, or in place.
///
/// It is read again at once when the system reports a change in one of the folders on the way to it, and
/// on a timer all the same. What cannot be read or parsed leaves the last good value in place, and is
/// tried again soon. The work is done by one task of the tokio runtime that it was opened in; it ends
/// with the last clone, with [`shutdown`](Self::shutdown), or with the runtime. All files of a process
/// share one watcher of the system's.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("limit");
/// # std::fs::write(&path, "10")?;
/// use reqwest_wi_auth::WatchedFile;
///
/// let limit = WatchedFile::open(&path, |bytes| Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?)).await?;
/// assert_eq!(*limit.current(), 10);
/// # Ok(())
/// # }
/// ```
pub struct WatchedFile<T> {
    shared: Arc<Shared<T>>,
    worker: Arc<Worker>,
}

/// What handles and the task share.
pub(crate) struct Shared<T> {
    path: PathBuf,
    value: ArcSwap<T>,
    health: HealthCell,
}

impl<T: PartialEq + Send + Sync + 'static> WatchedFile<T> {
    /// Opens a file with the default settings: see [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`FileError::NotInTime`] if there is no sound content within 5 s.
    pub async fn open(
        path: impl Into<PathBuf>,
        parse: impl Fn(&[u8]) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        Self::builder(path, parse).open().await
    }

    /// Starts the settings of a file to be followed. `parse` makes a value of the file's content, or says
    /// what is wrong with it; its error must not show a secret.
    pub fn builder(
        path: impl Into<PathBuf>,
        parse: impl Fn(&[u8]) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> WatchedFileBuilder<T> {
        WatchedFileBuilder::new(path.into(), parse)
    }
}

impl<T> WatchedFile<T> {
    /// The value of the newest sound content. Does no I/O.
    pub fn current(&self) -> Arc<T> {
        self.shared.value.load_full()
    }

    /// Looks at the current value without keeping it. Does no I/O.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.shared.value.load())
    }

    /// The file's path, made absolute.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// How the following goes.
    pub fn health(&self) -> FileHealth {
        self.shared.health.get()
    }

    /// Tells of changes from now on.
    pub fn subscribe(&self) -> Changes<T> {
        let mut progress = self.worker.progress();
        let seen = progress.borrow_and_update().changes;
        Changes {
            shared: self.shared.clone(),
            progress,
            seen,
        }
    }

    /// Reads the file now, and waits until that is done. Dropping the future leaves the reading to go on.
    ///
    /// # Errors
    ///
    /// What was wrong with the file, while the last good value stays current; [`FileError::Closed`] where
    /// it is followed no more.
    pub async fn reread(&self) -> Result<Arc<T>, FileError> {
        let closed = || FileError::Closed {
            path: self.shared.path.clone(),
        };
        self.worker.read_now().await.map_err(|_| closed())?;
        match self.health().last_error {
            None => Ok(self.current()),
            Some(error) => Err(error),
        }
    }

    /// Ends the following for all clones, and waits until it has ended. The last value stays readable.
    pub async fn shutdown(&self) {
        self.worker.shutdown().await;
    }
}

impl<T> Clone for WatchedFile<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            worker: self.worker.clone(),
        }
    }
}

impl<T> fmt::Debug for WatchedFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFile")
            .field("path", &self.shared.path)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Changes of a [`WatchedFile`]'s value. It does not keep the file followed.
pub struct Changes<T> {
    shared: Arc<Shared<T>>,
    progress: watch::Receiver<Progress>,
    seen: u64,
}

impl<T> Changes<T> {
    /// Waits for a value other than the last one seen; nothing when the file is followed no more.
    /// Values that follow each other closely may be skipped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<T>> {
        let seen = self.seen;
        let changed = self
            .progress
            .wait_for(|progress| progress.changes != seen)
            .await;
        self.seen = changed.ok()?.changes;
        Some(self.shared.value.load_full())
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}
