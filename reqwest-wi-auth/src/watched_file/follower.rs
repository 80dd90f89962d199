//! Reads one file, after setting watches on the folders on its way.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::FileError;
use super::folders::{self, Folder};
use super::functions::{Parse, Read};
use super::hub::{ChangeSignal, Hub, Watch};

/// More than any token, certificate bundle or policy has.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// So often the folders are looked up again if they change while they are being watched.
const MAX_LOOKS: usize = 8;

/// One file, read on demand. All of it may block.
pub(super) struct Follower<T> {
    path: PathBuf,
    read: Read,
    parse: Parse<T>,
    signal: Arc<ChangeSignal>,
    /// Kept from the first watch on, so that the system's watcher is not closed between two watches.
    hub: Option<Arc<Hub>>,
    watched: Vec<Watched>,
    is_watching: bool,
    has_looked: bool,
    /// Called after each look, before the watches are set.
    #[cfg(test)]
    pub(super) between_look_and_watch: Option<Box<dyn FnMut() + Send>>,
}

/// A folder on the way, and its watch.
struct Watched {
    path: PathBuf,
    folder: Folder,
    watch: Watch,
}

/// What came of setting the watches on a set of folders.
#[derive(Default)]
struct Outcome {
    /// A watch was set that was not there before, so a change may have fallen between look and watch.
    has_new: bool,
    /// A folder was gone when it was to be watched.
    has_vanished: bool,
    error: Option<io::Error>,
}

impl<T> Follower<T> {
    pub(super) fn new(
        path: PathBuf,
        read: Read,
        parse: Parse<T>,
        signal: Arc<ChangeSignal>,
    ) -> Self {
        Self {
            path,
            read,
            parse,
            signal,
            hub: None,
            watched: Vec::new(),
            is_watching: false,
            has_looked: false,
            #[cfg(test)]
            between_look_and_watch: None,
        }
    }

    /// Returns whether the system reports changes in every folder on the way.
    pub(super) fn is_watching(&self) -> bool {
        self.is_watching
    }

    /// Sets the watches that are missing, then reads and parses the file.
    pub(super) fn watch_and_read(&mut self) -> Result<T, FileError> {
        self.watch();
        self.read_and_parse()
    }

    /// Watches the folders on the way. New watches are set before old ones go, and the folders are looked up again until
    /// nothing has changed between look and watch.
    fn watch(&mut self) {
        let was_watching = self.is_watching;
        let mut outcome = Outcome::default();
        for _ in 0..MAX_LOOKS {
            let folders = folders::on_the_way(&self.path);
            #[cfg(test)]
            if let Some(hook) = &mut self.between_look_and_watch {
                hook();
            }
            outcome = self.watch_all(folders);
            if !outcome.has_new && !outcome.has_vanished {
                break;
            }
        }
        let is_complete = !outcome.has_vanished && outcome.error.is_none();
        self.is_watching = is_complete && !self.watched.is_empty();
        // Only once: the file is read in short intervals now.
        if !self.is_watching && (was_watching || !self.has_looked) {
            let reason = outcome.error.map(|error| error.to_string());
            let reason =
                reason.unwrap_or_else(|| "no folder on its way can be looked up".to_owned());
            tracing::debug!(path = %self.path.display(), reason, "changes of the file are not reported; it is read on a timer");
        }
        self.has_looked = true;
    }

    fn watch_all(&mut self, folders: std::collections::BTreeMap<PathBuf, Folder>) -> Outcome {
        let mut outcome = Outcome::default();
        if self.hub.as_ref().is_some_and(|hub| hub.has_failed()) {
            self.hub = None;
        }
        let hub = match self.hub.clone().map_or_else(Hub::shared, Ok) {
            Ok(hub) => hub,
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
        };
        self.hub = Some(hub.clone());
        let mut kept = Vec::with_capacity(folders.len());
        for (path, folder) in folders {
            let is_same = |watched: &Watched| {
                watched.path == path && watched.folder == folder && !watched.watch.is_lost()
            };
            if let Some(index) = self.watched.iter().position(is_same) {
                kept.push(self.watched.swap_remove(index));
                continue;
            }
            match hub.watch(&path, &folder.entries, &self.signal) {
                Ok(watch) => {
                    outcome.has_new = true;
                    kept.push(Watched {
                        path,
                        folder,
                        watch,
                    });
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    outcome.has_vanished = true;
                }
                Err(error) => outcome.error = Some(error),
            }
        }
        self.watched = kept;
        outcome
    }

    fn read_and_parse(&self) -> Result<T, FileError> {
        let bytes = (self.read)(&self.path).map_err(|error| FileError::Read {
            path: self.path.clone(),
            source: Arc::new(error),
        })?;
        (self.parse)(&Zeroizing::new(bytes)).map_err(|error| FileError::Content {
            path: self.path.clone(),
            source: error.into(),
        })
    }
}

