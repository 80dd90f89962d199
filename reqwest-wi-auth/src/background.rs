//! A background task that is restarted on another tokio runtime when its runtime ends.
//!
//! A task ends with its runtime. The next use of what it maintains, within another runtime, starts it there
//! ([`Background::ensure_running`]). A task whose runtime still exists but is not driven is replaced as well: each task
//! announces when it will run next ([`TaskGuard::continues`]), and is considered stalled if it is late.

use std::cell::Cell;
use std::fmt::Display;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::time::timeout;
use crate::sync::{AbortHandle, Handle, Mutex, MutexGuard, watch};

/// A task that is this late is considered stalled: its runtime is not driven.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// How long the task is not restarted after it has panicked.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(60);

/// How long [`Background::shutdown`] waits for the task to end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// A background task that is restarted when its runtime has ended.
pub(crate) struct Background {
    /// The activity of the task for log messages, such as "watching /run/token".
    activity: String,
    /// Whether there is a task, which may be stalled.
    has_task: AtomicBool,
    state: Mutex<State>,
    events: watch::Sender<Events>,
}

/// The events of a background task that its users wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Events {
    /// The number of changes that tasks have reported.
    pub(crate) changes: u64,
    /// The number of tasks that have ended.
    ends: u64,
    /// Whether the background task was closed, so that no task will be started again.
    pub(crate) is_closed: bool,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// The number of the current task. A task with another number was replaced.
    number: u64,
    task: Option<AbortHandle>,
    /// Whether the task is being spawned. A task that ends meanwhile was rejected by a runtime that is shutting down.
    is_starting: bool,
    /// The latest time at which the task runs next.
    due: Option<Instant>,
    last_panic: Option<Instant>,
}

thread_local! {
    /// Whether this thread drives a runtime that ends when a token has been fetched.
    static IS_TEMPORARY: Cell<bool> = const { Cell::new(false) };
}

/// Calls a function that drives a temporary runtime on this thread. Tasks that are started meanwhile end with it, which is
/// expected, so no warning is logged.
pub(crate) fn within_temporary_runtime<R>(drive: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            IS_TEMPORARY.set(self.0);
        }
    }
    let _reset = Reset(IS_TEMPORARY.replace(true));
    drive()
}

/// Owned by the task. Records the end of the task when it is dropped, whether the task returns, panics or is aborted.
pub(crate) struct TaskGuard {
    background: Arc<Background>,
    number: u64,
    /// Whether the runtime of the task is temporary.
    is_temporary: bool,
}

impl Background {
    /// Creates a background task, without starting it. `activity` is used in log messages.
    pub(crate) fn new(activity: String) -> Arc<Self> {
        Arc::new(Self {
            activity,
            has_task: AtomicBool::new(false),
            state: Mutex::default(),
            events: watch::Sender::new(Events::default()),
        })
    }

    /// Returns whether there is a task, which may be stalled. Takes no lock.
    #[inline]
    pub(crate) fn has_task(&self) -> bool {
        self.has_task.load(Ordering::Acquire)
    }

    /// Returns whether there is a task that is not stalled.
    pub(crate) fn is_running(&self) -> bool {
        self.has_task() && !self.state().is_stalled()
    }

    /// Returns whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// Returns a receiver of the events of the task.
    pub(crate) fn events(&self) -> watch::Receiver<Events> {
        self.events.subscribe()
    }

    /// Reports a change to the receivers of [`events`](Self::events).
    pub(crate) fn notify_changed(&self) {
        self.events.send_modify(|events| events.changes += 1);
    }

