//! The work that other clients do for each request, re-created from their documentation and source. It is not their code.

use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;

/// client-go: locks a mutex, reads the clock, copies the token, and formats a new header.
pub(crate) struct ClientGo(pub Mutex<(String, Instant)>);

impl ClientGo {
    pub(crate) fn new(token: &str) -> Self {
        Self(Mutex::new((token.to_owned(), Instant::now())))
    }

    pub(crate) fn set_header(&self, headers: &mut HeaderMap) {
        let Ok(cached) = self.0.lock() else { return };
        let is_fresh = cached.1.elapsed() < Duration::from_secs(50);
        let token = cached.0.clone();
        drop(cached);
        let value = format!("Bearer {token}");
        if let (true, Ok(value)) = (is_fresh, HeaderValue::from_str(&value)) {
            headers.insert("authorization", value);
        }
    }
}

/// kube-rs: locks for reading, formats a new header, and marks it as sensitive.
pub(crate) struct KubeRs(pub RwLock<(String, Instant)>);

impl KubeRs {
    pub(crate) fn new(token: &str) -> Self {
        Self(RwLock::new((token.to_owned(), Instant::now())))
    }

    pub(crate) fn set_header(&self, headers: &mut HeaderMap) {
        let Ok(cached) = self.0.read() else { return };
        let is_fresh = cached.1.elapsed() < Duration::from_secs(60);
        let value = HeaderValue::try_from(format!("Bearer {}", cached.0));
        if let (true, Ok(mut value)) = (is_fresh, value) {
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
    }
}

/// google-cloud-auth: reads a channel, formats a new header, and copies a map of headers.
pub(crate) struct GoogleCloudAuth(pub watch::Receiver<String>);

impl GoogleCloudAuth {
    pub(crate) fn new(token: &str) -> Self {
        Self(watch::channel(token.to_owned()).1)
    }

    pub(crate) fn set_header(&self, headers: &mut HeaderMap) {
        let token = self.0.borrow().clone();
        let mut own = HeaderMap::new();
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            value.set_sensitive(true);
            own.insert("authorization", value);
        }
        headers.extend(own);
    }
}
