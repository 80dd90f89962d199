//! Watches the directories of the system, or within a model those of its file system.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::{Change, Observer, backend, remove};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, model, thread};
use crate::watched_file::file_system::model::{Event, Instance};

pub(super) enum Backend {
    System(backend::Backend),
    Model(Arc<ModelBackend>),
}

pub(super) enum Key {
    System(backend::Key),
    Model(u64),
}

/// Change notifications of the model, and the thread that reads them.
pub(super) struct ModelBackend {
    instance: Arc<Instance>,
    table: Mutex<HashMap<u64, Vec<Arc<Observer>>>>,
    is_stopping: AtomicBool,
}

impl Backend {
    pub(super) fn open() -> io::Result<Self> {
        if !model::is_active() {
            return backend::Backend::open().map(Self::System);
        }
        let backend = Arc::new(ModelBackend {
            instance: Instance::new(),
            table: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let reader = backend.clone();
        let builder = thread::Builder::new().name("inotify".to_owned());
        builder.spawn(move || reader.read_events())?;
        Ok(Self::Model(backend))
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self, Self::System(backend) if backend.has_failed())
    }

    pub(super) fn watch(&self, directory: &Path, observer: Arc<Observer>) -> io::Result<Key> {
        match self {
            Self::System(backend) => backend.watch(directory, observer).map(Key::System),
            Self::Model(backend) => {
                let mut table = backend.table();
                let key = backend.instance.watch(directory)?;
                table.entry(key).or_default().push(observer);
                Ok(Key::Model(key))
            }
        }
    }

    pub(super) fn unwatch(&self, key: &Key, observer: &Arc<Observer>) {
        match (self, key) {
            (Self::System(backend), Key::System(key)) => backend.unwatch(key, observer),
            (Self::Model(backend), Key::Model(key)) => {
                let mut table = backend.table();
                let Some(observers) = table.get_mut(key) else {
                    return;
                };
                if !remove(observers, observer) {
                    table.remove(key);
                    backend.instance.unwatch(*key);
                }
            }
            _ => {}
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Self::Model(backend) = self {
            backend.is_stopping.store(true, Ordering::Release);
            backend.instance.ready.notify_one();
        }
    }
}

impl ModelBackend {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Vec<Arc<Observer>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_events(&self) {
        while !self.is_stopping.load(Ordering::Acquire) {
            model::block_on(self.instance.ready.notified());
            while let Some((directory, event)) = self.instance.next() {
                let mut table = self.table();
                let change = match &event {
                    Event::Removed => {
                        for observer in table.remove(&directory).into_iter().flatten() {
                            observer.observe(&Change::Directory);
                            observer.end();
                        }
                        continue;
                    }
                    Event::Entries => Change::Entries,
                    Event::Content(name) => Change::Content(name),
                };
                for observer in table.get(&directory).into_iter().flatten() {
                    observer.observe(&change);
                }
            }
        }
    }
}
