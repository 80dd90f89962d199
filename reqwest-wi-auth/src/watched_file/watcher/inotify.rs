//! Watches directories with inotify.
//!
//! The `notify` crate is not used on Linux: it subscribes to every kind of event and logs each of them, so a log file in a
//! watched directory would cause an endless loop, and it logs a warning when a watched directory is removed, which the
//! kubelet does at each rotation.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::{Change, Observer, lock, remove};

const EVENTS: Token = Token(0);
const STOP: Token = Token(1);
/// Enough for several hundred events.
const BUFFER_BYTES: usize = 16 * 1024;

/// Identifies a watched directory, independently of its path.
pub(super) type Key = WatchDescriptor;

/// One inotify instance, and the thread that reads its events.
pub(super) struct Backend {
    /// Locked while a watch is added, so that the first event is not read before its observer is registered.
    table: Arc<Mutex<Table>>,
    watches: Watches,
    /// The thread holds a reference too: if the waker were closed first, its event could be lost.
    stop: Arc<Waker>,
    is_stopping: Arc<AtomicBool>,
    has_failed: Arc<AtomicBool>,
}

/// The observers of each watch.
type Table = HashMap<WatchDescriptor, Vec<Arc<Observer>>>;

impl Backend {
    pub(super) fn open() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let poll = Poll::new()?;
        let descriptor = inotify.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&descriptor), EVENTS, Interest::READABLE)?;
        let backend = Self {
            table: Arc::default(),
            watches: inotify.watches(),
            stop: Arc::new(Waker::new(poll.registry(), STOP)?),
            is_stopping: Arc::default(),
            has_failed: Arc::default(),
        };
        let (table, is_stopping) = (backend.table.clone(), backend.is_stopping.clone());
        let (has_failed, stop) = (backend.has_failed.clone(), backend.stop.clone());
        std::thread::Builder::new()
            .name("inotify".to_owned())
            .spawn(move || {
                let _stop = stop;
                if read_events(inotify, poll, &table, &is_stopping).is_err() {
                    has_failed.store(true, Ordering::Release);
                    for observer in lock(&table).drain().flat_map(|(_, observers)| observers) {
                        observer.end();
                    }
                }
            })?;
        Ok(backend)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    pub(super) fn watch(&self, directory: &Path, observer: Arc<Observer>) -> io::Result<Key> {
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut table = lock(&self.table);
        // A directory that is already watched keeps its descriptor.
        let key = self.watches.clone().add(directory, mask)?;
        table.entry(key.clone()).or_default().push(observer);
        Ok(key)
    }

    pub(super) fn unwatch(&self, key: &Key, observer: &Arc<Observer>) {
        let mut table = lock(&self.table);
        let Some(observers) = table.get_mut(key) else {
            return;
        };
        if !remove(observers, observer) {
            table.remove(key);
            // This fails if the directory was removed, which ends its watch, and the event has not been read yet.
            let _ = self.watches.clone().remove(key.clone());
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        // If the thread cannot be woken, it ends at the next event.
        let _ = self.stop.wake();
    }
}

/// Reads events until the backend is dropped.
fn read_events(
    mut inotify: Inotify,
    mut poll: Poll,
    table: &Mutex<Table>,
    is_stopping: &AtomicBool,
) -> io::Result<()> {
    let mut ready = Events::with_capacity(2);
    let mut buffer = [0; BUFFER_BYTES];
    while !is_stopping.load(Ordering::Acquire) {
        if let Err(error) = poll.poll(&mut ready, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        loop {
            match inotify.read_events(&mut buffer) {
                Ok(events) => events.for_each(|event| dispatch(&event, &mut lock(table))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn dispatch(event: &Event<&std::ffi::OsStr>, table: &mut Table) {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        // The kernel has dropped events; the watches remain.
        for observer in table.values().flatten() {
            observer.observe(&Change::Entries);
        }
        return;
    }
    if event.mask.contains(EventMask::IGNORED) {
        for observer in table.remove(&event.wd).into_iter().flatten() {
            observer.end();
        }
        return;
    }
    let content = EventMask::MODIFY | EventMask::CLOSE_WRITE | EventMask::ATTRIB;
    let change = match event.name {
        None => Change::Directory,
        Some(name) if event.mask.intersects(content) => Change::Content(name),
        Some(_) => Change::Entries,
    };
    for observer in table.get(&event.wd).into_iter().flatten() {
        observer.observe(&change);
    }
}
