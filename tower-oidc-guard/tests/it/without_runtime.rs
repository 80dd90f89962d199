//! Guards without a tokio runtime, or with a runtime that is not polled or has no timers.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tower_oidc_guard::{Algorithm, Issuer, KeysError, TokenError, VerifyError};

use crate::support::mock_client::unused_client;
use crate::support::signer::Signer;
use crate::support::{HEADER, ISSUER_URL, claims, guard_with_client, guard_with_keys};

/// Polls a future to completion on a new thread, without a runtime.
///
/// # Panics
///
/// Panics if that takes longer than 20 seconds.
fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
        let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                let _ = done.send(output);
                return;
            }
            thread::park();
        }
    });
    ended
        .recv_timeout(Duration::from_secs(20))
        .expect("the future did not complete")
}

#[test]
fn waiting_for_keys_outside_a_runtime_is_an_error() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let token = signer.sign(HEADER, &claims(json!({})));
    let (ready, verifier) = (guard.clone(), guard.verifier().clone());
    let error = block_on(async move { ready.ready().await }).unwrap_err();
    assert!(matches!(error.cause(), KeysError::NoRuntime), "{error:?}");
    let result = block_on(async move { verifier.verify(token).await.map(drop) });
    assert!(matches!(result, Err(VerifyError::KeysUnavailable { .. })));
}

#[test]
fn available_keys_are_used_outside_a_runtime() {
    let signer = Signer::new();
    let token = || signer.sign(HEADER, &claims(json!({})));
    // Keys that were fetched in a runtime that no longer exists.
    let fetched = guard_with_keys(&[signer.jwk()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(fetched.ready()).unwrap();
    // Configured keys.
    let issuer = Issuer::oidc(ISSUER_URL).algorithms([Algorithm::ES256]);
    let issuer = issuer.keys_json(json!({ "keys": [signer.jwk()] }).to_string());
    let given = guard_with_client(issuer, unused_client());
    assert!(given.health()[0].is_ready);
    for guard in [fetched, given] {
        let (ready, verifier, good) = (guard.clone(), guard.verifier().clone(), token());
        assert!(block_on(async move { ready.ready().await }).is_ok());
        assert_eq!(
            block_on(async move { verifier.verify(good).await.map(drop) }),
            Ok(())
        );
        let (verifier, forged) = (guard.verifier().clone(), Signer::new());
        let forged = forged.sign(HEADER, &claims(json!({})));
        let result = block_on(async move { verifier.verify(forged).await.map(drop) });
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::BadSignature))
        );
    }
}

#[test]
fn unpolled_runtime_does_not_block_waiting_in_another_runtime() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let throttled = runtime();
    {
        // Spawns the fetching task on a runtime that never runs it.
        let _entered = throttled.enter();
        guard.prefetch();
    }
    let awake = runtime();
    let ready = async { tokio::time::timeout(Duration::from_secs(10), guard.ready()).await };
    awake
        .block_on(ready)
        .expect("waiting for the other runtime")
        .unwrap();
    drop(throttled);
}

#[test]
fn waiting_in_a_runtime_without_timers_panics() {
    let ended = thread::spawn(|| {
        let guard = guard_with_keys(&[Signer::new().jwk()]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(guard.ready())
            .map_err(|error| error.to_string())
    });
    let began = std::time::Instant::now();
    while !ended.is_finished() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "waiting does not end"
        );
        thread::sleep(Duration::from_millis(10));
    }
    assert!(ended.join().is_err());
}
