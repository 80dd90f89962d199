//! A token does not leave its origin, by whichever adapter it is sent.
#![cfg(unix)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::support::{Server, Tokens, bearer, client, token};
use http::{Method, Request, Response, StatusCode};
use reqwest_wi_auth::BearerAuth;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};
use tower_http::follow_redirect::FollowRedirectLayer;

type Body = http_body_util::Empty<bytes::Bytes>;

const ORIGIN: &str = "https://auth-server.example";

type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A client that records the URI and token of each request, and redirects by path.
#[derive(Clone, Default)]
struct Recorder {
    seen: Seen,
    redirects: HashMap<&'static str, &'static str>,
}

impl Recorder {
    fn tokens(&self) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(_, token)| token.clone()).collect()
    }
}

impl Service<Request<Body>> for Recorder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let token = request.headers().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        let target = self.redirects.get(request.uri().path());
        let mut seen = self.seen.lock().unwrap();
        seen.push((request.uri().to_string(), token));
        let mut response = Response::new(Body::new());
        if let Some(target) = target {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let target = target.parse().unwrap();
            response.headers_mut().insert("location", target);
        }
        std::future::ready(Ok(response))
    }
}

fn request(method: Method, uri: &str, hosts: &[&str]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for host in hosts {
        request = request.header("host", *host);
    }
    request.body(Body::new()).unwrap()
}

