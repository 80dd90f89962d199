//! The response of a guarded service, under way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{OidcGuard, ResponseBody};
use crate::identity::Identity;
use crate::rejection::Rejection;

type Verdict = Pin<Box<dyn Future<Output = Result<Identity, Rejection>> + Send>>;

pin_project! {
    /// The future of [`OidcGuardService`](super::OidcGuardService). Nothing is boxed but where keys
    /// have to be waited for.
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, S::Future, ReqBody>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, ReqBody> {
        Calling { #[pin] future: F },
        Refused { response: Option<Response<Bytes>> },
        Waiting { guard: OidcGuard, verdict: Verdict, call: Option<(S, Request<ReqBody>)> },
    }
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn calling(future: S::Future) -> Self {
        Self {
            state: State::Calling { future },
        }
    }

    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self {
            state: State::Refused {
                response: Some(response),
            },
        }
    }

    pub(super) fn waiting(
        guard: OidcGuard,
        token: Vec<u8>,
        service: S,
        request: Request<ReqBody>,
    ) -> Self {
        let verifier = guard.verifier().clone();
        let verdict = Box::pin(async move { verifier.verify(token).await });
        Self {
            state: State::Waiting {
                guard,
                verdict,
                call: Some((service, request)),
            },
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Calling { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::service)));
                }
                StateProj::Refused { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map(ResponseBody::guard))),
                    // Polled after it was ready: there is nothing more to come.
                    None => return Poll::Pending,
                },
                StateProj::Waiting {
                    guard,
                    verdict,
                    call,
                } => match (ready!(verdict.as_mut().poll(cx)), call.take()) {
                    (Ok(identity), Some((mut service, mut request))) => {
                        request.extensions_mut().insert(identity);
                        State::Calling {
                            future: service.call(request),
                        }
                    }
                    (Err(rejection), _) => State::Refused {
                        response: Some(guard.answer(&rejection)),
                    },
                    (Ok(_), None) => return Poll::Pending,
                },
            };
            state.set(next);
        }
    }
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
