//! A request that waits for a token, and keeps the service that it is to be passed on to.

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

/// The service beneath a `BearerAuthService`.
pub(super) enum Inner<S> {
    Here(S),
    /// A request that waits for a token has it.
    Lent(Arc<dyn Lent<S>>),
    /// It panicked when it was called.
    Lost,
}

/// Gives a service back.
pub(super) trait Lent<S>: Send + Sync {
    /// Polls for the service. `None` if it was lost.
    fn poll_return(&self, cx: &mut Context<'_>) -> Poll<Option<S>>;

    /// Shows the service while it is lent.
    fn show(&self, look: &mut dyn FnMut(&S));
}

impl<S> Inner<S> {
    /// Waits until the service is here. `None` if it was lost.
    pub(super) fn poll_here(&mut self, cx: &mut Context<'_>) -> Poll<Option<&mut S>> {
        if let Self::Lent(lent) = self {
            match lent.poll_return(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(service)) => *self = Self::Here(service),
                Poll::Ready(None) => *self = Self::Lost,
            }
        }
        match self {
            Self::Here(service) => Poll::Ready(Some(service)),
            _ => Poll::Ready(None),
        }
    }
}

impl<S: Clone> Clone for Inner<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Here(service) => Self::Here(service.clone()),
            Self::Lent(lent) => {
                let mut clone = Self::Lost;
                lent.show(&mut |service| clone = Self::Here(service.clone()));
                clone
            }
            Self::Lost => Self::Lost,
        }
    }
}

/// A request that waits for a token. The response future and the service's `poll_ready` both drive it, so neither
/// depends on the other being polled.
pub(super) struct Waiting<S, B>
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
    /// The token is being fetched.
    Refreshing {
        refresh: Refresh,
        auth: Arc<BearerAuth>,
        service: S,
        request: Request<B>,
    },
    /// The request was passed on, failed for want of a token, or was given up.
    Done {
        service: Option<S>,
        outcome: Option<Result<S::Future, Error>>,
    },
}

impl<S, B> Waiting<S, B>
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

    /// Polls for the response future of the service, or for the error of the token.
    pub(super) fn poll_call(&self, cx: &mut Context<'_>) -> Poll<Option<Result<S::Future, Error>>> {
        self.poll(Waiter::Response, cx, |done| match done {
            State::Done { outcome, .. } => outcome.take(),
            State::Refreshing { .. } => None,
        })
    }

    /// Gives the request up: the service goes back without a call.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, State::nothing());
        *state = match before {
            State::Refreshing { service, .. } => State::Done {
                service: Some(service),
                outcome: None,
            },
            State::Done { service, .. } => State::Done {
                service,
                outcome: None,
            },
        };
        drop(state);
        self.wakers.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<S, B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives the refresh, passes the request on when there is a token, and then takes what is wanted.
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
            } = std::mem::replace(&mut *state, State::nothing())
            {
                let outcome = token.map(|token| {
                    auth.put(token, request.headers_mut());
                    service.call(request)
                });
                *state = State::Done {
                    service: Some(service),
                    outcome: Some(outcome),
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
    fn nothing() -> Self {
        Self::Done {
            service: None,
            outcome: None,
        }
    }
}

impl<S, B> Lent<S> for Waiting<S, B>
where
    S: Service<Request<B>> + Send,
    S::Future: Send,
    B: Send,
{
    fn poll_return(&self, cx: &mut Context<'_>) -> Poll<Option<S>> {
        self.poll(Waiter::Service, cx, |done| match done {
            State::Done { service, .. } => service.take(),
            State::Refreshing { .. } => None,
        })
    }

    fn show(&self, look: &mut dyn FnMut(&S)) {
        match &*self.lock() {
            State::Refreshing { service, .. } => look(service),
            State::Done { service, .. } => service.iter().for_each(look),
        }
    }
}

/// Who waits.
#[derive(Clone, Copy)]
enum Waiter {
    Response,
    Service,
}

/// Wakes both who wait.
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
