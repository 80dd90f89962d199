//! Redirects send no token to another origin.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::server::{Received, SERVERLESS, Server};
use crate::support::sources::Tokens;
use crate::support::{bearer, token};
use axum::response::IntoResponse as _;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderName, Method, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, TokenClientBuilder};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Returns a client for each way of sending a token, with the header that it uses.
fn clients(server: &Server, tokens: &Tokens) -> Vec<(HeaderName, ClientWithMiddleware)> {
    let http = || reqwest::Client::builder().no_proxy();
    let auth = || BearerAuth::for_origin(&server.url, tokens.clone()).unwrap();
    let plain = ClientBuilder::new(http().build().unwrap())
        .with(auth())
        .build();
    let without_resend = ClientBuilder::new(http().build().unwrap()).with(auth().without_resend());
    let authorization = TokenClientBuilder::new(http())
        .authorization(auth())
        .build()
        .unwrap();
    let serverless = TokenClientBuilder::new(http())
        .header(SERVERLESS, auth())
        .build()
        .unwrap();
    let serverless_without_resend =
        TokenClientBuilder::new(http()).header(SERVERLESS, auth().without_resend());
    vec![
        (AUTHORIZATION, plain),
        (AUTHORIZATION, without_resend.build()),
        (AUTHORIZATION, authorization),
        (SERVERLESS, serverless),
        (SERVERLESS, serverless_without_resend.build().unwrap()),
    ]
}

fn token_in(header: &HeaderName, received: &Received) -> Option<String> {
    if *header == SERVERLESS {
        received.serverless.clone()
    } else {
        received.authorization.clone()
    }
}

fn assert_no_token(server: &Server, description: &str) {
    for received in server.take_received() {
        assert_eq!(
            (received.authorization, received.serverless),
            (None, None),
            "{description}"
        );
    }
}

#[tokio::test]
async fn redirects_within_the_origin_keep_the_token() {
    let (server, text) = (Server::start().await, token("0", 600));
    for (header, client) in clients(&server, &Tokens::one(&text)) {
        let url = server.redirect_to(&format!("{}/private", server.url));
        assert_eq!(
            client.get(url).send().await.unwrap().status(),
            200,
            "{header}"
        );
        let received = server.take_received();
        assert_eq!(received.len(), 2);
        assert!(
            received
                .iter()
                .all(|received| token_in(&header, received) == bearer(&text)),
            "{header}"
        );
    }
}

#[tokio::test]
async fn redirects_to_another_port_or_host_remove_the_token() {
    let (server, text) = (Server::start().await, token("0", 600));
    let other = Server::start().await;
    let other_name = other.url.replace("127.0.0.1", "localhost");
    let same_port_other_name = server.url.replace("127.0.0.1", "localhost");
    for (header, client) in clients(&server, &Tokens::one(&text)) {
        for url in [&other.url, &other_name, &same_port_other_name] {
            client.get(server.redirect_to(url)).send().await.unwrap();
            let first = server.take_received().into_iter().next().unwrap();
            assert_eq!(token_in(&header, &first), bearer(&text));
            assert_no_token(&other, url);
        }
    }
}

#[tokio::test]
async fn a_redirect_through_another_origin_sends_it_no_token() {
    let (server, other, text) = (
        Server::start().await,
        Server::start().await,
        token("0", 600),
    );
    for (_, client) in clients(&server, &Tokens::one(&text)) {
        let back = other.redirect_to(&format!("{}/back", server.url));
        client.get(server.redirect_to(&back)).send().await.unwrap();
        assert_no_token(&other, "A to B to A");
        let after_redirect = server.take_received().into_iter().skip(1);
        for received in after_redirect {
            assert_eq!((received.authorization, received.serverless), (None, None));
        }
    }
}

#[tokio::test]
async fn a_401_of_another_origin_after_a_redirect_causes_no_second_request() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (old, new) = (token("old", 600), token("new", 600));
    other.accept_only("another token");
    for (_, client) in clients(&server, &Tokens::two(&old, &new)) {
        client
            .get(server.redirect_to(&other.url))
            .send()
            .await
            .unwrap();
        assert_no_token(
            &other,
            "a 401 after a redirect, while a newer token is available",
        );
    }
}

