//! Reads and parses one file, after setting up change notifications for it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::directories::{Directory, directories_on_path};
use super::watcher::{ChangeSignal, DirectoryWatch, DirectoryWatcher};
use super::{FileError, ParseError};
use crate::text::log_line;

/// The size limit of a file. Tokens, certificate bundles and policies are far smaller.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How often the directories on the path are resolved again if they change while watches are being set.
const MAX_ATTEMPTS: usize = 8;

/// Parses the content of a file.
pub(super) type ParseFn<T> = Arc<dyn Fn(&[u8]) -> Result<T, ParseError> + Send + Sync>;

/// Reads a file.
pub(crate) type ReadFn = Arc<dyn Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync>;

/// Whether the operating system reports changes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notifications {
    /// Changes in every directory on the path are reported.
    Active,
    /// Changes are not reported, so the file has to be polled more often.
    Unavailable,
}

/// Reads and parses one file, and watches the directories on its path. Its methods block.
pub(super) struct FileReader<T> {
    path: PathBuf,
    read: ReadFn,
    parse: ParseFn<T>,
    signal: Arc<ChangeSignal>,
    /// Kept from the first watch on, so that the watcher of the process is not closed between two watches.
    watcher: Option<Arc<DirectoryWatcher>>,
    watches: Vec<Watched>,
    notifications: Notifications,
    has_set_watches: bool,
    /// Called after the directories were resolved, before the watches are set.
    #[cfg(test)]
    pub(super) before_watching: Option<Box<dyn FnMut() + Send>>,
}

/// A directory on the path, and its watch.
struct Watched {
    path: PathBuf,
    directory: Directory,
    watch: DirectoryWatch,
}

/// The result of watching a set of directories.
#[derive(Default)]
struct WatchResult {
    /// A watch was added, so a change may have occurred between resolving the path and adding the watch.
    has_new: bool,
    /// A directory was removed before it could be watched.
    has_vanished: bool,
    error: Option<io::Error>,
}

impl<T> FileReader<T> {
    pub(super) fn new(
        path: PathBuf,
        read: ReadFn,
        parse: ParseFn<T>,
        signal: Arc<ChangeSignal>,
    ) -> Self {
        Self {
            path,
            read,
            parse,
            signal,
            watcher: None,
            watches: Vec::new(),
            notifications: Notifications::Unavailable,
            has_set_watches: false,
            #[cfg(test)]
            before_watching: None,
        }
    }

    /// Returns whether the operating system reports changes in every directory on the path.
    pub(super) fn notifications(&self) -> Notifications {
        self.notifications
    }

    /// Adds the missing watches, then reads and parses the file.
    pub(super) fn watch_and_read(&mut self) -> Result<T, FileError> {
        self.watch();
        self.read_and_parse()
    }

    /// Watches the directories on the path.
    ///
    /// New watches are added before old ones are removed, and the path is resolved again until nothing has changed between
    /// resolving it and adding the watches. So no change is missed.
    fn watch(&mut self) {
        let before = self.notifications;
        let mut result = WatchResult::default();
        for _ in 0..MAX_ATTEMPTS {
            let directories = directories_on_path(&self.path);
            #[cfg(test)]
            if let Some(hook) = &mut self.before_watching {
                hook();
            }
            result = self.watch_all(directories);
            if !result.has_new && !result.has_vanished {
                break;
            }
        }
        let is_complete = !result.has_vanished && result.error.is_none();
        self.notifications = if is_complete && !self.watches.is_empty() {
            Notifications::Active
        } else {
            Notifications::Unavailable
        };
        let is_first_failure = before == Notifications::Active || !self.has_set_watches;
        // Logged only once, since the file is read at short intervals from now on.
        if self.notifications == Notifications::Unavailable && is_first_failure {
            let reason = result.error.map(|error| log_line(&error));
            let reason = reason.unwrap_or_else(|| "no directory on its path exists".to_owned());
            tracing::debug!(path = %self.path.display(), reason, "changes to the file are not reported by the system; polling it instead");
        }
        self.has_set_watches = true;
    }

    fn watch_all(&mut self, directories: BTreeMap<PathBuf, Directory>) -> WatchResult {
        let mut result = WatchResult::default();
        if self
            .watcher
            .as_ref()
            .is_some_and(|watcher| watcher.has_failed())
        {
            self.watcher = None;
        }
        let watcher = self.watcher.clone();
        let watcher = match watcher.map_or_else(DirectoryWatcher::shared, Ok) {
            Ok(watcher) => watcher,
            Err(error) => {
                result.error = Some(error);
                return result;
            }
        };
        self.watcher = Some(watcher.clone());
        let mut kept = Vec::with_capacity(directories.len());
        for (path, directory) in directories {
            let is_same = |watched: &Watched| {
                watched.path == path && watched.directory == directory && !watched.watch.has_ended()
            };
            if let Some(index) = self.watches.iter().position(is_same) {
                kept.push(self.watches.swap_remove(index));
                continue;
            }
            match watcher.watch(&path, &directory.entries, &self.signal) {
                Ok(watch) => {
                    result.has_new = true;
                    kept.push(Watched {
                        path,
                        directory,
                        watch,
                    });
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    result.has_vanished = true;
                }
                Err(error) => result.error = Some(error),
            }
        }
        self.watches = kept;
        result
    }

    fn read_and_parse(&self) -> Result<T, FileError> {
        parse_content(&self.path, (self.read)(&self.path), |bytes| {
            (self.parse)(bytes)
        })
    }
}

/// Reads and parses a file.
pub(super) fn read_once<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, FileError> {
    parse_content(path, read_file(path), parse)
}

