//! The client's requests, each kind with the answer it should get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest_wi_auth::ProjectedToken;
use serde_json::Value;
use tokio::task::JoinSet;

use super::ledger::Ledger;
use crate::client::{Answer, Client, Path};
use crate::{Error, chain, server};

/// So many send requests side by side.
const CALLERS: usize = 4;
/// The pause of each between its rounds.
const PAUSE: Duration = Duration::from_millis(20);
const REFUSED: &str = "401 - Unauthorized";

/// Requests under way.
pub(super) struct Traffic {
    callers: JoinSet<()>,
    stopped: Arc<AtomicBool>,
}

/// One kind of request.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    /// What is told of the first answer.
    text: &'static str,
    client: Client,
    path: Path,
    is_expected: fn(&Answer) -> bool,
}

impl Traffic {
    /// Starts to send.
    pub(super) fn start(
        url: &str,
        token: ProjectedToken,
        other: ProjectedToken,
        ledger: Arc<Ledger>,
    ) -> Result<Self, Error> {
        let kinds = kinds(url, token, other)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            callers.spawn(call(kinds.clone(), ledger.clone(), stopped.clone()));
        }
        Ok(Self { callers, stopped })
    }

    /// Sends no more, and waits for the answers that are under way.
    pub(super) async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.callers.join_all().await;
    }
}

fn kinds(url: &str, token: ProjectedToken, other: ProjectedToken) -> Result<Vec<Kind>, Error> {
    // A proxy has no business between two ends on loopback.
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()?;
    let anonymous = Client::anonymous(url, http.clone());
    let authenticated = Client::with_token(url, http.clone(), token)?;
    let misdirected = Client::with_token(url, http, other)?;
    Ok(vec![
        Kind {
            name: "open_without_token",
            text: "GET /         without a token               200, open to anyone",
            client: anonymous.clone(),
            path: Path::Open,
            is_expected: is_open,
        },
        Kind {
            name: "open_with_token",
            text: "GET /         with a token                  200, open to anyone",
            client: authenticated.clone(),
            path: Path::Open,
            is_expected: is_open,
        },
        Kind {
            name: "private_without_token",
            text: "GET /private  without a token               401, refused",
            client: anonymous,
            path: Path::Private,
            is_expected: is_refused,
        },
        Kind {
            name: "private_with_token",
            text: "GET /private  with its token                200, let in as id-namespace/gke-sa",
            client: authenticated,
            path: Path::Private,
            is_expected: is_let_in,
        },
        Kind {
            name: "private_with_token_for_another_audience",
            text: "GET /private  with a token for another one  401, refused",
            client: misdirected,
            path: Path::Private,
            is_expected: is_refused,
        },
    ])
}

async fn call(kinds: Vec<Kind>, ledger: Arc<Ledger>, stopped: Arc<AtomicBool>) {
    while !stopped.load(Ordering::Relaxed) {
        for kind in &kinds {
            match kind.client.get(kind.path).await {
                Ok(answer) if (kind.is_expected)(&answer) => ledger.expected(kind.name, kind.text),
                Ok(Answer { status, body, .. }) => {
                    ledger.unexpected(kind.name, &format!("{status} {body}"));
                }
                Err(error) => ledger.unexpected(kind.name, &chain(&error)),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_open(answer: &Answer) -> bool {
    answer.status == 200 && answer.body == server::OPEN
}

fn is_refused(answer: &Answer) -> bool {
    answer.status == 401 && answer.body == REFUSED
}

fn is_let_in(answer: &Answer) -> bool {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let caller = &body["caller"];
    answer.status == 200
        && body["msg"] == "hello-private"
        && caller["namespace"] == "id-namespace"
        && caller["service_account"] == "gke-sa"
}