/// Starts a server that redirects each request for `/orders` to the URL in its query if there is one, and rejects all others with 401.
/// Returns its URL and the number of requests for `/orders`.
async fn ordering_server() -> (String, Arc<AtomicUsize>) {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = orders.clone();
    let app = axum::Router::new()
        .route(
            "/orders",
            axum::routing::any(move |uri: Uri| {
                counted.fetch_add(1, Ordering::SeqCst);
                let location = uri.query().map(|url| [(LOCATION, url.to_owned())]);
                std::future::ready(match location {
                    Some(location) => (StatusCode::SEE_OTHER, location).into_response(),
                    None => StatusCode::UNAUTHORIZED.into_response(),
                })
            }),
        )
        .fallback(|| std::future::ready(StatusCode::UNAUTHORIZED));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, orders)
}

#[tokio::test]
async fn a_request_that_was_redirected_is_sent_again_only_if_its_method_is_safe() {
    let (server, orders) = ordering_server().await;
    let other = Server::start().await;
    let within = format!("{server}/orders/1");
    let through_another = other.redirect_to(&within);
    for (method, sent_if_redirected) in [
        (Method::GET, 2),
        (Method::HEAD, 2),
        (Method::POST, 1),
        (Method::PUT, 1),
        (Method::DELETE, 1),
    ] {
        let cases = [
            (format!("/orders?{within}"), sent_if_redirected),
            (format!("/orders?{through_another}"), sent_if_redirected),
            ("/orders".to_owned(), 2),
            ("/orders#part".to_owned(), 2),
        ];
        for (path, sent) in cases {
            let tokens = Tokens::two(&token("old", 600), &token("new", 600));
            let auth = BearerAuth::for_origin(&server, tokens).unwrap();
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            let client = ClientBuilder::new(http).with(auth).build();
            let request = client.request(method.clone(), format!("{server}{path}"));
            let response = request.body("one").send().await.unwrap();
            assert_eq!(response.status(), 401);
            let count = orders.swap(0, Ordering::SeqCst);
            assert_eq!(count, sent, "{method} {path}");
            assert_no_token(&other, &path);
        }
    }
}

#[tokio::test]
async fn the_second_request_after_a_401_is_not_redirected_to_another_origin() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let tokens = Tokens::two(&old, &new);
    let auth = BearerAuth::for_origin(&server.url, tokens).unwrap();
    let http = reqwest::Client::builder().no_proxy();
    let client = TokenClientBuilder::new(http)
        .header(SERVERLESS, auth)
        .build()
        .unwrap();
    // The first request is rejected; the second one, with the newer token, is redirected.
    let response = client
        .get(server.redirect_to(&other.url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 307, "the redirect is returned");
    let received = server.take_received();
    assert_eq!(
        received
            .iter()
            .map(|received| received.serverless.clone())
            .collect::<Vec<_>>(),
        [bearer(&old), bearer(&new)]
    );
    assert_no_token(&other, "the resend");
}

/// Starts a server with TLS, and returns it with its certificate.
async fn start_tls_server() -> (Server, reqwest::Certificate) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server::with_url(format!("https://localhost:{port}"));
    let app = server.app();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(app.clone()));
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(stream, service).await;
            });
        }
    });
    (
        server,
        reqwest::Certificate::from_der(key.cert.der()).unwrap(),
    )
}

#[tokio::test]
async fn a_redirect_from_https_to_http_removes_the_token() {
    let (server, certificate) = start_tls_server().await;
    let (other, text) = (Server::start().await, token("0", 600));
    let http = || {
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_merge([certificate.clone()])
    };
    let auth = || BearerAuth::for_origin(&server.url, Tokens::one(&text)).unwrap();
    let plain = ClientBuilder::new(http().build().unwrap())
        .with(auth())
        .build();
    let both = TokenClientBuilder::new(http())
        .authorization(auth())
        .header(SERVERLESS, auth())
        .build()
        .unwrap();
    for client in [plain, both] {
        client
            .get(server.redirect_to(&other.url))
            .send()
            .await
            .unwrap();
        assert_eq!(server.take_authorization(), [bearer(&text)]);
        assert_no_token(&other, "https to http");
    }
}
