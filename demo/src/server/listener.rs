//! Accepts connections and serves HTTP/1 and HTTP/2 on them, over TLS or plain.
//!
//! What a connection may take is limited:
//!
//! 1. At most [`Limits::connections`] are served at once. Further ones wait in the system's backlog.
//! 2. A TLS handshake has to be done within [`Limits::handshake_timeout`].
//! 3. A connection without a request is closed after [`Limits::header_timeout`]: until the head of the first request has
//!    arrived in full, and between two requests. This holds for HTTP/1 and HTTP/2, and before it is known which of them a
//!    client speaks.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// So many connections wait in the system's backlog.
const BACKLOG: i32 = 1024;
/// The pause after an accept that failed, most often because the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How long a connection that is closed for want of a request may take to close in good order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// So many requests may be in flight on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What connections may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many connections are served at once.
    pub connections: usize,
    /// How long a connection may be without a request.
    pub header_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1000,
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Listens at an address and returns it as it has become. At `[::]`, IPv4 is accepted too.
///
/// Must be called within a tokio runtime.
///
/// # Errors
///
/// [`Error::Listen`] if that is not possible.
pub fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    listen_for("--port", address)
}

/// Listens at an address; `flag` is the one that an error names.
pub(super) fn listen_for(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), Error> {
    let bound = bind(address).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|source| Error::Listen {
        address,
        flag,
        source,
    })
}

/// Listens at all addresses: IPv6 and IPv4, or IPv4 only where the system has no IPv6.
pub(super) fn listen_everywhere(
    flag: &'static str,
    port: u16,
) -> Result<(TcpListener, SocketAddr), Error> {
    either(
        || listen_for(flag, (Ipv6Addr::UNSPECIFIED, port).into()),
        || listen_for(flag, (Ipv4Addr::UNSPECIFIED, port).into()),
    )
}

/// Returns the first, or the second where the first fails for another reason than the port.
fn either<T>(
    first: impl FnOnce() -> Result<T, Error>,
    second: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    match first() {
        Err(Error::Listen { source, .. })
            if !matches!(
                source.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) =>
        {
            tracing::info!(error = %source, "IPv6 is not available; listening with IPv4 only");
            second()
        }
        done => done,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // As the standard library does: a restarted server takes its port again.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until `end` completes and the requests in flight are answered.
///
/// When `end` completes, no more connections are accepted, idle ones are closed, and a request whose head has begun to
/// arrive is still answered. Connections do not end with this future: who does not wait for it has to end the runtime.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Router,
    limits: Limits,
    end: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (closing, close) = watch::channel(false);
    let mut end = pin!(end);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((accept(&listener).await, permit))
        };
        let ((stream, peer), permit) = tokio::select! {
            biased;
            () = &mut end => break,
            Some(accepted) = accepted => accepted,
            else => break,
        };
        let connection = Connection {
            peer,
            limits,
            routes: routes.clone(),
            close: close.clone(),
            _permit: permit,
        };
        tokio::spawn(connection.serve(stream, tls.clone()));
    }
    drop(listener);
    closing.send_replace(true);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    // Fails only if the semaphore is closed, which it never is.
    let _ = permits.acquire_many(all).await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client has gone before it was served.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again in {ACCEPT_PAUSE:?}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that was accepted.
struct Connection {
    peer: SocketAddr,
    limits: Limits,
    routes: Router,
    /// Becomes true when the server ends.
    close: watch::Receiver<bool>,
    /// One of the connections that may be served at once.
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // Without it small answers may wait for an acknowledgement; they are right all the same.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve_http(stream).await;
        };
        let peer = self.peer;
        match timeout(self.limits.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(stream).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }

    async fn serve_http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (peer, limits) = (self.peer, self.limits);
        let (requests, watched) = watch::channel(Requests::default());
        let routes = TowerToHyperService::new(self.routes);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let begun = Begun::new(&requests);
            let answer = routes.call(request);
            async move {
                let answer = answer.await;
                drop(begun);
                answer
            }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut idle = pin!(idle(watched, limits.header_timeout));
        let mut is_closing = false;
        loop {
            tokio::select! {
                served = &mut connection => {
                    if let Err(error) = served {
                        tracing::debug!(%peer, error = %crate::chain(&*error), "the connection failed");
                    }
                    return;
                }
                () = &mut idle => {
                    tracing::debug!(%peer, "closing a connection without a request");
                    connection.as_mut().graceful_shutdown();
                    // It is dropped if it does not close, whatever is on it: no request is in flight.
                    let _ = timeout(CLOSE_TIMEOUT, connection).await;
                    return;
                }
                () = closed(&mut self.close), if !is_closing => {
                    connection.as_mut().graceful_shutdown();
                    is_closing = true;
                }
            }
        }
    }
}

/// Completes when the server ends.
async fn closed(close: &mut watch::Receiver<bool>) {
    // Where the sender is gone, so is the server.
    let _ = close.wait_for(|&close| close).await;
}

/// The requests of a connection that are in flight, and when that last changed.
#[derive(Debug, Clone, Copy)]
struct Requests {
    in_flight: usize,
    since: Instant,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            in_flight: 0,
            since: Instant::now(),
        }
    }
}

/// A request in flight, until it is dropped.
struct Begun(watch::Sender<Requests>);

impl Begun {
    fn new(requests: &watch::Sender<Requests>) -> Self {
        requests.send_modify(|requests| {
            requests.in_flight += 1;
            requests.since = Instant::now();
        });
        Self(requests.clone())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.send_modify(|requests| {
            requests.in_flight -= 1;
            requests.since = Instant::now();
        });
    }
}

/// Completes once no request has been in flight for that time.
async fn idle(mut requests: watch::Receiver<Requests>, time: Duration) {
    loop {
        let Requests { in_flight, since } = *requests.borrow_and_update();
        let wait = async {
            match in_flight {
                0 => sleep_until(since + time).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => return,
            // Fails where no request can begin any more; then only the time is waited for.
            Ok(()) = requests.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_while_no_request_is_in_flight() {
        let (sender, _) = watch::channel(Requests::default());
        let limit = Duration::from_secs(10);
        let began = Instant::now();
        let first = Begun::new(&sender);
        let second = Begun::new(&sender);
        let requests = async {
            sleep(Duration::from_secs(60)).await;
            drop(first);
            sleep(Duration::from_secs(60)).await;
            drop(second);
            std::future::pending::<()>().await;
        };
        let idle = idle(sender.subscribe(), limit);
        drop(sender);
        tokio::select! {
            () = idle => {}
            () = requests => {}
        }
        assert_eq!(began.elapsed(), Duration::from_secs(130));
    }

    #[test]
    fn ipv4_is_listened_at_where_ipv6_is_not_available_but_not_where_the_port_is_taken() {
        let failed = |kind: io::ErrorKind| {
            move || -> Result<&str, Error> {
                Err(Error::Listen {
                    address: (Ipv6Addr::UNSPECIFIED, 1).into(),
                    flag: "--port",
                    source: kind.into(),
                })
            }
        };
        for kind in [io::ErrorKind::AddrNotAvailable, io::ErrorKind::Unsupported] {
            assert_eq!(either(failed(kind), || Ok("IPv4")).ok(), Some("IPv4"));
        }
        for kind in [io::ErrorKind::AddrInUse, io::ErrorKind::PermissionDenied] {
            assert!(either(failed(kind), || Ok("IPv4")).is_err());
        }
        assert_eq!(either(|| Ok("both"), || Ok("IPv4")).ok(), Some("both"));
    }
}
