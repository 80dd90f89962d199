//! What several of the tests need.

pub mod log;
#[cfg(target_os = "linux")]
pub mod process;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, Error, Token, TokenSource};

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
    signed(&claims)
}

/// A token with these claims and a signature of the right length, which is not valid.
pub fn signed(claims: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"alg":"RS256","kid":"1"}"#);
    let signature = encode(&[0xa5; 256]);
    format!("{header}.{}.{signature}", encode(claims.as_bytes()))
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
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// A server that keeps the tokens of every request, and answers as it is told: `/to?url` redirects.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepted: Arc<Mutex<Option<String>>>,
}

/// The tokens of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub authorization: Option<String>,
    pub serverless: Option<String>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self::at(url);
        let app = server.app();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    pub fn at(url: String) -> Self {
        Self {
            url,
            seen: Arc::default(),
            accepted: Arc::default(),
        }
    }

    pub fn app(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    /// Answers 401 to everything but this token from now on.
    pub fn accept_only(&self, token: &str) {
        *self.accepted.lock().unwrap() = Some(format!("Bearer {token}"));
    }

    /// A URL of this server that redirects to another.
    pub fn redirect_to(&self, url: &str) -> String {
        format!("{}/to?{url}", self.url)
    }

    /// The `Authorization` headers of the requests since the last call.
    pub fn take_seen(&self) -> Vec<Option<String>> {
        self.take_all()
            .into_iter()
            .map(|seen| seen.authorization)
            .collect()
    }

    /// All tokens of the requests since the last call.
    pub fn take_all(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let seen = Seen {
        authorization: header("authorization"),
        serverless: header(SERVERLESS.as_str()),
    };
    server.seen.lock().unwrap().push(seen.clone());
    let refused = |accepted: &String| {
        ![&seen.authorization, &seen.serverless].contains(&&Some(accepted.clone()))
    };
    if server
        .accepted
        .lock()
        .unwrap()
        .as_ref()
        .is_some_and(refused)
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if let Some(status) = request.uri().path().strip_prefix("/status/") {
        return StatusCode::from_bytes(status.as_bytes())
            .unwrap()
            .into_response();
    }
    match request
        .uri()
        .query()
        .filter(|_| request.uri().path() == "/to")
    {
        Some(url) => (
            StatusCode::TEMPORARY_REDIRECT,
            [("location", url.to_owned())],
        )
            .into_response(),
        None => StatusCode::OK.into_response(),
    }
}

/// The header that Cloud Run looks at first.
pub const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");

pub fn client(auth: BearerAuth) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::builder().no_proxy().build().unwrap())
        .with(auth)
        .build()
}

pub fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}

/// A source of tokens, one after the other: the next one comes at a refresh, or each time.
#[derive(Clone)]
pub struct Tokens {
    tokens: Arc<Mutex<VecDeque<Token>>>,
    each_time: bool,
}

impl Tokens {
    pub fn one(text: &str) -> Self {
        Self::of(&[text.to_owned()], false)
    }

    pub fn two(first: &str, second: &str) -> Self {
        Self::of(&[first.to_owned(), second.to_owned()], false)
    }

    pub fn each_time(texts: &[String]) -> Self {
        Self::of(texts, true)
    }

    fn of(texts: &[String], each_time: bool) -> Self {
        let tokens = texts.iter().map(|text| Token::new(text).unwrap()).collect();
        Self {
            tokens: Arc::new(Mutex::new(tokens)),
            each_time,
        }
    }

    fn current(&self, step: bool) -> Token {
        let mut tokens = self.tokens.lock().unwrap();
        let current = tokens.front().unwrap().clone();
        if step && tokens.len() > 1 {
            tokens.pop_front();
        }
        current
    }
}

#[async_trait::async_trait]
impl TokenSource for Tokens {
    fn current(&self) -> Result<Token, Error> {
        Ok(Tokens::current(self, self.each_time))
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        Tokens::current(self, true);
        Ok(Tokens::current(self, false))
    }
}
