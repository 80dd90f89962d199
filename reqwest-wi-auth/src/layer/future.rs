//! The response to a request with a token, under way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::SendError;
use crate::bearer_auth::BearerAuth;
use crate::error::Error;
use crate::source::TokenSource;
use crate::token::Token;

type Refresh = Pin<Box<dyn Future<Output = Result<Token, Error>> + Send>>;

pin_project! {
    /// The future of [`BearerAuthService`](super::BearerAuthService). Nothing is boxed but where a token
    /// has to be waited for.
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
    enum State<S, F, B> {
        Calling { #[pin] future: F },
        Waiting { refresh: Refresh, auth: Arc<BearerAuth>, call: Option<(S, Request<B>)> },
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

    pub(super) fn waiting(
        auth: Arc<BearerAuth>,
        source: Arc<dyn TokenSource>,
        service: S,
        request: Request<B>,
    ) -> Self {
        let refresh: Refresh = Box::pin(async move { source.refresh(None).await });
        Self {
            state: State::Waiting {
                refresh,
                auth,
                call: Some((service, request)),
            },
        }
    }
}

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    type Output = Result<S::Response, SendError<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Calling { future } => return future.poll(cx).map_err(SendError::Client),
                StateProj::Waiting {
                    refresh,
                    auth,
                    call,
                } => {
                    let token = ready!(refresh.as_mut().poll(cx)).map_err(SendError::Token)?;
                    // Polled after it was ready: there is nothing more to come.
                    let Some((mut service, mut request)) = call.take() else {
                        return Poll::Pending;
                    };
                    auth.put(token, request.headers_mut());
                    State::Calling {
                        future: service.call(request),
                    }
                }
            };
            state.set(next);
        }
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
