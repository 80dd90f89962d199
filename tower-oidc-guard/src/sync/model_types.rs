//! Locks, atomics and channels that let the scheduler of a model choose what runs before each operation.

use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError};

use super::model::{self, Uninterrupted, point};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

pub(crate) struct MutexGuard<'m, T>(std::sync::MutexGuard<'m, T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        point();
        if !model::is_active() {
            return self
                .0
                .lock()
                .map(MutexGuard)
                .map_err(|error| PoisonError::new(MutexGuard(error.into_inner())));
        }
        loop {
            match self.0.try_lock() {
                Ok(locked) => return Ok(MutexGuard(locked)),
                Err(TryLockError::Poisoned(error)) => {
                    return Err(PoisonError::new(MutexGuard(error.into_inner())));
                }
                Err(TryLockError::WouldBlock) => model::spin(),
            }
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;

    use super::point;

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name(std::sync::atomic::$name);

            #[allow(dead_code)]
            impl $name {
                pub(crate) const fn new(value: $value) -> Self {
                    Self(std::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    point();
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    point();
                    self.0.store(value, order);
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.swap(value, order)
                }
            }
        };
    }

    macro_rules! arithmetic {
        ($name:ident, $value:ty) => {
            #[allow(dead_code)]
            impl $name {
                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_add(value, order)
                }

                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_sub(value, order)
                }

                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    point();
                    self.0.fetch_update(set, fetch, update)
                }
            }
        };
    }

    atomic!(AtomicBool, bool);
    atomic!(AtomicU8, u8);
    atomic!(AtomicU64, u64);
    atomic!(AtomicUsize, usize);
    arithmetic!(AtomicU64, u64);
    arithmetic!(AtomicUsize, usize);
}

/// A swappable optional pointer.
pub(crate) struct ArcSwapOption<T>(arc_swap::ArcSwapOption<T>);

impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        Self(arc_swap::ArcSwapOption::empty())
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Option<std::sync::Arc<T>>> {
        point();
        self.0.load()
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

/// A value for each thread, also for each of a model, which all run on one thread of the process.
pub(crate) struct ThreadLocal<T: Send>([thread_local::ThreadLocal<T>; MODEL_THREADS]);

/// More than any model has.
const MODEL_THREADS: usize = 16;

impl<T: Send> ThreadLocal<T> {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| thread_local::ThreadLocal::new()))
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.own().get()
    }

    pub(crate) fn get_or_default(&self) -> &T
    where
        T: Default,
    {
        self.own().get_or_default()
    }

    fn own(&self) -> &thread_local::ThreadLocal<T> {
        let thread = if model::is_active() {
            shuttle::current::get_current_task().map_or(0, usize::from)
        } else {
            0
        };
        &self.0[thread % MODEL_THREADS]
    }
}

/// A notification of one task.
#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

#[allow(dead_code)]
impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        point();
        self.0.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        point();
        self.0.notify_waiters();
    }

    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        point();
        self.0.notified()
    }
}

/// A channel that keeps its last value.
pub(crate) mod watch {
    use std::ops::Deref;

    use super::{Uninterrupted, point};

    #[derive(Debug, Default)]
    pub(crate) struct Sender<T>(tokio::sync::watch::Sender<T>);

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(tokio::sync::watch::Receiver<T>);

    /// A borrowed value. It holds a lock of the channel.
    pub(crate) struct Ref<'r, T> {
        value: tokio::sync::watch::Ref<'r, T>,
        _uninterrupted: Uninterrupted,
    }

    impl<T> Ref<'_, T> {
        pub(crate) fn has_changed(&self) -> bool {
            self.value.has_changed()
        }
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

        pub(crate) fn receiver_count(&self) -> usize {
            point();
            self.0.receiver_count()
        }

        pub(crate) fn same_channel(&self, other: &Self) -> bool {
            self.0.same_channel(&other.0)
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