    /// Starts the task on the current runtime, unless there is a task that is not stalled. Does nothing outside a runtime.
    pub(crate) fn ensure_running<F>(self: &Arc<Self>, task: impl FnOnce(TaskGuard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let Some(number) = self.next_task() else {
            return;
        };
        let guard = TaskGuard {
            background: self.clone(),
            number,
            is_temporary: IS_TEMPORARY.get(),
        };
        // A runtime that is shutting down drops the task, and with it the guard, before `spawn` returns.
        let handle = runtime.spawn(task(guard)).abort_handle();
        let mut state = self.state();
        state.is_starting = false;
        if state.number == number && !state.is_closed {
            state.task = Some(handle);
        } else {
            handle.abort();
        }
    }

    /// Aborts the task and prevents further ones.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.abort();
        }
        self.events.send_modify(|events| events.is_closed = true);
    }

    /// Aborts the task, prevents further ones, and waits until it has ended. Waits no longer than [`SHUTDOWN_LIMIT`], and
    /// not at all outside a runtime.
    pub(crate) async fn shutdown(&self) {
        self.close();
        let mut events = self.events();
        let ended = async { while self.has_task() && events.changed().await.is_ok() {} };
        if Handle::try_current().is_ok() {
            // A runtime that is not driven keeps the task until it shuts down.
            let _ = timeout(SHUTDOWN_LIMIT, ended).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the task to start, or `None` if no task is to be started.
    fn next_task(&self) -> Option<u64> {
        let mut state = self.state();
        let has_panicked = state
            .last_panic
            .is_some_and(|panic| panic.elapsed() < PAUSE_AFTER_PANIC);
        if state.is_closed || has_panicked {
            return None;
        }
        if self.has_task() {
            if !state.is_stalled() {
                return None;
            }
            self.warn_stopped("its tokio runtime is not driven");
            if let Some(task) = state.task.take() {
                task.abort();
            }
        }
        state.number += 1;
        state.is_starting = true;
        state.due = Some(Instant::now());
        self.has_task.store(true, Ordering::Release);
        Some(state.number)
    }

    fn warn_stopped(&self, reason: impl Display) {
        tracing::warn!(
            "{} has stopped because {reason}; the next use within another runtime restarts it",
            self.activity
        );
    }
}

impl State {
    fn is_stalled(&self) -> bool {
        let late = self.due.and_then(|due| due.checked_add(STALLED_AFTER));
        late.is_some_and(|late| Instant::now() > late)
    }
}

impl TaskGuard {
    /// Announces that the task runs again after the pause, at the latest. Returns false if the task has to end, because it
    /// was replaced or closed.
    pub(crate) fn continues(&self, pause: Duration) -> bool {
        let mut state = self.background.state();
        if state.number != self.number || state.is_closed {
            return false;
        }
        state.due = Instant::now().checked_add(pause);
        true
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let mut state = self.background.state();
        if state.number != self.number {
            return;
        }
        state.task = None;
        let has_panicked = std::thread::panicking();
        if has_panicked {
            state.last_panic = Some(Instant::now());
        }
        self.background.has_task.store(false, Ordering::Release);
        let is_expected =
            state.is_closed || state.is_starting || self.is_temporary && !has_panicked;
        drop(state);
        self.background
            .events
            .send_modify(|events| events.ends += 1);
        if is_expected {
            return;
        }
        self.background.warn_stopped(if has_panicked {
            "it panicked"
        } else {
            "its tokio runtime has ended"
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// A task that is idle for a long time.
    async fn idle(guard: TaskGuard) {
        while guard.continues(Duration::from_secs(3600)) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }

    #[test]
    fn a_task_ends_with_its_runtime_and_is_restarted_on_the_next() {
        let background = Background::new("testing".to_owned());
        background.ensure_running(idle);
        assert!(!background.has_task(), "there is no runtime");
        for _ in 0..3 {
            let runtime = runtime();
            runtime.block_on(async {
                background.ensure_running(idle);
                background.ensure_running(idle);
                tokio::task::yield_now().await;
            });
            assert!(background.is_running());
            drop(runtime);
            assert!(!background.has_task());
        }
        assert_eq!(background.events().borrow().ends, 3);
        background.close();
        runtime().block_on(async { background.ensure_running(idle) });
        assert!(!background.has_task(), "closed");
    }

    #[test]
    fn a_stalled_task_is_replaced() {
        let background = Background::new("testing".to_owned());
        let (first, second) = (runtime(), runtime());
        first.block_on(async {
            background.ensure_running(idle);
            tokio::task::yield_now().await;
        });
        // The task was due an hour ago.
        background.state().due = Instant::now().checked_sub(Duration::from_secs(3600));
        if background.state().due.is_none() {
            return;
        }
        assert!(!background.is_running());
        second.block_on(async {
            background.ensure_running(idle);
            tokio::task::yield_now().await;
        });
        assert!(background.is_running());
        drop(first);
        assert!(
            background.is_running(),
            "the end of the replaced task has no effect"
        );
    }
}