/// Reads a whole regular file into memory of its size, so that no secret stays behind in memory given back.
///
/// The type is checked before the file is opened: opening a FIFO waits for a writer, and opening a device may do anything.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    require_regular(&std::fs::metadata(path)?)?;
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 16 MB");
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
    let message = format!("it is {found}, not a regular file");
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
        _ => "of an unknown type",
    }
}

#[cfg(not(unix))]
fn file_type(file_type: std::fs::FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else {
        "of an unknown type"
    }
}

#[cfg(all(unix, feature = "testing"))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Kubelet;

    fn follower(path: PathBuf) -> Follower<Vec<u8>> {
        let parse: Parse<Vec<u8>> = Arc::new(|bytes| Ok(bytes.to_vec()));
        Follower::new(path, Arc::new(read_file), parse, Arc::default())
    }

    /// Whether a change is signalled for a rotation, and what is read after it.
    async fn sees_a_rotation(follower: &mut Follower<Vec<u8>>, kubelet: &Kubelet, text: &str) {
        // Whatever was signalled so far has been read.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, follower.signal.changed()).await;
        kubelet.rotate("token", text).unwrap();
        let limit = std::time::Duration::from_secs(10);
        let signalled = tokio::time::timeout(limit, follower.signal.changed()).await;
        assert!(signalled.is_ok(), "the rotation to {text} is not signalled");
        assert_eq!(follower.watch_and_read().unwrap(), text.as_bytes());
    }

    #[tokio::test]
    async fn a_rotation_between_look_and_watch_leaves_the_file_watched() {
        for rotations in 1..MAX_LOOKS - 1 {
            let folder = tempfile::tempdir().unwrap();
            let kubelet = Arc::new(Kubelet::new(folder.path()).unwrap());
            kubelet.write([("token", "0")]).unwrap();
            let mut follower = follower(kubelet.path("token"));
            let (rotated, mut count) = (kubelet.clone(), 0);
            follower.between_look_and_watch = Some(Box::new(move || {
                if count < rotations {
                    count += 1;
                    rotated.rotate("token", format!("between {count}")).unwrap();
                }
            }));
            let read = follower.watch_and_read().unwrap();
            assert_eq!(read, format!("between {rotations}").as_bytes());
            assert!(follower.is_watching(), "after {rotations} rotations");
            for text in ["1", "2", "3"] {
                sees_a_rotation(&mut follower, &kubelet, text).await;
                assert!(follower.is_watching(), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn a_rotation_injected_into_every_later_look_loses_no_watch() {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Arc::new(Kubelet::new(folder.path()).unwrap());
        kubelet.write([("token", "0")]).unwrap();
        let mut follower = follower(kubelet.path("token"));
        follower.watch_and_read().unwrap();
        for round in 0..10 {
            let (rotated, mut is_done) = (kubelet.clone(), false);
            follower.between_look_and_watch = Some(Box::new(move || {
                if !std::mem::replace(&mut is_done, true) {
                    rotated
                        .rotate("token", format!("injected {round}"))
                        .unwrap();
                }
            }));
            kubelet.rotate("token", format!("before {round}")).unwrap();
            let read = follower.watch_and_read().unwrap();
            assert_eq!(read, format!("injected {round}").as_bytes());
            follower.between_look_and_watch = None;
            sees_a_rotation(&mut follower, &kubelet, &format!("after {round}")).await;
            assert!(follower.is_watching());
        }
    }

    #[test]
    fn the_watch_of_the_root_and_the_hub_stay_over_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let kubelet = Kubelet::new(&root).unwrap();
        kubelet.write([("token", "0")]).unwrap();
        let mut follower = follower(kubelet.path("token"));
        follower.watch_and_read().unwrap();
        let hub = follower.hub.clone().unwrap();
        for text in ["1", "2", "3"] {
            kubelet.rotate("token", text).unwrap();
            follower.watch_and_read().unwrap();
            let is_root = |watched: &&Watched| watched.path == root;
            let watched = follower.watched.iter().find(is_root).unwrap();
            assert!(!watched.watch.is_lost());
            assert!(Arc::ptr_eq(follower.hub.as_ref().unwrap(), &hub));
        }
        kubelet.vanish().unwrap();
        assert!(follower.watch_and_read().is_err());
        assert!(follower.is_watching(), "the root shows when it comes back");
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let cases = [
            (folder.path().to_owned(), "a directory"),
            (socket, "a socket"),
            (PathBuf::from("/dev/zero"), "a device"),
        ];
        for (path, found) in cases {
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }
}
