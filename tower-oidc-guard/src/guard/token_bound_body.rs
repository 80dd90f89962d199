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
    /// Its frames are those of the inner body. Once the token is not valid any longer, up to 16 frames that the inner body has
    /// ready are still returned, unless they have 64 KiB before. If the inner body has not ended by that, it is dropped, and the body
    /// ends with an error, [`BodyEnded`], or with the trailers of gRPC.
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
        Ending { frames: VecDeque<Frame<Bytes>>, last: Option<Last> },
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

/// The item after the last frame of the inner body.
enum Last {
    Error(BoxError),
    Frame(Frame<Bytes>),
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
            StateProj::Ending { frames, last } => return Poll::Ready(next_of(frames, last)),
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
                        other => {
                            *open = None;
                            other.transpose()
                        }
                    });
                }
                match Pin::new(&mut bound.expired).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(end) => (body, end),
                }
            }
        };
        let (mut frames, mut last) = bound.last_frames(body.as_mut(), end, cx);
        let first = next_of(&mut frames, &mut last);
        state.set(State::Ending { frames, last });
        Poll::Ready(first)
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open { body, .. } => body.is_end_stream(),
            State::Ending { frames, last } => frames.is_empty() && last.is_none(),
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
            State::Ending { frames, last: None } => {
                let data = frames.iter().filter_map(Frame::data_ref);
                SizeHint::with_exact(data.map(|data| data.len() as u64).sum())
            }
            State::Ending { .. } => SizeHint::default(),
        }
    }
}

fn next_of(
    frames: &mut VecDeque<Frame<Bytes>>,
    last: &mut Option<Last>,
) -> Option<Result<Frame<Bytes>, BoxError>> {
    if let Some(frame) = frames.pop_front() {
        return Some(Ok(frame));
    }
    Some(match last.take()? {
        Last::Frame(frame) => Ok(frame),
        Last::Error(error) => Err(error),
    })
}

impl Bound {
    /// Returns the frames that a body has ready after the end of its token, and what comes after them.
    fn last_frames<B>(
        &mut self,
        mut body: Pin<&mut B>,
        end: TokenEnd,
        cx: &mut Context<'_>,
    ) -> (VecDeque<Frame<Bytes>>, Option<Last>)
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (mut frames, mut bytes) = (VecDeque::new(), 0);
        loop {
            if body.is_end_stream() {
                return (frames, None);
            }
            if frames.len() >= MAX_LAST_FRAMES || bytes >= MAX_LAST_BYTES {
                break;
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => return (frames, None),
                Poll::Ready(Some(Err(error))) => return (frames, Some(Last::Error(error.into()))),
                Poll::Ready(Some(Ok(frame))) => {
                    let (frame, position) = self.ending.pass(frame);
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    frames.push_back(frame);
                    if position == Position::Ended && !self.ending.is_grpc_web() {
                        return (frames, None);
                    }
                }
            }
        }
        let identity = self.expired.identity();
        telemetry::record_stream_ended(identity, self.ending.body(), end);
        (frames, Some(self.ending.last(end)))
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

    fn is_grpc_web(&self) -> bool {
        match self {
            Self::Request(_) => false,
            Self::Response(response) => matches!(response.format, ResponseFormat::GrpcWeb(..)),
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
        let response = match self {
            Self::Request(state) => {
                state.set_ended(ended);
                return Last::Error(ended.into());
            }
            Self::Response(response) => response,
        };
        let trailers = || grpc::unauthenticated_trailers(&ended, response.description);
        match &response.format {
            ResponseFormat::Grpc => Last::Frame(Frame::trailers(trailers())),
            ResponseFormat::GrpcWeb(encoding, boundary) if boundary.is_between_messages() => {
                let frame = grpc::web_trailers(&trailers(), *encoding);
                Last::Frame(Frame::data(frame))
            }
            ResponseFormat::GrpcWeb(..) | ResponseFormat::Http => Last::Error(ended.into()),
        }
    }
}

impl ResponseEnding {
    pub(super) fn is_grpc(&self) -> bool {
        !matches!(self.format, ResponseFormat::Http)
    }

    /// Replaces the status of a call that has failed after the body of its request was ended: the service knows only that it
    /// could not read the body.
    pub(super) fn correct_status(&self, headers: &mut HeaderMap) {
        let was_ended = self.request.as_ref().and_then(|request| request.ended());
        if let Some(ended) = was_ended
            && matches!(self.format, ResponseFormat::Grpc)
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
