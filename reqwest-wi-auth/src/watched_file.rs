//! A file that is replaced while it is in use, followed.

mod builder;
pub(crate) mod error;
mod folders;
mod follower;
mod functions;
mod health;
mod hub;
mod mount;
mod reader;
mod timing;
mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use self::builder::WatchedFileBuilder;
pub use self::error::{FileError, ParseError};
use self::functions::{Now, Renewal, Replace};
pub use self::health::FileHealth;
use self::health::{HealthCell, Report};
use self::hub::ChangeSignal;
use self::reader::{Reader, Sink};
use self::timing::Timing;
use crate::background::{Background, Events};
use crate::telemetry;

/// A file whose content is read, parsed, and kept at hand while others replace it: by the kubelet's swap
/// of a projected volume, secret or config map, by a rename, or in place.
///
/// The file is read again at once when the system reports a change in one of the folders on the way to it, and on a timer
/// all the same. Content that cannot be read or parsed leaves the last valid value in place, and is tried again soon. All
/// files of a process share one watcher of the system.
///
/// # Runtimes
///
/// A task follows the file on the tokio runtime that it was opened in. It ends with the last clone, or by
/// [`shutdown`](Self::shutdown). If it ends with its runtime before that, or the runtime is not driven, a warning is
/// logged, [`health`](Self::health) says that nobody follows the file, and the next use of the file within another runtime
/// ([`current`](Self::current), [`with`](Self::with), [`reread`](Self::reread), [`Changes::next`]) follows it from there.
/// So a file can be kept in a `static` over several runtimes, such as those of tests. [`reread`](Self::reread) reads the
/// file wherever it is called, and outside a runtime too.
///
/// Reads are made on threads of their own. The end of a runtime does not wait for a read that blocks.
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
    /// Ends the following with the last clone.
    following: Arc<Following>,
}

/// What handles and the task share.
pub(crate) struct Shared<T> {
    path: PathBuf,
    value: ArcSwap<T>,
    health: HealthCell,
    reader: Arc<Reader<T>>,
    signal: Arc<ChangeSignal>,
    background: Arc<Background>,
    timing: Timing,
    renewal: Renewal<T>,
    replace: Replace<T>,
    now: Now,
}

/// The handles of one file. What depends on the type of the value is behind a trait, so that the methods of a handle have
/// no bounds on it.
struct Following(Arc<dyn Follow>);

/// What a handle asks for.
trait Follow: Send + Sync {
    fn background(&self) -> &Background;
    /// Follows the file from the current runtime, if nobody does and there is one.
    fn ensure_followed(self: Arc<Self>);
    /// Reads the file. The result is in the shared state.
    fn read(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
    /// Reads the file, and blocks this thread meanwhile.
    fn read_blocking(self: Arc<Self>);
}

impl<T: PartialEq + Send + Sync + 'static> Follow for Shared<T> {
    fn background(&self) -> &Background {
        &self.background
    }

    fn ensure_followed(self: Arc<Self>) {
        worker::ensure_followed(&self, false);
    }

    fn read(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.reader.read(self.timing.read_limit).await;
            self.report();
        })
    }

    fn read_blocking(self: Arc<Self>) {
        self.reader.read_blocking(self.timing.read_limit);
        self.report();
    }
}

impl<T: PartialEq + Send + Sync + 'static> Sink<T> for Shared<T> {
    fn publish(&self, read: Result<T, FileError>, is_watching: bool) {
        let now = (self.now)();
        let allowed = |value: T| {
            let current = self.value.load();
            let replaced = if value == **current {
                Ok(())
            } else {
                (self.replace)(&current, &value)
            };
            replaced
                .map(|()| value)
                .map_err(|error| FileError::Content {
                    path: self.path.clone(),
                    source: error.into(),
                })
        };
        let read = read.and_then(allowed);
        let mut readings = self.health.lock();
        readings.is_watching = is_watching;
        match read {
            Ok(value) => {
                readings.failures = 0;
                readings.last_error = None;
                if value == **self.value.load() {
                    return;
                }
                self.value.store(Arc::new(value));
                readings.last_change = now;
                readings.reports.push(Report::Changed);
                drop(readings);
                self.background.notify_changed();
            }
            Err(error) => {
                let is_first = readings.failures == 0;
                readings.failures = readings.failures.saturating_add(1);
                readings.last_error = Some(error.clone());
                readings.reports.push(Report::Failed { error, is_first });
            }
        }
    }
}

