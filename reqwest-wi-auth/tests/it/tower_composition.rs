//! The tower service below and above other layers, with a client that is not `Clone`.
#![cfg(unix)]

use std::future::Future as _;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::sources::{FailingSource, Tokens, not_fetched};
use crate::support::{bearer, token};
use http::{Request, Response};
use reqwest_wi_auth::{BearerAuth, BoxError, Error, SendError, Token, TokenSource};
use tokio::sync::Notify;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

type Body = http_body_util::Empty<bytes::Bytes>;

const ORIGIN: &str = "https://auth-server.example";

/// A client that is not `Clone`, and panics if it is called without having been polled ready. Its error is boxed.
#[derive(Default)]
struct Client {
    authorization: Arc<Mutex<Vec<Option<String>>>>,
    is_ready: bool,
}

impl Service<Request<Body>> for Client {
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
            "called without having been polled ready"
        );
        let token = request.headers().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        self.authorization.lock().unwrap().push(token);
        std::future::ready(match request.uri().path() {
            "/fail" => Err("the network is down".into()),
            _ => Ok(Response::new(Body::new())),
        })
    }
}

/// A source that has a token when a refresh is released.
#[derive(Clone)]
struct HeldSource {
    token: Token,
    release: Arc<Notify>,
    refreshes: Arc<AtomicUsize>,
}

impl HeldSource {
    fn new(text: &str) -> Self {
        Self {
            token: Token::new(text).unwrap(),
            release: Arc::default(),
            refreshes: Arc::default(),
        }
    }
}

#[async_trait::async_trait]
impl TokenSource for HeldSource {
    fn current(&self) -> Result<Token, Error> {
        Err(not_fetched())
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
async fn the_error_of_the_client_is_the_source() {
    fn assert_error<E: std::error::Error + Send + Sync + 'static>() {}
    assert_error::<SendError>();
    let service = auth(Tokens::one(&token("0", 600))).layer(Client::default());
    let error = service.oneshot(get("/fail")).await.unwrap_err();
    assert_eq!(error.to_string(), "the network is down");
    let boxed: BoxError = error.into();
    assert_eq!(boxed.source().unwrap().to_string(), "the network is down");
}

#[tokio::test]
async fn the_error_of_the_token_is_the_source() {
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(60))
        .layer(auth(FailingSource::permanent()))
        .service(Client::default());
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
async fn the_service_composes_with_timeout_and_buffer_over_a_client_that_is_not_clone() {
    let (client, text) = (Client::default(), token("0", 600));
    let authorization = client.authorization.clone();
    let source = HeldSource::new(&text);
    source.release.notify_one();
    let service = ServiceBuilder::new()
        .buffer(4)
        .timeout(Duration::from_secs(60))
        .layer(auth(source.clone()))
        .timeout(Duration::from_secs(60))
        .service(client);
    let other = service.clone();
    service.oneshot(get("/")).await.unwrap();
    source.release.notify_one();
    other.oneshot(get("/")).await.unwrap();
    assert_eq!(
        *authorization.lock().unwrap(),
        [bearer(&text), bearer(&text)]
    );
}

#[tokio::test]
async fn poll_ready_drives_a_pending_request() {
    let (client, text) = (Client::default(), token("0", 600));
    let authorization = client.authorization.clone();
    let source = HeldSource::new(&text);
    let mut service = auth(source.clone()).layer(client);
    service.ready().await.unwrap();
    let first = service.call(get("/first"));
    let mut ready = pin!(service.ready());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(ready.as_mut().poll(&mut cx).is_pending());
    // The first future has not been polled. The readiness does not depend on it.
    source.release.notify_one();
    let second = ready.await.unwrap().call(get("/second"));
    assert_eq!(*authorization.lock().unwrap(), [bearer(&text)]);
    first.await.unwrap();
    source.release.notify_one();
    second.await.unwrap();
    assert_eq!(authorization.lock().unwrap().len(), 2);
    assert_eq!(source.refreshes.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_new_token_wakes_both_the_response_and_the_service() {
    let source = HeldSource::new(&token("0", 600));
    let mut service = auth(source.clone()).layer(Client::default());
    service.ready().await.unwrap();
    let first = tokio::spawn(service.call(get("/first")));
    tokio::task::yield_now().await;
    let next = tokio::spawn(async move {
        service.ready().await.unwrap();
    });
    tokio::task::yield_now().await;
    source.release.notify_one();
    first.await.unwrap().unwrap();
    next.await.unwrap();
}

#[tokio::test]
async fn a_cancelled_pending_request_releases_the_client() {
    let (client, text) = (Client::default(), token("0", 600));
    let authorization = client.authorization.clone();
    let source = HeldSource::new(&text);
    let mut service = auth(source.clone()).layer(client);
    service.ready().await.unwrap();
    let mut first = Box::pin(service.call(get("/first")));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    drop(first);
    source.release.notify_one();
    let second = service.ready().await.unwrap().call(get("/second"));
    second.await.unwrap();
    assert_eq!(
        authorization.lock().unwrap().len(),
        1,
        "the first request was not sent"
    );
}

#[cfg(feature = "tonic")]
mod grpc {
    use reqwest_wi_auth::testing::FakeMetadataServer;
    use tonic::Code;
    use tonic::transport::{Channel, Server, server::TcpIncoming};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    #[tokio::test]
    async fn a_call_without_a_token_returns_unavailable_or_unauthenticated() {
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
        for (source, code) in [
            (FailingSource::transient(), Code::Unavailable),
            (FailingSource::permanent(), Code::Unauthenticated),
        ] {
            let message = source.0.to_string();
            let auth = BearerAuth::for_origin(&origin, source).unwrap();
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
        let source = reqwest_wi_auth::MetadataServer::with_host(fake.host())
            .unwrap()
            .start("a");
        let auth = BearerAuth::for_origin(&origin, source).unwrap();
        let mut client = HealthClient::new(auth.layer_for_origin(&origin).unwrap().layer(channel));
        client
            .check(HealthCheckRequest::default())
            .await
            .expect("a response, when there is a token");
    }
}
