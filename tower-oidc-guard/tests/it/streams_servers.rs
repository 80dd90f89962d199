//! Streams that end with their token, on the connections of real servers.
//!
//! The clock of the guard follows tokio's time, which is advanced instead of waited for.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use bytes::Bytes;
use h2::ext::Protocol;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{BoxError, Layer as _, Service, ServiceExt as _, service_fn};
use tower_oidc_guard::{BodyEnded, Identity, TokenBoundBody, TokenEnd, WhenUnavailable};

use crate::support::grpc::Feed;
use crate::support::reviews::{ReviewingCluster, pass, review};
use crate::support::streams::{ChannelBody, Frames, Streams, TOKEN_END, channel, data};
use crate::support::{advance_clock, bearer_request, wait_until};

/// Whether a server of hyper speaks HTTP/1.1 or HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    One,
    Two,
}

/// Starts a server of hyper and returns its address.
async fn start<S, B>(service: S, http: Http) -> String
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (stream, service) = (
                TokioIo::new(stream),
                TowerToHyperService::new(service.clone()),
            );
            match http {
                Http::One => {
                    let connection = http1::Builder::new().serve_connection(stream, service);
                    tokio::spawn(connection.with_upgrades());
                }
                Http::Two => {
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder
                        .enable_connect_protocol()
                        .max_concurrent_streams(2000);
                    tokio::spawn(builder.serve_connection(stream, service));
                }
            }
        }
    });
    address
}

/// Returns a service whose responses begin with `first` and never end.
fn endless() -> impl Service<
    Request<TokenBoundBody<Incoming>>,
    Response = Response<ChannelBody>,
    Error = Infallible,
    Future = impl Send,
> + Clone
+ Send {
    let kept = Arc::new(Mutex::new(Vec::new()));
    service_fn(move |_: Request<TokenBoundBody<Incoming>>| {
        let (frames, body) = channel();
        frames.send(data("first")).unwrap();
        kept.lock().unwrap().push(frames);
        async { Ok(Response::new(body)) }
    })
}

async fn connect_h2(address: &str) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn request(streams: &Streams, address: &str, path: &str) -> Request<()> {
    let mut request = streams.request(());
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    request
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn an_http1_client_sees_that_the_response_is_incomplete() {
    let streams = Streams::new();
    let address = start(streams.layer().layer(endless()), Http::One).await;
    let response = client().get(format!("http://{address}/"));
    let mut response = response.bearer_auth(&streams.token).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "first");
    advance_clock(TOKEN_END).await;
    let error = response.chunk().await.expect_err("an incomplete body");
    assert!(error.is_body() || error.is_decode(), "{error:?}");
}

#[tokio::test]
async fn an_http2_client_sees_that_the_stream_is_reset() {
    let streams = Streams::new();
    let address = start(streams.layer().layer(endless()), Http::Two).await;
    let mut client = connect_h2(&address).await;
    let request = request(&streams, &address, "/");
    let (response, _) = client.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    advance_clock(TOKEN_END).await;
    let error = body.data().await.expect("no end").expect_err("a reset");
    assert!(error.is_reset(), "{error}");
}

#[tokio::test]
async fn server_sent_events_of_axum_end() {
    let streams = Streams::new();
    let events = async || {
        let first = Ok::<_, Infallible>(Event::default().data("first"));
        Sse::new(tokio_stream::once(first).chain(tokio_stream::pending()))
    };
    let app = axum::Router::new()
        .route("/events", get(events))
        .route_layer(streams.layer());
    let address = start(app, Http::One).await;
    let response = client().get(format!("http://{address}/events"));
    let mut response = response.bearer_auth(&streams.token).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "data: first\n\n");
    advance_clock(TOKEN_END).await;
    response.chunk().await.expect_err("an incomplete body");
}

