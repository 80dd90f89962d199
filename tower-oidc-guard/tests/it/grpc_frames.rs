//! HTTP/2 frames of rejected gRPC requests: one HEADERS frame with END_STREAM ("Trailers-Only").
//!
//! gRPC clients other than tonic treat HEADERS followed by an empty DATA frame as an invalid response. So these tests parse
//! the frames that hyper and tonic servers send.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;
use tower::{Layer as _, Service, service_fn};
use tower_oidc_guard::{OidcGuard, Policy};

use crate::support::grpc::Feed;
use crate::support::in_memory::{GKE_SA, cluster, guard_builder, token_spec};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection that records the bytes it receives.
struct Recorded {
    stream: TcpStream,
    received: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let received = &buffer.filled()[before..];
        self.received.lock().unwrap().extend_from_slice(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A frame as it was received (RFC 9113, section 4.1).
#[derive(Debug, Clone)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// Returns whether this is a whole HEADERS frame that ends its stream.
    pub fn is_headers_with_end(&self) -> bool {
        let flags = END_STREAM | END_HEADERS;
        self.kind == HEADERS && self.flags & flags == flags
    }

    /// Returns the error code of RST_STREAM, or `None` for another frame.
    pub fn reset_code(&self) -> Option<u32> {
        let code = <[u8; 4]>::try_from(&*self.payload);
        (self.kind == RST_STREAM).then(|| u32::from_be_bytes(code.unwrap()))
    }
}

fn all_frames(received: &[u8]) -> Vec<RawFrame> {
    let (mut rest, mut frames) = (received, Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let [a, b, c, kind, flags, stream @ ..] = *header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let (payload, after) = after.split_at_checked(length).expect("a complete frame");
        frames.push(RawFrame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload: payload.to_vec(),
        });
        rest = after;
    }
    assert!(rest.is_empty(), "a complete frame");
    frames
}

/// Returns the HEADERS and DATA frames of the first stream: type, flags and length.
fn frames(received: &[u8]) -> Vec<(u8, u8, usize)> {
    let mut frames = all_frames(received);
    frames.retain(|frame| frame.stream == 1 && [DATA, HEADERS].contains(&frame.kind));
    let parts = |frame: RawFrame| (frame.kind, frame.flags, frame.payload.len());
    frames.into_iter().map(parts).collect()
}

/// How much of its messages a client has sent when it waits for the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// A message, and the end of the stream.
    Complete,
    /// Nothing.
    None,
    /// A part of a message.
    Part,
    /// More than the server lets a client send at a time.
    Large,
}

impl Upload {
    pub const ALL: [Self; 4] = [Self::Complete, Self::None, Self::Part, Self::Large];
}

/// A connection that records the frames it receives.
pub struct Connection {
    client: h2::client::SendRequest<Bytes>,
    received: Arc<Mutex<Vec<u8>>>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let received = Arc::default();
        let stream = Recorded {
            stream: TcpStream::connect(address).await.unwrap(),
            received: Arc::clone(&received),
        };
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        Self {
            client,
            received,
            connection: tokio::spawn(connection),
        }
    }

    /// Sends a request, and waits for the end of the response. Returns its head and the number of the stream.
    pub async fn exchange(&mut self, request: Request<()>, upload: Upload) -> (Response<()>, u32) {
        let mut client = self.client.clone().ready().await.unwrap();
        let (response, mut sent) = client.send_request(request, false).unwrap();
        let stream = sent.stream_id().into();
        let data = match upload {
            Upload::Complete => Some((Bytes::from_static(&[0; 5]), true)),
            Upload::None => None,
            Upload::Part => Some((Bytes::from_static(&[0; 3]), false)),
            Upload::Large => Some((Bytes::from(vec![0; 2 * 1024 * 1024]), false)),
        };
        if let Some((data, ends)) = data {
            // The server may have responded already.
            let _ = sent.send_data(data, ends);
        }
        let response = tokio::time::timeout(LIMIT, response).await;
        let (head, mut body) = response.expect("a response").unwrap().into_parts();
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        body.trailers().await.unwrap();
        (Response::from_parts(head, ()), stream)
    }

    /// Closes the connection and returns all frames that were received.
    pub async fn close(self) -> Vec<RawFrame> {
        drop(self.client);
        // Everything that the server sent has arrived by then.
        let ended = tokio::time::timeout(LIMIT, self.connection).await;
        ended
            .expect("the connection ends with its last stream")
            .unwrap()
            .unwrap();
        all_frames(&self.received.lock().unwrap())
    }
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Sends one request and returns the head of the response, and its frames: type, flags and length.
pub async fn exchange(address: &str, request: Request<()>) -> (Response<()>, Vec<(u8, u8, usize)>) {
    let received = Arc::default();
    let connection = Recorded {
        stream: TcpStream::connect(address).await.unwrap(),
        received: Arc::clone(&received),
    };
    let (client, connection) = h2::client::handshake(connection).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let (response, mut sent) = client.send_request(request, false).unwrap();
    // The prefix of a gRPC message. The server may have responded and reset the stream already.
    let _ = sent.send_data(Bytes::from_static(&[0; 5]), true);
    let (head, mut body) = response.await.unwrap().into_parts();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    assert!(body.trailers().await.unwrap().is_none());
    drop((sent, body, client));
    // The connection ends with its last stream. Everything that the server sent has arrived by then.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), connection).await;
    let _ = ended.expect("the connection ends with its last stream");
    let frames = frames(&received.lock().unwrap());
    (Response::from_parts(head, ()), frames)
}

