//! The guarded service.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{OidcGuard, ResponseBody, ResponseFuture};
use crate::bearer;
use crate::identity::Identity;
use crate::rejection::Rejection;

/// A service that is called with an [`Identity`] in the request's extensions, or not at all.
#[derive(Debug, Clone)]
pub struct OidcGuardService<S> {
    guard: OidcGuard,
    inner: S,
}

impl<S> OidcGuardService<S> {
    pub(super) fn new(guard: OidcGuard, inner: S) -> Self {
        Self { guard, inner }
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
        // What stands there was put by somebody else, and says nothing about this request's token.
        request.extensions_mut().remove::<Identity>();
        let token = match bearer::token(request.headers(), request.uri()) {
            Ok(token) => token,
            Err(rejection) => return self.refuse(&rejection),
        };
        match self.guard.verifier().verify_at_once(token) {
            Some(Ok(identity)) => {
                request.extensions_mut().insert(identity);
                ResponseFuture::calling(self.inner.call(request))
            }
            Some(Err(rejection)) => self.refuse(&rejection),
            None => {
                // The service that was polled ready is the one to call later; its clone is not ready yet.
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                ResponseFuture::waiting(self.guard.clone(), token.to_vec(), ready, request)
            }
        }
    }
}

impl<S> OidcGuardService<S> {
    fn refuse<ReqBody>(&self, rejection: &Rejection) -> ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        ResponseFuture::refused(self.guard.answer(rejection))
    }
}
