//! What an issuer publishes, and what it signs with.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use serde_json::{Value, json};

use super::signing_key::SigningKey;
use crate::verify::algorithm::Algorithm;

const JWKS_PATH: &str = "/openid/v1/jwks";
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// An issuer, as those who answer for it and its handle share it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) url: String,
    inner: Mutex<Inner>,
}

/// The key that signs, and those that are published beside it.
#[derive(Debug)]
struct Inner {
    current: Arc<SigningKey>,
    old: Vec<Arc<SigningKey>>,
    failure: Option<StatusCode>,
    key_fetches: u64,
}

/// A document, or why there is none.
pub(super) enum Published {
    Document {
        content_type: &'static str,
        body: String,
    },
    Failure(StatusCode),
}

impl State {
    pub(super) fn new(url: String) -> io::Result<Self> {
        let inner = Mutex::new(Inner {
            current: Arc::new(SigningKey::generate(Algorithm::RS256)?),
            old: Vec::new(),
            failure: None,
            key_fetches: 0,
        });
        Ok(Self { url, inner })
    }

    pub(super) fn current(&self) -> Arc<SigningKey> {
        self.inner().current.clone()
    }

    /// Makes a new key the current one, and gives its `kid`.
    pub(super) fn rotate_key(&self, algorithm: Option<Algorithm>) -> io::Result<String> {
        let algorithm = algorithm.unwrap_or_else(|| self.current().algorithm());
        let key = Arc::new(SigningKey::generate(algorithm)?);
        let kid = key.kid.clone();
        let mut inner = self.inner();
        let old = std::mem::replace(&mut inner.current, key);
        inner.old.insert(0, old);
        Ok(kid)
    }

    pub(super) fn withdraw_old_keys(&self) {
        self.inner().old.clear();
    }

    pub(super) fn fail(&self, status: Option<StatusCode>) {
        self.inner().failure = status;
    }

    pub(super) fn key_fetches(&self) -> u64 {
        self.inner().key_fetches
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at that path, as the Kubernetes API server has it.
    pub(super) fn publish(&self, path: &str) -> Published {
        let mut inner = self.inner();
        if path == JWKS_PATH {
            inner.key_fetches += 1;
        }
        if let Some(status) = inner.failure {
            return Published::Failure(status);
        }
        let (content_type, body) = match path {
            DISCOVERY_PATH => ("application/json", inner.discovery(&self.url)),
            JWKS_PATH => ("application/jwk-set+json", inner.key_set()),
            _ => return Published::Failure(StatusCode::NOT_FOUND),
        };
        Published::Document {
            content_type,
            body: body.to_string(),
        }
    }
}

impl Inner {
    fn keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// Newest key first, as Kubernetes has it.
    fn key_set(&self) -> Value {
        json!({ "keys": self.keys().map(|key| key.jwk()).collect::<Vec<_>>() })
    }

    fn discovery(&self, url: &str) -> Value {
        let mut algorithms: Vec<_> = self.keys().map(|key| key.algorithm().name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": url,
            "jwks_uri": format!("{url}{JWKS_PATH}"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}
