//! What an issuer publishes, and what it signs with.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::signing_key::SigningKey;

/// An issuer, as its server and its handle share it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) url: String,
    keys: Mutex<Keys>,
    key_fetches: AtomicU64,
}

/// The key that signs, and those that are published beside it.
#[derive(Debug)]
struct Keys {
    current: Arc<SigningKey>,
    old: Vec<Arc<SigningKey>>,
}

impl State {
    pub(super) fn new(url: String) -> io::Result<Self> {
        let current = Arc::new(SigningKey::generate()?);
        let keys = Mutex::new(Keys {
            current,
            old: Vec::new(),
        });
        Ok(Self {
            url,
            keys,
            key_fetches: AtomicU64::new(0),
        })
    }

    pub(super) fn current(&self) -> Arc<SigningKey> {
        self.keys().current.clone()
    }

    /// Makes a new key the current one, and gives its `kid`.
    pub(super) fn rotate_key(&self) -> io::Result<String> {
        let key = Arc::new(SigningKey::generate()?);
        let kid = key.kid.clone();
        let mut keys = self.keys();
        let old = std::mem::replace(&mut keys.current, key);
        keys.old.insert(0, old);
        Ok(kid)
    }

    pub(super) fn withdraw_old_keys(&self) {
        self.keys().old.clear();
    }

    pub(super) fn key_fetches(&self) -> u64 {
        self.key_fetches.load(Ordering::Relaxed)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key set, newest key first as Kubernetes has it.
    pub(super) fn publish(&self) -> Value {
        self.key_fetches.fetch_add(1, Ordering::Relaxed);
        let keys = self.keys();
        let published = std::iter::once(&keys.current).chain(&keys.old);
        json!({ "keys": published.map(|key| key.jwk()).collect::<Vec<_>>() })
    }
}
