//! Change notifications of the operating system for directories.
//!
//! All watched files of a process share one watcher, since operating systems grant few of them (Linux grants 128 inotify
//! instances per user by default).

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "watcher/inotify.rs"]
mod backend;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "watcher/notify.rs"]
mod backend;
#[cfg(test)]
pub(super) mod model;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

#[cfg(not(test))]
use self::backend::{Backend, Key};
#[cfg(test)]
use self::model::{Backend, Key};
use crate::sync::Notify;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The watcher of this process, while any file is watched.
static SHARED: Mutex<Weak<DirectoryWatcher>> = Mutex::new(Weak::new());

/// The watcher of the operating system.
///
/// It stays open as long as a reference to it exists, whether or not a directory is watched: after it was closed, the
/// operating system may refuse to open another one.
pub(super) struct DirectoryWatcher {
    backend: Backend,
}

/// Wakes the task that watches one file.
#[derive(Debug, Default)]
pub(super) struct ChangeSignal(Notify);

/// Keeps a directory watched for one file until it is dropped.
pub(super) struct DirectoryWatch {
    watcher: Arc<DirectoryWatcher>,
    key: Key,
    observer: Arc<Observer>,
}

/// Decides which changes in one directory are reported for one file.
struct Observer {
    signal: Arc<ChangeSignal>,
    /// The entries of the directory that the path of the file leads through.
    entries: Vec<OsString>,
    /// The operating system has ended the watch, because the directory was removed.
    has_ended: AtomicBool,
}

/// A change in a directory.
enum Change<'e> {
    /// The directory itself was removed, moved or touched.
    Directory,
    /// An entry was created, removed or renamed.
    Entries,
    /// The content or mode of an entry has changed.
    Content(&'e OsStr),
}

impl ChangeSignal {
    /// Waits for a change. Returns at once if there was a change since the last call.
    ///
    /// Cancel safe: a change is not lost if the future is dropped.
    pub(super) async fn changed(&self) {
        self.0.notified().await;
    }

    /// Reports a change.
    pub(super) fn notify(&self) {
        self.0.notify_one();
    }
}

impl DirectoryWatcher {
    /// Returns the watcher of this process, and opens it if it is not open.
    pub(super) fn shared() -> io::Result<Arc<Self>> {
        #[cfg(test)]
        if crate::sync::model::is_active() {
            let backend = Backend::open()?;
            return Ok(Arc::new(Self { backend }));
        }
        let mut shared = lock(&SHARED);
        if let Some(watcher) = shared.upgrade()
            && !watcher.has_failed()
        {
            return Ok(watcher);
        }
        let watcher = Arc::new(Self {
            backend: Backend::open()?,
        });
        *shared = Arc::downgrade(&watcher);
        Ok(watcher)
    }

    /// Returns whether the watcher has failed and will report no more changes.
    pub(super) fn has_failed(&self) -> bool {
        self.backend.has_failed()
    }

    /// Watches a directory until the [`DirectoryWatch`] is dropped. Blocks while the path is resolved.
    pub(super) fn watch(
        self: &Arc<Self>,
        directory: &Path,
        entries: &[OsString],
        signal: &Arc<ChangeSignal>,
    ) -> io::Result<DirectoryWatch> {
        let observer = Arc::new(Observer {
            signal: signal.clone(),
            entries: entries.to_vec(),
            has_ended: AtomicBool::new(false),
        });
        let key = self.backend.watch(directory, observer.clone())?;
        Ok(DirectoryWatch {
            watcher: self.clone(),
            key,
            observer,
        })
    }
}

impl DirectoryWatch {
    /// Returns whether the operating system has ended the watch.
    pub(super) fn has_ended(&self) -> bool {
        self.observer.has_ended.load(Ordering::Acquire)
    }
}

impl Drop for DirectoryWatch {
    fn drop(&mut self) {
        self.watcher.backend.unwatch(&self.key, &self.observer);
    }
}

impl Observer {
    /// Records that the operating system has ended the watch, and reports that as a change.
    fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.signal.notify();
    }

    /// Reports a change if it can concern the file.
    ///
    /// A change to the content of an entry is reported only if the path leads through that entry, since a log file in the
    /// same directory may change all the time.
    fn observe(&self, change: &Change<'_>) {
        let is_relevant = match change {
            Change::Directory | Change::Entries => true,
            Change::Content(name) => self.entries.iter().any(|entry| entry == name),
        };
        if is_relevant {
            self.signal.notify();
        }
    }
}

/// Removes one observer from those of a directory. Returns whether any observer is left.
fn remove(observers: &mut Vec<Arc<Observer>>, observer: &Arc<Observer>) -> bool {
    observers.retain(|other| !Arc::ptr_eq(other, observer));
    !observers.is_empty()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
