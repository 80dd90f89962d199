//! The tower layer and the service that it wraps around another.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::admission::{Admission, TryAdmission};
use super::admission_slot::AdmissionSlot;
use super::service_slot::{LayerSlot, ServiceSlot};
use super::{ResponseBody, ResponseFuture, TokenBoundLayer};
use crate::diagnosis::Diagnosis;
use crate::policy::{Policy, PolicyError};
use crate::telemetry::in_span;

/// A [`Layer`] that puts a guard in front of a service. Created by [`OidcGuard::layer`](super::OidcGuard::layer) and
/// [`OidcGuard::layer_with`](super::OidcGuard::layer_with).
#[derive(Debug, Clone)]
pub struct OidcGuardLayer {
    admission: LayerSlot,
}

impl OidcGuardLayer {
    pub(super) fn new(admission: AdmissionSlot) -> Self {
        let admission = LayerSlot::new(admission);
        Self { admission }
    }

    /// Compares the decisions of this layer's policy with those of a second policy, which is not enforced. Replaces the
    /// [shadow policy](super::OidcGuardBuilder::shadow_policy) of the guard for this layer.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if the policy names members or audiences that belong to no trusted issuer, or is invalid otherwise.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Issuer, OidcGuard, Policy};
    /// # let guard = OidcGuard::builder()
    /// #     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    /// #     .any_verified_caller()
    /// #     .build()?;
    /// // Until the metrics show that no one else calls, the whole namespace is allowed.
    /// let admins = guard
    ///     .layer_with(Policy::members(["system:serviceaccounts:ops"]))?
    ///     .with_shadow_policy(Policy::members(["system:serviceaccount:ops:admin"]))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_shadow_policy(&self, policy: Policy) -> Result<Self, PolicyError> {
        let admission = self.admission.slot().with_shadow_policy(policy)?;
        Ok(Self::new(admission))
    }

    /// Makes every check of a token, with the policy of this layer. See
    /// [`OidcGuard::diagnose`](super::OidcGuard::diagnose).
    ///
    /// ```
    /// # use tower_oidc_guard::{OidcGuard, Policy, PolicyError};
    /// # async fn example(guard: OidcGuard, token: &str) -> Result<(), PolicyError> {
    /// let admins = guard.layer_with(Policy::members(["system:serviceaccount:ops:admin"]))?;
    /// println!("{}", admins.diagnose(token).await);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn diagnose(&self, token: impl AsRef<[u8]>) -> Diagnosis {
        let admission = self.admission.slot().load_full();
        admission.diagnose(token.as_ref()).await
    }
}

impl OidcGuardLayer {
    /// Ends streams with their token: the body of a response, and that of a request that is still being read, do not outlive
    /// the token (`exp` plus the issuer's leeway) by the guard's clock, nor its revocation.
    ///
    /// By default a request is admitted once, and what it has started goes on for as long as both sides like.
    ///
    /// - The service behind the layer gets requests with the body [`TokenBoundBody<ReqBody>`](crate::TokenBoundBody). axum's routers and tonic's
    ///   services take any body; a function for hyper, or a middleware between, names the type.
    /// - Reading the body of a request fails with [`BodyEnded`](crate::BodyEnded).
    /// - The body of an HTTP response fails with `BodyEnded`, so that the client sees that it is incomplete: hyper ends the
    ///   connection (HTTP/1.1) or resets the stream (HTTP/2).
    /// - A gRPC response ends with trailers with the status `UNAUTHENTICATED`, also in gRPC-Web, where they are a part of the body; within
    ///   a message of gRPC-Web, the body fails. A call that fails because the body of its request was ended has that status too,
    ///   unless the service itself writes another one into the body of a gRPC-Web response.
    /// - Data that the service has ready when the token expires is still sent, up to 16 frames or 64 KiB, as far as the connection
    ///   takes it without delay. Once a token is revoked, no further data is sent. A body that has ended by itself is left as it is.
    /// - A call of the service is not cancelled. A response that it returns after the end is ended in the same way, so that a small
    ///   one is sent whole.
    /// - A request without a token is not bound, nor is a connection after an upgrade: use
    ///   [`Identity::expired`](crate::Identity::expired) for that.
    ///
    /// No task is spawned. A timer is created when a body waits for a frame for the first time, and a body that waits is woken
    /// at the end of its token. A server polls the body of a response only while its client reads, so the end of a stream to a
    /// client that has stopped reading is noticed when it reads again; nothing is sent to it until then. In a tokio runtime without
    /// timers, and outside tokio, the clock is read only when the body is polled; see
    /// [`Identity::expired`](crate::Identity::expired).
    ///
    /// An HTTP/1.0 client cannot tell an incomplete response from a complete one. Configure a proxy to use HTTP/1.1 (nginx:
    /// `proxy_http_version 1.1`).
    ///
    /// ```
    /// # #[cfg(feature = "axum")]
    /// # async fn example(guard: tower_oidc_guard::OidcGuard) {
    /// use axum::{Router, routing::get};
    ///
    /// let app: Router = Router::new()
    ///     .route("/events", get(|| async { "a stream of server-sent events" }))
    ///     .route_layer(guard.layer().end_streams_with_token());
    /// # }
    /// ```
    pub fn end_streams_with_token(self) -> TokenBoundLayer {
        TokenBoundLayer::new(self.admission)
    }
}

impl<S> Layer<S> for OidcGuardLayer {
    type Service = OidcGuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OidcGuardService::new(self.admission.service(), inner)
    }
}

/// A service behind a guard. It is called for requests that the guard admits, with the caller's
/// [`Identity`](crate::Identity) in the request's extensions. Created by [`OidcGuardLayer`].
///
/// The inner service has to be [`Clone`]. A request that has to wait for keys releases what [`poll_ready`](Service::poll_ready)
/// has reserved, such as a permit of a concurrency limit, and waits until a clone is ready once its token is verified.
#[derive(Debug, Clone)]
pub struct OidcGuardService<S> {
    admission: ServiceSlot,
    inner: S,
}

impl<S> OidcGuardService<S> {
    pub(super) fn new(admission: ServiceSlot, inner: S) -> Self {
        Self { admission, inner }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for OidcGuardService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let admission = self.admission.load();
        match admission.try_admit(&mut request) {
            TryAdmission::Decided(Admission::Admitted(span)) => {
                admission.release();
                let future = in_span(&span, || self.inner.call(request));
                ResponseFuture::calling(future, span)
            }
            TryAdmission::Decided(Admission::Rejected(response)) => {
                ResponseFuture::rejected(response)
            }
            TryAdmission::Pending(bearer, pending) => {
                let service = self.inner.clone();
                // Drops the service that was polled ready, with its reservation: other requests may use it meanwhile.
                self.inner = service.clone();
                ResponseFuture::waiting(&admission, bearer, pending, service, request)
            }
        }
    }
}
