//! Watches directories with the `notify` crate, on systems other than Linux.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{Change, Observer, lock, remove};

/// The path of a watched directory.
pub(super) type Key = PathBuf;

/// The watcher, and the observers of each directory.
///
/// The table has a separate lock, because the watcher's thread locks it while another thread, which holds the lock of the
/// watcher, waits for that thread.
pub(super) struct Backend {
    watcher: Mutex<RecommendedWatcher>,
    table: Arc<Mutex<Table>>,
}

type Table = HashMap<PathBuf, Vec<Arc<Observer>>>;

impl Backend {
    pub(super) fn open() -> io::Result<Self> {
        let table = Arc::<Mutex<Table>>::default();
        let shared = table.clone();
        let watcher = notify::recommended_watcher(move |event| dispatch(event, &shared));
        Ok(Self {
            watcher: Mutex::new(watcher.map_err(into_io)?),
            table,
        })
    }

    pub(super) fn has_failed(&self) -> bool {
        false
    }

    pub(super) fn watch(&self, directory: &Path, observer: Arc<Observer>) -> io::Result<Key> {
        let mut watcher = lock(&self.watcher);
        // Done even if the path is already watched: it may be a different directory of the same name.
        let watched = watcher.watch(directory, RecursiveMode::NonRecursive);
        watched.map_err(into_io)?;
        let mut table = lock(&self.table);
        table
            .entry(directory.to_owned())
            .or_default()
            .push(observer);
        Ok(directory.to_owned())
    }

    pub(super) fn unwatch(&self, key: &Key, observer: &Arc<Observer>) {
        let mut watcher = lock(&self.watcher);
        let mut table = lock(&self.table);
        let Some(observers) = table.get_mut(key) else {
            return;
        };
        if !remove(observers, observer) {
            table.remove(key);
            drop(table);
            // The watch of a directory that was removed has already ended.
            if key.exists() {
                let _ = watcher.unwatch(key);
            }
        }
    }
}

/// Passes an event to the observers. Runs on the watcher's thread.
fn dispatch(event: notify::Result<Event>, table: &Mutex<Table>) {
    let table = lock(table);
    let Ok(event) = event else {
        table.values().flatten().for_each(|observer| observer.end());
        return;
    };
    if event.need_rescan() || event.paths.is_empty() {
        for observer in table.values().flatten() {
            observer.observe(&Change::Entries);
        }
        return;
    }
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    if event.kind.is_access() && event.kind != written {
        return;
    }
    let is_content = event.kind == written
        || matches!(event.kind, EventKind::Modify(kind) if !matches!(kind, ModifyKind::Name(_)));
    for path in &event.paths {
        for observer in table.get(path).into_iter().flatten() {
            if event.kind.is_remove() {
                observer.end();
            } else {
                observer.observe(&Change::Directory);
            }
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let change = if is_content {
            Change::Content(name)
        } else {
            Change::Entries
        };
        for observer in table.get(parent).into_iter().flatten() {
            observer.observe(&change);
        }
    }
}

fn into_io(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        _ => io::Error::other(error),
    }
}
