//! An HTTP server that records the tokens of requests.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};

/// The header that Cloud Run verifies instead of `Authorization`, if it is present.
pub const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");

/// A server on loopback that records the tokens of each request.
///
/// It responds with 200, to `/status/N` with status N, and to `/to?URL` with a redirect to the URL.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    accepted: Arc<Mutex<Option<String>>>,
}

/// The tokens of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub authorization: Option<String>,
    pub serverless: Option<String>,
}

impl Server {
    /// Starts a server.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self::with_url(url);
        let app = server.app();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    /// Creates a server for a URL, without starting it: the caller serves its [`app`](Self::app).
    pub fn with_url(url: String) -> Self {
        Self {
            url,
            received: Arc::default(),
            accepted: Arc::default(),
        }
    }

    pub fn app(&self) -> Router {
        Router::new().fallback(respond).with_state(self.clone())
    }

    /// Responds with 401 to requests without this token from now on.
    pub fn accept_only(&self, token: &str) {
        *self.accepted.lock().unwrap() = Some(format!("Bearer {token}"));
    }

    /// Returns a URL of this server that redirects to another URL.
    pub fn redirect_to(&self, url: &str) -> String {
        format!("{}/to?{url}", self.url)
    }

    /// Returns the `Authorization` headers of the requests since the last call.
    pub fn take_authorization(&self) -> Vec<Option<String>> {
        self.take_received()
            .into_iter()
            .map(|received| received.authorization)
            .collect()
    }

    /// Returns the tokens of the requests since the last call.
    pub fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

async fn respond(State(server): State<Server>, request: Request) -> Response {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let received = Received {
        authorization: header("authorization"),
        serverless: header(SERVERLESS.as_str()),
    };
    server.received.lock().unwrap().push(received.clone());
    if let Some(accepted) = server.accepted.lock().unwrap().clone()
        && ![received.authorization, received.serverless].contains(&Some(accepted))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let uri = request.uri();
    if let Some(status) = uri.path().strip_prefix("/status/") {
        return StatusCode::from_bytes(status.as_bytes())
            .unwrap()
            .into_response();
    }
    match uri.query().filter(|_| uri.path() == "/to") {
        Some(url) => {
            let headers = [("location", url.to_owned())];
            (StatusCode::TEMPORARY_REDIRECT, headers).into_response()
        }
        None => StatusCode::OK.into_response(),
    }
}
