//! Identity tokens from the metadata server.

use std::time::{Duration, Instant};

use crate::support::{Server, client, later, until};
use http::StatusCode;
use reqwest_wi_auth::testing::{FakeMetadataServer, Fault};
use reqwest_wi_auth::{BearerAuth, Error, MetadataError, MetadataServer, Token, TokenSource as _};

const AUDIENCE: &str = "https://auth-server.example";

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
async fn a_hundred_cold_callers_make_one_request() {
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
    later(Duration::from_secs(60)).await;
    source.current().unwrap();
    assert_eq!(fake.request_count(), 1);
}

#[tokio::test]
async fn the_first_seconds_of_a_pod_are_waited_through() {
    let (fake, metadata) = servers().await;
    for status in [
        StatusCode::NOT_FOUND,
        StatusCode::FORBIDDEN,
        StatusCode::SERVICE_UNAVAILABLE,
    ] {
        fake.set_fault(Some(Fault::Status(status)));
        let before = fake.request_count();
        let source = metadata.start(AUDIENCE);
        until("it has been refused twice", || {
            fake.request_count() >= before + 2
        })
        .await;
        assert!(source.health().last_error.is_some());
        fake.set_fault(None);
        source
            .refresh(None)
            .await
            .expect("a first failure poisons nothing");
    }
}

#[tokio::test]
async fn where_nothing_answers_the_error_says_soon_that_this_is_not_google_cloud() {
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
    let unreachable = matches!(&error, Error::Metadata(MetadataError::Unreachable { .. }));
    assert!(unreachable, "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("not run on Google Cloud") && text.contains(&host),
        "{text}"
    );
}

#[tokio::test]
async fn what_answers_without_the_flavor_is_not_believed() {
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
async fn a_redirect_is_not_followed_and_garbage_is_no_token() {
    let (fake, metadata) = servers().await;
    for fault in [Fault::Redirect, Fault::InvalidToken] {
        fake.set_fault(Some(fault));
        let source = metadata.start(AUDIENCE);
        until("it has been tried", || source.health().last_error.is_some()).await;
        assert!(source.current().is_err());
    }
}

#[tokio::test]
async fn a_later_failure_leaves_the_token_in_use_and_is_no_fixed_outage() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    fake.set_fault(Some(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)));
    later(Duration::from_secs(3100)).await;
    until("the renewal has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    assert_eq!(source.current().unwrap(), first);
    fake.set_fault(None);
    until("the renewal has been made up for", || {
        source.current().unwrap() != first
    })
    .await;
    assert!(source.health().last_error.is_none());
}

#[tokio::test]
async fn a_token_from_the_server_s_cache_is_renewed_by_its_exp_and_not_by_the_fetch() {
    let (fake, metadata) = servers().await;
    fake.set_token_lifetime(Duration::from_secs(100));
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    later(Duration::from_secs(70)).await;
    assert_eq!(
        fake.request_count(),
        1,
        "not before three quarters of its life"
    );
    later(Duration::from_secs(20)).await;
    until("it is renewed", || source.current().unwrap() != first).await;
}

#[tokio::test]
async fn a_silent_server_holds_nobody_up_for_ever() {
    let (fake, metadata) = servers().await;
    fake.set_fault(Some(Fault::NoResponse));
    let source = metadata.start(AUDIENCE);
    until("it is asked", || fake.request_count() == 1).await;
    tokio::time::pause();
    let error = source.refresh(None).await.unwrap_err();
    tokio::time::resume();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn rejected_tokens_have_the_server_asked_once_for_all_and_not_again_and_again() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let rejected = source.current().unwrap();
    // The server hands out the same token again, as from its cache.
    let text = rejected
        .header()
        .to_str()
        .unwrap()
        .trim_start_matches("Bearer ")
        .to_owned();
    fake.set_token_fn(move |_| text.clone());
    let callers = (0..50).map(|_| source.refresh(Some(&rejected)));
    for refreshed in join_all(callers).await {
        assert_eq!(refreshed.unwrap(), rejected);
    }
    assert_eq!(fake.request_count(), 2);
}

