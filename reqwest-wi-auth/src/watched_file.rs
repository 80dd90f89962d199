//! Watches a file that is replaced while it is in use, and keeps its parsed content available.
//!
//! A task ([`task`]) reads the file whenever the operating system reports a change in one of the
//! [directories on its path](directories), and on a [schedule]. Each read runs on a separate thread with a
//! [time limit](timed_reader), which [watches the directories and parses the content](file_reader).

mod builder;
mod directories;
mod error;
mod file_reader;
mod file_system;
#[cfg(all(unix, feature = "testing"))]
#[cfg(test)]
mod models;
mod schedule;
mod task;
mod timed_reader;
mod watcher;

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

pub use self::builder::WatchedFileBuilder;
pub(crate) use self::builder::{DEFAULT_READ_LIMIT, DEFAULT_STARTUP_LIMIT};
pub use self::error::{FileError, ParseError};
use self::file_reader::Notifications;
pub(crate) use self::file_reader::ReadFn;
pub(crate) use self::task::ClockFn;
use self::task::{FirstRead, Shared};
use crate::background::{Background, Events};
use crate::sync::watch;

/// A file whose parsed content is kept in memory, and updated when the file is replaced: by the kubelet's swap of a
/// projected volume, secret or config map, by a rename, or by writing to it.
///
/// The file is read when the operating system reports a change in one of the directories on its path, and in addition at a
/// regular interval. If it cannot be read, or its content is not valid, the last valid value stays current, and reading is
/// retried with increasing delays of 5 ms to 5 s. All files of a process share one watcher of the operating system.
///
/// Clones are handles to the same file.
///
/// # Runtimes
///
/// A task on the tokio runtime in which the file was opened keeps the value up to date. It ends when the last handle is
/// dropped, or with [`shutdown`](Self::shutdown).
///
/// If the runtime ends before that, a warning is logged and [`FileHealth::running`] is false. If the runtime still exists
/// but does not run its tasks, `running` is false once the task is 10 s late, and only [`reread`](Self::reread) replaces
/// it. After the runtime has ended, the next call of [`current`](Self::current), [`with`](Self::with),
/// [`reread`](Self::reread), [`subscribe`](Self::subscribe) or
/// [`Changes::next`] within another runtime starts the task there. Therefore a file can be kept in a `static` while
/// runtimes come and go, such as those of tests.
///
/// Reads run on separate threads. The end of a runtime does not wait for a read that blocks.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("limit");
/// # std::fs::write(&path, "10")?;
/// use reqwest_wi_auth::WatchedFile;
///
/// let limit = WatchedFile::open(&path, |bytes| Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?)).await?;
/// assert_eq!(*limit.current(), 10);
///
/// std::fs::write(&path, "20")?;
/// assert_eq!(*limit.reread().await?, 20);
/// # Ok(())
/// # }
/// ```
pub struct WatchedFile<T> {
    shared: Arc<Shared<T>>,
    /// Ends the task when the last handle is dropped.
    handle: Arc<Handle>,
}

/// The state of a [`WatchedFile`]. Returned by [`WatchedFile::health`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileHealth {
    /// Whether a task keeps the value up to date. False after [`shutdown`](WatchedFile::shutdown), and after the task's
    /// runtime has ended until the file is used within another one.
    pub running: bool,
    /// Whether a task is running and the operating system reports changes to it. If not, the file is read at
    /// [`fallback_poll_interval`](WatchedFileBuilder::fallback_poll_interval).
    pub change_notifications: bool,
    /// When the current value was read for the first time.
    pub last_change: SystemTime,
    /// The error of the last read, or `None` if it succeeded. The last valid value stays current.
    pub last_error: Option<FileError>,
}

/// The handle that all clones of a [`WatchedFile`] share. Ends the task when it is dropped.
struct Handle(Arc<dyn FileTask>);

/// The operations of a handle that depend on the type of the value, as a trait object, so that the methods of
/// [`WatchedFile`] have no bounds on that type.
trait FileTask: Send + Sync {
    fn background(&self) -> &Background;
    fn ensure_running(self: Arc<Self>);
    fn read(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
    fn read_blocking(self: Arc<Self>);
}

impl<T: PartialEq + Send + Sync + 'static> FileTask for Shared<T> {
    fn background(&self) -> &Background {
        &self.background
    }

    fn ensure_running(self: Arc<Self>) {
        Shared::ensure_running(&self, FirstRead::Now);
    }

    fn read(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { Shared::read(&self).await })
    }

    fn read_blocking(self: Arc<Self>) {
        Shared::read_blocking(&self);
    }
}

impl Handle {
    /// Starts the task on the current runtime if there is none. Does not detect a task whose runtime is not driven, so it
    /// is cheap.
    #[inline]
    fn ensure_task(&self) {
        if !self.0.background().has_task() {
            self.0.clone().ensure_running();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.background().close();
    }
}

impl<T: PartialEq + Send + Sync + 'static> WatchedFile<T> {
    /// Opens a file with the default settings of its [`builder`](Self::builder).
    ///
    /// `parse` returns the value of the file's content, or an error, which must not contain a secret.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::StartupTimeout`] if the file has no valid content within 5 s, and [`FileError::NoRuntime`]
    /// outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer of the runtime is not enabled.
    pub async fn open(
        path: impl Into<PathBuf>,
        parse: impl Fn(&[u8]) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        Self::builder(path, parse).open().await
    }

