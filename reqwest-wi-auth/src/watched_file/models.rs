//! Models of a watched file: rotations, refreshes, handles and runtimes in every order that the scheduler chooses.
//!
//! The calls to the file system are simulated one by one, so a rotation can come between any two of them. The file is also read on
//! a schedule, which hides a change that was missed. Therefore each model asserts that no time passes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::directories::directories_on_path;
use super::file_reader::{FileReader, Notifications, ReadFn};
use super::file_system::model as files;
use super::schedule::ReadSchedule;
use super::watcher::{ChangeSignal, DirectoryWatch, DirectoryWatcher};
use super::{Changes, WatchedFile};
use crate::source::TokenSource as _;
use crate::source::projected::ProjectedToken;
use crate::sync::model::{self, assert_finds_fault, explore};
use crate::sync::{ModelRuntime, time};
use crate::token::Token;

const PATH: &str = "/volume/token";

/// A volume whose content the kubelet replaces.
struct Volume {
    version: usize,
}

impl Volume {
    /// Creates the volume with version 0 of the token.
    fn new(token: &str) -> Self {
        files::reset();
        files::create_directory(Path::new("/volume"));
        files::create_directory(Path::new("/volume/..0"));
        files::write(Path::new("/volume/..0/token"), token);
        files::create_link(Path::new("/volume/..data"), "..0");
        files::create_link(Path::new(PATH), "..data/token");
        Self { version: 0 }
    }

    /// Replaces the content in the same steps as the kubelet.
    fn rotate(&mut self, token: &str) {
        let old = PathBuf::from(format!("/volume/..{}", self.version));
        self.version += 1;
        let new = format!("..{}", self.version);
        let directory = Path::new("/volume").join(&new);
        files::create_directory(&directory);
        files::write(&directory.join("token"), token);
        files::create_link(Path::new("/volume/..data_tmp"), &new);
        files::rename(Path::new("/volume/..data_tmp"), Path::new("/volume/..data"));
        files::remove(&old.join("token"));
        files::remove(&old);
    }
}

fn reader() -> ReadFn {
    Arc::new(files::read)
}

/// Counts the reads of the file.
fn counting_reader(
    count: &Arc<AtomicUsize>,
) -> impl Fn(&Path) -> std::io::Result<Vec<u8>> + Send + Sync + use<> {
    let count = count.clone();
    move |path: &Path| {
        count.fetch_add(1, Ordering::Relaxed);
        files::read(path)
    }
}

/// Asserts that nothing has waited for the time of a poll.
fn assert_without_poll(began: Instant) {
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_secs(1),
        "a change was missed until the file was polled after {waited:?}"
    );
}

/// Watches the directories on the path and reads the file.
trait WatchAndRead: Send + 'static {
    fn new(signal: Arc<ChangeSignal>) -> Self;
    fn watch_and_read(&mut self) -> (Option<Vec<u8>>, Notifications);
}

impl WatchAndRead for FileReader<Vec<u8>> {
    fn new(signal: Arc<ChangeSignal>) -> Self {
        let parse = Arc::new(|bytes: &[u8]| Ok(bytes.to_vec()));
        Self::new(PATH.into(), reader(), parse, signal)
    }

    fn watch_and_read(&mut self) -> (Option<Vec<u8>>, Notifications) {
        let read = Self::watch_and_read(self);
        (read.ok(), self.notifications())
    }
}

/// The known fault: the path is resolved once before its directories are watched, and if one of them has vanished, all watches are
/// dropped.
struct ResolvesOnce {
    signal: Arc<ChangeSignal>,
    watcher: Arc<DirectoryWatcher>,
    watches: Vec<DirectoryWatch>,
}

impl WatchAndRead for ResolvesOnce {
    fn new(signal: Arc<ChangeSignal>) -> Self {
        Self {
            signal,
            watcher: DirectoryWatcher::shared().unwrap(),
            watches: Vec::new(),
        }
    }

    fn watch_and_read(&mut self) -> (Option<Vec<u8>>, Notifications) {
        let directories = directories_on_path(Path::new(PATH));
        let watch = |(path, directory): (&PathBuf, &super::directories::Directory)| {
            self.watcher.watch(path, &directory.entries, &self.signal)
        };
        let watches: Result<Vec<_>, _> = directories.iter().map(watch).collect();
        let notifications = if watches.is_ok() {
            Notifications::Active
        } else {
            Notifications::Unavailable
        };
        self.watches = watches.unwrap_or_default();
        (files::read(Path::new(PATH)).ok(), notifications)
    }
}

