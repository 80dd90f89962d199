//! The HTTP server that the fakes share: on loopback, without TLS.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The size limit of a request's body, in bytes. A larger one is rejected with 413.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// The size of the body of [`HttpFault::OversizedBody`]: more than any client should read from such a server.
const OVERSIZED_BYTES: usize = 4 * 1024 * 1024;

/// The body of a response.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// The response of a fake to a request. An error closes the connection without a response.
pub(super) type Answer = io::Result<Response<Body>>;

/// A server on 127.0.0.1, on a port that the operating system chooses. It closes all connections when it is dropped.
pub(super) struct HttpServer {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Starts a server that responds with the result of `handler`. Spawns a task on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the server cannot listen.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, or if the I/O of the runtime is not enabled.
    pub(super) async fn start<H, F>(handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let requests = Arc::<AtomicU64>::default();
        let task = tokio::spawn(accept(listener, requests.clone(), Arc::new(handler)));
        Ok(Self {
            address,
            requests,
            task,
        })
    }

    /// Returns the address and port, such as `127.0.0.1:8080`.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the URL, without a path or a final slash.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of requests so far, including those that the fake has rejected.
    pub(super) fn request_count(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // The task owns the connections.
        self.task.abort();
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("address", &self.address)
            .field("requests", &self.request_count())
            .finish_non_exhaustive()
    }
}

async fn accept<H, F>(listener: TcpListener, requests: Arc<AtomicU64>, handler: Arc<H>)
where
    H: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, requests.clone(), handler.clone()));
    }
}

async fn serve<H, F>(stream: TcpStream, requests: Arc<AtomicU64>, handler: Arc<H>)
where
    H: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        requests.fetch_add(1, Ordering::SeqCst);
        let handler = handler.clone();
        async move {
            let (parts, body) = request.into_parts();
            match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
                Ok(body) => handler(Request::from_parts(parts, body.to_bytes())).await,
                Err(_) => Ok(empty(StatusCode::PAYLOAD_TOO_LARGE)),
            }
        }
    });
    // A client that closes the connection is not an error of the server.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Returns a body that is sent at once.
pub(super) fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// Returns a response without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Returns a response with a text of this content type.
pub(super) fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Returns a response with JSON.
pub(super) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    text(status, "application/json", body.to_string())
}

/// A fault of the HTTP server of a fake that does not depend on what the fake serves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpFault {
    /// Responds with this status, without a body.
    Status(StatusCode),
    /// Responds with this status and text, for example the error page of a proxy.
    Page(StatusCode, String),
    /// Reads the request, but does not respond.
    NoResponse,
    /// Closes the connection without a response.
    ClosedConnection,
    /// Responds with 200 and the beginning of a body, which does not end.
    StalledBody,
    /// Responds with 200 and a body of 4 MiB.
    OversizedBody,
    /// Responds with 200 and a body that is not JSON.
    InvalidBody,
    /// Responds with a redirect (307, so that a client that follows it sends the body as well) to this URL.
    Redirect(String),
}

impl HttpFault {
    /// Returns the response.
    pub(super) async fn respond(self) -> Answer {
        Ok(match self {
            Self::Status(status) => empty(status),
            Self::Page(status, page) => text(status, "text/html; charset=UTF-8", page),
            Self::NoResponse => std::future::pending().await,
            Self::ClosedConnection => return Err(io::ErrorKind::ConnectionAborted.into()),
            Self::StalledBody => {
                let start = Stalled(Some(Bytes::from_static(b"{")));
                Response::new(start.boxed())
            }
            Self::OversizedBody => {
                let body = vec![b' '; OVERSIZED_BYTES];
                text(StatusCode::OK, "application/json", body)
            }
            Self::InvalidBody => text(StatusCode::OK, "application/json", "<html>"),
            Self::Redirect(url) => {
                let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
                let location = HeaderValue::try_from(url).map_err(io::Error::other)?;
                response.headers_mut().insert(LOCATION, location);
                response
            }
        })
    }
}

/// A body that does not end after its first bytes.
struct Stalled(Option<Bytes>);

impl hyper::body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // The connection is closed by the client, or with the server.
            None => Poll::Pending,
        }
    }
}
