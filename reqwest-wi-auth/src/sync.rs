//! Locks, atomics, channels, tasks and timers, which the unit tests replace.
//!
//! The library uses those of std, arc-swap and tokio. In the unit tests, the same names are wrappers that behave alike, but within
//! a [`model`] let a scheduler choose before each operation which thread or task runs next, so that a test explores the orders in
//! which they can run.

// `model` and `time` are the same files in both libraries.
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
    pub(crate) use arc_swap::{ArcSwap, ArcSwapOption};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use tokio::runtime::Handle;
    pub(crate) use tokio::sync::{Notify, watch};
    pub(crate) use tokio::task::{AbortHandle, spawn_blocking};

    pub(crate) mod atomic {
        pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
    }

    pub(crate) mod time {
        pub(crate) use tokio::time::{sleep, sleep_until, timeout, timeout_at};
    }

    pub(crate) mod thread {
        pub(crate) use std::thread::Builder;
    }
}

#[cfg(not(test))]
pub(crate) use self::system::*;

#[cfg(test)]
pub(crate) use self::model_runtime::ModelRuntime;
#[cfg(test)]
pub(crate) use self::{
    model_runtime::{AbortHandle, Handle, spawn_blocking, thread},
    model_types::{ArcSwap, ArcSwapOption, Condvar, Mutex, MutexGuard, Notify, atomic, watch},
};
