//! Accepts connections and serves HTTP/1 and HTTP/2 on them, over TLS or plain.
//!
//! Connections are limited:
//!
//! 1. At most [`Limits::connections`] are served at a time. Further ones wait in the system's backlog.
//! 2. A TLS handshake must be completed within [`Limits::handshake_timeout`].
//! 3. A connection on which no request is in flight is closed after [`Limits::header_timeout`]. A request is in flight once
//!    its head has arrived in full. This applies to HTTP/1 and HTTP/2, and also before the client's protocol is known.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Version};
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

use super::handshakes::{HandshakeFailure, HandshakeFailures};
use super::request_body::Http1RequestBody;
use crate::{Error, error_chain};

/// The length of the system's backlog of connections that have not been accepted.
const BACKLOG: i32 = 1024;
/// The pause after accepting a connection failed, most often because the process has no file descriptor left.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long an idle connection may take to shut down gracefully before it is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest number of requests in flight on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// The largest head of an HTTP/2 request, in bytes. A token may have 16 KiB, which is hyper's limit for the whole head.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// How often a ping is sent to an HTTP/2 client.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long an HTTP/2 client may take to respond to a ping before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of connections that are served at a time.
    pub connections: usize,
    /// How long a connection may be open without a request in flight.
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

/// Listens on an address. Returns the listener and its actual address, which differs if the port is 0.
///
/// A listener on `[::]` accepts IPv4 connections, too.
///
/// # Errors
///
/// [`Error::Listen`] if the address cannot be listened on.
///
/// # Panics
///
/// Panics if called outside a tokio runtime.
pub fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    listen_on("--port", address)
}

/// Listens on an address as [`listen`] does. An error names `flag` as the flag that sets the port.
pub(super) fn listen_on(
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

/// Listens on a port of all addresses: IPv6 and IPv4, or IPv4 only if the system has no IPv6. An error names `flag` as the
/// flag that sets the port.
pub(super) fn listen_on_all_addresses(
    flag: &'static str,
    port: u16,
) -> Result<(TcpListener, SocketAddr), Error> {
    fall_back_to_ipv4(
        || listen_on(flag, (Ipv6Addr::UNSPECIFIED, port).into()),
        || listen_on(flag, (Ipv4Addr::UNSPECIFIED, port).into()),
    )
}

/// Calls `ipv6`, and then `ipv4` if IPv6 is not available. Returns the error of `ipv6` if the port is the reason for it.
fn fall_back_to_ipv4<T>(
    ipv6: impl FnOnce() -> Result<T, Error>,
    ipv4: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    match ipv6() {
        Err(Error::Listen { source, .. })
            if !matches!(
                source.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) =>
        {
            tracing::info!(
                error = error_chain(&source),
                "IPv6 is not available; using IPv4 only"
            );
            ipv4()
        }
        result => result,
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
    // As in the standard library: a restarted server can use the same port at once.
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
/// arrive is still answered. Connections run on their own tasks: if this future is dropped, they stay open until the
/// runtime ends.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Router,
    limits: Limits,
    end: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (closing, close) = watch::channel(false);
    let failures = Arc::new(HandshakeFailures::default());
    let mut summaries = pin!(failures.log_summaries());
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
            // Never completes.
            () = &mut summaries => continue,
            Some(accepted) = accepted => accepted,
            else => break,
        };
        let connection = Connection {
            peer,
            limits,
            routes: routes.clone(),
            close: close.clone(),
            handshake_failures: failures.clone(),
            _permit: permit,
        };
        tokio::spawn(connection.serve(stream, tls.clone()));
    }
    drop(listener);
    closing.send_replace(true);
    // All permits are available once all connections have ended. The semaphore is never closed.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = permits.acquire_many(all).await;
    failures.log("");
}

/// Accepts the next connection. Retries after errors.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client closed the connection before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(
                    error,
                    "cannot accept a connection; retrying in {ACCEPT_RETRY_PAUSE:?}"
                );
                sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}

