//! When a guard fetches keys again, and what it does with the response.
//!
//! Time is paused in these tests, which use no sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Response};
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};
use tower_oidc_guard::{Algorithm, Issuer, KeysError, OidcGuard, TokenError, VerifyError};

use crate::support::mock_client::{delayed_client, mock_client};
use crate::support::signer::{Signer, base64url};
use crate::support::{ISSUER_URL, claims, guard_with_client};

const SECOND: Duration = Duration::from_secs(1);
/// After this time, the keys are refreshed.
const REFRESH: Duration = Duration::from_secs(3600);
const OLD_KEYS: &str = "https://keys.example/jwks";
const NEW_KEYS: &str = "https://keys.example/new";

/// An issuer whose documents can be changed, and that records requests for them.
#[derive(Clone)]
struct Publisher(Arc<Mutex<State>>);

struct State {
    algorithms: Value,
    jwks_uri: &'static str,
    keys: String,
    tag: Option<&'static str>,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    requests: Vec<(String, HeaderMap)>,
}

impl Publisher {
    fn new(keys: &[Value]) -> Self {
        Self(Arc::new(Mutex::new(State {
            algorithms: json!(["ES256"]),
            jwks_uri: OLD_KEYS,
            keys: json!({ "keys": keys }).to_string(),
            tag: None,
            status: 200,
            headers: Vec::new(),
            requests: Vec::new(),
        })))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn publish(&self, keys: &[Value]) {
        self.change(|state| state.keys = json!({ "keys": keys }).to_string());
    }

    /// Returns the headers of each request for this URL.
    fn requests(&self, url: &str) -> Vec<HeaderMap> {
        let requests = self.0.lock().unwrap().requests.clone();
        let requests = requests
            .into_iter()
            .filter(|(requested, _)| requested == url);
        requests.map(|(_, headers)| headers).collect()
    }

    /// Returns the number of requests for the key set.
    fn fetches(&self) -> usize {
        self.requests(OLD_KEYS).len()
    }

    /// Asserts that there were at most this many fetches, and one more for every 5 s since `began`.
    fn assert_fetches_limited(&self, burst: usize, began: Instant) {
        let (fetches, seconds) = (self.fetches() as u64, began.elapsed().as_secs());
        let permitted = burst as u64 + seconds / 5;
        assert!(fetches <= permitted, "{fetches} of {permitted}");
    }

    /// Returns an HTTP client that gets the documents of this issuer.
    fn client(&self) -> ClientWithMiddleware {
        let state = self.0.clone();
        mock_client(move |request| {
            let mut state = state.lock().unwrap();
            let (url, headers) = (request.url().to_string(), request.headers().clone());
            let is_known = |tag: &str| {
                headers
                    .get("if-none-match")
                    .is_some_and(|known| known == tag)
            };
            let mut response = Response::builder().status(state.status);
            for (name, value) in &state.headers {
                response = response.header(*name, *value);
            }
            let body = if url.ends_with("/.well-known/openid-configuration") {
                let document = json!({
                    "issuer": ISSUER_URL,
                    "jwks_uri": state.jwks_uri,
                    "id_token_signing_alg_values_supported": state.algorithms,
                });
                document.to_string()
            } else if let Some(tag) = state.tag.filter(|tag| is_known(tag)) {
                response = response.status(304).header("etag", tag);
                String::new()
            } else {
                if let Some(tag) = state.tag {
                    response = response.header("etag", tag);
                }
                state.keys.clone()
            };
            state.requests.push((url, headers));
            response.body(body.into_bytes()).unwrap()
        })
    }

    /// Creates a guard of this issuer without jitter.
    fn guard(&self) -> OidcGuard {
        self.guard_with(|issuer| issuer)
    }

    /// Creates a guard of this issuer without jitter, with these further settings.
    fn guard_with(&self, settings: impl FnOnce(Issuer) -> Issuer) -> OidcGuard {
        let issuer = Issuer::oidc(ISSUER_URL).unknown_key_jitter(Duration::ZERO);
        guard_with_client(settings(issuer), self.client())
    }
}

/// Returns the JWK of a signer with this `kid`, or without one.
fn key(signer: &Signer, kid: Option<&str>) -> Value {
    let mut key = signer.jwk();
    key["kid"] = json!(kid);
    key.as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    key
}

/// Signs a token with this `kid`, or without one.
fn token(signer: &Signer, kid: Option<&str>) -> String {
    let mut header = json!({ "alg": "ES256" });
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    signer.sign(&header.to_string(), &claims(json!({})))
}

async fn verify(guard: &OidcGuard, token: &str) -> Result<(), VerifyError> {
    guard.verifier().verify(token).await.map(drop)
}

/// Creates an issuer that publishes these keys, and a guard that has fetched them.
async fn publish_and_fetch(keys: &[Value]) -> (Publisher, OidcGuard) {
    let publisher = Publisher::new(keys);
    let guard = publisher.guard();
    guard.ready().await.unwrap();
    (publisher, guard)
}

/// Runs all tasks until they wait for time or for an event.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Advances the clock and runs all tasks that this wakes.
async fn advance_and_settle(duration: Duration) {
    advance(duration).await;
    settle().await;
}

/// Verifies a token and returns the result and how long it took.
async fn timed(guard: &OidcGuard, token: &str) -> (Result<(), VerifyError>, Duration) {
    let began = Instant::now();
    let result = verify(guard, token).await;
    (result, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn discovery_document_is_fetched_at_each_refresh() {
    let (old, new) = (Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&old, Some("old"))]).await;
    publisher.change(|state| state.jwks_uri = NEW_KEYS);
    publisher.publish(&[key(&new, Some("new"))]);
    for refresh in 1..4 {
        advance_and_settle(REFRESH).await;
        assert_eq!(publisher.requests(NEW_KEYS).len(), refresh);
    }
    assert_eq!(publisher.fetches(), 1, "the old URL is not requested again");
    assert_eq!(verify(&guard, &token(&new, Some("new"))).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn removed_algorithm_is_rejected_after_the_next_refresh() {
    let signer = Signer::new();
    let publisher = Publisher::new(&[key(&signer, Some("k"))]);
    let guard = publisher.guard();
    assert_eq!(verify(&guard, &token(&signer, Some("k"))).await, Ok(()));
    publisher.change(|state| state.algorithms = json!(["RS256"]));
    advance_and_settle(REFRESH).await;
    let result = verify(&guard, &token(&signer, Some("k"))).await;
    assert_eq!(
        result,
        Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed))
    );
}

#[tokio::test(start_paused = true)]
async fn added_algorithm_is_accepted_by_the_same_request() {
    let signer = Signer::new();
    let publisher = Publisher::new(&[key(&signer, Some("k"))]);
    publisher.change(|state| state.algorithms = json!(["RS256"]));
    let guard = publisher.guard();
    guard.ready().await.unwrap();
    publisher.change(|state| state.algorithms = json!(["RS256", "ES256"]));
    assert_eq!(verify(&guard, &token(&signer, Some("k"))).await, Ok(()));
    assert_eq!(publisher.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn unlisted_algorithm_and_unknown_kid_share_one_fetch_limit() {
    let signer = Signer::new();
    let publisher = Publisher::new(&[key(&signer, Some("k"))]);
    publisher.change(|state| state.algorithms = json!(["RS256"]));
    let guard = publisher.guard();
    guard.ready().await.unwrap();
    for _ in 0..3 {
        let (result, took) = timed(&guard, &token(&signer, Some("k"))).await;
        assert_eq!(
            (result, took),
            (
                Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed)),
                Duration::ZERO
            )
        );
        let (result, _) = timed(&guard, &token(&signer, Some("unknown"))).await;
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed))
        );
        advance(10 * SECOND).await;
    }
    assert_eq!(publisher.fetches(), 1 + 2 * 3);
}

