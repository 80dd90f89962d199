//! After a 401 a request is sent once more, however many tokens it carries.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{SERVERLESS, Server, Tokens, bearer, token, token_from};
use http::HeaderName;
use reqwest_middleware::ClientBuilder;
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{
    DefaultRetryableStrategy, RetryTransientMiddleware, Retryable, RetryableStrategy,
};
use reqwest_wi_auth::{BearerAuth, Error, Token, TokenClientBuilder, TokenSource};

fn http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy()
}

fn auth(server: &Server, tokens: Tokens) -> BearerAuth {
    BearerAuth::for_origin(&server.url, tokens).unwrap()
}

fn retry(
    strategy: impl RetryableStrategy + Send + Sync + 'static,
) -> RetryTransientMiddleware<ExponentialBackoff, impl RetryableStrategy + Send + Sync + 'static> {
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::ZERO, Duration::from_millis(1))
        .build_with_max_retries(2);
    RetryTransientMiddleware::new_with_policy_and_strategy(policy, strategy)
}

#[tokio::test]
async fn however_many_headers_one_401_has_the_request_sent_once_more() {
    for headers in 1..=4 {
        let server = Server::start().await;
        server.accept_only("nobody's");
        let mut client = TokenClientBuilder::new(http());
        for number in 0..headers {
            let header = HeaderName::try_from(format!("x-token-{number}")).unwrap();
            let (old, new) = (token("old", 600), token("new", 600));
            client = client.header(header, auth(&server, Tokens::two(&old, &new)));
        }
        let client = client.build().unwrap();
        let response = client.get(&server.url).send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(server.take_all().len(), 2, "{headers} headers");
    }
}

#[tokio::test]
async fn the_request_that_is_sent_again_has_all_its_tokens_refreshed() {
    let name = |kind: &str| token_from(kind, 1_700_000_000, 3_000_000_000);
    let two =
        |kind: &str| Tokens::two(&name(&format!("{kind}-old")), &name(&format!("{kind}-new")));
    let one = |kind: &str| Tokens::one(&name(&format!("{kind}-old")));
    // Which source has a newer token, and what is sent the second time.
    let cases = [
        (two("a"), two("p"), Some(("a-new", "p-new"))),
        (two("a"), one("p"), Some(("a-new", "p-old"))),
        (one("a"), two("p"), Some(("a-old", "p-new"))),
        (one("a"), one("p"), None),
    ];
    for (application, platform, second) in cases {
        let server = Server::start().await;
        server.accept_only("nobody's");
        let client = TokenClientBuilder::new(http())
            .header(SERVERLESS, auth(&server, platform))
            .authorization(auth(&server, application))
            .build()
            .unwrap();
        client.get(&server.url).send().await.unwrap();
        let seen: Vec<_> = server
            .take_all()
            .into_iter()
            .map(|seen| (seen.authorization, seen.serverless))
            .collect();
        let mut expected = vec![(bearer(&name("a-old")), bearer(&name("p-old")))];
        expected.extend(second.map(|(a, p)| (bearer(&name(a)), bearer(&name(p)))));
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_source_that_fails_to_refresh_keeps_the_token_it_had() {
    struct Failing(Token);
    #[async_trait::async_trait]
    impl TokenSource for Failing {
        fn current(&self) -> Result<Token, Error> {
            Ok(self.0.clone())
        }
        async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
            Token::new("")
        }
    }
    let server = Server::start().await;
    let (old, new, fixed) = (token("old", 600), token("new", 600), token("fixed", 600));
    server.accept_only(&new);
    let failing = Failing(Token::new(&fixed).unwrap());
    let client = TokenClientBuilder::new(http())
        .header(
            SERVERLESS,
            BearerAuth::for_origin(&server.url, failing).unwrap(),
        )
        .authorization(auth(&server, Tokens::two(&old, &new)))
        .build()
        .unwrap();
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    let second = server.take_all().remove(1);
    assert_eq!(
        (second.authorization, second.serverless),
        (bearer(&new), bearer(&fixed))
    );
}

#[tokio::test]
async fn beneath_a_retry_each_attempt_is_sent_again_once() {
    let server = Server::start().await;
    server.accept_only("nobody's");
    struct Retry401;
    impl RetryableStrategy for Retry401 {
        fn handle(
            &self,
            result: &Result<reqwest::Response, reqwest_middleware::Error>,
        ) -> Option<Retryable> {
            let is_401 = result
                .as_ref()
                .is_ok_and(|response| response.status() == 401);
            is_401.then_some(Retryable::Transient)
        }
    }
    let tokens = |kind: &str| {
        let texts: Vec<_> = (0..9).map(|n| token(&format!("{kind}{n}"), 600)).collect();
        Tokens::each_time(&texts)
    };
    let client = TokenClientBuilder::new(http())
        .with(retry(Retry401))
        .header(SERVERLESS, auth(&server, tokens("p")))
        .authorization(auth(&server, tokens("a")))
        .build()
        .unwrap();
    client.get(&server.url).send().await.unwrap();
    assert_eq!(
        server.take_all().len(),
        6,
        "three attempts, each sent twice"
    );
}

#[tokio::test]
async fn above_a_retry_the_request_is_sent_again_once_with_all_tokens() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let client = ClientBuilder::new(http().build().unwrap())
        .with(auth(&server, Tokens::two(&old, &new)))
        .with(retry(DefaultRetryableStrategy))
        .with(auth(&server, Tokens::one(&token("unused", 600))))
        .build();
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    assert_eq!(server.take_seen(), [bearer(&old), bearer(&new)]);
}

