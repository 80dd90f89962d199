//! Reads one file, with the folders on its way watched before.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::FileError;
use super::folders::{self, FolderId};
use super::functions::{Parse, Read};
use super::hub::{Bell, Interest};

/// More than any token, certificate bundle or policy has.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// One file, read on demand.
pub(super) struct Follower<T> {
    path: PathBuf,
    read: Read,
    parse: Parse<T>,
    bell: Arc<Bell>,
    watched: BTreeMap<PathBuf, FolderId>,
    interests: Vec<Interest>,
}

impl<T: Send + 'static> Follower<T> {
    pub(super) fn new(path: PathBuf, read: Read, parse: Parse<T>) -> Self {
        Self {
            path,
            read,
            parse,
            bell: Arc::default(),
            watched: BTreeMap::new(),
            interests: Vec::new(),
        }
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Whether changes are reported.
    pub(super) fn is_watching(&self) -> bool {
        !self.interests.is_empty()
    }

    /// Waits for a report, but no longer than that.
    pub(super) async fn changed_within(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.bell.rung()).await;
    }

    /// Watches, then reads, on a thread that may block.
    pub(super) async fn read(self) -> (Self, Result<T, FileError>) {
        let (path, read, parse, bell) = (
            self.path.clone(),
            self.read.clone(),
            self.parse.clone(),
            self.bell.clone(),
        );
        let work = move || {
            let mut follower = self;
            follower.watch();
            let read = follower.read_and_parse();
            (follower, read)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            // The reader or the parser panicked, or the runtime ends: begin anew.
            Err(error) => {
                let source = Arc::new(io::Error::other(error));
                let read_error = FileError::Read {
                    path: path.clone(),
                    source,
                };
                let follower = Self {
                    bell,
                    ..Self::new(path, read, parse)
                };
                (follower, Err(read_error))
            }
        }
    }

    fn watch(&mut self) {
        let folders = folders::on_the_way(&self.path);
        if self.bell.take_lost() {
            self.interests.clear();
        }
        if self.is_watching() && folders == self.watched {
            return;
        }
        let watch = |folder: &PathBuf| Interest::watch(folder, &self.bell);
        match folders.keys().map(watch).collect() {
            Ok(interests) => {
                self.interests = interests;
                self.watched = folders;
            }
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "changes are not reported; the file is read on a timer");
                self.interests.clear();
            }
        }
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

/// Reads a whole file into memory of its size, so that no secret stays behind in memory given back.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is longer than 16 MB",
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
