//! Reads on threads of their own: one at a time for each file, with a time limit.
//!
//! A read may block for ever, on a network file system for example. A thread that does so is left behind: no runtime waits
//! for it, and no other read of its file is started until it returns.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::FileError;
use super::follower::Follower;
use super::hub::ChangeSignal;

/// Takes the result of each read.
pub(super) trait Sink<T>: Send + Sync {
    /// `is_watching`: whether the system reports changes of the file.
    fn publish(&self, read: Result<T, FileError>, is_watching: bool);
}

/// Reads one file.
pub(super) struct Reader<T> {
    path: PathBuf,
    signal: Arc<ChangeSignal>,
    /// Locked by the thread that reads.
    follower: Mutex<Follower<T>>,
    state: Mutex<State<T>>,
    /// The number of reads that are over.
    over: watch::Sender<u64>,
}

struct State<T> {
    sink: Weak<dyn Sink<T>>,
    started: u64,
    running: Option<Arc<Job>>,
    /// Somebody sees to the time limit of the running read.
    is_timed: bool,
    is_watching: bool,
}

/// One read.
#[derive(Default)]
struct Job {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The result is being published.
    is_ending: bool,
    /// The result was published.
    is_over: bool,
    /// The time limit has passed; the thread's result will not be used.
    is_abandoned: bool,
}

/// What was found when a read was wanted.
enum Begun {
    /// This read has begun now.
    Now(u64),
    /// This read had begun before.
    Before(u64),
    /// An earlier read still blocks.
    Stuck,
}

impl<T: Send + Sync + 'static> Reader<T> {
    pub(super) fn new(
        path: PathBuf,
        signal: Arc<ChangeSignal>,
        follower: Follower<T>,
        sink: Weak<dyn Sink<T>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path,
            signal,
            follower: Mutex::new(follower),
            state: Mutex::new(State {
                sink,
                started: 0,
                running: None,
                is_timed: false,
                is_watching: false,
            }),
            over: watch::Sender::new(0),
        })
    }

    /// Sends the results of further reads somewhere else.
    pub(super) fn set_sink(&self, sink: Weak<dyn Sink<T>>) {
        self.state().sink = sink;
    }

    /// Reads the file, and returns when a read that began after this call has ended or was given up. Its result is
    /// published before. Calls at the same time share one read.
    pub(super) async fn read(self: &Arc<Self>, limit: Duration) {
        for _ in 0..2 {
            match self.begin(limit) {
                Begun::Now(number) => return self.ended(number, limit).await,
                Begun::Before(number) => self.ended(number, limit).await,
                Begun::Stuck => return,
            }
        }
        // The second of the two has begun after this call, whoever began it.
    }

    /// As [`read`](Self::read), for callers outside a runtime: blocks this thread.
    pub(super) fn read_blocking(self: &Arc<Self>, limit: Duration) {
        for _ in 0..2 {
            let (number, is_new) = match self.begin(limit) {
                Begun::Now(number) => (number, true),
                Begun::Before(number) => (number, false),
                Begun::Stuck => return,
            };
            let running = self.state().running.clone();
            if let Some(job) = running
                && *self.over.borrow() < number
                && !job.wait(limit, &AtomicBool::new(false))
            {
                self.abandon(&job, limit);
            }
            if is_new {
                return;
            }
        }
    }

    async fn ended(self: &Arc<Self>, number: u64, limit: Duration) {
        let mut over = self.over.subscribe();
        while *over.borrow_and_update() < number {
            self.time(limit);
            // The sender lives as long as this reader.
            if over.changed().await.is_err() {
                return;
            }
        }
    }

    fn begin(self: &Arc<Self>, limit: Duration) -> Begun {
        let mut state = self.state();
        if let Some(job) = &state.running {
            if !job.progress().is_abandoned {
                return Begun::Before(state.started);
            }
            state.publish(Err(self.timed_out(limit)));
            return Begun::Stuck;
        }
        state.started += 1;
        let number = state.started;
        let job = Arc::<Job>::default();
        state.running = Some(job.clone());
        state.is_timed = false;
        drop(state);
        let reader = self.clone();
        let runtime = Handle::try_current().ok();
        let thread = std::thread::Builder::new().name("read-file".to_owned());
        let run = move || {
            // A reader or clock of the user's may look at the runtime's clock.
            let _entered = runtime.as_ref().map(Handle::enter);
            reader.run(&job);
        };
        if let Err(error) = thread.spawn(run) {
            let error = self.read_error(error);
            let mut state = self.state();
            state.running = None;
            state.publish(Err(error));
            self.over.send_replace(number);
        }
        Begun::Now(number)
    }

    /// Runs on the read's own thread.
    fn run(&self, job: &Job) {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let read = catch_unwind(AssertUnwindSafe(|| follower.watch_and_read()));
        let read = read.unwrap_or_else(|_| {
            let panicked = io::Error::other("reading or parsing it panicked");
            Err(self.read_error(panicked))
        });
        let is_watching = follower.is_watching();
        drop(follower);
        let mut state = self.state();
        state.running = None;
        state.is_watching = is_watching;
        if job.begin_end() {
            state.publish(read);
            self.over.send_replace(state.started);
        } else {
            // What it has read may be old by now: somebody is to read anew.
            self.signal.notify();
        }
        drop(state);
        // Last, since a paused clock goes on when nobody waits any more.
        job.end();
    }

    /// Sees to it that the running read ends in time, unless somebody does so already.
    fn time(self: &Arc<Self>, limit: Duration) {
        let mut state = self.state();
        let Some(job) = state.running.clone() else {
            return;
        };
        if std::mem::replace(&mut state.is_timed, true) {
            return;
        }
        drop(state);
        let Ok(runtime) = Handle::try_current() else {
            // Another executor: there is nobody else to wait.
            if !job.wait(limit, &AtomicBool::new(false)) {
                self.abandon(&job, limit);
            }
            return;
        };
        let is_cancelled = Arc::<AtomicBool>::default();
        let guard = TimeGuard {
            reader: self.clone(),
            job: job.clone(),
            is_cancelled: is_cancelled.clone(),
        };
        runtime.spawn(async move {
            let guard = guard;
            // On a thread, since a paused clock must stand still while a file is read.
            let wait = move || job.wait(limit, &is_cancelled);
            let waited = tokio::task::spawn_blocking(wait).await;
            if matches!(waited, Ok(false)) {
                guard.reader.abandon(&guard.job, limit);
            }
        });
    }

    /// Gives a read up that took too long.
    fn abandon(&self, job: &Arc<Job>, limit: Duration) {
        let state = self.state();
        let is_running = state
            .running
            .as_ref()
            .is_some_and(|running| Arc::ptr_eq(running, job));
        if is_running && job.abandon() {
            state.publish(Err(self.timed_out(limit)));
            self.over.send_replace(state.started);
        }
    }

    fn timed_out(&self, limit: Duration) -> FileError {
        let message =
            format!("reading it took more than {limit:?}; is the file system it is on hanging?");
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
    fn publish(&self, read: Result<T, FileError>) {
        if let Some(sink) = self.sink.upgrade() {
            sink.publish(read, self.is_watching);
        }
    }
}