#[tokio::test(start_paused = true)]
async fn algorithm_that_discovery_cannot_add_is_rejected_without_a_fetch() {
    let signer = Signer::new();
    for settings in [
        (|issuer: Issuer| issuer.algorithms([Algorithm::RS256])) as fn(Issuer) -> Issuer,
        |issuer| issuer.jwks_url(OLD_KEYS),
    ] {
        let publisher = Publisher::new(&[key(&signer, Some("k"))]);
        let guard = publisher.guard_with(settings);
        guard.ready().await.unwrap();
        let result = verify(&guard, &token(&signer, Some("k"))).await;
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed))
        );
        assert_eq!(publisher.fetches(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn issuer_listing_only_unsupported_algorithms_does_not_default_to_rs256() {
    let signer = Signer::new();
    for (listed, expected) in [
        (
            json!(["ES256K"]),
            VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed),
        ),
        (
            json!(["none", "HS256"]),
            VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed),
        ),
        // Defaults to RS256, for which there is no key.
        (json!([]), VerifyError::InvalidToken(TokenError::UnknownKey)),
        (
            json!(null),
            VerifyError::InvalidToken(TokenError::UnknownKey),
        ),
    ] {
        let publisher = Publisher::new(&[key(&signer, Some("k"))]);
        publisher.change(|state| state.algorithms = listed.clone());
        let guard = publisher.guard();
        let token = signer.sign(r#"{"alg":"RS256","kid":"k"}"#, &claims(json!({})));
        assert_eq!(verify(&guard, &token).await, Err(expected), "{listed}");
        let warns = !guard.health()[0].warnings.is_empty();
        assert_eq!(
            warns,
            expected == VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed),
            "{listed}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn moved_jwks_uri_with_a_new_key_admits_the_first_request_with_that_key() {
    let (old, new) = (Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&old, Some("old"))]).await;
    publisher.change(|state| state.jwks_uri = NEW_KEYS);
    publisher.publish(&[key(&new, Some("new"))]);
    assert_eq!(verify(&guard, &token(&new, Some("new"))).await, Ok(()));
}

