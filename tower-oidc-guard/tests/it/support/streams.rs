//! Bodies that are streamed, and guards that end them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::{MemoryIssuer, tokio_clock};
use tower_oidc_guard::{
    Issuer, OidcGuard, OidcGuardBuilder, ResponseBody, TokenBoundBody, TokenBoundLayer,
};

use super::in_memory::{cluster, token_spec};
use super::{AUDIENCE, NOW, unix_time};

/// The time from the start of a test until the token of [`Streams`] ends: its lifetime and the leeway of its issuer.
pub const TOKEN_END: Duration = Duration::from_secs(600 + LEEWAY.as_secs());
const LEEWAY: Duration = Duration::from_secs(10);

/// Sends the frames of a [`ChannelBody`].
pub type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// A body whose frames are sent by a test. It ends when the sender is dropped.
#[derive(Debug)]
pub struct ChannelBody(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>);

/// Creates a body, and the sender of its frames.
pub fn channel() -> (Frames, ChannelBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, ChannelBody(receiver))
}

/// Returns a frame of data.
pub fn data(data: impl Into<Bytes>) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(data.into()))
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

/// A guard whose clock follows tokio's time, and a token that ends [`TOKEN_END`] after it was created.
pub struct Streams {
    pub guard: OidcGuard,
    pub token: String,
}

impl Streams {
    pub fn new() -> Self {
        Self::with(|builder| builder.clock(tokio_clock(unix_time(NOW))))
    }

    /// Creates a guard with other settings, among them the clock.
    pub fn with(settings: impl FnOnce(OidcGuardBuilder) -> OidcGuardBuilder) -> Self {
        // Generating its keys takes time.
        static CLUSTER: OnceLock<MemoryIssuer> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(cluster);
        let issuer = Issuer::kubernetes(cluster.url())
            .audience(AUDIENCE)
            .leeway(LEEWAY);
        let builder = OidcGuard::builder()
            .issuer(issuer)
            .http_client(cluster.client())
            .any_verified_caller();
        let token = token_spec(cluster).issued_at(unix_time(NOW));
        Self {
            guard: settings(builder).build().unwrap(),
            token: token.lifetime(TOKEN_END - LEEWAY).mint(),
        }
    }

    pub fn layer(&self) -> TokenBoundLayer {
        self.guard.layer().end_streams_with_token()
    }

    /// Returns a request with the token and this body.
    pub fn request<B>(&self, body: B) -> Request<B> {
        let request = Request::post("/").header("authorization", format!("Bearer {}", self.token));
        request.body(body).unwrap()
    }

    /// Returns the response that the guard returns for this one of a service.
    pub async fn response<B>(
        &self,
        response: Response<B>,
    ) -> Response<ResponseBody<TokenBoundBody<B>>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let response = std::sync::Arc::new(std::sync::Mutex::new(Some(response)));
        let service = service_fn(move |_: Request<TokenBoundBody<super::Body>>| {
            let response = response.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let request = self.request(super::Body::new());
        self.layer().layer(service).oneshot(request).await.unwrap()
    }
}
