//! The settings as layers and services hold them, without a reference count that all threads write.
//!
//! Servers clone a service for each request: hyper-util's adapter for tower services does, and axum's router. If all clones
//! counted their references in one place, the cache line of that count would move from core to core with each request. So each
//! thread that clones a service has its own [handle](Handle), which the clones that it makes share.
//!
//! The handles are kept until the layer and all services that it was applied to are gone. Clones of those services do not keep
//! them, since that would be a shared count again. A clone that outlives them all keeps the settings, and shares its handle with
//! its own clones.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thread_local::ThreadLocal;

use super::admission_slot::{AdmissionSlot, CurrentAdmission};

/// The settings of a guard with the policy of one layer, as a layer holds them.
#[derive(Clone)]
pub(super) struct LayerSlot(Arc<Owner>);

/// The settings of a guard with the policy of one layer, as a service holds them.
pub(super) struct ServiceSlot {
    handle: Arc<Handle>,
    /// `None` for the clone of a service.
    _owner: Option<Arc<Owner>>,
}

/// Keeps the handles of all threads.
struct Owner {
    slot: AdmissionSlot,
    handles: Arc<Handles>,
}

/// The handle of one thread.
///
/// Because of the alignment, its reference count, which one thread writes, is not on the same cache line as the fields, which all
/// threads read.
#[repr(align(64))]
struct Handle {
    slot: AdmissionSlot,
    handles: Arc<Handles>,
}

/// The handles of all threads, which refer to this in turn until it is closed.
#[derive(Default)]
struct Handles {
    of_threads: ThreadLocal<ThreadHandle>,
    is_closed: AtomicBool,
}

/// The handle of a thread, with nothing else on its cache lines. Only the thread itself locks it, until the handles are closed.
#[repr(align(128))]
#[derive(Default)]
struct ThreadHandle(Mutex<Option<Arc<Handle>>>);

impl LayerSlot {
    pub(super) fn new(slot: AdmissionSlot) -> Self {
        let handles = Arc::default();
        Self(Arc::new(Owner { slot, handles }))
    }

    pub(super) fn slot(&self) -> &AdmissionSlot {
        &self.0.slot
    }

    /// Returns the settings for a service that the layer is applied to.
    pub(super) fn service(&self) -> ServiceSlot {
        let Owner { slot, handles } = &*self.0;
        ServiceSlot {
            handle: Handle::new(slot, handles),
            _owner: Some(self.0.clone()),
        }
    }
}

impl ServiceSlot {
    /// Returns the settings that are in effect.
    #[inline]
    pub(super) fn load(&self) -> CurrentAdmission<'_> {
        self.handle.slot.load()
    }
}

impl Clone for ServiceSlot {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.of_this_thread(),
            _owner: None,
        }
    }
}

impl Handle {
    fn new(slot: &AdmissionSlot, handles: &Arc<Handles>) -> Arc<Self> {
        Arc::new(Self {
            slot: slot.clone(),
            handles: handles.clone(),
        })
    }

    #[inline]
    fn of_this_thread(self: &Arc<Self>) -> Arc<Self> {
        if let Some(thread) = self.handles.of_threads.get()
            && let Some(own) = &*thread.lock()
        {
            return own.clone();
        }
        self.add_thread()
    }

    /// Adds a handle for this thread, unless the handles are closed.
    #[cold]
    fn add_thread(self: &Arc<Self>) -> Arc<Self> {
        let thread = self.handles.of_threads.get_or_default();
        let mut own = thread.lock();
        // Either this thread sees that the handles are closed, or `close` sees this thread.
        fence(Ordering::SeqCst);
        if self.handles.is_closed.load(Ordering::Relaxed) {
            return self.clone();
        }
        own.insert(Self::new(&self.slot, &self.handles)).clone()
    }
}

impl ThreadHandle {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Handle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handles {
    /// Drops the handles of all threads. No thread gets another.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        for thread in self.of_threads.iter() {
            let handle = thread.lock().take();
            // Unlocked, since the settings may end with it.
            drop(handle);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.handles.close();
    }
}

impl fmt::Debug for LayerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot().fmt(f)
    }
}

impl fmt::Debug for ServiceSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.slot.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::thread;

    use super::*;
    use crate::guard::OidcGuard;
    use crate::issuer::Issuer;

    fn layer() -> LayerSlot {
        let issuer = Issuer::google().audience("https://auth-server.example");
        let guard = OidcGuard::builder().issuer(issuer).any_verified_caller();
        LayerSlot::new(guard.build().expect("a guard").admission.clone())
    }

    fn handles(slot: &ServiceSlot) -> Weak<Handles> {
        Arc::downgrade(&slot.handle.handles)
    }

    #[test]
    fn each_thread_has_its_own_handle() {
        let layer = layer();
        let service = layer.service();
        let other = thread::scope(|scope| {
            let of_thread = scope.spawn(|| {
                let (first, second) = (service.clone(), service.clone());
                assert!(Arc::ptr_eq(&first.handle, &second.handle));
                // A clone that arrives from another thread leads to the handle of this one.
                assert!(Arc::ptr_eq(&first.clone().handle, &first.handle));
                first
            });
            of_thread.join().expect("no panic")
        });
        let own = service.clone();
        assert!(!Arc::ptr_eq(&own.handle, &other.handle));
        assert!(Arc::ptr_eq(&other.clone().handle, &own.handle));
    }

    #[test]
    fn nothing_is_left_of_a_layer_and_its_services() {
        let layer = layer();
        let service = layer.service();
        let weak = handles(&service);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| drop(service.clone()));
            }
        });
        drop(layer);
        assert!(weak.strong_count() > 0, "the service keeps its handles");
        drop(service);
        assert_eq!(weak.strong_count(), 0);
    }

    #[test]
    fn a_clone_outlives_the_layer_and_the_service() {
        let layer = layer();
        let service = layer.service();
        let (clone, weak) = (service.clone(), handles(&service));
        drop((layer, service));
        let other = thread::scope(|scope| {
            let cloned = scope.spawn(|| clone.clone());
            cloned.join().expect("no panic")
        });
        assert!(Arc::ptr_eq(&other.handle, &clone.handle));
        assert!(other.load().protected_resource().is_none());
        drop((clone, other));
        assert_eq!(weak.strong_count(), 0);
    }

    #[test]
    fn nothing_is_left_if_threads_clone_a_service_while_it_is_dropped() {
        for _ in 0..200 {
            let layer = layer();
            let service = layer.service();
            let (clone, weak) = (service.clone(), handles(&service));
            thread::scope(|scope| {
                scope.spawn(|| (0..10).for_each(|_| drop(clone.clone())));
                drop((layer, service));
            });
            drop(clone);
            assert_eq!(weak.strong_count(), 0);
        }
    }
}
