//! A token goes where it belongs, and nowhere else.
#![cfg(all(feature = "testing", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::{Arc, Mutex};

use reqwest_wi_auth::{BearerAuth, Error, Token, TokenSource};
use support::{Server, bearer, client, token};

/// A source whose token changes when it is asked for another.
#[derive(Clone)]
struct Two(Arc<Mutex<(Token, Option<Token>)>>);

impl Two {
    fn new(first: &str, second: Option<&str>) -> Self {
        let second = second.map(|text| Token::new(text).unwrap());
        Self(Arc::new(Mutex::new((Token::new(first).unwrap(), second))))
    }
}

#[async_trait::async_trait]
impl TokenSource for Two {
    fn current(&self) -> Result<Token, Error> {
        Ok(self.0.lock().unwrap().0.clone())
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        let mut tokens = self.0.lock().unwrap();
        if let Some(second) = tokens.1.take() {
            tokens.0 = second;
        }
        Ok(tokens.0.clone())
    }
}

#[tokio::test]
async fn requests_to_the_origin_carry_the_token_and_others_do_not() {
    let (server, other) = (Server::start().await, Server::start().await);
    let text = token("0", 600);
    let client = client(BearerAuth::for_origin(&server.url, Two::new(&text, None)).unwrap());
    for path in ["/", "/private", "/deep/er?q=1"] {
        client
            .get(format!("{}{path}", server.url))
            .send()
            .await
            .unwrap();
        client
            .get(format!("{}{path}", other.url))
            .send()
            .await
            .unwrap();
    }
    assert_eq!(server.take_seen(), vec![bearer(&text); 3]);
    assert_eq!(other.take_seen(), vec![None; 3]);
}

#[tokio::test]
async fn each_origin_gets_the_token_that_was_made_for_it() {
    let (one, two) = (Server::start().await, Server::start().await);
    let (first, second) = (token("1", 600), token("2", 600));
    let auth = BearerAuth::for_origin(&one.url, Two::new(&first, None))
        .and_then(|auth| auth.and_origin(&two.url, Two::new(&second, None)))
        .unwrap();
    let client = client(auth);
    client.get(&one.url).send().await.unwrap();
    client.get(&two.url).send().await.unwrap();
    assert_eq!(one.take_seen(), [bearer(&first)]);
    assert_eq!(two.take_seen(), [bearer(&second)]);
}

#[tokio::test]
async fn a_header_that_the_caller_has_set_stays() {
    let server = Server::start().await;
    let auth = BearerAuth::for_origin(&server.url, Two::new(&token("0", 600), None)).unwrap();
    let request = client(auth)
        .get(&server.url)
        .header("authorization", "Basic YTpi");
    request.send().await.unwrap();
    assert_eq!(server.take_seen(), [Some("Basic YTpi".to_owned())]);
}

#[tokio::test]
async fn after_a_401_the_request_is_sent_once_more_with_another_token() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Two::new(&old, Some(&new))).unwrap();
    let response = client(auth)
        .post(&server.url)
        .body("again")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(server.take_seen(), [bearer(&old), bearer(&new)]);
}

#[tokio::test]
async fn after_a_401_without_another_token_the_answer_stands() {
    let server = Server::start().await;
    let text = token("0", 600);
    server.accept_only("another");
    let auth = BearerAuth::for_origin(&server.url, Two::new(&text, None)).unwrap();
    assert_eq!(
        client(auth).get(&server.url).send().await.unwrap().status(),
        401
    );
    assert_eq!(server.take_seen(), [bearer(&text)]);
}

#[tokio::test]
async fn by_choice_nothing_is_sent_again() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Two::new(&old, Some(&new))).unwrap();
    let response = client(auth.without_resend())
        .get(&server.url)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(server.take_seen(), [bearer(&old)]);
}

#[tokio::test]
async fn without_a_token_the_request_is_not_sent_and_the_error_is_typed() {
    struct None;
    #[async_trait::async_trait]
    impl TokenSource for None {
        fn current(&self) -> Result<Token, Error> {
            Token::new("")
        }
        async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
            Token::new("")
        }
    }
    let server = Server::start().await;
    let auth = BearerAuth::for_origin(&server.url, None).unwrap();
    let error = client(auth).get(&server.url).send().await.unwrap_err();
    let reqwest_middleware::Error::Middleware(error) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(
        error.downcast_ref::<Error>(),
        Some(Error::Token { .. })
    ));
    assert!(server.take_seen().is_empty());
}

#[test]
fn an_origin_of_plain_http_is_refused_and_its_error_shows_no_password() {
    let source = || Two::new(&token("0", 600), None);
    let error = BearerAuth::for_origin("http://auth-server.example", source()).unwrap_err();
    assert!(matches!(error, Error::Origin { .. }));
    let error = BearerAuth::for_origin("https://me:hunter2@a.example", source()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
