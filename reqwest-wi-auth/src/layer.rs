//! The adapter for tower: attaches the token to the requests of clients that take [`http::Request`]s.

mod future;
mod pending;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request};
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::ResponseFuture;
use self::pending::{InnerService, PendingRequest};
use crate::bearer_auth::BearerAuth;
use crate::error::Error;
use crate::origins::{Origin, OriginRef};
use crate::source::TokenSource;
use crate::telemetry;

/// For clients whose requests have absolute URIs, such as hyper-util's. The URI of each request decides whether it carries
/// a token. For a tonic `Channel`, see [`layer_for_origin`](BearerAuth::layer_for_origin).
///
/// Place it below a layer that follows redirects, so that the rules are applied to each redirect. Layers below this one
/// can read the token. A request is never sent again after a 401; a retry layer above this one sends it with the token
/// that is current at that time.
///
/// If there is no token to send, the response future returns [`SendError::Token`]. With the feature `tonic`, a gRPC call
/// through a tonic `Channel` returns the status `Unavailable` or `Unauthenticated` instead.
///
/// # Examples
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
            fixed_origin: None,
            inner: InnerService::Available(inner),
        }
    }
}

impl BearerAuth {
    /// Returns a layer for a client that sends all requests to one origin, such as a tonic `Channel`, whose requests have
    /// URIs without an authority.
    ///
    /// A request carries a token if its URI has no authority, or exactly this origin. A request to another scheme, host or
    /// port, such as after a redirect, carries none. The other [rules](BearerAuth#rules) apply as well. The layer does not
    /// know the address to which the client connects: create the channel for the same origin, with TLS if its scheme is
    /// https. Otherwise the token is sent to another server, or unencrypted.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if no tokens are sent to this origin.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example<C>(channel: C, token: impl TokenSource) -> Result<(), Error> {
    /// use tower_layer::Layer as _;
    ///
    /// let origin = "https://auth-server.example";
    /// let channel = BearerAuth::for_origin(origin, token)?
    ///     .layer_for_origin(origin)?
    ///     .layer(channel);
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer_for_origin(&self, origin: &str) -> Result<BearerAuthLayer, Error> {
        let Some((known, source)) = self.origin_entry(origin) else {
            let reason =
                "no tokens are sent to this origin; add it with `for_origin` or `and_origin`";
            return Err(Error::invalid_origin(origin, reason));
        };
        Ok(BearerAuthLayer {
            auth: Arc::new(self.clone()),
            origin: Arc::new((known, source.cloned())),
        })
    }
}

/// An origin, and the source of its tokens, unless that is created on demand.
type OriginEntry = (Origin, Option<Arc<dyn TokenSource>>);

/// A layer that adds tokens to the requests of a client that sends all requests to one origin. Created by
/// [`BearerAuth::layer_for_origin`].
#[derive(Clone)]
pub struct BearerAuthLayer {
    auth: Arc<BearerAuth>,
    origin: Arc<OriginEntry>,
}

impl<S> Layer<S> for BearerAuthLayer {
    type Service = BearerAuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BearerAuthService {
            auth: self.auth.clone(),
            fixed_origin: Some(self.origin.clone()),
            inner: InnerService::Available(inner),
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

/// A client whose requests carry tokens. Created by the layers [`BearerAuth`] and [`BearerAuthLayer`].
///
/// If a token is not available yet, the response future waits for it. The inner service need not be `Clone`: the response
/// future holds it while it waits, and the next `poll_ready` of the same service is pending until the waiting request has
/// been passed on. Both the response future and `poll_ready` drive the wait. Clones do not wait for each other.
pub struct BearerAuthService<S> {
    auth: Arc<BearerAuth>,
    /// The origin that all requests are sent to, if their URIs need not contain it.
    fixed_origin: Option<Arc<OriginEntry>>,
    inner: InnerService<S>,
}

/// A boxed error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error of [`BearerAuthService`].
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// There was no token to send, so the request was not sent.
    Token(Error),
    /// The inner service returned an error, has panicked, or was called while another request was still waiting for a
    /// token.
    Client(BoxError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(error) => write!(f, "the request was not sent: {error}"),
            Self::Client(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Token(error) => Some(error),
            Self::Client(error) => Some(&**error),
        }
    }
}

impl SendError {
    fn client(error: impl Into<BoxError>) -> Self {
        Self::Client(error.into())
    }

    /// Returns the error of a call while the inner service is not available.
    fn not_ready() -> Self {
        Self::client(
            "the service was called without being ready, or its inner service has panicked",
        )
    }
}

/// Whether a request is a gRPC call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    fn from_headers(headers: &HeaderMap) -> Self {
        let content_type = headers.get(http::header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            Self::Grpc
        } else {
            Self::Http
        }
    }
}

impl<S> BearerAuthService<S> {
    /// Returns the source of the token that a request carries, or `None` if it carries none.
    fn source_for<B>(&self, request: &Request<B>) -> Option<Arc<dyn TokenSource>> {
        let (uri, extensions) = (request.uri(), request.extensions());
        let (method, headers) = (request.method(), request.headers());
        let origin = OriginRef::from_uri(uri);
        let Some((fixed, source)) = self.fixed_origin.as_deref() else {
            let source = self.auth.source_for(origin, method, headers, extensions);
            return source.map(Cow::into_owned);
        };
        let is_fixed_origin = match origin {
            Some(origin) => fixed.matches(origin),
            None => uri.authority().is_none(),
        };
        if !is_fixed_origin {
            telemetry::not_attached(origin);
            return None;
        }
        let origin = fixed.borrow();
        match source {
            Some(source) => self
                .auth
                .select_source(origin, source, method, headers, extensions)
                .cloned(),
            None => self
                .auth
                .source_for(Some(origin), method, headers, extensions)
                .map(Cow::into_owned),
        }
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
        let service = ready!(self.inner.poll_available(cx));
        match service {
            Some(service) => service.poll_ready(cx).map_err(SendError::client),
            None => Poll::Ready(Err(SendError::not_ready())),
        }
    }

    /// # Panics
    ///
    /// Panics if `poll_ready` has not returned `Ready` and the inner service panics in that case.
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let source = self.source_for(&request);
        let InnerService::Available(service) = &mut self.inner else {
            return ResponseFuture::failed(SendError::not_ready());
        };
        let Some(source) = source else {
            return ResponseFuture::calling(service.call(request));
        };
        if let Ok(token) = source.current() {
            self.auth.attach(token, request.headers_mut());
            return ResponseFuture::calling(service.call(request));
        }
        // The service that was polled ready has to be the one that is called.
        match std::mem::replace(&mut self.inner, InnerService::Lost) {
            InnerService::Available(service) => {
                let protocol = Protocol::from_headers(request.headers());
                let pending = PendingRequest::start(self.auth.clone(), source, service, request);
                self.inner = InnerService::InUse(pending.clone());
                ResponseFuture::pending(pending, protocol)
            }
            _ => ResponseFuture::failed(SendError::not_ready()),
        }
    }
}

impl<S: Clone> Clone for BearerAuthService<S> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            fixed_origin: self.fixed_origin.clone(),
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
