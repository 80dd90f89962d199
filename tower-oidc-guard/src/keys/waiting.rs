//! The requests that wait for the end of a fetch of one issuer's keys.

use std::pin::pin;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::time::{timeout, timeout_at};
use crate::sync::{Notify, watch};

/// The number of requests that may wait for one issuer's keys at a time. Further ones are answered immediately.
const MAX_WAITING: usize = 1024;

/// How long the requests that wait are woken one by one when a fetch ends. After that, the others are woken at once.
const MAX_WAKING: Duration = Duration::from_millis(50);

/// The requests that wait for the end of a fetch.
pub(super) struct WaitingRequests {
    count: AtomicUsize,
    fetch_ended: Notify,
}

impl WaitingRequests {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            fetch_ended: Notify::new(),
        }
    }

    /// Returns the number of requests that wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns a slot for a request that is about to wait, or `None` if all are taken.
    pub(super) fn acquire_slot(&self) -> Option<WaitSlot<'_>> {
        let one_more = |count| (count < MAX_WAITING).then_some(count + 1);
        self.count
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, one_more)
            .ok()?;
        Some(WaitSlot(self))
    }

    /// Waits until `deadline` for an outcome that `outcomes` has not seen. Returns whether there is one.
    ///
    /// The caller has a [`WaitSlot`], without which it would not be counted among the requests that have to be woken.
    pub(super) async fn wait_for_outcome<T>(
        &self,
        outcomes: &mut watch::Receiver<T>,
        deadline: Instant,
    ) -> bool {
        loop {
            let mut fetch_ended = pin!(self.fetch_ended.notified());
            // From here on, the end of a fetch wakes this request, so none is missed after the check.
            fetch_ended.as_mut().enable();
            if outcomes.borrow_and_update().has_changed() {
                return true;
            }
            if timeout_at(deadline, fetch_ended).await.is_err() {
                // The request may not have been woken yet.
                return outcomes.borrow_and_update().has_changed();
            }
        }
    }

    /// Wakes the requests after the outcome of a fetch has been published.
    ///
    /// They are woken one by one, and this yields to the runtime in between. If all of them were woken at once, a request that
    /// needs no newer keys and arrives at that moment would be served after all of their responses. The runtime may be busy with
    /// other requests, so this is limited to [`MAX_WAKING`].
    pub(super) async fn wake_one_by_one(&self) {
        let mut wakeups = Wakeups {
            requests: self,
            left: self.count.load(Ordering::SeqCst),
        };
        let one_by_one = async {
            while wakeups.wake_next() {
                yield_now().await;
            }
        };
        // If the time is up, dropping `wakeups` wakes the others.
        let _ = timeout(MAX_WAKING, one_by_one).await;
    }

    /// Wakes all requests at once.
    pub(super) fn wake_all(&self) {
        self.fetch_ended.notify_waiters();
    }
}

/// The requests that have yet to be woken at the end of a fetch. If it is dropped, as at the shutdown of a runtime, all are woken.
struct Wakeups<'r> {
    requests: &'r WaitingRequests,
    left: usize,
}

impl Wakeups<'_> {
    /// Wakes the request that has waited longest. Returns whether further ones are left.
    fn wake_next(&mut self) -> bool {
        // Some may have reached their deadline.
        self.left = self.left.min(self.requests.count.load(Ordering::Relaxed));
        if self.left > 0 {
            self.requests.fetch_ended.notify_one();
            self.left -= 1;
        }
        self.left > 0
    }
}

impl Drop for Wakeups<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.requests.wake_all();
        }
    }
}

/// A slot among the requests that wait for a fetch.
pub(super) struct WaitSlot<'r>(&'r WaitingRequests);

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
