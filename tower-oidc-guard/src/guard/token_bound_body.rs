//! A body that ends with the token of its request.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::grpc;
use super::message_boundary::{MessageBoundary, WebEncoding};
use super::rejection_response::Description;
use crate::identity::{Expired, Identity, TokenEnd};
use crate::telemetry;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The most frames of a body that are still sent after the end of the token.
const MAX_LAST_FRAMES: usize = 16;
/// No further frame is sent after the end of the token once so many bytes are.
const MAX_LAST_BYTES: usize = 64 * 1024;

/// Which body of a request ended with its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyKind {
    /// The body of the request, which the service reads.
    Request,
    /// The body of the response.
    Response,
}

impl BodyKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// The error of a body that was ended because the token of its request is not valid any longer.
///
/// It is the error, or in its chain of sources, that a service gets when it reads the body of a request, and that a server gets
/// for the body of a response. See [`OidcGuardLayer::end_streams_with_token`](crate::OidcGuardLayer::end_streams_with_token).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {} body was ended because {end}", body.as_str())]
#[non_exhaustive]
pub struct BodyEnded {
    /// Which body it is.
    pub body: BodyKind,
    /// Why the token is not valid any longer.
    pub end: TokenEnd,
}

pin_project! {
    /// A body that ends with the token of its request: the body of a request for a service behind
    /// [`TokenBoundLayer`](super::TokenBoundLayer), or of its response.
    ///
    /// Its frames are those of the inner body. Once the token has expired, frames that the inner body has ready are still
    /// returned, up to 16 frames or 64 KiB; once it is revoked, none with data. If the inner body has not ended by that, it is
    /// dropped, and the body ends with an error, [`BodyEnded`], or with the trailers of gRPC.
    pub struct TokenBoundBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        Open {
            #[pin]
            body: B,
            // `None` for a body that does not end with a token, or that has ended.
            bound: Option<Box<Bound>>,
        },
        // The inner body is dropped.
        Ending { ending: LastItems },
    }
}

/// The token that a body ends with, and how it ends.
struct Bound {
    expired: Expired,
    ending: Ending,
}

/// How a body ends.
pub(super) enum Ending {
    /// The body of a request ends with an error, and records that.
    Request(Arc<RequestBodyState>),
    Response(ResponseEnding),
}

/// How the body of a response ends.
pub(super) struct ResponseEnding {
    pub(super) format: ResponseFormat,
    pub(super) description: Description,
    /// Whether the body of the request was ended; `None` if it has none.
    pub(super) request: Option<Arc<RequestBodyState>>,
}

/// The format of a response, which determines how its end is reported.
pub(super) enum ResponseFormat {
    /// By an error of the body.
    Http,
    /// By trailers.
    Grpc,
    /// By trailers within the body, if it is between two messages, and by an error otherwise.
    GrpcWeb(WebEncoding, MessageBoundary),
}

/// Whether and why the body of a request was ended.
#[derive(Debug, Default)]
pub(super) struct RequestBodyState(OnceLock<BodyEnded>);

impl RequestBodyState {
    fn set_ended(&self, ended: BodyEnded) {
        self.0.get_or_init(|| ended);
    }

    fn ended(&self) -> Option<BodyEnded> {
        self.0.get().copied()
    }
}

/// The frames, and the error or the trailers, that a body still returns after the end of its token.
#[derive(Default)]
struct LastItems {
    frames: VecDeque<Frame<Bytes>>,
    last: Option<Last>,
    /// Whether the server had an opportunity to send what it has before an error.
    has_yielded: bool,
}

/// The item after the last frame of the inner body.
enum Last {
    Error(BoxError),
    Frame(Frame<Bytes>),
    /// Reading the body of a request fails, which is recorded for the response.
    RequestError(Arc<RequestBodyState>, BodyEnded),
}