fn parse_content<T>(
    path: &Path,
    read: io::Result<Vec<u8>>,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, FileError> {
    let bytes = read.map_err(|error| FileError::Read {
        path: path.to_owned(),
        source: Arc::new(error),
    })?;
    parse(&Zeroizing::new(bytes)).map_err(|error| FileError::InvalidContent {
        path: path.to_owned(),
        source: error.into(),
    })
}

/// Reads a regular file into a buffer that is allocated in its full size, so that no copy of a secret stays in memory that
/// was freed.
///
/// The type is checked before the file is opened, because opening a FIFO waits for a writer, and opening a device can have
/// any effect.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    require_regular(&std::fs::metadata(path)?)?;
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    let too_large = || {
        let message = "the file is larger than the limit of 16 MiB";
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    let size = metadata.len();
    if size > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_large());
    }
    Ok(std::mem::take(&mut bytes))
}

fn require_regular(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = file_type(metadata.file_type());
    let message = format!("expected a regular file, found {found}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

#[cfg(unix)]
fn file_type(file_type: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    match file_type {
        _ if file_type.is_dir() => "a directory",
        _ if file_type.is_fifo() => "a FIFO",
        _ if file_type.is_socket() => "a socket",
        _ if file_type.is_char_device() || file_type.is_block_device() => "a device",
        _ => "a file of unknown type",
    }
}

#[cfg(not(unix))]
fn file_type(file_type: std::fs::FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else {
        "a file of unknown type"
    }
}

#[cfg(all(unix, feature = "testing"))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Kubelet;

    fn file_reader(path: PathBuf) -> FileReader<Vec<u8>> {
        let parse: ParseFn<Vec<u8>> = Arc::new(|bytes| Ok(bytes.to_vec()));
        FileReader::new(path, Arc::new(read_file), parse, Arc::default())
    }

    /// Asserts that a rotation is reported, and that the new content is read after it.
    async fn assert_sees_rotation(reader: &mut FileReader<Vec<u8>>, kubelet: &Kubelet, text: &str) {
        // Changes that were reported before have been read.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, reader.signal.changed()).await;
        kubelet.rotate("token", text).unwrap();
        let limit = std::time::Duration::from_secs(10);
        let reported = tokio::time::timeout(limit, reader.signal.changed()).await;
        assert!(reported.is_ok(), "the rotation to {text} is not reported");
        assert_eq!(reader.watch_and_read().unwrap(), text.as_bytes());
    }

    #[tokio::test]
    async fn a_rotation_between_resolving_and_watching_leaves_the_file_watched() {
        for rotations in 1..MAX_ATTEMPTS - 1 {
            let directory = tempfile::tempdir().unwrap();
            let kubelet = Arc::new(Kubelet::new(directory.path()).unwrap());
            kubelet.write([("token", "0")]).unwrap();
            let mut reader = file_reader(kubelet.path("token"));
            let (rotated, mut count) = (kubelet.clone(), 0);
            reader.before_watching = Some(Box::new(move || {
                if count < rotations {
                    count += 1;
                    rotated.rotate("token", format!("between {count}")).unwrap();
                }
            }));
            let read = reader.watch_and_read().unwrap();
            assert_eq!(read, format!("between {rotations}").as_bytes());
            assert_eq!(
                reader.notifications(),
                Notifications::Active,
                "after {rotations} rotations"
            );
            for text in ["1", "2", "3"] {
                assert_sees_rotation(&mut reader, &kubelet, text).await;
                assert_eq!(reader.notifications(), Notifications::Active, "{text}");
            }
        }
    }

    #[tokio::test]
    async fn a_rotation_during_each_later_read_loses_no_watch() {
        let directory = tempfile::tempdir().unwrap();
        let kubelet = Arc::new(Kubelet::new(directory.path()).unwrap());
        kubelet.write([("token", "0")]).unwrap();
        let mut reader = file_reader(kubelet.path("token"));
        reader.watch_and_read().unwrap();
        for round in 0..10 {
            let (rotated, mut is_done) = (kubelet.clone(), false);
            reader.before_watching = Some(Box::new(move || {
                if !std::mem::replace(&mut is_done, true) {
                    rotated
                        .rotate("token", format!("injected {round}"))
                        .unwrap();
                }
            }));
            kubelet.rotate("token", format!("before {round}")).unwrap();
            let read = reader.watch_and_read().unwrap();
            assert_eq!(read, format!("injected {round}").as_bytes());
            reader.before_watching = None;
            assert_sees_rotation(&mut reader, &kubelet, &format!("after {round}")).await;
            assert_eq!(reader.notifications(), Notifications::Active);
        }
    }

    #[test]
    fn the_watch_of_the_volume_root_and_the_watcher_outlive_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let kubelet = Kubelet::new(&root).unwrap();
        kubelet.write([("token", "0")]).unwrap();
        let mut reader = file_reader(kubelet.path("token"));
        reader.watch_and_read().unwrap();
        let watcher = reader.watcher.clone().unwrap();
        for text in ["1", "2", "3"] {
            kubelet.rotate("token", text).unwrap();
            reader.watch_and_read().unwrap();
            let is_root = |watched: &&Watched| watched.path == root;
            let watched = reader.watches.iter().find(is_root).unwrap();
            assert!(!watched.watch.has_ended());
            assert!(Arc::ptr_eq(reader.watcher.as_ref().unwrap(), &watcher));
        }
        kubelet.remove_content().unwrap();
        assert!(reader.watch_and_read().is_err());
        assert_eq!(
            reader.notifications(),
            Notifications::Active,
            "the root is still watched"
        );
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let cases = [
            (directory.path().to_owned(), "a directory"),
            (socket, "a socket"),
            (PathBuf::from("/dev/zero"), "a device"),
        ];
        for (path, found) in cases {
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }
}
