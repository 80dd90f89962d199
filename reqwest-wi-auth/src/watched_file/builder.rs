//! The settings of a file that is followed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::follower::{Follower, read_file};
use super::functions::{Now, Parse, Read, Renewal};
use super::health::HealthCell;
use super::timing::Timing;
use super::worker::Worker;
use super::{FileError, ParseError, Shared, WatchedFile, mount};

const DEFAULT_STARTUP_LIMIT: Duration = Duration::from_secs(5);

/// Settings of a [`WatchedFile`].
#[must_use]
pub struct WatchedFileBuilder<T> {
    path: PathBuf,
    parse: Parse<T>,
    read: Read,
    renewal: Renewal<T>,
    now: Now,
    startup_limit: Duration,
    timing: Timing,
}

impl<T: PartialEq + Send + Sync + 'static> WatchedFileBuilder<T> {
    pub(super) fn new(
        path: PathBuf,
        parse: impl Fn(&[u8]) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            parse: Arc::new(parse),
            read: Arc::new(read_file),
            renewal: Arc::new(|_, _| None),
            now: Arc::new(SystemTime::now),
            startup_limit: DEFAULT_STARTUP_LIMIT,
            timing: Timing::default(),
        }
    }

    /// How long [`open`](Self::open) waits for sound content. Default: 5 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::WatchedFile};
    /// let settings = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .startup_limit(Duration::from_secs(30));
    /// ```
    pub fn startup_limit(mut self, limit: Duration) -> Self {
        self.startup_limit = limit;
        self
    }

    /// How often the file is read though nothing was reported. Default: every 60 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::WatchedFile};
    /// let settings = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .poll_interval(Duration::from_secs(10));
    /// ```
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.timing.poll = interval;
        self
    }

    /// The same where the system cannot report changes, such as after too many watches. Default: every
    /// 5 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::WatchedFile};
    /// let settings = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .unwatched_poll_interval(Duration::from_secs(1));
    /// ```
    pub fn unwatched_poll_interval(mut self, interval: Duration) -> Self {
        self.timing.poll_unwatched = interval;
        self
    }

    /// Has the file read at moments that its value knows of, such as before it expires: given the value
    /// and the time, the next of them, if there is one.
    ///
    /// ```
    /// # use reqwest_wi_auth::{Token, WatchedFile};
    /// let settings = WatchedFile::builder("/run/token", |bytes| Ok(Token::new(bytes)?))
    ///     .renewal(|token, now| token.expires_at().filter(|expiry| *expiry > now));
    /// ```
    pub fn renewal(
        mut self,
        next: impl Fn(&T, SystemTime) -> Option<SystemTime> + Send + Sync + 'static,
    ) -> Self {
        self.renewal = Arc::new(next);
        self
    }

    /// Reads the file by this function instead of [`std::fs::read`]: for tests of what happens when it
    /// fails. It may block.
    ///
    /// ```
    /// # use {std::io, reqwest_wi_auth::WatchedFile};
    /// let settings = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .reader(|_| Err(io::ErrorKind::PermissionDenied.into()));
    /// ```
    pub fn reader(
        mut self,
        read: impl Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.read = Arc::new(read);
        self
    }

    /// Takes the time of day from here instead of from the system: for tests.
    ///
    /// ```
    /// # use {std::time::SystemTime, reqwest_wi_auth::WatchedFile};
    /// let settings = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .clock(|| SystemTime::UNIX_EPOCH);
    /// ```
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// Waits for the first sound content, and starts to follow the file: spawns one task on the current
    /// tokio runtime. Dropping the future before it is done leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`FileError::NotInTime`] if there is no sound content within the
    /// [`startup_limit`](Self::startup_limit).
    pub async fn open(self) -> Result<WatchedFile<T>, FileError> {
        let read_error = |path: PathBuf, error| FileError::Read {
            path,
            source: Arc::new(error),
        };
        let path = std::path::absolute(&self.path).map_err(|error| read_error(self.path, error))?;
        let deadline = Instant::now() + self.startup_limit;
        let mut follower = Follower::new(path.clone(), self.read, self.parse);
        let mut failures = 0;
        let first = loop {
            let (after, read) = follower.read().await;
            follower = after;
            let error = match read {
                Ok(value) => break value,
                Err(error) => error,
            };
            let pause = self.timing.after_failure(failures);
            failures += 1;
            if Instant::now() + pause >= deadline {
                let (limit, source) = (self.startup_limit, Box::new(error));
                return Err(FileError::NotInTime {
                    path,
                    limit,
                    source,
                });
            }
            follower.changed_within(pause).await;
        };
        if mount::is_mount_point(&path) {
            tracing::warn!(path = %path.display(), "the file is mounted by itself (subPath): it will never be replaced; mount the whole volume");
        }
        let shared = Arc::new(Shared {
            health: HealthCell::new(follower.is_watching(), (self.now)()),
            value: ArcSwap::from_pointee(first),
            path,
        });
        let worker = Worker::spawn(
            shared.clone(),
            follower,
            self.timing,
            self.renewal,
            self.now,
        );
        Ok(WatchedFile {
            shared,
            worker: Arc::new(worker),
        })
    }
}

impl<T> fmt::Debug for WatchedFileBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFileBuilder")
            .field("path", &self.path)
            .field("startup_limit", &self.startup_limit)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
