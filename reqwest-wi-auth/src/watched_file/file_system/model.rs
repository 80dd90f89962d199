//! A file system in memory, with change notifications, whose calls let the scheduler of a model choose what runs before each.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::sync::Notify;
use crate::sync::model::{is_active, point};

/// The number of symbolic links that one call follows.
const MAX_LINKS: usize = 40;

const ROOT: u64 = 0;

thread_local! {
    static FILES: RefCell<FileSystem> = RefCell::default();
}

/// The metadata of a file of the system or of the model.
pub(in crate::watched_file) enum Metadata {
    System(std::fs::Metadata),
    Model { node: u64, is_symlink: bool },
}

impl Metadata {
    pub(in crate::watched_file) fn is_symlink(&self) -> bool {
        match self {
            Self::System(metadata) => metadata.is_symlink(),
            Self::Model { is_symlink, .. } => *is_symlink,
        }
    }

    #[cfg(unix)]
    pub(in crate::watched_file) fn dev(&self) -> u64 {
        match self {
            Self::System(metadata) => std::os::unix::fs::MetadataExt::dev(metadata),
            Self::Model { .. } => 0,
        }
    }

    #[cfg(unix)]
    pub(in crate::watched_file) fn ino(&self) -> u64 {
        match self {
            Self::System(metadata) => std::os::unix::fs::MetadataExt::ino(metadata),
            Self::Model { node, .. } => *node,
        }
    }
}

pub(in crate::watched_file) fn metadata(path: &Path) -> io::Result<Metadata> {
    if !is_active() {
        return std::fs::metadata(path).map(Metadata::System);
    }
    call(|files| files.metadata(path, Links::Follow))
}

pub(in crate::watched_file) fn symlink_metadata(path: &Path) -> io::Result<Metadata> {
    if !is_active() {
        return std::fs::symlink_metadata(path).map(Metadata::System);
    }
    call(|files| files.metadata(path, Links::Keep))
}

