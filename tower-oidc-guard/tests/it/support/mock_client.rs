//! HTTP clients that answer from memory instead of from the network.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::Response;
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};

/// Creates an HTTP client that gets its responses from this function.
pub fn mock_client(
    respond: impl Fn(&reqwest::Request) -> Response<Vec<u8>> + Send + Sync + 'static,
) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(Mock(respond))
        .build()
}

/// Creates an HTTP client that returns these documents, by URL, and 404 for every other URL.
pub fn document_client(documents: HashMap<String, Vec<u8>>) -> ClientWithMiddleware {
    mock_client(move |request| {
        let document = documents.get(request.url().as_str());
        let mut response = Response::new(document.cloned().unwrap_or_default());
        if document.is_none() {
            *response.status_mut() = http::StatusCode::NOT_FOUND;
        }
        response
    })
}

/// Creates an HTTP client for guards that must not send a request.
///
/// # Panics
///
/// Panics when a request is sent.
pub fn unused_client() -> ClientWithMiddleware {
    mock_client(|request| panic!("unexpected request: {request:?}"))
}

/// Creates an HTTP client that never gets a response.
pub fn pending_client() -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(Pending)
        .build()
}

/// Creates an HTTP client that sends requests with another client, each after a delay that can be changed.
pub fn delayed_client(
    client: ClientWithMiddleware,
    delay: Arc<Mutex<Duration>>,
) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(Delayed(client, delay))
        .build()
}

struct Delayed(ClientWithMiddleware, Arc<Mutex<Duration>>);

#[async_trait]
impl Middleware for Delayed {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let delay = *self.1.lock().unwrap();
        tokio::time::sleep(delay).await;
        self.0.execute(request).await
    }
}

struct Pending;

#[async_trait]
impl Middleware for Pending {
    async fn handle(
        &self,
        _: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        std::future::pending().await
    }
}

struct Mock<F>(F);

#[async_trait]
impl<F> Middleware for Mock<F>
where
    F: Fn(&reqwest::Request) -> Response<Vec<u8>> + Send + Sync + 'static,
{
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let (mut parts, body) = (self.0)(&request).into_parts();
        let response = Response::builder()
            .status(parts.status)
            .url(request.url().clone());
        let mut response = response.body(body).unwrap();
        response.headers_mut().extend(parts.headers.drain());
        Ok(response.into())
    }
}
