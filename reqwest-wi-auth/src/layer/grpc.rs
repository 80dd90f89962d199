//! The gRPC response to a call that was not made for want of a token.

use std::any::Any;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tonic::Status;

use crate::error::Error;

/// Returns whether a request is a gRPC call.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Returns the error as a response, if `R` is the response type of a tonic `Channel`. An error would reach the caller as
/// `Code::Unknown`.
pub(super) fn response<R: 'static>(error: &Error) -> Option<R> {
    let response = Status::from(error.clone()).into_http::<tonic::body::Body>();
    let mut response = Some(response);
    let response = (&mut response as &mut dyn Any).downcast_mut::<Option<R>>()?;
    response.take()
}

/// `Unavailable` if the error is [transient](Error::is_transient), otherwise `Unauthenticated`.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = format!("the call was not sent: {error}");
        let mut status = match error.is_transient() {
            true => Self::unavailable(message),
            false => Self::unauthenticated(message),
        };
        status.set_source(std::sync::Arc::new(error));
        status
    }
}
