//! Identity tokens from the metadata server.

use std::time::{Duration, Instant};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::{advance_clock, client, signed, wait_until};
use http::StatusCode;
use reqwest_wi_auth::testing::{FakeMetadataServer, Fault};
use reqwest_wi_auth::{BearerAuth, Error, MetadataError, MetadataServer, TokenSource as _};

const AUDIENCE: &str = "https://auth-server.example";

/// Starts a fake server, and returns it with a client.
async fn servers() -> (FakeMetadataServer, MetadataServer) {
    let fake = FakeMetadataServer::start().await.unwrap();
    let metadata = MetadataServer::with_host(fake.host()).unwrap();
    (fake, metadata)
}

#[tokio::test]
async fn a_token_for_the_audience_is_fetched_and_kept() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    assert!(first.expires_at().is_some());
    for _ in 0..100 {
        assert_eq!(source.current().unwrap(), first);
    }
    assert_eq!(fake.request_count(), 1);
    let health = source.health();
    assert!(health.present && health.last_rotation.is_some() && health.last_error.is_none());
}

#[tokio::test]
async fn a_hundred_concurrent_callers_cause_one_request() {
    let (fake, metadata) = servers().await;
    let source = metadata.start(AUDIENCE);
    assert!(matches!(source.current(), Err(Error::NotFetched { .. })));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { source.refresh(None).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    advance_clock(Duration::from_secs(60)).await;
    source.current().unwrap();
    assert_eq!(fake.request_count(), 1);
}

#[tokio::test]
async fn errors_in_the_first_seconds_of_a_pod_are_retried() {
    let (fake, metadata) = servers().await;
    for status in [
        StatusCode::NOT_FOUND,
        StatusCode::FORBIDDEN,
        StatusCode::SERVICE_UNAVAILABLE,
    ] {
        fake.set_fault(Some(Fault::Status(status)));
        let before = fake.request_count();
        let source = metadata.start(AUDIENCE);
        wait_until("two requests have failed", || {
            fake.request_count() >= before + 2
        })
        .await;
        assert!(source.health().last_error.is_some());
        fake.set_fault(None);
        source
            .refresh(None)
            .await
            .expect("a token after the errors");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_reported_within_seconds() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = unused.local_addr().unwrap().to_string();
    drop(unused);
    let began = Instant::now();
    let error = MetadataServer::with_host(&host)
        .unwrap()
        .open(AUDIENCE)
        .await
        .unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10));
    let is_unreachable = matches!(&error, Error::Metadata(MetadataError::Unreachable { .. }));
    assert!(is_unreachable, "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("not run on Google Cloud") && text.contains(&host),
        "{text}"
    );
}

#[tokio::test]
async fn a_response_without_the_flavor_header_is_an_error() {
    let (fake, metadata) = servers().await;
    fake.set_fault(Some(Fault::MissingFlavor));
    let error = metadata.open(AUDIENCE).await.unwrap_err();
    assert!(
        matches!(&error, Error::Metadata(MetadataError::MissingFlavor { .. })),
        "{error:?}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn redirects_and_bodies_that_are_not_tokens_are_errors() {
    let (fake, metadata) = servers().await;
    for fault in [Fault::Redirect, Fault::InvalidToken] {
        fake.set_fault(Some(fault));
        let source = metadata.start(AUDIENCE);
        wait_until("a request has failed", || {
            source.health().last_error.is_some()
        })
        .await;
        assert!(source.current().is_err());
    }
}

#[tokio::test]
async fn the_token_is_kept_while_renewals_fail() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    fake.set_fault(Some(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)));
    advance_clock(Duration::from_secs(3100)).await;
    wait_until("the renewal has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    assert_eq!(source.current().unwrap(), first);
    fake.set_fault(None);
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
    assert!(source.health().last_error.is_none());
}

#[tokio::test]
async fn a_cached_token_is_renewed_according_to_its_exp() {
    let (fake, metadata) = servers().await;
    fake.set_token_lifetime(Duration::from_secs(100));
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    advance_clock(Duration::from_secs(70)).await;
    assert_eq!(
        fake.request_count(),
        1,
        "not before 75 % of the remaining lifetime"
    );
    advance_clock(Duration::from_secs(20)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_respond_times_out() {
    let (fake, metadata) = servers().await;
    fake.set_fault(Some(Fault::NoResponse));
    let source = metadata.start(AUDIENCE);
    wait_until("a request is sent", || fake.request_count() == 1).await;
    tokio::time::pause();
    let error = source.refresh(None).await.unwrap_err();
    tokio::time::resume();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn concurrent_rejections_cause_one_request() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let rejected = source.current().unwrap();
    // The server returns the same token again, as if it was cached.
    let text = rejected
        .header()
        .to_str()
        .unwrap()
        .trim_start_matches("Bearer ")
        .to_owned();
    fake.set_token_fn(move |_| text.clone());
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (source, rejected) = (source.clone(), rejected.clone());
            tokio::spawn(async move { source.refresh(Some(&rejected)).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), rejected);
    }
    assert_eq!(fake.request_count(), 2);
}

#[tokio::test]
async fn one_metadata_server_provides_tokens_for_several_audiences() {
    let (fake, metadata) = servers().await;
    let (orders, stock) = (Server::start().await, Server::start().await);
    let for_orders = metadata.open("https://orders.example").await.unwrap();
    let for_stock = metadata.open("https://stock.example").await.unwrap();
    let auth = BearerAuth::for_origin(&orders.url, for_orders.clone()).unwrap();
    let client = client(auth.and_origin(&stock.url, for_stock.clone()).unwrap());
    client.get(&orders.url).send().await.unwrap();
    client.get(&stock.url).send().await.unwrap();
    for (server, source) in [(orders, for_orders), (stock, for_stock)] {
        let sent = server.take_authorization().remove(0).unwrap();
        assert_eq!(sent, source.current().unwrap().header().to_str().unwrap());
    }
    assert_eq!(fake.request_count(), 2);
}

#[tokio::test]
async fn no_token_is_fetched_after_shutdown() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    source.shutdown().await;
    advance_clock(Duration::from_secs(7200)).await;
    assert_eq!(fake.request_count(), 1);
    assert!(source.changed().await.is_none());
}

