//! Clients with one middleware, whose requests get a response without being sent.

use std::hint::black_box;

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};

const URL: &str = "https://auth-server.example/private";
pub(crate) const ORIGIN: &str = "https://auth-server.example";

/// A middleware that does nothing.
pub(crate) struct Noop;

#[async_trait]
impl Middleware for Noop {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        next.run(request, extensions).await
    }
}

/// Returns a response instead of sending the request.
struct Respond;

#[async_trait]
impl Middleware for Respond {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        drop(black_box(request));
        Ok(http::Response::new("").into())
    }
}

pub(crate) fn client(middleware: impl Middleware) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(middleware)
        .with(Respond)
        .build()
}

/// Returns a request with the headers of a typical service, and capacity for one more, as reqwest allocates.
pub(crate) fn request(client: &ClientWithMiddleware) -> Request {
    let request = client
        .get(URL)
        .header("accept", "application/json")
        .header("user-agent", "bench")
        .header("x-request-id", "0123456789abcdef")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
    request.build().expect("a request")
}
