//! Bodies that end with the token of their request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tokio::time::{Instant, advance};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::{TestIdentity, tokio_clock};
use tower_oidc_guard::{BodyEnded, BodyKind, ResponseBody, TokenBoundBody, TokenEnd};

use crate::support::streams::{ChannelBody, Frames, Streams, TOKEN_END, channel, data};
use crate::support::{NOW, unix_time};

type Guarded = ResponseBody<TokenBoundBody<ChannelBody>>;

const RESPONSE_EXPIRED: &str = "the response body was ended because the token has expired";

/// Returns the sender of the frames of a streamed response with this content type, and the response of the guarded service.
async fn streamed(streams: &Streams, content_type: &str) -> (Frames, Guarded) {
    let (frames, body) = channel();
    let response = Response::builder().header("content-type", content_type);
    let response = streams.response(response.body(body).unwrap()).await;
    (frames, response.into_body())
}

async fn next_data(body: &mut Guarded) -> Bytes {
    let frame = body.frame().await.expect("a frame").expect("no error");
    frame.into_data().expect("data")
}

async fn next_trailers(body: &mut Guarded) -> HeaderMap {
    let frame = body.frame().await.expect("a frame").expect("no error");
    frame.into_trailers().expect("trailers")
}

async fn next_error(body: &mut Guarded) -> BodyEnded {
    let error = body.frame().await.expect("a frame").expect_err("an error");
    *error
        .downcast_ref::<BodyEnded>()
        .expect("the error of the guard")
}

