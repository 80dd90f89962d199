//! A reqwest client with tracing, retries and tokens, in the order in which they belong.
//!
//! Sends a request to a server on loopback that is busy at first. Meanwhile, the token is replaced:
//!
//! ```sh
//! cargo run -p reqwest-wi-auth --example retrying_client
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{
    DefaultRetryableStrategy, RetryTransientMiddleware, Retryable, RetryableStrategy,
};
use reqwest_tracing::{SpanBackendWithUrl, TracingMiddleware};
use reqwest_wi_auth::{BearerAuth, Error, Token, TokenSource};
use tracing_subscriber::fmt::format::FmtSpan;

/// Creates a client. A middleware that is added earlier is further out.
fn client(auth: BearerAuth) -> reqwest::Result<ClientWithMiddleware> {
    let backoff = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(10))
        .build_with_max_retries(3);
    let http = reqwest::Client::builder().no_proxy().build()?;
    Ok(ClientBuilder::new(http)
        // 1. One span for the request with all of its attempts. It is outside `BearerAuth`, so it sees no token. A span
        //    for each attempt belongs between 2 and 3.
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        // 2. Retries. They are outside `BearerAuth`, so each attempt gets the token that is current then.
        .with(RetryTransientMiddleware::new_with_policy_and_strategy(
            backoff,
            RetryTokens,
        ))
        // 3. Attaches the token, and sends the request again after a 401 if there is a newer token.
        .with(auth)
        .build())
}

/// Retries what reqwest-retry does by default, and requests for which there is no token at the moment.
struct RetryTokens;

impl RetryableStrategy for RetryTokens {
    fn handle(
        &self,
        result: &Result<reqwest::Response, reqwest_middleware::Error>,
    ) -> Option<Retryable> {
        match result {
            Err(error) if Error::find(error).is_some_and(Error::is_transient) => {
                Some(Retryable::Transient)
            }
            other => DefaultRetryableStrategy.handle(other),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    // In a pod: ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?
    let tokens = RotatingToken::default();
    let server = Server {
        tokens: tokens.clone(),
        received: Arc::default(),
    };
    let origin = server.clone().start().await?;
    let client = client(BearerAuth::for_origin(&origin, tokens)?)?;

    let response = client.get(format!("{origin}/orders")).send().await?;
    assert_eq!(response.status(), StatusCode::OK);

    // Each of the three attempts had the token that was current.
    let received = lock(&server.received).clone();
    println!("the server received {received:?}");
    assert_eq!(
        received,
        ["Bearer token-0", "Bearer token-1", "Bearer token-2"]
    );

    // The log has the span of the request, with its URL and its status, and no token.
    let log = String::from_utf8(lock(&log.0).clone())?;
    let is_span = |line: &&str| line.contains("HTTP request") && line.contains("close");
    let spans: Vec<_> = log.lines().filter(is_span).collect();
    println!("{}", spans.join("\n"));
    assert!(
        matches!(spans[..], [span] if span.contains("/orders") && span.contains("200")),
        "{log}"
    );
    assert!(!log.contains("token-"), "{log}");
    Ok(())
}

/// A source whose token the server replaces.
#[derive(Clone, Default)]
struct RotatingToken(Arc<Mutex<u32>>);

#[async_trait::async_trait]
impl TokenSource for RotatingToken {
    fn current(&self) -> Result<Token, Error> {
        Token::opaque(format!("token-{}", lock(&self.0)))
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        self.current()
    }
}

/// A server that replaces the token at each request, and is busy at the first two.
#[derive(Clone)]
struct Server {
    tokens: RotatingToken,
    received: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts the server, and returns its origin.
    async fn start(self) -> std::io::Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let app = Router::new().route("/orders", get(orders)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(origin)
    }
}

async fn orders(State(server): State<Server>, headers: HeaderMap) -> StatusCode {
    let value = headers.get("authorization");
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut received = lock(&server.received);
    received.push(value.to_owned());
    *lock(&server.tokens.0) += 1;
    if received.len() < 3 {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

/// Collects the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
