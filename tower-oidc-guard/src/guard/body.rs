//! The body of a guarded service's response.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a guarded service's response: that of the inner service, or the text of a rejection.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Service { #[pin] body: B },
        Guard { text: Option<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn service(body: B) -> Self {
        Self {
            kind: Kind::Service { body },
        }
    }

    /// Creates the body of a rejection. An empty text ends the stream at once, so a server sends only headers, with END_STREAM.
    pub(super) fn guard(text: Bytes) -> Self {
        let text = Some(text).filter(|text| !text.is_empty());
        Self {
            kind: Kind::Guard { text },
        }
    }
}

/// The default body of the inner service, as layers create it that respond in place of the service, such as tower-http's
/// `TimeoutLayer`.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::service(B::default())
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Service { body } => body.poll_frame(cx),
            KindProj::Guard { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Service { body } => body.is_end_stream(),
            Kind::Guard { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Service { body } => body.size_hint(),
            Kind::Guard { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};

    use super::*;

    #[tokio::test]
    async fn an_empty_body_ends_before_the_first_frame() {
        let mut body = ResponseBody::<Empty<Bytes>>::guard(Bytes::new());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn the_default_body_is_that_of_the_inner_service() {
        let mut body = ResponseBody::<Empty<Bytes>>::default();
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        let text = ResponseBody::<String>::default();
        assert_eq!(text.size_hint().exact(), Some(0));
    }

    #[tokio::test]
    async fn text_is_one_frame_of_its_length() {
        let mut body = ResponseBody::<Empty<Bytes>>::guard(Bytes::from_static(b"text"));
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(4));
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "text");
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.frame().await.is_none());
    }
}