fn assert_ended_at(began: Instant, end: Duration) {
    let elapsed = began.elapsed();
    assert!(
        (end..end + Duration::from_millis(10)).contains(&elapsed),
        "{elapsed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_http_response_that_waits_for_ever_fails_when_its_token_ends() {
    let (began, streams) = (Instant::now(), Streams::new());
    let (frames, mut body) = streamed(&streams, "text/event-stream").await;
    frames.send(data("first")).unwrap();
    assert_eq!(next_data(&mut body).await, "first");
    let error = next_error(&mut body).await;
    // The leeway of the issuer is included.
    assert_ended_at(began, TOKEN_END);
    assert_eq!(
        (error.body, error.end),
        (BodyKind::Response, TokenEnd::Expired)
    );
    assert_eq!(error.to_string(), RESPONSE_EXPIRED);
    assert!(body.frame().await.is_none());
    assert!(body.is_end_stream());
    // The service's part of the stream is dropped.
    assert!(frames.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_guard_ends_streams_only_by_choice() {
    let streams = Streams::new();
    // Neither the body of the request nor that of the response is another type.
    let service = service_fn(async |request: Request<ChannelBody>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let (frames, body) = channel();
    let request = streams.request(body);
    let response = streams.guard.layer().layer(service).oneshot(request);
    let mut body: ResponseBody<ChannelBody> = response.await.unwrap().into_body();
    advance(TOKEN_END * 2).await;
    frames.send(data("late")).unwrap();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "late");
}

#[tokio::test(start_paused = true)]
async fn data_that_was_produced_before_the_end_is_sent() {
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "text/plain").await;
    for text in ["a", "b", "c"] {
        frames.send(data(text)).unwrap();
    }
    advance(TOKEN_END).await;
    for text in ["a", "b", "c"] {
        assert_eq!(next_data(&mut body).await, text);
    }
    assert_eq!(next_error(&mut body).await.to_string(), RESPONSE_EXPIRED);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_produced_after_the_end_is_sent() {
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "text/plain").await;
    frames.send(data("before")).unwrap();
    advance(TOKEN_END).await;
    assert_eq!(next_data(&mut body).await, "before");
    assert!(frames.send(data("after")).is_err());
    next_error(&mut body).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_always_has_data_ends_too() {
    for frame in [1, 100_000] {
        let streams = Streams::new();
        let endless = tokio_stream::iter(std::iter::repeat_with(move || {
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; frame])))
        }));
        let response = streams
            .response(Response::new(StreamBody::new(endless)))
            .await;
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        advance(TOKEN_END).await;
        let (mut count, mut bytes) = (0, 0);
        while let Ok(frame) = body.frame().await.expect("an error at the end") {
            count += 1;
            bytes += frame.into_data().unwrap().len();
        }
        assert!(count <= 16, "{count} frames");
        assert!(bytes <= 64 * 1024 + frame, "{bytes} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_reached_is_no_error() {
    // The sender is gone, with and without data before.
    for texts in [&[][..], &["a", "b"]] {
        let streams = Streams::new();
        let (frames, mut body) = streamed(&streams, "text/plain").await;
        for text in texts {
            frames.send(data(*text)).unwrap();
        }
        drop(frames);
        advance(TOKEN_END).await;
        for text in texts {
            assert_eq!(next_data(&mut body).await, *text);
        }
        assert!(body.frame().await.is_none());
    }
    // A complete body, and none.
    let streams = Streams::new();
    let full = Response::new(Full::new(Bytes::from_static(b"complete")));
    let full = streams.response(full).await;
    let empty = streams.response(Response::new(Empty::<Bytes>::new())).await;
    advance(TOKEN_END).await;
    assert!(empty.body().is_end_stream());
    let full = full.into_body().collect().await.unwrap();
    assert_eq!(full.to_bytes(), "complete");
    // An error of the service stays that.
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "text/plain").await;
    frames.send(Err("broken".into())).unwrap();
    advance(TOKEN_END).await;
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_response_ends_with_unauthenticated_in_its_trailers() {
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let (began, streams) = (Instant::now(), Streams::new());
        let (frames, mut body) = streamed(&streams, content_type).await;
        frames.send(data("message")).unwrap();
        assert_eq!(next_data(&mut body).await, "message");
        let trailers = next_trailers(&mut body).await;
        assert_ended_at(began, TOKEN_END);
        assert_eq!(trailers["grpc-status"], "16");
        assert_eq!(trailers["grpc-message"], RESPONSE_EXPIRED);
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_description_of_the_end_can_be_omitted() {
    let clock = tokio_clock(unix_time(NOW));
    let streams = Streams::with(|builder| builder.clock(clock).without_error_description());
    let (_frames, mut body) = streamed(&streams, "application/grpc").await;
    let trailers = next_trailers(&mut body).await;
    assert_eq!(trailers["grpc-status"], "16");
    assert!(!trailers.contains_key("grpc-message"));
}

#[tokio::test(start_paused = true)]
async fn trailers_of_the_service_are_left_alone() {
    let trailers = |status: &'static str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        Ok(Frame::trailers(trailers))
    };
    for status in ["0", "5"] {
        // Sent before the end, while the service keeps the stream open.
        let streams = Streams::new();
        let (frames, mut body) = streamed(&streams, "application/grpc").await;
        frames.send(trailers(status)).unwrap();
        assert_eq!(next_trailers(&mut body).await["grpc-status"], status);
        let waited = tokio::time::timeout(TOKEN_END * 2, body.frame()).await;
        assert!(
            waited.is_err(),
            "the body of the service decides on its end"
        );
        // Produced before the end, and sent after it.
        let streams = Streams::new();
        let (frames, mut body) = streamed(&streams, "application/grpc").await;
        frames.send(data("message")).unwrap();
        frames.send(trailers(status)).unwrap();
        advance(TOKEN_END).await;
        assert_eq!(next_data(&mut body).await, "message");
        assert_eq!(next_trailers(&mut body).await["grpc-status"], status);
        assert!(body.frame().await.is_none());
    }
    // A response that consists of trailers only.
    let streams = Streams::new();
    let (_frames, body) = channel();
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "5");
    let response = streams.response(response.body(body).unwrap()).await;
    assert_eq!(response.headers()["grpc-status"], "5");
    let mut body = response.into_body();
    let waited = tokio::time::timeout(TOKEN_END * 2, body.frame()).await;
    assert!(waited.is_err());
}

/// Returns a gRPC message, or trailers, in the format of gRPC-Web.
fn web_frame(flags: u8, content: &str) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[flags], &length[..], content.as_bytes()].concat()
}

fn web_end() -> Vec<u8> {
    let text = format!("grpc-status:16\r\ngrpc-message:{RESPONSE_EXPIRED}\r\n");
    web_frame(0x80, &text)
}

