//! A background task of which there is at most one at a time.
//!
//! It ends with the runtime that it was spawned on. Each use of what it maintains checks that it still runs, and spawns it again if
//! it does not.

use std::sync::Arc;

use crate::sync::Handle;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Spawns a background task, unless it runs already.
#[derive(Default)]
pub(crate) struct BackgroundTask {
    is_running: Arc<AtomicBool>,
}

impl BackgroundTask {
    /// Spawns the task on the current runtime, unless it runs already. Does nothing outside a tokio runtime.
    #[inline]
    pub(crate) fn ensure_running<F>(&self, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.is_running.load(Ordering::Relaxed) {
            self.spawn(task);
        }
    }

    fn spawn<F>(&self, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(self.is_running.clone());
        let task = task();
        runtime.spawn(async move {
            let _running = running;
            task.await;
        });
    }
}

/// Records the end of the task, whether it returns, panics or is dropped with its runtime.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