pub fn request(method: Method, content_type: &str, authorization: Option<&str>) -> Request<()> {
    let mut request = Request::builder()
        .method(method)
        .uri("http://service.example/grpc.health.v1.Health/Check")
        .header("content-type", content_type)
        .header("te", "trailers");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.body(()).unwrap()
}

/// Asserts that these frames are one HEADERS frame that ends the stream.
///
/// # Panics
///
/// Panics if there are others.
pub fn assert_trailers_only(frames: &[(u8, u8, usize)]) {
    let is_one = matches!(frames, [(HEADERS, flags, _)] if flags & END_STREAM != 0);
    assert!(is_one, "{frames:?}");
}

/// Starts an HTTP/2 server with hyper and returns its address.
async fn hyper<S, B>(service: S) -> String
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

/// Starts one server of each kind with this guard: hyper, tonic, and tonic's routes in an axum router.
pub async fn servers(guard: &OidcGuard) -> Vec<(&'static str, String)> {
    let bare = service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let bare = hyper(guard.layer().layer(bare)).await;
    let (_, health) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tonic = listener.local_addr().unwrap().to_string();
    let mut server = tonic::transport::Server::builder().layer(guard.layer());
    let server = server.add_service(health.clone()).add_service(Feed);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let router = tonic::service::Routes::new(health)
        .add_service(Feed)
        .into_axum_router();
    let router = hyper(router.layer(guard.layer())).await;
    vec![("hyper", bare), ("tonic", tonic), ("router", router)]
}

#[tokio::test]
async fn grpc_rejection_is_one_headers_frame_that_ends_the_stream() {
    let cluster = cluster();
    let builder = || guard_builder(&cluster).policy(Policy::members([GKE_SA]));
    let guard = builder().build().unwrap();
    let without_message = builder().without_error_description().build().unwrap();
    let stranger = format!(
        "Bearer {}",
        token_spec(&cluster).service_account("a", "b").mint()
    );
    let mut checked = 0;
    for guard in [&guard, &without_message] {
        guard.ready().await.unwrap();
        for (server, address) in servers(guard).await {
            for (authorization, status) in [
                (None, "16"),
                (Some("Bearer x"), "16"),
                (Some("Bearer  x"), "16"),
                (Some(&*stranger), "7"),
            ] {
                for content_type in ["application/grpc", "application/grpc-web+proto"] {
                    let request = request(Method::POST, content_type, authorization);
                    let (head, frames) = exchange(&address, request).await;
                    assert_eq!(head.status(), 200, "{server}");
                    assert_eq!(head.headers()["grpc-status"], status, "{server}");
                    assert!(!head.headers().contains_key("content-length"), "{server}");
                    let [(kind, flags, _)] = frames[..] else {
                        panic!("{server} {content_type}: {frames:?}");
                    };
                    assert_eq!(
                        (kind, flags & END_STREAM),
                        (HEADERS, END_STREAM),
                        "{server}"
                    );
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 2 * 3 * 4 * 2);
}

#[tokio::test]
async fn grpc_rejection_after_waiting_for_keys_ends_the_stream() {
    let cluster = cluster();
    cluster.fail(StatusCode::BAD_GATEWAY);
    let token = format!("Bearer {}", token_spec(&cluster).mint());
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    for (server, address) in servers(&guard).await {
        let request = request(Method::POST, "application/grpc", Some(&token));
        let (head, frames) = exchange(&address, request).await;
        assert_eq!(head.headers()["grpc-status"], "14", "{server}");
        assert!(
            matches!(frames[..], [(HEADERS, flags, _)] if flags & END_STREAM != 0),
            "{server} {frames:?}"
        );
    }
}

#[tokio::test]
async fn rejection_with_an_empty_body_ends_the_stream_with_its_headers() {
    let cluster = cluster();
    let guard = guard_builder(&cluster).any_verified_caller();
    let guard = guard.rejection_response(|_, answer| answer.map(|_| Bytes::new()));
    let address = servers(&guard.build().unwrap()).await.remove(0).1;
    let request = request(Method::GET, "application/grpc", None);
    let (head, frames) = exchange(&address, request).await;
    assert_eq!(head.status(), 401);
    assert!(
        matches!(frames[..], [(HEADERS, flags, _)] if flags & END_STREAM != 0),
        "{frames:?}"
    );
}

#[tokio::test]
async fn get_request_with_grpc_content_type_gets_an_http_rejection() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    for (server, address) in servers(&guard).await {
        let request = request(Method::GET, "application/grpc", None);
        let (head, frames) = exchange(&address, request).await;
        assert_eq!(head.status(), 401, "{server}");
        assert_eq!(head.headers()["cache-control"], "no-store", "{server}");
        assert!(!head.headers().contains_key("grpc-status"), "{server}");
        let text = "401 - Unauthorized".len();
        assert!(
            matches!(frames[..], [(HEADERS, _, _), (DATA, _, length), ..] if length == text),
            "{server} {frames:?}"
        );
    }
}
