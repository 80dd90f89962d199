//! Reads that block, and paths that are not regular files.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use crate::support::process::is_child_process;
use crate::support::{bearer, current_header, multi_thread_runtime, token, wait_until};
use reqwest_wi_auth::{Error, FileError, ProjectedToken, TokenSource as _, WatchedFile};

const SHORT: Duration = Duration::from_millis(50);

/// A reader that blocks while the gate is closed.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn close(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = false;
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

/// Returns the path of a token file, and the directory that contains it.
fn token_file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, token("0", 600)).unwrap();
    (directory, path)
}

/// Returns the number of threads of this process that read a file.
fn reading_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "read-file").count()
}

/// Runs a function on a thread, and panics if it does not return within 20 s.
fn with_deadline<R: Send + 'static>(
    description: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    let ended = receiver.recv_timeout(Duration::from_secs(20));
    ended.unwrap_or_else(|_| panic!("does not end: {description}"))
}

#[test]
fn a_path_that_is_not_a_regular_file_is_rejected_with_its_type() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    let status = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(status.unwrap().success());
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (fifo, "a FIFO"),
        (link, "a FIFO"),
        (socket, "a socket"),
        (directory.path().to_owned(), "a directory"),
        (PathBuf::from("/dev/zero"), "a device"),
        (PathBuf::from("/dev/null"), "a device"),
    ];
    for (path, name) in cases {
        let error = with_deadline(name, move || {
            let opening = ProjectedToken::builder(path).startup_limit(SHORT).open();
            multi_thread_runtime()
                .block_on(opening)
                .unwrap_err()
                .to_string()
        });
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_last_value_is_kept_while_the_file_is_replaced_by_a_fifo() {
    let (_directory, path) = token_file();
    with_deadline("reading a FIFO", move || {
        let runtime = multi_thread_runtime();
        runtime.block_on(async {
            let source = ProjectedToken::open(&path).await.unwrap();
            std::fs::remove_file(&path).unwrap();
            let status = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(status.unwrap().success());
            let error = source.file().reread().await.unwrap_err().to_string();
            assert!(error.contains("a FIFO"), "{error}");
            assert!(source.current().is_ok());
            std::fs::remove_file(&path).unwrap();
            let next = token("1", 600);
            std::fs::write(&path, &next).unwrap();
            wait_until("the file is read again", || {
                current_header(&source) == bearer(&next)
            })
            .await;
        });
    });
}

#[test]
fn opening_fails_at_the_limit_if_a_read_blocks_and_the_runtime_does_not_wait_for_it() {
    let (_directory, path) = token_file();
    let gate = Gate::default();
    gate.close();
    let read = gate.reader();
    let error = with_deadline("opening, or the end of the runtime", move || {
        let runtime = multi_thread_runtime();
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
    gate.open();
}

#[test]
fn refresh_shutdown_and_runtime_end_although_a_read_blocks() {
    let (_directory, path) = token_file();
    let gate = Gate::default();
    let read = gate.reader();
    let closing = gate.clone();
    with_deadline("refresh, shutdown, or the end of the runtime", move || {
        let runtime = multi_thread_runtime();
        runtime.block_on(async {
            let opening = ProjectedToken::builder(path).reader(read).read_limit(SHORT);
            let source = opening.open().await.unwrap();
            let current = source.current().unwrap();
            closing.close();
            let refreshed = source.refresh(Some(&current)).await;
            assert_eq!(refreshed.unwrap(), current, "the last valid token is kept");
            let error = source.file().reread().await.unwrap_err();
            assert!(error.to_string().contains("took more than"), "{error}");
            source.shutdown().await;
        });
        drop(runtime);
    });
    gate.open();
}

#[test]
fn a_runtime_does_not_wait_for_a_read_that_is_within_its_limit() {
    let (_directory, path) = token_file();
    let gate = Gate::default();
    let read = gate.reader();
    let closing = gate.clone();
    with_deadline("the end of the runtime", move || {
        let runtime = multi_thread_runtime();
        let source = runtime.block_on(async {
            let limit = Duration::from_secs(3600);
            let opening = ProjectedToken::builder(path).reader(read).read_limit(limit);
            let source = opening.open().await.unwrap();
            closing.close();
            let reread = source.file().reread();
            assert!(tokio::time::timeout(SHORT, reread).await.is_err());
            source
        });
        drop(runtime);
        assert!(!source.file().health().running);
    });
    gate.open();
}

#[test]
fn at_most_one_thread_blocks_and_reading_recovers() {
    // Counts the threads of the process.
    if !is_child_process("blocking_reads::at_most_one_thread_blocks_and_reading_recovers") {
        return;
    }
    let (_directory, path) = token_file();
    let gate = Gate::default();
    let runtime = multi_thread_runtime();
    runtime.block_on(async {
        let before = reading_threads();
        let parse = |bytes: &[u8]| Ok(bytes.to_vec());
        let builder = WatchedFile::builder(&path, parse).reader(gate.reader());
        let file = builder.read_limit(SHORT).open().await.unwrap();
        gate.close();
        for _ in 0..20 {
            assert!(file.reread().await.is_err());
        }
        assert_eq!(reading_threads(), before + 1);
        let next = token("1", 600);
        std::fs::write(&path, &next).unwrap();
        gate.open();
        wait_until("the file is read again", || {
            *file.current() == next.as_bytes()
        })
        .await;
        assert!(file.reread().await.is_ok());
    });
}
