//! Checks what the server responds: TLS, its clock, the open path and the guarded one.

use std::time::SystemTime;

use super::report::Check;
use crate::client::failure::Failure;
use crate::client::rejection::{self, CLOCK_TOLERANCE, SentToken};
use crate::client::settings::Service;
use crate::client::{Client, Endpoint, Response};
use crate::error_chain;

type RequestResult = Result<Response, reqwest_middleware::Error>;

/// Requests the open path. Returns the checks of TLS, of the server's clock and of the path, and whether there was a
/// response.
pub(super) async fn check_open_path(
    client: &Client,
    service: &Service,
    sent: &[SentToken],
) -> (Vec<Check>, bool) {
    let result = client.get(Endpoint::Open).await;
    let checks = vec![
        check_tls(service, &result),
        check_clock(&result),
        check_path("open path", Endpoint::Open, service, &result, sent),
    ];
    (checks, result.is_ok())
}

/// Requests the guarded path.
pub(super) async fn check_guarded_path(
    client: &Client,
    service: &Service,
    sent: &[SentToken],
) -> Check {
    let result = client.get(Endpoint::Private).await;
    check_path("guarded path", Endpoint::Private, service, &result, sent)
}

fn check_tls(service: &Service, result: &RequestResult) -> Check {
    if service.url.starts_with("http:") {
        return Check::skipped("TLS", "the URL starts with http");
    }
    match result {
        Ok(_) => Check::passed(
            "TLS",
            format!("the certificate of {} is valid and trusted", service.host()),
        ),
        Err(error) => {
            let failure = Failure::classify_request(error);
            match failure {
                Failure::Certificate(_) | Failure::NotTls | Failure::Tls => {
                    failed("TLS", &failure, service, error)
                        .expected("a certificate for this host from a trusted CA")
                }
                _ => Check::skipped("TLS", "there was no response"),
            }
        }
    }
}

fn check_clock(result: &RequestResult) -> Check {
    let clock = result.as_ref().map(|response| response.details.clock);
    match clock {
        Ok(Some(clock)) if clock.duration() > CLOCK_TOLERANCE => {
            Check::warning("clock", clock.describe())
                .expected(format!("a difference of at most {} s", CLOCK_TOLERANCE.as_secs()))
                .advice("synchronize both clocks (NTP): with a wrong clock, a valid token seems expired, or not valid yet")
        }
        Ok(Some(clock)) => Check::passed("clock", clock.describe()),
        Ok(None) => Check::skipped("clock", "the response has no valid header `Date`"),
        Err(_) => Check::skipped("clock", "there was no response"),
    }
}

fn check_path(
    name: &'static str,
    endpoint: Endpoint,
    service: &Service,
    result: &RequestResult,
    sent: &[SentToken],
) -> Check {
    let path = endpoint.path();
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            let failure = Failure::classify_request(error);
            return failed(name, &failure, service, error).expected("200");
        }
    };
    let mut found = format!("GET {path}: {}", rejection::status_line(response.status));
    if response.status == 200 {
        return Check::passed(name, found);
    }
    let body = rejection::informative_body(response);
    let body = Some(body.into_owned()).filter(|body| !body.is_empty());
    let mut separator = ": ";
    for part in [rejection::reason(response), body].into_iter().flatten() {
        found.push_str(separator);
        found.push_str(&part);
        separator = "; ";
    }
    let check = Check::failed(name, found).expected("200");
    match rejection::advice(response, sent, SystemTime::now()) {
        Some(advice) => check.advice(advice),
        None => check.advice("see the server's log"),
    }
}

fn failed(
    name: &'static str,
    failure: &Failure,
    service: &Service,
    error: &reqwest_middleware::Error,
) -> Check {
    let causes = error_chain(error);
    let found = match failure.summary(&service.host()) {
        Some(summary) => format!("{summary}: {causes}"),
        None => causes,
    };
    let check = Check::failed(name, found);
    match failure.advice() {
        Some(advice) => check.advice(advice),
        None => check,
    }
}
