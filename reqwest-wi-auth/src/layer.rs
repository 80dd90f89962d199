//! The tower adapter: the same policy for clients that take [`http::Request`]s.

mod future;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request};
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::ResponseFuture;
use crate::bearer_auth::BearerAuth;
use crate::error::Error;
use crate::origins::Target;
use crate::source::TokenSource;

/// For clients whose requests name their origin, such as hyper-util's: each request's URI decides.
///
/// Lay it beneath whatever follows redirects, so that each hop is looked at by itself: what a layer
/// beneath this one does with the header is beyond it. Nothing is sent again after a 401.
///
/// ```
/// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
/// # fn example<S>(client: S, token: impl TokenSource) -> Result<(), Error> {
/// use tower_layer::Layer as _;
///
/// let service = BearerAuth::for_origin("https://auth-server.example", token)?.layer(client);
/// # Ok(())
/// # }
/// ```
impl<S> Layer<S> for BearerAuth {
    type Service = BearerAuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BearerAuthService {
            auth: Arc::new(self.clone()),
            at: None,
            inner,
        }
    }
}

impl BearerAuth {
    /// A layer for a client all of whose requests go to one origin without naming it, such as a tonic
    /// `Channel`: the origin is given here, and must be one that tokens are sent to.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example<C>(channel: C, token: impl TokenSource) -> Result<(), Error> {
    /// use tower_layer::Layer as _;
    ///
    /// let origin = "https://auth-server.example";
    /// let channel = BearerAuth::for_origin(origin, token)?.layer_at(origin)?.layer(channel);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Origin`] if no tokens are sent to that origin.
    pub fn layer_at(&self, origin: &str) -> Result<BearerAuthLayer, Error> {
        let url = reqwest::Url::parse(origin).ok();
        let target = url.as_ref().and_then(Target::of_url);
        match self.source(target, &Extensions::new()) {
            Some(source) => Ok(BearerAuthLayer {
                auth: Arc::new(self.clone()),
                at: source.clone(),
            }),
            None => Err(Error::Origin {
                url: origin.rsplit('@').next().unwrap_or_default().to_owned(),
                reason: "it is none of the origins that were named",
            }),
        }
    }
}

/// Puts tokens on all requests of a client: made by [`BearerAuth::layer_at`].
#[derive(Clone)]
pub struct BearerAuthLayer {
    auth: Arc<BearerAuth>,
    at: Arc<dyn TokenSource>,
}

impl<S> Layer<S> for BearerAuthLayer {
    type Service = BearerAuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BearerAuthService {
            auth: self.auth.clone(),
            at: Some(self.at.clone()),
            inner,
        }
    }
}

impl fmt::Debug for BearerAuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuthLayer")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// A client whose requests carry tokens.
#[derive(Clone)]
pub struct BearerAuthService<S> {
    auth: Arc<BearerAuth>,
    /// The source for all requests, where these do not name their origin.
    at: Option<Arc<dyn TokenSource>>,
    inner: S,
}

/// Why a request was not sent, or got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError<E> {
    /// There is no token to send.
    #[error(transparent)]
    Token(Error),
    /// The client failed.
    #[error(transparent)]
    Client(E),
}

impl<S> BearerAuthService<S> {
    fn source<B>(&self, request: &Request<B>) -> Option<Arc<dyn TokenSource>> {
        let options = request.extensions();
        let source = match &self.at {
            Some(source) => self.auth.chosen(source, options),
            None => self.auth.source(Target::of_uri(request.uri()), options),
        };
        source.cloned()
    }
}

impl<S, B> Service<Request<B>> for BearerAuthService<S>
where
    S: Service<Request<B>> + Clone,
{
    type Response = S::Response;
    type Error = SendError<S::Error>;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(SendError::Client)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let source = self
            .source(&request)
            .filter(|_| !self.auth.is_set(request.headers()));
        let Some(source) = source else {
            return ResponseFuture::calling(self.inner.call(request));
        };
        if let Ok(token) = source.current() {
            self.auth.put(token, request.headers_mut());
            return ResponseFuture::calling(self.inner.call(request));
        }
        // The client that was polled ready is the one to call later; its clone is not ready yet.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        ResponseFuture::waiting(self.auth.clone(), source, ready, request)
    }
}

impl<S> fmt::Debug for BearerAuthService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuthService")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}
