//! The issuer, and a proxy in front of it that can fail in the ways of a network and of a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_oidc_guard::testing::TestIssuer;

use crate::Failure;

const BACKLOG: i32 = 128;
/// The largest head of a request that is read.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The interval between two bytes of a slow answer.
const SLOW_INTERVAL: Duration = Duration::from_millis(500);

/// How the issuer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// With its documents.
    Documents,
    /// It refuses connections.
    Refused,
    /// It accepts connections and sends nothing.
    Nothing,
    /// With 500.
    ServerError,
    /// With bytes that are not HTTP.
    Garbage,
    /// With a document that is cut off.
    CutOff,
    /// It resets the connection after the request.
    Reset,
    /// One byte at a time, slower than any client waits for.
    Slow,
}

impl Answers {
    /// Returns a description for the timeline.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Documents => "answers with its documents",
            Self::Refused => "refuses connections",
            Self::Nothing => "accepts connections and answers nothing",
            Self::ServerError => "answers with 500",
            Self::Garbage => "answers with garbage",
            Self::CutOff => "answers with documents that are cut off",
            Self::Reset => "resets connections",
            Self::Slow => "answers a byte at a time",
        }
    }
}

/// An issuer behind a proxy.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// The issuer itself, which signs the tokens.
    pub(crate) keys: TestIssuer,
    /// The URL of the proxy: the `iss` of the tokens.
    pub(crate) url: String,
    answers: watch::Sender<Answers>,
}

impl Issuer {
    /// Starts the issuer and the proxy.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let keys = TestIssuer::start().await?;
        let upstream = keys.url().trim_start_matches("http://").parse()?;
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?.as_socket();
        let address = address.ok_or("the proxy has no address")?;
        let url = format!("http://{address}");
        keys.set_discovery_member("issuer", url.clone());
        keys.set_discovery_member("jwks_uri", format!("{url}/openid/v1/jwks"));
        let (answers, receiver) = watch::channel(Answers::Documents);
        tokio::spawn(serve(socket, address, upstream, receiver));
        Ok(Self { keys, url, answers })
    }

    /// Changes how the issuer answers, and closes all connections to it.
    pub(crate) fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }
}

/// Returns a socket that is bound and does not listen: connections to it are refused, and no other process gets its port.
fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> std::io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn serve(
    socket: Socket,
    address: SocketAddr,
    upstream: SocketAddr,
    mut answers: watch::Receiver<Answers>,
) {
    let mut socket = Some(socket);
    loop {
        let now = *answers.borrow_and_update();
        if now == Answers::Refused {
            if answers.changed().await.is_err() {
                return;
            }
            continue;
        }
        let bound = match socket.take() {
            Some(bound) => Ok(bound),
            None => bind(address),
        };
        let listener = match bound.and_then(listen) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("the proxy of the issuer cannot listen, trying again: {error}");
                tokio::time::sleep(SLOW_INTERVAL).await;
                continue;
            }
        };
        // Dropped with its connections when the answers change.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                changed = answers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                Ok((stream, _)) = listener.accept() => {
                    while connections.try_join_next().is_some() {}
                    connections.spawn(answer(stream, upstream, now));
                }
            }
        }
        drop(listener);
        connections.shutdown().await;
        socket = bind(address).ok();
    }
}

/// Answers on one connection. Errors end it, as they would at a real server.
async fn answer(mut stream: TcpStream, upstream: SocketAddr, answers: Answers) {
    if answers == Answers::Documents {
        if let Ok(mut server) = TcpStream::connect(upstream).await {
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
        return;
    }
    if answers == Answers::Reset {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    read_head(&mut stream).await;
    let document = r#"{"issuer":"http://127.0.0.1","keys":[{"kty":"RSA","kid":"#;
    let length = document.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    match answers {
        // These are handled before the request is read, or do not accept connections.
        Answers::Documents | Answers::Refused | Answers::Reset => {}
        Answers::Nothing => std::future::pending().await,
        Answers::ServerError => {
            let response = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 5\r\nconnection: close\r\n\r\nerror";
            let _ = stream.write_all(response.as_bytes()).await;
        }
        Answers::Garbage => {
            let garbage: Vec<u8> = (0..=u8::MAX).rev().cycle().take(1000).collect();
            let _ = stream.write_all(&garbage).await;
        }
        Answers::CutOff => {
            let _ = stream
                .write_all(format!("{head}{document}").as_bytes())
                .await;
        }
        Answers::Slow => {
            let _ = stream.write_all(head.as_bytes()).await;
            for byte in document.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(SLOW_INTERVAL).await;
            }
        }
    }
    let _ = stream.shutdown().await;
}

/// Reads until the end of the head of a request, or until the client closes the connection.
async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < MAX_HEAD_BYTES && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
}
