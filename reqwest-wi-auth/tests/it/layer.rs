//! The tower adapter sends tokens by the same rules.
#![cfg(unix)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::support::{Tokens, bearer, token};
use http::{Request, Response, StatusCode};
use reqwest_wi_auth::{BearerAuth, Error, SendError, SkipToken, Token, TokenSource};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};
use tower_http::follow_redirect::FollowRedirectLayer;

type Body = http_body_util::Empty<bytes::Bytes>;

/// What was asked for, with which token.
type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A client without a network: it notes what it is asked with, and redirects as told. It insists on
/// being polled ready before each call; its clones start out un-ready.
#[derive(Default)]
struct Network {
    seen: Seen,
    redirects: HashMap<&'static str, &'static str>,
    ready: bool,
}

impl Clone for Network {
    fn clone(&self) -> Self {
        Self {
            seen: self.seen.clone(),
            redirects: self.redirects.clone(),
            ready: false,
        }
    }
}

impl Service<Request<Body>> for Network {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        let token = request.headers().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        let uri = request.uri().to_string();
        let target = self.redirects.get(uri.as_str());
        self.seen.lock().unwrap().push((uri, token));
        let mut response = Response::new(Body::new());
        if let Some(target) = target {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response
                .headers_mut()
                .insert("location", target.parse().unwrap());
        }
        std::future::ready(Ok(response))
    }
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::new()).unwrap()
}

fn auth(source: impl TokenSource) -> BearerAuth {
    BearerAuth::for_origin("https://auth-server.example", source).unwrap()
}

#[tokio::test]
async fn the_uri_of_each_request_decides() {
    let (network, text) = (Network::default(), token("0", 600));
    let seen = network.seen.clone();
    let service = auth(Tokens::one(&text)).layer(network);
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
    let tokens: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|(_, token)| token.clone())
        .collect();
    assert_eq!(tokens, [bearer(&text), None, None, None]);
}

#[tokio::test]
async fn above_a_channel_the_origin_is_given_when_the_layer_is_made() {
    let (network, text) = (Network::default(), token("0", 600));
    let seen = network.seen.clone();
    let auth = auth(Tokens::one(&text));
    assert!(matches!(
        auth.layer_for_origin("https://other.example"),
        Err(Error::InvalidOrigin { .. })
    ));
    let layer = auth
        .layer_for_origin("https://auth-server.example")
        .unwrap();
    layer
        .layer(network)
        .oneshot(get("/grpc.health.v1.Health/Check"))
        .await
        .unwrap();
    assert_eq!(seen.lock().unwrap()[0].1, bearer(&text));
}

#[tokio::test]
async fn beneath_what_follows_redirects_each_hop_is_looked_at_by_itself() {
    let redirects = HashMap::from([
        (
            "https://auth-server.example/away",
            "https://other.example/back",
        ),
        (
            "https://other.example/back",
            "https://auth-server.example/end",
        ),
    ]);
    let (network, text) = (
        Network {
            redirects,
            ..Network::default()
        },
        token("0", 600),
    );
    let seen = network.seen.clone();
    let service = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(auth(Tokens::one(&text)))
        .service(network);
    service
        .oneshot(get("https://auth-server.example/away"))
        .await
        .unwrap();
    let tokens: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|(_, token)| token.clone())
        .collect();
    assert_eq!(tokens, [bearer(&text), None, bearer(&text)]);
}

#[tokio::test]
async fn above_what_follows_redirects_authorization_is_taken_off_by_that() {
    let redirects = HashMap::from([(
        "https://auth-server.example/away",
        "https://other.example/end",
    )]);
    let (network, text) = (
        Network {
            redirects,
            ..Network::default()
        },
        token("0", 600),
    );
    let seen = network.seen.clone();
    let service = ServiceBuilder::new()
        .layer(auth(Tokens::one(&text)))
        .layer(FollowRedirectLayer::new())
        .service(network);
    service
        .oneshot(get("https://auth-server.example/away"))
        .await
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter()
            .all(|(uri, token)| uri.contains("auth-server") || token.is_none()),
        "{seen:?}"
    );
}

/// A source without a token until it is refreshed.
struct Cold(Token);

#[async_trait::async_trait]
impl TokenSource for Cold {
    fn current(&self) -> Result<Token, Error> {
        Err(Error::NotFetched {
            location: "here".to_owned(),
        })
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        tokio::task::yield_now().await;
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_token_that_is_not_there_yet_is_waited_for_and_the_ready_client_is_the_one_called() {
    let (network, text) = (Network::default(), token("0", 600));
    let seen = network.seen.clone();
    let mut service = auth(Cold(Token::new(&text).unwrap())).layer(network);
    for _ in 0..2 {
        let ready = service.ready().await.unwrap();
        ready
            .call(get("https://auth-server.example/a"))
            .await
            .unwrap();
    }
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|(_, token)| *token == bearer(&text))
    );
}

#[tokio::test]
async fn without_a_token_the_request_is_not_sent_and_the_error_is_typed() {
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
    let network = Network::default();
    let seen = network.seen.clone();
    let sent = auth(Broken)
        .layer(network)
        .oneshot(get("https://auth-server.example/a"))
        .await;
    assert!(matches!(
        sent,
        Err(SendError::Token(Error::InvalidToken { .. }))
    ));
    assert!(seen.lock().unwrap().is_empty());
}
