//! Polls services: requests each path of each service in turn, at an interval, and prints the responses.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use reqwest_wi_auth::ProjectedToken;
use serde_json::json;
use tokio::time::timeout;

use super::failure::Failure;
use super::rejection::{self, SentToken};
use super::settings::{ClientIdentity, ClientSettings, GoogleSource, Service};
use super::tokens::{TokenSettings, TokenSources};
use super::{Client, Endpoint, Response};
use crate::escape::{escape, escape_json};
use crate::output::print_line;
use crate::server::{self, Metrics};
use crate::signals::Shutdown;
use crate::{Error, error_chain};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than its grace period the client may take to end.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(1);
/// The note on a response whose body was not read in full.
const TRUNCATED: &str = " (only the first 64 KiB of the body were read)";

/// The result of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollResult {
    /// The status of each response was 200.
    AllSucceeded,
    /// A request failed, or a response had another status.
    SomeFailed,
}

/// The result of one request.
type RequestResult = Result<Response, reqwest_middleware::Error>;

/// A service to poll, and the client for it.
struct Target {
    service: Service,
    client: Client,
    tokens: TokenSources,
    last_rotation: Option<SystemTime>,
    /// The last line about each path that was printed in full, if it is about a failure.
    last_failures: HashMap<&'static str, String>,
}

/// Polls the services until the program is asked to end, or once if the settings say so.
///
/// Returns the result of the last completed poll, or [`PollResult::SomeFailed`] if none was completed. Once the program is
/// asked to end, no further request is sent. A request in flight is dropped at the end of the grace period.
///
/// # Errors
///
/// If the settings are invalid, the admin port cannot be listened on, or no token can be obtained.
pub async fn run(settings: ClientSettings, shutdown: &Shutdown) -> Result<PollResult, Error> {
    warn_about_unused_credentials(&settings);
    if let Some(port) = settings.admin_port {
        server::serve_metrics(settings.address, port, Metrics::install()?)?;
    }
    let mut targets = Vec::new();
    // Without a time limit, a signal ends the process at once while the client waits for its first tokens.
    for (index, service) in settings.service_url.iter().enumerate() {
        targets.push(Target::new(&settings, index, service).await?);
    }
    let grace = Duration::from_secs(settings.grace_seconds);
    shutdown.set_time_limit(grace + SHUTDOWN_MARGIN);
    let mut last = PollResult::SomeFailed;
    loop {
        match poll(&settings, &mut targets, grace, shutdown).await {
            Some(result) => last = result,
            None => return Ok(last),
        }
        if settings.once {
            return Ok(last);
        }
        tokio::select! {
            () = tokio::time::sleep(settings.interval) => {}
            () = shutdown.requested() => return Ok(last),
        }
    }
}

/// Logs if a credential configuration is set that is not used, which may be a mistake.
fn warn_about_unused_credentials(settings: &ClientSettings) {
    let uses_google = matches!(
        settings.identity,
        ClientIdentity::Google | ClientIdentity::Both
    );
    let is_federated = matches!(settings.google_source(), GoogleSource::Federation { .. });
    if let Some(path) = &settings.google_credentials
        && uses_google
        && !is_federated
    {
        tracing::warn!(
            path = %path.display(),
            "the credential configuration of --google-credentials (GOOGLE_APPLICATION_CREDENTIALS) is not used, because --metadata-host (METADATA_HOST) is set"
        );
    }
}

impl Target {
    async fn new(
        settings: &ClientSettings,
        index: usize,
        service: &Service,
    ) -> Result<Self, Error> {
        let tokens = TokenSettings::of_service(settings, index, service);
        let http = http_client(settings.ca_file.as_deref())?;
        let (client, tokens) = tokens.client(&service.url, http, settings.identity).await?;
        Ok(Self {
            service: service.clone(),
            client,
            last_rotation: last_rotation(tokens.projected.as_ref()),
            last_failures: HashMap::new(),
            tokens,
        })
    }

    /// Logs if the projected token has been replaced since the last call. `demo/kind/up.sh` waits for this event.
    fn log_rotation(&mut self) {
        let rotation = last_rotation(self.tokens.projected.as_ref());
        if rotation == self.last_rotation {
            return;
        }
        self.last_rotation = rotation;
        let path = self.tokens.projected.as_ref().map(ProjectedToken::path);
        let path = path.map(|path| path.display().to_string());
        tracing::info!(path, "the projected token was replaced");
    }
}

fn last_rotation(token: Option<&ProjectedToken>) -> Option<SystemTime> {
    token.and_then(|token| token.health().last_rotation)
}