/// Covers each kind of replacement without a new `kid`.
#[tokio::test(start_paused = true)]
async fn key_replaced_without_a_new_kid_admits_the_first_request_with_that_key() {
    let (old, new, beside) = (Signer::new(), Signer::new(), Signer::new());
    let rsa = json!({ "kty": "RSA", "kid": "k", "n": base64url(&[0xa5; 256]), "e": "AQAB" });
    for (what, before, after, kid) in [
        (
            "a single key without kid",
            vec![key(&old, None)],
            vec![key(&new, None)],
            None,
        ),
        (
            "a single key without kid, and tokens with one",
            vec![key(&old, None)],
            vec![key(&new, None)],
            Some("k"),
        ),
        (
            "a reused kid",
            vec![key(&old, Some("k"))],
            vec![key(&new, Some("k"))],
            Some("k"),
        ),
        (
            "a reused kid, for a key of another type",
            vec![rsa],
            vec![key(&new, Some("k"))],
            Some("k"),
        ),
        (
            "a key beside one without kid",
            vec![key(&beside, None), key(&old, Some("a"))],
            vec![key(&beside, None), key(&new, Some("b"))],
            Some("b"),
        ),
        (
            "the only key, and tokens without kid",
            vec![key(&old, Some("a"))],
            vec![key(&new, Some("b"))],
            None,
        ),
        (
            "one of two without kid that is withdrawn",
            vec![key(&old, None), key(&new, None)],
            vec![key(&new, None)],
            Some("k"),
        ),
    ] {
        let (publisher, guard) = publish_and_fetch(&before).await;
        publisher.publish(&after);
        assert_eq!(verify(&guard, &token(&new, kid)).await, Ok(()), "{what}");
        assert_eq!(publisher.fetches(), 2, "{what}");
        let old = verify(&guard, &token(&old, kid)).await;
        assert!(
            matches!(
                old,
                Err(VerifyError::InvalidToken(TokenError::BadSignature)
                    | VerifyError::InvalidToken(TokenError::UnknownKey))
            ),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bad_signatures_cause_rate_limited_fetches_and_do_not_delay_valid_tokens() {
    let (signer, other) = (Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&signer, Some("k"))]).await;
    let mut flood = JoinSet::new();
    for _ in 0..1000 {
        let (verifier, forged) = (guard.verifier().clone(), token(&other, Some("k")));
        flood.spawn(async move { verifier.verify(forged).await.map(drop) });
    }
    settle().await;
    for _ in 0..100 {
        let (result, took) = timed(&guard, &token(&signer, Some("k"))).await;
        assert_eq!((result, took), (Ok(()), Duration::ZERO));
    }
    for result in flood.join_all().await {
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::BadSignature))
        );
    }
    assert_eq!(publisher.fetches(), 2, "one fetch for all of them");
    let began = Instant::now();
    for _ in 0..60 {
        let (result, took) = timed(&guard, &token(&other, Some("k"))).await;
        assert_eq!(
            (result, took),
            (
                Err(VerifyError::InvalidToken(TokenError::BadSignature)),
                Duration::ZERO
            )
        );
        advance(SECOND).await;
    }
    // Two fetches so far, and the two that are left of the burst.
    publisher.assert_fetches_limited(2 + 2, began);
}

