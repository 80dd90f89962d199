//! The future of a response to a request with a token.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::waiting::Waiting;
use super::{BoxError, SendError};
use crate::error::Error;

pin_project! {
    /// The future of [`BearerAuthService`](super::BearerAuthService). Nothing is boxed unless a token has to be waited
    /// for.
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
        Waiting { waiting: Handle<S, B>, is_grpc: bool },
        Failed { error: Option<SendError> },
    }
}

/// The response's reference to a waiting request, which gives the request up when it is dropped.
struct Handle<S, B>(Arc<Waiting<S, B>>)
where
    S: Service<Request<B>>;

impl<S, B> Drop for Handle<S, B>
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
    pub(super) fn calling(future: S::Future) -> Self {
        Self {
            state: State::Calling { future },
        }
    }

    pub(super) fn waiting(waiting: Arc<Waiting<S, B>>, is_grpc: bool) -> Self {
        Self {
            state: State::Waiting {
                waiting: Handle(waiting),
                is_grpc,
            },
        }
    }

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
    /// Panics if it is polled again after it has completed with an error.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Calling { future } => return future.poll(cx).map_err(SendError::client),
                StateProj::Waiting { waiting, is_grpc } => match ready!(waiting.0.poll_call(cx)) {
                    Some(Ok(future)) => State::Calling { future },
                    Some(Err(error)) => {
                        if let Some(response) = refusal(&error, *is_grpc) {
                            return Poll::Ready(Ok(response));
                        }
                        State::Failed {
                            error: Some(SendError::Token(error)),
                        }
                    }
                    None => State::Failed {
                        error: Some(super::lost()),
                    },
                },
                StateProj::Failed { error } => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => panic!("polled after completion"),
                },
            };
            state.set(next);
        }
    }
}

/// Returns the response to a gRPC call that has no token.
fn refusal<R: 'static>(error: &Error, is_grpc: bool) -> Option<R> {
    #[cfg(feature = "tonic")]
    return is_grpc.then(|| super::grpc::response(error)).flatten();
    #[cfg(not(feature = "tonic"))]
    {
        let _ = (error, is_grpc);
        None
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