/// Returns the settings of an HTTP client that trusts the CA certificates of that file in addition to the system's.
pub(super) fn http_client(ca_file: Option<&Path>) -> Result<reqwest::ClientBuilder, Error> {
    let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT);
    let Some(path) = ca_file else {
        return Ok(http);
    };
    let pem = std::fs::read(path).map_err(|source| Error::CaFile {
        path: path.to_owned(),
        source,
    })?;
    let invalid = |reason| Error::CaCertificates {
        path: path.to_owned(),
        reason,
    };
    let unusable =
        |error: &reqwest::Error| invalid(format!("cannot be used ({})", error_chain(error)));
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
    if certificates.is_empty() {
        return Err(invalid("contains no certificate".to_owned()));
    }
    // Whether a certificate can be used as a CA is checked only when a client is built.
    let probe = reqwest::Client::builder().tls_certs_merge(certificates.clone());
    probe.build().map_err(|error| unusable(&error))?;
    Ok(http.tls_certs_merge(certificates))
}

/// Returns the heading of the responses to a client of that identity. Where Google's tutorial has one, it is that.
fn heading(settings: &ClientSettings) -> &'static str {
    let is_federated = matches!(settings.google_source(), GoogleSource::Federation { .. });
    match (settings.identity, is_federated) {
        (ClientIdentity::None, _) => "##### client without a token",
        (ClientIdentity::Cluster, _) => "##### Projected token client",
        (ClientIdentity::Ambient, _) => "##### client with the token of its environment",
        (ClientIdentity::Google, false) => "##### mapped GCP SvcAccnt via Metadata server",
        (ClientIdentity::Google, true) => "##### GCP SvcAccnt via workload identity federation",
        (ClientIdentity::Both, false) => {
            "##### Projected token client, and mapped GCP SvcAccnt via Metadata server"
        }
        (ClientIdentity::Both, true) => {
            "##### Projected token client, and GCP SvcAccnt via workload identity federation"
        }
    }
}

/// Requests each path of each target once, and prints the responses.
///
/// Returns `None` if the program was asked to end before the poll was completed.
async fn poll(
    settings: &ClientSettings,
    targets: &mut [Target],
    grace: Duration,
    shutdown: &Shutdown,
) -> Option<PollResult> {
    if !settings.json {
        print_line(heading(settings));
    }
    let has_several_targets = targets.len() > 1;
    let mut poll_result = PollResult::AllSucceeded;
    for target in targets {
        target.log_rotation();
        for endpoint in [Endpoint::Open, Endpoint::Private] {
            if shutdown.is_requested() {
                return None;
            }
            let began = Instant::now();
            let url = format!("{}{}", target.service.url, endpoint.path());
            let mut shutdown_requested = pin!(shutdown.requested());
            let (result, is_ending) = {
                let mut result = pin!(target.client.get(endpoint));
                tokio::select! {
                    biased;
                    () = &mut shutdown_requested => (timeout(grace, result.as_mut()).await.ok(), true),
                    result = &mut result => (Some(result), false),
                }
            };
            let Some(result) = result else {
                tracing::warn!(
                    url,
                    "the request was dropped at the end of the grace period"
                );
                return None;
            };
            if !result.as_ref().is_ok_and(|response| response.status == 200) {
                poll_result = PollResult::SomeFailed;
            }
            let elapsed = began.elapsed();
            let outcome = Outcome::new(&result, &target.service, || target.tokens.current());
            let path = endpoint.path();
            let line = if settings.json {
                json_line(settings.identity, &url, &outcome, elapsed)
            } else {
                let shown = if has_several_targets { &url } else { path };
                let line = text_line(shown, &outcome);
                shorten_repeated(&mut target.last_failures, path, shown, &outcome, line)
            };
            print_line(&line);
            if is_ending {
                return None;
            }
        }
    }
    Some(poll_result)
}

/// The result of a request, with what is known about its failure.
struct Outcome<'r> {
    response: Option<&'r Response>,
    /// The reason that the server gives, or the summary of the error and all its causes.
    reason: Option<String>,
    /// A description of what was sent, and the remedy.
    advice: Option<String>,
}

