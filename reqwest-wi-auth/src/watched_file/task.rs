//! The task that keeps the value of a watched file up to date, and the state that it shares with the handles.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep, timeout};

use super::file_reader::Notifications;
use super::schedule::ReadSchedule;
use super::timed_reader::{ReadSink, TimedReader};
use super::watcher::ChangeSignal;
use super::{FileError, ParseError};
use crate::background::{Background, TaskGuard};
use crate::telemetry;

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

/// The state that the handles of a watched file share with its task.
pub(super) struct Shared<T> {
    pub(super) path: PathBuf,
    pub(super) value: ArcSwap<T>,
    pub(super) status: StatusCell,
    pub(super) reader: Arc<TimedReader<T>>,
    pub(super) signal: Arc<ChangeSignal>,
    pub(super) background: Arc<Background>,
    pub(super) schedule: ReadSchedule,
    pub(super) read_limit: Duration,
    pub(super) reread_at: RereadAtFn<T>,
    pub(super) check_replacement: CheckReplacementFn<T>,
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
pub(super) struct StatusCell(Mutex<Status>);

pub(super) struct Status {
    pub(super) notifications: Notifications,
    pub(super) last_change: SystemTime,
    pub(super) last_error: Option<FileError>,
    /// The number of failed reads since the last successful one.
    failures: u32,
    /// Events that have not been logged and counted yet.
    unreported: Vec<ReadEvent>,
}

/// An event to be logged and counted.
enum ReadEvent {
    Changed,
    /// The first failed read after a successful one.
    Failed(FileError),
    /// A further failed read.
    StillFailed(FileError),
}

impl StatusCell {
    pub(super) fn new(notifications: Notifications, last_change: SystemTime) -> Self {
        Self(Mutex::new(Status {
            notifications,
            last_change,
            last_error: None,
            failures: 0,
            unreported: Vec::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Status> {
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
                ReadEvent::Changed => telemetry::file_changed(&self.path),
                ReadEvent::Failed(error) => telemetry::file_failed(&self.path, &error),
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
                status.last_error = None;
                if value == **self.value.load() {
                    return;
                }
                self.value.store(Arc::new(value));
                status.last_change = now;
                status.unreported.push(ReadEvent::Changed);
                drop(status);
                self.background.notify_changed();
            }
            Err(error) => {
                let event = if status.failures == 0 {
                    ReadEvent::Failed(error.clone())
                } else {
                    ReadEvent::StillFailed(error.clone())
                };
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