#[test]
fn an_invalid_host_is_rejected() {
    for host in ["", "a b", "host/path", "user@host", "host?query"] {
        let error = MetadataServer::with_host(host).unwrap_err();
        let is_host = matches!(error, Error::Metadata(MetadataError::InvalidHost { .. }));
        assert!(is_host, "{host:?}: {error:?}");
        assert!(!error.is_transient());
    }
}

#[test]
fn brackets_around_an_ipv6_address_are_optional() {
    for (host, expected) in [
        ("fd20:ce::254", "[fd20:ce::254]"),
        ("::1", "[::1]"),
        ("[fd20:ce::254]", "[fd20:ce::254]"),
        ("[fd20:ce::254]:8080", "[fd20:ce::254]:8080"),
    ] {
        let metadata = MetadataServer::with_host(host).unwrap();
        let source = format!("{:?}", metadata.start("a"));
        assert!(source.contains(&format!("{expected} for")), "{source}");
    }
    for host in ["fd20:ce::254::1", "fd20:ce:::254", "[fd20:ce::254", "::1]"] {
        assert!(MetadataServer::with_host(host).is_err(), "{host:?}");
    }
}

#[tokio::test]
async fn a_token_for_another_audience_is_an_error() {
    let (fake, metadata) = servers().await;
    for claims in [
        r#"{"exp":4000000000,"aud":"https://other.example"}"#,
        r#"{"exp":4000000000,"aud":["https://other.example"]}"#,
        r#"{"exp":4000000000}"#,
    ] {
        fake.set_token_fn(move |_| signed(claims));
        let source = metadata.start(AUDIENCE);
        wait_until("a request has failed", || {
            source.health().last_error.is_some()
        })
        .await;
        let error = source.health().last_error.unwrap();
        let is_audience = matches!(&error, Error::Metadata(MetadataError::WrongAudience { .. }));
        assert!(is_audience, "{error:?}");
        assert!(error.to_string().contains(AUDIENCE), "{error}");
        assert!(source.current().is_err());
    }
}

#[tokio::test]
async fn an_older_cached_token_does_not_replace_the_current_one() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    fake.set_token_lifetime(Duration::from_secs(100));
    let before = fake.request_count();
    advance_clock(Duration::from_secs(3100)).await;
    wait_until("another request is sent", || fake.request_count() > before).await;
    assert_eq!(source.current().unwrap(), first);
    let refreshed = source.refresh(Some(&first)).await.unwrap();
    assert_ne!(
        refreshed, first,
        "a rejected token is replaced nevertheless"
    );
}

#[tokio::test]
async fn repeated_errors_of_the_same_cause_are_logged_as_one_warning() {
    if !is_child_process(
        "metadata_server::repeated_errors_of_the_same_cause_are_logged_as_one_warning",
    ) {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::WARN);
    let (fake, metadata) = servers().await;
    fake.set_fault(Some(Fault::Status(StatusCode::NOT_FOUND)));
    let source = metadata.start(AUDIENCE);
    wait_until("several requests have failed", || fake.request_count() >= 4).await;
    fake.set_fault(Some(Fault::InvalidToken));
    let before = fake.request_count();
    wait_until("requests have failed for another reason", || {
        fake.request_count() >= before + 2
    })
    .await;
    fake.set_fault(None);
    source.refresh(None).await.unwrap();
    let warnings = log.text();
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
}

/// Runs in a child process, whose environment contains a proxy that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_from_the_environment_is_contacted_without_a_proxy() {
    const CHILD: &str = "TEST_RUNS_WITH_A_PROXY";
    if std::env::var_os(CHILD).is_some() {
        MetadataServer::new().unwrap().open(AUDIENCE).await.unwrap();
        return;
    }
    let (fake, _) = servers().await;
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "metadata_server::the_host_from_the_environment_is_contacted_without_a_proxy",
            "--exact",
        ])
        .env(CHILD, "1")
        .env("GCE_METADATA_HOST", fake.host())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fake.request_count(), 1);
}
