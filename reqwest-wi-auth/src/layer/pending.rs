//! A request that waits for a token, and holds the inner service meanwhile.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use http::Request;
use tower_service::Service;

use crate::bearer_auth::BearerAuth;
use crate::error::Error;
use crate::source::TokenSource;
use crate::token::Token;

type Refresh = Pin<Box<dyn Future<Output = Result<Token, Error>> + Send>>;

/// The inner service of a `BearerAuthService`.
pub(super) enum InnerService<S> {
    Available(S),
    /// A pending request holds the service.
    InUse(Arc<dyn HoldsService<S>>),
    /// The service panicked when it was called.
    Lost,
}

/// A pending request, from the view of the `BearerAuthService` whose inner service it holds.
pub(super) trait HoldsService<S>: Send + Sync {
    /// Waits until the service is no longer needed, and returns it. Returns `None` if it was lost.
    fn poll_release(&self, cx: &mut Context<'_>) -> Poll<Option<S>>;

    /// Calls a function with the service, unless it was lost.
    fn inspect(&self, f: &mut dyn FnMut(&S));
}

impl<S> InnerService<S> {
    /// Waits until the service is available. Returns `None` if it was lost.
    pub(super) fn poll_available(&mut self, cx: &mut Context<'_>) -> Poll<Option<&mut S>> {
        if let Self::InUse(holder) = self {
            match holder.poll_release(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(service)) => *self = Self::Available(service),
                Poll::Ready(None) => *self = Self::Lost,
            }
        }
        match self {
            Self::Available(service) => Poll::Ready(Some(service)),
            _ => Poll::Ready(None),
        }
    }
}

impl<S: Clone> Clone for InnerService<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Available(service) => Self::Available(service.clone()),
            Self::InUse(holder) => {
                let mut clone = Self::Lost;
                holder.inspect(&mut |service| clone = Self::Available(service.clone()));
                clone
            }
            Self::Lost => Self::Lost,
        }
    }
}

/// A request that waits for a token.
///
/// Both the response future and the `poll_ready` of the service drive it, so neither depends on the other being polled.
pub(super) struct PendingRequest<S, B>
where
    S: Service<Request<B>>,
{
    state: Mutex<State<S, B>>,
    wakers: Arc<Wakers>,
}

enum State<S, B>
where
    S: Service<Request<B>>,
{
    /// The token is being refreshed.
    Refreshing {
        refresh: Refresh,
        auth: Arc<BearerAuth>,
        service: S,
        request: Request<B>,
    },
    /// The request was passed on, failed because there was no token, or was cancelled.
    Done {
        service: Option<S>,
        result: Option<Result<S::Future, Error>>,
    },
}

impl<S, B> PendingRequest<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn start(
        auth: Arc<BearerAuth>,
        source: Arc<dyn TokenSource>,
        service: S,
        request: Request<B>,
    ) -> Arc<Self> {
        let refresh: Refresh = Box::pin(async move { source.refresh(None).await });
        Arc::new(Self {
            state: Mutex::new(State::Refreshing {
                refresh,
                auth,
                service,
                request,
            }),
            wakers: Arc::default(),
        })
    }

    /// Waits until the request was passed on, and returns the response future of the inner service, or the error of the
    /// token. Returns `None` if the inner service panicked.
    pub(super) fn poll_call(&self, cx: &mut Context<'_>) -> Poll<Option<Result<S::Future, Error>>> {
        self.poll(Waiter::Response, cx, |state| match state {
            State::Done { result, .. } => result.take(),
            State::Refreshing { .. } => None,
        })
    }

    /// Cancels the request: the service is released without a call.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, State::empty());
        *state = match before {
            State::Refreshing { service, .. } => State::Done {
                service: Some(service),
                result: None,
            },
            State::Done { service, .. } => State::Done {
                service,
                result: None,
            },
        };
        drop(state);
        self.wakers.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<S, B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives the refresh, passes the request on when there is a token, and then calls `take` with the state.
    fn poll<R>(
        &self,
        waiter: Waiter,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut State<S, B>) -> R,
    ) -> Poll<R> {
        self.wakers.register(waiter, cx.waker());
        let mut state = self.lock();
        if let State::Refreshing { refresh, .. } = &mut *state {
            let both = Waker::from(self.wakers.clone());
            let Poll::Ready(token) = refresh.as_mut().poll(&mut Context::from_waker(&both)) else {
                return Poll::Pending;
            };
            if let State::Refreshing {
                auth,
                mut service,
                mut request,
                ..
            } = std::mem::replace(&mut *state, State::empty())
            {
                let result = token.map(|token| {
                    auth.attach(token, request.headers_mut());
                    service.call(request)
                });
                *state = State::Done {
                    service: Some(service),
                    result: Some(result),
                };
            }
            let taken = take(&mut state);
            drop(state);
            self.wakers.wake_all();
            return Poll::Ready(taken);
        }
        Poll::Ready(take(&mut state))
    }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    /// Returns a state without a service: the state during a call, and after a call that panicked.
    fn empty() -> Self {
        Self::Done {
            service: None,
            result: None,
        }
    }
}

impl<S, B> HoldsService<S> for PendingRequest<S, B>
where
    S: Service<Request<B>> + Send,
    S::Future: Send,
    B: Send,
{
    fn poll_release(&self, cx: &mut Context<'_>) -> Poll<Option<S>> {
        self.poll(Waiter::Service, cx, |state| match state {
            State::Done { service, .. } => service.take(),
            State::Refreshing { .. } => None,
        })
    }

    fn inspect(&self, f: &mut dyn FnMut(&S)) {
        match &*self.lock() {
            State::Refreshing { service, .. } => f(service),
            State::Done { service, .. } => service.iter().for_each(f),
        }
    }
}

/// A caller that waits for a pending request.
#[derive(Clone, Copy)]
enum Waiter {
    /// The response future.
    Response,
    /// The `poll_ready` of the service.
    Service,
}

/// The wakers of both waiters. As a waker, it wakes both.
#[derive(Default)]
struct Wakers(Mutex<[Option<Waker>; 2]>);

impl Wakers {
    fn register(&self, waiter: Waiter, waker: &Waker) {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wakers[waiter as usize] = Some(waker.clone());
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}
