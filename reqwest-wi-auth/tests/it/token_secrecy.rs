//! Tokens do not appear in logs, `Debug` output or errors.
#![cfg(unix)]

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::{client, token, wait_until};
use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{BearerAuth, ProjectedToken, TokenSource as _};

#[tokio::test]
async fn tokens_appear_in_no_log_debug_output_or_error() {
    if !is_child_process("token_secrecy::tokens_appear_in_no_log_debug_output_or_error") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::TRACE);

    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    let (first, second) = (token("first", 600), token("second", 600));
    kubelet.write([("token", &first)]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let server = Server::start().await;
    let auth = BearerAuth::for_origin(&server.url, source.clone()).unwrap();
    let mut output = format!("{source:?} {auth:?} {:?}", source.current());
    let client = client(auth);
    server.accept_only(&second);
    output.push_str(&format!("{:?}", client.get(&server.url).send().await));
    let mut changes = source.subscribe();
    kubelet.rotate("token", &second).unwrap();
    output.push_str(&format!("{:?} {changes:?}", changes.next().await));
    output.push_str(&format!("{:?}", client.get(&server.url).send().await));
    // An error might quote a truncated token.
    kubelet
        .rotate("token", &second[..second.len() / 2])
        .unwrap();
    wait_until("the error is detected", || {
        source.health().last_error.is_some()
    })
    .await;
    output.push_str(&format!("{:?} {source:?}", source.health()));
    if let Some(error) = source.health().last_error {
        output.push_str(&format!("{error}"));
    }

    let logged = log.text();
    assert!(logged.contains("new content"), "{logged}");
    for text in [&first, &second] {
        for part in text.split('.') {
            assert!(!output.contains(part), "{output}");
            assert!(!logged.contains(part), "{logged}");
        }
    }
}
