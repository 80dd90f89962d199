//! Connections that do not behave: they send half a request, garbage or nothing, reset, or read and write slowly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::Failure;
use crate::environment::{Environment, IDLE_LIMIT, Server};
use crate::pace::Pace;

/// How much later than its limit a server may close a connection, on a machine that is busy.
const IDLE_MARGIN: Duration = Duration::from_secs(30);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The size of the receive buffer of a slow reader, so that the server's responses do not fit into it.
const SMALL_BUFFER: u32 = 2048;
/// The number of requests that a slow reader sends at once.
const PIPELINED: usize = 300;
/// The largest number of connections at a time: no more than one minute's.
const MAX_SECONDS: f64 = 60.0;

/// The behavior of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Closes at once.
    Close,
    /// Resets at once.
    Reset,
    /// Sends bytes that are neither TLS nor HTTP.
    Garbage,
    /// Sends a part of a TLS handshake or of a request, and closes.
    HalfHandshake,
    /// Sends a part of the head of a request, and resets.
    HalfHead,
    /// Sends a part of the body of a request, and resets.
    HalfBody,
    /// Sends bytes that are not HTTP, after the TLS handshake.
    GarbageRequest,
    /// Begins HTTP/2, and sends an invalid frame.
    InvalidFrame,
    /// Sends many requests at once, and reads the responses slowly.
    SlowReader,
    /// Sends many requests at once, reads a part of the responses, and resets.
    ImpatientReader,
    /// Sends a request slowly.
    SlowWriter,
    /// Sends nothing until the server closes the connection.
    Idle,
}

const ALL: [Kind; 12] = [
    Kind::Close,
    Kind::SlowReader,
    Kind::Reset,
    Kind::Garbage,
    Kind::HalfHandshake,
    Kind::Idle,
    Kind::HalfHead,
    Kind::HalfBody,
    Kind::SlowWriter,
    Kind::GarbageRequest,
    Kind::ImpatientReader,
    Kind::InvalidFrame,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Close => "connection closed at once",
            Self::Reset => "connection reset at once",
            Self::Garbage => "garbage in place of a handshake",
            Self::HalfHandshake => "half a handshake",
            Self::HalfHead => "half a head",
            Self::HalfBody => "half a body",
            Self::GarbageRequest => "garbage in place of a request",
            Self::InvalidFrame => "invalid HTTP/2 frame",
            Self::SlowReader => "slow reader",
            Self::ImpatientReader => "reader that resets",
            Self::SlowWriter => "slow writer",
            Self::Idle => "idle connection",
        }
    }

    /// Returns whether the connection ends with a reset.
    fn resets(self) -> bool {
        matches!(
            self,
            Self::Reset | Self::HalfHead | Self::HalfBody | Self::ImpatientReader
        )
    }
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Opens connections at a rate per second until dropped.
pub(crate) async fn run(environment: Arc<Environment>, rate: f64) {
    let mut pace = Pace::new(rate);
    let mut connections = JoinSet::new();
    for number in 0.. {
        pace.next().await;
        while connections.try_join_next().is_some() {}
        if connections.len() as f64 >= rate * MAX_SECONDS {
            let text = format!("{} connections are open", connections.len());
            environment.record.failure("open connections", &text);
            sleep(Duration::from_secs(1)).await;
            continue;
        }
        let kind = ALL[number % ALL.len()];
        let server = (number + number / ALL.len()) % 2;
        let environment = environment.clone();
        connections.spawn(async move {
            let server = &environment.servers[server];
            let result = disturb(server, kind).await;
            let result = result.map_err(|error| format!("{error}, from {}", server.name));
            environment.record.request(kind.name(), result);
        });
    }
}