impl LastItems {
    fn new(frames: VecDeque<Frame<Bytes>>, last: Option<Last>) -> Self {
        Self {
            frames,
            last,
            has_yielded: false,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        // hyper discards what it has not sent yet, even the head of the response, when a body fails.
        if matches!(self.last, Some(Last::Error(_))) && !self.has_yielded {
            self.has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.last.take().map(|last| match last {
            Last::Frame(frame) => Ok(frame),
            Last::Error(error) => Err(error),
            Last::RequestError(state, ended) => {
                state.set_ended(ended);
                Err(ended.into())
            }
        }))
    }
}

impl<B> TokenBoundBody<B> {
    /// Returns a body that does not end with a token.
    pub(super) fn unbound(body: B) -> Self {
        let state = State::Open { body, bound: None };
        Self { state }
    }

    /// Returns a body that ends with the token of this identity.
    pub(super) fn bound(body: B, identity: &Identity, ending: Ending) -> Self {
        let expired = identity.expired();
        let bound = Some(Box::new(Bound { expired, ending }));
        let state = State::Open { body, bound };
        Self { state }
    }
}

/// The default inner body, which does not end with a token.
impl<B: Default> Default for TokenBoundBody<B> {
    fn default() -> Self {
        Self::unbound(B::default())
    }
}

impl<B> Body for TokenBoundBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.project().state;
        let (body, open) = match state.as_mut().project() {
            StateProj::Open { body, bound } => (body, bound),
            StateProj::Ending { ending } => return ending.poll_next(cx),
        };
        let Some(bound) = open else {
            return body.poll_frame(cx).map_err(Into::into);
        };
        let ended = bound.expired.identity().validity().remaining().err();
        let (mut body, end) = match ended {
            Some(end) => (body, end),
            None => {
                let mut body = body;
                if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                    let frame = frame.transpose().map_err(Into::into);
                    return Poll::Ready(match frame {
                        Ok(Some(frame)) => {
                            let (frame, position) = bound.ending.pass(frame);
                            if position == Position::Ended {
                                *open = None;
                            }
                            Some(Ok(frame))
                        }
                        Ok(None) => {
                            *open = None;
                            None
                        }
                        Err(error) => {
                            let last = bound.ending.failed(error);
                            state.set(State::Ending {
                                ending: LastItems::default(),
                            });
                            Some(last)
                        }
                    });
                }
                match Pin::new(&mut bound.expired).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(end) => (body, end),
                }
            }
        };
        let mut ending = bound.last_items(body.as_mut(), end, cx);
        let first = ending.poll_next(cx);
        state.set(State::Ending { ending });
        first
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open { body, .. } => body.is_end_stream(),
            State::Ending { ending } => ending.frames.is_empty() && ending.last.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Open { body, bound } => match bound {
                // The body may end with less data, without an error.
                Some(bound) if bound.ending.is_grpc() && !body.is_end_stream() => {
                    SizeHint::default()
                }
                _ => body.size_hint(),
            },
            State::Ending { ending } if ending.last.is_none() => {
                let data = ending.frames.iter().filter_map(Frame::data_ref);
                SizeHint::with_exact(data.map(|data| data.len() as u64).sum())
            }
            State::Ending { .. } => SizeHint::default(),
        }
    }
}

impl Bound {
    /// Returns the frames that a body has ready after the end of its token, and what comes after them.
    fn last_items<B>(
        &mut self,
        mut body: Pin<&mut B>,
        end: TokenEnd,
        cx: &mut Context<'_>,
    ) -> LastItems
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (mut frames, mut bytes) = (VecDeque::new(), 0);
        loop {
            if body.is_end_stream() {
                return LastItems::new(frames, None);
            }
            if frames.len() >= MAX_LAST_FRAMES || bytes >= MAX_LAST_BYTES {
                break;
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending if self.ending.has_trailers() => return LastItems::new(frames, None),
                Poll::Pending => break,
                Poll::Ready(None) => return LastItems::new(frames, None),
                Poll::Ready(Some(Err(error))) if !self.ending.is_grpc() => {
                    return LastItems::new(frames, Some(Last::Error(error.into())));
                }
                Poll::Ready(Some(Err(_))) => break,
                // Data for the caller of a revoked token is not sent, but its end may have been reached.
                Poll::Ready(Some(Ok(frame))) if end == TokenEnd::Revoked && frame.is_data() => {
                    break;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let (frame, position) = self.ending.pass(frame);
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    let is_trailers = frame.is_trailers();
                    frames.push_back(frame);
                    if position == Position::Ended && is_trailers {
                        return LastItems::new(frames, None);
                    }
                }
            }
        }
        let identity = self.expired.identity();
        telemetry::record_stream_ended(identity, self.ending.body(), end);
        LastItems::new(frames, Some(self.ending.last(end)))
    }
}

