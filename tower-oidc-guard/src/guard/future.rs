//! The response of a guarded service, under way.

use std::fmt;
use std::future::{Future, Ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use super::ResponseBody;
use super::gate::{Admission, Gate};
use crate::bearer::Bearer;
use crate::identity::Identity;
use crate::verifier::{FailedVerification, PendingToken};

type Verified = Pin<Box<dyn Future<Output = Result<Identity, FailedVerification>> + Send>>;

pin_project! {
    /// The future of [`OidcGuardService`](super::OidcGuardService). Only a request that has to wait for keys takes an
    /// allocation.
    ///
    /// # Panics
    ///
    /// If it is polled again after it has completed.
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
        Refused { answer: Ready<Response<Bytes>> },
        // `None` only while it is polled, and after it has ended.
        Waiting { waiting: Option<Box<Waiting<S, ReqBody>>> },
    }
}

/// A request that has to wait for keys. It is boxed, since it is rare, so that the future of all others stays small: that
/// one is moved once for each layer around it.
struct Waiting<S, ReqBody> {
    /// Not polled ready yet.
    service: S,
    request: Request<ReqBody>,
    step: Step,
}

/// What a request waits for.
enum Step {
    /// Its token is being verified.
    Verification { gate: Gate, verified: Verified },
    /// The service has to be ready for it.
    Readiness { span: Span },
}

/// How far a waiting request has come.
enum Progress<S, ReqBody, E> {
    Pending(Box<Waiting<S, ReqBody>>),
    Enter(S, Request<ReqBody>, Span),
    Refuse(Response<Bytes>),
    /// The service is out of order.
    Failed(E),
}

impl<S, ReqBody> Waiting<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn poll(mut self: Box<Self>, cx: &mut Context<'_>) -> Progress<S, ReqBody, S::Error> {
        let waiting = &mut *self;
        let span = match &mut waiting.step {
            Step::Verification { gate, verified } => match verified.as_mut().poll(cx) {
                Poll::Pending => return Progress::Pending(self),
                Poll::Ready(verified) => match gate.decide(&mut waiting.request, verified) {
                    Admission::Enter(span) => span,
                    Admission::Refuse(response) => return Progress::Refuse(response),
                },
            },
            Step::Readiness { span } => span.clone(),
        };
        match waiting.service.poll_ready(cx) {
            Poll::Pending => {
                waiting.step = Step::Readiness { span };
                Progress::Pending(self)
            }
            Poll::Ready(Err(error)) => Progress::Failed(error),
            Poll::Ready(Ok(())) => Progress::Enter(self.service, self.request, span),
        }
    }
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
            state: State::refused(response),
        }
    }

    pub(super) fn waiting(
        gate: Gate,
        bearer: Bearer<'static>,
        pending: PendingToken,
        service: S,
        request: Request<ReqBody>,
    ) -> Self {
        let verified = Box::pin(gate.clone().verify(bearer, pending));
        let waiting = Waiting {
            service,
            request,
            step: Step::Verification { gate, verified },
        };
        Self {
            state: State::Waiting {
                waiting: Some(Box::new(waiting)),
            },
        }
    }
}

impl<S, F, ReqBody> State<S, F, ReqBody> {
    fn refused(response: Response<Bytes>) -> Self {
        Self::Refused {
            answer: std::future::ready(response),
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
                StateProj::Refused { answer } => {
                    let response = ready!(Pin::new(answer).poll(cx));
                    return Poll::Ready(Ok(response.map(ResponseBody::guard)));
                }
                StateProj::Waiting { waiting } => {
                    let Some(current) = waiting.take() else {
                        panic!("`ResponseFuture` polled after it has completed");
                    };
                    match current.poll(cx) {
                        Progress::Pending(current) => {
                            *waiting = Some(current);
                            return Poll::Pending;
                        }
                        Progress::Enter(mut service, request, span) => State::Calling {
                            future: span.in_scope(|| service.call(request)),
                            span,
                        },
                        Progress::Refuse(response) => State::refused(response),
                        Progress::Failed(error) => return Poll::Ready(Err(error)),
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
