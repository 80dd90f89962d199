//! Reads that block, and paths that are not regular files.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use crate::support::{bearer, token, until};
use reqwest_wi_auth::{Error, FileError, ProjectedToken, TokenSource as _, WatchedFile};

const SHORT: Duration = Duration::from_millis(50);

/// Reads a file, unless it is closed: then it blocks until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn set(&self, is_closed: bool) {
        *self.0.0.lock().unwrap() = is_closed;
        self.0.1.notify_all();
    }

    fn reader(&self) -> impl Fn(&Path) -> std::io::Result<Vec<u8>> + Send + Sync + 'static {
        let gate = self.clone();
        move |path| {
            let closed = gate.0.0.lock().unwrap();
            drop(gate.0.1.wait_while(closed, |closed| *closed).unwrap());
            std::fs::read(path)
        }
    }
}

fn token_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, token("0", 600)).unwrap();
    (folder, path)
}

/// Threads of this process that read a file.
fn reading_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "read-file").count()
}

/// Runs something on a thread, and fails if it does not end.
fn ends<R: Send + 'static>(what: &str, work: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    let ended = receiver.recv_timeout(Duration::from_secs(20));
    ended.unwrap_or_else(|_| panic!("does not end: {what}"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn what_is_not_a_regular_file_is_refused_with_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (fifo, "a FIFO"),
        (link, "a FIFO"),
        (socket, "a socket"),
        (folder.path().to_owned(), "a directory"),
        (PathBuf::from("/dev/zero"), "a device"),
        (PathBuf::from("/dev/null"), "a device"),
    ];
    for (path, name) in cases {
        let told = ends(name, move || {
            let opening = ProjectedToken::builder(path).startup_limit(SHORT).open();
            runtime().block_on(opening).unwrap_err().to_string()
        });
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn a_followed_file_that_is_replaced_by_a_fifo_keeps_its_last_value() {
    let (_folder, path) = token_file();
    ends("a FIFO in the place of a file", move || {
        let runtime = runtime();
        runtime.block_on(async {
            let source = ProjectedToken::open(&path).await.unwrap();
            std::fs::remove_file(&path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
            let error = source.file().reread().await.unwrap_err().to_string();
            assert!(error.contains("a FIFO"), "{error}");
            assert!(source.current().is_ok());
            std::fs::remove_file(&path).unwrap();
            let next = token("1", 600);
            std::fs::write(&path, &next).unwrap();
            until("it is read again", || {
                source.current().unwrap().header().to_str().ok() == bearer(&next).as_deref()
            })
            .await;
        });
    });
}

#[test]
fn an_opening_whose_read_blocks_ends_at_its_limit_and_no_runtime_waits_for_the_read() {
    let (_folder, path) = token_file();
    let gate = Gate::default();
    gate.set(true);
    let read = gate.reader();
    let error = ends("opening, and the end of the runtime", move || {
        let runtime = runtime();
        let opening = ProjectedToken::builder(path)
            .reader(read)
            .startup_limit(SHORT)
            .open();
        let error = runtime.block_on(opening).unwrap_err();
        drop(runtime);
        error
    });
    let Error::File(FileError::StartupTimeout { source, .. }) = &error else {
        panic!("{error:?}");
    };
    assert!(source.to_string().contains("took more than"), "{error}");
    gate.set(false);
}

#[test]
fn a_refresh_whose_read_blocks_ends_and_so_do_shutdown_and_runtime() {
    let (_folder, path) = token_file();
    let gate = Gate::default();
    let read = gate.reader();
    let closed = gate.clone();
    ends("refresh, shutdown, and the end of the runtime", move || {
        let runtime = runtime();
        runtime.block_on(async {
            let opening = ProjectedToken::builder(path).reader(read).read_limit(SHORT);
            let source = opening.open().await.unwrap();
            let current = source.current().unwrap();
            closed.set(true);
            let refreshed = source.refresh(Some(&current)).await;
            assert_eq!(refreshed.unwrap(), current, "the last good token stays");
            let error = source.file().reread().await.unwrap_err();
            assert!(error.to_string().contains("took more than"), "{error}");
            source.shutdown().await;
        });
        // A read without a limit of its own.
        drop(runtime);
    });
    gate.set(false);
}

#[test]
fn the_end_of_a_runtime_does_not_wait_for_a_read_that_is_within_its_limit() {
    let (_folder, path) = token_file();
    let gate = Gate::default();
    let read = gate.reader();
    let closed = gate.clone();
    ends("the end of the runtime", move || {
        let runtime = runtime();
        let source = runtime.block_on(async {
            let limit = Duration::from_secs(3600);
            let opening = ProjectedToken::builder(path).reader(read).read_limit(limit);
            let source = opening.open().await.unwrap();
            closed.set(true);
            let reread = source.file().reread();
            assert!(tokio::time::timeout(SHORT, reread).await.is_err());
            source
        });
        drop(runtime);
        assert!(!source.file().health().running);
    });
    gate.set(false);
}

#[test]
fn however_often_a_file_is_read_one_thread_at_most_blocks_and_reading_recovers() {
    let (_folder, path) = token_file();
    let gate = Gate::default();
    let runtime = runtime();
    runtime.block_on(async {
        let before = reading_threads();
        let parse = |bytes: &[u8]| Ok(bytes.to_vec());
        let builder = WatchedFile::builder(&path, parse).reader(gate.reader());
        let file = builder.read_limit(SHORT).open().await.unwrap();
        gate.set(true);
        for _ in 0..20 {
            assert!(file.reread().await.is_err());
        }
        assert_eq!(reading_threads(), before + 1);
        let next = token("1", 600);
        std::fs::write(&path, &next).unwrap();
        gate.set(false);
        until("it is read again", || *file.current() == next.as_bytes()).await;
        assert!(file.reread().await.is_ok());
    });
}
