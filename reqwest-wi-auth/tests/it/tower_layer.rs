//! The tower layer.
#![cfg(unix)]

use crate::support::recorder::{Body, Recorder};
use crate::support::sources::{FailingSource, Tokens, not_fetched};
use crate::support::{bearer, token};
use http::{Request, StatusCode};
use reqwest_wi_auth::{BearerAuth, Error, SendError, SkipToken, Token, TokenSource};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _};
use tower_http::follow_redirect::FollowRedirectLayer;

const ORIGIN: &str = "https://auth-server.example";

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::new()).unwrap()
}

fn auth(source: impl TokenSource) -> BearerAuth {
    BearerAuth::for_origin(ORIGIN, source).unwrap()
}

#[tokio::test]
async fn the_uri_of_each_request_decides_whether_it_carries_a_token() {
    let (recorder, text) = (Recorder::default(), token("0", 600));
    let service = auth(Tokens::one(&text)).layer(recorder.clone());
    for uri in [
        "https://auth-server.example/a",
        "https://other.example/a",
        "/a",
    ] {
        service.clone().oneshot(get(uri)).await.unwrap();
    }
    let mut skipped = get("https://auth-server.example/a");
    skipped.extensions_mut().insert(SkipToken);
    service.oneshot(skipped).await.unwrap();
    let expected = [bearer(&text), None, None, None];
    assert_eq!(recorder.authorization(), expected);
}

#[tokio::test]
async fn layer_for_origin_adds_the_token_to_requests_without_an_authority() {
    let (recorder, text) = (Recorder::default(), token("0", 600));
    let auth = auth(Tokens::one(&text));
    assert!(matches!(
        auth.layer_for_origin("https://other.example"),
        Err(Error::InvalidOrigin { .. })
    ));
    let layer = auth.layer_for_origin(ORIGIN).unwrap();
    let service = layer.layer(recorder.clone());
    let request = get("/grpc.health.v1.Health/Check");
    service.oneshot(request).await.unwrap();
    assert_eq!(recorder.authorization(), [bearer(&text)]);
}

#[tokio::test]
async fn below_a_redirect_layer_each_redirect_is_checked() {
    let text = token("0", 600);
    let recorder = Recorder::with_redirects([
        ("/away", "https://other.example/back"),
        ("/back", "https://auth-server.example/end"),
    ]);
    let service = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(auth(Tokens::one(&text)))
        .service(recorder.clone());
    let request = get("https://auth-server.example/away");
    service.oneshot(request).await.unwrap();
    let expected = [bearer(&text), None, bearer(&text)];
    assert_eq!(recorder.authorization(), expected);
}

#[tokio::test]
async fn above_a_redirect_layer_that_layer_removes_authorization() {
    let text = token("0", 600);
    let recorder = Recorder::with_redirects([("/away", "https://other.example/end")]);
    let service = ServiceBuilder::new()
        .layer(auth(Tokens::one(&text)))
        .layer(FollowRedirectLayer::new())
        .service(recorder.clone());
    let request = get("https://auth-server.example/away");
    service.oneshot(request).await.unwrap();
    assert_eq!(recorder.authorization(), [bearer(&text), None]);
}

#[tokio::test]
async fn a_request_is_not_sent_again_after_a_401() {
    let (old, new) = (token("old", 600), token("new", 600));
    let recorder = Recorder::with_status(StatusCode::UNAUTHORIZED);
    let service = auth(Tokens::two(&old, &new)).layer(recorder.clone());
    let request = get("https://auth-server.example/a");
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(recorder.authorization(), [bearer(&old)]);
}

/// A source that has no token until it is refreshed.
struct RefreshedSource(Token);

#[async_trait::async_trait]
impl TokenSource for RefreshedSource {
    fn current(&self) -> Result<Token, Error> {
        Err(not_fetched())
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        tokio::task::yield_now().await;
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_pending_request_calls_the_service_that_was_ready() {
    let (recorder, text) = (Recorder::default(), token("0", 600));
    let source = RefreshedSource(Token::new(&text).unwrap());
    let mut service = auth(source).layer(recorder.clone());
    for _ in 0..2 {
        let ready = service.ready().await.unwrap();
        let request = get("https://auth-server.example/a");
        ready.call(request).await.unwrap();
    }
    assert_eq!(recorder.authorization(), [bearer(&text), bearer(&text)]);
}

#[tokio::test]
async fn without_a_token_the_request_fails_with_a_typed_error() {
    let recorder = Recorder::default();
    let service = auth(FailingSource::permanent()).layer(recorder.clone());
    let result = service.oneshot(get("https://auth-server.example/a")).await;
    assert!(matches!(
        result,
        Err(SendError::Token(Error::InvalidToken { .. }))
    ));
    assert!(recorder.requests().is_empty());
}