#[tokio::test]
async fn a_handler_of_axum_sees_why_an_upload_was_ended() {
    let streams = Streams::new();
    let upload = async |request: Request<axum::body::Body>| {
        let error = request.into_body().collect().await.expect_err("an error");
        let mut cause: &(dyn std::error::Error + 'static) = &error;
        loop {
            if let Some(ended) = cause.downcast_ref::<BodyEnded>() {
                assert_eq!(ended.end, TokenEnd::Expired);
                return (StatusCode::UNAUTHORIZED, ended.to_string());
            }
            cause = cause.source().expect("the error of the guard");
        }
    };
    let app = axum::Router::new()
        .route("/upload", post(upload))
        .route_layer(streams.layer());
    let address = start(app, Http::Two).await;
    let mut client = connect_h2(&address).await;
    let request = request(&streams, &address, "/upload");
    let (response, mut sent) = client.send_request(request, false).unwrap();
    sent.send_data(Bytes::from_static(b"part"), false).unwrap();
    // Gives the handler the time to read the part.
    tokio::time::sleep(Duration::from_millis(20)).await;
    advance_clock(TOKEN_END).await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), 401);
    let text = response.into_body().data().await.unwrap().unwrap();
    assert_eq!(
        text,
        "the request body was ended because the token has expired"
    );
}

type Codec = ProstCodec<String, String>;

/// Starts a server of tonic with [`Feed`], and returns a client.
async fn feed(streams: &Streams) -> tonic::client::Grpc<tonic::transport::Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let mut server = tonic::transport::Server::builder().layer(streams.layer());
    let server = server.add_service(Feed);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = tonic::transport::Channel::from_shared(origin).unwrap();
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn call<M>(streams: &Streams, message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {}", streams.token).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn assert_expired(status: &Status, body: &str) {
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let message = format!("the {body} body was ended because the token has expired");
    assert_eq!(status.message(), message);
}

#[tokio::test]
async fn a_server_streaming_call_ends_with_unauthenticated() {
    let streams = Streams::new();
    let mut client = feed(&streams).await;
    let path = PathAndQuery::from_static("/shop.Feed/Watch");
    let watched = client.server_streaming(call(&streams, String::new()), path, Codec::default());
    let mut messages = watched.await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap(), "first");
    advance_clock(TOKEN_END).await;
    assert_expired(&messages.message().await.unwrap_err(), "response");
}

#[tokio::test]
async fn a_client_streaming_call_ends_with_unauthenticated() {
    let streams = Streams::new();
    let mut client = feed(&streams).await;
    let path = PathAndQuery::from_static("/shop.Feed/Upload");
    let (sent, received) = oneshot::channel();
    let first = tokio_stream::once("part".to_owned()).chain(tokio_stream::pending());
    // The first message and the wait for the second one show that the call has begun.
    let mut sent = Some(sent);
    let messages = first.map(move |message| {
        let _ = sent.take().map(|sent| sent.send(()));
        message
    });
    let called = client.client_streaming(call(&streams, messages), path, Codec::default());
    let end = async {
        received.await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        advance_clock(TOKEN_END).await;
    };
    let (called, ()): (Result<tonic::Response<String>, Status>, ()) = tokio::join!(called, end);
    assert_expired(&called.unwrap_err(), "request");
}

#[tokio::test]
async fn a_bidirectional_call_ends_with_unauthenticated() {
    let streams = Streams::new();
    let mut client = feed(&streams).await;
    let path = PathAndQuery::from_static("/shop.Feed/Echo");
    let messages = tokio_stream::once("one".to_owned()).chain(tokio_stream::pending());
    let called = client.streaming(call(&streams, messages), path, Codec::default());
    let mut messages: Streaming<String> = called.await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap(), "one");
    advance_clock(TOKEN_END).await;
    let status = messages.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(status.message().ends_with("because the token has expired"));
}

#[tokio::test]
async fn a_call_that_ends_by_itself_is_not_affected() {
    let streams = Streams::new();
    let mut client = feed(&streams).await;
    let path = PathAndQuery::from_static("/shop.Feed/Upload");
    let messages = tokio_stream::iter(["one".to_owned(), "two".to_owned()]);
    let called = client.client_streaming(call(&streams, messages), path, Codec::default());
    let called: tonic::Response<String> = called.await.unwrap();
    assert_eq!(called.into_inner(), "complete");
}

