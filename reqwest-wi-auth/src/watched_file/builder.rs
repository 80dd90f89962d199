//! The settings of a file that is followed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::{Instant, timeout};

use super::follower::{Follower, read_file};
use super::functions::{Now, Parse, Read, Renewal, Replace};
use super::health::HealthCell;
use super::hub::ChangeSignal;
use super::reader::{Reader, Sink};
use super::timing::Timing;
use super::worker::ensure_followed;
use super::{FileError, ParseError, Shared, WatchedFile, mount};
use crate::background::Background;

const DEFAULT_STARTUP_LIMIT: Duration = Duration::from_secs(5);

/// However little time is left, a read that does not block has enough.
const MIN_READ_LIMIT: Duration = Duration::from_millis(50);

/// Settings of a [`WatchedFile`].
#[must_use]
pub struct WatchedFileBuilder<T> {
    path: PathBuf,
    parse: Parse<T>,
    read: Read,
    renewal: Renewal<T>,
    replace: Replace<T>,
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
            replace: Arc::new(|_, _| Ok(())),
            now: Arc::new(SystemTime::now),
            startup_limit: DEFAULT_STARTUP_LIMIT,
            timing: Timing::default(),
        }
    }

    /// Sets how long [`open`](Self::open) waits for valid content. Default: 5 s. Content that appears within it is found
    /// at once, if the system reports changes.
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

    /// Sets how long a read may take. Default: 5 s. A read that takes longer, such as on a network file system that hangs,
    /// is an error. No other read is started until it returns; neither [`shutdown`](WatchedFile::shutdown) nor the end of
    /// the runtime waits for it.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::WatchedFile};
    /// let settings = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .read_limit(Duration::from_secs(30));
    /// ```
    pub fn read_limit(mut self, limit: Duration) -> Self {
        self.timing.read_limit = limit;
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

    /// Decides whether a new value may replace the current one. The error says why it may not.
    pub(crate) fn replacing(
        mut self,
        replace: impl Fn(&T, &T) -> Result<(), ParseError> + Send + Sync + 'static,
    ) -> Self {
        self.replace = Arc::new(replace);
        self
    }

    /// Reads the file by this function, on a thread that may block. Default: regular files of up to 16 MB are read; a
    /// directory, FIFO, device or socket is an error. For tests of what happens when reading fails.
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

    /// Waits for the first valid content, and starts to follow the file: spawns a task on the current tokio runtime. If
    /// that runtime ends, the next use of the file in another one follows it from there.
    ///
    /// Dropping the future before it is done leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::NotInTime`] if there is no valid content within the
    /// [`startup_limit`](Self::startup_limit), and [`FileError::NoRuntime`] outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the runtime's timer is not enabled.
    pub async fn open(self) -> Result<WatchedFile<T>, FileError> {
        let path = match std::path::absolute(&self.path) {
            Ok(path) => path,
            Err(error) => {
                return Err(FileError::Read {
                    path: self.path,
                    source: Arc::new(error),
                });
            }
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(FileError::NoRuntime { path });
        }
        let deadline = Instant::now() + self.startup_limit;
        let signal = Arc::<ChangeSignal>::default();
        let follower = Follower::new(path.clone(), self.read, self.parse, signal.clone());
        let latest = Arc::new(Latest(Mutex::new(None)));
        let sink: Arc<dyn Sink<T>> = latest.clone();
        let reader = Reader::new(
            path.clone(),
            signal.clone(),
            follower,
            Arc::downgrade(&sink),
        );
        let mut failures = 0;
        let (first, is_watching) = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            reader
                .read(left.max(MIN_READ_LIMIT).min(self.timing.read_limit))
                .await;
            let error = match latest.take() {
                Some((Ok(first), is_watching)) => break (first, is_watching),
                Some((Err(error), _)) => Some(error),
                None => None,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let limit = self.startup_limit;
                let unread = || FileError::Closed { path: path.clone() };
                return Err(FileError::NotInTime {
                    limit,
                    source: Box::new(error.unwrap_or_else(unread)),
                    path,
                });
            }
            let pause = self.timing.after_failure(failures).min(left);
            failures += 1;
            let _ = timeout(pause, signal.changed()).await;
        };
        if mount::is_mount_point(&path) {
            tracing::warn!(path = %path.display(), "the file is mounted by itself (subPath): it will never be replaced; mount the whole volume");
        }
        let shared = Arc::new(Shared {
            health: HealthCell::new(is_watching, (self.now)()),
            value: ArcSwap::from_pointee(first),
            background: Background::new(format!("following {}", path.display())),
            path,
            reader: reader.clone(),
            signal,
            timing: self.timing,
            renewal: self.renewal,
            replace: self.replace,
            now: self.now,
        });
        let sink: Arc<dyn Sink<T>> = shared.clone();
        reader.set_sink(Arc::downgrade(&sink));
        ensure_followed(&shared, true);
        Ok(WatchedFile::new(shared))
    }
}

/// Keeps the result of the last read while the file is being opened.
struct Latest<T>(Mutex<Option<(Result<T, FileError>, bool)>>);

impl<T> Latest<T> {
    fn take(&self) -> Option<(Result<T, FileError>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T: Send> Sink<T> for Latest<T> {
    fn publish(&self, read: Result<T, FileError>, is_watching: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((read, is_watching));
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
