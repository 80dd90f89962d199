//! Streams that end with their token.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty};
use tokio::runtime::{Builder, Handle};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::TokenBoundBody;
use tower_oidc_guard::testing::tokio_clock;

use crate::case::Case;
use crate::service::header;
use crate::target::target;

const STREAMS: usize = 1000;
/// Longer than the token of the case and the leeway.
const LIFETIME: Duration = Duration::from_secs(7200);

/// A body that waits for ever, and counts its copies that exist.
struct Endless(Arc<AtomicUsize>);

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// Starts streams, each read by a task as by a server, and ends them with their token. Measures the tasks that are alive beyond those,
/// meanwhile and after, and the bodies that are left. Prints the target and returns whether it is met.
pub(crate) fn measure(case: &Case) -> bool {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    let left = runtime.block_on(left_by_streams(case, &header(&case.token)));
    target("stream_end_tasks", left as f64, "tasks", 0.0)
}

async fn left_by_streams(case: &Case, authorization: &HeaderValue) -> usize {
    let guard = case.settings(1, 1).any_verified_caller();
    let guard = guard.clock(tokio_clock(SystemTime::now())).build().unwrap();
    let bodies = Arc::new(AtomicUsize::new(0));
    let count = bodies.clone();
    let service = service_fn(move |_: Request<TokenBoundBody<Empty<Bytes>>>| {
        count.fetch_add(1, Ordering::Relaxed);
        let response = Response::new(Endless(count.clone()));
        async { Ok::<_, Infallible>(response) }
    });
    let service = guard.layer().end_streams_with_token().layer(service);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut readers = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut request = Request::new(Empty::<Bytes>::new());
        let headers = request.headers_mut();
        headers.insert("authorization", authorization.clone());
        let mut response = service.clone().oneshot(request).await.unwrap();
        assert!(response.status().is_success());
        readers.push(tokio::spawn(async move {
            response.frame().await.unwrap().is_err()
        }));
    }
    tokio::task::yield_now().await;
    assert_eq!(bodies.load(Ordering::Relaxed), STREAMS);
    let meanwhile = tasks().saturating_sub(before + STREAMS);
    tokio::time::advance(LIFETIME).await;
    for reader in readers {
        assert!(reader.await.unwrap());
    }
    meanwhile + tasks().saturating_sub(before) + bodies.load(Ordering::Relaxed)
}
