//! A metadata server of one's own.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::answer::{self, FLAVOR, GOOGLE};

/// What is wrong with a fake metadata server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It answers this status, as the real one does in the first seconds of a pod: 404, 403, 503.
    Status(StatusCode),
    /// It answers nothing, and keeps the connection.
    Silent,
    /// It answers without `Metadata-Flavor: Google`, as something else would.
    NoFlavor,
    /// It answers with a redirect.
    Redirect,
    /// It answers with what is no token.
    Garbage,
}

/// A fake of Google's metadata server, on loopback. Its tokens are not signed by anybody, unless
/// [`mint_with`](Self::mint_with) says by whom.
///
/// It stops when dropped.
pub struct FakeMetadataServer {
    host: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

type Mint = Box<dyn Fn(&str) -> String + Send + Sync>;

#[derive(Default)]
struct State {
    requests: AtomicU64,
    fault: Mutex<Option<Fault>>,
    mint: Mutex<Option<Mint>>,
}

const LIFETIME: Duration = Duration::from_secs(3600);

impl FakeMetadataServer {
    /// Starts a server on 127.0.0.1, on a port of the system's choice. Spawns a task on the current tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let host = listener.local_addr()?.to_string();
        let state = Arc::<State>::default();
        let server = tokio::spawn(serve(listener, state.clone()));
        Ok(Self {
            host,
            state,
            server,
        })
    }

    /// Host and port: what `GCE_METADATA_HOST` would say.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Has this fault from now on, or none.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *self
            .state
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Answers with the tokens that this function makes for an audience.
    pub fn mint_with(&self, mint: impl Fn(&str) -> String + Send + Sync + 'static) {
        *self
            .state
            .mint
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Box::new(mint));
    }

    /// Answers with tokens of that life, in whole seconds. Default: an hour.
    pub fn set_lifetime(&self, lifetime: Duration) {
        let count = AtomicU64::new(0);
        self.mint_with(move |audience| {
            answer::token(audience, lifetime, count.fetch_add(1, Ordering::Relaxed))
        });
    }
}

impl Drop for FakeMetadataServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for FakeMetadataServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeMetadataServer")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, state.clone()));
            // A client that hangs up is no concern of the server's.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let count = state.requests.fetch_add(1, Ordering::SeqCst);
    let fault = *state.fault.lock().unwrap_or_else(PoisonError::into_inner);
    let mint = |audience: String| match &*state.mint.lock().unwrap_or_else(PoisonError::into_inner)
    {
        Some(mint) => mint(&audience),
        None => answer::token(&audience, LIFETIME, count),
    };
    let (status, body) = match (fault, answer::audience(&request)) {
        (Some(Fault::Silent), _) => std::future::pending().await,
        (Some(Fault::Status(status)), _) | (_, Err(status)) => (status, String::new()),
        (Some(Fault::Redirect), _) => (StatusCode::FOUND, String::new()),
        (Some(Fault::Garbage), _) => (StatusCode::OK, "<html>".to_owned()),
        (_, Ok(audience)) => (StatusCode::OK, mint(audience)),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if fault != Some(Fault::NoFlavor) {
        headers.insert(FLAVOR, HeaderValue::from_static(GOOGLE));
    }
    if fault == Some(Fault::Redirect) {
        headers.insert(
            "location",
            HeaderValue::from_static("http://127.0.0.1:1/elsewhere"),
        );
    }
    Ok(response)
}
