//! Locks, atomics and channels that let the scheduler of a model choose what runs before each operation.

use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Duration;

use super::model::{self, Uninterrupted, point};
use super::time;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

pub(crate) struct MutexGuard<'m, T> {
    mutex: &'m Mutex<T>,
    guard: std::sync::MutexGuard<'m, T>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        point();
        let guard = |guard| MutexGuard { mutex: self, guard };
        if !model::is_active() {
            return self
                .0
                .lock()
                .map(guard)
                .map_err(|error| PoisonError::new(guard(error.into_inner())));
        }
        loop {
            match self.0.try_lock() {
                Ok(locked) => return Ok(guard(locked)),
                Err(TryLockError::Poisoned(error)) => {
                    return Err(PoisonError::new(guard(error.into_inner())));
                }
                Err(TryLockError::WouldBlock) => model::spin(),
            }
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A condition variable. Only waiting with a time limit is supported.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    system: std::sync::Condvar,
    notified: tokio::sync::Notify,
}

/// Whether waiting for a condition variable has timed out.
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn notify_all(&self) {
        point();
        self.system.notify_all();
        self.notified.notify_waiters();
    }

    pub(crate) fn wait_timeout_while<'m, T>(
        &self,
        guard: MutexGuard<'m, T>,
        limit: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'m, T>, WaitTimeoutResult)> {
        let MutexGuard { mutex, guard } = guard;
        if !model::is_active() {
            let waited = self.system.wait_timeout_while(guard, limit, condition);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            let waited = WaitTimeoutResult(waited.timed_out());
            return Ok((MutexGuard { mutex, guard }, waited));
        }
        let deadline = tokio::time::Instant::now() + limit;
        let mut guard = MutexGuard { mutex, guard };
        while condition(&mut guard) {
            if tokio::time::Instant::now() >= deadline {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            let mut notified = Box::pin(self.notified.notified());
            notified.as_mut().enable();
            drop(guard);
            model::block_on(async {
                let _ = time::timeout_at(deadline, notified).await;
            });
            guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        }
        Ok((guard, WaitTimeoutResult(false)))
    }
}

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;

    use super::point;

    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(std::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) const fn new(value: bool) -> Self {
            Self(std::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            point();
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            point();
            self.0.store(value, order);
        }
    }
}

/// A swappable pointer. Methods that are not listed have no scheduling point.
pub(crate) struct ArcSwap<T>(arc_swap::ArcSwap<T>);

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value))
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<std::sync::Arc<T>> {
        point();
        self.0.load()
    }

    pub(crate) fn load_full(&self) -> std::sync::Arc<T> {
        point();
        self.0.load_full()
    }

    pub(crate) fn swap(&self, value: std::sync::Arc<T>) -> std::sync::Arc<T> {
        point();
        self.0.swap(value)
    }
}

/// A swappable optional pointer.
pub(crate) struct ArcSwapOption<T>(arc_swap::ArcSwapOption<T>);

impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        Self(arc_swap::ArcSwapOption::empty())
    }

    pub(crate) fn load_full(&self) -> Option<std::sync::Arc<T>> {
        point();
        self.0.load_full()
    }

    pub(crate) fn store(&self, value: Option<std::sync::Arc<T>>) {
        point();
        self.0.store(value);
    }
}

/// A notification of one task.
#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn notify_one(&self) {
        point();
        self.0.notify_one();
    }

    pub(crate) async fn notified(&self) {
        point();
        self.0.notified().await;
    }
}

/// A channel that keeps its last value.
pub(crate) mod watch {
    use std::ops::Deref;

    use super::{Uninterrupted, point};

    #[derive(Debug, Default)]
    pub(crate) struct Sender<T>(tokio::sync::watch::Sender<T>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(tokio::sync::watch::Receiver<T>);

    /// A borrowed value. It holds a lock of the channel.
    pub(crate) struct Ref<'r, T> {
        value: tokio::sync::watch::Ref<'r, T>,
        _uninterrupted: Uninterrupted,
    }

    impl<T> Deref for Ref<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(tokio::sync::watch::Sender::new(value))
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            point();
            Receiver(self.0.subscribe())
        }

        pub(crate) fn borrow(&self) -> Ref<'_, T> {
            point();
            Ref {
                value: self.0.borrow(),
                _uninterrupted: Uninterrupted::new(),
            }
        }

        pub(crate) fn send_replace(&self, value: T) -> T {
            point();
            self.0.send_replace(value)
        }

        pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            point();
            let _uninterrupted = Uninterrupted::new();
            self.0.send_modify(modify);
        }

        pub(crate) fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
            point();
            let _uninterrupted = Uninterrupted::new();
            self.0.send_if_modified(modify)
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn borrow(&self) -> Ref<'_, T> {
            point();
            Ref {
                value: self.0.borrow(),
                _uninterrupted: Uninterrupted::new(),
            }
        }

        pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
            point();
            Ref {
                value: self.0.borrow_and_update(),
                _uninterrupted: Uninterrupted::new(),
            }
        }

        pub(crate) async fn changed(&mut self) -> Result<(), tokio::sync::watch::error::RecvError> {
            point();
            self.0.changed().await
        }

        pub(crate) async fn wait_for(
            &mut self,
            condition: impl FnMut(&T) -> bool,
        ) -> Result<(), tokio::sync::watch::error::RecvError> {
            point();
            self.0.wait_for(condition).await.map(drop)
        }
    }
}
