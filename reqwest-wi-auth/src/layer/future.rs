//! The response future of the tower service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::pending::PendingRequest;
use super::{BoxError, Protocol, SendError};
use crate::error::Error;

pin_project! {
    /// The response future of [`BearerAuthService`](super::BearerAuthService).
    ///
    /// It allocates only if the token is not available yet.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, B>
    where
        S: Service<Request<B>>,
    {
        Calling { #[pin] future: F },
        Pending { request: CancelOnDrop<S, B>, protocol: Protocol },
        Failed { error: Option<SendError> },
    }
}

/// The reference of a response future to its pending request, which is cancelled when the future is dropped.
struct CancelOnDrop<S, B>(Arc<PendingRequest<S, B>>)
where
    S: Service<Request<B>>;

impl<S, B> Drop for CancelOnDrop<S, B>
where
    S: Service<Request<B>>,
{
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    /// Creates the future of a request that was passed to the inner service.
    pub(super) fn calling(future: S::Future) -> Self {
        Self {
            state: State::Calling { future },
        }
    }

    /// Creates the future of a request that waits for a token.
    pub(super) fn pending(request: Arc<PendingRequest<S, B>>, protocol: Protocol) -> Self {
        Self {
            state: State::Pending {
                request: CancelOnDrop(request),
                protocol,
            },
        }
    }

    /// Creates a future that returns an error.
    pub(super) fn failed(error: SendError) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
        }
    }
}

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Response: 'static,
{
    type Output = Result<S::Response, SendError>;

    /// # Panics
    ///
    /// Panics if it is polled again after it has returned an error.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Calling { future } => return future.poll(cx).map_err(SendError::client),
                StateProj::Pending { request, protocol } => match ready!(request.0.poll_call(cx)) {
                    Some(Ok(future)) => State::Calling { future },
                    Some(Err(error)) => {
                        if let Some(response) = error_response(&error, *protocol) {
                            return Poll::Ready(Ok(response));
                        }
                        State::Failed {
                            error: Some(SendError::Token(error)),
                        }
                    }
                    None => State::Failed {
                        error: Some(SendError::not_ready()),
                    },
                },
                StateProj::Failed { error } => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => panic!("`ResponseFuture` was polled after it had returned an error"),
                },
            };
            state.set(next);
        }
    }
}

/// Returns the gRPC response to a call that has no token, or `None` if the request is not a gRPC call or `R` is not the
/// response type of a tonic `Channel`.
///
/// A tonic client reports an error of the service as `Code::Unknown`, so the status has to be a response.
#[cfg(feature = "tonic")]
fn error_response<R: 'static>(error: &Error, protocol: Protocol) -> Option<R> {
    if protocol != Protocol::Grpc {
        return None;
    }
    let response = tonic::Status::from(error.clone()).into_http::<tonic::body::Body>();
    let mut response = Some(response);
    let response = (&mut response as &mut dyn std::any::Any).downcast_mut::<Option<R>>()?;
    response.take()
}

#[cfg(not(feature = "tonic"))]
fn error_response<R>(_: &Error, _: Protocol) -> Option<R> {
    None
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