pub(in crate::watched_file) fn read_link(path: &Path) -> io::Result<PathBuf> {
    if !is_active() {
        return std::fs::read_link(path);
    }
    call(|files| match files.node(path, Links::Keep)? {
        (_, Node::Link(target)) => Ok(target.clone()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    })
}

/// Reads a file of the model.
pub(in crate::watched_file) fn read(path: &Path) -> io::Result<Vec<u8>> {
    call(|files| match files.node(path, Links::Follow)? {
        (_, Node::File(content)) => Ok(content.clone()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    })
}

/// Makes the file system empty.
pub(in crate::watched_file) fn reset() {
    FILES.set(FileSystem::default());
}

pub(in crate::watched_file) fn create_directory(path: &Path) {
    create(path, Node::Directory(BTreeMap::new()));
}

pub(in crate::watched_file) fn create_link(path: &Path, target: &str) {
    create(path, Node::Link(target.into()));
}

/// Creates an empty file, and writes it.
pub(in crate::watched_file) fn write(path: &Path, content: &str) {
    create(path, Node::File(Vec::new()));
    call(|files| {
        let (node, _) = files.node(path, Links::Follow)?;
        files.nodes.insert(node, Node::File(content.into()));
        let (parent, name) = files.parent(path)?;
        files.report(parent, Event::Content(name));
        Ok(())
    })
    .unwrap();
}

/// Renames an entry, and replaces the one with the new name.
pub(in crate::watched_file) fn rename(from: &Path, to: &Path) {
    call(|files| {
        let (parent, name) = files.parent(from)?;
        let node = files.entries(parent)?.remove(&name);
        let node = node.ok_or(io::ErrorKind::NotFound)?;
        let (parent, name) = files.parent(to)?;
        files.entries(parent)?.insert(name, node);
        files.report(parent, Event::Entries);
        Ok(())
    })
    .unwrap();
}

/// Removes a file, a link or a directory.
pub(in crate::watched_file) fn remove(path: &Path) {
    call(|files| {
        let (parent, name) = files.parent(path)?;
        let node = files.entries(parent)?.remove(&name);
        let node = node.ok_or(io::ErrorKind::NotFound)?;
        files.nodes.remove(&node);
        files.report(node, Event::Removed);
        for watcher in files.watchers.iter().filter_map(Weak::upgrade) {
            lock(&watcher.watched).remove(&node);
        }
        files.report(parent, Event::Entries);
        Ok(())
    })
    .unwrap();
}

fn create(path: &Path, node: Node) {
    call(|files| {
        let (parent, name) = files.parent(path)?;
        files.last += 1;
        let number = files.last;
        files.nodes.insert(number, node);
        files.entries(parent)?.insert(name, number);
        files.report(parent, Event::Entries);
        Ok(())
    })
    .unwrap();
}

/// Makes one system call, which is not interrupted, and then wakes the threads that read its events.
fn call<R>(call: impl FnOnce(&mut FileSystem) -> io::Result<R>) -> io::Result<R> {
    point();
    let (result, watchers) = FILES.with_borrow_mut(|files| {
        let result = call(files);
        (result, std::mem::take(&mut files.notified))
    });
    for watcher in watchers {
        watcher.ready.notify_one();
    }
    result
}

/// An instance of change notifications.
#[derive(Default)]
pub(in crate::watched_file) struct Instance {
    watched: Mutex<HashSet<u64>>,
    events: Mutex<VecDeque<(u64, Event)>>,
    pub(in crate::watched_file) ready: Notify,
}

/// A change in a directory.
pub(in crate::watched_file) enum Event {
    /// The directory was removed, which ends its watch.
    Removed,
    Entries,
    Content(OsString),
}

impl Instance {
    pub(in crate::watched_file) fn new() -> Arc<Self> {
        point();
        let instance = Arc::<Self>::default();
        FILES.with_borrow_mut(|files| files.watchers.push(Arc::downgrade(&instance)));
        instance
    }

    /// Watches a directory, and returns its number.
    pub(in crate::watched_file) fn watch(&self, path: &Path) -> io::Result<u64> {
        call(|files| match files.node(path, Links::Follow)? {
            (node, Node::Directory(_)) => {
                lock(&self.watched).insert(node);
                Ok(node)
            }
            _ => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    pub(in crate::watched_file) fn unwatch(&self, directory: u64) {
        point();
        lock(&self.watched).remove(&directory);
    }

    /// Returns the next event and the number of its directory.
    pub(in crate::watched_file) fn next(&self) -> Option<(u64, Event)> {
        point();
        lock(&self.events).pop_front()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// The last component of a path is followed if it is a link.
    Follow,
    Keep,
}

struct FileSystem {
    nodes: HashMap<u64, Node>,
    last: u64,
    watchers: Vec<Weak<Instance>>,
    /// The instances with new events.
    notified: Vec<Arc<Instance>>,
}

enum Node {
    Directory(BTreeMap<OsString, u64>),
    Link(PathBuf),
    File(Vec<u8>),
}

impl Default for FileSystem {
    fn default() -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Directory(BTreeMap::new()))]),
            last: ROOT,
            watchers: Vec::new(),
            notified: Vec::new(),
        }
    }
}

impl FileSystem {
    fn metadata(&self, path: &Path, links: Links) -> io::Result<Metadata> {
        let (node, found) = self.node(path, links)?;
        let is_symlink = matches!(found, Node::Link(_));
        Ok(Metadata::Model { node, is_symlink })
    }

    fn node(&self, path: &Path, links: Links) -> io::Result<(u64, &Node)> {
        let mut rest: VecDeque<OsString> = components(path);
        let (mut directories, mut followed) = (vec![ROOT], 0);
        loop {
            let current = *directories.last().unwrap_or(&ROOT);
            let node = self.nodes.get(&current).ok_or(io::ErrorKind::NotFound)?;
            let Some(name) = rest.pop_front() else {
                return Ok((current, node));
            };
            if name == ".." {
                directories.pop();
                continue;
            }
            let Node::Directory(entries) = node else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let next = *entries.get(&name).ok_or(io::ErrorKind::NotFound)?;
            match self.nodes.get(&next) {
                Some(Node::Link(target)) if !rest.is_empty() || links == Links::Follow => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                    for component in components(target).into_iter().rev() {
                        rest.push_front(component);
                    }
                }
                _ => directories.push(next),
            }
        }
    }

    fn parent(&self, path: &Path) -> io::Result<(u64, OsString)> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = path.file_name().map(OsStr::to_owned);
        let (parent, _) = self.node(parent, Links::Follow)?;
        Ok((parent, name.ok_or(io::ErrorKind::InvalidInput)?))
    }

    fn entries(&mut self, directory: u64) -> io::Result<&mut BTreeMap<OsString, u64>> {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory(entries)) => Ok(entries),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Adds an event of a directory to the queues of the instances that watch it.
    fn report(&mut self, directory: u64, event: Event) {
        for watcher in self.watchers.iter().filter_map(Weak::upgrade) {
            if lock(&watcher.watched).contains(&directory) {
                let event = match &event {
                    Event::Removed => Event::Removed,
                    Event::Entries => Event::Entries,
                    Event::Content(name) => Event::Content(name.clone()),
                };
                lock(&watcher.events).push_back((directory, event));
                self.notified.push(watcher);
            }
        }
    }
}

/// Returns the names on a path. Absolute targets of links are not supported.
fn components(path: &Path) -> VecDeque<OsString> {
    let names = path
        .components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir));
    names.map(|name| name.as_os_str().to_owned()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
