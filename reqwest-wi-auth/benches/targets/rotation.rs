//! Measures how long a rotation takes to be detected, failed requests during rotations, and requests to the metadata server.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use inotify::{Inotify, WatchMask};
use reqwest_middleware::ClientBuilder;
use reqwest_wi_auth::testing::{FakeMetadataServer, Kubelet};
use reqwest_wi_auth::{BearerAuth, MetadataServer, ProjectedToken, TokenSource as _};
use tokio::runtime::Runtime;

use crate::target::Target;
use crate::token;

const PICKUPS: usize = 500;
const ROTATIONS: usize = 1000;
const CALLERS: usize = 8;
/// The time from when a bare reader has detected a rotation until the next one: long enough that a token is detected in time
/// even on a busy machine with two cores.
const PAUSE: Duration = Duration::from_millis(100);

fn volume(runtime: &Runtime) -> (tempfile::TempDir, Kubelet, ProjectedToken) {
    let directory = tempfile::tempdir().expect("a directory");
    let kubelet = Kubelet::new(directory.path()).expect("a volume");
    kubelet
        .write([("token", token::text(0))])
        .expect("the token is written");
    let source = runtime
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .expect("a token");
    (directory, kubelet, source)
}

/// Waits for an inotify event of the volume and reads the file, without any other work: the shortest time in which a
/// rotation can be detected.
pub(crate) struct BareReader(Arc<Mutex<Vec<u8>>>);

impl BareReader {
    pub(crate) fn start(volume: &Path, file: PathBuf) -> Self {
        let mut inotify = Inotify::init().expect("an inotify instance");
        let watched = inotify.watches().add(volume, WatchMask::MOVED_TO);
        watched.expect("the directory is watched");
        let latest = Arc::new(Mutex::new(Vec::new()));
        let reader = latest.clone();
        // The thread ends with the process, since a blocking read of inotify cannot be interrupted.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while inotify.read_events_blocking(&mut buffer).is_ok() {
                if let Ok(bytes) = std::fs::read(&file) {
                    *reader.lock().expect("no panic") = bytes;
                }
            }
        });
        Self(latest)
    }

    fn has_read(&self, text: &str) -> bool {
        *self.0.lock().expect("no panic") == text.as_bytes()
    }

    /// Waits until it has read a token, and then for a while. On a machine that is too busy even for a bare reader, the
    /// next rotation is late, too.
    pub(crate) fn pause(&self, text: &str, pause: Duration) {
        while !self.has_read(text) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(pause);
    }
}

/// Measures the time from before a rotation until the new token would be sent, and until a [`BareReader`] has read it.
pub(crate) fn pickup() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let (directory, kubelet, source) = volume(&runtime);
    let bare = BareReader::start(directory.path(), kubelet.path("token"));
    let (mut detected, mut read): (Vec<_>, Vec<_>) = (1..=PICKUPS)
        .map(|number| {
            let text = token::text(number);
            let expected = format!("Bearer {text}");
            let (mut detected, mut read) = (None, None);
            let began = Instant::now();
            kubelet
                .rotate("token", &text)
                .expect("the token is rotated");
            while detected.is_none() || read.is_none() {
                if read.is_none() && bare.has_read(&text) {
                    read = Some(began.elapsed());
                }
                let current = source.current().expect("a token");
                if detected.is_none() && current.header() == expected.as_str() {
                    detected = Some(began.elapsed());
                }
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(15));
            (detected.unwrap_or_default(), read.unwrap_or_default())
        })
        .unzip();
    detected.sort();
    read.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    for (name, times) in [("rotation_pickup", &detected), ("a bare reader", &read)] {
        let at = |index: usize| milliseconds(times[index]);
        println!(
            "{name}: median {:.2} ms, 99th percentile {:.2} ms, longest {:.2} ms",
            at(PICKUPS / 2),
            at(PICKUPS * 99 / 100),
            at(PICKUPS - 1)
        );
    }
    let p99 = milliseconds(detected[PICKUPS * 99 / 100]);
    Target::ratio(
        "rotation_pickup_p99",
        p99 / milliseconds(read[PICKUPS * 99 / 100]),
        "times a bare inotify wake-up and read",
        // Between 1.0 and 1.1 on a quiet machine, up to 2.5 beside other work.
        5.0,
        format!("{p99:.2} ms"),
    )
}

