//! The subcommand `check`: goes through all that a request with a token needs, step by step, and prints a table.
//!
//! For each service, in this order:
//!
//! 1. The token's file: whether it can be read, how it is mounted, and what it contains. For Google's token instead, whether the
//!    metadata server provides it, or workload identity federation. For the token of the environment, which source it is from.
//! 2. The token's claims, and whether its rotation is noticed.
//! 3. The origin of the service, a proxy, DNS and TCP.
//! 4. TLS, the server's clock, and what the server responds on the open path and on the guarded one.
//!
//! A check that depends on a failed one is skipped. Nothing that is printed contains the token or its signature.

mod network;
mod report;
mod server;
mod token;
mod token_file;

use std::time::{Duration, SystemTime};

use reqwest_wi_auth::{Token, TokenSource as _};

use self::network::Target;
use self::report::{Check, Table, TableFormat};
use self::token::Platform;
use super::Client;
use super::claims::UnverifiedClaims;
use super::polling::http_client;
use super::settings::{ClientIdentity, ClientSettings, GoogleSource, Service};
use super::tokens::{TokenSettings, TokenSources};
use crate::error_chain;
use crate::escape::escape;

/// How long a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The result of all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// No check failed.
    Passed,
    /// A check failed.
    Failed,
}

/// Checks each service of the settings, and prints the table.
pub async fn run(settings: ClientSettings) -> CheckResult {
    let format = if settings.json {
        TableFormat::Json
    } else {
        TableFormat::Text
    };
    let mut table = Table::new(format);
    for (index, service) in settings.service_url.iter().enumerate() {
        table.start(&service.url, settings.identity.as_str());
        check_service(&settings, index, service, &mut table).await;
    }
    if table.finish() {
        CheckResult::Passed
    } else {
        CheckResult::Failed
    }
}

async fn check_service(
    settings: &ClientSettings,
    index: usize,
    service: &Service,
    table: &mut Table,
) {
    let tokens = TokenSettings::of_service(settings, index, service);
    let has_tokens = check_tokens(&tokens, settings.identity, service, table).await;
    let origin =
        (settings.identity != ClientIdentity::None).then(|| network::check_origin(&service.url));
    table.add_all(&origin);
    let may_send = has_tokens && !origin.is_some_and(|origin| origin.is_failed());
    if !check_connection(service, table).await {
        skip_responses("there is no connection to the server", table);
        return;
    }
    let http = match http_client(settings.ca_file.as_deref()) {
        Ok(http) => http.timeout(REQUEST_LIMIT),
        Err(error) => {
            let check = Check::failed("CA file", error_chain(&error))
                .expected("CA certificates in PEM")
                .advice("correct --ca-file (CA_FILE)");
            table.add(&check);
            skip_responses("the CA certificates cannot be used", table);
            return;
        }
    };
    if let Some(path) = &settings.ca_file {
        let found = format!(
            "certificates from CAs in {} are trusted, too",
            path.display()
        );
        table.add(&Check::passed("CA file", found));
    }
    // The open path is requested without a token if there is none.
    let identity = if may_send {
        settings.identity
    } else {
        ClientIdentity::None
    };
    let (client, sources) = match tokens.client(&service.url, http, identity).await {
        Ok(created) => created,
        Err(error) => {
            let check = Check::failed("client", error_chain(&error))
                .expected("a client that sends the token")
                .advice("see the checks above");
            table.add(&check);
            skip_responses("there is no client", table);
            return;
        }
    };
    check_responses(&client, &sources, service, may_send, table).await;
}

/// Requests both paths.
async fn check_responses(
    client: &Client,
    sources: &TokenSources,
    service: &Service,
    may_send: bool,
    table: &mut Table,
) {
    let sent = sources.current();
    let (checks, has_responded) = server::check_open_path(client, service, &sent).await;
    table.add_all(&checks);
    let guarded = if !has_responded {
        Check::skipped("guarded path", "there was no response on the open path")
    } else if !may_send {
        Check::skipped("guarded path", "there is no token to send")
    } else {
        server::check_guarded_path(client, service, &sent).await
    };
    table.add(&guarded);
}

/// Adds the checks of the server's responses as skipped.
fn skip_responses(reason: &str, table: &mut Table) {
    for name in ["TLS", "clock", "open path", "guarded path"] {
        table.add(&Check::skipped(name, reason));
    }
}

/// Checks the tokens of the identity. Returns whether they can be sent.
async fn check_tokens(
    tokens: &TokenSettings,
    identity: ClientIdentity,
    service: &Service,
    table: &mut Table,
) -> bool {
    match identity {
        ClientIdentity::None => true,
        ClientIdentity::Cluster => check_projected_token(tokens, service, table).await,
        ClientIdentity::Google => check_google_token(tokens, service, table).await,
        ClientIdentity::Ambient => check_ambient_token(tokens, service, table).await,
        ClientIdentity::Both => {
            let has_projected = check_projected_token(tokens, service, table).await;
            check_google_token(tokens, service, table).await && has_projected
        }
    }
}

