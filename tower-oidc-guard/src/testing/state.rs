//! What an issuer publishes, and what it signs with.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::kubernetes_http::{
    DISCOVERY_PATH, JWKS_PATH, document, document_type, negotiate, status, unauthorized,
};
use super::signing_key::SigningKey;
use crate::jose::algorithm::Algorithm;

/// An issuer's keys and documents, shared by its handle and by whoever answers for it.
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
    ignores_accept: bool,
    key_fetches: u64,
}

impl State {
    pub(super) fn new(url: String) -> io::Result<Self> {
        let inner = Mutex::new(Inner {
            current: Arc::new(SigningKey::generate(Algorithm::RS256)?),
            old: Vec::new(),
            failure: None,
            ignores_accept: false,
            key_fetches: 0,
        });
        Ok(Self { url, inner })
    }

    pub(super) fn current(&self) -> Arc<SigningKey> {
        self.inner().current.clone()
    }

    /// Makes a new key the current one, and returns its `kid`.
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

    pub(super) fn ignore_accept(&self) {
        self.inner().ignores_accept = true;
    }

    pub(super) fn key_fetches(&self) -> u64 {
        self.inner().key_fetches
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the key set, newest key first, as Kubernetes publishes it.
    pub(super) fn key_set(&self) -> Value {
        let inner = self.inner();
        json!({ "keys": inner.keys().map(|key| key.jwk()).collect::<Vec<_>>() })
    }

    /// Returns the discovery document of that issuer, whose keys are at that URL.
    pub(super) fn discovery(&self, issuer: &str, jwks_uri: &str) -> Value {
        let inner = self.inner();
        let mut algorithms: Vec<_> = inner.keys().map(|key| key.algorithm().name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// Answers a request as a Kubernetes API server does that publishes its documents to everyone.
    ///
    /// Such a server still looks at a token that is sent to it, and this one knows none.
    pub(super) fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Response<String> {
        if path == JWKS_PATH {
            self.inner().key_fetches += 1;
        }
        let failure = self.inner().failure;
        if let Some(code) = failure {
            return status(code, "Failure", "set to fail by the test", None);
        }
        if headers.contains_key(AUTHORIZATION) {
            return unauthorized();
        }
        let Some(media_type) = document_type(path) else {
            let message = "the server could not find the requested resource";
            return status(StatusCode::NOT_FOUND, "NotFound", message, Some(json!({})));
        };
        let anything = HeaderMap::new();
        let headers = match self.inner().ignores_accept {
            true => &anything,
            false => headers,
        };
        if let Err(refusal) = negotiate(method, headers, media_type) {
            return *refusal;
        }
        let published = match path {
            DISCOVERY_PATH => self.discovery(&self.url, &format!("{}{JWKS_PATH}", self.url)),
            _ => self.key_set(),
        };
        document(media_type, &published)
    }
}

impl Inner {
    fn keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        std::iter::once(&self.current).chain(&self.old)
    }
}
