//! Sends requests of each kind concurrently, and compares each response with the expected one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest_wi_auth::ProjectedToken;
use serde_json::Value;
use tokio::task::JoinSet;

use super::report::{Report, RequestCase};
use crate::client::{Client, Endpoint, Response};
use crate::{Error, error_chain, server};

/// The number of tasks that send requests.
const TASKS: usize = 4;
/// How long each task pauses after it has sent a request of each case.
const PAUSE: Duration = Duration::from_millis(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const UNAUTHORIZED_BODY: &str = "401 - Unauthorized";

/// Tasks that send requests.
pub(super) struct Traffic {
    tasks: JoinSet<()>,
    stopped: Arc<AtomicBool>,
}

/// A case with the client that sends its requests and the response that is expected.
#[derive(Clone)]
struct TrafficCase {
    request: RequestCase,
    client: Client,
    is_expected: fn(&Response) -> bool,
    /// The expected response, for a reader.
    expected: &'static str,
}

impl Traffic {
    /// Starts the tasks. `other_token` is a token for another audience.
    pub(super) fn start(
        url: &str,
        token: ProjectedToken,
        other_token: ProjectedToken,
        report: Arc<Report>,
    ) -> Result<Self, Error> {
        let cases = cases(url, token, other_token)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            tasks.spawn(send_requests(
                cases.clone(),
                report.clone(),
                stopped.clone(),
            ));
        }
        Ok(Self { tasks, stopped })
    }

    /// Stops the tasks after they have received the responses to the requests in flight.
    pub(super) async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

fn cases(
    url: &str,
    token: ProjectedToken,
    other_token: ProjectedToken,
) -> Result<Vec<TrafficCase>, Error> {
    // Without `no_proxy`, an `HTTP_PROXY` in the environment would also apply to loopback.
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()?;
    let anonymous = Client::anonymous(url, http.clone());
    let authenticated = Client::with_token(url, http.clone(), token)?;
    let wrong_audience = Client::with_token(url, http, other_token)?;
    let case = |name, endpoint, description| RequestCase {
        name,
        endpoint,
        description,
    };
    Ok(vec![
        TrafficCase {
            request: case("open_without_token", Endpoint::Open, "without a token"),
            client: anonymous.clone(),
            is_expected: is_open,
            expected: "200, open to any caller",
        },
        TrafficCase {
            request: case("open_with_token", Endpoint::Open, "with a token"),
            client: authenticated.clone(),
            is_expected: is_open,
            expected: "200, open to any caller",
        },
        TrafficCase {
            request: case(
                "private_without_token",
                Endpoint::Private,
                "without a token",
            ),
            client: anonymous,
            is_expected: is_unauthorized,
            expected: "401, rejected",
        },
        TrafficCase {
            request: case("private_with_token", Endpoint::Private, "with a token"),
            client: authenticated,
            is_expected: is_admitted,
            expected: "200, admitted as id-namespace/gke-sa",
        },
        TrafficCase {
            request: case(
                "private_with_token_for_another_audience",
                Endpoint::Private,
                "with a token for another audience",
            ),
            client: wrong_audience,
            is_expected: is_unauthorized,
            expected: "401, rejected",
        },
    ])
}

async fn send_requests(cases: Vec<TrafficCase>, report: Arc<Report>, stopped: Arc<AtomicBool>) {
    while !stopped.load(Ordering::Relaxed) {
        for case in &cases {
            match case.client.get(case.request.endpoint).await {
                Ok(response) if (case.is_expected)(&response) => {
                    report.record_expected(case.request, case.expected);
                }
                Ok(Response { status, body, .. }) => {
                    report.record_unexpected(case.request, &format!("{status} {body}"));
                }
                Err(error) => report.record_unexpected(case.request, &error_chain(&error)),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_open(response: &Response) -> bool {
    response.status == 200 && response.body == server::OPEN_BODY
}

fn is_unauthorized(response: &Response) -> bool {
    response.status == 401 && response.body == UNAUTHORIZED_BODY
}

fn is_admitted(response: &Response) -> bool {
    let body: Value = serde_json::from_str(&response.body).unwrap_or_default();
    let caller = &body["caller"];
    response.status == 200
        && body["msg"] == "hello-private"
        && caller["namespace"] == "id-namespace"
        && caller["service_account"] == "gke-sa"
}
