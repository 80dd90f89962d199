//! What is counted, under the names that are documented.
#![cfg(all(feature = "metrics", unix))]

use std::collections::BTreeMap;

use crate::support::{Server, Tokens, client, token, until};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use reqwest_wi_auth::testing::{FakeMetadataServer, Fault, Kubelet};
use reqwest_wi_auth::{BearerAuth, MetadataServer, ProjectedToken};

async fn story() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = source.subscribe();
    kubelet.rotate("token", token("1", 600)).unwrap();
    changes.next().await.unwrap();
    kubelet.rotate("token", "no token").unwrap();
    until("the fault is seen", || source.health().last_error.is_some()).await;

    let fake = FakeMetadataServer::start().await.unwrap();
    fake.set_fault(Some(Fault::InvalidToken));
    let identity = MetadataServer::with_host(fake.host())
        .unwrap()
        .start("https://a.example");
    until("it fails", || identity.health().last_error.is_some()).await;
    fake.set_fault(None);
    until("it is fetched", || identity.health().present).await;

    let server = Server::start().await;
    let (old, new) = (token("old", 600), token("new", 600));
    server.accept_only(&new);
    let auth = BearerAuth::for_origin(&server.url, Tokens::two(&old, &new)).unwrap();
    assert_eq!(
        client(auth).get(&server.url).send().await.unwrap().status(),
        200
    );
}

#[test]
fn rotations_failures_fetches_and_resends_are_counted() {
    let recorder = DebuggingRecorder::new();
    let counted = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(story()));
    let mut counts = BTreeMap::new();
    for (key, _, _, value) in counted.snapshot().into_vec() {
        let DebugValue::Counter(count) = value else {
            panic!("only counters")
        };
        let key = key.key();
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        counts.insert(format!("{} {}", key.name(), labels.join(" ")), count);
    }
    assert_eq!(counts["reqwest_wi_auth_file_changes_total "], 1);
    assert!(counts["reqwest_wi_auth_file_failures_total "] >= 1);
    assert_eq!(counts["reqwest_wi_auth_metadata_fetches_total ok"], 1);
    assert!(counts["reqwest_wi_auth_metadata_fetches_total failed"] >= 1);
    assert_eq!(counts["reqwest_wi_auth_resends_total "], 1);
    assert_eq!(counts.len(), 5, "{counts:?}");
}
