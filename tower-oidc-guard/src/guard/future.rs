//! The response of a guarded service, under way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use super::ResponseBody;
use super::gate::{Gate, Verdict};
use crate::bearer::Bearer;
use crate::identity::Identity;
use crate::verifier::{NeedsNewerKeys, Refusal};

type Verified = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send>>;

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
        Calling { #[pin] future: F, span: Span },
        Refused { response: Option<Response<Bytes>> },
        Waiting { waiting: Box<Waiting<S, ReqBody>> },
    }
}

/// A request whose keys have to be waited for. It is seldom, and boxed, so that the others stay small: this future is
/// moved once for each layer around it.
struct Waiting<S, ReqBody> {
    gate: Gate,
    verified: Verified,
    call: Option<(S, Request<ReqBody>)>,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn calling(future: S::Future, span: Span) -> Self {
        Self {
            state: State::Calling { future, span },
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
        gate: Gate,
        bearer: Bearer<'static>,
        needs: NeedsNewerKeys,
        service: S,
        request: Request<ReqBody>,
    ) -> Self {
        let waiting = Waiting {
            verified: Box::pin(gate.clone().verify(bearer, needs)),
            gate,
            call: Some((service, request)),
        };
        Self {
            state: State::Waiting {
                waiting: Box::new(waiting),
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
                StateProj::Calling { future, span } => {
                    let response = ready!(span.in_scope(|| future.poll(cx)))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::service)));
                }
                StateProj::Refused { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map(ResponseBody::guard))),
                    // Polled after it was ready: there is nothing more to come.
                    None => return Poll::Pending,
                },
                StateProj::Waiting { waiting } => {
                    let verified = ready!(waiting.verified.as_mut().poll(cx));
                    let Some((mut service, mut request)) = waiting.call.take() else {
                        return Poll::Pending;
                    };
                    match waiting.gate.decide(&mut request, verified) {
                        Verdict::Enter(span) => State::Calling {
                            future: span.in_scope(|| service.call(request)),
                            span,
                        },
                        Verdict::Refuse(response) => State::Refused {
                            response: Some(response),
                        },
                        // A decision is never put off twice.
                        Verdict::Wait(..) => return Poll::Pending,
                    }
                }
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