async fn join_all<F: Future<Output = Result<Token, Error>>>(
    futures: impl Iterator<Item = F>,
) -> Vec<Result<Token, Error>> {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        pending.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                done.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

#[tokio::test]
async fn one_metadata_server_serves_an_audience_per_origin() {
    let (fake, metadata) = servers().await;
    let (orders, stock) = (Server::start().await, Server::start().await);
    let for_orders = metadata.open("https://orders.example").await.unwrap();
    let for_stock = metadata.open("https://stock.example").await.unwrap();
    let auth = BearerAuth::for_origin(&orders.url, for_orders.clone()).unwrap();
    let client = client(auth.and_origin(&stock.url, for_stock.clone()).unwrap());
    client.get(&orders.url).send().await.unwrap();
    client.get(&stock.url).send().await.unwrap();
    for (server, source) in [(orders, for_orders), (stock, for_stock)] {
        let sent = server.take_seen().remove(0).unwrap();
        assert_eq!(sent, source.current().unwrap().header().to_str().unwrap());
    }
    assert_eq!(fake.request_count(), 2);
}

#[tokio::test]
async fn after_shutdown_the_server_is_asked_no_more() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    source.shutdown().await;
    later(Duration::from_secs(7200)).await;
    assert_eq!(fake.request_count(), 1);
    assert!(source.changed().await.is_none());
}

#[test]
fn a_host_that_is_none_is_refused() {
    for host in ["", "a b", "host/path", "user@host", "host?query"] {
        assert!(MetadataServer::with_host(host).is_err(), "{host:?}");
    }
}

#[test]
fn an_ipv6_address_may_lack_its_brackets() {
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
async fn a_token_for_another_audience_is_refused() {
    let (fake, metadata) = servers().await;
    for claims in [
        r#"{"exp":4000000000,"aud":"https://other.example"}"#,
        r#"{"exp":4000000000,"aud":["https://other.example"]}"#,
        r#"{"exp":4000000000}"#,
    ] {
        fake.set_token_fn(move |_| crate::support::signed(claims));
        let source = metadata.start(AUDIENCE);
        until("it has been tried", || source.health().last_error.is_some()).await;
        let error = source.health().last_error.unwrap();
        let is_audience = matches!(&error, Error::Metadata(MetadataError::WrongAudience { .. }));
        assert!(is_audience, "{error:?}");
        assert!(error.to_string().contains(AUDIENCE), "{error}");
        assert!(source.current().is_err());
    }
}

#[tokio::test]
async fn an_older_token_from_the_server_s_cache_does_not_replace_the_one_in_use() {
    let (fake, metadata) = servers().await;
    let source = metadata.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    fake.set_token_lifetime(Duration::from_secs(100));
    let before = fake.request_count();
    later(Duration::from_secs(3100)).await;
    until("it is asked again", || fake.request_count() > before).await;
    assert_eq!(source.current().unwrap(), first);
    let refreshed = source.refresh(Some(&first)).await.unwrap();
    assert_ne!(refreshed, first, "a rejected one is replaced all the same");
}

#[tokio::test]
async fn failures_of_one_kind_are_warned_of_once() {
    let log = crate::support::log::Log::default();
    let _subscribed = log.subscribe(tracing::Level::WARN);
    let (fake, metadata) = servers().await;
    fake.set_fault(Some(Fault::Status(StatusCode::NOT_FOUND)));
    let source = metadata.start(AUDIENCE);
    until("it has failed often", || fake.request_count() >= 4).await;
    fake.set_fault(Some(Fault::InvalidToken));
    let before = fake.request_count();
    until("it has failed otherwise", || {
        fake.request_count() >= before + 2
    })
    .await;
    fake.set_fault(None);
    source.refresh(None).await.unwrap();
    let warnings = log.text();
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
}

/// Runs itself once more, with a proxy in the environment that nobody listens at.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_the_environment_names_is_asked_past_any_proxy() {
    const INNER: &str = "INNER_RUN_WITH_A_PROXY";
    if std::env::var_os(INNER).is_some() {
        MetadataServer::new().unwrap().open(AUDIENCE).await.unwrap();
        return;
    }
    let (fake, _) = servers().await;
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "metadata::the_server_that_the_environment_names_is_asked_past_any_proxy",
            "--exact",
        ])
        .env(INNER, "1")
        .env("GCE_METADATA_HOST", fake.host())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fake.request_count(), 1);
}
