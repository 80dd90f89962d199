//! The task that fetches when the schedule says so.
//!
//! It is spawned by the first use, not by a constructor, and ends with the last handle. Each use checks whether it still
//! runs: it ends with the runtime that it was spawned on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Shared;

/// Starts the task, wakes it, and ends it when dropped.
#[derive(Default)]
pub(super) struct Driver {
    wake: Arc<Notify>,
    running: Arc<AtomicBool>,
}

impl Driver {
    /// Spawns the task unless it runs. Does nothing outside a tokio runtime.
    pub(super) fn keep_going(&self, shared: &Arc<Shared>) {
        if self.running.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(self.running.clone());
        let task = run(Arc::downgrade(shared), self.wake.clone());
        runtime.spawn(async move {
            let _running = running;
            task.await;
        });
    }

    /// What makes the task look at the schedule now.
    pub(super) fn waker(&self) -> Arc<Notify> {
        self.wake.clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Says that the task has ended, however it did.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn run(shared: Weak<Shared>, wake: Arc<Notify>) {
    while let Some(strong) = shared.upgrade() {
        strong.fetch_if_due().await;
        let due = strong.schedule(|schedule| schedule.due());
        let changed = strong.source.changes();
        drop(strong);
        tokio::select! {
            () = sleep_until(due) => {}
            () = wake.notified() => {}
            () = changed => {
                if let Some(strong) = shared.upgrade() {
                    strong.schedule(|schedule| schedule.changed(Instant::now()));
                }
            }
        }
    }
}