/// Whether a body can go on after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Open,
    /// The frame contains trailers.
    Ended,
}

impl Ending {
    fn body(&self) -> BodyKind {
        match self {
            Self::Request(_) => BodyKind::Request,
            Self::Response(_) => BodyKind::Response,
        }
    }

    /// Returns whether the body may end with trailers that the inner body does not have.
    fn is_grpc(&self) -> bool {
        match self {
            Self::Request(_) => false,
            Self::Response(response) => response.is_grpc(),
        }
    }

    /// Returns whether the trailers within a body have begun.
    fn has_trailers(&self) -> bool {
        match self {
            Self::Response(ResponseEnding {
                format: ResponseFormat::GrpcWeb(_, boundary),
                ..
            }) => boundary.has_trailers(),
            _ => false,
        }
    }

    /// Prepares a frame of the inner body.
    fn pass(&mut self, mut frame: Frame<Bytes>) -> (Frame<Bytes>, Position) {
        let response = match self {
            Self::Response(response) => response,
            Self::Request(_) if frame.is_trailers() => return (frame, Position::Ended),
            Self::Request(_) => return (frame, Position::Open),
        };
        if let Some(trailers) = frame.trailers_mut() {
            response.correct_status(trailers);
            return (frame, Position::Ended);
        }
        if let ResponseFormat::GrpcWeb(_, boundary) = &mut response.format
            && let Some(data) = frame.data_ref()
        {
            boundary.advance(data);
            if boundary.has_trailers() {
                return (frame, Position::Ended);
            }
        }
        (frame, Position::Open)
    }

    /// Returns the end of a body whose token is not valid any longer.
    fn last(&self, end: TokenEnd) -> Last {
        let body = self.body();
        let ended = BodyEnded { body, end };
        match self {
            Self::Request(state) => Last::RequestError(state.clone(), ended),
            Self::Response(response) => match response.trailers(&ended) {
                Some(trailers) => Last::Frame(trailers),
                None => Last::Error(ended.into()),
            },
        }
    }

    /// Returns the last item of a body that has failed: the service may have passed on that the body of the request was ended.
    fn failed(&self, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        let Self::Response(response) = self else {
            return Err(error);
        };
        let ended = response
            .request
            .as_ref()
            .and_then(|request| request.ended());
        let trailers = ended.and_then(|ended| response.trailers(&ended));
        trailers.ok_or(error)
    }
}

impl ResponseEnding {
    pub(super) fn is_grpc(&self) -> bool {
        !matches!(self.format, ResponseFormat::Http)
    }

    /// Returns trailers that report the end, or `None` if the response has another format or trailers cannot follow here.
    fn trailers(&self, ended: &BodyEnded) -> Option<Frame<Bytes>> {
        let trailers = || grpc::unauthenticated_trailers(ended, self.description);
        match &self.format {
            ResponseFormat::Http => None,
            ResponseFormat::Grpc => Some(Frame::trailers(trailers())),
            ResponseFormat::GrpcWeb(encoding, boundary) => boundary
                .is_between_messages()
                .then(|| Frame::data(grpc::web_trailers(&trailers(), *encoding))),
        }
    }

    /// Replaces the status of a call that has failed after the body of its request was ended: the service knows only that it
    /// could not read the body.
    pub(super) fn correct_status(&self, headers: &mut HeaderMap) {
        let was_ended = self.request.as_ref().and_then(|request| request.ended());
        if let Some(ended) = was_ended
            && grpc::has_failed(headers)
        {
            let replaced = grpc::unauthenticated_trailers(&ended, self.description);
            grpc::replace_status(headers, replaced);
        }
    }
}

