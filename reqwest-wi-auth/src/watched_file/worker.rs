//! The task that follows one file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::follower::Follower;
use super::functions::{Now, Renewal};
use super::hub::Bell;
use super::timing::Timing;
use super::{FileError, Shared};
use crate::telemetry;

/// So many reads are made at once within the interval; in a folder that is busier, reads lie apart.
const BURST: u32 = 16;
const BURST_INTERVAL: Duration = Duration::from_millis(100);
const PAUSE_AFTER_BURST: Duration = Duration::from_millis(2);

/// What the task has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) started: u64,
    pub(super) finished: u64,
    pub(super) changes: u64,
}

/// The handle to the task, which ends when it is dropped.
pub(super) struct Worker {
    bell: Arc<Bell>,
    progress: watch::Receiver<Progress>,
    task: Mutex<JoinHandle<()>>,
}

/// The file is followed no more.
pub(super) struct Ended;

impl Worker {
    pub(super) fn spawn<T: PartialEq + Send + Sync + 'static>(
        shared: Arc<Shared<T>>,
        follower: Follower<T>,
        timing: Timing,
        renewal: Renewal<T>,
        now: Now,
    ) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let bell = follower.bell().clone();
        let work = Work {
            shared,
            timing,
            renewal,
            now,
            progress: sender,
            failures: 0,
        };
        let task = Mutex::new(tokio::spawn(work.run(follower)));
        Self {
            bell,
            progress,
            task,
        }
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Has the file read, and waits for the end of a read that began after this call.
    pub(super) async fn read_now(&self) -> Result<(), Ended> {
        let mut progress = self.progress();
        let wanted = progress.borrow().started + 1;
        self.bell.ring();
        let done = progress
            .wait_for(|progress| progress.finished >= wanted)
            .await;
        done.map(drop).map_err(|_| Ended)
    }

    pub(super) async fn shutdown(&self) {
        self.abort();
        // The sender goes with the task.
        let mut progress = self.progress();
        while progress.changed().await.is_ok() {}
    }

    fn abort(&self) {
        self.task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.abort();
    }
}

/// What the task works with.
struct Work<T> {
    shared: Arc<Shared<T>>,
    timing: Timing,
    renewal: Renewal<T>,
    now: Now,
    progress: watch::Sender<Progress>,
    failures: u32,
}

impl<T: PartialEq + Send + Sync + 'static> Work<T> {
    async fn run(mut self, mut follower: Follower<T>) {
        let (mut burst, mut burst_began) = (0, Instant::now());
        loop {
            follower
                .changed_within(self.pause(follower.is_watching()))
                .await;
            self.progress.send_modify(|progress| progress.started += 1);
            let (after, read) = follower.read().await;
            follower = after;
            let changed = self.take(read, follower.is_watching());
            self.progress.send_modify(|progress| {
                progress.finished = progress.started;
                progress.changes += u64::from(changed);
            });
            if burst_began.elapsed() >= BURST_INTERVAL {
                (burst, burst_began) = (0, Instant::now());
            }
            burst += 1;
            if burst > BURST {
                sleep(PAUSE_AFTER_BURST).await;
            }
        }
    }

    fn pause(&self, watching: bool) -> Duration {
        let now = (self.now)();
        let renewal = (self.renewal)(&self.shared.value.load(), now);
        self.timing.pause(watching, self.failures, renewal, now)
    }

    /// Takes in what a read brought; says whether it is something new.
    fn take(&mut self, read: Result<T, FileError>, watching: bool) -> bool {
        let path = &self.shared.path;
        let changed = match &read {
            Ok(value) => *value != **self.shared.value.load(),
            Err(error) => {
                telemetry::file_failed(path, error, self.failures == 0);
                false
            }
        };
        self.failures = if read.is_ok() {
            0
        } else {
            self.failures.saturating_add(1)
        };
        self.shared.health.update(|health| {
            health.watching = watching;
            health.last_error = read.as_ref().err().cloned();
            if changed {
                health.last_change = (self.now)();
            }
        });
        if let Ok(value) = read
            && changed
        {
            self.shared.value.store(Arc::new(value));
            telemetry::file_changed(path);
        }
        changed
    }
}
