//! The settings of a watched file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::file_reader::{FileReader, Notifications, ParseFn, ReadFn, read_file};
use super::schedule::ReadSchedule;
use super::task::{
    CheckReplacementFn, ClockFn, FirstRead, OnChangeFn, RereadAtFn, Shared, StatusCell,
};
use super::timed_reader::{ReadSink, TimedReader};
use super::watcher::ChangeSignal;
use super::{FileError, ParseError, WatchedFile};
use crate::background::Background;
use crate::sync::time::timeout;
use crate::sync::{ArcSwap, Handle, Mutex};
use crate::telemetry;

pub(crate) const DEFAULT_STARTUP_LIMIT: Duration = Duration::from_secs(5);
pub(crate) const DEFAULT_READ_LIMIT: Duration = Duration::from_secs(5);

/// The time limit of a read shortly before the end of the startup limit: enough for a read that does not block.
const MIN_READ_LIMIT: Duration = Duration::from_millis(50);

/// The settings of a [`WatchedFile`]. Created by [`WatchedFile::builder`].
///
/// If a setting is set twice, the last value is used.
#[must_use = "a builder does nothing until `open` is called"]
pub struct WatchedFileBuilder<T> {
    path: PathBuf,
    parse: ParseFn<T>,
    read: ReadFn,
    reread_at: RereadAtFn<T>,
    check_replacement: CheckReplacementFn<T>,
    on_change: Option<OnChangeFn<T>>,
    clock: ClockFn,
    startup_limit: Duration,
    read_limit: Duration,
    schedule: ReadSchedule,
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
            reread_at: Arc::new(|_, _| None),
            check_replacement: Arc::new(|_, _| Ok(())),
            on_change: None,
            clock: Arc::new(SystemTime::now),
            startup_limit: DEFAULT_STARTUP_LIMIT,
            read_limit: DEFAULT_READ_LIMIT,
            schedule: ReadSchedule::default(),
        }
    }

    /// Sets how long [`open`](Self::open) waits for valid content. Default: 5 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::{FileError, WatchedFile};
    ///
    /// let opened = WatchedFile::builder("/nonexistent/policy", |bytes| Ok(bytes.to_vec()))
    ///     .startup_limit(Duration::from_millis(10))
    ///     .open()
    ///     .await;
    /// assert!(matches!(opened, Err(FileError::StartupTimeout { .. })));
    /// # }
    /// ```
    pub fn startup_limit(mut self, limit: Duration) -> Self {
        self.startup_limit = limit;
        self
    }

    /// Sets how often the file is read although no change was reported. Default: 60 s.
    ///
    /// # Examples
    ///
    /// Lower it for file systems that accept watches but report no changes, such as some network file systems:
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::FileError> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let policy = WatchedFile::builder("/mnt/nfs/policy", |bytes| Ok(bytes.to_vec()))
    ///     .poll_interval(Duration::from_secs(10))
    ///     .open()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.schedule.poll_interval = interval;
        self
    }

    /// Sets how often the file is read while the operating system cannot report changes, for example because the limit of
    /// watches is reached. Default: 5 s.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::FileError> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let policy = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .fallback_poll_interval(Duration::from_secs(1))
    ///     .open()
    ///     .await?;
    /// if !policy.health().change_notifications {
    ///     println!("a change takes effect after up to 1 s");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn fallback_poll_interval(mut self, interval: Duration) -> Self {
        self.schedule.fallback_poll_interval = interval;
        self
    }

    /// Sets how long one read may take. Default: 5 s.
    ///
    /// A read that takes longer, for example because a network file system does not respond, is an error of the kind
    /// [`TimedOut`](std::io::ErrorKind::TimedOut). No other read is started until it returns. Neither
    /// [`shutdown`](WatchedFile::shutdown) nor the end of the runtime waits for it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::FileError> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let policy = WatchedFile::builder("/mnt/nfs/policy", |bytes| Ok(bytes.to_vec()))
    ///     .read_limit(Duration::from_secs(30))
    ///     .startup_limit(Duration::from_secs(60))
    ///     .open()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_limit(mut self, limit: Duration) -> Self {
        self.read_limit = limit;
        self
    }

    /// Sets a function that returns when the file has to be read again because of its value, such as before the value
    /// expires, or `None` if it does not have to be. Its arguments are the value and the current time.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::FileError> {
    /// use reqwest_wi_auth::{Token, WatchedFile};
    ///
    /// let token = WatchedFile::builder("/run/token", |bytes| Ok(Token::new(bytes)?))
    ///     .reread_at(|token, now| token.expires_at().filter(|expiry| *expiry > now))
    ///     .open()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reread_at(
        mut self,
        time: impl Fn(&T, SystemTime) -> Option<SystemTime> + Send + Sync + 'static,
    ) -> Self {
        self.reread_at = Arc::new(time);
        self
    }

    /// Sets a function that logs a change of the value, in place of the event that the file has changed. Its arguments are the
    /// previous and the new value.
    ///
    /// It is called by the task that watches the file, after the new value has become current, and must not block.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::FileError> {
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let limit = WatchedFile::builder("/etc/limit", |bytes| Ok(std::str::from_utf8(bytes)?.trim().parse::<u32>()?))
    ///     .on_change(|old, new| println!("limit changed from {old} to {new}"))
    ///     .open()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_change(mut self, log: impl Fn(&T, &T) + Send + Sync + 'static) -> Self {
        self.on_change = Some(Arc::new(log));
        self
    }

    /// Sets a function that returns an error if a new value (its second argument) may not replace the current one.
    pub(crate) fn check_replacement(
        mut self,
        check: impl Fn(&T, &T) -> Result<(), ParseError> + Send + Sync + 'static,
    ) -> Self {
        self.check_replacement = Arc::new(check);
        self
    }

    /// Sets the function that reads the file, for tests of read errors. It runs on a thread that may block. Default: a
    /// function that reads regular files of up to 16 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let error = WatchedFile::builder("/etc/policy", |bytes| Ok(bytes.to_vec()))
    ///     .reader(|_| Err(io::ErrorKind::PermissionDenied.into()))
    ///     .startup_limit(Duration::ZERO)
    ///     .open()
    ///     .await
    ///     .unwrap_err();
    /// assert!(error.to_string().contains("permission denied"));
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn reader(
        self,
        read: impl Fn(&Path) -> std::io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.with_reader(Arc::new(read))
    }

    /// Sets the function that returns the current time, for tests. Default: [`SystemTime::now`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("policy");
    /// # std::fs::write(&path, "10")?;
    /// use std::time::SystemTime;
    ///
    /// use reqwest_wi_auth::WatchedFile;
    ///
    /// let policy = WatchedFile::builder(path, |bytes| Ok(bytes.to_vec()))
    ///     .clock(|| SystemTime::UNIX_EPOCH)
    ///     .open()
    ///     .await?;
    /// assert_eq!(policy.health().last_change, SystemTime::UNIX_EPOCH);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.with_clock(Arc::new(clock))
    }

    pub(crate) fn with_reader(mut self, read: ReadFn) -> Self {
        self.read = read;
        self
    }

    pub(crate) fn with_clock(mut self, clock: ClockFn) -> Self {
        self.clock = clock;
        self
    }

    /// Waits for the first valid content, and spawns a task on the current tokio runtime that keeps the value up to date.
    /// See [Runtimes](WatchedFile#runtimes) for what happens when that runtime ends.
    ///
    /// A file that is missing or not valid is read again when the operating system reports a change, and after delays of
    /// 5 ms to 5 s. Dropping the future leaves no task or watch behind.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::StartupTimeout`] if there is no valid content within the
    /// [`startup_limit`](Self::startup_limit), [`FileError::NoRuntime`] outside a tokio runtime, and [`FileError::Read`]
    /// if the path is empty.
    ///
    /// # Panics
    ///
    /// Panics if the timer of the runtime is not enabled.
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
        if Handle::try_current().is_err() {
            return Err(FileError::NoRuntime { path });
        }
        telemetry::describe();
        let deadline = Instant::now() + self.startup_limit;
        let signal = Arc::<ChangeSignal>::default();
        let file = FileReader::new(path.clone(), self.read, self.parse, signal.clone());
        let last_read = Arc::new(LastRead(Mutex::new(None)));
        let sink: Arc<dyn ReadSink<T>> = last_read.clone();
        let reader = TimedReader::new(path.clone(), signal.clone(), file, Arc::downgrade(&sink));
        let mut failures = 0;
        let (value, notifications) = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            reader
                .read(left.max(MIN_READ_LIMIT).min(self.read_limit))
                .await;
            let error = match last_read.take() {
                Some((Ok(value), notifications)) => break (value, notifications),
                Some((Err(error), _)) => Some(error),
                None => None,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let limit = self.startup_limit;
                let closed = || FileError::Closed { path: path.clone() };
                return Err(FileError::StartupTimeout {
                    limit,
                    source: Box::new(error.unwrap_or_else(closed)),
                    path,
                });
            }
            failures += 1;
            let pause = self.schedule.retry.delay(failures).min(left);
            let _ = timeout(pause, signal.changed()).await;
        };
        if is_mount_point(&path) {
            tracing::warn!(path = %path.display(), "the file is a mount point (subPath) and will never be updated; mount the whole volume instead");
        }
        let shared = Arc::new(Shared {
            status: StatusCell::new(notifications, (self.clock)()),
            value: ArcSwap::from_pointee(value),
            background: Background::new(format!("watching {}", path.display())),
            path,
            reader: reader.clone(),
            signal,
            schedule: self.schedule,
            read_limit: self.read_limit,
            reread_at: self.reread_at,
            check_replacement: self.check_replacement,
            on_change: self.on_change,
            clock: self.clock,
        });
        let sink: Arc<dyn ReadSink<T>> = shared.clone();
        reader.set_sink(Arc::downgrade(&sink));
        shared.report();
        shared.ensure_running(FirstRead::AfterChange);
        Ok(WatchedFile::new(shared))
    }
}

