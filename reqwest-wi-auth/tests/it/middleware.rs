//! The reqwest middleware.
#![cfg(unix)]

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::{Received, SERVERLESS, Server};
use crate::support::sources::{FailingSource, Tokens};
use crate::support::{bearer, client, token};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_wi_auth::{BearerAuth, Error, SkipToken, TokenClientBuilder, UseSource};

#[tokio::test]
async fn requests_to_the_origin_carry_the_token_and_others_do_not() {
    let (server, other) = (Server::start().await, Server::start().await);
    let text = token("0", 600);
    let client = client(BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap());
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
    assert_eq!(server.take_authorization(), vec![bearer(&text); 3]);
    assert_eq!(other.take_authorization(), vec![None; 3]);
}

#[tokio::test]
async fn each_origin_gets_the_token_of_its_source() {
    let (one, two) = (Server::start().await, Server::start().await);
    let (first, second) = (token("1", 600), token("2", 600));
    let auth = BearerAuth::for_origin(&one.url, Tokens::one(&first))
        .and_then(|auth| auth.and_origin(&two.url, Tokens::one(&second)))
        .unwrap();
    let client = client(auth);
    client.get(&one.url).send().await.unwrap();
    client.get(&two.url).send().await.unwrap();
    assert_eq!(one.take_authorization(), [bearer(&first)]);
    assert_eq!(two.take_authorization(), [bearer(&second)]);
}

#[tokio::test]
async fn a_header_set_by_the_caller_is_kept() {
    let server = Server::start().await;
    let auth = BearerAuth::for_origin(&server.url, Tokens::one(&token("0", 600))).unwrap();
    let request = client(auth)
        .get(&server.url)
        .header("authorization", "Basic YTpi");
    request.send().await.unwrap();
    assert_eq!(server.take_authorization(), [Some("Basic YTpi".to_owned())]);
}

#[tokio::test]
async fn after_a_401_the_request_is_sent_once_more_with_a_newer_token() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Tokens::two(&old, &new)).unwrap();
    let response = client(auth)
        .post(&server.url)
        .body("body")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(server.take_authorization(), [bearer(&old), bearer(&new)]);
}

#[tokio::test]
async fn after_a_401_without_a_newer_token_the_response_is_returned() {
    let server = Server::start().await;
    let text = token("0", 600);
    server.accept_only("another token");
    let auth = BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap();
    assert_eq!(
        client(auth).get(&server.url).send().await.unwrap().status(),
        401
    );
    assert_eq!(server.take_authorization(), [bearer(&text)]);
}

#[tokio::test]
async fn without_resend_disables_the_second_request() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Tokens::two(&old, &new)).unwrap();
    let response = client(auth.without_resend())
        .get(&server.url)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(server.take_authorization(), [bearer(&old)]);
}

#[tokio::test]
async fn without_a_token_the_request_fails_with_a_typed_error() {
    let server = Server::start().await;
    let auth = BearerAuth::for_origin(&server.url, FailingSource::permanent()).unwrap();
    let error = client(auth).get(&server.url).send().await.unwrap_err();
    let reqwest_middleware::Error::Middleware(error) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(
        error.downcast_ref::<Error>(),
        Some(Error::InvalidToken { .. })
    ));
    assert!(server.take_authorization().is_empty());
}

#[test]
fn a_plain_http_origin_is_rejected_and_errors_contain_no_password() {
    let source = || Tokens::one(&token("0", 600));
    let error = BearerAuth::for_origin("http://auth-server.example", source()).unwrap_err();
    assert!(matches!(error, Error::InvalidOrigin { .. }));
    let error = BearerAuth::for_origin("https://me:hunter2@a.example", source()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_request_with_a_streamed_body_is_not_sent_again() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Tokens::two(&old, &new)).unwrap();
    let body = reqwest::Body::wrap(http_body_util::Full::new(bytes::Bytes::from("streamed")));
    let response = client(auth)
        .post(&server.url)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(server.take_authorization(), [bearer(&old)]);
}

#[tokio::test]
async fn other_error_statuses_than_401_are_returned() {
    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    let auth = BearerAuth::for_origin(&server.url, Tokens::two(&old, &new)).unwrap();
    let client = client(auth);
    for status in [400, 403, 404, 407, 500, 503] {
        let url = format!("{}/status/{status}", server.url);
        assert_eq!(client.get(url).send().await.unwrap().status(), status);
        assert_eq!(server.take_authorization(), [bearer(&old)]);
    }
}

#[tokio::test]
async fn a_request_passed_to_execute_carries_the_token() {
    let (server, text) = (Server::start().await, token("0", 600));
    let client = client(BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap());
    let request = reqwest::Request::new(http::Method::GET, server.url.parse().unwrap());
    client.execute(request).await.unwrap();
    assert_eq!(server.take_authorization(), [bearer(&text)]);
}