/// An accepted connection.
struct Connection {
    peer: SocketAddr,
    limits: Limits,
    routes: Router,
    /// Becomes `true` when the server shuts down.
    close: watch::Receiver<bool>,
    handshake_failures: Arc<HandshakeFailures>,
    /// Counts towards [`Limits::connections`] until the connection ends.
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // Without it, small responses may be delayed. An error changes nothing else, so it is ignored.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve_http(stream).await;
        };
        let peer = self.peer;
        let failure = match timeout(self.limits.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => return self.serve_http(stream).await,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = error_chain(&error), "the TLS handshake failed");
                HandshakeFailure::classify(&error)
            }
            Err(_) => {
                tracing::debug!(%peer, "the TLS handshake took too long");
                Some(HandshakeFailure::TimedOut)
            }
        };
        if let Some(failure) = failure {
            self.handshake_failures.count(failure);
        }
    }

    async fn serve_http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (peer, limits) = (self.peer, self.limits);
        let (activity_sender, activity) = watch::channel(Activity::default());
        let routes = TowerToHyperService::new(self.routes);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let in_flight = RequestInFlight::new(&activity_sender);
            let version = request.version();
            // A client that waits for `100 Continue` may omit the body of a request that was refused, so the bytes after it may be that
            // body or the next request. The connection is closed (RFC 9110, section 10.1.1).
            let is_http1 = version < Version::HTTP_2;
            let may_omit_body = is_http1 && request.headers().contains_key(EXPECT);
            let response = routes.call(request.map(|body| {
                if is_http1 && !may_omit_body {
                    Body::new(Http1RequestBody::new(body))
                } else {
                    Body::new(body)
                }
            }));
            async move {
                let mut response = response.await;
                if let Ok(response) = &mut response
                    && may_omit_body
                    && !response.status().is_success()
                {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                drop(in_flight);
                response
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
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut idle = pin!(wait_until_idle(activity, limits.header_timeout));
        let mut is_closing = false;
        loop {
            tokio::select! {
                served = &mut connection => {
                    if let Err(error) = served {
                        tracing::debug!(%peer, error = error_chain(&*error), "the connection failed");
                    }
                    return;
                }
                () = &mut idle => {
                    tracing::debug!(%peer, "closing a connection without a request in flight");
                    connection.as_mut().graceful_shutdown();
                    // No request is in flight, so the connection can be dropped if it does not close in time.
                    let _ = timeout(CLOSE_TIMEOUT, connection).await;
                    return;
                }
                () = wait_for_shutdown(&mut self.close), if !is_closing => {
                    connection.as_mut().graceful_shutdown();
                    is_closing = true;
                }
            }
        }
    }
}

/// Completes when the server shuts down.
async fn wait_for_shutdown(close: &mut watch::Receiver<bool>) {
    // The sender is dropped only after the server has shut down.
    let _ = close.wait_for(|&close| close).await;
}

/// The number of requests in flight on a connection, and when it last changed.
#[derive(Debug, Clone, Copy)]
struct Activity {
    in_flight: usize,
    changed_at: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            in_flight: 0,
            changed_at: Instant::now(),
        }
    }
}

/// Counts a request as in flight until dropped.
struct RequestInFlight(watch::Sender<Activity>);

impl RequestInFlight {
    fn new(activity: &watch::Sender<Activity>) -> Self {
        activity.send_modify(|activity| {
            activity.in_flight += 1;
            activity.changed_at = Instant::now();
        });
        Self(activity.clone())
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.send_modify(|activity| {
            activity.in_flight -= 1;
            activity.changed_at = Instant::now();
        });
    }
}

/// Completes once no request has been in flight for `limit`.
async fn wait_until_idle(mut activity: watch::Receiver<Activity>, limit: Duration) {
    loop {
        let Activity {
            in_flight,
            changed_at,
        } = *activity.borrow_and_update();
        let idle = async {
            if in_flight == 0 {
                sleep_until(changed_at + limit).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = idle => return,
            // Disabled once the sender is gone: no further request can begin, so only the time matters.
            Ok(()) = activity.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_while_no_request_is_in_flight() {
        let (sender, _) = watch::channel(Activity::default());
        let limit = Duration::from_secs(10);
        let began = Instant::now();
        let first = RequestInFlight::new(&sender);
        let second = RequestInFlight::new(&sender);
        let requests = async {
            sleep(Duration::from_secs(60)).await;
            drop(first);
            sleep(Duration::from_secs(60)).await;
            drop(second);
            std::future::pending::<()>().await;
        };
        let idle = wait_until_idle(sender.subscribe(), limit);
        drop(sender);
        tokio::select! {
            () = idle => {}
            () = requests => {}
        }
        assert_eq!(began.elapsed(), Duration::from_secs(130));
    }

    #[test]
    fn ipv4_is_used_if_ipv6_is_not_available_but_not_if_the_port_is_in_use() {
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
            let result = fall_back_to_ipv4(failed(kind), || Ok("IPv4"));
            assert_eq!(result.ok(), Some("IPv4"));
        }
        for kind in [io::ErrorKind::AddrInUse, io::ErrorKind::PermissionDenied] {
            assert!(fall_back_to_ipv4(failed(kind), || Ok("IPv4")).is_err());
        }
        let result = fall_back_to_ipv4(|| Ok("both"), || Ok("IPv4"));
        assert_eq!(result.ok(), Some("both"));
    }
}
