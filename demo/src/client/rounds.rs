//! Rounds of requests, as the program makes them.

use std::future::Future;
use std::path::Path as FilePath;
use std::pin::pin;
use std::time::{Duration, Instant};

use serde_json::json;

use super::settings::{ClientSettings, Identity, Service};
use super::tokens::Tokens;
use super::{Answer, Client, Path};
use crate::narrator::Narrator;
use crate::{Error, chain};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A service, and the client for it.
struct Caller {
    service: Service,
    client: Client,
}

/// Asks until `end` is done, or once. Returns whether the last round went well.
///
/// # Errors
///
/// What is wrong with the settings, or that there is no token.
pub async fn run(settings: ClientSettings, end: impl Future<Output = ()>) -> Result<bool, Error> {
    let mut end = pin!(end);
    let mut callers = Vec::new();
    for (index, service) in settings.service_url.iter().enumerate() {
        // A client without its token waits for it, but not when it is told to end.
        let client = tokio::select! {
            client = client(&settings, index, service) => client?,
            () = &mut end => return Ok(false),
        };
        let service = service.clone();
        callers.push(Caller { service, client });
    }
    loop {
        let good = round(&settings, &callers).await;
        if settings.once {
            return Ok(good);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(settings.interval)) => {}
            () = &mut end => return Ok(good),
        }
    }
}

async fn client(
    settings: &ClientSettings,
    index: usize,
    service: &Service,
) -> Result<Client, Error> {
    let paths = &settings.token_path;
    let tokens = Tokens {
        projected: paths.get(index).or(paths.last()).cloned(),
        metadata_host: settings.metadata_host.clone(),
        google_audience: service.audience.clone(),
    };
    let http = http(settings.ca_file.as_deref())?;
    tokens.client(&service.url, http, settings.identity).await
}

fn http(ca_file: Option<&FilePath>) -> Result<reqwest::ClientBuilder, Error> {
    let http = reqwest::Client::builder().timeout(TIMEOUT);
    let Some(path) = ca_file else {
        return Ok(http);
    };
    let pem = std::fs::read(path).map_err(Error::io("the file of CAs cannot be read"))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)?;
    Ok(http.tls_certs_merge(certificates))
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

async fn round(settings: &ClientSettings, callers: &[Caller]) -> bool {
    if !settings.json {
        Narrator::line(heading(settings.identity));
    }
    let mut good = true;
    for Caller { service, client } in callers {
        for path in [Path::Open, Path::Private] {
            let began = Instant::now();
            let answer = client.get(path).await;
            good &= answer.as_ref().is_ok_and(|answer| answer.status == 200);
            let url = format!("{}{}", service.url, path.as_str());
            let line = match settings.json {
                true => json_line(settings.identity, &url, &answer, began.elapsed()),
                // Which service it was needs to be said only where there are several.
                false if callers.len() == 1 => line(path.as_str(), &answer),
                false => line(&url, &answer),
            };
            Narrator::line(&line);
        }
    }
    good
}

type Answered = Result<Answer, reqwest_middleware::Error>;

fn line(url: &str, answer: &Answered) -> String {
    match answer {
        Ok(Answer { status, body }) => format!("GET {url}: {status} {}", body.trim()),
        Err(error) => format!("GET {url}: failed: {}", chain(error)),
    }
}

fn json_line(identity: Identity, url: &str, answer: &Answered, took: Duration) -> String {
    let identity = format!("{identity:?}").to_lowercase();
    let milliseconds = took.as_secs_f64() * 1000.0;
    let (status, body, error) = match answer {
        Ok(answer) => (Some(answer.status), Some(answer.body.trim()), None),
        Err(error) => (None, None, Some(chain(error))),
    };
    json!({
        "identity": identity,
        "url": url,
        "status": status,
        "body": body,
        "error": error,
        "milliseconds": (milliseconds * 10.0).round() / 10.0,
    })
    .to_string()
}
