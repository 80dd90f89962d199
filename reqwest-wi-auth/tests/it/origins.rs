//! All adapters send a token to its origin only.
#![cfg(unix)]

use crate::support::recorder::{Body, Recorder};
use crate::support::server::Server;
use crate::support::sources::Tokens;
use crate::support::{bearer, client, token};
use http::{Method, Request};
use reqwest_wi_auth::BearerAuth;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};
use tower_http::follow_redirect::FollowRedirectLayer;

const ORIGIN: &str = "https://auth-server.example";

/// Returns a request with `Host` headers.
fn request(method: Method, uri: &str, hosts: &[&str]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for host in hosts {
        request = request.header("host", *host);
    }
    request.body(Body::new()).unwrap()
}

#[tokio::test]
async fn layer_for_origin_sends_the_token_to_that_origin_only() {
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
        (Method::GET, "//other.example/path", &[]),
    ];
    let without: &[(Method, &str, &[&str])] = &[
        (Method::GET, "https://other.example/path", &[]),
        (Method::GET, "http://auth-server.example/path", &[]),
        (Method::GET, "http://auth-server.example:443/path", &[]),
        (Method::GET, "https://auth-server.example:8443/path", &[]),
        (Method::GET, "https://auth-server.example./path", &[]),
        (
            Method::GET,
            "https://auth-server.example@other.example/",
            &[],
        ),
        (Method::GET, "https://user@auth-server.example/", &[]),
        (Method::GET, "https://sub.auth-server.example/", &[]),
        (Method::GET, "wss://auth-server.example/", &[]),
        (Method::CONNECT, "auth-server.example:443", &[]),
        (Method::CONNECT, "other.example:443", &[]),
        (Method::CONNECT, "https://auth-server.example/", &[]),
        (Method::GET, "other.example:443", &[]),
        (Method::GET, "/path", &["other.example"]),
        (
            Method::GET,
            "/path",
            &["auth-server.example", "other.example"],
        ),
        (Method::GET, "/path", &["auth-server.example:8443"]),
        (
            Method::GET,
            "https://auth-server.example/",
            &["other.example"],
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
                let description = format!("{method} {uri} {hosts:?}");
                assert_eq!(
                    recorder.authorization(),
                    std::slice::from_ref(&expected),
                    "{description}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_layer_compares_the_whole_origin_of_the_uri() {
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
            &["other.example"],
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
        assert_eq!(
            recorder.authorization(),
            [expected],
            "{method} {uri} {hosts:?}"
        );
    }
}

#[tokio::test]
async fn below_a_redirect_layer_layer_for_origin_sends_no_token_to_other_origins() {
    let text = token("0", 600);
    for location in [
        "https://other.example/end",
        "http://auth-server.example/end",
        "https://auth-server.example:8443/end",
        "//other.example/end",
    ] {
        for start in ["https://auth-server.example/away", "/away"] {
            let recorder = Recorder::with_redirects([("/away", location)]);
            let auth = BearerAuth::for_origin(ORIGIN, Tokens::one(&text)).unwrap();
            let service = ServiceBuilder::new()
                .layer(FollowRedirectLayer::new())
                .layer(auth.layer_for_origin(ORIGIN).unwrap())
                .service(recorder.clone());
            service
                .oneshot(request(Method::GET, start, &[]))
                .await
                .unwrap();
            let requests = recorder.requests();
            assert_eq!(requests[0].1, bearer(&text), "{start} {location}");
            for (uri, token) in &requests[1..] {
                // A relative URI has no origin, so the request stays on the connection.
                let is_other_origin = !uri.starts_with('/');
                assert!(
                    !is_other_origin || token.is_none(),
                    "{start} {location}: {uri}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_middleware_sends_no_token_with_a_host_header_of_another_host() {
    let (server, text) = (Server::start().await, token("0", 600));
    let client = client(BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap());
    let own = server.url.trim_start_matches("http://").to_owned();
    for (host, expected) in [(own.as_str(), bearer(&text)), ("other.example", None)] {
        client
            .get(&server.url)
            .header("host", host)
            .send()
            .await
            .unwrap();
        assert_eq!(server.take_authorization(), [expected], "{host}");
    }
}

#[test]
fn layer_for_origin_fails_for_an_origin_without_tokens() {
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