#[tokio::test]
async fn a_layer_at_an_origin_sends_its_token_to_that_origin_only() {
    let text = token("0", 600);
    let with_token: &[(Method, &str, &[&str])] = &[
        (Method::GET, "/path", &[]),
        (Method::POST, "/package.Service/Method", &[]),
        (Method::GET, "https://auth-server.example/path", &[]),
        (Method::GET, "https://auth-server.example:443/path", &[]),
        (Method::GET, "https://AUTH-SERVER.example/path", &[]),
        (Method::GET, "/path", &["auth-server.example"]),
        (Method::GET, "/path", &["AUTH-SERVER.example:443"]),
        (Method::OPTIONS, "*", &[]),
        (Method::GET, "//evil.example/path", &[]),
    ];
    let without: &[(Method, &str, &[&str])] = &[
        (Method::GET, "https://evil.example/path", &[]),
        (Method::GET, "http://auth-server.example/path", &[]),
        (Method::GET, "http://auth-server.example:443/path", &[]),
        (Method::GET, "https://auth-server.example:8443/path", &[]),
        (Method::GET, "https://auth-server.example./path", &[]),
        (
            Method::GET,
            "https://auth-server.example@evil.example/",
            &[],
        ),
        (Method::GET, "https://user@auth-server.example/", &[]),
        (Method::GET, "https://sub.auth-server.example/", &[]),
        (Method::GET, "wss://auth-server.example/", &[]),
        (Method::CONNECT, "auth-server.example:443", &[]),
        (Method::CONNECT, "evil.example:443", &[]),
        (Method::CONNECT, "https://auth-server.example/", &[]),
        (Method::GET, "evil.example:443", &[]),
        (Method::GET, "/path", &["evil.example"]),
        (
            Method::GET,
            "/path",
            &["auth-server.example", "evil.example"],
        ),
        (Method::GET, "/path", &["auth-server.example:8443"]),
        (
            Method::GET,
            "https://auth-server.example/",
            &["evil.example"],
        ),
    ];
    let auth = BearerAuth::for_origin(ORIGIN, Tokens::one(&text)).unwrap();
    let any = BearerAuth::any_origin(Tokens::one(&text));
    for auth in [auth, any] {
        let layer = auth.layer_for_origin(ORIGIN).unwrap();
        for (cases, expected) in [(with_token, bearer(&text)), (without, None)] {
            for (method, uri, hosts) in cases {
                let recorder = Recorder::default();
                let service = layer.layer(recorder.clone());
                let request = request(method.clone(), uri, hosts);
                service.oneshot(request).await.unwrap();
                let what = format!("{method} {uri} {hosts:?}");
                assert_eq!(recorder.tokens(), std::slice::from_ref(&expected), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_layer_of_named_origins_decides_by_the_whole_origin_of_the_uri() {
    let text = token("0", 600);
    let layer = BearerAuth::for_origin(ORIGIN, Tokens::one(&text)).unwrap();
    let cases: &[(Method, &str, &[&str], bool)] = &[
        (Method::GET, "https://auth-server.example/", &[], true),
        (
            Method::GET,
            "https://auth-server.example:443/",
            &["auth-server.example"],
            true,
        ),
        (Method::GET, "/path", &[], false),
        (Method::GET, "/path", &["auth-server.example"], false),
        (Method::GET, "http://auth-server.example/", &[], false),
        (
            Method::GET,
            "https://auth-server.example/",
            &["evil.example"],
            false,
        ),
        (Method::CONNECT, "https://auth-server.example/", &[], false),
        (Method::CONNECT, "auth-server.example:443", &[], false),
        (Method::GET, "https://user@auth-server.example/", &[], false),
    ];
    for (method, uri, hosts, has_token) in cases {
        let recorder = Recorder::default();
        let service = layer.layer(recorder.clone());
        service
            .oneshot(request(method.clone(), uri, hosts))
            .await
            .unwrap();
        let expected = has_token.then(|| bearer(&text)).flatten();
        assert_eq!(recorder.tokens(), [expected], "{method} {uri} {hosts:?}");
    }
}

#[tokio::test]
async fn beneath_a_layer_that_follows_redirects_a_layer_at_an_origin_leaks_nothing() {
    let text = token("0", 600);
    for location in [
        "https://evil.example/end",
        "http://auth-server.example/end",
        "https://auth-server.example:8443/end",
        "//evil.example/end",
    ] {
        for start in ["https://auth-server.example/away", "/away"] {
            let recorder = Recorder {
                redirects: HashMap::from([("/away", location)]),
                ..Recorder::default()
            };
            let auth = BearerAuth::for_origin(ORIGIN, Tokens::one(&text)).unwrap();
            let service = ServiceBuilder::new()
                .layer(FollowRedirectLayer::new())
                .layer(auth.layer_for_origin(ORIGIN).unwrap())
                .service(recorder.clone());
            service
                .oneshot(request(Method::GET, start, &[]))
                .await
                .unwrap();
            let seen = recorder.seen.lock().unwrap().clone();
            assert_eq!(seen[0].1, bearer(&text), "{start} {location}");
            for (uri, token) in &seen[1..] {
                // A relative redirect without a base stays on the connection.
                let is_elsewhere = !uri.starts_with('/');
                assert!(
                    !is_elsewhere || token.is_none(),
                    "{start} {location}: {uri}"
                );
            }
        }
    }
}

#[tokio::test]
async fn reqwest_sends_no_token_under_another_host_s_name() {
    let (server, text) = (Server::start().await, token("0", 600));
    let client = client(BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap());
    let own = server.url.trim_start_matches("http://").to_owned();
    for (host, expected) in [(own.as_str(), bearer(&text)), ("evil.example", None)] {
        client
            .get(&server.url)
            .header("host", host)
            .send()
            .await
            .unwrap();
        assert_eq!(server.take_seen(), [expected], "{host}");
    }
}

#[test]
fn no_layer_is_built_at_an_origin_that_gets_no_tokens() {
    let auth = BearerAuth::for_origin(ORIGIN, Tokens::one(&token("0", 600))).unwrap();
    for origin in [
        "http://auth-server.example",
        "https://auth-server.example:8443",
        "https://other.example",
        "https://user:hunter2@auth-server.example",
        "auth-server.example",
        "",
    ] {
        let error = auth.layer_for_origin(origin).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(
        auth.layer_for_origin("https://Auth-Server.example:443/")
            .is_ok()
    );
}
