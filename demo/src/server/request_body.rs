//! The body of an HTTP/1 request, of which the server reads the rest if its handler does not.
//!
//! A request can be answered before its body has arrived: by the guard, or because there is no such path. hyper then closes the
//! connection. A client that is still sending gets a reset, which can overtake the response, and one that has sent everything in
//! time finds the connection closed when it sends its next request. So the rest of the body is read and discarded, up to a limit
//! (RFC 9112, sections 9.3 and 9.6). HTTP/2 needs no such thing: the server resets the stream after the response.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The largest part of a body that is discarded, in bytes.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
/// How long the discarded part of a body may take to arrive.
const MAX_DISCARDED_TIME: Duration = Duration::from_secs(5);

/// The body of an HTTP/1 request. If it is dropped before its end, the rest is read and discarded by a task.
#[derive(Debug)]
pub(super) struct Http1RequestBody<B: Body<Data = Bytes> + Send + Unpin + 'static = Incoming> {
    /// `None` if the body has failed.
    body: Option<B>,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Http1RequestBody<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body: Some(body) }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Http1RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for Http1RequestBody<B> {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream());
        // Outside the runtime, which is shutting down then, nothing is read any longer.
        if let (Some(body), Ok(runtime)) = (unread, Handle::try_current()) {
            runtime.spawn(timeout(MAX_DISCARDED_TIME, discard(body)));
        }
    }
}

/// Reads a body up to [`MAX_DISCARDED_BYTES`]. It ends with an error if the client closes the connection.
async fn discard<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut discarded = 0;
    while discarded <= MAX_DISCARDED_BYTES {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { return };
        discarded = discarded.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// A body of parts of 1 MiB that counts the parts that are read, and waits for ever after the last one if it is not complete.
    struct Parts {
        read: Arc<AtomicUsize>,
        parts: usize,
        is_complete: bool,
        dropped: Option<tokio::sync::oneshot::Sender<()>>,
    }

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.read.load(Ordering::Relaxed) < self.parts {
                self.read.fetch_add(1, Ordering::Relaxed);
                let part = Bytes::from(vec![0; 1024 * 1024]);
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if self.is_complete {
                return Poll::Ready(None);
            }
            Poll::Pending
        }
    }

    impl Drop for Parts {
        fn drop(&mut self) {
            let _ = self.dropped.take().map(|dropped| dropped.send(()));
        }
    }

    /// Drops a body before it is read. Returns how many parts were discarded, and how long that took.
    async fn discarded(parts: usize, is_complete: bool) -> (usize, Duration) {
        let (dropped, end) = tokio::sync::oneshot::channel();
        let read = Arc::<AtomicUsize>::default();
        let body = Parts {
            read: read.clone(),
            parts,
            is_complete,
            dropped: Some(dropped),
        };
        let began = Instant::now();
        drop(Http1RequestBody::new(body));
        end.await.expect("the body is dropped");
        (read.load(Ordering::Relaxed), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_is_discarded_up_to_a_size_and_a_time() {
        assert_eq!(discarded(3, true).await, (3, Duration::ZERO));
        assert_eq!(discarded(100, true).await, (17, Duration::ZERO));
        assert_eq!(discarded(3, false).await, (3, MAX_DISCARDED_TIME));
    }

    #[test]
    fn outside_a_runtime_the_body_is_dropped() {
        let (dropped, mut end) = tokio::sync::oneshot::channel();
        let body = Parts {
            read: Arc::default(),
            parts: 1,
            is_complete: true,
            dropped: Some(dropped),
        };
        drop(Http1RequestBody::new(body));
        assert_eq!(end.try_recv(), Ok(()));
    }
}
