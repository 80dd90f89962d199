//! The keys and documents of a fake issuer.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use url::Url;

use super::claims::{GITHUB_ACTIONS, GOOGLE, TestClaims};
use super::kubernetes_http::{
    AcceptHeader, DISCOVERY_PATH, JWKS_PATH, document, negotiate, status, unauthorized,
};
use super::signing_key::SigningKey;
use super::token::TokenSpec;
use super::{google_http, kubernetes_http};
use crate::jose::algorithm::Algorithm;

/// The keys and documents of a fake issuer, shared by its handle and its server.
#[derive(Debug)]
pub(super) struct IssuerState {
    /// The `iss` of its tokens.
    pub(super) url: String,
    pub(super) kind: IssuerKind,
    /// The URL below which the documents are published.
    location: String,
    inner: Mutex<Inner>,
}

/// The kind of issuer, which determines its documents, its responses and the claims of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IssuerKind {
    Kubernetes,
    Google,
    GitHubActions,
    GitLab,
}

impl IssuerKind {
    /// Returns the path of the key set.
    fn key_set_path(self) -> &'static str {
        match self {
            Self::Kubernetes => JWKS_PATH,
            Self::Google => google_http::JWKS_PATH,
            Self::GitHubActions => "/.well-known/jwks",
            Self::GitLab => "/oauth/discovery/keys",
        }
    }
}