impl<B> fmt::Debug for TokenBoundBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Open { bound: None, .. } => "unbound",
            State::Open { .. } => "open",
            State::Ending { .. } => "ending",
        };
        f.debug_struct("TokenBoundBody")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;
    use std::time::Duration;

    use http_body_util::{BodyExt as _, Full};

    use super::*;
    use crate::revocation::Revocation;
    use crate::testing::TestIdentity;

    /// A body that waits for ever.
    #[derive(Debug)]
    struct Endless;

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

    fn response(format: ResponseFormat) -> Ending {
        Ending::Response(ResponseEnding {
            format,
            description: Description::Sent,
            request: None,
        })
    }

    fn revocable() -> (Revocation, Identity) {
        let revocation = Revocation::new();
        let caller = TestIdentity::kubernetes("shop", "web").build();
        (revocation.clone(), caller.revocable(revocation))
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_fails_once_its_token_is_revoked() {
        let (revocation, caller) = revocable();
        let mut body = TokenBoundBody::bound(Endless, &caller, response(ResponseFormat::Http));
        let revoke = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            revocation.revoke();
        };
        let began = tokio::time::Instant::now();
        let (frame, ()) = tokio::join!(body.frame(), revoke);
        assert!(began.elapsed() < Duration::from_millis(5010));
        let error = frame.expect("no end").expect_err("an error");
        assert_eq!(
            error.to_string(),
            "the response body was ended because the token was revoked"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_response_and_a_request_end_once_their_token_is_revoked() {
        let (revocation, caller) = revocable();
        let mut called = TokenBoundBody::bound(Endless, &caller, response(ResponseFormat::Grpc));
        let state = Arc::<RequestBodyState>::default();
        let request = Ending::Request(state.clone());
        let mut request = TokenBoundBody::bound(Endless, &caller, request);
        revocation.revoke();
        let trailers = called.frame().await.expect("trailers").expect("no error");
        let trailers = trailers.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "16");
        assert_eq!(
            trailers["grpc-message"],
            "the response body was ended because the token was revoked"
        );
        request
            .frame()
            .await
            .expect("no end")
            .expect_err("an error");
        let ended = state.ended().expect("it was ended");
        assert_eq!(
            (ended.body, ended.end),
            (BodyKind::Request, TokenEnd::Revoked)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_watched_as_long_as_one_of_its_streams_is_open() {
        let (revocation, caller) = revocable();
        assert!(!revocation.is_watched());
        let first = TokenBoundBody::bound(Endless, &caller, response(ResponseFormat::Http));
        let mut second = TokenBoundBody::bound(
            Full::new(Bytes::from_static(b"text")),
            &caller,
            response(ResponseFormat::Http),
        );
        drop(first);
        assert!(revocation.is_watched());
        // The end of a body ends the watch, whether the body is dropped or not.
        second.frame().await.expect("data").expect("no error");
        assert!(second.frame().await.is_none());
        assert!(!revocation.is_watched());
        let expired = caller.expired();
        assert!(revocation.is_watched());
        revocation.revoke();
        assert_eq!(expired.await, TokenEnd::Revoked);
        assert!(!revocation.is_watched());
    }

    #[tokio::test(start_paused = true)]
    async fn a_complete_response_creates_no_timer() {
        let (_, caller) = revocable();
        let text = Full::new(Bytes::from_static(b"text"));
        let mut body = TokenBoundBody::bound(text, &caller, response(ResponseFormat::Http));
        let has_timer = |state: &State<Full<Bytes>>| match state {
            State::Open { bound, .. } => bound.as_ref().map(|bound| bound.expired.has_timer()),
            State::Ending { .. } => None,
        };
        body.frame().await.expect("data").expect("no error");
        assert_eq!(has_timer(&body.state), Some(false));
        let mut waiting = TokenBoundBody::bound(Endless, &caller, response(ResponseFormat::Http));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut waiting).poll_frame(&mut cx).is_pending());
        let State::Open {
            bound: Some(bound), ..
        } = &waiting.state
        else {
            panic!("{waiting:?}");
        };
        assert!(bound.expired.has_timer());
    }
}
