//! What several of the tests need.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::BearerAuth;

/// A token of that name, issued now, for that many seconds.
pub fn token(name: &str, lifetime: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    token_from(name, now, lifetime)
}

/// A token of that name and issue.
pub fn token_from(name: &str, issued_at: u64, lifetime: u64) -> String {
    let expiry = issued_at + lifetime;
    let claims = format!(r#"{{"iat":{issued_at},"exp":{expiry},"jti":"{name}"}}"#);
    let encode = |json: &str| URL_SAFE_NO_PAD.encode(json);
    format!(
        "{}.{}.c2lnbmF0dXJl",
        encode(r#"{"alg":"RS256","kid":"1"}"#),
        encode(&claims)
    )
}

pub fn seconds(since_epoch: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch)
}

/// Waits until something is so, on the real clock; says what it was when it takes too long.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within ten seconds: {what}");
}

/// Lets the tokio clock stand `duration` further on, without anything waiting for it.
pub async fn later(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// A server that keeps the `Authorization` header of every request, and answers as it is told.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Option<String>>>>,
    accepted: Arc<Mutex<Option<String>>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self {
            url,
            seen: Arc::default(),
            accepted: Arc::default(),
        };
        let app = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    /// Answers 401 to everything but this token from now on.
    pub fn accept_only(&self, token: &str) {
        *self.accepted.lock().unwrap() = Some(format!("Bearer {token}"));
    }

    /// The headers of the requests since the last call.
    pub fn take_seen(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn answer(State(server): State<Server>, request: Request) -> StatusCode {
    let header = request.headers().get("authorization");
    let header = header.map(|value| value.to_str().unwrap().to_owned());
    server.seen.lock().unwrap().push(header.clone());
    match &*server.accepted.lock().unwrap() {
        Some(accepted) if header.as_ref() != Some(accepted) => StatusCode::UNAUTHORIZED,
        _ => StatusCode::OK,
    }
}

pub fn client(auth: BearerAuth) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::builder().no_proxy().build().unwrap())
        .with(auth)
        .build()
}

pub fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}
