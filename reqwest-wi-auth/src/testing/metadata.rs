//! A fake of Google's metadata server.

mod responses;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};

use self::responses::{FLAVOR, IdentityRequest};
use super::http_server::{Answer, HttpServer};

/// A fault of a [`FakeMetadataServer`]. It affects every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Responds with this status. The real server responds with 404, 403 or 503 in the first seconds of a pod.
    Status(StatusCode),
    /// Accepts connections, but does not respond.
    NoResponse,
    /// Responds without `Metadata-Flavor: Google`, like a server that is not the metadata server.
    MissingFlavor,
    /// Responds with a redirect to another host.
    Redirect,
    /// Responds with 200 and a body that is not a token.
    InvalidToken,
}

/// A fake of Google's metadata server, on loopback. It stops when it is dropped.
///
/// Its tokens have the claims of real ones, and a signature that has the length of a valid one but is not valid, unless
/// [`set_token_fn`](Self::set_token_fn) is called.
///
/// # Behavior and its sources
///
/// As documented by Google ([query VM metadata], [verify VM identity]):
///
/// - A request requires `Metadata-Flavor: Google`, and is rejected with 403 if it has `X-Forwarded-For`.
/// - The metadata is a tree. A path that ends with `/` lists a directory; the names of directories in it end with `/`.
///   `recursive=true` returns everything below it as JSON, or as text with `alt=text`. `alt=json` returns one value as
///   JSON.
/// - `identity` requires `audience`. `format` is `standard` (the default) or `full`. Only `full` adds the claims `email`,
///   `email_verified` and `google.compute_engine`; `licenses=TRUE` adds `license_id` to the last one.
///
/// As recorded from real servers in public bug reports, from 2017 to 2020:
///
/// - Every response has `Metadata-Flavor: Google`, `Server: Metadata Server for VM`, `X-XSS-Protection` and
///   `X-Frame-Options`. Values and listings are `application/text` with an `ETag` of 16 hexadecimal digits.
/// - A path of a directory without the final slash is redirected with 301 to an absolute URL that keeps the query; the
///   body is `text/html` and contains the new path. Error pages are HTML. The one for a missing flavor header contains the
///   path and the header.
/// - `/` does not require the flavor header, since clients use it to detect the server.
///
/// Known only from other emulators, or from what clients expect: `identity` is `text/html` without an `ETag`, its body has
/// no trailing newline ([`set_token_suffix`](Self::set_token_suffix) adds one), and without an audience it responds with
/// 400 and `non-empty audience parameter required`.
///
/// Not known: the bodies of 404, 405 and of an unknown `format` (400 here), the response to `HEAD` and to methods other
/// than `GET` (405 with `Allow` here), and which check comes first.
///
/// # Differences from the real server
///
/// The fake does not accept the older header `X-Google-Metadata-Request`. It lacks most entries, `wait_for_change` and guest
/// attributes.
///
/// [query VM metadata]: https://cloud.google.com/compute/docs/metadata/querying-metadata
/// [verify VM identity]: https://cloud.google.com/compute/docs/instances/verifying-instance-identity
pub struct FakeMetadataServer {
    host: String,
    state: Arc<State>,
    server: HttpServer,
}

type TokenFn = Box<dyn Fn(&IdentityRequest) -> String + Send + Sync>;

#[derive(Default)]
struct State {
    /// The number of tokens so far.
    tokens: AtomicU64,
    fault: Mutex<Option<Fault>>,
    token_fn: Mutex<Option<TokenFn>>,
    token_suffix: Mutex<String>,
}

const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

impl FakeMetadataServer {
    /// Starts a server on 127.0.0.1, on a port that the operating system chooses. Spawns a task on the current tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the server cannot listen.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, or if the I/O of the runtime is not enabled.
    pub async fn start() -> io::Result<Self> {
        let state = Arc::<State>::default();
        let for_requests = state.clone();
        let server =
            HttpServer::start(move |request| handle(request, for_requests.clone())).await?;
        Ok(Self {
            host: server.host(),
            state,
            server,
        })
    }

    /// Returns the host and port, for [`MetadataServer::with_host`](crate::MetadataServer::with_host) or the environment
    /// variable `GCE_METADATA_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the number of requests so far.
    pub fn request_count(&self) -> u64 {
        self.server.request_count()
    }

    /// Sets the fault of further responses, or none.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *lock(&self.state.fault) = fault;
    }

    /// Sets the function that returns the token for an audience. Default: a token with the claims of Google's tokens, and
    /// an invalid signature.
    pub fn set_token_fn(&self, token: impl Fn(&str) -> String + Send + Sync + 'static) {
        *lock(&self.state.token_fn) = Some(Box::new(move |request| token(&request.audience)));
    }

    /// Sets the lifetime of tokens. Default: 1 h. Fractions of a second are ignored.
    ///
    /// Replaces a function set by [`set_token_fn`](Self::set_token_fn).
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        let count = AtomicU64::new(0);
        *lock(&self.state.token_fn) = Some(Box::new(move |request| {
            responses::identity_token(request, lifetime, count.fetch_add(1, Ordering::Relaxed))
        }));
    }

    /// Sets a text that follows each token in the response, such as a newline. Default: none.
    pub fn set_token_suffix(&self, suffix: &str) {
        suffix.clone_into(&mut lock(&self.state.token_suffix));
    }
}

impl fmt::Debug for FakeMetadataServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeMetadataServer")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

async fn handle(request: Request<Bytes>, state: Arc<State>) -> Answer {
    let fault = *lock(&state.fault);
    let create_token = |request: &IdentityRequest| {
        let token = match &*lock(&state.token_fn) {
            Some(token_fn) => token_fn(request),
            None => {
                let count = state.tokens.fetch_add(1, Ordering::Relaxed);
                responses::identity_token(request, DEFAULT_LIFETIME, count)
            }
        };
        format!("{token}{}", lock(&state.token_suffix))
    };
    let html = |status, body: &str| responses::response(status, "text/html", body.to_owned());
    let mut response = match fault {
        None | Some(Fault::MissingFlavor) => responses::respond(&request, create_token),
        Some(Fault::NoResponse) => std::future::pending().await,
        Some(Fault::Status(status)) => html(status, ""),
        Some(Fault::InvalidToken) => html(StatusCode::OK, "<html>"),
        Some(Fault::Redirect) => {
            let mut response = html(StatusCode::FOUND, "");
            let location = HeaderValue::from_static("http://127.0.0.1:1/other-host");
            response.headers_mut().insert("location", location);
            response
        }
    };
    if fault == Some(Fault::MissingFlavor) {
        response.headers_mut().remove(FLAVOR);
    }
    Ok(response)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