impl<T> Shared<T> {
    /// The pause before the next read.
    fn pause(&self) -> Duration {
        let now = (self.now)();
        let renewal = (self.renewal)(&self.value.load(), now);
        let readings = self.health.lock();
        self.timing
            .pause(readings.is_watching, readings.failures, renewal, now)
    }

    /// Logs and counts what reads have shown. Called by tasks, not by the threads that read, so that a subscriber that is
    /// set for a thread or task sees it.
    fn report(&self) {
        let reports = std::mem::take(&mut self.health.lock().reports);
        for report in reports {
            match report {
                Report::Changed => telemetry::file_changed(&self.path),
                Report::Failed { error, is_first } => {
                    telemetry::file_failed(&self.path, &error, is_first);
                }
            }
        }
    }
}

impl Following {
    /// Follows the file from the current runtime if nobody does.
    #[inline]
    fn ensure(&self) {
        if !self.0.background().has_task() {
            self.0.clone().ensure_followed();
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.background().close();
    }
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

    fn new(shared: Arc<Shared<T>>) -> Self {
        let following = Arc::new(Following(shared.clone()));
        Self { shared, following }
    }
}

impl<T> WatchedFile<T> {
    /// Returns the value of the newest valid content. Does no I/O.
    pub fn current(&self) -> Arc<T> {
        self.following.ensure();
        self.shared.value.load_full()
    }

    /// Calls a function with the current value, without keeping it. Does no I/O.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.following.ensure();
        look(&self.shared.value.load())
    }

    /// Returns the file's path, made absolute.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns the state of the following. Does not start it again.
    pub fn health(&self) -> FileHealth {
        let following = self.shared.background.is_running();
        let readings = self.shared.health.lock();
        FileHealth {
            following,
            watching: following && readings.is_watching,
            last_change: readings.last_change,
            last_error: readings.last_error.clone(),
        }
    }

    /// Returns a receiver of the changes from now on.
    pub fn subscribe(&self) -> Changes<T> {
        self.following.ensure();
        let mut events = self.shared.background.events();
        let seen = events.borrow_and_update().changes;
        Changes {
            shared: self.shared.clone(),
            following: Arc::downgrade(&self.following),
            events,
            seen,
        }
    }

    /// Reads the file now, and waits until that is done. Calls at the same time share a read. Dropping the future leaves
    /// the read to go on.
    ///
    /// # Errors
    ///
    /// Returns what was wrong with the file, while the last valid value stays current. A read that takes longer than its
    /// limit is an error too. [`FileError::Closed`] after [`shutdown`](Self::shutdown).
    pub async fn reread(&self) -> Result<Arc<T>, FileError> {
        if self.shared.background.is_closed() {
            return Err(FileError::Closed {
                path: self.shared.path.clone(),
            });
        }
        // Even if there is a task: nobody may drive it.
        self.following.0.clone().ensure_followed();
        self.following.0.clone().read().await;
        self.result()
    }

    /// Reads the file now, outside a runtime, and blocks this thread for up to the time limit of a read.
    pub(crate) fn reread_blocking(&self) -> Result<Arc<T>, FileError> {
        self.following.0.clone().read_blocking();
        self.result()
    }

    fn result(&self) -> Result<Arc<T>, FileError> {
        let error = self.shared.health.lock().last_error.clone();
        match error {
            None => Ok(self.shared.value.load_full()),
            Some(error) => Err(error),
        }
    }

    /// Ends the following for all clones, and waits until it has ended, but not for a runtime that does not run or a read
    /// that blocks. The last value stays readable.
    pub async fn shutdown(&self) {
        self.shared.background.end().await;
    }
}

impl<T> Clone for WatchedFile<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            following: self.following.clone(),
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

/// Receives the changes of a [`WatchedFile`]'s value. It does not keep the file followed.
pub struct Changes<T> {
    shared: Arc<Shared<T>>,
    following: Weak<Following>,
    events: watch::Receiver<Events>,
    seen: u64,
}

impl<T> Changes<T> {
    /// Waits for a value other than the last one seen. `None` if the file is not followed any more: its last handle was
    /// dropped, or it was shut down. Values that follow each other closely may be skipped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<T>> {
        loop {
            let events = *self.events.borrow_and_update();
            if events.changes != self.seen {
                self.seen = events.changes;
                return Some(self.shared.value.load_full());
            }
            if events.is_closed {
                return None;
            }
            // The task may have ended with its runtime.
            self.following.upgrade()?.ensure();
            self.events.changed().await.ok()?;
        }
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}