#[tokio::test(start_paused = true)]
async fn a_grpc_web_response_ends_with_trailers_in_its_body() {
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "application/grpc-web+proto").await;
    let message = web_frame(0, "message");
    let (first, second) = message.split_at(3);
    for part in [first, second] {
        frames.send(data(part.to_vec())).unwrap();
        assert_eq!(next_data(&mut body).await, part);
    }
    assert_eq!(next_data(&mut body).await, web_end());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_web_text_response_ends_with_trailers_in_base64() {
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "application/grpc-web-text+proto").await;
    let text = STANDARD.encode(web_frame(0, "message"));
    frames.send(data(text.clone())).unwrap();
    assert_eq!(next_data(&mut body).await, text);
    let end = next_data(&mut body).await;
    assert_eq!(STANDARD.decode(end).unwrap(), web_end());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_web_response_fails_where_trailers_would_be_read_as_something_else() {
    let message = web_frame(0, "message");
    let text = STANDARD.encode(&message);
    for (content_type, other_header, sent) in [
        // Within a message, its prefix, or four characters of base64.
        ("application/grpc-web", None, message[..8].to_vec()),
        ("application/grpc-web", None, message[..2].to_vec()),
        (
            "application/grpc-web-text",
            None,
            text.as_bytes()[..6].to_vec(),
        ),
        // In data that is compressed, or longer than announced.
        (
            "application/grpc-web",
            Some(("content-encoding", "gzip")),
            message.clone(),
        ),
        (
            "application/grpc-web",
            Some(("content-length", "100")),
            message.clone(),
        ),
    ] {
        let streams = Streams::new();
        let (frames, body) = channel();
        let mut response = Response::builder().header("content-type", content_type);
        if let Some((name, value)) = other_header {
            response = response.header(name, value);
        }
        let response = streams.response(response.body(body).unwrap()).await;
        let mut body = response.into_body();
        frames.send(data(sent)).unwrap();
        next_data(&mut body).await;
        assert_eq!(next_error(&mut body).await.end, TokenEnd::Expired);
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_in_a_grpc_web_body_are_left_alone() {
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "application/grpc-web").await;
    let trailers = web_frame(0x80, "grpc-status:0\r\n");
    frames.send(data(trailers.clone())).unwrap();
    assert_eq!(next_data(&mut body).await, trailers);
    let waited = tokio::time::timeout(TOKEN_END * 2, body.frame()).await;
    assert!(waited.is_err());
    // Produced before the end, and sent after it.
    let streams = Streams::new();
    let (frames, mut body) = streamed(&streams, "application/grpc-web").await;
    frames.send(data(trailers.clone())).unwrap();
    drop(frames);
    advance(TOKEN_END).await;
    assert_eq!(next_data(&mut body).await, trailers);
    assert!(body.frame().await.is_none());
}

/// Calls a service with a streamed body, whose frames the result sends. The service responds with what `respond` returns for the result
/// of reading the body.
fn upload(
    streams: &Streams,
    respond: impl Fn(Result<Bytes, BoxError>) -> Response<String> + Clone + Send + 'static,
) -> (Frames, impl Future<Output = Response<String>>) {
    let service = service_fn(move |request: Request<TokenBoundBody<ChannelBody>>| {
        let respond = respond.clone();
        async move {
            let read = request.into_body().collect().await;
            Ok::<_, Infallible>(respond(read.map(|read| read.to_bytes())))
        }
    });
    let (frames, body) = channel();
    let called = streams
        .layer()
        .layer(service)
        .oneshot(streams.request(body));
    let response = async move {
        let (parts, body) = called.await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        Response::from_parts(parts, String::from_utf8(text.to_vec()).unwrap())
    };
    (frames, response)
}

#[tokio::test(start_paused = true)]
async fn reading_a_request_fails_once_its_token_has_expired() {
    let (began, streams) = (Instant::now(), Streams::new());
    let (frames, response) = upload(&streams, |read| {
        Response::new(read.expect_err("an error").to_string())
    });
    frames.send(data("part")).unwrap();
    let response = response.await;
    assert_ended_at(began, TOKEN_END);
    assert_eq!(
        *response.body(),
        "the request body was ended because the token has expired"
    );
}

#[tokio::test(start_paused = true)]
async fn a_grpc_response_that_fails_because_its_request_was_ended_has_trailers() {
    for content_type in ["application/grpc", "application/grpc-web"] {
        let streams = Streams::new();
        // Returns what it receives, so that the response fails when reading the request does.
        let echo = service_fn(move |request: Request<TokenBoundBody<ChannelBody>>| {
            let response = Response::builder().header("content-type", content_type);
            let response = response.body(request.into_body()).unwrap();
            async { Ok::<_, Infallible>(response) }
        });
        let (frames, body) = channel();
        let response = streams.layer().layer(echo).oneshot(streams.request(body));
        let mut body = response.await.unwrap().into_body();
        frames.send(data(web_frame(0, "message"))).unwrap();
        body.frame().await.unwrap().unwrap();
        let last = body.frame().await.unwrap().unwrap();
        match last.into_trailers() {
            Ok(trailers) => assert_eq!(trailers["grpc-status"], "16"),
            Err(frame) => assert_eq!(frame.into_data().unwrap()[0], 0x80),
        }
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_waker_is_woken_at_the_end() {
    struct Flag(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let streams = Streams::new();
    let (_frames, mut body) = streamed(&streams, "application/grpc").await;
    let [first, second] = [(); 2].map(|()| Arc::new(Flag(false.into())));
    for flag in [&first, &second] {
        let waker = Waker::from(Arc::clone(flag));
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    // In steps: a timer looks at the clock once a minute, and is polled for that.
    for _ in 0..12 {
        advance(Duration::from_secs(60)).await;
        assert!(second.0.swap(false, Ordering::Relaxed));
        let waker = Waker::from(Arc::clone(&second));
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            break;
        }
    }
    assert!(body.is_end_stream());
    assert!(!first.0.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_arrived_is_read_after_the_end() {
    let streams = Streams::new();
    let service = service_fn(async |request: Request<TokenBoundBody<ChannelBody>>| {
        advance(TOKEN_END).await;
        let read = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read, "ab");
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let (frames, body) = channel();
    frames.send(data("a")).unwrap();
    frames.send(data("b")).unwrap();
    drop(frames);
    let response = streams
        .layer()
        .layer(service)
        .oneshot(streams.request(body));
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_fails_because_its_request_was_ended_is_unauthenticated() {
    for (content_type, status, expected) in [
        ("application/grpc", "2", "16"),
        ("application/grpc", "13", "16"),
        ("application/grpc", "0", "0"),
        ("application/grpc-web", "2", "16"),
        ("application/grpc-web-text", "2", "16"),
    ] {
        let streams = Streams::new();
        let (_frames, response) = upload(&streams, move |read| {
            assert!(read.is_err());
            let response = Response::builder()
                .header("content-type", content_type)
                .header("content-length", "0")
                .header("grpc-status", status)
                .header("grpc-message", "reading failed")
                .header("grpc-status-details-bin", "AA");
            response.body(String::new()).unwrap()
        });
        let response = response.await;
        assert_eq!(response.headers()["grpc-status"], expected);
        let message = "the request body was ended because the token has expired";
        let message = if expected == "16" {
            message
        } else {
            "reading failed"
        };
        assert_eq!(response.headers()["grpc-message"], message);
        let has_details = response.headers().contains_key("grpc-status-details-bin");
        assert_eq!(has_details, expected == "0");
    }
    // A request that was read has no part in a failure.
    let streams = Streams::new();
    let (frames, response) = upload(&streams, |read| {
        assert!(read.is_ok());
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5");
        response.body(String::new()).unwrap()
    });
    drop(frames);
    assert_eq!(response.await.headers()["grpc-status"], "5");
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_token_is_not_bound() {
    let clock = tokio_clock(unix_time(NOW));
    let streams = Streams::with(|builder| builder.clock(clock).allow_missing_token());
    let service = service_fn(async |request: Request<TokenBoundBody<ChannelBody>>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let (frames, body) = channel();
    let response = streams.layer().layer(service).oneshot(Request::new(body));
    let mut body = response.await.unwrap().into_body();
    advance(TOKEN_END * 2).await;
    frames.send(data("late")).unwrap();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "late");
}

#[tokio::test(start_paused = true)]
async fn a_named_identity_ends_streams() {
    let clock = tokio_clock(unix_time(NOW));
    let streams = Streams::with(|builder| builder.clock(clock).identity_name("gateway"));
    let (began, (_frames, mut body)) = (Instant::now(), streamed(&streams, "text/plain").await);
    next_error(&mut body).await;
    assert_ended_at(began, TOKEN_END);
}

/// Returns a clock that shows a time in seconds, and the time.
fn settable_clock() -> (
    Arc<AtomicU64>,
    impl Fn() -> std::time::SystemTime + Send + Sync + 'static,
) {
    let time = Arc::new(AtomicU64::new(NOW));
    let shown = Arc::clone(&time);
    (time, move || unix_time(shown.load(Ordering::Relaxed)))
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_is_noticed_within_a_minute() {
    let (time, clock) = settable_clock();
    let streams = Streams::with(|builder| builder.clock(clock));
    let (_frames, mut body) = streamed(&streams, "text/plain").await;
    let began = Instant::now();
    let set = async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        time.fetch_add(TOKEN_END.as_secs(), Ordering::Relaxed);
    };
    let (error, ()) = tokio::join!(next_error(&mut body), set);
    assert_eq!(error.end, TokenEnd::Expired);
    assert!(began.elapsed() <= Duration::from_secs(151));
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_end_before_the_clock_shows_it() {
    let (time, clock) = settable_clock();
    let streams = Streams::with(|builder| builder.clock(clock));
    let (_frames, mut body) = streamed(&streams, "text/plain").await;
    // The clock stands still while tokio's time passes.
    let waited = tokio::time::timeout(TOKEN_END * 2, body.frame()).await;
    assert!(waited.is_err());
    time.fetch_add(TOKEN_END.as_secs() - 1, Ordering::Relaxed);
    let waited = tokio::time::timeout(TOKEN_END, body.frame()).await;
    assert!(waited.is_err());
    time.fetch_add(1, Ordering::Relaxed);
    next_error(&mut body).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_in_the_far_future_is_no_problem() {
    for expires_at in [NOW + 3_600_000, 32_503_680_000, 9_007_199_254_740_991] {
        let caller = TestIdentity::kubernetes("shop", "web");
        let caller = caller
            .claim("exp", expires_at)
            .clock(tokio_clock(unix_time(NOW)))
            .build();
        let waited = tokio::time::timeout(Duration::from_secs(86_400), caller.expired()).await;
        assert!(waited.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn expired_completes_when_the_token_ends() {
    let (began, streams) = (Instant::now(), Streams::new());
    let caller = streams
        .guard
        .verifier()
        .verify(&streams.token)
        .await
        .unwrap();
    let expired = caller.expired();
    drop(caller);
    let task = tokio::spawn(expired);
    assert_eq!(task.await.unwrap(), TokenEnd::Expired);
    assert_ended_at(began, TOKEN_END);
}

#[tokio::test(start_paused = true)]
async fn expired_of_a_test_identity_completes_by_its_clock() {
    let (began, start) = (Instant::now(), unix_time(NOW));
    let caller = TestIdentity::oidc("https://id.example", "ann").issued_at(start);
    let caller = caller
        .lifetime(Duration::from_secs(5))
        .clock(tokio_clock(start))
        .build();
    assert_eq!(caller.expired().await, TokenEnd::Expired);
    assert_ended_at(began, Duration::from_secs(5));
    // Once more, after the end.
    assert_eq!(caller.expired().await.to_string(), "the token has expired");
}

#[tokio::test(start_paused = true)]
async fn expired_can_be_cancelled_and_created_anew() {
    let (began, start) = (Instant::now(), unix_time(NOW));
    let caller = TestIdentity::kubernetes("shop", "web").issued_at(start);
    let caller = caller
        .lifetime(Duration::from_secs(5))
        .clock(tokio_clock(start))
        .build();
    let mut ticks = tokio::time::interval(Duration::from_millis(300));
    let (mut count, mut kept) = (0, caller.expired());
    loop {
        tokio::select! {
            _ = caller.expired() => break,
            _ = ticks.tick() => count += 1,
        }
        tokio::select! {
            biased;
            _ = &mut kept => break,
            () = std::future::ready(()) => {}
        }
    }
    assert_ended_at(began, Duration::from_secs(5));
    assert!(count >= 16);
}

fn poll_once(body: &mut Guarded) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Polls a body that has ended. Before an error, a server has an opportunity to send what it has.
fn poll_ended(body: &mut Guarded) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    assert!(poll_once(body).is_pending());
    poll_once(body)
}

/// Returns a streamed response and the time that its guard's clock shows.
fn streamed_by_a_settable_clock() -> (Arc<AtomicU64>, Frames, Guarded) {
    let (time, clock) = settable_clock();
    let streams = Streams::with(|builder| builder.clock(clock));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (frames, body) = runtime.unwrap().block_on(streamed(&streams, "text/plain"));
    (time, frames, body)
}

#[test]
fn outside_a_runtime_the_clock_is_read_when_the_body_is_polled() {
    let (time, frames, mut body) = streamed_by_a_settable_clock();
    assert!(poll_once(&mut body).is_pending());
    frames.send(data("a")).unwrap();
    assert!(matches!(poll_once(&mut body), Poll::Ready(Some(Ok(_)))));
    time.fetch_add(TOKEN_END.as_secs(), Ordering::Relaxed);
    assert!(matches!(poll_ended(&mut body), Poll::Ready(Some(Err(_)))));
    assert!(matches!(poll_once(&mut body), Poll::Ready(None)));
}

#[test]
fn in_a_runtime_without_timers_the_clock_is_read_when_the_body_is_polled() {
    let (time, _frames, mut body) = streamed_by_a_settable_clock();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert!(poll_once(&mut body).is_pending());
        assert!(poll_once(&mut body).is_pending());
        time.fetch_add(TOKEN_END.as_secs(), Ordering::Relaxed);
        assert!(matches!(poll_ended(&mut body), Poll::Ready(Some(Err(_)))));
    });
}

#[test]
fn a_body_ends_in_another_runtime_than_it_began_in() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let (time, _frames, mut body) = streamed_by_a_settable_clock();
    let first = runtime();
    first.block_on(async { assert!(poll_once(&mut body).is_pending()) });
    drop(first);
    runtime().block_on(async {
        let set = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            time.fetch_add(TOKEN_END.as_secs(), Ordering::Relaxed);
        };
        tokio::join!(next_error(&mut body), set);
    });
}

#[tokio::test(start_paused = true)]
async fn size_hint_and_end_of_stream_are_those_of_the_body() {
    let streams = Streams::new();
    let full = |content_type| {
        let response = Response::builder().header("content-type", content_type);
        let body = Full::new(Bytes::from_static(b"four"));
        streams.response(response.body(body).unwrap())
    };
    // A body of HTTP fails if it is not complete, so that its length is known.
    let mut body = full("text/plain").await.into_body();
    assert_eq!(body.size_hint().exact(), Some(4));
    assert!(!body.is_end_stream());
    body.frame().await.unwrap().unwrap();
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.is_end_stream());
    // One of gRPC ends with trailers, and has less data than the service has promised.
    let body = full("application/grpc").await.into_body();
    assert_eq!(body.size_hint().exact(), None);
    let empty = streams.response(Response::new(Empty::<Bytes>::new())).await;
    assert!(empty.body().is_end_stream());
    assert_eq!(empty.body().size_hint().exact(), Some(0));
    // After the end, what is left is known only if no error follows.
    let (frames, mut body) = streamed(&streams, "text/plain").await;
    for text in ["one", "three"] {
        frames.send(data(text)).unwrap();
    }
    drop(frames);
    advance(TOKEN_END).await;
    next_data(&mut body).await;
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    next_data(&mut body).await;
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn waiting_streams_spawn_no_task() {
    let streams = Streams::new();
    streams.guard.ready().await.unwrap();
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let (frames, mut body) = streamed(&streams, "text/plain").await;
        assert!(poll_once(&mut body).is_pending());
        waiting.push((frames, body));
    }
    assert_eq!(metrics.num_alive_tasks(), before);
    advance(TOKEN_END).await;
    for (_, body) in &mut waiting {
        next_error(body).await;
    }
    assert!(waiting.iter().all(|(frames, _)| frames.is_closed()));
    assert_eq!(metrics.num_alive_tasks(), before);
}

#[test]
fn the_default_body_of_a_layer_in_front_is_not_bound() {
    let body = TokenBoundBody::<Empty<Bytes>>::default();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
}
