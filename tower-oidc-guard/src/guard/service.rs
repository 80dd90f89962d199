//! The guarded service.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::gate::{Gate, Verdict};
use super::{ResponseBody, ResponseFuture};

/// A service that is called for whom the guard lets in, with their [`Identity`](crate::Identity) in the request's
/// extensions.
#[derive(Debug, Clone)]
pub struct OidcGuardService<S> {
    gate: Gate,
    inner: S,
}

impl<S> OidcGuardService<S> {
    pub(super) fn new(gate: Gate, inner: S) -> Self {
        Self { gate, inner }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for OidcGuardService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match self.gate.judge(&mut request) {
            Verdict::Enter(span) => {
                let future = span.in_scope(|| self.inner.call(request));
                ResponseFuture::calling(future, span)
            }
            Verdict::Refuse(response) => ResponseFuture::refused(response),
            Verdict::Wait(bearer, needs) => {
                // The service that was polled ready is the one to call later; its clone is not ready yet.
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                ResponseFuture::waiting(self.gate.clone(), bearer, needs, ready, request)
            }
        }
    }
}