/// The other known fault: the file is read before its directories are watched.
struct ReadsFirst(FileReader<Vec<u8>>);

impl WatchAndRead for ReadsFirst {
    fn new(signal: Arc<ChangeSignal>) -> Self {
        Self(WatchAndRead::new(signal))
    }

    fn watch_and_read(&mut self) -> (Option<Vec<u8>>, Notifications) {
        let read = files::read(Path::new(PATH)).ok();
        let (_, notifications) = WatchAndRead::watch_and_read(&mut self.0);
        (read, notifications)
    }
}

/// Rotates the token while a thread watches and reads it.
fn rotates_while_reading<R: WatchAndRead>() {
    let mut volume = Volume::new("0");
    let began = Instant::now();
    let follower = model::spawn(move || {
        let signal = Arc::<ChangeSignal>::default();
        let mut reader = R::new(signal.clone());
        let mut failures = 0;
        loop {
            let (read, notifications) = reader.watch_and_read();
            failures = if read.is_some() { 0 } else { failures + 1 };
            if read.as_deref() == Some(b"3") {
                break;
            }
            let pause = ReadSchedule::default().until_next_read(
                notifications,
                failures,
                None,
                SystemTime::UNIX_EPOCH,
            );
            let _ = model::block_on(time::timeout(pause, signal.changed()));
        }
    });
    for token in ["1", "2", "3"] {
        volume.rotate(token);
    }
    follower.join().unwrap();
    assert_without_poll(began);
}

#[test]
fn no_rotation_is_missed_between_resolving_watching_and_reading() {
    explore(600, rotates_while_reading::<FileReader<Vec<u8>>>);
}

#[test]
fn the_model_finds_that_a_rotation_between_resolving_and_watching_drops_the_watches() {
    assert_finds_fault(2_000, rotates_while_reading::<ResolvesOnce>);
}

#[test]
fn the_model_finds_a_rotation_between_reading_and_watching() {
    assert_finds_fault(2_000, rotates_while_reading::<ReadsFirst>);
}

async fn open() -> WatchedFile<Vec<u8>> {
    let opened = WatchedFile::builder(PATH, |bytes| Ok(bytes.to_vec()));
    opened.with_reader(reader()).open().await.unwrap()
}

/// Waits until the newest value is `token`.
async fn wait_for(file: &WatchedFile<Vec<u8>>, changes: &mut Changes<Vec<u8>>, token: &str) {
    while *file.current() != token.as_bytes() {
        assert!(changes.next().await.is_some(), "the file is watched");
    }
}

#[test]
fn a_waiting_receiver_gets_the_newest_value() {
    explore(300, || {
        let (mut volume, runtime) = (Volume::new("0"), ModelRuntime::new());
        let began = Instant::now();
        let kubelet = model::spawn(move || {
            for token in ["1", "2"] {
                volume.rotate(token);
            }
        });
        runtime.handle().block_on(async {
            let file = open().await;
            let mut changes = file.subscribe();
            wait_for(&file, &mut changes, "2").await;
            file.shutdown().await;
            assert!(!file.health().running);
            while changes.next().await.is_some() {}
        });
        kubelet.join().unwrap();
        assert_without_poll(began);
    });
}

#[test]
fn the_end_of_the_runtime_of_the_task_loses_no_change() {
    explore(300, || {
        let mut volume = Volume::new("0");
        let (first, second) = (ModelRuntime::new(), ModelRuntime::new());
        let began = Instant::now();
        let file = first.handle().block_on(open());
        let waiting = model::spawn({
            let (file, second) = (file.clone(), second.handle());
            move || {
                second.block_on(async {
                    let mut changes = file.subscribe();
                    wait_for(&file, &mut changes, "1").await;
                });
            }
        });
        let ending = model::spawn(move || drop(first));
        volume.rotate("1");
        ending.join().unwrap();
        waiting.join().unwrap();
        assert_without_poll(began);
    });
}

