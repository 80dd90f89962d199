//! Locks, atomics, channels, tasks and timers, which the unit tests replace.
//!
//! The library uses those of std, arc-swap and tokio. In the unit tests, the same names are wrappers that behave alike, but within
//! a [`model`] let a scheduler choose before each operation which thread or task runs next, so that a test explores the orders in
//! which they can run.

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod model_runtime;
#[cfg(test)]
mod model_types;
#[cfg(test)]
pub(crate) mod time;

#[cfg(not(test))]
mod system {
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use arc_swap::ArcSwapOption;
    pub(crate) use thread_local::ThreadLocal;
    pub(crate) use tokio::runtime::Handle;
    pub(crate) use tokio::sync::{Notify, watch};

    pub(crate) mod atomic {
        pub(crate) use std::sync::atomic::{
            AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering,
        };
    }

    pub(crate) mod time {
        pub(crate) use tokio::time::{sleep_until, timeout, timeout_at};
    }
}

#[cfg(not(test))]
pub(crate) use self::system::*;

#[cfg(test)]
pub(crate) use self::model_runtime::ModelRuntime;
#[cfg(test)]
pub(crate) use self::{
    model_runtime::Handle,
    model_types::{ArcSwapOption, Mutex, MutexGuard, Notify, ThreadLocal, atomic, watch},
};

/// Returns a number from 0 to 1 that the scheduler of a model chooses, or `None` outside a model.
#[cfg(test)]
pub(crate) fn random() -> Option<f64> {
    use shuttle::rand::Rng as _;
    model::is_active().then(|| shuttle::rand::thread_rng().r#gen())
}