/// Opens a connection and does what its kind is. Returns an error only if the server does not do what it should: most kinds give it
/// nothing to answer.
async fn disturb(server: &Server, kind: Kind) -> Result<(), Failure> {
    let socket = TcpSocket::new_v4()?;
    if matches!(kind, Kind::SlowReader | Kind::ImpatientReader) {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    let mut stream = socket.connect(server.address.parse()?).await?;
    if kind.resets() {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    match kind {
        Kind::Close | Kind::Reset => return Ok(()),
        Kind::Garbage => {
            stream.write_all(&[0xff; 200]).await?;
            return wait_for_end(&mut stream).await;
        }
        Kind::HalfHandshake => {
            // The start of a ClientHello, of which 300 bytes are announced.
            let start = [0x16, 0x03, 0x01, 0x01, 0x2c, 0x01, 0x00];
            stream.write_all(&start).await?;
            sleep(Duration::from_millis(200)).await;
            return Ok(());
        }
        Kind::Idle => return wait_for_end(&mut stream).await,
        _ => {}
    }
    let mut stream: Box<dyn Stream> = match &server.tls {
        Some(tls) => {
            let name = ServerName::try_from("127.0.0.1")?;
            Box::new(timeout(ANSWER_LIMIT, tls.connect(name, stream)).await??)
        }
        None => Box::new(stream),
    };
    let request = "GET / HTTP/1.1\r\nhost: soak\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n";
    match kind {
        Kind::HalfHead => {
            let part = "GET /private HTTP/1.1\r\nhost: soak\r\nauthori";
            stream.write_all(part.as_bytes()).await?;
            stream.flush().await?;
            sleep(Duration::from_millis(200)).await;
        }
        Kind::HalfBody => {
            let part = "POST /private HTTP/1.1\r\nhost: soak\r\ncontent-length: 1000\r\n\r\nhalf";
            stream.write_all(part.as_bytes()).await?;
            stream.flush().await?;
            sleep(Duration::from_millis(200)).await;
        }
        Kind::GarbageRequest => {
            stream.write_all(b"\x00\x01garbage\r\n\r\n").await?;
            stream.flush().await?;
            wait_for_end(&mut stream).await?;
        }
        Kind::InvalidFrame => {
            // A frame of 16 MiB, which is longer than the server allows.
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend([0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01]);
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            wait_for_end(&mut stream).await?;
        }
        Kind::SlowReader | Kind::ImpatientReader => {
            let requests = request.repeat(PIPELINED - 1) + last;
            let (mut reader, mut writer) = tokio::io::split(stream);
            let write = tokio::spawn(async move {
                // Fails if the connection is reset meanwhile.
                let _ = writer.write_all(requests.as_bytes()).await;
                let _ = writer.flush().await;
                writer
            });
            let mut received = Vec::new();
            let mut buffer = [0; 1024];
            for _ in 0..20 {
                sleep(Duration::from_millis(100)).await;
                let read = timeout(ANSWER_LIMIT, reader.read(&mut buffer)).await??;
                received.extend_from_slice(&buffer[..read]);
            }
            if kind == Kind::ImpatientReader {
                write.abort();
                return Ok(());
            }
            timeout(ANSWER_LIMIT, reader.read_to_end(&mut received)).await??;
            let received = String::from_utf8_lossy(&received);
            let responses = received.matches("HTTP/1.1 200 OK").count();
            if responses != PIPELINED {
                return Err(format!("{responses} of {PIPELINED} responses").into());
            }
        }
        Kind::SlowWriter => {
            let began = Instant::now();
            let mut response = Vec::new();
            let exchange = async {
                for part in last.as_bytes().chunks(3) {
                    stream.write_all(part).await?;
                    stream.flush().await?;
                    sleep(Duration::from_millis(100)).await;
                }
                timeout(ANSWER_LIMIT, stream.read_to_end(&mut response)).await??;
                Ok::<_, Failure>(())
            };
            let result = exchange.await;
            // It takes two seconds, unless the machine is so busy that the server's limit is reached.
            if began.elapsed() > IDLE_LIMIT {
                return Ok(());
            }
            result?;
            if !response.starts_with(b"HTTP/1.1 200 OK") {
                let response = String::from_utf8_lossy(&response);
                return Err(format!("{response:?} instead of 200").into());
            }
        }
        // Handled above.
        Kind::Close | Kind::Reset | Kind::Garbage | Kind::HalfHandshake | Kind::Idle => {}
    }
    Ok(())
}

/// Waits until the server closes the connection, within its limit.
async fn wait_for_end(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Failure> {
    let began = Instant::now();
    let mut buffer = [0; 1024];
    let end = async {
        // An answer, such as 400, may come first. A reset is an end as well.
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    if timeout(IDLE_LIMIT + IDLE_MARGIN, end).await.is_err() {
        return Err(format!("the connection is still open after {:?}", began.elapsed()).into());
    }
    Ok(())
}
