//! Refreshes of a token file, the startup limit, and which tokens replace the current one.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::volume::empty_volume;
use crate::support::{bearer, current_header, seconds, signed, token, token_from, wait_until};
use reqwest_wi_auth::{Error, FileError, ProjectedToken, Token, TokenSource as _};
use tokio::time::Instant;

/// A fake file whose changes are not reported. Counts its reads.
#[derive(Clone)]
struct FakeFile {
    content: Arc<Mutex<String>>,
    reads: Arc<AtomicU64>,
}

impl FakeFile {
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
        let builder = ProjectedToken::builder("/nonexistent/token").reader(read);
        builder.open().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_refreshes_share_one_read_and_return_the_new_token() {
    for round in 0..20 {
        let (old, new) = (token("old", 600), token("new", 600));
        let file = FakeFile::new(&old);
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
async fn a_cancelled_refresh_does_not_cancel_the_read() {
    let (old, new) = (token("old", 600), token("new", 600));
    let file = FakeFile::new(&old);
    let source = file.open().await;
    let rejected = source.current().unwrap();
    file.write(&new);
    {
        let mut cancelled = Box::pin(source.refresh(Some(&rejected)));
        std::future::poll_fn(|cx| {
            // Usually pending, but on a busy machine the read may have ended already.
            let _ = cancelled.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }
    let refreshed = source.refresh(Some(&rejected)).await.unwrap();
    assert_eq!(refreshed.header().to_str().unwrap(), bearer(&new).unwrap());
}

#[tokio::test]
async fn each_newly_rejected_token_causes_a_read() {
    let file = FakeFile::new(&token("0", 600));
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
async fn opening_fails_exactly_at_the_startup_limit() {
    for limit in [0, 1, 5, 30, 100].map(Duration::from_secs) {
        let (reads, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let times = reads.clone();
        let opening = ProjectedToken::builder("/nonexistent/token")
            .startup_limit(limit)
            .reader(move |_| {
                times.lock().unwrap().push(began.elapsed());
                Err(std::io::ErrorKind::NotFound.into())
            });
        let error = opening.open().await.unwrap_err();
        let is_timeout = matches!(&error, Error::File(FileError::StartupTimeout { limit: found, .. }) if *found == limit);
        assert!(is_timeout, "{error:?}");
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
async fn a_token_that_appears_just_before_the_startup_limit_is_accepted() {
    for appears in [2_700, 3_900, 4_990].map(Duration::from_millis) {
        let (began, text) = (Instant::now(), token("0", 600));
        let opening = ProjectedToken::builder("/nonexistent/token").reader(move |_| {
            if began.elapsed() >= appears {
                Ok(text.clone().into_bytes())
            } else {
                Err(std::io::ErrorKind::NotFound.into())
            }
        });
        assert!(opening.open().await.is_ok(), "{appears:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_appears_while_opening_is_detected_by_the_watch() {
    let (_directory, kubelet) = empty_volume();
    // A paused clock does not advance while a blocking task runs, so no timer can fire.
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
    assert_eq!(current_header(&source), bearer(&text));
    release.send(()).unwrap();
    holding.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_older_token_replaces_the_current_one_only_if_that_was_rejected() {
    let (_directory, kubelet) = empty_volume();
    let valid = token("current", 600);
    kubelet.write([("token", &valid)]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    for lifetime in [300, 599] {
        let older = token("older", lifetime);
        kubelet.rotate("token", &older).unwrap();
        let error = source.file().reread().await.unwrap_err().to_string();
        assert!(error.contains("expires earlier"), "{error}");
        assert_eq!(current_header(&source), bearer(&valid));
    }
    let expired = token_from("expired", 1000, 600);
    kubelet.rotate("token", &expired).unwrap();
    assert!(source.file().reread().await.is_err());
    assert_eq!(current_header(&source), bearer(&valid));
    let older = token("older", 300);
    kubelet.rotate("token", &older).unwrap();
    let rejected = source.current().unwrap();
    let refreshed = source.refresh(Some(&rejected)).await.unwrap();
    assert_eq!(
        refreshed.header().to_str().unwrap(),
        bearer(&older).unwrap()
    );
    let later = token("later", 900);
    kubelet.rotate("token", &later).unwrap();
    wait_until("the later token is in use", || {
        current_header(&source) == bearer(&later)
    })
    .await;
}

#[tokio::test]
async fn a_token_of_the_same_or_no_expiry_replaces_the_current_one() {
    let (_directory, kubelet) = empty_volume();
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
        wait_until("the token is in use", || {
            current_header(&source) == bearer(&next)
        })
        .await;
    }
}

#[tokio::test]
async fn a_token_for_another_audience_is_an_error_and_does_not_replace_the_current_one() {
    let audience = "https://auth-server.example";
    let (_directory, kubelet) = empty_volume();
    let path = kubelet.path("token");
    let open = || {
        let builder = ProjectedToken::builder(&path).audience(audience);
        builder.startup_limit(Duration::from_millis(50)).open()
    };
    let with_audience = |aud: &str| signed(&format!(r#"{{"exp":4000000000,"aud":{aud}}}"#));
    let wrong = [
        with_audience(r#""https://other.example""#),
        with_audience(r#"["https://other.example","https://auth-server.example/"]"#),
        with_audience("[]"),
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
    let valid = with_audience(r#"["https://first.example","https://auth-server.example"]"#);
    for text in [
        with_audience(r#""https://auth-server.example""#),
        valid.clone(),
    ] {
        kubelet.write([("token", text)]).unwrap();
        open().await.unwrap();
    }
    let source = open().await.unwrap();
    for text in &wrong {
        kubelet.rotate("token", text).unwrap();
        assert!(source.file().reread().await.is_err());
        assert_eq!(current_header(&source), bearer(&valid));
    }
}

#[tokio::test]
async fn an_invalid_token_is_rejected_with_an_error_that_states_what_is_wrong() {
    let valid = token("0", 600);
    let truncated = &valid[..valid.len() - 20];
    let cases = [
        (format!("\"{valid}\""), "double quote"),
        (format!("\u{feff}{valid}"), "BOM"),
        (format!("{valid}\r\n{valid}"), "CR"),
        (format!("token: {valid}"), "':'"),
        (truncated.to_owned(), "truncated"),
        (format!("{valid}A"), "truncated"),
        (valid.rsplit_once('.').unwrap().0.to_owned(), "2 parts"),
        (String::new(), "empty"),
    ];
    let (_directory, kubelet) = empty_volume();
    kubelet.write([("token", &valid)]).unwrap();
    let source = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    for (text, part) in cases {
        kubelet.rotate("token", &text).unwrap();
        let error = source.file().reread().await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        for secret in valid.split('.') {
            assert!(!error.contains(secret), "{error}");
        }
        assert_eq!(current_header(&source), bearer(&valid));
    }
    assert!(Token::new(&valid).is_ok());
}
