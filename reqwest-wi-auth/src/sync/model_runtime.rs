//! Tasks and threads. In a model, each is scheduled by the model, and a runtime is a set of tasks that end together.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use shuttle::scheduler::TaskId;
use tokio::sync::oneshot;

use super::model;

thread_local! {
    /// The runtimes that each thread or task of the model has entered.
    static ENTERED: RefCell<HashMap<TaskId, Vec<Arc<Tasks>>>> = RefCell::default();
}

/// Forgets the runtimes of the last order, and starts the random numbers of the retries again.
pub(super) fn reset() {
    fastrand::seed(model::SEED);
    ENTERED.with_borrow_mut(HashMap::clear);
}

fn current_task() -> TaskId {
    shuttle::current::get_current_task().unwrap()
}

/// A tokio runtime, or one of a model.
#[derive(Clone)]
pub(crate) enum Handle {
    Tokio(tokio::runtime::Handle),
    Model(Arc<Tasks>),
}

/// There is no runtime.
#[derive(Debug)]
pub(crate) struct NoRuntime;

impl Handle {
    pub(crate) fn try_current() -> Result<Self, NoRuntime> {
        if !model::is_active() {
            let handle = tokio::runtime::Handle::try_current();
            return handle.map(Self::Tokio).map_err(|_| NoRuntime);
        }
        let entered = ENTERED.with_borrow(|entered| entered.get(&current_task())?.last().cloned());
        entered.map(Self::Model).ok_or(NoRuntime)
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        match self {
            Self::Tokio(handle) => Entered::Tokio {
                _guard: handle.enter(),
            },
            Self::Model(tasks) => {
                ENTERED.with_borrow_mut(|entered| {
                    let entered = entered.entry(current_task()).or_default();
                    entered.push(tasks.clone());
                });
                Entered::Model
            }
        }
    }

    /// Runs a future on the current thread, within the runtime of a model.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _entered = self.enter();
        model::block_on(future)
    }

    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::Tokio(handle) => {
                JoinHandle(AbortHandle::Tokio(handle.spawn(future).abort_handle()))
            }
            Self::Model(tasks) => JoinHandle(AbortHandle::Model(tasks.spawn(Box::pin(future)))),
        }
    }
}

pub(crate) enum Entered<'h> {
    Tokio {
        _guard: tokio::runtime::EnterGuard<'h>,
    },
    Model,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if matches!(self, Self::Model) {
            ENTERED.with_borrow_mut(|entered| {
                if let Some(entered) = entered.get_mut(&current_task()) {
                    entered.pop();
                }
            });
        }
    }
}

/// A spawned task.
pub(crate) struct JoinHandle(AbortHandle);

impl JoinHandle {
    pub(crate) fn abort_handle(self) -> AbortHandle {
        self.0
    }
}

/// Aborts a task.
pub(crate) enum AbortHandle {
    Tokio(tokio::task::AbortHandle),
    Model(Arc<ModelTask>),
}

impl AbortHandle {
    pub(crate) fn abort(&self) {
        match self {
            Self::Tokio(task) => task.abort(),
            Self::Model(task) => {
                model::point();
                task.is_aborted.store(true, Ordering::Relaxed);
                task.wake();
            }
        }
    }
}

/// The tasks of a runtime of a model.
#[derive(Default)]
pub(crate) struct Tasks {
    has_ended: AtomicBool,
    tasks: Mutex<Vec<Arc<ModelTask>>>,
}

/// A task of a runtime of a model.
pub(crate) struct ModelTask {
    state: Mutex<TaskState>,
    waker: Mutex<Option<Waker>>,
    is_aborted: AtomicBool,
}

enum TaskState {
    Idle(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// A thread polls it.
    Polled,
    Ended,
}

impl ModelTask {
    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Tasks {
    fn spawn(self: &Arc<Self>, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Arc<ModelTask> {
        model::point();
        let has_ended = self.has_ended.load(Ordering::Relaxed);
        let task = Arc::new(ModelTask {
            state: Mutex::new(if has_ended {
                TaskState::Ended
            } else {
                TaskState::Idle(future)
            }),
            waker: Mutex::default(),
            is_aborted: AtomicBool::new(false),
        });
        if !has_ended {
            lock(&self.tasks).push(task.clone());
            let polled = PolledTask {
                task: task.clone(),
                tasks: self.clone(),
            };
            drop(shuttle::future::spawn(polled));
        }
        task
    }

    /// Drops all tasks, and waits for those that are polled. Further tasks are dropped at once.
    fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            loop {
                let state = std::mem::replace(&mut *lock(&task.state), TaskState::Ended);
                match state {
                    TaskState::Polled => {
                        *lock(&task.state) = TaskState::Polled;
                        model::spin();
                    }
                    TaskState::Idle(future) => {
                        model::point();
                        drop(future);
                        break;
                    }
                    TaskState::Ended => break,
                }
            }
            task.wake();
        }
    }
}

/// Polls a task until it ends, is aborted, or its runtime ends.
struct PolledTask {
    task: Arc<ModelTask>,
    tasks: Arc<Tasks>,
}

impl Future for PolledTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        *lock(&self.task.waker) = Some(cx.waker().clone());
        let state = std::mem::replace(&mut *lock(&self.task.state), TaskState::Polled);
        let TaskState::Idle(mut future) = state else {
            *lock(&self.task.state) = TaskState::Ended;
            return Poll::Ready(());
        };
        let has_ended = || {
            self.task.is_aborted.load(Ordering::Relaxed)
                || self.tasks.has_ended.load(Ordering::Relaxed)
        };
        let handle = Handle::Model(self.tasks.clone());
        let _entered = handle.enter();
        if has_ended() || future.as_mut().poll(cx).is_ready() || has_ended() {
            drop(future);
            *lock(&self.task.state) = TaskState::Ended;
            return Poll::Ready(());
        }
        *lock(&self.task.state) = TaskState::Idle(future);
        Poll::Pending
    }
}

/// A runtime of a model. Its tasks end when it is dropped.
pub(crate) struct ModelRuntime(Handle);

impl ModelRuntime {
    pub(crate) fn new() -> Self {
        Self(Handle::Model(Arc::default()))
    }

    pub(crate) fn handle(&self) -> Handle {
        self.0.clone()
    }
}

impl Drop for ModelRuntime {
    fn drop(&mut self) {
        if let Handle::Model(tasks) = &self.0
            && !std::thread::panicking()
        {
            tasks.end();
        }
    }
}

/// Runs a function that may block on another thread, like [`tokio::task::spawn_blocking`].
pub(crate) fn spawn_blocking<R: Send + 'static>(
    f: impl FnOnce() -> R + Send + 'static,
) -> impl Future<Output = Result<R, oneshot::error::RecvError>> {
    let (sender, receiver) = oneshot::channel();
    let run = move || drop(sender.send(f()));
    if model::is_active() {
        drop(shuttle::thread::spawn(run));
    } else {
        drop(tokio::task::spawn_blocking(run));
    }
    receiver
}

pub(crate) mod thread {
    use super::{io, model};

    /// Starts threads, like [`std::thread::Builder`].
    pub(crate) struct Builder(std::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Self(std::thread::Builder::new())
        }

        pub(crate) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(crate) fn spawn(self, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
            if model::is_active() {
                model::point();
                drop(shuttle::thread::spawn(f));
                return Ok(());
            }
            self.0.spawn(f).map(drop)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