impl<'r> Outcome<'r> {
    fn new(
        result: &'r RequestResult,
        service: &Service,
        sent: impl FnOnce() -> Vec<SentToken>,
    ) -> Self {
        match result {
            Ok(response) if is_success(response) => Self {
                response: Some(response),
                reason: None,
                advice: None,
            },
            Ok(response) => Self {
                response: Some(response),
                reason: rejection::reason(response),
                advice: rejection::advice(response, &sent(), SystemTime::now()),
            },
            Err(error) => {
                let failure = Failure::classify_request(error);
                let summary = failure.summary(&service.host());
                let causes = error_chain(error);
                let reason = match summary {
                    Some(summary) => format!("{}: {causes}", escape(&summary)),
                    None => causes,
                };
                Self {
                    response: None,
                    reason: Some(reason),
                    advice: failure.advice().map(str::to_owned),
                }
            }
        }
    }
}

fn is_success(response: &Response) -> bool {
    (200..300).contains(&response.status)
}

fn text_line(url: &str, outcome: &Outcome<'_>) -> String {
    let url = escape(url);
    let Some(response) = outcome.response else {
        let reason = outcome.reason.as_deref().unwrap_or_default();
        let advice = outcome.advice.iter().map(|advice| format!("; {advice}"));
        return format!("GET {url}: failed: {reason}{}", advice.collect::<String>());
    };
    let note = if response.is_truncated { TRUNCATED } else { "" };
    if is_success(response) {
        let body = escape(response.body.trim());
        return format!("GET {url}: {} {body}{note}", response.status);
    }
    let mut line = format!("GET {url}: {}", rejection::status_line(response.status));
    let mut separator = ": ";
    let body = rejection::informative_body(response);
    let body = Some(body).filter(|body| !body.is_empty());
    let parts = [
        outcome.reason.clone(),
        body.map(|body| format!("{body}{note}")),
        outcome.advice.clone(),
    ];
    for part in parts.into_iter().flatten() {
        line.push_str(separator);
        line.push_str(&part);
        separator = "; ";
    }
    line
}

/// Returns the line, or a short one with the status if it is about a failure and equals the last one about that path.
fn shorten_repeated(
    last_failures: &mut HashMap<&'static str, String>,
    path: &'static str,
    url: &str,
    outcome: &Outcome<'_>,
    line: String,
) -> String {
    if outcome.response.is_some_and(is_success) {
        last_failures.remove(path);
        return line;
    }
    if last_failures.get(path) != Some(&line) {
        last_failures.insert(path, line.clone());
        return line;
    }
    let url = escape(url);
    match outcome.response {
        Some(response) => format!(
            "GET {url}: {}: same as before",
            rejection::status_line(response.status)
        ),
        None => format!("GET {url}: failed: same as before"),
    }
}

fn json_line(
    identity: ClientIdentity,
    url: &str,
    outcome: &Outcome<'_>,
    elapsed: Duration,
) -> String {
    let milliseconds = elapsed.as_secs_f64() * 1000.0;
    let response = outcome.response;
    let error = outcome.reason.as_ref().filter(|_| response.is_none());
    let mut line = json!({
        "identity": identity.as_str(),
        "url": url,
        "status": response.map(|response| response.status),
        "body": response.map(|response| response.body.trim()),
        "error": error,
        "milliseconds": (milliseconds * 10.0).round() / 10.0,
    });
    if let Some(response) = response {
        let details = &response.details;
        if response.is_truncated {
            line["body_is_truncated"] = true.into();
        }
        if !is_success(response) {
            line["reason"] = outcome.reason.clone().into();
            line["retry_after"] = details.retry_after.clone().into();
            if let Some(challenge) = &details.challenges.bearer {
                line["challenge"] = json!({
                    "realm": challenge.realm,
                    "error": challenge.error,
                    "error_description": challenge.error_description,
                });
            }
        }
    }
    if let Some(advice) = &outcome.advice {
        line["advice"] = advice.clone().into();
    }
    escape_json(&line.to_string()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_is_repeated_is_printed_in_full_once() {
        let failed = |reason: &str| Outcome {
            response: None,
            reason: Some(reason.to_owned()),
            advice: None,
        };
        let mut last = HashMap::new();
        let mut print = |path, outcome: &Outcome<'_>| {
            let line = text_line(path, outcome);
            shorten_repeated(&mut last, path, path, outcome, line)
        };
        for (path, reason, expected) in [
            ("/", "a", "GET /: failed: a"),
            ("/private", "a", "GET /private: failed: a"),
            ("/", "a", "GET /: failed: same as before"),
            ("/", "a", "GET /: failed: same as before"),
            ("/", "b", "GET /: failed: b"),
            ("/private", "a", "GET /private: failed: same as before"),
        ] {
            assert_eq!(print(path, &failed(reason)), expected);
        }
    }
}