/// A document that an issuer publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Document {
    Discovery,
    KeySet,
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
    /// Creates an issuer that publishes its documents below its own URL, as Kubernetes does.
    pub(super) fn kubernetes(url: String) -> io::Result<Self> {
        Self::new(url.clone(), IssuerKind::Kubernetes, url)
    }

    /// Creates the issuer of Google's tokens, which publishes its documents below this URL.
    pub(super) fn google(location: String) -> io::Result<Self> {
        Self::new(GOOGLE.to_owned(), IssuerKind::Google, location)
    }

    /// Creates the issuer of the tokens of GitHub Actions, which publishes its documents below this URL.
    pub(super) fn github_actions(location: String) -> io::Result<Self> {
        Self::new(
            GITHUB_ACTIONS.to_owned(),
            IssuerKind::GitHubActions,
            location,
        )
    }

    /// Creates an instance of GitLab, which publishes its documents below its own URL.
    pub(super) fn gitlab(url: String) -> io::Result<Self> {
        Self::new(url.clone(), IssuerKind::GitLab, url)
    }

    fn new(url: String, kind: IssuerKind, location: String) -> io::Result<Self> {
        let inner = Mutex::new(Inner {
            current: Arc::new(SigningKey::generate(Algorithm::RS256)?),
            old: Vec::new(),
            failure: None,
            accept_header: AcceptHeader::Respected,
            discovery_members: Map::new(),
            key_fetches: 0,
        });
        Ok(Self {
            url,
            kind,
            location,
            inner,
        })
    }

    /// Returns a token to be minted with the current key.
    pub(super) fn token(&self) -> TokenSpec {
        let claims = match self.kind {
            IssuerKind::Kubernetes => TestClaims::kubernetes(&self.url, "default", "default"),
            IssuerKind::Google => TestClaims::google(&self.url),
            IssuerKind::GitHubActions => TestClaims::github_actions(&self.url),
            IssuerKind::GitLab => TestClaims::gitlab(&self.url),
        };
        TokenSpec::new(self.current(), claims)
    }

    /// Returns the URL of the discovery document.
    pub(super) fn discovery_url(&self) -> String {
        format!("{}{DISCOVERY_PATH}", self.location.trim_end_matches('/'))
    }

    /// Returns the URL of the key set.
    fn jwks_uri(&self) -> String {
        match self.kind {
            IssuerKind::Google if self.location == GOOGLE => google_http::JWKS_URI.to_owned(),
            IssuerKind::Google => format!("{}{}", self.location, google_http::JWKS_PATH),
            kind => {
                let location = self.location.trim_end_matches('/');
                format!("{location}{}", kind.key_set_path())
            }
        }
    }

    /// Returns whether a document of this issuer is published at this URL, or would be if it existed, and how specific the
    /// URL of the issuer is.
    pub(super) fn owns(&self, url: &Url) -> Option<usize> {
        let own = Url::parse(&self.location).ok()?;
        let path = own.path().trim_end_matches('/');
        let is_below = own.origin() == url.origin()
            && url
                .path()
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (is_below || url.as_str() == self.jwks_uri()).then_some(path.len())
    }

    /// Returns the document at a path, or `None` if there is none. The path may contain the path of the
    /// issuer's URL or not.
    fn document_at(&self, path: &str) -> Option<Document> {
        let own = Url::parse(&self.location).ok();
        let own = own
            .as_ref()
            .map_or("", |own| own.path().trim_end_matches('/'));
        let path = path.strip_prefix(own).unwrap_or(path);
        let key_set = self.kind.key_set_path();
        match path {
            DISCOVERY_PATH => Some(Document::Discovery),
            path if path == key_set => Some(Document::KeySet),
            _ => None,
        }
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
        drop(inner);
        let mut document = json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        });
        self.add_discovery_members(&mut document);
        document
    }

    /// Returns the response to a request.
    pub(super) fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Response<String> {
        let document = self.document_at(path);
        if document == Some(Document::KeySet) {
            self.inner().key_fetches += 1;
        }
        let failure = self.inner().failure;
        if let Some(code) = failure {
            return status(code, "Failure", "set to fail by the test", None);
        }
        match self.kind {
            IssuerKind::Kubernetes => self.respond_like_kubernetes(method, document, headers),
            IssuerKind::Google | IssuerKind::GitHubActions | IssuerKind::GitLab => {
                self.respond_publicly(method, document)
            }
        }
    }

    /// Returns the response of a Kubernetes API server that publishes its documents to everyone.
    ///
    /// Such a server authenticates a token that is sent to it nevertheless, and this one accepts none.
    fn respond_like_kubernetes(
        &self,
        method: &Method,
        requested: Option<Document>,
        headers: &HeaderMap,
    ) -> Response<String> {
        if headers.contains_key(AUTHORIZATION) {
            return unauthorized();
        }
        let (media_type, published) = match requested {
            None => {
                let message = "the server could not find the requested resource";
                return status(StatusCode::NOT_FOUND, "NotFound", message, Some(json!({})));
            }
            Some(Document::Discovery) => (
                kubernetes_http::DISCOVERY_TYPE,
                self.discovery(&self.url, &self.jwks_uri()),
            ),
            Some(Document::KeySet) => (kubernetes_http::KEY_SET_TYPE, self.key_set()),
        };
        let accept_header = self.inner().accept_header;
        if let Err(refused) = negotiate(method, headers, media_type, accept_header) {
            return *refused;
        }
        document(media_type, &published)
    }

    /// Returns the response of an issuer on the internet, which ignores `Accept` and `Authorization`.
    fn respond_publicly(&self, method: &Method, requested: Option<Document>) -> Response<String> {
        match requested {
            None => google_http::not_found(),
            Some(_) if method != Method::GET && method != Method::HEAD => {
                google_http::method_not_allowed()
            }
            Some(Document::Discovery) => {
                let mut document = self.discovery(&self.url, &self.jwks_uri());
                if self.kind == IssuerKind::Google {
                    google_http::add_members(&mut document);
                }
                self.add_discovery_members(&mut document);
                google_http::document(&document)
            }
            Some(Document::KeySet) => google_http::key_set(&self.key_set()),
        }
    }

    fn add_discovery_members(&self, document: &mut Value) {
        for (name, value) in &self.inner().discovery_members {
            document[name.as_str()] = value.clone();
        }
    }
}

impl Inner {
    /// Returns the published keys, newest first.
    fn keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        std::iter::once(&self.current).chain(&self.old)
    }
}
