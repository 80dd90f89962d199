//! The documented metrics.
#![cfg(all(feature = "metrics", unix))]

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::support::server::Server;
use crate::support::sources::Tokens;
use crate::support::volume::token_volume;
use crate::support::{client, current_thread_runtime, token, wait_until};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use reqwest_wi_auth::testing::{FakeMetadataServer, Fault};
use reqwest_wi_auth::{BearerAuth, FetchedToken, MetadataServer, ProjectedToken};

/// Causes each event that is counted.
async fn cause_events() -> FetchedToken {
    let (_directory, kubelet) = token_volume();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = source.subscribe();
    kubelet.rotate("token", token("1", 600)).unwrap();
    changes.next().await.unwrap();
    kubelet.rotate("token", "not a token").unwrap();
    wait_until("the error is detected", || {
        source.health().last_error.is_some()
    })
    .await;

    let fake = FakeMetadataServer::start().await.unwrap();
    fake.set_fault(Some(Fault::InvalidToken));
    let identity = MetadataServer::with_host(fake.host())
        .unwrap()
        .start("https://counted.example");
    wait_until("a request has failed", || {
        identity.health().last_error.is_some()
    })
    .await;
    fake.set_fault(None);
    wait_until("a token is fetched", || identity.health().present).await;

    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Tokens::two(&old, &new)).unwrap();
    assert_eq!(
        client(auth).get(&server.url).send().await.unwrap().status(),
        200
    );
    identity
}

#[test]
fn rotations_failures_fetches_and_resends_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = current_thread_runtime();
    let identity = metrics::with_local_recorder(&recorder, || runtime.block_on(cause_events()));
    let (mut counts, mut gauges) = (BTreeMap::new(), BTreeMap::new());
    for (key, _, help, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        assert!(help.is_some(), "{} has no help text", key.name());
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        match value {
            DebugValue::Counter(count) => {
                counts.insert(format!("{} {}", key.name(), labels.join(" ")), count);
            }
            DebugValue::Gauge(value) => {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|label| label.rsplit('/').next().unwrap())
                    .collect();
                gauges.insert(format!("{} {}", key.name(), labels.join(" ")), value.0);
            }
            DebugValue::Histogram(_) => panic!("there are no histograms"),
        }
    }
    assert_eq!(counts["reqwest_wi_auth_file_changes_total "], 1);
    assert!(counts["reqwest_wi_auth_file_failures_total "] >= 1);
    assert_eq!(counts["reqwest_wi_auth_metadata_fetches_total ok"], 1);
    assert!(counts["reqwest_wi_auth_metadata_fetches_total failed"] >= 1);
    assert_eq!(counts["reqwest_wi_auth_resends_total "], 1);
    assert_eq!(counts.len(), 5, "{counts:?}");

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs_f64();
    let is_about = |name: &str, expected: f64| {
        let found = gauges[name];
        assert!(
            (found - expected).abs() < 60.0,
            "{name}: {found}, expected {expected}"
        );
    };
    // The last content of the token file was invalid.
    assert_eq!(
        gauges["reqwest_wi_auth_file_last_read_successful token"],
        0.0
    );
    is_about(
        "reqwest_wi_auth_file_last_change_timestamp_seconds token",
        now,
    );
    is_about(
        "reqwest_wi_auth_token_expiry_timestamp_seconds token",
        now + 600.0,
    );
    assert_eq!(
        gauges["reqwest_wi_auth_metadata_last_fetch_successful counted.example"],
        1.0
    );
    assert!(gauges["reqwest_wi_auth_token_expiry_timestamp_seconds counted.example"] > now);

    // Nothing is known about the tokens of a source that no longer exists.
    metrics::with_local_recorder(&recorder, || drop(identity));
    let gauges = snapshotter.snapshot().into_vec();
    let of_source = gauges.iter().filter(|(key, ..)| {
        let mut labels = key.key().labels();
        labels.any(|label| label.value() == "https://counted.example")
    });
    let values: Vec<_> = of_source.map(|(.., value)| value).collect();
    assert!(values.len() >= 2, "{values:?}");
    for value in values {
        assert!(
            matches!(value, DebugValue::Gauge(value) if value.is_nan()),
            "{value:?}"
        );
    }
}
