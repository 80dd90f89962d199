//! A service that does nothing, with or without a guard.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tower::Service;
use tower_oidc_guard::{OidcGuard, Policy};

use crate::case::Case;

/// The subject of the case's token.
pub(crate) const GKE_SA: &str = "system:serviceaccount:id-namespace:gke-sa";

/// A service that does nothing.
#[derive(Clone)]
pub(crate) struct Bare;

impl Service<Request<()>> for Bare {
    type Response = Response<http_body_util::Empty<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(http_body_util::Empty::new())))
    }
}

/// Creates a request with this header, calls the service, and returns the status.
///
/// # Panics
///
/// Panics if the response is not ready at once.
pub(crate) fn call<S, B>(service: &S, authorization: &HeaderValue) -> http::StatusCode
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    send(service, request(authorization))
}

/// In the extensions of a request, as web frameworks put something there before the guard sees the request: axum the route that it
/// has matched, and tonic the addresses of the connection.
#[derive(Clone)]
struct MatchedRoute;

/// Calls the service like [`call`], with a request as it arrives behind a web framework.
// Not each benchmark counts allocations.
#[allow(dead_code)]
pub(crate) fn call_behind_framework<S, B>(
    service: &S,
    authorization: &HeaderValue,
) -> http::StatusCode
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut request = request(authorization);
    request.extensions_mut().insert(MatchedRoute);
    send(service, request)
}

fn request(authorization: &HeaderValue) -> Request<()> {
    let mut request = Request::new(());
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, authorization.clone());
    request
}

fn send<S, B>(service: &S, request: Request<()>) -> http::StatusCode
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut service = service.clone();
    let mut response = pin!(service.call(request));
    match response
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(response)) => black_box(response).status(),
        _ => panic!("the response is not ready"),
    }
}

/// Creates a guard for a case that caches up to this number of tokens, or none if it is 0.
pub(crate) fn guard(case: &Case, policy: Policy, tokens: usize) -> OidcGuard {
    let builder = case.settings(1, 1).policy(policy);
    let builder = if tokens == 0 {
        builder.without_cache()
    } else {
        builder.cache(tokens, 64 << 20)
    };
    builder.build().unwrap()
}

/// Copies a header value, which shares its bytes when it is cloned.
// Not each benchmark has threads.
#[allow(dead_code)]
pub(crate) fn copy(header: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(header.as_bytes()).unwrap()
}

/// Returns an `Authorization` header with this token.
pub(crate) fn header(token: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer {token}")).unwrap()
}
