//! A failed fetch of keys is one log event with all its causes, which `NotReady`, the key status and the readiness probe
//! contain as well.

use std::time::Duration;

use http::Response;
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tower_oidc_guard::reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{Issuer, OidcGuard};
use tracing_subscriber::filter::LevelFilter;

use crate::support::logs::BothFormats;
use crate::support::mock_client::mock_client;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::{AUDIENCE, Body, body_text};

const NOT_FETCHED: &str = "keys could not be fetched";

/// Returns the URL of a port on loopback on which no server listens.
async fn unused_url(scheme: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("{scheme}://{}", listener.local_addr().unwrap())
}

fn guard(issuer: Issuer) -> OidcGuard {
    guard_with(issuer, None)
}

fn guard_with(issuer: Issuer, client: Option<ClientWithMiddleware>) -> OidcGuard {
    let mut builder = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE))
        .any_verified_caller();
    if let Some(client) = client {
        builder = builder.http_client(client);
    }
    builder.build().unwrap()
}

/// Asserts that the failure of this guard's fetch is one event, in both formats, whose field `error` contains these texts, and
/// that everything else that reports the failure contains the same text.
async fn assert_reported(name: &str, guard: OidcGuard, parts: &[&str]) {
    let logs = BothFormats::default();
    let subscribed = logs.subscribe(LevelFilter::WARN);
    let not_ready = guard.ready().await.unwrap_err();
    let health = guard.health().remove(0);
    let probe = http::Request::new(Body::new());
    let probe = guard.readiness().oneshot(probe).await.unwrap();
    drop(subscribed);
    let error = logs.error(NOT_FETCHED);
    for part in parts {
        assert!(error.contains(part), "{name}: {part:?} is not in {error}");
        assert_eq!(
            error.matches(part).count(),
            1,
            "{name}: {part:?} in {error}"
        );
    }
    assert!(
        not_ready.to_string().ends_with(&error),
        "{name}: {not_ready}"
    );
    assert_eq!(not_ready.cause().to_string(), error, "{name}");
    assert!(health.to_string().starts_with("no keys of "), "{health}");
    assert!(health.to_string().ends_with(&error), "{name}: {health}");
    assert_eq!(probe.status(), 503);
    assert_eq!(probe.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(body_text(probe).await, health.to_string(), "{name}");
}

/// Starts a TLS server whose own certificate is that of a CA. Returns its URL and the certificate.
async fn self_signed_server() -> (String, reqwest::Certificate) {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let certificate = reqwest::Certificate::from_der(certificate.der()).unwrap();
    (url, certificate)
}

#[tokio::test]
async fn a_failed_fetch_is_one_event_with_the_innermost_cause_and_what_to_do() {
    if !is_child_process() {
        return run_in_child_process(
            "causes::a_failed_fetch_is_one_event_with_the_innermost_cause_and_what_to_do",
            &[],
        );
    }
    let url = unused_url("http").await;
    let refused = Issuer::oidc(&url).insecure_loopback_http();
    let discovery = format!("GET {url}/.well-known/openid-configuration failed: ");
    let parts = [&*discovery, "Connection refused", "check host and port"];
    assert_reported("refused", guard(refused), &parts).await;

    let unresolved = Issuer::oidc("https://issuer.invalid");
    let parts = [
        "GET https://issuer.invalid/.well-known/openid-configuration failed: ",
        "failed to lookup address information",
        "check the host name",
    ];
    assert_reported("DNS", guard(unresolved), &parts).await;

    let server = FakeApiServer::start().await.unwrap();
    let unknown_ca = Issuer::oidc(format!("https://{}:{}", server.host(), server.port()));
    let parts = [
        "invalid peer certificate: UnknownIssuer",
        "not signed by a CA that this process trusts",
        "`http_client`",
        "SSL_CERT_FILE",
    ];
    assert_reported("unknown CA", guard(unknown_ca), &parts).await;

    let (self_signed, certificate) = self_signed_server().await;
    let is_trusted = reqwest::Client::builder().no_proxy();
    let is_trusted = is_trusted.tls_certs_only([certificate]).build().unwrap();
    for client in [None, Some(ClientBuilder::new(is_trusted).build())] {
        let parts = [
            "CaUsedAsEndEntity",
            "the server presents a CA certificate (a self-signed one) as its own",
            "give the server a certificate that a CA has issued (CA:FALSE)",
        ];
        let guard = guard_with(Issuer::oidc(&self_signed), client);
        assert_reported("CA certificate", guard, &parts).await;
    }

    // The certificate of the fake API server is not for this address of the loopback network.
    let server = FakeApiServer::start_at([127, 0, 0, 2].into())
        .await
        .unwrap();
    let ca = reqwest::Certificate::from_pem(server.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
    let client = ClientBuilder::new(client.build().unwrap()).build();
    let other_name = Issuer::oidc(format!("https://127.0.0.2:{}", server.port()));
    let other_name = guard_with(other_name, Some(client));
    let parts = [
        "invalid peer certificate: ",
        "the certificate is for another host name",
    ];
    assert_reported("name", other_name, &parts).await;

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_tls = Issuer::oidc(format!("https://{}", plain.local_addr().unwrap()));
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = plain.accept().await {
            let response = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(response).await;
        }
    });
    let parts = ["InvalidContentType", "does not speak TLS on this port"];
    assert_reported("no TLS", guard(not_tls), &parts).await;

    let proxy = reqwest::Proxy::all(unused_url("http").await).unwrap();
    let client = reqwest::Client::builder().proxy(proxy).build().unwrap();
    let behind_proxy = guard_with(
        Issuer::oidc("https://id.example"),
        Some(ClientBuilder::new(client).build()),
    );
    let parts = ["Connection refused", "check the proxy", "HTTPS_PROXY"];
    assert_reported("proxy", behind_proxy, &parts).await;

    let not_json = mock_client(|_| Response::new(b"<html>".to_vec()));
    let not_json = guard_with(Issuer::oidc("https://id.example"), Some(not_json));
    let parts = ["is not a discovery document: ", "expected a JSON object"];
    assert_reported("not JSON", not_json, &parts).await;

    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("jwks.json");
    let path = missing.display().to_string();
    let missing = guard(Issuer::oidc("https://id.example").keys_file(missing));
    let logs = BothFormats::default();
    let subscribed = logs.subscribe(LevelFilter::WARN);
    let not_ready = missing.ready().await.unwrap_err().to_string();
    drop(subscribed);
    let error = logs.error(NOT_FETCHED);
    for part in [&*path, "No such file or directory"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(not_ready.ends_with(&error), "{not_ready}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_established_in_time_is_reported_as_a_timeout() {
    if !is_child_process() {
        return run_in_child_process(
            "causes::a_connection_that_is_not_established_in_time_is_reported_as_a_timeout",
            &[],
        );
    }
    // The system accepts the connection, and nobody continues the TLS handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let parts = [" failed: ", "timed out", "firewall or network policy"];
    assert_reported("handshake", guard(Issuer::oidc(&url)), &parts).await;

    let slow = Issuer::oidc(&url).fetch_timeout(Duration::from_secs(1));
    let parts = [
        "timed out: it did not complete within 1s (`fetch_timeout`)",
        "firewall or network policy",
    ];
    assert_reported("fetch_timeout", guard(slow), &parts).await;
}

/// An error with two causes.
#[derive(Debug, thiserror::Error)]
#[error("the outer middleware")]
struct Outer(#[source] Inner);

#[derive(Debug, thiserror::Error)]
#[error("the inner middleware\nsays \"no\"\u{1b}[2J")]
struct Inner(#[source] std::io::Error);

#[tokio::test]
async fn the_causes_of_a_middleware_are_one_line_and_the_query_of_a_url_is_left_out() {
    if !is_child_process() {
        return run_in_child_process(
            "causes::the_causes_of_a_middleware_are_one_line_and_the_query_of_a_url_is_left_out",
            &[],
        );
    }
    struct Failing;
    #[async_trait::async_trait]
    impl tower_oidc_guard::reqwest_middleware::Middleware for Failing {
        async fn handle(
            &self,
            _: reqwest::Request,
            _: &mut http::Extensions,
            _: tower_oidc_guard::reqwest_middleware::Next<'_>,
        ) -> tower_oidc_guard::reqwest_middleware::Result<reqwest::Response> {
            let inner = Inner(std::io::Error::other("the innermost cause"));
            Err(tower_oidc_guard::reqwest_middleware::Error::middleware(
                Outer(inner),
            ))
        }
    }
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(Failing)
        .build();
    let issuer = Issuer::oidc("https://id.example").jwks_url("https://id.example/jwks?key=hunter2");
    let guard = guard_with(issuer, Some(client));
    let logs = BothFormats::default();
    let subscribed = logs.subscribe(LevelFilter::TRACE);
    let not_ready = guard.ready().await.unwrap_err();
    let probe = http::Request::new(Body::new());
    let probe = guard.readiness().oneshot(probe).await.unwrap();
    drop(subscribed);
    assert_eq!(
        logs.error(NOT_FETCHED),
        "GET https://id.example/jwks?… failed: the outer middleware: the inner middleware\\nsays \"no\"\\u{1b}[2J: the innermost cause"
    );
    let probe = body_text(probe).await;
    assert!(
        probe.ends_with("the innermost cause") && probe.lines().count() == 1,
        "{probe}"
    );
    for text in [probe, not_ready.to_string(), logs.plain_text()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Returns an error of reqwest for a URL on which nothing listens.
async fn refused_request(url: &str) -> reqwest::Error {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap_err()
}

/// An error of a middleware that gave up, with the error of its last attempt.
#[derive(Debug, thiserror::Error)]
#[error("failed after 3 attempts")]
struct GaveUp(#[source] reqwest::Error);

#[tokio::test]
async fn an_error_of_reqwest_inside_the_error_of_a_middleware_does_not_show_its_url() {
    use tower_oidc_guard::reqwest_middleware;
    struct Retrying;
    #[async_trait::async_trait]
    impl reqwest_middleware::Middleware for Retrying {
        async fn handle(
            &self,
            request: reqwest::Request,
            _: &mut http::Extensions,
            _: reqwest_middleware::Next<'_>,
        ) -> reqwest_middleware::Result<reqwest::Response> {
            let refused = refused_request(request.url().as_str()).await;
            Err(if request.url().path() == "/outermost" {
                reqwest_middleware::Error::middleware(refused)
            } else {
                reqwest_middleware::Error::middleware(GaveUp(refused))
            })
        }
    }
    for path in ["outermost", "nested"] {
        let client = ClientBuilder::new(reqwest::Client::new())
            .with(Retrying)
            .build();
        let url = format!("http://127.0.0.1:1/{path}?key=hunter2");
        let issuer = Issuer::oidc("http://127.0.0.1:1").insecure_loopback_http();
        let guard = guard_with(issuer.jwks_url(url), Some(client));
        let not_ready = guard.ready().await.unwrap_err();
        let probe = http::Request::new(Body::new());
        let probe = guard.readiness().oneshot(probe).await.unwrap();
        for text in [body_text(probe).await, not_ready.to_string()] {
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("Connection refused"), "{text}");
        }
    }
}

#[tokio::test]
async fn the_body_of_a_probe_is_short_whatever_the_cause_is() {
    let long = "x".repeat(100_000);
    let client = mock_client(move |_| {
        Response::new(format!(r#"{{"issuer":"{long}","jwks_uri":"https://id.example/"}}"#).into())
    });
    let guard = guard_with(Issuer::oidc("https://id.example"), Some(client));
    guard.ready().await.unwrap_err();
    let probe = http::Request::new(Body::new());
    let probe = guard.readiness().oneshot(probe).await.unwrap();
    let body = body_text(probe).await;
    assert!(
        body.len() < 700 && body.contains("https://id.example"),
        "{body}"
    );
}
