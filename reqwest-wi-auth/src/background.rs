//! The life of a background task on one tokio runtime after another.
//!
//! A task ends with its runtime. Whoever uses its source next, within another runtime, starts it there. A task whose
//! runtime exists but is not driven is replaced as well.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// A task that is so late does not run: nobody drives its runtime.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// After a panic, the task is not started again for so long.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(60);

/// How long [`Background::end`] waits for a task to be dropped by its runtime.
const END_LIMIT: Duration = Duration::from_secs(1);

/// A background task that is started again when its runtime has ended.
pub(crate) struct Background {
    /// What the task does, for warnings: "following /run/token".
    activity: String,
    /// Whether there is a task. It may be one that is not driven.
    has_task: AtomicBool,
    state: Mutex<State>,
    events: watch::Sender<Events>,
}

/// What the users of a background task wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Events {
    /// How often the task has reported a change.
    pub(crate) changes: u64,
    /// How often a task has ended.
    ends: u64,
    /// No task will be started any more.
    pub(crate) is_closed: bool,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// The number of the current task. A task with another number has been replaced.
    number: u64,
    task: Option<AbortHandle>,
    /// The task is being spawned. If it ends meanwhile, the runtime takes no more tasks.
    is_starting: bool,
    /// When the task does something next, at the latest.
    due: Option<Instant>,
    last_panic: Option<Instant>,
}

/// The task's side: it notes when the task ends, however it does.
pub(crate) struct TaskGuard {
    background: Arc<Background>,
    number: u64,
}

impl Background {
    pub(crate) fn new(activity: String) -> Arc<Self> {
        Arc::new(Self {
            activity,
            has_task: AtomicBool::new(false),
            state: Mutex::default(),
            events: watch::Sender::new(Events::default()),
        })
    }

    /// Returns whether there is a task, which may not be driven. Cheap enough for every use.
    #[inline]
    pub(crate) fn has_task(&self) -> bool {
        self.has_task.load(Ordering::Acquire)
    }

    /// Returns whether there is a task that is driven.
    pub(crate) fn is_running(&self) -> bool {
        self.has_task() && !self.state().is_stalled()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    pub(crate) fn events(&self) -> watch::Receiver<Events> {
        self.events.subscribe()
    }

    /// Notifies those who wait for a change.
    pub(crate) fn notify_changed(&self) {
        self.events.send_modify(|events| events.changes += 1);
    }

    /// Starts the task on the current runtime, if there is a runtime and no task that is driven.
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
        };
        // A runtime that is shutting down drops the task here, and with it the guard.
        let handle = runtime.spawn(task(guard)).abort_handle();
        let mut state = self.state();
        state.is_starting = false;
        if state.number == number && !state.is_closed {
            state.task = Some(handle);
        } else {
            handle.abort();
        }
    }

    /// Ends the task for good.
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

    /// Ends the task for good, and waits until it is gone, unless its runtime is not driven.
    pub(crate) async fn end(&self) {
        self.close();
        let mut events = self.events();
        let gone = async { while self.has_task() && events.changed().await.is_ok() {} };
        if Handle::try_current().is_ok() {
            // A runtime that is not driven drops the task when it ends.
            let _ = timeout(END_LIMIT, gone).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of a task that is to be started now, if one is.
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
            self.warn("its tokio runtime is not driven");
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

    fn warn(&self, reason: impl Display) {
        tracing::warn!(
            "{} has stopped, since {reason}; the next use in another runtime starts it again",
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
    /// Notes that the task does something again after the pause, at the latest. Returns false if the task is to end, since
    /// it was replaced or closed.
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
        let is_expected = state.is_closed || state.is_starting;
        drop(state);
        self.background
            .events
            .send_modify(|events| events.ends += 1);
        if is_expected {
            return;
        }
        self.background.warn(match has_panicked {
            true => "it panicked",
            false => "its tokio runtime has ended",
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

    /// A task that does nothing for a long time.
    async fn idle(guard: TaskGuard) {
        while guard.continues(Duration::from_secs(3600)) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }

    #[test]
    fn a_task_ends_with_its_runtime_and_is_started_on_the_next() {
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
        assert!(!background.has_task(), "closed for good");
    }

    #[test]
    fn a_task_whose_runtime_is_not_driven_is_replaced() {
        let background = Background::new("testing".to_owned());
        let (first, second) = (runtime(), runtime());
        first.block_on(async {
            background.ensure_running(idle);
            tokio::task::yield_now().await;
        });
        // As if the task had been due an hour ago.
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
            "the end of the first is of no importance"
        );
    }
}
