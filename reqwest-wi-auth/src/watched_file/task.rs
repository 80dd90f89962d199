//! The task that keeps the value of a watched file up to date, and the state that it shares with the handles.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::file_reader::Notifications;
use super::schedule::ReadSchedule;
use super::timed_reader::{ReadSink, TimedReader};
use super::watcher::ChangeSignal;
use super::{FileError, ParseError};
use crate::background::{Background, TaskGuard};
use crate::sync::time::{sleep, timeout};
use crate::sync::{ArcSwap, Mutex, MutexGuard};
use crate::telemetry;
use crate::text::log_line;

/// The number of reads that may follow each other without a pause within [`BURST_INTERVAL`]. In a directory that changes
/// more often, further reads are [`PAUSE_AFTER_BURST`] apart.
const BURST: u32 = 16;
const BURST_INTERVAL: Duration = Duration::from_millis(100);
const PAUSE_AFTER_BURST: Duration = Duration::from_millis(2);

/// Returns when a value requires the file to be read, given the current time.
pub(super) type RereadAtFn<T> = Arc<dyn Fn(&T, SystemTime) -> Option<SystemTime> + Send + Sync>;

/// Returns the current time.
pub(crate) type ClockFn = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Returns an error if the second value may not replace the first one.
pub(super) type CheckReplacementFn<T> = Arc<dyn Fn(&T, &T) -> Result<(), ParseError> + Send + Sync>;

/// Records that the first value was replaced by the second one.
pub(super) type OnChangeFn<T> = Arc<dyn Fn(&T, &T) + Send + Sync>;

/// The number of different errors of which each is logged as a warning only once. If a file fails in more ways without a
/// successful read in between, the least recent error is logged again when it recurs.
const REMEMBERED_ERRORS: usize = 16;

/// The time after which an error that lasts is logged again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);

/// The state that the handles of a watched file share with its task.
pub(super) struct Shared<T> {
    pub(super) path: PathBuf,
    pub(super) value: ArcSwap<T>,
    pub(super) status: StatusCell<T>,
    pub(super) reader: Arc<TimedReader<T>>,
    pub(super) signal: Arc<ChangeSignal>,
    pub(super) background: Arc<Background>,
    pub(super) schedule: ReadSchedule,
    pub(super) read_limit: Duration,
    pub(super) reread_at: RereadAtFn<T>,
    pub(super) check_replacement: CheckReplacementFn<T>,
    pub(super) on_change: Option<OnChangeFn<T>>,
    pub(super) clock: ClockFn,
}

/// Whether the task reads the file as soon as it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstRead {
    Now,
    /// The file has just been read, so the task waits for a change first.
    AfterChange,
}

/// The results of the reads so far.
pub(super) struct StatusCell<T>(Mutex<Status<T>>);

pub(super) struct Status<T> {
    pub(super) notifications: Notifications,
    pub(super) last_change: SystemTime,
    pub(super) last_error: Option<FileError>,
    /// The number of failed reads since the last successful one.
    failures: u32,
    /// Hashes of the texts of the errors that need no event until the next reminder, the most recent one last.
    errors: VecDeque<u64>,
    /// The first failed read since the last successful one, and the last one that was logged.
    failing: Option<Failing>,
    /// Events that have not been logged and counted yet.
    unreported: Vec<ReadEvent<T>>,
}

#[derive(Clone, Copy)]
struct Failing {
    since: SystemTime,
    logged: SystemTime,
}

/// An event to be logged and counted.
enum ReadEvent<T> {
    Changed(Replacement<T>),
    /// A successful read of the same value, after a failed one.
    Recovered,
    /// A failed read whose error differs from the others since the last successful read, or was logged a while ago.
    Failed {
        error: FileError,
        /// The time since the first of the failed reads.
        lasting: Duration,
    },
    /// A failed read whose error has been logged already.
    StillFailed(FileError),
}

/// A change of the value. The values are kept only if there is a function for them.
enum Replacement<T> {
    Unnamed,
    Values { old: Arc<T>, new: Arc<T> },
}

impl<T> Status<T> {
    /// Records a failed read, and returns its event.
    fn failed(&mut self, error: &FileError, now: SystemTime) -> ReadEvent<T> {
        let mut failing = self.failing.unwrap_or(Failing {
            since: now,
            logged: now,
        });
        let since = |time| now.duration_since(time).unwrap_or_default();
        if since(failing.logged) >= REMINDER_INTERVAL {
            self.errors.clear();
        }
        let event = if self.is_new_error(error) {
            failing.logged = now;
            ReadEvent::Failed {
                error: error.clone(),
                lasting: since(failing.since),
            }
        } else {
            ReadEvent::StillFailed(error.clone())
        };
        self.failing = Some(failing);
        event
    }

    /// Remembers an error, and returns whether it differs from the others since the last successful read or reminder.
    fn is_new_error(&mut self, error: &FileError) -> bool {
        let mut hasher = DefaultHasher::new();
        log_line(error).hash(&mut hasher);
        let hash = hasher.finish();
        let known = self.errors.iter().position(|known| *known == hash);
        let known = known.and_then(|index| self.errors.remove(index));
        if self.errors.len() == REMEMBERED_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(hash);
        known.is_none()
    }
}