#[tokio::test]
async fn a_request_can_skip_the_token_or_use_another_source() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (text, admin) = (token("0", 600), token("admin", 600));
    let client = client(BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap());
    client
        .get(&server.url)
        .with_extension(SkipToken)
        .send()
        .await
        .unwrap();
    let other_source = || UseSource::new(Tokens::one(&admin));
    client
        .get(&server.url)
        .with_extension(other_source())
        .send()
        .await
        .unwrap();
    assert_eq!(server.take_authorization(), [None, bearer(&admin)]);
    client
        .get(&other.url)
        .with_extension(other_source())
        .send()
        .await
        .unwrap();
    assert_eq!(
        other.take_authorization(),
        [None],
        "an origin that no tokens are sent to"
    );
}

#[tokio::test]
async fn any_origin_includes_plain_http_on_loopback_only() {
    let (one, two, text) = (
        Server::start().await,
        Server::start().await,
        token("0", 600),
    );
    let auth = BearerAuth::any_origin(Tokens::one(&text));
    assert!(auth.token_for("https://other.example/").unwrap().is_some());
    assert!(auth.token_for("http://other.example/").unwrap().is_none());
    let client = client(auth);
    for server in [one, two] {
        client.get(&server.url).send().await.unwrap();
        assert_eq!(server.take_authorization(), [bearer(&text)]);
    }
}

#[test]
fn insecure_http_applies_to_its_origin_only() {
    let text = token("0", 600);
    let auth = BearerAuth::insecure_http("http://stock.ns.svc", Tokens::one(&text)).unwrap();
    assert!(auth.token_for("http://stock.ns.svc/any").unwrap().is_some());
    for url in [
        "https://stock.ns.svc/",
        "http://stock.ns.svc:8080/",
        "http://other.ns.svc/",
    ] {
        assert!(auth.token_for(url).unwrap().is_none(), "{url}");
    }
    assert!(auth.token_for("not a URL").is_err());
}

#[tokio::test]
async fn two_tokens_are_sent_in_two_headers() {
    let server = Server::start().await;
    let (platform, application) = (token("platform", 600), token("application", 600));
    let auth = |text: &str| BearerAuth::for_origin(&server.url, Tokens::one(text)).unwrap();
    let client = TokenClientBuilder::new(reqwest::Client::builder().no_proxy())
        .header(SERVERLESS, auth(&platform))
        .authorization(auth(&application))
        .build()
        .unwrap();
    client.get(&server.url).send().await.unwrap();
    let both = Received {
        authorization: bearer(&application),
        serverless: bearer(&platform),
    };
    assert_eq!(server.take_received(), [both]);
}

#[tokio::test]
async fn each_retry_carries_the_current_token() {
    let server = Server::start().await;
    let tokens = Tokens::advancing(&[token("1", 600), token("2", 600), token("3", 600)]);
    let auth = BearerAuth::for_origin(&server.url, tokens).unwrap();
    let backoff = ExponentialBackoff::builder()
        .retry_bounds(
            std::time::Duration::ZERO,
            std::time::Duration::from_millis(1),
        )
        .build_with_max_retries(2);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let client = reqwest_middleware::ClientBuilder::new(http)
        .with(reqwest_tracing::TracingMiddleware::default())
        .with(RetryTransientMiddleware::new_with_policy(backoff))
        .with(auth)
        .build();
    let response = client
        .get(format!("{}/status/503", server.url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    let expected = ["1", "2", "3"].map(|name| bearer(&token(name, 600)));
    let seen = server.take_authorization();
    assert_eq!(seen.len(), expected.len());
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
}

#[tokio::test]
async fn a_request_without_a_token_is_logged_with_its_origin() {
    if !is_child_process("middleware::a_request_without_a_token_is_logged_with_its_origin") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::DEBUG);
    let (server, other) = (Server::start().await, Server::start().await);
    let auth = BearerAuth::for_origin(&server.url, Tokens::one(&token("0", 600))).unwrap();
    let client = client(auth.clone());
    client.get(&other.url).send().await.unwrap();
    let events = |part: &str| {
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains("reqwest_wi_auth"));
        lines.filter(|line| line.contains(part)).count()
    };
    assert_eq!(events("no token attached"), 1, "{}", log.text());
    assert_eq!(events(&other.url), 1, "{}", log.text());
    auth.token_for("https://me:hunter2@other.example/private?key=s3cr3t")
        .unwrap();
    assert_eq!(events("no token attached"), 2, "{}", log.text());
    assert!(!log.text().contains("hunter2") && !log.text().contains("s3cr3t"));
    client.get(&server.url).send().await.unwrap();
    assert_eq!(events("no token attached"), 2, "a token was attached");
    server.accept_only("another token");
    client.get(&server.url).send().await.unwrap();
    assert_eq!(events("no newer token"), 1, "{}", log.text());
    assert_eq!(events(&server.url), 1, "{}", log.text());
}
