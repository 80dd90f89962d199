//! Misbehaving peers: clients that stall a connection to the server, and servers that send hostile responses to the client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Version;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tower_oidc_guard::testing::TestIssuer;

use crate::support::{Ca, NO_VARIABLES, Server, http_client, path_string, start_client, trusting};

/// Longer than any limit that the tests configure.
const TIMEOUT: Duration = Duration::from_secs(30);
const COMPLETE_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// The connection preface of HTTP/2.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The first frame of a request's head that needs further ones.
const PARTIAL_HEADERS: &[u8] = &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Plain,
    Tls,
}

/// A server with limits on its connections.
struct LimitedServer {
    server: Server,
    ca: Ca,
    _issuer: TestIssuer,
    _folder: tempfile::TempDir,
}

impl LimitedServer {
    async fn start(transport: Transport, limits: &[&str]) -> Self {
        let issuer = TestIssuer::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        let (certificate, key) = ca.issue();
        let certificate_path = folder.path().join("tls.crt");
        let key_path = folder.path().join("tls.key");
        std::fs::write(&certificate_path, certificate).unwrap();
        std::fs::write(&key_path, key).unwrap();
        let (certificate, key) = (path_string(certificate_path), path_string(key_path));
        let mut flags = Vec::new();
        if transport == Transport::Tls {
            flags.extend(["--tls-certificate", &certificate, "--tls-key", &key]);
        }
        flags.extend(limits);
        let server = Server::start(issuer.url(), &flags).await;
        Self {
            server,
            ca,
            _issuer: issuer,
            _folder: folder,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.server.address).await.unwrap()
    }

