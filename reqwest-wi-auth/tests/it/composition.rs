//! The tower service composes with other layers, and its errors reach their caller.
#![cfg(unix)]

use std::future::Future as _;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::{Tokens, bearer, token};
use http::{Request, Response};
use reqwest_wi_auth::{BearerAuth, BoxError, Error, SendError, Token, TokenSource};
use tokio::sync::Notify;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

type Body = http_body_util::Empty<bytes::Bytes>;

const ORIGIN: &str = "https://auth-server.example";

/// A client that is neither `Clone` nor ready before it is polled, and whose error is boxed.
#[derive(Default)]
struct Network {
    seen: Arc<Mutex<Vec<Option<String>>>>,
    is_ready: bool,
}

impl Service<Request<Body>> for Network {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.is_ready),
            "called without being ready"
        );
        let token = request.headers().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().push(token);
        std::future::ready(match request.uri().path() {
            "/fail" => Err("the network is down".into()),
            _ => Ok(Response::new(Body::new())),
        })
    }
}

/// A source whose token comes when it is released.
#[derive(Clone)]
struct Cold {
    token: Token,
    release: Arc<Notify>,
    refreshes: Arc<AtomicUsize>,
}

impl Cold {
    fn new(text: &str) -> Self {
        Self {
            token: Token::new(text).unwrap(),
            release: Arc::default(),
            refreshes: Arc::default(),
        }
    }
}

#[async_trait::async_trait]
impl TokenSource for Cold {
    fn current(&self) -> Result<Token, Error> {
        Err(Error::NotFetched {
            location: "a cold source".to_owned(),
        })
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        self.refreshes.fetch_add(1, Ordering::SeqCst);
        self.release.notified().await;
        Ok(self.token.clone())
    }
}

fn get(path: &str) -> Request<Body> {
    let uri = format!("{ORIGIN}{path}");
    Request::get(uri).body(Body::new()).unwrap()
}

fn auth(source: impl TokenSource) -> BearerAuth {
    BearerAuth::for_origin(ORIGIN, source).unwrap()
}

#[tokio::test]
async fn a_boxed_error_is_an_error_with_its_source() {
    fn assert_error<E: std::error::Error + Send + Sync + 'static>() {}
    assert_error::<SendError>();
    assert_error::<SendError>();
    let service = auth(Tokens::one(&token("0", 600))).layer(Network::default());
    let error = service.oneshot(get("/fail")).await.unwrap_err();
    assert_eq!(error.to_string(), "the network is down");
    let boxed: BoxError = error.into();
    assert_eq!(boxed.source().unwrap().to_string(), "the network is down");
}

#[tokio::test]
async fn the_error_of_a_token_is_the_source_of_what_arrives() {
    struct Broken;
    #[async_trait::async_trait]
    impl TokenSource for Broken {
        fn current(&self) -> Result<Token, Error> {
            Token::new("")
        }
        async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
            Token::new("")
        }
    }
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(60))
        .layer(auth(Broken))
        .service(Network::default());
    let error = service.oneshot(get("/")).await.unwrap_err();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    let mut found = None;
    while let Some(error) = cause {
        found = found.or_else(|| error.downcast_ref::<Error>());
        cause = error.source();
    }
    assert!(
        matches!(found, Some(Error::InvalidToken { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn timeouts_and_buffers_fit_above_and_below_a_client_that_is_not_clone() {
    let (network, text) = (Network::default(), token("0", 600));
    let seen = network.seen.clone();
    let cold = Cold::new(&text);
    cold.release.notify_one();
    let service = ServiceBuilder::new()
        .buffer(4)
        .timeout(Duration::from_secs(60))
        .layer(auth(cold.clone()))
        .timeout(Duration::from_secs(60))
        .service(network);
    let other = service.clone();
    service.oneshot(get("/")).await.unwrap();
    cold.release.notify_one();
    other.oneshot(get("/")).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [bearer(&text), bearer(&text)]);
}

#[tokio::test]
async fn the_next_request_waits_for_the_client_and_drives_the_one_before_it() {
    let (network, text) = (Network::default(), token("0", 600));
    let seen = network.seen.clone();
    let cold = Cold::new(&text);
    let mut service = auth(cold.clone()).layer(network);
    service.ready().await.unwrap();
    let first = service.call(get("/first"));
    let mut ready = pin!(service.ready());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(ready.as_mut().poll(&mut cx).is_pending());
    // The first future has not been polled; readiness does not depend on it.
    cold.release.notify_one();
    let second = ready.await.unwrap().call(get("/second"));
    assert_eq!(*seen.lock().unwrap(), [bearer(&text)]);
    first.await.unwrap();
    cold.release.notify_one();
    second.await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
    assert_eq!(cold.refreshes.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn whoever_is_polled_the_token_s_arrival_wakes_both() {
    let cold = Cold::new(&token("0", 600));
    let mut service = auth(cold.clone()).layer(Network::default());
    service.ready().await.unwrap();
    let first = tokio::spawn(service.call(get("/first")));
    tokio::task::yield_now().await;
    let next = tokio::spawn(async move {
        service.ready().await.unwrap();
    });
    tokio::task::yield_now().await;
    cold.release.notify_one();
    first.await.unwrap().unwrap();
    next.await.unwrap();
}

#[tokio::test]
async fn a_waiting_request_that_is_given_up_leaves_the_client_usable() {
    let (network, text) = (Network::default(), token("0", 600));
    let seen = network.seen.clone();
    let cold = Cold::new(&text);
    let mut service = auth(cold.clone()).layer(network);
    service.ready().await.unwrap();
    let mut first = Box::pin(service.call(get("/first")));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    drop(first);
    cold.release.notify_one();
    let second = service.ready().await.unwrap().call(get("/second"));
    second.await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1, "the first was never sent");
}

#[cfg(feature = "tonic")]
mod grpc {
    use reqwest_wi_auth::testing::FakeMetadataServer;
    use tonic::Code;
    use tonic::transport::{Channel, Server, server::TcpIncoming};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    /// Fails with this error.
    struct Failing(Error);

    #[async_trait::async_trait]
    impl TokenSource for Failing {
        fn current(&self) -> Result<Token, Error> {
            Err(self.0.clone())
        }

        async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
            self.current()
        }
    }

    #[tokio::test]
    async fn a_call_without_a_token_has_a_status_that_says_whether_to_try_again() {
        let (_, health) = tonic_health::server::health_reporter();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let channel = Channel::from_shared(origin.clone())
            .unwrap()
            .connect()
            .await
            .unwrap();
        let transient = Error::NotFetched {
            location: "somewhere".to_owned(),
        };
        let permanent = Token::new("").unwrap_err();
        for (error, code) in [
            (transient, Code::Unavailable),
            (permanent, Code::Unauthenticated),
        ] {
            let message = error.to_string();
            let auth = BearerAuth::for_origin(&origin, Failing(error)).unwrap();
            let mut client = HealthClient::new(
                auth.layer_for_origin(&origin)
                    .unwrap()
                    .layer(channel.clone()),
            );
            let status = client
                .check(HealthCheckRequest::default())
                .await
                .unwrap_err();
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message().contains(&message), "{status:?}");
        }
        let fake = FakeMetadataServer::start().await.unwrap();
        let cold = reqwest_wi_auth::MetadataServer::with_host(fake.host())
            .unwrap()
            .start("a");
        let auth = BearerAuth::for_origin(&origin, cold).unwrap();
        let mut client = HealthClient::new(auth.layer_for_origin(&origin).unwrap().layer(channel));
        client
            .check(HealthCheckRequest::default())
            .await
            .expect("once there is a token");
    }
}
