//! A readiness check, ready to mount.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower_service::Service;

use super::OidcGuard;

/// Answers any request with 200 while every issuer's keys are at hand, and with 503 otherwise; the text
/// says which are missing. Made by [`OidcGuard::readiness`].
#[derive(Debug, Clone)]
pub struct Readiness {
    guard: OidcGuard,
}

impl Readiness {
    pub(super) fn new(guard: OidcGuard) -> Self {
        Self { guard }
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
        // A server that is not ready gets no other requests that could start a fetch.
        self.guard.prefetch();
        let missing: Vec<_> = self
            .guard
            .health()
            .into_iter()
            .filter(|issuer| !issuer.is_ready)
            .collect();
        let (status, text) = if missing.is_empty() {
            (StatusCode::OK, "ready".to_owned())
        } else {
            let names: Vec<_> = missing.into_iter().map(|issuer| issuer.issuer).collect();
            (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("no keys of {}", names.join(", ")),
            )
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        ready(Ok(response))
    }
}
