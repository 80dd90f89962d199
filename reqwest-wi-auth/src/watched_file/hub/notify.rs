//! Watches folders by `notify`, on systems other than Linux.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{Change, Observer, lock, remove};

/// A watched folder, by its path.
pub(super) type Key = PathBuf;

/// The watcher, and the observers of each folder.
///
/// The table has a lock of its own, since the watcher's thread takes it while another thread, holding the watcher's
/// lock, waits for that thread.
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

    pub(super) fn watch(&self, folder: &Path, observer: Arc<Observer>) -> io::Result<Key> {
        let mut watcher = lock(&self.watcher);
        // Set even if it is watched already: the folder may be another one of the same name.
        let watched = watcher.watch(folder, RecursiveMode::NonRecursive);
        watched.map_err(into_io)?;
        let mut table = lock(&self.table);
        table.entry(folder.to_owned()).or_default().push(observer);
        Ok(folder.to_owned())
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
            // A folder that is gone has taken its watch along.
            if key.exists() {
                let _ = watcher.unwatch(key);
            }
        }
    }
}

/// Runs on the watcher's thread.
fn dispatch(event: notify::Result<Event>, table: &Mutex<Table>) {
    let table = lock(table);
    let Ok(event) = event else {
        table
            .values()
            .flatten()
            .for_each(|observer| observer.lose());
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
            match event.kind.is_remove() {
                true => observer.lose(),
                false => observer.observe(&Change::Folder),
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