    /// Returns a builder with the default settings.
    ///
    /// `parse` returns the value of the file's content, or an error, which must not contain a secret.
    pub fn builder(
        path: impl Into<PathBuf>,
        parse: impl Fn(&[u8]) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> WatchedFileBuilder<T> {
        WatchedFileBuilder::new(path.into(), parse)
    }

    fn new(shared: Arc<Shared<T>>) -> Self {
        let handle = Arc::new(Handle(shared.clone()));
        Self { shared, handle }
    }
}

impl<T> WatchedFile<T> {
    /// Reads and parses a file once, without watching it. Blocks the current thread; no runtime is required.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::Read`] if the file cannot be read, is not a regular file or is larger than 16 MiB, and
    /// [`FileError::InvalidContent`] if `parse` returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("limit");
    /// # std::fs::write(&path, "10")?;
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let limit = WatchedFile::read_once(&path, |bytes| Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?))?;
    /// assert_eq!(limit, 10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_once(
        path: impl AsRef<Path>,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, FileError> {
        file_reader::read_once(path.as_ref(), parse)
    }

    /// Returns the value of the newest valid content. Performs no I/O.
    pub fn current(&self) -> Arc<T> {
        self.handle.ensure_task();
        self.shared.value.load_full()
    }

    /// Calls a function with the value of the newest valid content, and returns its result. Performs no I/O.
    ///
    /// Cheaper than [`current`](Self::current), since it does not clone the [`Arc`].
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        self.handle.ensure_task();
        self.peek(f)
    }

    /// Calls a function with the current value, without starting the task.
    pub(crate) fn peek<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(&self.shared.value.load())
    }

    /// Returns the path of the file, made absolute.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns the state of the file. Starts no task.
    pub fn health(&self) -> FileHealth {
        let running = self.shared.background.is_running();
        let status = self.shared.status.lock();
        FileHealth {
            running,
            change_notifications: running && status.notifications == Notifications::Active,
            last_change: status.last_change,
            last_error: status.last_error.clone(),
        }
    }

    /// Returns a receiver of the changes of the value from now on.
    pub fn subscribe(&self) -> Changes<T> {
        self.handle.ensure_task();
        let mut events = self.shared.background.events();
        let seen = events.borrow_and_update().changes;
        Changes {
            shared: self.shared.clone(),
            handle: Arc::downgrade(&self.handle),
            events,
            seen,
        }
    }

    /// Reads the file now, and returns the value. Concurrent calls share one read. Outside a tokio runtime, it blocks the
    /// thread for up to the `read_limit`.
    ///
    /// Cancel safe: if the future is dropped, the read continues.
    ///
    /// # Errors
    ///
    /// Returns the error if the file cannot be read within the [`read_limit`](WatchedFileBuilder::read_limit), or its
    /// content is not valid; the last valid value stays current. Returns [`FileError::Closed`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn reread(&self) -> Result<Arc<T>, FileError> {
        if self.shared.background.is_closed() {
            return Err(FileError::Closed {
                path: self.shared.path.clone(),
            });
        }
        // Called even if there is a task, since its runtime may not be driven.
        self.handle.0.clone().ensure_running();
        self.handle.0.clone().read().await;
        self.last_result()
    }

    /// Reads the file now, outside a runtime, and returns the value. Blocks the current thread.
    pub(crate) fn reread_blocking(&self) -> Result<Arc<T>, FileError> {
        self.handle.0.clone().read_blocking();
        self.last_result()
    }

    fn last_result(&self) -> Result<Arc<T>, FileError> {
        let error = self.shared.status.lock().last_error.clone();
        match error {
            None => Ok(self.shared.value.load_full()),
            Some(error) => Err(error),
        }
    }

    /// Ends the task for all handles, and waits until it has ended, for up to 1 s. The last value stays readable.
    pub async fn shutdown(&self) {
        self.shared.background.shutdown().await;
    }
}

impl<T> Clone for WatchedFile<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            handle: self.handle.clone(),
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

/// A receiver of the changes of a [`WatchedFile`]'s value. Created by [`WatchedFile::subscribe`].
///
/// The file is watched only while a [`WatchedFile`] handle exists, so keep one.
pub struct Changes<T> {
    shared: Arc<Shared<T>>,
    handle: Weak<Handle>,
    events: watch::Receiver<Events>,
    seen: u64,
}

impl<T> Changes<T> {
    /// Waits until the value has changed since the last call, and returns the newest value. Intermediate values may be
    /// skipped.
    ///
    /// Returns `None` if the file is no longer watched: its last handle was dropped, or it was shut down.
    ///
    /// Cancel safe: no change is lost if the future is dropped.
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
            self.handle.upgrade()?.ensure_task();
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
