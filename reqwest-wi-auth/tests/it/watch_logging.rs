//! Log output when watched files are replaced. There is a single test, because it sets the global logger of the `log` crate.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::process::is_child_process;
use crate::support::{token, wait_until};
use reqwest_wi_auth::ProjectedToken;
use reqwest_wi_auth::testing::Kubelet;

/// Writes the records of the `log` crate to a file, like a bridge to `tracing`.
struct LogFile(Mutex<Option<File>>);

static LOG_FILE: LogFile = LogFile(Mutex::new(None));

impl log::Log for LogFile {
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
async fn a_log_file_in_a_watched_directory_causes_no_loop() {
    if !is_child_process("watch_logging::a_log_file_in_a_watched_directory_causes_no_loop") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    kubelet.write([("token", token("0", 600))]).unwrap();
    let path = directory.path().join("all.log");
    let file = File::create(&path).unwrap();
    log::set_logger(&LOG_FILE).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    *LOG_FILE.0.lock().unwrap() = Some(file.try_clone().unwrap());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(Arc::new(file.try_clone().unwrap()))
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);

    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    source.file().reread().await.unwrap();
    let before = lines(&path).len();
    let mut other = File::create(directory.path().join("other.log")).unwrap();
    for number in 0..200 {
        writeln!(other, "line {number}").unwrap();
        tracing::trace!("a line of the application");
        source.file().reread().await.unwrap();
    }
    let after = lines(&path);
    assert_eq!(after.len(), before + 200, "{:?}", &after[before..]);

    // A rotation is one line. The watcher logs nothing.
    let before = after.len();
    let next = token("1", 600);
    let mut changes = source.subscribe();
    std::fs::write(directory.path().join("token.new"), &next).unwrap();
    std::fs::rename(directory.path().join("token.new"), kubelet.path("token")).unwrap();
    changes.next().await.unwrap();
    source.file().reread().await.unwrap();
    let new = lines(&path).split_off(before);
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].contains("new content"), "{new:?}");

    // The removal of directories, as in each rotation by the kubelet, is not logged.
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
    wait_until("the rotations are logged", || {
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
