//! The tower adapter: the same policy for clients that take [`http::Request`]s.

mod future;
#[cfg(feature = "tonic")]
mod grpc;
mod waiting;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::ResponseFuture;
use self::waiting::{Inner, Waiting};
use crate::bearer_auth::BearerAuth;
use crate::error::Error;
use crate::origins::{Origin, Target};
use crate::source::TokenSource;
use crate::telemetry;

/// For clients whose requests name their origin, such as hyper-util's: the URI of each request decides.
///
/// Place it beneath a layer that follows redirects, so that each hop is decided on its own; what a layer beneath this one
/// does with the header is out of its reach. Nothing is sent again after a 401.
///
/// If a token cannot be had, the response future fails with [`SendError::Token`]. With the feature `tonic`, a gRPC call
/// through a tonic `Channel` gets the status `Unavailable` or `Unauthenticated` instead.
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
            inner: Inner::Here(inner),
        }
    }
}

impl BearerAuth {
    /// Returns a layer for a client all of whose requests go to one origin without naming it, such as a tonic
    /// `Channel`.
    ///
    /// A request gets a token if its URI has no authority, or names exactly this origin. Every other request passes
    /// untouched: one to another host, port or scheme, such as a redirect leads to, and one whose `Host` header names
    /// another host.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example<C>(channel: C, token: impl TokenSource) -> Result<(), Error> {
    /// use tower_layer::Layer as _;
    ///
    /// let origin = "https://auth-server.example";
    /// let channel = BearerAuth::for_origin(origin, token)?.layer_for_origin(origin)?.layer(channel);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Error::Origin`] if no tokens are sent to that origin.
    pub fn layer_for_origin(&self, origin: &str) -> Result<BearerAuthLayer, Error> {
        match self.origin_of(origin) {
            Some((at, source)) => Ok(BearerAuthLayer {
                auth: Arc::new(self.clone()),
                at: Arc::new((at, source.clone())),
            }),
            None => Err(Error::Origin {
                url: origin.rsplit('@').next().unwrap_or_default().to_owned(),
                reason: "it is none of the origins that tokens are sent to",
            }),
        }
    }
}

/// An origin, and the source of its tokens.
type At = Arc<(Origin, Arc<dyn TokenSource>)>;

/// Attaches tokens to the requests of a client that belongs to one origin: made by [`BearerAuth::layer_for_origin`].
#[derive(Clone)]
pub struct BearerAuthLayer {
    auth: Arc<BearerAuth>,
    at: At,
}

impl<S> Layer<S> for BearerAuthLayer {
    type Service = BearerAuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BearerAuthService {
            auth: self.auth.clone(),
            at: Some(self.at.clone()),
            inner: Inner::Here(inner),
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
///
/// A request that needs a token which is not available yet waits for it in its response future. It keeps the inner
/// service meanwhile, so the inner service does not have to be `Clone`: the next `poll_ready` of the same handle is
/// ready when the waiting request has been passed on. Both the response future and `poll_ready` drive the wait. Clones
/// do not wait for each other.
pub struct BearerAuthService<S> {
    auth: Arc<BearerAuth>,
    /// The only origin of this client, whose requests may leave it out.
    at: Option<At>,
    inner: Inner<S>,
}

/// A boxed error, as tower has it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was not sent, or got no response.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<E = BoxError> {
    /// There is no token to send.
    Token(Error),
    /// The client failed.
    Client(E),
}

impl<E: fmt::Display> fmt::Display for SendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(error) => write!(f, "the request was not sent: {error}"),
            Self::Client(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display + 'static> std::error::Error for SendError<E> {
    /// Returns the token's error, or the client's if that is a [`BoxError`], as it is in the errors of
    /// [`BearerAuthService`].
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Token(error) => Some(error),
            Self::Client(error) => {
                let error = (error as &dyn Any).downcast_ref::<BoxError>()?;
                Some(&**error)
            }
        }
    }
}

impl<S> BearerAuthService<S> {
    fn source<B>(&self, request: &Request<B>) -> Option<Arc<dyn TokenSource>> {
        let (uri, options) = (request.uri(), request.extensions());
        let (method, headers) = (request.method(), request.headers());
        let target = Target::of_uri(uri);
        let source = match self.at.as_deref() {
            None => self.auth.source_for(target, method, headers, options),
            Some((origin, source)) => {
                let is_there = match target {
                    Some(target) => origin.is(target),
                    None => uri.authority().is_none(),
                };
                if is_there {
                    let target = origin.as_target();
                    self.auth.allowed(target, source, method, headers, options)
                } else {
                    telemetry::not_attached(target);
                    None
                }
            }
        };
        source.cloned()
    }
}

impl<S, B> Service<Request<B>> for BearerAuthService<S>
where
    S: Service<Request<B>> + Send + 'static,
    S::Response: 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = SendError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let service = ready!(self.inner.poll_here(cx));
        match service {
            Some(service) => service.poll_ready(cx).map_err(SendError::client),
            None => Poll::Ready(Err(lost())),
        }
    }

    /// # Panics
    ///
    /// May panic, as the inner service may, if it is called without having been polled ready.
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let source = self.source(&request);
        let Inner::Here(service) = &mut self.inner else {
            // Called without having been polled ready.
            return ResponseFuture::failed(lost());
        };
        let Some(source) = source else {
            return ResponseFuture::calling(service.call(request));
        };
        if let Ok(token) = source.current() {
            self.auth.put(token, request.headers_mut());
            return ResponseFuture::calling(service.call(request));
        }
        // The service that was polled ready is the one to call later.
        match std::mem::replace(&mut self.inner, Inner::Lost) {
            Inner::Here(service) => {
                let is_grpc = is_grpc(&request);
                let waiting = Waiting::start(self.auth.clone(), source, service, request);
                self.inner = Inner::Lent(waiting.clone());
                ResponseFuture::waiting(waiting, is_grpc)
            }
            _ => ResponseFuture::failed(lost()),
        }
    }
}

impl SendError {
    fn client(error: impl Into<BoxError>) -> Self {
        Self::Client(error.into())
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    #[cfg(feature = "tonic")]
    return grpc::is_call(request.headers());
    #[cfg(not(feature = "tonic"))]
    {
        let _ = request;
        false
    }
}

fn lost() -> SendError {
    SendError::client("the client was called without being ready, or was lost when it panicked")
}

impl<S: Clone> Clone for BearerAuthService<S> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            at: self.at.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S> fmt::Debug for BearerAuthService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuthService")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}