impl<T> StatusCell<T> {
    pub(super) fn new(notifications: Notifications, last_change: SystemTime) -> Self {
        Self(Mutex::new(Status {
            notifications,
            last_change,
            last_error: None,
            failures: 0,
            errors: VecDeque::new(),
            failing: None,
            unreported: Vec::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Status<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: PartialEq + Send + Sync + 'static> Shared<T> {
    /// Starts the task on the current runtime, if no task is running and there is a current runtime.
    pub(super) fn ensure_running(self: &Arc<Self>, first_read: FirstRead) {
        let task = |guard| run(self.clone(), guard, first_read);
        self.background.ensure_running(task);
    }

    /// Reads the file. The result is in [`status`](Self::status) and [`value`](Self::value).
    pub(super) async fn read(&self) {
        self.reader.read(self.read_limit).await;
        self.report();
    }

    /// Reads the file, and blocks the current thread meanwhile.
    pub(super) fn read_blocking(&self) {
        self.reader.read_blocking(self.read_limit);
        self.report();
    }

    /// Returns the value if it may replace the current one.
    fn check(&self, value: T) -> Result<T, FileError> {
        let current = self.value.load();
        if value == **current {
            return Ok(value);
        }
        match (self.check_replacement)(&current, &value) {
            Ok(()) => Ok(value),
            Err(error) => Err(FileError::InvalidContent {
                path: self.path.clone(),
                source: error.into(),
            }),
        }
    }
}

impl<T> Shared<T> {
    /// Returns the time until the next read.
    fn until_next_read(&self) -> Duration {
        let now = (self.clock)();
        let requested = (self.reread_at)(&self.value.load(), now);
        let status = self.status.lock();
        self.schedule
            .until_next_read(status.notifications, status.failures, requested, now)
    }

    /// Logs and counts the results of reads.
    ///
    /// Called by tasks, not by the threads that read, so that a subscriber that is set for a thread or task receives the
    /// events.
    pub(super) fn report(&self) {
        let (events, is_successful, last_change) = {
            let mut status = self.status.lock();
            let events = std::mem::take(&mut status.unreported);
            (events, status.last_error.is_none(), status.last_change)
        };
        telemetry::file_read(&self.path, is_successful, last_change);
        for event in events {
            match event {
                ReadEvent::Changed(replacement) => {
                    match (&self.on_change, replacement) {
                        (Some(on_change), Replacement::Values { old, new }) => {
                            on_change(&old, &new)
                        }
                        _ => telemetry::log_file_change(&self.path),
                    }
                    telemetry::count_file_change();
                }
                ReadEvent::Recovered => telemetry::file_recovered(&self.path),
                ReadEvent::Failed { error, lasting } => {
                    telemetry::file_failed(&self.path, &error, lasting);
                }
                ReadEvent::StillFailed(error) => telemetry::file_still_failed(&self.path, &error),
            }
        }
    }
}

impl<T: PartialEq + Send + Sync + 'static> ReadSink<T> for Shared<T> {
    fn publish(&self, result: Result<T, FileError>, notifications: Notifications) {
        let now = (self.clock)();
        let result = result.and_then(|value| self.check(value));
        let mut status = self.status.lock();
        status.notifications = notifications;
        match result {
            Ok(value) => {
                status.failures = 0;
                status.errors.clear();
                status.failing = None;
                let was_failing = status.last_error.take().is_some();
                if value == **self.value.load() {
                    if was_failing {
                        status.unreported.push(ReadEvent::Recovered);
                    }
                    return;
                }
                let new = Arc::new(value);
                let old = self.value.swap(new.clone());
                status.last_change = now;
                let replacement = if self.on_change.is_some() {
                    Replacement::Values { old, new }
                } else {
                    Replacement::Unnamed
                };
                status.unreported.push(ReadEvent::Changed(replacement));
                drop(status);
                self.background.notify_changed();
            }
            Err(error) => {
                let event = status.failed(&error, now);
                status.unreported.push(event);
                status.failures = status.failures.saturating_add(1);
                status.last_error = Some(error);
            }
        }
    }
}

/// Reads the file whenever a change is reported or a read is due, until the task is ended.
async fn run<T>(shared: Arc<Shared<T>>, guard: TaskGuard, first_read: FirstRead)
where
    T: PartialEq + Send + Sync + 'static,
{
    let limit = shared.read_limit;
    let mut is_due = first_read == FirstRead::Now;
    let (mut burst, mut burst_began) = (0, Instant::now());
    loop {
        if !is_due {
            let pause = shared.until_next_read();
            if !guard.continues(pause) {
                return;
            }
            // Both a change and the end of the pause are reasons to read.
            let _ = timeout(pause, shared.signal.changed()).await;
        }
        is_due = false;
        if !guard.continues(limit) {
            return;
        }
        shared.read().await;
        if burst_began.elapsed() >= BURST_INTERVAL {
            (burst, burst_began) = (0, Instant::now());
        }
        burst += 1;
        if burst > BURST {
            sleep(PAUSE_AFTER_BURST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_lasts_is_logged_once_and_then_every_five_minutes() {
        let start = SystemTime::UNIX_EPOCH;
        let status = StatusCell::<()>::new(Notifications::Active, start);
        let error = FileError::Closed {
            path: PathBuf::from("policy.yaml"),
        };
        let logged = (0..1000).step_by(10).filter_map(|second| {
            let event = status
                .lock()
                .failed(&error, start + Duration::from_secs(second));
            match event {
                ReadEvent::Failed { lasting, .. } => Some((second, lasting.as_secs())),
                _ => None,
            }
        });
        let expected = [0, 300, 600, 900].map(|second| (second, second));
        assert_eq!(logged.collect::<Vec<_>>(), expected);
    }
}
