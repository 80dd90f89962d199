//! Services to mount beside the guarded routes: a readiness probe, and the metadata of the protected resource.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tower_service::Service;
use url::Url;

use super::admission_slot::AdmissionSlot;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A service for readiness probes. Created by [`OidcGuard::readiness`](super::OidcGuard::readiness).
///
/// It responds to any request with 200 while there are usable keys of every issuer, or of those that
/// [`ready_when`](super::OidcGuardBuilder::ready_when) requires, and with 503 otherwise.
///
/// The body is plain text. It is `ready`, or one line for each issuer without keys: `no keys of`, the issuer's label, and the
/// whole chain of causes, as the `Display` form of [`IssuerHealth`](crate::IssuerHealth). While the guard is ready, these lines
/// follow the line `ready`. They contain the URL or path that failed, and no part of a token.
///
/// Mount it where only probes and operators can reach it, such as on a separate port: the causes name hosts and files of the
/// deployment, and whether a connection to a host that a discovery document names succeeds.
#[derive(Debug, Clone)]
pub struct Readiness {
    admission: AdmissionSlot,
}

impl Readiness {
    pub(super) fn new(admission: AdmissionSlot) -> Self {
        Self { admission }
    }
}

impl<B> Service<Request<B>> for Readiness {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.admission.ensure_watched();
        let verifier = &self.admission.load().verifier;
        // A server that is not ready may get no other request that would start the fetch.
        verifier.prefetch();
        let health = verifier.health();
        let is_ready = verifier.is_ready(&health);
        let missing = health.iter().filter(|issuer| !issuer.is_ready);
        let ready_line = is_ready.then(|| "ready".to_owned());
        let lines = ready_line
            .into_iter()
            .chain(missing.map(ToString::to_string));
        let text = lines.collect::<Vec<_>>().join("\n");
        let mut response = Response::new(Full::from(text));
        if !is_ready {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        let plain_text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain_text);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        ready(Ok(response))
    }
}

/// A protected resource (RFC 9728).
#[derive(Debug, Clone)]
pub(super) struct ProtectedResource {
    resource: String,
    pub(super) metadata_url: String,
    pub(super) metadata_path: String,
}

impl ProtectedResource {
    /// Creates a protected resource. Returns `None` if `resource` is not an https URL without a fragment (section 1.2).
    pub(super) fn new(resource: &str) -> Option<Self> {
        let url = Url::parse(resource)
            .ok()
            .filter(|url| url.scheme() == "https" && url.fragment().is_none() && url.has_host())?;
        // Section 3.1: the well-known path is inserted between the host and the path of the resource.
        let metadata_path = format!("{WELL_KNOWN}{}", url.path().trim_end_matches('/'));
        let mut metadata_url = url;
        metadata_url.set_path(&metadata_path);
        Some(Self {
            resource: resource.to_owned(),
            metadata_url: metadata_url.into(),
            metadata_path,
        })
    }
}

/// A service that responds to any request with the metadata of the protected resource (RFC 9728): its URL, the trusted
/// issuers and, if the guard's policy [requires scopes](crate::Policy::require_scope), these. Created by [`OidcGuard::resource_metadata`](super::OidcGuard::resource_metadata).
#[derive(Debug, Clone)]
pub struct ResourceMetadata {
    admission: AdmissionSlot,
    resource: ProtectedResource,
}

impl ResourceMetadata {
    pub(super) fn new(admission: AdmissionSlot, resource: ProtectedResource) -> Self {
        Self {
            admission,
            resource,
        }
    }

    /// Returns the path at which clients request the metadata (RFC 9728, section 3.1).
    ///
    /// ```
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::oidc("https://id.example").audience("https://orders.example"))
    ///     .any_verified_caller()
    ///     .protected_resource("https://orders.example/v1")
    ///     .build()?;
    /// let metadata = guard.resource_metadata().expect("a protected resource is configured");
    /// assert_eq!(metadata.path(), "/.well-known/oauth-protected-resource/v1");
    /// # Ok(())
    /// # }
    /// ```
    pub fn path(&self) -> &str {
        &self.resource.metadata_path
    }
}

impl<B> Service<Request<B>> for ResourceMetadata {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        // `authorization_servers` contains URLs only (RFC 9728, section 2).
        let current = self.admission.load();
        let resource = current.protected_resource().unwrap_or(&self.resource);
        let mut issuers = current.verifier.current_issuers();
        issuers.retain(|issuer| Url::parse(issuer).is_ok_and(|url| url.has_host()));
        let mut document = json!({
            "resource": resource.resource,
            "authorization_servers": issuers,
            "bearer_methods_supported": ["header"],
        });
        let scopes = current.policy().scopes();
        if !scopes.is_empty() {
            document["scopes_supported"] = scopes.into();
        }
        let mut response = Response::new(Full::from(document.to_string()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=3600"),
        );
        ready(Ok(response))
    }
}
