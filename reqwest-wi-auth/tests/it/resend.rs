//! The reqwest middleware sends a request once more after a 401, however many tokens it carries.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::server::{SERVERLESS, Server};
use crate::support::sources::{FailingSource, Tokens, not_fetched};
use crate::support::{bearer, token, token_from};
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
async fn a_request_with_several_tokens_is_sent_once_more() {
    for headers in 1..=4 {
        let server = Server::start().await;
        server.accept_only("another token");
        let mut client = TokenClientBuilder::new(http());
        for number in 0..headers {
            let header = HeaderName::try_from(format!("x-token-{number}")).unwrap();
            let (old, new) = (token("old", 600), token("new", 600));
            client = client.header(header, auth(&server, Tokens::two(&old, &new)));
        }
        let client = client.build().unwrap();
        let response = client.get(&server.url).send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(server.take_received().len(), 2, "{headers} headers");
    }
}

#[tokio::test]
async fn all_tokens_are_refreshed_before_the_second_request() {
    let name = |kind: &str| token_from(kind, 1_700_000_000, 3_000_000_000);
    let two =
        |kind: &str| Tokens::two(&name(&format!("{kind}-old")), &name(&format!("{kind}-new")));
    let one = |kind: &str| Tokens::one(&name(&format!("{kind}-old")));
    // Which sources have a newer token, and the tokens of the second request.
    let cases = [
        (two("a"), two("p"), Some(("a-new", "p-new"))),
        (two("a"), one("p"), Some(("a-new", "p-old"))),
        (one("a"), two("p"), Some(("a-old", "p-new"))),
        (one("a"), one("p"), None),
    ];
    for (application, platform, second) in cases {
        let server = Server::start().await;
        server.accept_only("another token");
        let client = TokenClientBuilder::new(http())
            .header(SERVERLESS, auth(&server, platform))
            .authorization(auth(&server, application))
            .build()
            .unwrap();
        client.get(&server.url).send().await.unwrap();
        let received: Vec<_> = server
            .take_received()
            .into_iter()
            .map(|received| (received.authorization, received.serverless))
            .collect();
        let mut expected = vec![(bearer(&name("a-old")), bearer(&name("p-old")))];
        expected.extend(second.map(|(a, p)| (bearer(&name(a)), bearer(&name(p)))));
        assert_eq!(received, expected);
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_refreshed_is_kept() {
    struct WithoutRefresh(Token);
    #[async_trait::async_trait]
    impl TokenSource for WithoutRefresh {
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
    let without_refresh = WithoutRefresh(Token::new(&fixed).unwrap());
    let client = TokenClientBuilder::new(http())
        .header(
            SERVERLESS,
            BearerAuth::for_origin(&server.url, without_refresh).unwrap(),
        )
        .authorization(auth(&server, Tokens::two(&old, &new)))
        .build()
        .unwrap();
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    let second = server.take_received().remove(1);
    assert_eq!(
        (second.authorization, second.serverless),
        (bearer(&new), bearer(&fixed))
    );
}

#[tokio::test]
async fn below_a_retry_each_attempt_is_sent_once_more() {
    let server = Server::start().await;
    server.accept_only("another token");
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
        Tokens::advancing(&texts)
    };
    let client = TokenClientBuilder::new(http())
        .with(retry(Retry401))
        .header(SERVERLESS, auth(&server, tokens("p")))
        .authorization(auth(&server, tokens("a")))
        .build()
        .unwrap();
    client.get(&server.url).send().await.unwrap();
    assert_eq!(
        server.take_received().len(),
        6,
        "three attempts, each sent twice"
    );
}

#[tokio::test]
async fn above_a_retry_the_request_is_sent_once_more_with_all_tokens() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let client = ClientBuilder::new(http().build().unwrap())
        .with(auth(&server, Tokens::two(&old, &new)))
        .with(retry(DefaultRetryableStrategy))
        .with(auth(&server, Tokens::one(&token("unused", 600))))
        .build();
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    assert_eq!(server.take_authorization(), [bearer(&old), bearer(&new)]);
}

#[tokio::test]
async fn a_client_built_from_another_client_sends_once_more() {
    let server = Server::start().await;
    server.accept_only("another token");
    let tokens = || Tokens::two(&token("old", 600), &token("new", 600));
    let inner = TokenClientBuilder::new(http())
        .header(SERVERLESS, auth(&server, tokens()))
        .build()
        .unwrap();
    let client = ClientBuilder::from_client(inner)
        .with(auth(&server, tokens()))
        .build();
    client.get(&server.url).send().await.unwrap();
    assert_eq!(server.take_received().len(), 2);
}

/// A source that has a token at the third refresh.
#[derive(Clone)]
struct Recovering(Arc<AtomicUsize>, Token);

#[async_trait::async_trait]
impl TokenSource for Recovering {
    fn current(&self) -> Result<Token, Error> {
        Err(not_fetched())
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => self.current(),
            _ => Ok(self.1.clone()),
        }
    }
}

/// The strategy in the documentation of `Error::find`.
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
async fn a_transient_token_error_is_retried_with_the_documented_strategy() {
    let (server, text) = (Server::start().await, token("0", 600));
    let source = Recovering(Arc::default(), Token::new(&text).unwrap());
    let client = ClientBuilder::new(http().build().unwrap())
        .with(retry(RetryTokens))
        .with(BearerAuth::for_origin(&server.url, source).unwrap())
        .build();
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    assert_eq!(server.take_authorization(), [bearer(&text)]);
}

#[tokio::test]
async fn the_error_is_found_below_other_middleware_and_is_the_source() {
    let server = Server::start().await;
    let auth = || BearerAuth::for_origin(&server.url, FailingSource::transient()).unwrap();
    let bare = ClientBuilder::new(http().build().unwrap())
        .with(auth())
        .build();
    let retried = ClientBuilder::new(http().build().unwrap())
        .with(reqwest_tracing::TracingMiddleware::default())
        .with(retry(RetryTokens))
        .with(auth())
        .build();
    let fatal = ClientBuilder::new(http().build().unwrap())
        .with(retry(DefaultRetryableStrategy))
        .with(auth())
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
    assert!(server.take_authorization().is_empty());
}
