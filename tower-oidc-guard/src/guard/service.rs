//! The guarded service.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::gate::{Admission, Gate, Judgement};
use super::{ResponseBody, ResponseFuture};

/// A service behind a guard: it is called for requests that the guard admits, with the caller's
/// [`Identity`](crate::Identity) in the request's extensions.
///
/// The guarded service is cloned. A request that has to wait for keys gives up what
/// [`poll_ready`](Service::poll_ready) has reserved, such as a permit of a concurrency limit, and waits for a clone to be
/// ready once its token is verified.
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
            Judgement::Decided(Admission::Enter(span)) => {
                let future = span.in_scope(|| self.inner.call(request));
                ResponseFuture::calling(future, span)
            }
            Judgement::Decided(Admission::Refuse(response)) => ResponseFuture::refused(response),
            Judgement::Wait(bearer, needs) => {
                let service = self.inner.clone();
                // The service that was polled ready is dropped with its reservation: others may use it meanwhile.
                self.inner = service.clone();
                ResponseFuture::waiting(self.gate.clone(), bearer, needs, service, request)
            }
        }
    }
}
