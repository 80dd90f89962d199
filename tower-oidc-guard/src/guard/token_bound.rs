//! A service whose requests and responses end with their token.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::grpc::{self, Protocol};
use super::message_boundary::{MessageBoundary, WebEncoding};
use super::rejection_response::Description;
use super::service::OidcGuardService;
use super::service_slot::{LayerSlot, ServiceSlot};
use super::token_bound_body::{
    Ending, RequestBodyState, ResponseEnding, ResponseFormat, TokenBoundBody,
};
use crate::identity::Identity;

/// A [`Layer`] that puts a guard in front of a service and ends streams with their token. Created by
/// [`OidcGuardLayer::end_streams_with_token`](super::OidcGuardLayer::end_streams_with_token).
#[derive(Debug, Clone)]
pub struct TokenBoundLayer {
    admission: LayerSlot,
}

impl TokenBoundLayer {
    pub(super) fn new(admission: LayerSlot) -> Self {
        Self { admission }
    }
}

impl<S> Layer<S> for TokenBoundLayer {
    type Service = OidcGuardService<TokenBound<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        let bound = TokenBound {
            admission: self.admission.service(),
            inner,
        };
        OidcGuardService::new(self.admission.service(), bound)
    }
}

/// A service behind a guard whose requests and responses end with their token. Created by [`TokenBoundLayer`].
///
/// The inner service gets requests with the body [`TokenBoundBody<ReqBody>`](TokenBoundBody).
#[derive(Debug, Clone)]
pub struct TokenBound<S> {
    /// The settings of the guard in front, which stores the identity.
    admission: ServiceSlot,
    inner: S,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for TokenBound<S>
where
    S: Service<Request<TokenBoundBody<ReqBody>>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<TokenBoundBody<ResBody>>;
    type Error = S::Error;
    type Future = TokenBoundFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let admission = self.admission.load();
        let place = admission.requests.identity_place;
        let identity = place.get(request.extensions()).cloned();
        let Some(identity) = identity else {
            let future = self.inner.call(request.map(TokenBoundBody::unbound));
            return TokenBoundFuture { future, call: None };
        };
        let has_body = !request.body().is_end_stream();
        let state = has_body.then(Arc::<RequestBodyState>::default);
        let call = Call {
            description: admission.responses.description,
            request: state.clone(),
            identity,
        };
        let request = request.map(|body| match state {
            Some(state) => TokenBoundBody::bound(body, &call.identity, Ending::Request(state)),
            None => TokenBoundBody::unbound(body),
        });
        TokenBoundFuture {
            future: self.inner.call(request),
            call: Some(call),
        }
    }
}

/// A request with an identity, as far as the end of its response depends on it.
struct Call {
    identity: Identity,
    description: Description,
    /// `None` if the request has no body.
    request: Option<Arc<RequestBodyState>>,
}

pin_project! {
    /// The response future of [`TokenBound`].
    pub struct TokenBoundFuture<F> {
        #[pin]
        future: F,
        // `None` for a request without an identity.
        call: Option<Call>,
    }
}

impl<F, ResBody, E> Future for TokenBoundFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ResBody: Body<Data = Bytes>,
{
    type Output = Result<Response<TokenBoundBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        Poll::Ready(Ok(match this.call.take() {
            Some(call) => call.bind(response),
            None => response.map(TokenBoundBody::unbound),
        }))
    }
}

impl<F> std::fmt::Debug for TokenBoundFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenBoundFuture").finish_non_exhaustive()
    }
}

impl Call {
    fn bind<B: Body>(self, response: Response<B>) -> Response<TokenBoundBody<B>> {
        let (mut parts, body) = response.into_parts();
        let ending = ResponseEnding {
            format: response_format(&parts.headers),
            description: self.description,
            request: self.request,
        };
        // The headers of a gRPC response without a body have its status.
        let is_grpc = Protocol::of_response(&parts.headers) != Protocol::Http;
        let has_status = is_grpc && grpc::has_status(&parts.headers);
        if has_status {
            ending.correct_status(&mut parts.headers);
        }
        let has_ended = body.is_end_stream() || has_status;
        let body = if has_ended {
            TokenBoundBody::unbound(body)
        } else {
            TokenBoundBody::bound(body, &self.identity, Ending::Response(ending))
        };
        Response::from_parts(parts, body)
    }
}

/// Returns how the end of a response is reported to its client.
fn response_format(headers: &HeaderMap) -> ResponseFormat {
    // No trailers can be added to data of another encoding, or of a length that was announced.
    let is_fixed = [CONTENT_ENCODING, CONTENT_LENGTH]
        .iter()
        .any(|name| headers.contains_key(name));
    let web = |encoding| ResponseFormat::GrpcWeb(encoding, MessageBoundary::new(encoding));
    match Protocol::of_response(headers) {
        _ if is_fixed => ResponseFormat::Http,
        Protocol::Http => ResponseFormat::Http,
        // Over HTTP/1.1, something in front of the guard translates the trailers for gRPC-Web.
        Protocol::Grpc => ResponseFormat::Grpc,
        Protocol::GrpcWeb => web(WebEncoding::Binary),
        Protocol::GrpcWebText => web(WebEncoding::Base64),
    }
}