#[tokio::test(start_paused = true)]
async fn unknown_kid_is_always_401_while_keys_are_usable() {
    let (signer, other) = (Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&signer, Some("k"))]).await;
    let began = Instant::now();
    for number in 0..60 {
        let unknown = number.to_string();
        let (result, took) = timed(&guard, &token(&other, Some(&unknown))).await;
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::UnknownKey))
        );
        assert!(took <= 5 * SECOND, "{took:?}");
        advance(SECOND).await;
    }
    // The first fetch and a burst of three.
    publisher.assert_fetches_limited(1 + 3, began);
}

#[tokio::test(start_paused = true)]
async fn rotation_right_after_the_first_fetch_is_picked_up_by_the_same_request() {
    let (publisher, guard) = publish_and_fetch(&[key(&Signer::new(), Some("0"))]).await;
    for number in 1..4 {
        let (signer, kid) = (Signer::new(), number.to_string());
        publisher.publish(&[key(&signer, Some(&kid))]);
        let (result, took) = timed(&guard, &token(&signer, Some(&kid))).await;
        assert_eq!((result, took), (Ok(()), Duration::ZERO));
    }
    let (signer, kid) = (Signer::new(), "4");
    publisher.publish(&[key(&signer, Some(kid))]);
    // The next fetch is permitted in 5 s, which is longer than a request waits.
    let (at_once, took) = timed(&guard, &token(&signer, Some(kid))).await;
    assert_eq!(
        (at_once, took),
        (
            Err(VerifyError::InvalidToken(TokenError::UnknownKey)),
            Duration::ZERO
        )
    );
    advance(SECOND).await;
    let (result, took) = timed(&guard, &token(&signer, Some(kid))).await;
    assert_eq!(
        (result, took),
        (Ok(()), 4 * SECOND),
        "waits until the next fetch is permitted"
    );
}

