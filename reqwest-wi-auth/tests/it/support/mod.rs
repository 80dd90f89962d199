//! Code that several test modules share.

pub mod log;
pub mod process;
pub mod recorder;
pub mod server;
pub mod sources;
#[cfg(unix)]
pub mod volume;

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wi_auth::{BearerAuth, TokenSource};
use tokio::runtime::Runtime;

/// Returns a token with a name, which is issued now, with a lifetime in seconds.
pub fn token(name: &str, lifetime: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    token_from(name, now, lifetime)
}

/// Returns a token with a name, a time of issue, and a lifetime in seconds.
pub fn token_from(name: &str, issued_at: u64, lifetime: u64) -> String {
    let expiry = issued_at + lifetime;
    let claims = format!(r#"{{"iat":{issued_at},"exp":{expiry},"jti":"{name}"}}"#);
    signed(&claims)
}

/// Returns a token with these claims, and a signature that has the right length but is not valid.
pub fn signed(claims: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"alg":"RS256","kid":"1"}"#);
    let signature = encode(&[0xa5; 256]);
    format!("{header}.{}.{signature}", encode(claims.as_bytes()))
}

/// Returns the `Authorization` header of a token.
pub fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}

/// Returns the `Authorization` header of the current token of a source, or `None` if it has none.
pub fn current_header(source: &impl TokenSource) -> Option<String> {
    let token = source.current().ok()?;
    Some(token.header().to_str().unwrap().to_owned())
}

/// Returns a reqwest client with one middleware, without a proxy.
pub fn client(auth: BearerAuth) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::builder().no_proxy().build().unwrap())
        .with(auth)
        .build()
}

/// Converts seconds since the Unix epoch to a time.
pub fn seconds(since_epoch: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch)
}

/// Waits until a condition holds, for up to ten seconds of real time. `description` is used in the panic message.
pub async fn wait_until(description: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within ten seconds: {description}");
}

/// Advances the clock of tokio, without advancing it further while tasks wait.
pub async fn advance_clock(duration: Duration) {
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// Returns a runtime that is driven only by `block_on`.
pub fn current_thread_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Returns a runtime with a worker thread.
pub fn multi_thread_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