#[test]
fn a_receiver_ends_with_the_last_handle() {
    explore(300, || {
        let (mut volume, runtime) = (Volume::new("0"), ModelRuntime::new());
        let file = runtime.handle().block_on(open());
        let waiting = model::spawn({
            let (mut changes, handle) = (file.subscribe(), runtime.handle());
            move || handle.block_on(async { while changes.next().await.is_some() {} })
        });
        let clone = file.clone();
        let other = model::spawn(move || drop(clone));
        volume.rotate("1");
        drop(file);
        other.join().unwrap();
        waiting.join().unwrap();
    });
}

#[test]
fn shutdown_waits_for_no_read_that_blocks() {
    explore(200, || {
        let (_volume, runtime) = (Volume::new("0"), ModelRuntime::new());
        let (file, is_blocking) = runtime.handle().block_on(async {
            let is_blocking = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let blocks = is_blocking.clone();
            let read: ReadFn = Arc::new(move |path| {
                if blocks.load(Ordering::Relaxed) {
                    model::block_on(time::sleep(Duration::from_secs(60)));
                }
                files::read(path)
            });
            let opened = WatchedFile::builder(PATH, |bytes| Ok(bytes.to_vec()));
            (opened.with_reader(read).open().await.unwrap(), is_blocking)
        });
        is_blocking.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let rereading = model::spawn({
            let (file, handle) = (file.clone(), runtime.handle());
            move || handle.block_on(async { drop(file.reread().await) })
        });
        runtime.handle().block_on(file.shutdown());
        assert!(
            began.elapsed() <= Duration::from_secs(1),
            "the limit of shutdown"
        );
        rereading.join().unwrap();
        assert!(
            began.elapsed() <= Duration::from_secs(10),
            "the limit of two reads"
        );
        // The threads that read end.
        model::block_on(time::sleep(Duration::from_secs(120)));
    });
}

fn token(version: usize) -> String {
    const SIGNATURES: [&str; 3] = ["c2ln", "bmV3", "bGFz"];
    format!("eyJhbGciOiJub25lIn0.e30.{}", SIGNATURES[version])
}

/// Refreshes of a rejected token on several threads, while the task may read the file, too.
#[test]
fn all_refreshes_of_a_rejected_token_get_the_newest_token_and_share_reads() {
    explore(300, || {
        let (mut volume, runtime) = (Volume::new(&token(0)), ModelRuntime::new());
        let reads = Arc::new(AtomicUsize::new(0));
        let source = runtime.handle().block_on(async {
            let builder = ProjectedToken::builder(PATH);
            builder
                .reader(counting_reader(&reads))
                .open()
                .await
                .unwrap()
        });
        let rejected = source.current().unwrap();
        volume.rotate(&token(1));
        let before = reads.load(Ordering::Relaxed);
        let refreshes: Vec<_> = (0..4)
            .map(|_| {
                let (source, rejected, handle) =
                    (source.clone(), rejected.clone(), runtime.handle());
                model::spawn(move || {
                    let refreshed = handle.block_on(source.refresh(Some(&rejected))).unwrap();
                    assert_eq!(refreshed, Token::new(token(1)).unwrap());
                })
            })
            .collect();
        for refresh in refreshes {
            refresh.join().unwrap();
        }
        let reads = reads.load(Ordering::Relaxed) - before;
        // Those of the task: one for each of the events, and one of the refreshes that waits for another.
        assert!(reads <= 10, "{reads} reads");
    });
}

/// A server rejects the token, and the new one comes while a refresh is under way.
#[test]
fn a_rotation_during_a_refresh_is_picked_up() {
    explore(300, || {
        let (mut volume, runtime) = (Volume::new(&token(0)), ModelRuntime::new());
        let source = runtime.handle().block_on(async {
            ProjectedToken::builder(PATH)
                .reader(files::read)
                .open()
                .await
                .unwrap()
        });
        let rejected = source.current().unwrap();
        let began = Instant::now();
        let kubelet = model::spawn(move || volume.rotate(&token(1)));
        runtime.handle().block_on(async {
            let mut changes = source.subscribe();
            let _ = source.refresh(Some(&rejected)).await;
            while source.current().unwrap() == rejected {
                assert!(changes.next().await.is_some());
            }
        });
        kubelet.join().unwrap();
        assert_without_poll(began);
    });
}
