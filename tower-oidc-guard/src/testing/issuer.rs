//! An issuer of one's own.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::server::serve;
use super::signing_key::SigningKey;
use super::token::TokenSpec;

/// An issuer on loopback that publishes what a Kubernetes API server publishes, and signs with RS256.
///
/// It stops when dropped.
#[derive(Debug)]
pub struct TestIssuer {
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// What the server and its handle share.
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

impl TestIssuer {
    /// Starts an issuer on 127.0.0.1, on a port of the system's choice, with one key. Spawns a task on
    /// the current tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port can be had, or no key be generated.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let state = Arc::new(State {
            url: format!("http://{}", listener.local_addr()?),
            keys: Mutex::new(Keys {
                current: Arc::new(SigningKey::generate()?),
                old: Vec::new(),
            }),
            key_fetches: AtomicU64::new(0),
        });
        let server = tokio::spawn(serve(listener, state.clone()));
        Ok(Self { state, server })
    }

    /// Its URL, which is the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// A token to be minted with the current key.
    pub fn token(&self) -> TokenSpec {
        let key = self.state.keys().current.clone();
        TokenSpec::new(key, &self.state.url)
    }

    /// Publishes a new key and signs with it from now on; the old ones stay published. Returns the new
    /// key's `kid`.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key(&self) -> io::Result<String> {
        let key = Arc::new(SigningKey::generate()?);
        let kid = key.kid.clone();
        let mut keys = self.state.keys();
        let old = std::mem::replace(&mut keys.current, key);
        keys.old.insert(0, old);
        Ok(kid)
    }

    /// Publishes nothing but the current key from now on.
    pub fn withdraw_old_keys(&self) {
        self.state.keys().old.clear();
    }

    /// How often the key set has been fetched.
    pub fn key_fetches(&self) -> u64 {
        self.state.key_fetches.load(Ordering::Relaxed)
    }
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
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