/// How many requests each caller has finished.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Vec<AtomicU64>>);

impl Progress {
    pub(crate) fn new(callers: usize) -> Self {
        Self(Arc::new((0..callers).map(|_| AtomicU64::new(0)).collect()))
    }

    pub(crate) fn finished(&self, caller: usize) {
        self.0[caller].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Vec<u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        counts.collect()
    }

    /// Waits until each caller has finished the request that it is sending now, and another one. On a machine that is so busy
    /// that a request takes longer than a rotation, the next rotation would otherwise invalidate its token.
    pub(crate) fn wait(&self) {
        let before = self.counts();
        let has_advanced = || {
            self.counts()
                .iter()
                .zip(&before)
                .all(|(count, before)| *count >= before + 2)
        };
        while !has_advanced() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The tokens that a server accepts: the current one and the previous one.
type Accepted = Arc<Mutex<[String; 2]>>;

/// Starts a server that accepts only these tokens, and returns its URL.
async fn start_server(accepted: Accepted) -> String {
    let private = move |headers: HeaderMap| async move {
        let sent = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let accepted = accepted.lock().expect("no panic");
        let is_accepted = sent.is_some_and(|sent| accepted.iter().any(|token| token == sent));
        if is_accepted {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let app = Router::new().route("/", get(private));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Counts the requests that are rejected while the token is rotated a thousand times.
pub(crate) fn failures() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let (directory, kubelet, source) = volume(&runtime);
    let bare = BareReader::start(directory.path(), kubelet.path("token"));
    let first = source
        .current()
        .expect("a token")
        .header()
        .to_str()
        .expect("text")
        .to_owned();
    let accepted = Accepted::new(Mutex::new([first.clone(), first]));
    let url = runtime.block_on(start_server(accepted.clone()));
    let auth = BearerAuth::for_origin(&url, source).expect("an origin");
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let client = ClientBuilder::new(http).with(auth).build();
    let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stopped = Arc::new(AtomicBool::new(false));
    let progress = Progress::new(CALLERS);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (client, url, progress) = (client.clone(), url.clone(), progress.clone());
            let (sent, failed, stopped) = (sent.clone(), failed.clone(), stopped.clone());
            runtime.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let status = client
                        .get(&url)
                        .send()
                        .await
                        .map(|response| response.status());
                    sent.fetch_add(1, Ordering::Relaxed);
                    progress.finished(caller);
                    if !status.is_ok_and(|status| status == StatusCode::OK) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for number in 1..=ROTATIONS {
        let text = token::text(number);
        {
            let mut accepted = accepted.lock().expect("no panic");
            accepted.swap(0, 1);
            accepted[0] = format!("Bearer {text}");
        }
        kubelet
            .rotate("token", &text)
            .expect("the token is rotated");
        bare.pause(&text, PAUSE);
        progress.wait();
    }
    stopped.store(true, Ordering::Relaxed);
    for caller in callers {
        runtime.block_on(caller).expect("no panic");
    }
    let (sent, failed) = (sent.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    println!("failed_over_1000_rotations: of {sent} requests");
    Target::new("failed_over_1000_rotations", failed as f64, "requests", 0.0)
}

/// Counts the requests to the metadata server when 100 callers need the first token.
pub(crate) fn metadata_requests() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let requests = runtime.block_on(async {
        let fake = FakeMetadataServer::start().await.expect("a port");
        let metadata = MetadataServer::with_host(fake.host()).expect("a host");
        let source = metadata.start("https://auth-server.example");
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let source = source.clone();
                tokio::spawn(async move { source.refresh(None).await.expect("a token") })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        fake.request_count()
    });
    Target::new(
        "metadata_requests_for_100_cold_callers",
        requests as f64,
        "requests",
        1.0,
    )
}
