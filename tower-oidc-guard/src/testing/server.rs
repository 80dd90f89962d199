//! The issuer's two documents over HTTP, as the Kubernetes API server answers them.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::state::{Published, State};

/// Serves until the task is aborted.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(request.uri().path(), &state);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that hangs up is no concern of the issuer's.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(path: &str, state: &State) -> Response<Full<Bytes>> {
    let (content_type, body) = match state.publish(path) {
        Published::Document { content_type, body } => (content_type, body),
        Published::Failure(status) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            return response;
        }
    };
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    response
}