/// Returns a service that switches to a protocol that echoes bytes.
fn echo() -> impl Service<
    Request<TokenBoundBody<Incoming>>,
    Response = Response<Empty<Bytes>>,
    Error = Infallible,
    Future = impl Send,
> + Clone
+ Send {
    service_fn(async |mut request: Request<TokenBoundBody<Incoming>>| {
        assert!(request.extensions().get::<Identity>().is_some());
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut connection = TokioIo::new(upgraded.await.unwrap());
            let mut buffer = [0; 4];
            while connection.read_exact(&mut buffer).await.is_ok() {
                connection.write_all(&buffer).await.unwrap();
                connection.flush().await.unwrap();
            }
        });
        let mut response = Response::new(Empty::new());
        if request.method() != Method::CONNECT {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert("connection", "upgrade".parse().unwrap());
            headers.insert("upgrade", "echo".parse().unwrap());
        }
        Ok(response)
    })
}

#[tokio::test]
async fn an_http1_upgrade_is_not_affected() {
    let streams = Streams::new();
    let address = start(streams.layer().layer(echo()), Http::One).await;
    let mut connection = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\nauthorization: Bearer {}\r\n\r\n",
        streams.token
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(connection.read_u8().await.unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 101"));
    for text in [b"ping", b"pong"] {
        connection.write_all(text).await.unwrap();
        let mut echoed = [0; 4];
        connection.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, text);
        // An upgraded connection outlives the token, unless its handler ends it.
        advance_clock(TOKEN_END).await;
    }
}

#[tokio::test]
async fn an_extended_connect_of_http2_is_not_affected() {
    let streams = Streams::new();
    let address = start(streams.layer().layer(echo()), Http::Two).await;
    let mut client = connect_h2(&address).await;
    wait_until(async || client.is_extended_connect_protocol_enabled()).await;
    let mut request = request(&streams, &address, "/");
    *request.method_mut() = Method::CONNECT;
    request
        .extensions_mut()
        .insert(Protocol::from_static("echo"));
    let (response, mut sent) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut received = response.into_body();
    for text in ["ping", "pong"] {
        sent.send_data(Bytes::from_static(text.as_bytes()), false)
            .unwrap();
        assert_eq!(received.data().await.unwrap().unwrap(), text);
        advance_clock(TOKEN_END).await;
    }
}

