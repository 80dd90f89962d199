//! What the other side of a connection may do: clients to the server, and servers to the client.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Version;
use serde_json::Value;
use support::{AUDIENCE, Ca, Program, client, server, server_with, text};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tower_oidc_guard::testing::TestIssuer;

/// Longer than any limit that the tests set: what is still open after it stays open.
const PATIENCE: Duration = Duration::from_secs(30);
const WHOLE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The first of the frames of a request's head, which is never completed.
const HALF_HEADERS: &[u8] = &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82];

/// A server whose connections are limited, over TLS or not.
struct Limited {
    _server: Program,
    address: SocketAddr,
    ca: Ca,
    _issuer: TestIssuer,
    _folder: tempfile::TempDir,
}

impl Limited {
    async fn start(tls: bool, limits: &[&str]) -> Self {
        let issuer = TestIssuer::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        let (certificate, key) = ca.certificate();
        let (crt, secret) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::write(&crt, certificate).unwrap();
        std::fs::write(&secret, key).unwrap();
        let (crt, secret) = (text(crt), text(secret));
        let mut arguments = vec!["--issuer", issuer.url(), "--insecure-loopback-http"];
        arguments.extend(["--audience", AUDIENCE]);
        if tls {
            arguments.extend(["--tls-certificate", &crt, "--tls-key", &secret]);
        }
        arguments.extend(limits);
        let (server, address) = server(&arguments).await;
        Self {
            _server: server,
            address: address.parse().unwrap(),
            ca,
            _issuer: issuer,
            _folder: folder,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
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
            .timeout(PATIENCE)
            .tls_certs_only([ca])
    }
}

/// Sends the parts, with a pause between them, and waits until the server closes the connection.
async fn closed_after(
    what: &'static str,
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
            // A reset ends it as well as an end of the stream.
            while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        };
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    };
    let closed = timeout(PATIENCE, closed).await;
    assert!(closed.is_ok(), "still open: {what}");
}