#[tokio::test(start_paused = true)]
async fn flood_of_unknown_kids_delays_a_rotation_by_at_most_one_interval() {
    let (old, new, other) = (Signer::new(), Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&old, Some("old"))]).await;
    let mut flood = JoinSet::new();
    for number in 0..2000 {
        let verifier = guard.verifier().clone();
        let forged = token(&other, Some(&format!("unknown-{number}")));
        flood.spawn(async move {
            loop {
                // Requests beyond the maximum number of waiting ones are rejected at once.
                let result = verifier.verify(&forged).await.map(drop);
                assert_eq!(
                    result,
                    Err(VerifyError::InvalidToken(TokenError::UnknownKey))
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    advance_and_settle(60 * SECOND).await;
    publisher.publish(&[key(&new, Some("new"))]);
    let began = Instant::now();
    while verify(&guard, &token(&new, Some("new"))).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() <= 5 * SECOND, "{:?}", began.elapsed());
    flood.abort_all();
}

#[tokio::test(start_paused = true)]
async fn total_wait_for_keys_stays_within_the_limit() {
    let (signer, other) = (Signer::new(), Signer::new());
    let publisher = Publisher::new(&[key(&signer, Some("k"))]);
    let (documents, slow) = (publisher.client(), Arc::new(Mutex::new(Duration::ZERO)));
    let delay = slow.clone();
    let client = delayed_client(documents, delay);
    let issuer = Issuer::oidc(ISSUER_URL).unknown_key_jitter(Duration::ZERO);
    let guard = guard_with_client(issuer, client);
    guard.ready().await.unwrap();
    for document in [1500, 2400, 2600, 4000, 9000] {
        *slow.lock().unwrap() = Duration::from_millis(document);
        // The first request starts a fetch. The second one waits for the same fetch and would need another one.
        let first = {
            let guard = guard.clone();
            let token = token(&other, Some("a"));
            async move { timed(&guard, &token).await }
        };
        let first = tokio::spawn(first);
        advance(SECOND).await;
        let (result, took) = timed(&guard, &token(&other, Some("b"))).await;
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::UnknownKey))
        );
        assert!(took <= 5 * SECOND, "{took:?}");
        let (result, took) = first.await.unwrap();
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::UnknownKey))
        );
        assert!(took <= 5 * SECOND, "{took:?}");
        advance(60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_get_503_only_without_usable_keys() {
    let signer = Signer::new();
    let publisher = Publisher::new(&[key(&signer, Some("k"))]);
    publisher.change(|state| state.status = 500);
    let guard = publisher.guard();
    for _ in 0..5 {
        let (result, took) = timed(&guard, &token(&signer, Some("k"))).await;
        assert!(
            matches!(result, Err(VerifyError::KeysUnavailable { .. })),
            "{result:?}"
        );
        assert!(took < SECOND, "requests wait: {took:?}");
    }
    publisher.change(|state| state.status = 200);
    advance(10 * SECOND).await;
    assert_eq!(verify(&guard, &token(&signer, Some("k"))).await, Ok(()));
    // From here on there are usable keys, even though the issuer fails.
    publisher.change(|state| state.status = 500);
    for _ in 0..5 {
        let result = verify(&guard, &token(&signer, Some("new"))).await;
        assert_eq!(
            result,
            Err(VerifyError::InvalidToken(TokenError::UnknownKey))
        );
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn request_during_issuer_failure_waits_for_the_next_attempt() {
    let (old, new) = (Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&old, Some("old"))]).await;
    publisher.publish(&[key(&new, Some("new"))]);
    publisher.change(|state| state.status = 500);
    let refused = verify(&guard, &token(&new, Some("new"))).await;
    assert_eq!(
        refused,
        Err(VerifyError::InvalidToken(TokenError::UnknownKey)),
        "the fetch failed"
    );
    publisher.change(|state| state.status = 200);
    let (result, took) = timed(&guard, &token(&new, Some("new"))).await;
    assert_eq!(result, Ok(()));
    assert!(took > Duration::ZERO && took <= SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn withdrawing_all_keys_takes_effect_at_the_next_fetch() {
    let signer = Signer::new();
    for emptied in [
        r#"{"keys":[]}"#.to_owned(),
        json!({ "keys": [{ "kty": "oct", "k": "AA" }] }).to_string(),
        json!({ "keys": [{ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA" }, null] }).to_string(),
    ] {
        let publisher = Publisher::new(&[key(&signer, Some("k"))]);
        let guard = publisher.guard();
        let kept = token(&signer, Some("k"));
        assert_eq!(verify(&guard, &kept).await, Ok(()));
        publisher.change(|state| state.keys = emptied.clone());
        advance_and_settle(REFRESH).await;
        // The cached token is dropped with its key.
        for token in [&kept, &token(&signer, Some("k"))] {
            let result = verify(&guard, token).await;
            assert!(
                matches!(result, Err(VerifyError::KeysUnavailable { .. })),
                "{result:?}"
            );
        }
        let health = guard.health().remove(0);
        assert_eq!((health.is_ready, health.usable_keys), (false, 0));
        let error = health.last_error.unwrap();
        assert!(matches!(&*error, KeysError::NoUsableKey { .. }), "{error}");
        let error = guard.ready().await.unwrap_err();
        assert!(matches!(error.cause(), KeysError::NoUsableKey { .. }));
        // A server that is not ready gets no requests, so the guard retries on its own.
        publisher.publish(&[key(&signer, Some("k"))]);
        advance_and_settle(10 * SECOND).await;
        assert!(guard.health()[0].is_ready && guard.health()[0].last_error.is_none());
        assert_eq!(verify(&guard, &kept).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_key_set_keeps_the_old_keys() {
    let signer = Signer::new();
    for malformed in [
        "",
        "{}",
        "null",
        "[]",
        "[[]]",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":[]"#,
        r#"{"keys":[]} x"#,
        r#"{"keys":[],"keys":[]}"#,
        "<html>",
    ] {
        let (publisher, guard) = publish_and_fetch(&[key(&signer, Some("k"))]).await;
        publisher.change(|state| state.keys = malformed.to_owned());
        advance_and_settle(REFRESH).await;
        let health = guard.health().remove(0);
        let error = health.last_error.unwrap();
        assert!(
            matches!(&*error, KeysError::InvalidKeySet { .. }),
            "{malformed}: {error}"
        );
        assert!(health.is_ready, "{malformed}");
        assert_eq!(verify(&guard, &token(&signer, Some("k"))).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn duplicate_key_counts_once_and_different_keys_with_one_kid_are_all_used() {
    let (one, two) = (Signer::new(), Signer::new());
    let same = key(&one, Some("k"));
    let mut other_members = same.clone();
    other_members["x5c"] = json!(["AAAA"]);
    other_members["alg"] = "ES256".into();
    let publisher = Publisher::new(&[same.clone(), other_members]);
    let guard = publisher.guard();
    for kid in [Some("k"), None] {
        assert_eq!(verify(&guard, &token(&one, kid)).await, Ok(()));
    }
    let health = guard.health().remove(0);
    assert_eq!((health.usable_keys, health.warnings.len()), (1, 0));

    publisher.publish(&[same, key(&two, Some("k"))]);
    for signer in [&two, &one] {
        assert_eq!(verify(&guard, &token(signer, Some("k"))).await, Ok(()));
    }
    let health = guard.health().remove(0);
    assert_eq!((health.usable_keys, health.warnings.len()), (2, 1));
    assert!(
        health.warnings[0].contains("\"k\""),
        "{:?}",
        health.warnings
    );
}

#[tokio::test(start_paused = true)]
async fn etag_of_a_rejected_key_set_is_not_used() {
    let (old, new) = (Signer::new(), Signer::new());
    let too_many: Vec<_> = (0..201).map(|n| key(&new, Some(&n.to_string()))).collect();
    for bad in [
        "not JSON".to_owned(),
        r#"{"keys":null}"#.to_owned(),
        json!({ "keys": too_many }).to_string(),
    ] {
        let publisher = Publisher::new(&[key(&old, Some("old"))]);
        publisher.change(|state| state.tag = Some("\"good\""));
        let guard = publisher.guard();
        guard.ready().await.unwrap();
        publisher.change(|state| (state.keys, state.tag) = (bad.clone(), Some("\"bad\"")));
        advance_and_settle(REFRESH).await;
        assert!(guard.health()[0].last_error.is_some());
        for _ in 0..3 {
            advance_and_settle(10 * SECOND).await;
        }
        let requests = publisher.requests(OLD_KEYS);
        assert!(requests.len() >= 4);
        for headers in &requests[1..] {
            assert_eq!(headers["if-none-match"], "\"good\"");
        }
        publisher.change(|state| state.tag = Some("\"new\""));
        publisher.publish(&[key(&new, Some("new"))]);
        advance_and_settle(10 * SECOND).await;
        assert_eq!(verify(&guard, &token(&new, Some("new"))).await, Ok(()));
        assert!(guard.health()[0].last_error.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn fetch_for_an_unknown_key_bypasses_http_caches_and_a_refresh_does_not() {
    let (old, new) = (Signer::new(), Signer::new());
    let (publisher, guard) = publish_and_fetch(&[key(&old, Some("old"))]).await;
    publisher.publish(&[key(&new, Some("new"))]);
    assert_eq!(verify(&guard, &token(&new, Some("new"))).await, Ok(()));
    advance_and_settle(REFRESH).await;
    let document = format!("{ISSUER_URL}/.well-known/openid-configuration");
    for url in [OLD_KEYS, &document] {
        let requests = publisher.requests(url);
        let bypasses: Vec<_> = requests
            .iter()
            .map(|headers| {
                headers
                    .get("cache-control")
                    .is_some_and(|value| value == "no-cache")
            })
            .collect();
        assert_eq!(bypasses, [false, true, false], "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn age_header_counts_against_max_age() {
    let signer = Signer::new();
    for (headers, expected) in [
        (vec![("cache-control", "max-age=1000")], 800..=1000),
        (
            vec![("cache-control", "max-age=1000"), ("age", "400")],
            480..=600,
        ),
        (
            vec![("cache-control", "max-age=1000"), ("age", "2000")],
            48..=60,
        ),
        (
            vec![("cache-control", "max-age=1000"), ("age", "?")],
            800..=1000,
        ),
    ] {
        let publisher = Publisher::new(&[key(&signer, Some("k"))]);
        publisher.change(|state| state.headers = headers.clone());
        let guard = publisher.guard();
        guard.ready().await.unwrap();
        let next = guard.health()[0].next_attempt.unwrap().as_secs();
        assert!(expected.contains(&next), "{headers:?}: {next}");
    }
}

#[tokio::test(start_paused = true)]
async fn fetch_may_take_as_long_as_its_timeout() {
    let signer = Signer::new();
    let publisher = Publisher::new(&[key(&signer, Some("k"))]);
    for (limit, document) in [(100 * SECOND, 90 * SECOND), (Duration::MAX, 900 * SECOND)] {
        let client = delayed_client(publisher.client(), Arc::new(Mutex::new(document)));
        let issuer = Issuer::oidc(ISSUER_URL).fetch_timeout(limit);
        let guard = guard_with_client(issuer, client);
        let began = Instant::now();
        guard.ready().await.unwrap();
        assert!(
            began.elapsed() < 2 * document + SECOND,
            "{:?}",
            began.elapsed()
        );
    }
}
