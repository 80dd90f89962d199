//! No redirect hands a token to another origin.
#![cfg(unix)]

use std::sync::Arc;

use crate::support::{SERVERLESS, Seen, Server, Tokens, bearer, token};
use http::HeaderName;
use http::header::AUTHORIZATION;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, TokenClientBuilder};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The ways in which a token can be sent, each as a client for one server.
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
    let once = TokenClientBuilder::new(http()).header(SERVERLESS, auth().without_resend());
    vec![
        (AUTHORIZATION, plain),
        (AUTHORIZATION, without_resend.build()),
        (AUTHORIZATION, authorization),
        (SERVERLESS, serverless),
        (SERVERLESS, once.build().unwrap()),
    ]
}

fn in_header(header: &HeaderName, seen: &Seen) -> Option<String> {
    if *header == SERVERLESS {
        seen.serverless.clone()
    } else {
        seen.authorization.clone()
    }
}

fn assert_no_token(server: &Server, what: &str) {
    for seen in server.take_all() {
        assert_eq!(
            (seen.authorization, seen.serverless),
            (None, None),
            "{what}"
        );
    }
}

#[tokio::test]
async fn within_the_origin_the_token_goes_along() {
    let (server, text) = (Server::start().await, token("0", 600));
    for (header, client) in clients(&server, &Tokens::one(&text)) {
        let url = server.redirect_to(&format!("{}/private", server.url));
        assert_eq!(
            client.get(url).send().await.unwrap().status(),
            200,
            "{header}"
        );
        let seen = server.take_all();
        assert_eq!(seen.len(), 2);
        assert!(
            seen.iter()
                .all(|seen| in_header(&header, seen) == bearer(&text)),
            "{header}"
        );
    }
}

#[tokio::test]
async fn another_port_or_host_gets_no_token() {
    let (server, text) = (Server::start().await, token("0", 600));
    let other = Server::start().await;
    let other_name = other.url.replace("127.0.0.1", "localhost");
    let same_port_other_name = server.url.replace("127.0.0.1", "localhost");
    for (header, client) in clients(&server, &Tokens::one(&text)) {
        for url in [&other.url, &other_name, &same_port_other_name] {
            client.get(server.redirect_to(url)).send().await.unwrap();
            let first = server.take_all().into_iter().next().unwrap();
            assert_eq!(in_header(&header, &first), bearer(&text));
            assert_no_token(&other, url);
        }
    }
}

#[tokio::test]
async fn on_the_way_back_the_token_is_not_put_on_for_a_stranger() {
    let (server, other, text) = (
        Server::start().await,
        Server::start().await,
        token("0", 600),
    );
    for (_, client) in clients(&server, &Tokens::one(&text)) {
        let back = other.redirect_to(&format!("{}/back", server.url));
        client.get(server.redirect_to(&back)).send().await.unwrap();
        assert_no_token(&other, "A to B to A");
        let again = server.take_all().into_iter().skip(1);
        for seen in again {
            assert_eq!((seen.authorization, seen.serverless), (None, None));
        }
    }
}

#[tokio::test]
async fn a_stranger_s_401_behind_a_redirect_is_not_answered_with_the_newer_token() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (old, new) = (token("old", 600), token("new", 600));
    other.accept_only("nobody's");
    for (_, client) in clients(&server, &Tokens::two(&old, &new)) {
        client
            .get(server.redirect_to(&other.url))
            .send()
            .await
            .unwrap();
        assert_no_token(&other, "a 401 after a redirect, with a newer token at hand");
    }
}

#[tokio::test]
async fn the_resend_after_a_401_stays_within_the_origin_too() {
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
    // Refused at first; the resend with the newer token is redirected away.
    let response = client
        .get(server.redirect_to(&other.url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 307, "handed to the caller");
    let seen = server.take_all();
    assert_eq!(
        seen.iter()
            .map(|s| s.serverless.clone())
            .collect::<Vec<_>>(),
        [bearer(&old), bearer(&new)]
    );
    assert_no_token(&other, "the resend");
}

/// The same server over TLS, and its certificate.
async fn with_tls() -> (Server, reqwest::Certificate) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server::at(format!("https://localhost:{port}"));
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
async fn from_https_to_http_no_token_goes_along() {
    let (server, certificate) = with_tls().await;
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
        assert_eq!(server.take_seen(), [bearer(&text)]);
        assert_no_token(&other, "https to http");
    }
}