/// What a client may send that is never a whole request, or one only.
fn halves() -> Vec<(&'static str, Vec<&'static [u8]>)> {
    let trickle: Vec<&[u8]> = std::iter::once(&b"GET / HTTP/1.1\r\nhost: a\r\n"[..])
        .chain(std::iter::repeat_n(&b"x-a: b\r\n"[..], 1000))
        .collect();
    vec![
        ("nothing", vec![]),
        ("a part of the request line", vec![b"GE"]),
        ("a part of the head", vec![b"GET / HTTP/1.1\r\nhost: a\r\n"]),
        ("a head that goes on and on", trickle),
        ("nothing after a first request", vec![WHOLE]),
        ("a part of a second head", vec![WHOLE, b"GET / HT"]),
        ("a part of the preface of HTTP/2", vec![b"PRI * HT"]),
        (
            "the preface of HTTP/2 and nothing more",
            vec![PREFACE, SETTINGS],
        ),
        (
            "a part of a head of HTTP/2",
            vec![PREFACE, SETTINGS, HALF_HEADERS],
        ),
        (
            "a body that does not come",
            vec![b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nx"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_are_closed_within_the_header_timeout() {
    let limited = Limited::start(false, &["--header-timeout-seconds", "1"]).await;
    let mut connections = JoinSet::new();
    for _ in 0..20 {
        for (what, parts) in halves() {
            connections.spawn(closed_after(what, limited.connect().await, parts));
        }
    }
    connections.join_all().await;
    let answer = limited.http().build().unwrap();
    let answer = answer.get(format!("http://{}/", limited.address)).send();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_half_sent_requests_and_handshakes_are_closed_within_their_timeouts() {
    let limits = [
        "--header-timeout-seconds",
        "1",
        "--handshake-timeout-seconds",
        "1",
    ];
    let limited = Limited::start(true, &limits).await;
    let name = ServerName::try_from("localhost").unwrap();
    let mut connections = JoinSet::new();
    for _ in 0..5 {
        for protocol in [&b"http/1.1"[..], b"h2"] {
            for (what, parts) in halves() {
                let stream = limited.connect().await;
                let stream = limited.connector(protocol).connect(name.clone(), stream);
                connections.spawn(closed_after(what, stream.await.unwrap(), parts));
            }
        }
        for (what, parts) in [
            ("no handshake", vec![]),
            (
                "a part of a handshake",
                vec![&b"\x16\x03\x01\x02\x00\x01"[..]],
            ),
        ] {
            connections.spawn(closed_after(what, limited.connect().await, parts));
        }
    }
    connections.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_wait_and_are_served_when_others_end() {
    let limits = ["--max-connections", "3", "--header-timeout-seconds", "2"];
    let limited = Limited::start(false, &limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = limited.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    let mut fourth = limited.connect().await;
    fourth.write_all(WHOLE).await.unwrap();
    let mut answer = [0; 12];
    let early = timeout(Duration::from_millis(500), fourth.read_exact(&mut answer)).await;
    assert!(early.is_err(), "served above the limit");
    timeout(PATIENCE, fourth.read_exact(&mut answer))
        .await
        .expect("never served")
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(held);
    for _ in 0..10 {
        let http = limited.http().build().unwrap();
        let answer = http.get(format!("http://{}/", limited.address)).send();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_http_2_are_served_over_tls_and_plain() {
    let plain = Limited::start(false, &[]).await;
    let url = format!("http://{}/private", plain.address);
    let prior_knowledge = plain.http().http2_prior_knowledge().build().unwrap();
    let one = plain.http().http1_only().build().unwrap();
    for (http, version) in [(prior_knowledge, Version::HTTP_2), (one, Version::HTTP_11)] {
        let answer = http.get(&url).send().await.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 401));
    }
    let tls = Limited::start(true, &[]).await;
    let url = format!("https://{}/private", tls.address);
    let negotiated = tls.http().build().unwrap();
    let one = tls.http().http1_only().build().unwrap();
    for (http, version) in [(negotiated, Version::HTTP_2), (one, Version::HTTP_11)] {
        let answer = http.get(&url).send().await.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 401));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_the_server_listens_on_ipv6_and_ipv4() {
    let issuer = TestIssuer::start().await.unwrap();
    let (_server, address) = server_with(
        &[
            "--port",
            "0",
            "--issuer",
            issuer.url(),
            "--insecure-loopback-http",
            "--audience",
            AUDIENCE,
        ],
        &[],
    )
    .await;
    let port = address.parse::<SocketAddr>().unwrap().port();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut hosts = vec!["127.0.0.1"];
    match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => hosts.push("[::1]"),
        Err(error) => println!("skipped for IPv6, which this machine does not have: {error}"),
    }
    for host in hosts {
        let answer = http.get(format!("http://{host}:{port}/")).send().await;
        assert_eq!(answer.expect(host).status(), 200, "{host}");
    }
}

/// A server that answers each request with these bytes and then, if it is endless, with more of the last ones.
async fn hostile(head: &'static str, body: Vec<u8>, endless: bool) -> String {
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
                while stream.write_all(&body).await.is_ok() && endless {}
            });
        }
    });
    format!("http://{address}")
}

async fn asked_once(url: &str, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let arguments = ["--once", "--identity", "none", "--service-url", url];
    let mut client = client(&[&arguments[..], more].concat());
    let code = client.ended().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    (code, client.lines())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_endless_body_only_the_beginning_is_read() {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let url = hostile(head, vec![b'a'; 8192], true).await;
    let (code, lines) = asked_once(&url, &[]).await;
    assert_eq!((code, lines.len()), (Some(0), 3), "{lines:?}");
    for line in &lines[1..] {
        assert!(
            line.len() < 66_000 && line.ends_with("(only the first 64 KiB of the body were read)")
        );
    }
    let (code, lines) = asked_once(&url, &["--json"]).await;
    assert_eq!((code, lines.len()), (Some(0), 2));
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["body"].as_str().unwrap().len(), 64 * 1024);
        assert_eq!(line["body_is_cut"], true);
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
        let url = hostile(head, forged.as_bytes().to_vec(), false).await;
        let (_, lines) = asked_once(&url, &[]).await;
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("GET /: ") && lines[2].starts_with("GET /private: "));
        let (_, json) = asked_once(&url, &["--json"]).await;
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
async fn an_answer_that_is_no_http_is_an_error_in_one_line() {
    for head in [
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\u{9b}2J\r\nconnection: close\r\n\r\n",
        "\nGET /private: 200 forged\n\u{1b}[2J",
    ] {
        let url = hostile(head, Vec::new(), false).await;
        for more in [&[][..], &["--json"]] {
            let (code, lines) = asked_once(&url, more).await;
            assert_eq!(code, Some(1), "{lines:?}");
            assert_eq!(
                lines.len(),
                if more.is_empty() { 3 } else { 2 },
                "{lines:?}"
            );
            assert!(!lines.concat().contains(char::is_control), "{lines:?}");
            assert!(!lines.iter().any(|line| line.contains("200")), "{lines:?}");
        }
    }
}
