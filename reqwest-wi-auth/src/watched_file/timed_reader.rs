//! Runs the reads of a file with a time limit.
//!
//! Each read runs on a separate thread, one at a time for each file, because a read can block forever, for example on a
//! network file system. When the time limit has passed, the thread is abandoned: no runtime waits for it, and no other read
//! of its file is started until it returns.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::FileError;
use super::file_reader::{FileReader, Notifications};
use super::watcher::ChangeSignal;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Handle, Mutex, MutexGuard, spawn_blocking, thread, watch};

/// Receives the result of each read.
pub(super) trait ReadSink<T>: Send + Sync {
    fn publish(&self, result: Result<T, FileError>, notifications: Notifications);
}

/// Runs the reads of one file with a time limit, and publishes their results.
pub(super) struct TimedReader<T> {
    path: PathBuf,
    signal: Arc<ChangeSignal>,
    /// Locked by the thread that reads.
    file: Mutex<FileReader<T>>,
    state: Mutex<State<T>>,
    /// The number of the last read that has ended or was abandoned.
    ended: watch::Sender<u64>,
}

struct State<T> {
    sink: Weak<dyn ReadSink<T>>,
    /// The number of reads that were started.
    started: u64,
    running: Option<Arc<Read>>,
    /// Whether a caller enforces the time limit of the running read.
    has_timer: bool,
    notifications: Notifications,
}

/// A read that is running.
#[derive(Default)]
struct Read {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    #[default]
    Reading,
    /// The result is being published.
    Publishing,
    /// The result was published, or the thread of an abandoned read has returned.
    Done,
    /// The time limit has passed. The result of the read will not be used.
    Abandoned,
}

/// The result of requesting a read.
enum Requested {
    /// A read with this number was started.
    Started(u64),
    /// A read with this number was already running.
    AlreadyRunning(u64),
    /// An abandoned read still blocks, so none was started.
    Blocked,
}

/// The result of waiting for a read.
#[derive(PartialEq, Eq)]
enum Waited {
    /// The read has ended or was abandoned, or the wait was cancelled.
    Over,
    TimedOut,
}

