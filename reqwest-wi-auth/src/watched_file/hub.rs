//! The one watcher of the system that all followed files of a process share: the system grants few of them.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "hub/inotify.rs"]
mod backend;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "hub/notify.rs"]
mod backend;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use self::backend::Backend;

/// The hub of this process, while any file is followed.
static HUB: Mutex<Weak<Hub>> = Mutex::new(Weak::new());

/// The system's watcher. It stays open while anyone holds the hub, whether or not a folder is watched: a watcher that is
/// closed may not be granted again.
pub(super) struct Hub {
    backend: Backend,
}

/// Notifies one follower of changes.
#[derive(Debug, Default)]
pub(super) struct ChangeSignal(Notify);

/// Keeps a folder watched for one follower.
pub(super) struct Watch {
    hub: Arc<Hub>,
    key: backend::Key,
    observer: Arc<Observer>,
}

/// One follower's interest in one folder.
struct Observer {
    signal: Arc<ChangeSignal>,
    /// The entries of the folder that the followed path goes through.
    entries: Vec<OsString>,
    /// The system has ended the watch, because the folder is gone.
    is_lost: AtomicBool,
}

/// What has happened in a folder.
enum Change<'e> {
    /// The folder itself was removed, moved or touched.
    Folder,
    /// An entry was created, removed or renamed.
    Entries,
    /// The content or mode of an entry has changed.
    Content(&'e OsStr),
}

impl ChangeSignal {
    /// Waits for a change. A change since the last call counts. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.0.notified().await;
    }

    pub(super) fn notify(&self) {
        self.0.notify_one();
    }
}

impl Hub {
    /// Returns the hub of this process, and opens the system's watcher if it is not open.
    pub(super) fn shared() -> io::Result<Arc<Self>> {
        let mut shared = lock(&HUB);
        if let Some(hub) = shared.upgrade()
            && !hub.has_failed()
        {
            return Ok(hub);
        }
        let hub = Arc::new(Self {
            backend: Backend::open()?,
        });
        *shared = Arc::downgrade(&hub);
        Ok(hub)
    }

    /// Returns whether the system's watcher has failed for good.
    pub(super) fn has_failed(&self) -> bool {
        self.backend.has_failed()
    }

    /// Watches a folder until the [`Watch`] is dropped. May block while the path is resolved.
    pub(super) fn watch(
        self: &Arc<Self>,
        folder: &Path,
        entries: &[OsString],
        signal: &Arc<ChangeSignal>,
    ) -> io::Result<Watch> {
        let observer = Arc::new(Observer {
            signal: signal.clone(),
            entries: entries.to_vec(),
            is_lost: AtomicBool::new(false),
        });
        let key = self.backend.watch(folder, observer.clone())?;
        Ok(Watch {
            hub: self.clone(),
            key,
            observer,
        })
    }
}

impl Watch {
    /// Returns whether the system has ended the watch.
    pub(super) fn is_lost(&self) -> bool {
        self.observer.is_lost()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.backend.unwatch(&self.key, &self.observer);
    }
}

impl Observer {
    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
        self.signal.notify();
    }

    /// Changes of an entry's content matter only for entries on the followed path: a log file in the same folder may
    /// change all the time.
    fn observe(&self, change: &Change<'_>) {
        let is_relevant = match change {
            Change::Folder | Change::Entries => true,
            Change::Content(name) => self.entries.iter().any(|entry| entry == name),
        };
        if is_relevant {
            self.signal.notify();
        }
    }
}

/// Removes one observer from those of a folder. Returns whether any is left.
fn remove(observers: &mut Vec<Arc<Observer>>, observer: &Arc<Observer>) -> bool {
    observers.retain(|other| !Arc::ptr_eq(other, observer));
    !observers.is_empty()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
