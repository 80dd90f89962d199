//! The response future of a guarded service.

use std::fmt;
use std::future::{Future, Ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use super::ResponseBody;
use super::admission::{Admission, AdmissionController, NotAccepted};
use super::bearer::Bearer;
use crate::identity::Identity;
use crate::telemetry::in_span;
use crate::verifier::PendingToken;

type Verified = Pin<Box<dyn Future<Output = Result<Identity, NotAccepted>> + Send>>;

pin_project! {
    /// The response future of [`OidcGuardService`](super::OidcGuardService).
    ///
    /// It allocates only for a request that has to wait for keys or for a review of its token.
    ///
    /// # Panics
    ///
    /// Panics if it is polled after completion.
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
        Rejected { response: Ready<Response<Bytes>> },
        // `None` only while it is polled, and after completion.
        Waiting { waiting: Option<Box<Waiting<S, ReqBody>>> },
    }
}

/// A request that has to wait for its token to be verified.
///
/// It is rare, so it is boxed: the future of all other requests stays small, which is moved once for each layer around it.
struct Waiting<S, ReqBody> {
    /// A clone of the inner service, which has not been polled ready.
    service: S,
    request: Request<ReqBody>,
    step: Step,
}

/// The event that a request waits for.
enum Step {
    /// Its token is being verified.
    Verification {
        admission: Arc<AdmissionController>,
        verified: Verified,
    },
    /// The inner service becomes ready.
    Readiness { span: Span },
}

/// The result of polling a waiting request.
enum Progress<S, ReqBody, E> {
    Pending(Box<Waiting<S, ReqBody>>),
    /// The service is ready and is called with the request.
    Call(S, Request<ReqBody>, Span),
    Rejected(Response<Bytes>),
    /// The service failed to become ready.
    Failed(E),
}

impl<S, ReqBody> Waiting<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn poll(mut self: Box<Self>, cx: &mut Context<'_>) -> Progress<S, ReqBody, S::Error> {
        let waiting = &mut *self;
        let span = match &mut waiting.step {
            Step::Verification {
                admission,
                verified,
            } => match verified.as_mut().poll(cx) {
                Poll::Pending => return Progress::Pending(self),
                Poll::Ready(verified) => match admission.decide(&mut waiting.request, verified) {
                    Admission::Admitted(span) => span,
                    Admission::Rejected(response) => return Progress::Rejected(response),
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
            Poll::Ready(Ok(())) => Progress::Call(self.service, self.request, span),
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

    pub(super) fn rejected(response: Response<Bytes>) -> Self {
        Self {
            state: State::rejected(response),
        }
    }

    pub(super) fn waiting(
        admission: &Arc<AdmissionController>,
        bearer: Bearer<'static>,
        pending: PendingToken,
        service: S,
        request: Request<ReqBody>,
    ) -> Self {
        let admission = Arc::clone(admission);
        let verified = Box::pin(Arc::clone(&admission).verify_bearer(bearer, pending));
        let waiting = Waiting {
            service,
            request,
            step: Step::Verification {
                admission,
                verified,
            },
        };
        Self {
            state: State::Waiting {
                waiting: Some(Box::new(waiting)),
            },
        }
    }
}

impl<S, F, ReqBody> State<S, F, ReqBody> {
    fn rejected(response: Response<Bytes>) -> Self {
        Self::Rejected {
            response: std::future::ready(response),
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
                    let response = ready!(in_span(span, || future.poll(cx)))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::service)));
                }
                StateProj::Rejected { response } => {
                    let response = ready!(Pin::new(response).poll(cx));
                    return Poll::Ready(Ok(response.map(ResponseBody::guard)));
                }
                StateProj::Waiting { waiting } => {
                    let Some(current) = waiting.take() else {
                        panic!("`ResponseFuture` polled after completion");
                    };
                    match current.poll(cx) {
                        Progress::Pending(current) => {
                            *waiting = Some(current);
                            return Poll::Pending;
                        }
                        Progress::Call(mut service, request, span) => State::Calling {
                            future: in_span(&span, || service.call(request)),
                            span,
                        },
                        Progress::Rejected(response) => State::rejected(response),
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