impl<T: Send + Sync + 'static> TimedReader<T> {
    pub(super) fn new(
        path: PathBuf,
        signal: Arc<ChangeSignal>,
        file: FileReader<T>,
        sink: Weak<dyn ReadSink<T>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path,
            signal,
            file: Mutex::new(file),
            state: Mutex::new(State {
                sink,
                started: 0,
                running: None,
                has_timer: false,
                notifications: Notifications::Unavailable,
            }),
            ended: watch::Sender::new(0),
        })
    }

    /// Sets the receiver of the results of further reads.
    pub(super) fn set_sink(&self, sink: Weak<dyn ReadSink<T>>) {
        self.state().sink = sink;
    }

    /// Reads the file. Returns when a read that began after this call has ended or was abandoned, and its result has been
    /// published. Concurrent calls share one read.
    pub(super) async fn read(self: &Arc<Self>, limit: Duration) {
        for _ in 0..2 {
            match self.request(limit) {
                Requested::Started(number) => return self.ended(number, limit).await,
                Requested::AlreadyRunning(number) => self.ended(number, limit).await,
                Requested::Blocked => return,
            }
        }
        // Whichever caller started the second read, it began after this call.
    }

    /// Reads the file like [`read`](Self::read), for callers outside a runtime. Blocks the current thread.
    pub(super) fn read_blocking(self: &Arc<Self>, limit: Duration) {
        for _ in 0..2 {
            let (number, is_new) = match self.request(limit) {
                Requested::Started(number) => (number, true),
                Requested::AlreadyRunning(number) => (number, false),
                Requested::Blocked => return,
            };
            let running = self.state().running.clone();
            if let Some(read) = running
                && *self.ended.borrow() < number
            {
                self.wait_or_abandon(&read, limit);
            }
            if is_new {
                return;
            }
        }
    }

    /// Waits until the read with this number has ended or was abandoned.
    async fn ended(self: &Arc<Self>, number: u64, limit: Duration) {
        let mut ended = self.ended.subscribe();
        while *ended.borrow_and_update() < number {
            self.ensure_timer(limit);
            // The sender lives as long as this reader.
            if ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Starts a read, unless one is running.
    fn request(self: &Arc<Self>, limit: Duration) -> Requested {
        let mut state = self.state();
        if let Some(read) = &state.running {
            if *read.progress() != Progress::Abandoned {
                return Requested::AlreadyRunning(state.started);
            }
            state.publish(Err(self.timeout_error(limit)));
            return Requested::Blocked;
        }
        state.started += 1;
        let number = state.started;
        let read = Arc::<Read>::default();
        state.running = Some(read.clone());
        state.has_timer = false;
        drop(state);
        let reader = self.clone();
        let runtime = Handle::try_current().ok();
        let builder = thread::Builder::new().name("read-file".to_owned());
        let run = move || {
            // A read function or clock that tests provide may use the clock of the runtime.
            let _entered = runtime.as_ref().map(Handle::enter);
            reader.run(&read);
        };
        if let Err(error) = builder.spawn(run) {
            let error = self.read_error(error);
            let mut state = self.state();
            state.running = None;
            state.publish(Err(error));
            self.ended.send_replace(number);
        }
        Requested::Started(number)
    }

    /// Reads the file and publishes the result. Runs on the thread of the read.
    fn run(&self, read: &Read) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let result = catch_unwind(AssertUnwindSafe(|| file.watch_and_read()));
        let result = result.unwrap_or_else(|_| {
            let panicked = io::Error::other("reading or parsing the file panicked");
            Err(self.read_error(panicked))
        });
        let notifications = file.notifications();
        drop(file);
        let mut state = self.state();
        state.running = None;
        state.notifications = notifications;
        if read.begin_publishing() {
            state.publish(result);
            self.ended.send_replace(state.started);
        } else {
            // The content that was read may be outdated by now, so the file has to be read again.
            self.signal.notify();
        }
        drop(state);
        // This has to be the last step, since a paused clock advances when no thread waits for the read any more.
        read.finish();
    }

    /// Enforces the time limit of the running read, unless another caller does.
    fn ensure_timer(self: &Arc<Self>, limit: Duration) {
        let mut state = self.state();
        let Some(read) = state.running.clone() else {
            return;
        };
        if std::mem::replace(&mut state.has_timer, true) {
            return;
        }
        drop(state);
        let Ok(runtime) = Handle::try_current() else {
            // The future is polled by an executor other than tokio, so this thread has to wait.
            self.wait_or_abandon(&read, limit);
            return;
        };
        self.spawn_timer(&runtime, &read, limit);
        let mut state = self.state();
        let is_running = state
            .running
            .as_ref()
            .is_some_and(|running| Arc::ptr_eq(running, &read));
        if !is_running || state.has_timer {
            return;
        }
        // A runtime that is shutting down drops the task at once. It must neither wait for the read nor be asked again and again.
        state.has_timer = true;
        drop(state);
        let reader = self.clone();
        let builder = thread::Builder::new().name("read-limit".to_owned());
        let _ = builder.spawn(move || reader.wait_or_abandon(&read, limit));
    }

    /// Spawns a task that enforces the time limit of a read.
    fn spawn_timer(self: &Arc<Self>, runtime: &Handle, read: &Arc<Read>, limit: Duration) {
        let read = read.clone();
        let is_cancelled = Arc::<AtomicBool>::default();
        let guard = TimerGuard {
            reader: self.clone(),
            read: read.clone(),
            is_cancelled: is_cancelled.clone(),
        };
        runtime.spawn(async move {
            let guard = guard;
            // On a blocking thread, since a paused clock must not advance while a file is read.
            let wait = move || read.wait(limit, &is_cancelled);
            let waited = spawn_blocking(wait).await;
            if matches!(waited, Ok(Waited::TimedOut)) {
                guard.reader.abandon(&guard.read, limit);
            }
        });
    }

    /// Blocks until a read has ended, and abandons it after the time limit.
    fn wait_or_abandon(&self, read: &Arc<Read>, limit: Duration) {
        if read.wait(limit, &AtomicBool::new(false)) == Waited::TimedOut {
            self.abandon(read, limit);
        }
    }

    /// Abandons a read that has taken too long.
    fn abandon(&self, read: &Arc<Read>, limit: Duration) {
        let state = self.state();
        let is_running = state
            .running
            .as_ref()
            .is_some_and(|running| Arc::ptr_eq(running, read));
        if is_running && read.abandon() {
            state.publish(Err(self.timeout_error(limit)));
            self.ended.send_replace(state.started);
        }
    }

    fn timeout_error(&self, limit: Duration) -> FileError {
        let message =
            format!("the read took more than {limit:?}; check that its file system responds");
        self.read_error(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    fn read_error(&self, error: io::Error) -> FileError {
        FileError::Read {
            path: self.path.clone(),
            source: Arc::new(error),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn publish(&self, result: Result<T, FileError>) {
        if let Some(sink) = self.sink.upgrade() {
            sink.publish(result, self.notifications);
        }
    }
}

impl Read {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until the read has ended or was abandoned, the limit has passed, or the wait is cancelled.
    fn wait(&self, limit: Duration, is_cancelled: &AtomicBool) -> Waited {
        let is_waiting = |progress: &mut Progress| {
            matches!(progress, Progress::Reading | Progress::Publishing)
                && !is_cancelled.load(Ordering::Acquire)
        };
        let waited = self
            .changed
            .wait_timeout_while(self.progress(), limit, is_waiting);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            Waited::TimedOut
        } else {
            Waited::Over
        }
    }

    /// Returns whether the result is to be published. If it is, the read can no longer be abandoned.
    fn begin_publishing(&self) -> bool {
        let mut progress = self.progress();
        let is_used = *progress == Progress::Reading;
        if is_used {
            *progress = Progress::Publishing;
        }
        is_used
    }

    fn finish(&self) {
        *self.progress() = Progress::Done;
        self.changed.notify_all();
    }

    /// Abandons the read if it is still reading. Returns whether it did.
    fn abandon(&self) -> bool {
        let mut progress = self.progress();
        let is_abandoned = *progress == Progress::Reading;
        if is_abandoned {
            *progress = Progress::Abandoned;
        }
        self.changed.notify_all();
        is_abandoned
    }
}

/// Ends the wait for a time limit when its runtime shuts down, so that the runtime does not wait for it.
struct TimerGuard<T: Send + Sync + 'static> {
    reader: Arc<TimedReader<T>>,
    read: Arc<Read>,
    is_cancelled: Arc<AtomicBool>,
}

impl<T: Send + Sync + 'static> Drop for TimerGuard<T> {
    fn drop(&mut self) {
        let progress = self.read.progress();
        if matches!(*progress, Progress::Done | Progress::Abandoned) {
            return;
        }
        self.is_cancelled.store(true, Ordering::Release);
        self.read.changed.notify_all();
        drop(progress);
        // A caller that still waits, on another runtime, has to enforce the limit from now on.
        self.reader.state().has_timer = false;
        self.reader.ended.send_modify(|_| {});
    }
}