#[tokio::test]
async fn a_client_that_is_built_upon_another_sends_once_more_and_not_twice() {
    let server = Server::start().await;
    server.accept_only("nobody's");
    let tokens = || Tokens::two(&token("old", 600), &token("new", 600));
    let inner = TokenClientBuilder::new(http())
        .header(SERVERLESS, auth(&server, tokens()))
        .build()
        .unwrap();
    let client = ClientBuilder::from_client(inner)
        .with(auth(&server, tokens()))
        .build();
    client.get(&server.url).send().await.unwrap();
    assert_eq!(server.take_all().len(), 2);
}

/// A source whose token can be had at the third attempt.
#[derive(Clone)]
struct Recovering(Arc<AtomicUsize>, Token);

#[async_trait::async_trait]
impl TokenSource for Recovering {
    fn current(&self) -> Result<Token, Error> {
        Err(Error::NotFetched {
            location: "a source that recovers".to_owned(),
        })
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => self.current(),
            _ => Ok(self.1.clone()),
        }
    }
}

/// The strategy that the documentation of `Error::find` shows.
struct RetryTokens;

impl RetryableStrategy for RetryTokens {
    fn handle(
        &self,
        result: &Result<reqwest::Response, reqwest_middleware::Error>,
    ) -> Option<Retryable> {
        match result {
            Err(error) if Error::find(error).is_some_and(Error::is_transient) => {
                Some(Retryable::Transient)
            }
            other => DefaultRetryableStrategy.handle(other),
        }
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_had_for_a_moment_is_retried() {
    let (server, text) = (Server::start().await, token("0", 600));
    let source = Recovering(Arc::default(), Token::new(&text).unwrap());
    let client = ClientBuilder::new(http().build().unwrap())
        .with(retry(RetryTokens))
        .with(BearerAuth::for_origin(&server.url, source).unwrap())
        .build();
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    assert_eq!(server.take_seen(), [bearer(&text)]);
}

#[tokio::test]
async fn the_error_is_found_beneath_other_middleware_and_is_the_source() {
    let server = Server::start().await;
    struct Never;
    #[async_trait::async_trait]
    impl TokenSource for Never {
        fn current(&self) -> Result<Token, Error> {
            Err(Error::NotFetched {
                location: "nowhere".to_owned(),
            })
        }
        async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
            self.current()
        }
    }
    let bare = ClientBuilder::new(http().build().unwrap())
        .with(BearerAuth::for_origin(&server.url, Never).unwrap())
        .build();
    let retried = ClientBuilder::new(http().build().unwrap())
        .with(reqwest_tracing::TracingMiddleware::default())
        .with(retry(RetryTokens))
        .with(BearerAuth::for_origin(&server.url, Never).unwrap())
        .build();
    let fatal = ClientBuilder::new(http().build().unwrap())
        .with(retry(DefaultRetryableStrategy))
        .with(BearerAuth::for_origin(&server.url, Never).unwrap())
        .build();
    for client in [bare, retried, fatal] {
        let error = client.get(&server.url).send().await.unwrap_err();
        let found = Error::find(&error).unwrap_or_else(|| panic!("{error:?}"));
        assert!(matches!(found, Error::NotFetched { .. }), "{found:?}");
        assert!(found.is_transient());
        let mut cause = Some(&error as &dyn std::error::Error);
        let mut is_in_chain = false;
        while let Some(error) = cause {
            is_in_chain |= error.is::<Error>();
            cause = error.source();
        }
        assert!(is_in_chain, "{error:?}");
    }
    let other = reqwest_middleware::Error::middleware(std::io::Error::other("another"));
    assert!(Error::find(&other).is_none());
    assert!(server.take_seen().is_empty());
}
