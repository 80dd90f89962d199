//! Rounds of requests: each path of each service, in turn.

use std::future::Future;
use std::path::Path as FilePath;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use reqwest_wi_auth::ProjectedToken;
use serde_json::json;

use super::settings::{ClientSettings, Identity, Service};
use super::tokens::Tokens;
use super::{Answer, Client, Path};
use crate::narrator::Narrator;
use crate::printable::{escape, escape_json};
use crate::signals::Shutdown;
use crate::{Error, chain};

const TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than its grace period the client may take to end.
const MARGIN: Duration = Duration::from_secs(1);

/// A service, and the client for it.
struct Caller {
    service: Service,
    client: Client,
    projected: Option<ProjectedToken>,
    last_rotation: Option<SystemTime>,
}

/// Sends requests until the program is asked to end, or for one round. Returns whether the last whole round went well.
///
/// When the program is asked to end, no further request is sent. A request in flight may take the grace period; then it is
/// dropped.
///
/// # Errors
///
/// If the settings cannot work, or there is no token.
pub async fn run(settings: ClientSettings, shutdown: &Shutdown) -> Result<bool, Error> {
    let mut callers = Vec::new();
    // While the client waits for its tokens, a signal ends the process at once.
    for (index, service) in settings.service_url.iter().enumerate() {
        callers.push(caller(&settings, index, service).await?);
    }
    let grace = Duration::from_secs(settings.grace_seconds);
    shutdown.allow(grace + MARGIN);
    let mut last = false;
    loop {
        match round(&settings, &mut callers, grace, shutdown).await {
            Some(good) => last = good,
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

async fn caller(
    settings: &ClientSettings,
    index: usize,
    service: &Service,
) -> Result<Caller, Error> {
    let paths = &settings.token_path;
    let tokens = Tokens {
        projected: paths.get(index).or(paths.last()).cloned(),
        metadata_host: settings.metadata_host.clone(),
        google_audience: service.audience.clone(),
    };
    let http = http(settings.ca_file.as_deref())?;
    let (client, projected) = tokens.client(&service.url, http, settings.identity).await?;
    Ok(Caller {
        service: service.clone(),
        client,
        last_rotation: last_rotation(projected.as_ref()),
        projected,
    })
}

fn last_rotation(token: Option<&ProjectedToken>) -> Option<SystemTime> {
    token.and_then(|token| token.health().last_rotation)
}

impl Caller {
    /// Logs if the projected token has been replaced since the last call. `demo/kind/up.sh` waits for this event.
    fn log_rotation(&mut self) {
        let rotation = last_rotation(self.projected.as_ref());
        if rotation == self.last_rotation {
            return;
        }
        self.last_rotation = rotation;
        let path = self.projected.as_ref().map(ProjectedToken::path);
        let path = path.map(|path| path.display().to_string());
        tracing::info!(path, "the projected token was replaced");
    }
}

fn http(ca_file: Option<&FilePath>) -> Result<reqwest::ClientBuilder, Error> {
    let http = reqwest::Client::builder().timeout(TIMEOUT);
    let Some(path) = ca_file else {
        return Ok(http);
    };
    let pem = std::fs::read(path).map_err(|source| Error::CaFile {
        path: path.to_owned(),
        source,
    })?;
    let refused = |reason| Error::CaCertificates {
        path: path.to_owned(),
        reason,
    };
    let certificates = reqwest::Certificate::from_pem_bundle(&pem);
    let certificates =
        certificates.map_err(|error| refused(format!("cannot be used ({})", chain(&error))))?;
    if certificates.is_empty() {
        return Err(refused("has no certificate".to_owned()));
    }
    // Whether a certificate can serve as a CA shows only when a client is built.
    let probe = reqwest::Client::builder().tls_certs_merge(certificates.clone());
    match probe.build() {
        Ok(_) => Ok(http.tls_certs_merge(certificates)),
        Err(error) => Err(refused(format!("cannot be used ({})", chain(&error)))),
    }
}

/// The heading that the tutorial's client logs under.
fn heading(identity: Identity) -> &'static str {
    match identity {
        Identity::None => "##### client without a token",
        Identity::Cluster => "##### Projected token client",
        Identity::Google => "##### mapped GCP SvcAccnt via Metadata server",
        Identity::Both => {
            "##### Projected token client, and mapped GCP SvcAccnt via Metadata server"
        }
    }
}

/// Sends each request of a round. Returns whether all were answered with 200, or `None` if the program was asked to end
/// before the round was over.
async fn round(
    settings: &ClientSettings,
    callers: &mut [Caller],
    grace: Duration,
    shutdown: &Shutdown,
) -> Option<bool> {
    if !settings.json {
        Narrator::line(heading(settings.identity));
    }
    let (mut good, several) = (true, callers.len() > 1);
    for caller in callers {
        caller.log_rotation();
        for path in [Path::Open, Path::Private] {
            if shutdown.is_requested() {
                return None;
            }
            let began = Instant::now();
            let url = format!("{}{}", caller.service.url, path.as_str());
            let mut asked_to_end = pin!(shutdown.requested());
            let (answer, ending) = {
                let mut answer = pin!(caller.client.get(path));
                tokio::select! {
                    biased;
                    () = &mut asked_to_end => (within(grace, answer.as_mut()).await, true),
                    answer = &mut answer => (Some(answer), false),
                }
            };
            let Some(answer) = answer else {
                tracing::warn!(
                    url,
                    "the request was dropped at the end of the grace period"
                );
                return None;
            };
            good &= answer.as_ref().is_ok_and(|answer| answer.status == 200);
            let line = match settings.json {
                true => json_line(settings.identity, &url, &answer, began.elapsed()),
                // Which service it was needs to be said only where there are several.
                false if several => line(&url, &answer),
                false => line(path.as_str(), &answer),
            };
            Narrator::line(&line);
            if ending {
                return None;
            }
        }
    }
    Some(good)
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}

type Answered = Result<Answer, reqwest_middleware::Error>;

/// The note on a body that was not read to its end.
const CUT: &str = " (only the first 64 KiB of the body were read)";

fn line(url: &str, answer: &Answered) -> String {
    let url = escape(url);
    match answer {
        Ok(answer) => {
            let note = if answer.is_cut { CUT } else { "" };
            let body = escape(answer.body.trim());
            format!("GET {url}: {} {body}{note}", answer.status)
        }
        Err(error) => format!("GET {url}: failed: {}", chain(error)),
    }
}

fn json_line(identity: Identity, url: &str, answer: &Answered, took: Duration) -> String {
    let identity = format!("{identity:?}").to_lowercase();
    let milliseconds = took.as_secs_f64() * 1000.0;
    let (answer, error) = match answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(chain(error))),
    };
    let mut line = json!({
        "identity": identity,
        "url": url,
        "status": answer.map(|answer| answer.status),
        "body": answer.map(|answer| answer.body.trim()),
        "error": error,
        "milliseconds": (milliseconds * 10.0).round() / 10.0,
    });
    if answer.is_some_and(|answer| answer.is_cut) {
        line["body_is_cut"] = true.into();
    }
    escape_json(&line.to_string()).into_owned()
}
