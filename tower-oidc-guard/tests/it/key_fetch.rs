//! Fetching discovery documents and key sets: conditional requests, limits, redirects, misbehaving servers, and what is
//! logged of a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tower_oidc_guard::{Algorithm, Issuer, KeysError, OidcGuard, TokenError, VerifyError};

use crate::support::logs::CapturedLogs;
use crate::support::mock_client::mock_client;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::Signer;
use crate::support::{
    HEADER, ISSUER_URL, advance_clock, claims, guard_with_client, guard_with_keys, trusted_issuer,
};

const KEYS: &str = "https://keys.example/jwks";

fn issuer() -> Issuer {
    Issuer::oidc(ISSUER_URL)
        .algorithms([Algorithm::ES256])
        .jwks_url(KEYS)
}

fn keys(signer: &Signer, count: usize) -> Vec<u8> {
    let key = |number: usize| {
        let mut key = signer.jwk();
        key["kid"] = if number == 0 {
            "k".into()
        } else {
            number.to_string().into()
        };
        key
    };
    let keys: Vec<_> = (0..count).map(key).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

#[tokio::test]
async fn key_set_with_etag_is_requested_conditionally_and_kept_after_304() {
    let signer = Signer::new();
    let (body, not_modified) = (keys(&signer, 1), Arc::new(AtomicUsize::new(0)));
    let counted = not_modified.clone();
    let client = mock_client(move |request| {
        let etag = request.headers().get("if-none-match");
        if etag.is_some_and(|tag| tag == "\"v1\"") {
            counted.fetch_add(1, Ordering::Relaxed);
            let response = Response::builder()
                .status(304)
                .header("cache-control", "max-age=600");
            return response.body(Vec::new()).unwrap();
        }
        let response = Response::builder().header("etag", "\"v1\"");
        response.body(body.clone()).unwrap()
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
    for (count, limit, is_accepted) in [(200, 200, true), (201, 200, false), (2, 1, false)] {
        let body = keys(&signer, count);
        let client = mock_client(move |_| Response::new(body.clone()));
        let ready = guard_with_client(issuer().max_keys(limit), client)
            .ready()
            .await;
        assert_eq!(ready.is_ok(), is_accepted, "{count}");
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

/// Creates a guard whose issuer sends these bytes and then a space every 100 ms, or nothing if there are no bytes.
async fn guard_of_slow_server(first: &'static [u8]) -> OidcGuard {
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
    let error = guard_of_slow_server(b"").await.ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Timeout { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn slowly_sending_server_causes_a_timeout() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    let error = guard_of_slow_server(head).await.ready().await.unwrap_err();
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

/// Returns a discovery document like that of Kubernetes, which has no `authorization_endpoint`.
fn discovery(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": "https://keys.example/jwks",
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

#[tokio::test]
async fn openidconnect_rs_201_discovery_document_without_authorization_endpoint_is_accepted() {
    let signer = Signer::new();
    assert!(
        discovery(ISSUER_URL)
            .get("authorization_endpoint")
            .is_none()
    );
    let guard = guard_with_keys(&[signer.jwk()]);
    let token = signer.sign(HEADER, &claims(json!({})));
    assert!(guard.verifier().verify(token).await.is_ok());
}

#[tokio::test]
async fn keys_load_from_a_server_without_head_or_etag_and_with_jwk_set_content_type() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] });
    let client = mock_client(move |request| {
        if request.method() != Method::GET {
            return Response::builder().status(405).body(Vec::new()).unwrap();
        }
        let (kind, body) = match request.url().path() {
            "/jwks" => ("application/jwk-set+json", &keys),
            _ => ("application/json", &discovery(ISSUER_URL)),
        };
        let response = Response::builder().header("content-type", kind);
        response.body(body.to_string().into_bytes()).unwrap()
    });
    guard_with_client(Issuer::oidc(ISSUER_URL), client)
        .ready()
        .await
        .unwrap();
}

#[tokio::test]
async fn openidconnect_rs_226_trailing_slash_is_a_different_issuer_and_the_error_mentions_it() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] });
    let client = mock_client(move |request| {
        let with_slash = discovery(&format!("{ISSUER_URL}/"));
        let body = if request.url().path() == "/jwks" {
            &keys
        } else {
            &with_slash
        };
        Response::new(body.to_string().into_bytes())
    });
    let error = guard_with_client(Issuer::oidc(ISSUER_URL), client)
        .ready()
        .await
        .unwrap_err();
    assert!(
        error.cause().to_string().contains("slash"),
        "{}",
        error.cause()
    );
    let with_slash = claims(json!({ "iss": format!("{ISSUER_URL}/") }));
    let result = guard_with_keys(&[signer.jwk()])
        .verifier()
        .verify(signer.sign(HEADER, &with_slash))
        .await;
    assert_eq!(
        result.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownIssuer))
    );
}

#[tokio::test]
async fn failed_fetch_logs_only_an_excerpt_of_the_response() {
    if !is_child_process() {
        return run_in_child_process(
            "key_fetch::failed_fetch_logs_only_an_excerpt_of_the_response",
            &[],
        );
    }
    let logs = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(logs.clone())
        .finish();
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let long = "x".repeat(500_000);
    let valid = || json!({ "issuer": ISSUER_URL, "jwks_uri": "https://keys.example/jwks" });
    let with = |name: &str, value: Value| {
        let mut document = valid();
        document[name] = value;
        document.to_string()
    };
    for (document, keys) in [
        (long.clone(), String::new()),
        (with("issuer", json!(long)), String::new()),
        (with("issuer", json!([long])), String::new()),
        (with("issuer", json!(&long[..2000])), String::new()),
        (with("jwks_uri", json!(long)), String::new()),
        (
            with("jwks_uri", json!(format!("https://{long}"))),
            String::new(),
        ),
        (
            with("id_token_signing_alg_values_supported", json!(long)),
            String::new(),
        ),
        (valid().to_string(), long.clone()),
        (valid().to_string(), json!({ "keys": long }).to_string()),
        (valid().to_string(), json!(long).to_string()),
        (
            valid().to_string(),
            json!({ "keys": [long, { "kid": long }] }).to_string(),
        ),
    ] {
        let client = mock_client(move |request| {
            let is_keys = request.url().path() == "/jwks";
            let body = if is_keys { &keys } else { &document };
            Response::new(body.clone().into_bytes())
        });
        logs.clear();
        let guard = guard_with_client(Issuer::oidc(ISSUER_URL), client);
        let error = guard.ready().await.unwrap_err();
        let text = logs.text();
        assert!(text.contains("WARN"), "{text}");
        assert!(text.len() < 3000, "{} bytes: {}", text.len(), &text[..500]);
        let debug = format!("{error:?}");
        assert!(debug.len() < 5000, "{} bytes", debug.len());
    }
}
