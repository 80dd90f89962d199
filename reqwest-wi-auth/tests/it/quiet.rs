//! What is logged when files are replaced. A program of its own with one test, since it sets the logger of the `log`
//! crate.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::{token, until};
use reqwest_wi_auth::ProjectedToken;
use reqwest_wi_auth::testing::Kubelet;

/// Writes the records of the `log` crate into a file, as a bridge to tracing would.
struct Bridge(Mutex<Option<File>>);

static BRIDGE: Bridge = Bridge(Mutex::new(None));

impl log::Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(file) = &mut *self.0.lock().unwrap() {
            writeln!(
                file,
                "{} {} {}",
                record.level(),
                record.target(),
                record.args()
            )
            .unwrap();
        }
    }

    fn flush(&self) {}
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_log_file_in_a_followed_folder_does_not_feed_itself() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let path = folder.path().join("all.log");
    let file = File::create(&path).unwrap();
    log::set_logger(&BRIDGE).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    *BRIDGE.0.lock().unwrap() = Some(file.try_clone().unwrap());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(Arc::new(file.try_clone().unwrap()))
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);

    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    source.file().reread().await.unwrap();
    let before = lines(&path).len();
    let mut other = File::create(folder.path().join("other.log")).unwrap();
    for number in 0..200 {
        writeln!(other, "line {number}").unwrap();
        tracing::trace!("one line of the program's own");
        source.file().reread().await.unwrap();
    }
    let after = lines(&path);
    assert_eq!(after.len(), before + 200, "{:?}", &after[before..]);

    // A rotation is worth one line, and the file watcher's own are not for its users.
    let before = after.len();
    let next = token("1", 600);
    let mut changes = source.subscribe();
    std::fs::write(folder.path().join("token.new"), &next).unwrap();
    std::fs::rename(folder.path().join("token.new"), kubelet.path("token")).unwrap();
    changes.next().await.unwrap();
    source.file().reread().await.unwrap();
    let new = lines(&path).split_off(before);
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].contains("new content"), "{new:?}");

    // Neither are folders that go, as at each rotation of the kubelet's.
    let second = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(second.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let before = lines(&path).len();
    for rotation in 1..=10 {
        let next = token(&rotation.to_string(), 600);
        let mut changes = source.subscribe();
        kubelet.rotate("token", &next).unwrap();
        changes.next().await.unwrap();
    }
    source.file().reread().await.unwrap();
    drop(source);
    until("all is said", || {
        let count = lines(&path).split_off(before).len();
        count >= 10
    })
    .await;
    let new = lines(&path).split_off(before);
    assert!(
        new.iter().all(|line| line.contains("new content")),
        "{new:?}"
    );
    assert_eq!(new.len(), 10, "{new:?}");
}