async fn check_projected_token(
    tokens: &TokenSettings,
    service: &Service,
    table: &mut Table,
) -> bool {
    let Some(path) = &tokens.projected_path else {
        table.add(
            &Check::failed("token file", "no file is configured")
                .advice("set --token-path (TOKEN_PATH)"),
        );
        return false;
    };
    let (checks, token) = token_file::check(path).await;
    table.add_all(&checks);
    let Some(token) = token else {
        return false;
    };
    let is_valid = check_claims(&token, Platform::Kubernetes, service, table);
    table.add(&token_file::check_rotation(path).await);
    is_valid
}

async fn check_google_token(tokens: &TokenSettings, service: &Service, table: &mut Table) -> bool {
    let (name, provider, expected, advice) = match &tokens.google {
        GoogleSource::MetadataServer(_) => (
            "metadata",
            "the metadata server",
            "a token from Google's metadata server",
            "outside Google Cloud, set --google-credentials (GOOGLE_APPLICATION_CREDENTIALS) to a credential configuration, or --identity cluster (IDENTITY); otherwise check --metadata-host (METADATA_HOST) and the service account of the workload",
        ),
        GoogleSource::Federation { .. } => (
            "federation",
            "Google's workload identity federation",
            "a Google identity in exchange for the token that the credential configuration names",
            "correct what the error names: the file of --google-credentials (GOOGLE_APPLICATION_CREDENTIALS), the volume of the token, the provider, or the role on the service account",
        ),
    };
    let token = match tokens.google_token().await {
        Ok(source) => source.current(),
        Err(error) => {
            let check = Check::failed(name, error_chain(&error));
            table.add(&check.expected(expected).advice(advice));
            return false;
        }
    };
    let found = format!("{provider} returned a token for {:?}", service.audience);
    check_fetched_token(token, name, found, Platform::Google, service, table)
}

/// Checks which source of tokens the environment has, and its token.
async fn check_ambient_token(tokens: &TokenSettings, service: &Service, table: &mut Table) -> bool {
    let token = match tokens.ambient_token().await {
        Ok(token) => token,
        Err(error) => {
            let check = Check::failed("ambient", error_chain(&error))
                .expected("an environment with one source of tokens, and a token from it")
                .advice("set --identity (IDENTITY) to the identity that is meant, or correct the environment as the error says");
            table.add(&check);
            return false;
        }
    };
    let health = token.health();
    let source = health.source.map(|source| source.to_string());
    let found = format!(
        "{} ({}) returned a token for {:?}",
        source.unwrap_or_default(),
        health.reason,
        service.audience
    );
    let found = escape(&found).into_owned();
    let platform = Platform::Environment;
    check_fetched_token(token.current(), "ambient", found, platform, service, table)
}

/// Checks a token that was fetched. Returns whether it can be sent.
fn check_fetched_token(
    token: Result<Token, reqwest_wi_auth::Error>,
    name: &'static str,
    found: String,
    platform: Platform,
    service: &Service,
    table: &mut Table,
) -> bool {
    match token {
        Ok(token) => {
            table.add(&Check::passed(name, found));
            check_claims(&token, platform, service, table)
        }
        Err(error) => {
            let check = Check::failed(name, error_chain(&error))
                .expected("a token that has not expired")
                .advice("check this machine's clock");
            table.add(&check);
            false
        }
    }
}

/// Checks the claims of a token. Returns whether it can be sent.
fn check_claims(token: &Token, platform: Platform, service: &Service, table: &mut Table) -> bool {
    let now = SystemTime::now();
    let Some(claims) = UnverifiedClaims::parse(token) else {
        table
            .add(&Check::failed("claims", "the token's claims cannot be parsed").expected("a JWT"));
        return false;
    };
    table.add_all(&token::check(&claims, platform, service, now));
    // An expired token is not sent. Whether other claims are accepted is up to the server.
    !token.is_expired(now)
}

/// Checks whether a connection to the server can be established.
async fn check_connection(service: &Service, table: &mut Table) -> bool {
    let Some(target) = Target::for_url(&service.url) else {
        table.add(
            &Check::failed("DNS", format!("{:?} has no host", service.url))
                .advice("correct --service-url (SERVICE_URL)"),
        );
        return false;
    };
    table.add_all(&target.check_proxy());
    let (check, addresses) = target.check_dns().await;
    table.add(&check);
    if check.is_failed() {
        table.add(&Check::skipped("TCP", "the name has no address"));
        return false;
    }
    let check = network::check_tcp(&addresses).await;
    table.add(&check);
    !check.is_failed()
}
