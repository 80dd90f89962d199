//! Measures exchanges when many callers need the first token, and failed requests while the subject token is rotated.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use reqwest_middleware::ClientBuilder;
use reqwest_wi_auth::testing::{FakeTokenEndpoint, Kubelet};
use reqwest_wi_auth::{
    BearerAuth, FixedToken, ProjectedToken, Token, TokenExchange, TokenSource as _,
};
use tokio::runtime::Runtime;

use crate::rotation::{BareReader, Progress};
use crate::target::Target;
use crate::token;

const ROTATIONS: usize = 200;
const CALLERS: usize = 8;
/// The time from when a bare reader has detected a rotation until the next one: long enough that a token is detected in time
/// even on a busy machine with two cores.
const PAUSE: Duration = Duration::from_millis(100);
/// The lifetime of exchanged tokens: short enough that several are used during the rotations.
const LIFETIME: Duration = Duration::from_secs(3);

/// Counts the exchanges when 100 callers need the first token.
pub(crate) fn cold_callers() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let exchanges = runtime.block_on(async {
        let endpoint = FakeTokenEndpoint::start().await.expect("a port");
        let subject = FixedToken::new(Token::new(token::text(0)).expect("a token"));
        let exchange = TokenExchange::builder(endpoint.url(), subject).build();
        let source = exchange.expect("an exchange").start();
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let source = source.clone();
                tokio::spawn(async move { source.refresh(None).await.expect("a token") })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        endpoint.request_count()
    });
    Target::new(
        "exchanges_for_100_cold_callers",
        exchanges as f64,
        "exchanges",
        1.0,
    )
}

/// The current token and the previous one, each with its expiry.
type Accepted = Arc<Mutex<VecDeque<(String, SystemTime)>>>;

/// Adds a token, and forgets all but it and the previous one.
fn accept(accepted: &Accepted, token: String, expiry: SystemTime) {
    let mut accepted = accepted.lock().expect("no panic");
    accepted.push_front((token, expiry));
    accepted.truncate(2);
}

fn is_accepted(accepted: &Accepted, token: &str) -> bool {
    let accepted = accepted.lock().expect("no panic");
    let now = SystemTime::now();
    accepted
        .iter()
        .any(|(other, expiry)| other == token && *expiry > now)
}

/// Starts a server that accepts only these tokens, and counts the requests that it rejects. Returns its URL.
async fn start_server(accepted: Accepted, rejected: Arc<AtomicU64>) -> String {
    let private = move |headers: HeaderMap| async move {
        let sent = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if sent.is_some_and(|sent| is_accepted(&accepted, sent)) {
            return StatusCode::OK;
        }
        rejected.fetch_add(1, Ordering::Relaxed);
        StatusCode::UNAUTHORIZED
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let app = Router::new().route("/", get(private));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Counts the requests without a token, and those that the server rejects, while the subject token is rotated 200 times.
pub(crate) fn failures() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let kubelet = Kubelet::new(directory.path()).expect("a volume");
    let far = SystemTime::now() + Duration::from_secs(3600);
    let (subjects, exchanged) = (Accepted::default(), Accepted::default());
    accept(&subjects, token::text(0), far);
    // The text depends on the time, so it is created once.
    let first = subjects.lock().expect("no panic")[0].0.clone();
    kubelet
        .write([("token", first)])
        .expect("the token is written");

    let bare = BareReader::start(directory.path(), kubelet.path("token"));
    let endpoint = runtime
        .block_on(FakeTokenEndpoint::start())
        .expect("a port");
    let accepted = subjects.clone();
    endpoint.set_subject_fn(move |subject: String| {
        let result = is_accepted(&accepted, &subject)
            .then_some(())
            .ok_or_else(|| "it was replaced".to_owned());
        async move { result }
    });
    let (issued, number) = (exchanged.clone(), AtomicU64::new(0));
    endpoint.set_token_lifetime(LIFETIME);
    endpoint.set_token_fn(move |_| {
        let token = format!("exchanged-{}", number.fetch_add(1, Ordering::Relaxed));
        accept(&issued, token.clone(), SystemTime::now() + LIFETIME);
        token
    });

    let source = runtime.block_on(async {
        let subject = ProjectedToken::open(kubelet.path("token"))
            .await
            .expect("a token");
        let exchange = TokenExchange::builder(endpoint.url(), subject).build();
        exchange
            .expect("an exchange")
            .open()
            .await
            .expect("a token")
    });
    let failed = Arc::new(AtomicU64::new(0));
    let url = runtime.block_on(start_server(exchanged, failed.clone()));
    // A request that is rejected is sent once more, with a newer token. Both are counted.
    let auth = BearerAuth::for_origin(&url, source).expect("an origin");
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let client = ClientBuilder::new(http).with(auth).build();
    let (sent, stopped) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let progress = Progress::new(CALLERS);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (client, url, progress) = (client.clone(), url.clone(), progress.clone());
            let (sent, failed, stopped) = (sent.clone(), failed.clone(), stopped.clone());
            runtime.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    sent.fetch_add(1, Ordering::Relaxed);
                    // A response with 401 is counted by the server.
                    if client.get(&url).send().await.is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    progress.finished(caller);
                }
            })
        })
        .collect();
    for number in 1..=ROTATIONS {
        let text = token::text(number);
        accept(&subjects, text.clone(), far);
        kubelet
            .rotate("token", &text)
            .expect("the token is rotated");
        bare.pause(&text, PAUSE);
        progress.wait();
    }
    stopped.store(true, Ordering::Relaxed);
    for caller in callers {
        runtime.block_on(caller).expect("no panic");
    }
    println!(
        "failed_over_200_subject_rotations: of {} requests, with {} exchanged tokens",
        sent.load(Ordering::Relaxed),
        endpoint.take_requests().len()
    );
    Target::new(
        "failed_over_200_subject_rotations",
        failed.load(Ordering::Relaxed) as f64,
        "requests",
        0.0,
    )
}