/// Holds the result of the last read while the file is being opened.
struct LastRead<T>(Mutex<Option<(Result<T, FileError>, Notifications)>>);

impl<T> LastRead<T> {
    fn take(&self) -> Option<(Result<T, FileError>, Notifications)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T: Send> ReadSink<T> for LastRead<T> {
    fn publish(&self, result: Result<T, FileError>, notifications: Notifications) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((result, notifications));
    }
}

/// Returns whether a file is a mount point, as with a `subPath` mount. Kubernetes never updates such a file.
///
/// Returns false on systems without `/proc`.
fn is_mount_point(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mountinfo| lists_mount_point(&mountinfo, path))
}

/// Returns whether a table in the format of proc_pid_mountinfo(5) lists a path as a mount point: its fifth field, in which
/// white space and backslashes are octal escapes.
fn lists_mount_point(mountinfo: &str, path: &Path) -> bool {
    let Some(path) = path.to_str() else {
        return false;
    };
    let escaped = path
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    mountinfo
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&escaped))
}

impl<T> fmt::Debug for WatchedFileBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFileBuilder")
            .field("path", &self.path)
            .field("startup_limit", &self.startup_limit)
            .field("read_limit", &self.read_limit)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
1021 1009 0:91 / /var/run/secrets/tokens ro,relatime - tmpfs tmpfs rw
1022 1009 0:92 /..2026_11_23/token /etc/token ro,relatime - tmpfs tmpfs rw
1023 1009 0:92 /a /etc/with\\040blank ro,relatime - tmpfs tmpfs rw
";

    #[test]
    fn a_mount_point_is_distinguished_from_a_file_in_a_volume() {
        let lists = |path: &str| lists_mount_point(MOUNTINFO, Path::new(path));
        assert!(lists("/etc/token"));
        assert!(lists("/etc/with blank"));
        assert!(!lists("/var/run/secrets/tokens/token"));
        assert!(!lists("/etc"));
    }
}
