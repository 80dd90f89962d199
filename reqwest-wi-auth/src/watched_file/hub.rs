//! The one watcher that all followed files of a process share: the system grants few of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// The hub of this process, while somebody uses it.
static HUB: Mutex<Weak<Hub>> = Mutex::new(Weak::new());

/// The watcher, and who wants to know of which folder.
///
/// The interests have a lock of their own, since the watcher's thread takes it while another thread,
/// holding the watcher's lock, waits for that thread.
struct Hub {
    watcher: Mutex<RecommendedWatcher>,
    interests: Arc<Mutex<Interests>>,
}

type Interests = HashMap<PathBuf, Vec<Arc<Bell>>>;

/// Rung at each change in a folder.
#[derive(Debug, Default)]
pub(super) struct Bell {
    changed: Notify,
    lost: AtomicBool,
}

/// Keeps a folder watched.
pub(super) struct Interest {
    hub: Arc<Hub>,
    folder: PathBuf,
    bell: Arc<Bell>,
}

impl Bell {
    /// Waits for a change. One that came since the last call counts. Cancel-safe.
    pub(super) async fn rung(&self) {
        self.changed.notified().await;
    }

    pub(super) fn ring(&self) {
        self.changed.notify_one();
    }

    /// Whether a watch may have been lost since the last call, so that it has to be set again.
    pub(super) fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }

    fn ring_lost(&self) {
        self.lost.store(true, Ordering::Release);
        self.ring();
    }
}

impl Interest {
    /// Has a bell rung at changes in a folder, until dropped. Blocks for a moment.
    pub(super) fn watch(folder: &Path, bell: &Arc<Bell>) -> notify::Result<Self> {
        let hub = Hub::shared()?;
        let mut watcher = lock(&hub.watcher);
        // Set again even where it is watched already: the folder may be another one of the same name.
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        lock(&hub.interests)
            .entry(folder.to_owned())
            .or_default()
            .push(bell.clone());
        drop(watcher);
        Ok(Self {
            hub,
            folder: folder.to_owned(),
            bell: bell.clone(),
        })
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut watcher = lock(&self.hub.watcher);
        let mut interests = lock(&self.hub.interests);
        let Some(bells) = interests.get_mut(&self.folder) else {
            return;
        };
        if let Some(index) = bells.iter().position(|bell| Arc::ptr_eq(bell, &self.bell)) {
            bells.swap_remove(index);
        }
        if bells.is_empty() {
            interests.remove(&self.folder);
            drop(interests);
            // A folder that is gone has taken its watch along.
            let _ = watcher.unwatch(&self.folder);
        }
    }
}

impl Hub {
    fn shared() -> notify::Result<Arc<Self>> {
        let mut shared = lock(&HUB);
        if let Some(hub) = shared.upgrade() {
            return Ok(hub);
        }
        let interests = Arc::<Mutex<Interests>>::default();
        let told = interests.clone();
        let watcher = notify::recommended_watcher(move |event| tell(&told, event))?;
        let hub = Arc::new(Self {
            watcher: Mutex::new(watcher),
            interests,
        });
        *shared = Arc::downgrade(&hub);
        Ok(hub)
    }
}

/// Runs on the watcher's thread.
fn tell(interests: &Mutex<Interests>, event: notify::Result<Event>) {
    let interests = lock(interests);
    match event {
        Ok(event) if is_mere_access(&event.kind) => {}
        Ok(event) if !event.need_rescan() && !event.paths.is_empty() => {
            let removed = matches!(event.kind, EventKind::Remove(_));
            for path in &event.paths {
                for bell in interests.get(path).into_iter().flatten() {
                    if removed {
                        bell.ring_lost()
                    } else {
                        bell.ring()
                    }
                }
                let parent = path.parent().and_then(|parent| interests.get(parent));
                parent.into_iter().flatten().for_each(|bell| bell.ring());
            }
        }
        // Events were dropped, or the watcher failed: everyone looks, and watches anew.
        _ => interests
            .values()
            .flatten()
            .for_each(|bell| bell.ring_lost()),
    }
}

/// Reading excites the watcher too; only the end of writing says something new.
fn is_mere_access(kind: &EventKind) -> bool {
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    kind.is_access() && *kind != written
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
