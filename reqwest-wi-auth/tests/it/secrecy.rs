//! A token shows nowhere.
#![cfg(unix)]

use std::io;
use std::sync::{Arc, Mutex};

use crate::support::{Server, client, token, until};
use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{BearerAuth, ProjectedToken, TokenSource as _};

/// Everything that is logged, at any level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_token_shows_neither_in_logs_nor_in_debug_nor_in_errors() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);

    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    let (first, second) = (token("first", 600), token("second", 600));
    kubelet.write([("token", &first)]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let server = Server::start().await;
    let auth = BearerAuth::for_origin(&server.url, source.clone()).unwrap();
    let mut seen = format!("{source:?} {auth:?} {:?}", source.current());
    let client = client(auth);
    server.accept_only(&second);
    seen.push_str(&format!("{:?}", client.get(&server.url).send().await));
    let mut changes = source.subscribe();
    kubelet.rotate("token", &second).unwrap();
    seen.push_str(&format!("{:?} {changes:?}", changes.next().await));
    seen.push_str(&format!("{:?}", client.get(&server.url).send().await));
    // Half a token, which an error might quote.
    kubelet
        .rotate("token", &second[..second.len() / 2])
        .unwrap();
    until("the fault is seen", || source.health().last_error.is_some()).await;
    seen.push_str(&format!("{:?} {source:?}", source.health()));
    if let Some(error) = source.health().last_error {
        seen.push_str(&format!("{error}"));
    }

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("new content"), "{logged}");
    for text in [&first, &second] {
        for part in text.split('.') {
            assert!(!seen.contains(part), "{seen}");
            assert!(!logged.contains(part), "{logged}");
        }
    }
}
