//! The keys and documents of a fake issuer.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::kubernetes_http::{
    AcceptHeader, DISCOVERY_PATH, JWKS_PATH, document, document_type, negotiate, status,
    unauthorized,
};
use super::signing_key::SigningKey;
use crate::jose::algorithm::Algorithm;

/// The keys and documents of a fake issuer, shared by its handle and its server.
#[derive(Debug)]
pub(super) struct IssuerState {
    pub(super) url: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The key that signs.
    current: Arc<SigningKey>,
    /// The keys that are published as well, newest first.
    old: Vec<Arc<SigningKey>>,
    /// The status of every response, if it is set.
    failure: Option<StatusCode>,
    accept_header: AcceptHeader,
    /// Members that the discovery document has beside its own, or instead of them.
    discovery_members: Map<String, Value>,
    key_fetches: u64,
}

impl IssuerState {
    pub(super) fn new(url: String) -> io::Result<Self> {
        let inner = Mutex::new(Inner {
            current: Arc::new(SigningKey::generate(Algorithm::RS256)?),
            old: Vec::new(),
            failure: None,
            accept_header: AcceptHeader::Respected,
            discovery_members: Map::new(),
            key_fetches: 0,
        });
        Ok(Self { url, inner })
    }

    /// Returns the key that signs.
    pub(super) fn current(&self) -> Arc<SigningKey> {
        self.inner().current.clone()
    }

    /// Generates a key, of the current key's algorithm if `algorithm` is `None`, and signs with it from now on. Returns its
    /// `kid`.
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

    /// Sets the status of every response, or restores the normal responses if `status` is `None`.
    pub(super) fn set_failure(&self, status: Option<StatusCode>) {
        self.inner().failure = status;
    }

    pub(super) fn set_accept_header(&self, accept_header: AcceptHeader) {
        self.inner().accept_header = accept_header;
    }

    pub(super) fn set_discovery_member(&self, name: String, value: Value) {
        self.inner().discovery_members.insert(name, value);
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

    /// Returns the discovery document of an issuer with these keys.
    pub(super) fn discovery(&self, issuer: &str, jwks_uri: &str) -> Value {
        let inner = self.inner();
        let mut algorithms: Vec<_> = inner.keys().map(|key| key.algorithm().name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let mut document = json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        });
        for (name, value) in &inner.discovery_members {
            document[name.as_str()] = value.clone();
        }
        document
    }

    /// Returns the response of a Kubernetes API server that publishes its documents to everyone.
    ///
    /// Such a server authenticates a token that is sent to it nevertheless, and this one accepts none.
    pub(super) fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Response<String> {
        if path == JWKS_PATH {
            self.inner().key_fetches += 1;
        }
        let (failure, accept_header) = {
            let inner = self.inner();
            (inner.failure, inner.accept_header)
        };
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
        if let Err(refused) = negotiate(method, headers, media_type, accept_header) {
            return *refused;
        }
        let published = match path {
            DISCOVERY_PATH => self.discovery(&self.url, &format!("{}{JWKS_PATH}", self.url)),
            _ => self.key_set(),
        };
        document(media_type, &published)
    }
}

impl Inner {
    /// Returns the published keys, newest first.
    fn keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        std::iter::once(&self.current).chain(&self.old)
    }
}