impl Job {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the read. Returns false if it is still running after the limit. Ends early if it is
    /// cancelled.
    fn wait(&self, limit: Duration, is_cancelled: &AtomicBool) -> bool {
        let is_going_on = |progress: &mut Progress| {
            !progress.is_over && !progress.is_abandoned && !is_cancelled.load(Ordering::Acquire)
        };
        let waited = self
            .changed
            .wait_timeout_while(self.progress(), limit, is_going_on);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Returns whether the result is to be published: the read has not been abandoned, and will not be.
    fn begin_end(&self) -> bool {
        let mut progress = self.progress();
        progress.is_ending = !progress.is_abandoned;
        progress.is_ending
    }

    fn end(&self) {
        self.progress().is_over = true;
        self.changed.notify_all();
    }

    /// Returns whether the read is abandoned now, and was not before.
    fn abandon(&self) -> bool {
        let mut progress = self.progress();
        let is_new = !progress.is_ending && !progress.is_abandoned;
        progress.is_abandoned |= is_new;
        self.changed.notify_all();
        is_new
    }
}

/// Frees the thread that waits for a time limit when its runtime ends, so that the runtime does not wait for it.
struct TimeGuard<T: Send + Sync + 'static> {
    reader: Arc<Reader<T>>,
    job: Arc<Job>,
    is_cancelled: Arc<AtomicBool>,
}

impl<T: Send + Sync + 'static> Drop for TimeGuard<T> {
    fn drop(&mut self) {
        let progress = self.job.progress();
        if progress.is_over || progress.is_abandoned {
            return;
        }
        self.is_cancelled.store(true, Ordering::Release);
        self.job.changed.notify_all();
        drop(progress);
        // Whoever still waits, on another runtime, takes over.
        self.reader.state().is_timed = false;
        self.reader.over.send_modify(|_| {});
    }
}
