//! A fake of Google's metadata server.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

use super::answer::{self, FLAVOR, IdentityRequest};

/// A fault that a [`FakeMetadataServer`] shows on every request, whatever it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Responds with this status, as the real server does in the first seconds of a pod: 404, 403, 503.
    Status(StatusCode),
    /// Keeps the connection open and does not respond.
    Silent,
    /// Responds without `Metadata-Flavor: Google`, as any other server would.
    NoFlavor,
    /// Responds with a redirect to another host.
    Redirect,
    /// Responds 200 with a body that is not a token.
    Garbage,
}

/// A fake of Google's metadata server, on loopback. It stops when dropped.
///
/// Its tokens have the claims of real ones, and a signature of the right size that is not valid, unless
/// [`set_token_fn`](Self::set_token_fn) provides others.
///
/// # What it is held against
///
/// As documented by Google ([query VM metadata], [verify VM identity]):
///
/// - A request needs `Metadata-Flavor: Google`, and is refused with 403 if it has `X-Forwarded-For`.
/// - The metadata is a tree. A path that ends in `/` lists a directory, with `/` behind the names of directories.
///   `recursive=true` returns everything below it as JSON, or as text with `alt=text`; `alt=json` returns one value as JSON.
/// - `identity` requires `audience`. `format` is `standard` (the default) or `full`; only `full` adds the claims `email`,
///   `email_verified` and `google.compute_engine`, and `licenses=TRUE` adds `license_id` to the last.
///
/// As recorded from real servers in public bug reports, from 2017 to 2020:
///
/// - Every response has `Metadata-Flavor: Google`, `Server: Metadata Server for VM`, `X-XSS-Protection` and
///   `X-Frame-Options`. Values and listings are `application/text` with an `ETag` of 16 hexadecimal digits.
/// - A directory without its slash is redirected with 301 to an absolute URL that keeps the query; `text/html`, with the
///   new path as body. Error pages are HTML; that of a missing flavor header names the path and the header.
/// - `/` is served without the flavor header, to be detected by.
///
/// Known only from other emulators, or from what clients expect: `identity` is `text/html` and has no `ETag`, its body
/// has no trailing newline ([`append_to_tokens`](Self::append_to_tokens) adds one), and without an audience it responds
/// 400 with `non-empty audience parameter required`.
///
/// Not known: the bodies of 404, 405 and of an unknown `format` (400 here), the response to `HEAD` and to other methods
/// than `GET` (405 here, with `Allow`), which check comes first. Stricter than the real server: the older header
/// `X-Google-Metadata-Request` is not accepted. Left out: most entries, `wait_for_change`, guest attributes.
///
/// [query VM metadata]: https://cloud.google.com/compute/docs/metadata/querying-metadata
/// [verify VM identity]: https://cloud.google.com/compute/docs/instances/verifying-instance-identity
pub struct FakeMetadataServer {
    host: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

type Mint = Box<dyn Fn(&IdentityRequest) -> String + Send + Sync>;

#[derive(Default)]
struct State {
    requests: AtomicU64,
    fault: Mutex<Option<Fault>>,
    mint: Mutex<Option<Mint>>,
    token_suffix: Mutex<String>,
}

const LIFETIME: Duration = Duration::from_secs(3600);

impl FakeMetadataServer {
    /// Starts a server on 127.0.0.1, on a port that the system chooses. Spawns a task on the current tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the server cannot listen.
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

    /// Returns host and port, as in `GCE_METADATA_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Sets the fault shown from now on; `None` ends it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *lock(&self.state.fault) = fault;
    }

    /// Sets the function that makes the token for an audience, whatever the `format`.
    pub fn set_token_fn(&self, mint: impl Fn(&str) -> String + Send + Sync + 'static) {
        *lock(&self.state.mint) = Some(Box::new(move |request| mint(&request.audience)));
    }

    /// Sets the lifetime of tokens, in whole seconds. Default: an hour.
    pub fn set_lifetime(&self, lifetime: Duration) {
        let count = AtomicU64::new(0);
        *lock(&self.state.mint) = Some(Box::new(move |request| {
            answer::token(request, lifetime, count.fetch_add(1, Ordering::Relaxed))
        }));
    }

    /// Sets a text that follows each token in the response, such as a newline. Default: none.
    pub fn append_to_tokens(&self, suffix: &str) {
        suffix.clone_into(&mut lock(&self.state.token_suffix));
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
            // It does not matter to the server whether the client hangs up.
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
    let fault = *lock(&state.fault);
    let mint = |request: &IdentityRequest| {
        let token = match &*lock(&state.mint) {
            Some(mint) => mint(request),
            None => answer::token(request, LIFETIME, count),
        };
        format!("{token}{}", lock(&state.token_suffix))
    };
    let mut response = match fault {
        None | Some(Fault::NoFlavor) => answer::respond(&request, mint),
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Status(status)) => answer::response(status, "text/html", String::new()),
        Some(Fault::Garbage) => answer::response(StatusCode::OK, "text/html", "<html>".to_owned()),
        Some(Fault::Redirect) => {
            let mut response = answer::response(StatusCode::FOUND, "text/html", String::new());
            let elsewhere = HeaderValue::from_static("http://127.0.0.1:1/elsewhere");
            response.headers_mut().insert("location", elsewhere);
            response
        }
    };
    if fault == Some(Fault::NoFlavor) {
        response.headers_mut().remove(FLAVOR);
    }
    Ok(response)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