    fn connector(&self, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    fn http(&self) -> reqwest::ClientBuilder {
        let ca = reqwest::Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .tls_certs_only([ca])
    }
}

/// Sends the parts, with a pause after each, and waits until the server closes the connection.
async fn expect_closed(
    description: &'static str,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    parts: Vec<&'static [u8]>,
) {
    let closed = async {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let write = async {
            for part in parts {
                if writer.write_all(part).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            std::future::pending::<()>().await;
        };
        let read = async {
            let mut sink = [0; 1024];
            // The server may end the stream or reset the connection.
            while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        };
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    };
    let closed = timeout(TIMEOUT, closed).await;
    assert!(closed.is_ok(), "still open: {description}");
}

/// Returns what a client may send before it stalls: an incomplete request, or one complete request and no other.
fn stalled_requests() -> Vec<(&'static str, Vec<&'static [u8]>)> {
    let trickle: Vec<&[u8]> = std::iter::once(&b"GET / HTTP/1.1\r\nhost: a\r\n"[..])
        .chain(std::iter::repeat_n(&b"x-a: b\r\n"[..], 1000))
        .collect();
    vec![
        ("nothing", vec![]),
        ("a part of the request line", vec![b"GE"]),
        ("a part of the head", vec![b"GET / HTTP/1.1\r\nhost: a\r\n"]),
        ("a head that is never completed", trickle),
        ("nothing after the first request", vec![COMPLETE_REQUEST]),
        (
            "a part of a second head",
            vec![COMPLETE_REQUEST, b"GET / HT"],
        ),
        ("a part of HTTP/2's preface", vec![b"PRI * HT"]),
        (
            "only HTTP/2's preface and settings",
            vec![HTTP2_PREFACE, SETTINGS],
        ),
        (
            "a part of an HTTP/2 head",
            vec![HTTP2_PREFACE, SETTINGS, PARTIAL_HEADERS],
        ),
        (
            "no body after its head",
            vec![b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nx"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_connections_are_closed_after_the_header_timeout() {
    let limited = LimitedServer::start(Transport::Plain, &["--header-timeout-seconds", "1"]).await;
    let mut connections = JoinSet::new();
    for _ in 0..20 {
        for (description, parts) in stalled_requests() {
            connections.spawn(expect_closed(description, limited.connect().await, parts));
        }
    }
    connections.join_all().await;
    let http = limited.http().build().unwrap();
    let response = http.get(limited.server.url("/")).send();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_tls_connections_and_handshakes_are_closed_after_their_timeouts() {
    let limits = [
        "--header-timeout-seconds",
        "1",
        "--handshake-timeout-seconds",
        "1",
    ];
    let limited = LimitedServer::start(Transport::Tls, &limits).await;
    let name = ServerName::try_from("localhost").unwrap();
    let mut connections = JoinSet::new();
    for _ in 0..5 {
        for protocol in [&b"http/1.1"[..], b"h2"] {
            for (description, parts) in stalled_requests() {
                let stream = limited.connect().await;
                let stream = limited.connector(protocol).connect(name.clone(), stream);
                connections.spawn(expect_closed(description, stream.await.unwrap(), parts));
            }
        }
        for (description, parts) in [
            ("no handshake", vec![]),
            (
                "a part of a handshake",
                vec![&b"\x16\x03\x01\x02\x00\x01"[..]],
            ),
        ] {
            connections.spawn(expect_closed(description, limited.connect().await, parts));
        }
    }
    connections.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_tls_handshakes_are_logged_without_what_the_client_sent() {
    let limited = LimitedServer::start(Transport::Tls, &[]).await;
    // A probe of the port is no failed handshake.
    drop(limited.connect().await);
    let untrusting = http_client().get(format!("https://{}/", limited.server.address));
    assert!(untrusting.send().await.is_err());
    let process = &limited.server.process;
    process
        .wait_for_line(
            "1 TLS handshake failed: 1 the client does not trust the certificate (alert UnknownCA)",
        )
        .await;
    let plain = http_client().get(limited.server.url("/forged"));
    assert!(plain.send().await.is_err());
    process
        .wait_for_line("1 TLS handshake failed in the last 10 s: 1 not TLS (plain HTTP?)")
        .await;
    let lines = process.lines();
    assert!(
        lines.iter().all(|line| !line.contains("forged")),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_served_once_others_have_ended() {
    let limits = ["--max-connections", "3", "--header-timeout-seconds", "2"];
    let limited = LimitedServer::start(Transport::Plain, &limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = limited.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    let mut fourth = limited.connect().await;
    fourth.write_all(COMPLETE_REQUEST).await.unwrap();
    let mut status_line = [0; 12];
    let early = timeout(
        Duration::from_millis(500),
        fourth.read_exact(&mut status_line),
    )
    .await;
    assert!(early.is_err(), "served above the limit");
    timeout(TIMEOUT, fourth.read_exact(&mut status_line))
        .await
        .expect("never served")
        .unwrap();
    assert_eq!(&status_line, b"HTTP/1.1 200");
    drop(held);
    for _ in 0..10 {
        let http = limited.http().build().unwrap();
        let response = http.get(limited.server.url("/")).send();
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_http_2_are_served_over_tls_and_plain() {
    let plain = LimitedServer::start(Transport::Plain, &[]).await;
    let url = plain.server.url("/private");
    let prior_knowledge = plain.http().http2_prior_knowledge().build().unwrap();
    let http1 = plain.http().http1_only().build().unwrap();
    for (http, version) in [
        (prior_knowledge, Version::HTTP_2),
        (http1, Version::HTTP_11),
    ] {
        let response = http.get(&url).send().await.unwrap();
        assert_eq!(
            (response.version(), response.status().as_u16()),
            (version, 401)
        );
    }
    let tls = LimitedServer::start(Transport::Tls, &[]).await;
    let url = format!("https://{}/private", tls.server.address);
    let negotiated = tls.http().build().unwrap();
    let http1 = tls.http().http1_only().build().unwrap();
    for (http, version) in [(negotiated, Version::HTTP_2), (http1, Version::HTTP_11)] {
        let response = http.get(&url).send().await.unwrap();
        assert_eq!(
            (response.version(), response.status().as_u16()),
            (version, 401)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_the_server_listens_on_ipv6_and_ipv4() {
    let issuer = TestIssuer::start().await.unwrap();
    let arguments = trusting(issuer.url(), &["--port", "0"]);
    let server = Server::start_with(&arguments, &NO_VARIABLES).await;
    let port = server.address.parse::<SocketAddr>().unwrap().port();
    let mut hosts = vec!["127.0.0.1"];
    match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => hosts.push("[::1]"),
        Err(error) => println!("skipped for IPv6, which this machine does not have: {error}"),
    }
    for host in hosts {
        let response = http_client().get(format!("http://{host}:{port}/")).send();
        assert_eq!(response.await.expect(host).status(), 200, "{host}");
    }
}

/// How a [`hostile_server`] sends its body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Once,
    Endlessly,
}

/// Starts a server that responds to each request with these bytes, and returns its URL.
async fn hostile_server(head: &'static str, body: Vec<u8>, repeat: Body) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let body = body.clone();
            tokio::spawn(async move {
                let mut sink = [0; 4096];
                let _ = stream.read(&mut sink).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(&body).await.is_ok() && repeat == Body::Endlessly {}
            });
        }
    });
    format!("http://{address}")
}

/// Runs a client that polls the URL once. Returns its exit code and the lines that it printed.
async fn poll_once(url: &str, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let arguments = ["--once", "--identity", "none", "--service-url", url];
    let mut client = start_client(&[&arguments[..], more].concat());
    let code = client.wait_for_exit().await;
    (code, client.lines())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_truncated() {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let url = hostile_server(head, vec![b'a'; 8192], Body::Endlessly).await;
    let (code, lines) = poll_once(&url, &[]).await;
    assert_eq!((code, lines.len()), (Some(0), 3), "{lines:?}");
    for line in &lines[1..] {
        assert!(
            line.len() < 66_000 && line.ends_with("(only the first 64 KiB of the body were read)")
        );
    }
    let (code, lines) = poll_once(&url, &["--json"]).await;
    assert_eq!((code, lines.len()), (Some(0), 2));
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["body"].as_str().unwrap().len(), 64 * 1024);
        assert_eq!(line["body_is_truncated"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_cannot_forge_a_line_or_write_to_the_terminal() {
    let forged =
        "x\nGET /private: 200 forged\r\u{1b}[2J\u{85}\u{2028}GET /: 200\u{202e}\u{7f}\u{9b}2J";
    for head in [
        "HTTP/1.1 403 No\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    ] {
        let url = hostile_server(head, forged.as_bytes().to_vec(), Body::Once).await;
        let (_, lines) = poll_once(&url, &[]).await;
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("GET /: ") && lines[2].starts_with("GET /private: "));
        let (_, json) = poll_once(&url, &["--json"]).await;
        assert_eq!(json.len(), 2, "{json:?}");
        for line in lines.iter().chain(&json) {
            let is_unsafe = |character: char| {
                character.is_control() || matches!(character, '\u{2028}' | '\u{202e}')
            };
            assert!(!line.contains(is_unsafe), "{line:?}");
        }
        let content: Value = serde_json::from_str(&json[0]).unwrap();
        assert_eq!(content["body"], forged.trim());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_response_is_reported_in_one_line() {
    for head in [
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\u{9b}2J\r\nconnection: close\r\n\r\n",
        "\nGET /private: 200 forged\n\u{1b}[2J",
    ] {
        let url = hostile_server(head, Vec::new(), Body::Once).await;
        for more in [&[][..], &["--json"]] {
            let (code, lines) = poll_once(&url, more).await;
            assert_eq!(code, Some(1), "{lines:?}");
            assert_eq!(
                lines.len(),
                if more.is_empty() { 3 } else { 2 },
                "{lines:?}"
            );
            assert!(!lines.concat().contains(char::is_control), "{lines:?}");
            // A port may contain "200" as well.
            let is_forged =
                |line: &String| line.contains(": 200") || line.contains("\"status\":200");
            assert!(!lines.iter().any(is_forged), "{lines:?}");
        }
    }
}

/// Sends a POST request without a token whose body is `sent` of `length` bytes, then requests `/` on the same connection. Returns
/// the status lines of the responses.
async fn statuses_around_an_unread_body(
    server: &Server,
    length: usize,
    sent: usize,
) -> Vec<String> {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!("POST /private HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The response arrives before the body is sent.
    let mut statuses = Vec::new();
    statuses.push(read_response(&mut stream).await);
    stream.write_all(&vec![b'x'; sent]).await.unwrap();
    stream.write_all(COMPLETE_REQUEST).await.unwrap();
    statuses.push(read_response(&mut stream).await);
    statuses
}

/// Reads a response with a `content-length` and returns its status line.
async fn read_response(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(TIMEOUT, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    timeout(TIMEOUT, stream.read_exact(&mut body))
        .await
        .unwrap()
        .unwrap();
    head.lines().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_follows_a_refusal_is_discarded_and_its_connection_is_used_again() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let ok = "HTTP/1.1 200 OK";
    for (length, refusal) in [
        (1, "HTTP/1.1 401 Unauthorized"),
        (1000, "HTTP/1.1 401 Unauthorized"),
        // Refused by the limit on bodies.
        (4_000_000, "HTTP/1.1 413 Payload Too Large"),
    ] {
        for _ in 0..5 {
            let statuses = statuses_around_an_unread_body(&server, length, length).await;
            assert_eq!(statuses, [refusal, ok], "{length}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_of_a_refused_request_that_waits_for_100_continue_is_closed() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let head =
        b"POST /private HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n";
    for next in [&b""[..], COMPLETE_REQUEST] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(&[head, next].concat()).await.unwrap();
        let mut received = Vec::new();
        let end = timeout(TIMEOUT, stream.read_to_end(&mut received)).await;
        let end = end.expect("the server closes the connection");
        let received = String::from_utf8(received).unwrap();
        // A reset of the connection, because not everything was read, may overtake the response.
        if end.is_ok() || !received.is_empty() {
            assert!(received.starts_with("HTTP/1.1 401 "), "{received}");
            assert!(received.contains("\r\nconnection: close\r\n"), "{received}");
        }
        assert!(received.matches("HTTP/1.1").count() < 2, "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_largest_size_is_accepted_over_both_versions_of_http() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let token = |bytes: usize| {
        let spec = crate::support::service_account_token(&issuer, crate::support::AUDIENCE);
        spec.claim("filler", "x".repeat(bytes)).mint()
    };
    let shortest = token(0).len();
    // base64url has four characters for three bytes.
    let largest = token((16 * 1024 - shortest) / 4 * 3 - 30);
    assert!((16 * 1024 - 100..=16 * 1024).contains(&largest.len()));
    let client = || reqwest::Client::builder().no_proxy();
    for client in [client().http1_only(), client().http2_prior_knowledge()] {
        let request = client.build().unwrap().get(server.url("/private"));
        let response = request.bearer_auth(&largest).send().await.unwrap();
        assert_eq!(response.status(), 200, "{:?}", response.version());
    }
}
