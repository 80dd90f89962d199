//! What rotations cost: time, and failed requests.

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
/// Long enough that a busy machine of two cores does not decide whether a token is picked up in time.
const PAUSE: Duration = Duration::from_millis(100);

fn volume(runtime: &Runtime) -> (tempfile::TempDir, Kubelet, ProjectedToken) {
    let folder = tempfile::tempdir().expect("a folder");
    let kubelet = Kubelet::new(folder.path()).expect("a volume");
    kubelet
        .write([("token", token::text(0))])
        .expect("is written");
    let source = runtime
        .block_on(ProjectedToken::open(kubelet.path("token")))
        .expect("a token");
    (folder, kubelet, source)
}

/// Waits for an inotify event of the volume's folder and reads the file, with nothing in between: the least that
/// following a file can take.
struct BareReader(Arc<Mutex<Vec<u8>>>);

impl BareReader {
    fn start(volume: &Path, file: PathBuf) -> Self {
        let mut inotify = Inotify::init().expect("an inotify instance");
        let watched = inotify.watches().add(volume, WatchMask::MOVED_TO);
        watched.expect("the folder is watched");
        let latest = Arc::new(Mutex::new(Vec::new()));
        let reader = latest.clone();
        // It ends with the process: a blocking read of inotify cannot be interrupted.
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
}

/// Measures the time from before the rename until the new token is the one that is sent, and until a bare reader has read
/// it, at the same rotations.
pub(crate) fn pickup() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let (folder, kubelet, source) = volume(&runtime);
    let bare = BareReader::start(folder.path(), kubelet.path("token"));
    let (mut picked_up, mut read): (Vec<_>, Vec<_>) = (1..=PICKUPS)
        .map(|number| {
            let text = token::text(number);
            let expected = format!("Bearer {text}");
            let (mut picked_up, mut read) = (None, None);
            let began = Instant::now();
            kubelet.rotate("token", &text).expect("is rotated");
            while picked_up.is_none() || read.is_none() {
                if read.is_none() && bare.has_read(&text) {
                    read = Some(began.elapsed());
                }
                let current = source.current().expect("a token");
                if picked_up.is_none() && current.header() == expected.as_str() {
                    picked_up = Some(began.elapsed());
                }
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(15));
            (picked_up.unwrap_or_default(), read.unwrap_or_default())
        })
        .unzip();
    picked_up.sort();
    read.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    for (name, times) in [("rotation_pickup", &picked_up), ("a bare reader", &read)] {
        let at = |index: usize| milliseconds(times[index]);
        println!(
            "{name}: median {:.2} ms, 99th percentile {:.2} ms, longest {:.2} ms",
            at(PICKUPS / 2),
            at(PICKUPS * 99 / 100),
            at(PICKUPS - 1)
        );
    }
    let p99 = milliseconds(picked_up[PICKUPS * 99 / 100]);
    Target::ratio(
        "rotation_pickup_p99",
        p99 / milliseconds(read[PICKUPS * 99 / 100]),
        "times a bare inotify wake-up and read",
        2.0,
        format!("{p99:.2} ms"),
    )
}

/// The tokens that a server takes: the current one and the one before.
type Accepted = Arc<Mutex<[String; 2]>>;

async fn serve(accepted: Accepted) -> String {
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

/// Requests that were refused while the token was replaced a thousand times.
pub(crate) fn failures() -> Target {
    let runtime = Runtime::new().expect("a runtime");
    let (_folder, kubelet, source) = volume(&runtime);
    let first = source
        .current()
        .expect("a token")
        .header()
        .to_str()
        .expect("text")
        .to_owned();
    let accepted = Accepted::new(Mutex::new([first.clone(), first]));
    let url = runtime.block_on(serve(accepted.clone()));
    let auth = BearerAuth::for_origin(&url, source).expect("an origin");
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let client = ClientBuilder::new(http).with(auth).build();
    let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stopped = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            let (sent, failed, stopped) = (sent.clone(), failed.clone(), stopped.clone());
            runtime.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let status = client
                        .get(&url)
                        .send()
                        .await
                        .map(|response| response.status());
                    sent.fetch_add(1, Ordering::Relaxed);
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
        kubelet.rotate("token", &text).expect("is rotated");
        std::thread::sleep(PAUSE);
    }
    stopped.store(true, Ordering::Relaxed);
    for caller in callers {
        runtime.block_on(caller).expect("no panic");
    }
    let (sent, failed) = (sent.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    println!("failed_over_1000_rotations: of {sent} requests");
    Target::new("failed_over_1000_rotations", failed as f64, "requests", 0.0)
}

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
