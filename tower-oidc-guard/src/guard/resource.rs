//! Metadata of the protected resource (RFC 9728).

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use serde_json::json;
use tower_service::Service;
use url::Url;

use super::OidcGuard;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The resource's own name, and where its metadata are.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    name: String,
    pub(super) metadata_url: String,
    path: String,
}

impl Resource {
    /// Section 3.1: the well-known path comes between the host and the resource's own path. Section 1.2: a resource
    /// is an https URL without a fragment.
    pub(super) fn new(name: String) -> Option<Self> {
        let url = Url::parse(&name)
            .ok()
            .filter(|url| url.scheme() == "https")?;
        if url.fragment().is_some() || !url.has_host() {
            return None;
        }
        let path = format!("{WELL_KNOWN}{}", url.path().trim_end_matches('/'));
        let mut metadata_url = url;
        metadata_url.set_path(&path);
        Some(Self {
            name,
            metadata_url: metadata_url.into(),
            path,
        })
    }
}

/// Answers any request with the metadata of the protected resource: its name, and the issuers whose tokens it takes.
/// Made by [`OidcGuard::resource_metadata`].
#[derive(Debug, Clone)]
pub struct ResourceMetadata {
    guard: OidcGuard,
    resource: Resource,
}

impl ResourceMetadata {
    pub(super) fn new(guard: OidcGuard) -> Option<Self> {
        let resource = guard.0.answers.resource.clone()?;
        Some(Self { guard, resource })
    }

    /// The path at which clients look for it.
    pub fn path(&self) -> &str {
        &self.resource.path
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
        // Only URLs can be there (RFC 9728, section 2); clients could do nothing with another name.
        let mut issuers = self.guard.verifier().current_issuers();
        issuers.retain(|name| Url::parse(name).is_ok_and(|url| url.has_host()));
        let document = json!({
            "resource": self.resource.name,
            "authorization_servers": issuers,
            "bearer_methods_supported": ["header"],
        });
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
