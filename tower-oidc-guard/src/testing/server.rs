//! Serves HTTP/1.1 connections for the fakes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The longest request body that a fake reads.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The time to wait before a response that has this extension is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseDelay(pub(super) Duration);

/// Returns the response to a request whose body has been read.
pub(super) type Respond = dyn Fn(Request<Bytes>) -> Response<String> + Send + Sync;

/// Serves until the task is aborted, which also closes every connection, as the end of a process does.
///
/// `acceptor` returns the TLS settings for a new connection, or `None` for plain HTTP.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: impl Fn() -> Option<TlsAcceptor> + Send + 'static,
    respond: Arc<Respond>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else { return };
        let (acceptor, respond) = (acceptor(), respond.clone());
        connections.spawn(async move {
            match acceptor {
                None => serve_connection(stream, respond).await,
                Some(acceptor) => {
                    // A client that does not trust the certificate ends the handshake.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve_connection(stream, respond).await;
                    }
                }
            }
        });
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, respond: Arc<Respond>) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let respond = respond.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
            let body = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
            let mut response = respond(Request::from_parts(parts, body));
            if let Some(ResponseDelay(delay)) = response.extensions_mut().remove() {
                tokio::time::sleep(delay).await;
            }
            Ok::<_, Infallible>(response.map(|body| Full::new(Bytes::from(body))))
        }
    });
    // A client may hang up at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
