//! A copy of a request, which is kept in order to send the request once more.

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Request, Response, Url};

/// A copy of a request.
///
/// Nearly all copies are dropped without being sent, so a copy has to be cheap, and sending it need not be. Cloning the map of
/// the headers allocates twice for the map, and once more for each name and value that was not cloned before. Here the
/// headers are copied to one buffer, and the map is built when the copy is sent. All other parts, which include extensions that
/// only reqwest can read, are cloned by reqwest.
pub(super) struct KeptRequest {
    /// The request without headers.
    request: Request,
    headers: KeptHeaders,
}

impl KeptRequest {
    /// Copies a request. Returns `None` if its body is a stream, which cannot be sent twice.
    ///
    /// Call it before the token is attached, so that the copy does not contain the token.
    pub(super) fn copy(request: &mut Request) -> Option<Self> {
        let headers = std::mem::take(request.headers_mut());
        let copy = request.try_clone();
        *request.headers_mut() = headers;
        Some(Self {
            request: copy?,
            headers: KeptHeaders::copy(request.headers()),
        })
    }

    pub(super) fn url(&self) -> &Url {
        self.request.url()
    }

    /// Returns whether a response is to this request, rather than to one that a redirect has led to.
    ///
    /// A response from another origin never is: it must not receive the newer token, nor cause a refresh. Another URL of the same origin
    /// is either that of a redirect or that of middleware, which cannot be distinguished. It counts as an answer only if it makes no
    /// difference to the server that the request is sent again (RFC 9110, section 9.2.1): a redirect after a POST usually means that the
    /// server has done what was requested.
    pub(super) fn is_answered_by(&self, response: &Response) -> bool {
        let (sent, answered) = (self.request.url(), response.url());
        without_fragment(answered) == without_fragment(sent)
            || (self.request.method().is_safe() && answered.origin() == sent.origin())
    }

    /// Returns the request as it was copied, or `None` if a header cannot be restored, which cannot occur.
    pub(super) fn into_request(mut self) -> Option<Request> {
        *self.request.headers_mut() = self.headers.restore()?;
        Some(self.request)
    }
}

/// Returns a URL as it is sent, and as reqwest states it for a response.
fn without_fragment(url: &Url) -> Option<&str> {
    url.as_str().split('#').next()
}

/// The names and values of headers in order.
struct KeptHeaders {
    /// For each header the lengths of its name and its value, and both. The value is missing if it is shared.
    buffer: Vec<u8>,
    /// The values that are shared with the request instead of copied.
    shared: Vec<HeaderValue>,
}

/// The length of a value that is not in the buffer.
const SHARED: usize = usize::MAX;
/// The bytes of a length in the buffer.
const LENGTH: usize = size_of::<usize>();
/// Values of this length or more are shared: copying them takes longer than sharing them.
const MIN_SHARED: usize = 512;
/// The bytes of a usual header in the buffer, which grows for longer ones.
const USUAL: usize = 80;

impl KeptHeaders {
    fn copy(headers: &HeaderMap) -> Self {
        let mut buffer = Vec::with_capacity(headers.len() * USUAL);
        let mut shared = Vec::new();
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            let (mut copied, mut length) = (value.as_bytes(), value.len());
            // A secret is not copied to memory that is not wiped.
            if length >= MIN_SHARED || value.is_sensitive() {
                shared.push(value.clone());
                (copied, length) = (&[], SHARED);
            }
            buffer.reserve(2 * LENGTH + name.len() + copied.len());
            buffer.extend_from_slice(&name.len().to_ne_bytes());
            buffer.extend_from_slice(&length.to_ne_bytes());
            buffer.extend_from_slice(name);
            buffer.extend_from_slice(copied);
        }
        Self { buffer, shared }
    }

    /// Returns `None` if the buffer is not valid, which cannot occur.
    fn restore(self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        let (mut rest, mut shared) = (self.buffer.as_slice(), self.shared.into_iter());
        while !rest.is_empty() {
            let (name_length, value_length) = (take_length(&mut rest)?, take_length(&mut rest)?);
            let name = HeaderName::from_bytes(take(&mut rest, name_length)?).ok()?;
            let value = match value_length {
                SHARED => shared.next()?,
                length => HeaderValue::from_bytes(take(&mut rest, length)?).ok()?,
            };
            headers.try_append(name, value).ok()?;
        }
        Some(headers)
    }
}

/// Removes bytes from the front.
fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (front, back) = rest.split_at_checked(length)?;
    *rest = back;
    Some(front)
}

/// Removes a length from the front.
fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, LENGTH)?;
    Some(usize::from_ne_bytes(bytes.try_into().ok()?))
}
