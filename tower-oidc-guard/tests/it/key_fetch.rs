//! How documents are fetched: tags, limits, and servers that behave badly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::signer::Signer;
use crate::support::{
    HEADER, ISSUER_URL, advance_clock, claims, guard_with_client, mock_client, trusted_issuer,
};
use http::Response;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tower_oidc_guard::{Algorithm, Issuer, KeysError, OidcGuard};

const KEYS: &str = "https://keys.example/jwks";

fn issuer() -> Issuer {
    Issuer::oidc(ISSUER_URL)
        .algorithms([Algorithm::ES256])
        .jwks_url(KEYS)
}

fn keys(signer: &Signer, count: usize) -> Vec<u8> {
    let named = |number: usize| {
        let mut key = signer.jwk();
        key["kid"] = if number == 0 {
            "k".into()
        } else {
            number.to_string().into()
        };
        key
    };
    let keys: Vec<_> = (0..count).map(named).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

#[tokio::test]
async fn key_set_with_etag_is_requested_conditionally_and_kept_after_304() {
    let signer = Signer::new();
    let (body, not_modified) = (keys(&signer, 1), Arc::new(AtomicUsize::new(0)));
    let counted = not_modified.clone();
    let client = mock_client(move |request| {
        let knows = request.headers().get("if-none-match");
        if knows.is_some_and(|tag| tag == "\"v1\"") {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = Response::builder()
                .status(304)
                .header("cache-control", "max-age=600");
            return answer.body(Vec::new()).unwrap();
        }
        let answer = Response::builder().header("etag", "\"v1\"");
        answer.body(body.clone()).unwrap()
    });
    let guard = guard_with_client(issuer(), client);
    guard.ready().await.unwrap();
    let before = guard.health().remove(0);
    advance_clock(Duration::from_secs(3600)).await;
    while not_modified.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
        guard.prefetch();
    }
    let after = guard.health().remove(0);
    assert_eq!(
        (after.usable_keys, after.key_set_hash),
        (1, before.key_set_hash)
    );
    assert!(
        after
            .next_attempt
            .is_some_and(|pause| pause <= Duration::from_secs(600))
    );
    let token = signer.sign(HEADER, &claims(json!({})));
    assert!(guard.verifier().verify(token).await.is_ok());
}

#[tokio::test]
async fn unsolicited_304_is_an_error() {
    let client = mock_client(|_| Response::builder().status(304).body(Vec::new()).unwrap());
    let error = guard_with_client(issuer(), client)
        .ready()
        .await
        .unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Status { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn key_set_with_more_keys_than_the_limit_is_rejected() {
    let signer = Signer::new();
    for (count, limit, is_taken) in [(200, 200, true), (201, 200, false), (2, 1, false)] {
        let body = keys(&signer, count);
        let client = mock_client(move |_| Response::new(body.clone()));
        let ready = guard_with_client(issuer().max_keys(limit), client)
            .ready()
            .await;
        assert_eq!(ready.is_ok(), is_taken, "{count}");
        let error = ready.err();
        let is_named = |error: &tower_oidc_guard::NotReady| {
            matches!(error.cause(), KeysError::TooManyKeys { .. })
        };
        assert!(error.is_none_or(|error| is_named(&error)));
    }
}

#[tokio::test]
async fn response_body_over_the_size_limit_is_rejected() {
    for (size, limit) in [(512 * 1024 + 1, None), (1001, Some(1000))] {
        let client = mock_client(move |_| Response::new(vec![b' '; size]));
        let issuer = limit.map_or(issuer(), |limit| issuer().max_document_bytes(limit));
        let error = guard_with_client(issuer, client).ready().await.unwrap_err();
        assert!(
            matches!(error.cause(), KeysError::TooLarge { .. }),
            "{error:?}"
        );
    }
}

/// A server that sends these bytes, and then a blank every tenth of a second, or nothing more.
async fn drip(first: &'static [u8]) -> OidcGuard {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(first).await;
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if !first.is_empty() && stream.write_all(b" ").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let issuer = trusted_issuer(&url).fetch_timeout(Duration::from_millis(600));
    let builder = OidcGuard::builder().issuer(issuer);
    builder.any_verified_caller().build().unwrap()
}

#[tokio::test]
async fn silent_server_causes_a_timeout() {
    let error = drip(b"").await.ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Timeout { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn slowly_sending_server_causes_a_timeout() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    let error = drip(head).await.ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Timeout { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn same_origin_redirect_is_followed_and_cross_origin_redirect_is_not() {
    let signer = Signer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = keys(&signer, 1);
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = match request.split(' ').nth(1).unwrap_or_default() {
                "/within" => ("302 Found\r\nlocation: /keys", &b""[..]),
                "/away" => ("302 Found\r\nlocation: http://localhost:1/keys", &b""[..]),
                _ => ("200 OK", body.as_slice()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        }
    });
    for (path, is_followed) in [("/within", true), ("/away", false)] {
        let issuer = trusted_issuer(&url).jwks_url(format!("{url}{path}"));
        let builder = OidcGuard::builder().issuer(issuer).any_verified_caller();
        let guard = builder.build().unwrap();
        let ready = guard.ready().await;
        assert_eq!(ready.is_ok(), is_followed, "{path}: {ready:?}");
        if let Err(error) = ready {
            let text = error.cause().to_string();
            assert!(
                text.contains("another origin, http://localhost:1"),
                "{text}"
            );
        }
    }
}
