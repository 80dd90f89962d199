//! What a token file brings: refreshes after a 401, the limit at the start, and which tokens replace which.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::{bearer, seconds, signed, token, token_from, until};
use reqwest_wi_auth::testing::Kubelet;
use reqwest_wi_auth::{Error, FileError, ProjectedToken, Token, TokenSource as _};
use tokio::time::Instant;

fn volume() -> (tempfile::TempDir, Kubelet) {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    (folder, kubelet)
}

fn sent(source: &ProjectedToken) -> Option<String> {
    let token = source.current().ok()?;
    Some(token.header().to_str().unwrap().to_owned())
}

/// A file that nobody reports changes of, with a count of its reads.
#[derive(Clone)]
struct Unwatched {
    content: Arc<Mutex<String>>,
    reads: Arc<AtomicU64>,
}

impl Unwatched {
    fn new(content: &str) -> Self {
        Self {
            content: Arc::new(Mutex::new(content.to_owned())),
            reads: Arc::default(),
        }
    }

    fn write(&self, content: &str) {
        content.clone_into(&mut self.content.lock().unwrap());
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    async fn open(&self) -> ProjectedToken {
        let file = self.clone();
        let read = move |_: &Path| {
            file.reads.fetch_add(1, Ordering::SeqCst);
            Ok(file.content.lock().unwrap().clone().into_bytes())
        };
        let builder = ProjectedToken::builder("/nowhere/token").reader(read);
        builder.open().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_refreshes_at_once_after_a_rotation_cause_one_read_and_all_return_the_new_token() {
    for round in 0..20 {
        let (old, new) = (token("old", 600), token("new", 600));
        let file = Unwatched::new(&old);
        let source = file.open().await;
        let rejected = source.current().unwrap();
        file.write(&new);
        let before = file.reads();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (source, rejected) = (source.clone(), rejected.clone());
                tokio::spawn(async move { source.refresh(Some(&rejected)).await })
            })
            .collect();
        for caller in callers {
            let refreshed = caller.await.unwrap().unwrap();
            assert_eq!(refreshed.header().to_str().unwrap(), bearer(&new).unwrap());
        }
        assert_eq!(file.reads(), before + 1, "round {round}");
    }
}

#[tokio::test]
async fn a_refresh_that_is_given_up_leaves_the_others_what_the_read_brings() {
    let (old, new) = (token("old", 600), token("new", 600));
    let file = Unwatched::new(&old);
    let source = file.open().await;
    let rejected = source.current().unwrap();
    file.write(&new);
    {
        let mut given_up = Box::pin(source.refresh(Some(&rejected)));
        std::future::poll_fn(|cx| {
            // Usually pending; on a busy machine the read may have ended already.
            let _ = given_up.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }
    let refreshed = source.refresh(Some(&rejected)).await.unwrap();
    assert_eq!(refreshed.header().to_str().unwrap(), bearer(&new).unwrap());
}

#[tokio::test]
async fn each_new_rejected_token_is_worth_a_read() {
    let file = Unwatched::new(&token("0", 600));
    let source = file.open().await;
    for rotation in 1..=10 {
        let rejected = source.current().unwrap();
        let next = token(&rotation.to_string(), 600);
        file.write(&next);
        let refreshed = source.refresh(Some(&rejected)).await.unwrap();
        assert_eq!(refreshed.header().to_str().unwrap(), bearer(&next).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn the_stated_limit_of_the_start_is_the_limit() {
    for limit in [0, 1, 5, 30, 100].map(Duration::from_secs) {
        let (reads, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let seen = reads.clone();
        let opening = ProjectedToken::builder("/nowhere/token")
            .startup_limit(limit)
            .reader(move |_| {
                seen.lock().unwrap().push(began.elapsed());
                Err(std::io::ErrorKind::NotFound.into())
            });
        let error = opening.open().await.unwrap_err();
        let is_late = matches!(&error, Error::File(FileError::StartupTimeout { limit: told, .. }) if *told == limit);
        assert!(is_late, "{error:?}");
        let waited = began.elapsed();
        let tolerance = Duration::from_millis(2);
        assert!(
            waited >= limit && waited <= limit + tolerance,
            "{limit:?}: {waited:?}"
        );
        let last = *reads.lock().unwrap().last().unwrap();
        assert!(last >= limit, "{limit:?}: the last read was at {last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_appears_just_within_the_limit_is_taken() {
    for appears in [2_700, 3_900, 4_990].map(Duration::from_millis) {
        let (began, text) = (Instant::now(), token("0", 600));
        let opening = ProjectedToken::builder("/nowhere/token").reader(move |_| {
            match began.elapsed() >= appears {
                true => Ok(text.clone().into_bytes()),
                false => Err(std::io::ErrorKind::NotFound.into()),
            }
        });
        assert!(opening.open().await.is_ok(), "{appears:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_appears_while_opening_is_found_by_the_watch() {
    let (_folder, kubelet) = volume();
    // A paused clock stands still while a blocking task runs, so no timer is of help.
    let (release, held) = mpsc::channel::<()>();
    let holding = tokio::task::spawn_blocking(move || held.recv());
    let opening = tokio::spawn(ProjectedToken::open(kubelet.path("token")));
    for _ in 0..100 {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!opening.is_finished());
    let text = token("late", 600);
    kubelet.write([("token", &text)]).unwrap();
    let source = opening.await.unwrap().unwrap();
    assert_eq!(sent(&source), bearer(&text));
    release.send(()).unwrap();
    holding.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_older_token_does_not_replace_the_one_in_use_unless_that_is_rejected() {
    let (_folder, kubelet) = volume();
    let good = token("good", 600);
    kubelet.write([("token", &good)]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    for lifetime in [300, 599] {
        let older = token("older", lifetime);
        kubelet.rotate("token", &older).unwrap();
        let error = source.file().reread().await.unwrap_err().to_string();
        assert!(error.contains("expires earlier"), "{error}");
        assert_eq!(sent(&source), bearer(&good));
    }
    let expired = token_from("expired", 1000, 600);
    kubelet.rotate("token", &expired).unwrap();
    assert!(source.file().reread().await.is_err());
    assert_eq!(sent(&source), bearer(&good));
    let older = token("older", 300);
    kubelet.rotate("token", &older).unwrap();
    let rejected = source.current().unwrap();
    let refreshed = source.refresh(Some(&rejected)).await.unwrap();
    assert_eq!(
        refreshed.header().to_str().unwrap(),
        bearer(&older).unwrap()
    );
    // A later one, as ever.
    let later = token("later", 900);
    kubelet.rotate("token", &later).unwrap();
    until("the later one is in use", || {
        sent(&source) == bearer(&later)
    })
    .await;
}

#[tokio::test]
async fn a_token_of_the_same_or_no_expiry_replaces_the_one_in_use() {
    let (_folder, kubelet) = volume();
    kubelet
        .write([("token", token_from("0", 1000, 600))])
        .unwrap();
    let clock = || seconds(1100);
    let builder = ProjectedToken::builder(kubelet.path("token")).clock(clock);
    let source = builder.open().await.unwrap();
    for next in [
        token_from("1", 1000, 600),
        signed(r#"{"jti":"without an expiry"}"#),
        token_from("2", 1000, 500),
    ] {
        kubelet.rotate("token", &next).unwrap();
        until("it is in use", || sent(&source) == bearer(&next)).await;
    }
}

#[tokio::test]
async fn a_token_for_another_audience_is_neither_taken_nor_a_replacement() {
    let audience = "https://auth-server.example";
    let (_folder, kubelet) = volume();
    let path = kubelet.path("token");
    let open = || {
        let builder = ProjectedToken::builder(&path).audience(audience);
        builder.startup_limit(Duration::from_millis(50)).open()
    };
    let of = |aud: &str| signed(&format!(r#"{{"exp":4000000000,"aud":{aud}}}"#));
    let wrong = [
        of(r#""https://other.example""#),
        of(r#"["https://other.example","https://auth-server.example/"]"#),
        of("[]"),
        signed(r#"{"exp":4000000000}"#),
    ];
    for text in &wrong {
        kubelet.write([("token", text)]).unwrap();
        let error = open().await.unwrap_err().to_string();
        assert!(
            error.contains(audience) && error.contains("audience"),
            "{error}"
        );
    }
    let good = of(r#"["https://first.example","https://auth-server.example"]"#);
    for text in [of(r#""https://auth-server.example""#), good.clone()] {
        kubelet.write([("token", text)]).unwrap();
        open().await.unwrap();
    }
    let source = open().await.unwrap();
    for text in &wrong {
        kubelet.rotate("token", text).unwrap();
        assert!(source.file().reread().await.is_err());
        assert_eq!(sent(&source), bearer(&good));
    }
}

#[tokio::test]
async fn a_spoilt_token_is_refused_with_an_error_that_says_what_is_wrong() {
    let good = token("0", 600);
    let cut = &good[..good.len() - 20];
    let cases = [
        (format!("\"{good}\""), "double quote"),
        (format!("\u{feff}{good}"), "BOM"),
        (format!("{good}\r\n{good}"), "CR"),
        (format!("token: {good}"), "':'"),
        (cut.to_owned(), "truncated"),
        (format!("{good}A"), "truncated"),
        (good.rsplit_once('.').unwrap().0.to_owned(), "2 parts"),
        (String::new(), "empty"),
    ];
    let (_folder, kubelet) = volume();
    kubelet.write([("token", &good)]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    for (text, part) in cases {
        kubelet.rotate("token", &text).unwrap();
        let error = source.file().reread().await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        for secret in good.split('.') {
            assert!(!error.contains(secret), "{error}");
        }
        assert_eq!(sent(&source), bearer(&good));
    }
    assert!(Token::new(&good).is_ok());
}
