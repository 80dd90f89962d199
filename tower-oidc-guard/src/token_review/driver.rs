//! Makes the reviews that are due.
//!
//! A background task waits until a token in use has to be confirmed again, or a queued review is permitted. It is spawned by the
//! first use of a token, not by a constructor, and ends with the guard, and with the last stream that ends with its token. Each
//! review is a separate task, on the runtime that starts it; their number is limited.

use std::sync::Arc;

use super::shared::Shared;
use super::store::Start;
use crate::sync::Handle;
use crate::sync::time::sleep_until;

/// Runs for as long as a guard uses the reviews, or something waits for the revocation of a token.
async fn run(shared: Arc<Shared>) {
    while shared.is_used() {
        let next = shared.run_due();
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.wake.notified() => {}
        }
    }
}

impl Shared {
    /// Spawns the background task, unless it runs already. Does nothing outside a tokio runtime.
    #[inline]
    pub(super) fn ensure_driven(self: &Arc<Self>) {
        self.driver.ensure_running(|| run(self.clone()));
    }

    /// Spawns these reviews on the current runtime. Must be called without the lock: at the shutdown of the runtime a review is
    /// dropped at once.
    pub(super) fn spawn_reviews(self: &Arc<Self>, started: Vec<Start>) {
        for start in started {
            let interrupted = InterruptOnDrop {
                shared: self.clone(),
                start: Some(start),
            };
            // Nothing was started without a runtime.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(interrupted.review());
            }
        }
    }
}

/// A review, which is recorded as interrupted if it is dropped before it ends.
struct InterruptOnDrop {
    shared: Arc<Shared>,
    start: Option<Start>,
}

impl InterruptOnDrop {
    async fn review(mut self) {
        let Some(start) = &self.start else { return };
        let result = self.shared.review(start).await;
        if let Some(start) = self.start.take() {
            self.shared.finish(&start, result);
        }
    }
}

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        if let Some(start) = &self.start {
            self.shared.interrupted(start);
        }
    }
}
