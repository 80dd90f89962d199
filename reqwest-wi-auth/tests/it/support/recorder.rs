//! A tower client without a network that records the tokens of requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use tower::Service;

pub type Body = http_body_util::Empty<bytes::Bytes>;

/// The URI and the `Authorization` header of a request.
pub type RecordedRequest = (String, Option<String>);

/// A client that records the URI and the `Authorization` header of each request.
///
/// It panics if it is called without having been polled ready. Clones share the records, but not the readiness.
#[derive(Default)]
pub struct Recorder {
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    /// The targets of redirects by the path of the request.
    redirects: HashMap<&'static str, &'static str>,
    status: StatusCode,
    is_ready: bool,
}

impl Recorder {
    /// Creates a client that responds to some paths with redirects.
    pub fn with_redirects<const N: usize>(redirects: [(&'static str, &'static str); N]) -> Self {
        Self {
            redirects: HashMap::from(redirects),
            ..Self::default()
        }
    }

    /// Creates a client that responds with a status.
    pub fn with_status(status: StatusCode) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// Returns the URI and the `Authorization` header of each request.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the `Authorization` header of each request.
    pub fn authorization(&self) -> Vec<Option<String>> {
        self.requests()
            .into_iter()
            .map(|(_, token)| token)
            .collect()
    }
}

impl Clone for Recorder {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            redirects: self.redirects.clone(),
            status: self.status,
            is_ready: false,
        }
    }
}

impl Service<Request<Body>> for Recorder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let was_ready = std::mem::take(&mut self.is_ready);
        assert!(was_ready, "called without having been polled ready");
        let token = request.headers().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        let uri = request.uri();
        self.requests.lock().unwrap().push((uri.to_string(), token));
        let mut response = Response::new(Body::new());
        *response.status_mut() = self.status;
        if let Some(target) = self.redirects.get(uri.path()) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let location = target.parse().unwrap();
            response.headers_mut().insert("location", location);
        }
        ready(Ok(response))
    }
}