/// Sends a request whose response has `first` and `last` ready at the end of the token. Returns what arrives before the error.
async fn received_before_the_error(http: Http, starts_after_the_end: bool) -> String {
    let streams = Streams::new();
    let open: Arc<Mutex<Vec<Frames>>> = Arc::default();
    let kept = open.clone();
    let service = service_fn(move |_: Request<TokenBoundBody<Incoming>>| {
        let kept = kept.clone();
        async move {
            let (frames, body) = channel();
            frames.send(data("first ")).unwrap();
            if starts_after_the_end {
                frames.send(data("last")).unwrap();
                advance_clock(TOKEN_END).await;
            }
            kept.lock().unwrap().push(frames);
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let address = start(streams.layer().layer(service), http).await;
    let mut text = String::new();
    let finish = async || {
        if !starts_after_the_end {
            open.lock().unwrap()[0].send(data("last")).unwrap();
            advance_clock(TOKEN_END).await;
        }
    };
    if http == Http::One {
        let response = client().get(format!("http://{address}/"));
        let mut response = response.bearer_auth(&streams.token).send().await.unwrap();
        text += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
        finish().await;
        while let Ok(chunk) = response.chunk().await {
            text += std::str::from_utf8(&chunk.expect("an error at the end")).unwrap();
        }
    } else {
        let mut client = connect_h2(&address).await;
        let request = request(&streams, &address, "/");
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        text += std::str::from_utf8(&body.data().await.unwrap().unwrap()).unwrap();
        finish().await;
        while let Ok(chunk) = body.data().await.expect("an error at the end") {
            text += std::str::from_utf8(&chunk).unwrap();
        }
    }
    text
}

#[tokio::test]
async fn clients_receive_what_was_ready_at_the_end() {
    for http in [Http::One, Http::Two] {
        for starts_after_the_end in [false, true] {
            let received = received_before_the_error(http, starts_after_the_end).await;
            assert_eq!(received, "first last", "{http:?} {starts_after_the_end}");
        }
    }
}

/// Counts the bodies that exist.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream of one item, which keeps something until it is dropped.
struct Once<F, K>(Option<F>, #[allow(dead_code)] K);

impl<F: Future + Unpin, K: Unpin> tokio_stream::Stream for Once<F, K> {
    type Item = F::Output;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let item = ready!(Pin::new(future).poll(cx));
        self.0 = None;
        Poll::Ready(Some(item))
    }
}

#[tokio::test]
async fn a_thousand_streams_leak_nothing() {
    const STREAMS: usize = 1000;
    let streams = Streams::new();
    let bodies = Arc::new(AtomicUsize::new(0));
    let count = bodies.clone();
    let service = service_fn(move |request: Request<TokenBoundBody<Incoming>>| {
        let (of_request, of_response) = (Counted::new(&count), Counted::new(&count));
        // The response ends only if reading the request ends.
        let read = async move {
            let read = request.into_body().collect().await;
            drop(of_request);
            read.map(|_| Frame::data(Bytes::new()))
        };
        let response = StreamBody::new(Once(Some(Box::pin(read)), of_response));
        async { Ok::<_, Infallible>(Response::new(response)) }
    });
    let address = start(streams.layer().layer(service), Http::Two).await;
    let mut client = connect_h2(&address).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    // What one stream leaves is counted before.
    let open = |client: &mut h2::client::SendRequest<Bytes>| {
        client
            .send_request(request(&streams, &address, "/"), false)
            .unwrap()
    };
    let (first, sent) = open(&mut client);
    drop((first.await.unwrap(), sent));
    wait_until(async || bodies.load(Ordering::Relaxed) == 0).await;
    let tasks = metrics.num_alive_tasks();
    let mut responses = Vec::new();
    for _ in 0..STREAMS {
        client = client.ready().await.unwrap();
        responses.push(open(&mut client));
    }
    let mut received = Vec::new();
    for (response, sent) in responses {
        received.push((response.await.unwrap().into_body(), sent));
    }
    assert_eq!(bodies.load(Ordering::Relaxed), 2 * STREAMS);
    advance_clock(TOKEN_END).await;
    for (body, _) in &mut received {
        let error = body.data().await.expect("no end").expect_err("a reset");
        assert!(error.is_reset());
    }
    drop(received);
    wait_until(async || bodies.load(Ordering::Relaxed) == 0).await;
    wait_until(async || metrics.num_alive_tasks() == tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_once_its_token_is_revoked_although_no_request_arrives() {
    let cluster = ReviewingCluster::new().await;
    let guard = cluster.guard(review(WhenUnavailable::Refuse));
    // The service keeps the stream open.
    let open: Arc<Mutex<Vec<Frames>>> = Arc::default();
    let kept = open.clone();
    let service = service_fn(move |_: Request<TokenBoundBody<Empty<Bytes>>>| {
        let (frames, body) = channel();
        frames.send(data("first")).unwrap();
        kept.lock().unwrap().push(frames);
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let service = guard.layer().end_streams_with_token().layer(service);
    let request = bearer_request(&cluster.token("web"));
    let mut body = service.oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    // The token stays confirmed while the stream is open.
    let waiting = tokio::spawn(async move { body.frame().await.unwrap().unwrap_err() });
    pass(&guard, Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    cluster.api.delete_pod("shop", "web");
    pass(&guard, Duration::from_secs(11)).await;
    assert!(waiting.is_finished());
    let error = waiting.await.unwrap();
    let ended = error.downcast_ref::<BodyEnded>().unwrap();
    assert_eq!(ended.end, TokenEnd::Revoked);
    assert!(open.lock().unwrap()[0].is_closed());
}
