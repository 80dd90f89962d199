//! The keys of an issuer from the first fetch until they are stale: health, readiness, outages and rotations.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, Issuer, OidcGuard, TokenError, VerifyError};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::support::events::{CapturedEvent, CapturedEvents};
use crate::support::mock_client::mock_client;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::Signer;
use crate::support::{
    AUDIENCE, HEADER, ISSUER_URL, advance_clock, bearer_request, body_text, claims, echo_subject,
    guard, guard_with_client, guard_with_keys, request, trusted_issuer, valid_token,
};

const HOUR: Duration = Duration::from_secs(3600);

fn long_token(issuer: &TestIssuer) -> String {
    issuer.token().audience(AUDIENCE).lifetime(48 * HOUR).mint()
}

#[tokio::test]
async fn building_a_guard_sends_no_request() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(issuer.key_fetches(), 0);
    guard.ready().await.unwrap();
    assert_eq!(issuer.key_fetches(), 1);
}

#[test]
fn a_clock_may_ask_the_guard_for_its_health() {
    let (sender, fetched) = std::sync::mpsc::channel();
    // In another thread, so that a deadlock fails this test.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let issuer = runtime.block_on(TestIssuer::start()).unwrap();
        let asked = Arc::<std::sync::OnceLock<OidcGuard>>::default();
        let clock = {
            let asked = asked.clone();
            move || {
                let _ = asked.get().map(OidcGuard::health);
                std::time::SystemTime::now()
            }
        };
        let guard = OidcGuard::builder()
            .issuer(trusted_issuer(issuer.url()))
            .any_verified_caller()
            .clock(clock)
            .build()
            .unwrap();
        asked.set(guard.clone()).unwrap();
        sender
            .send(runtime.block_on(guard.ready()).is_ok())
            .unwrap();
    });
    let fetched = fetched.recv_timeout(Duration::from_secs(30));
    assert_eq!(fetched, Ok(true));
}

/// Gives spawned tasks and sockets time to do what they would do.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn health_starts_no_fetch_and_prefetch_fetches_the_keys_of_every_issuer() {
    let issuers = [
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    ];
    let builder = issuers
        .iter()
        .fold(OidcGuard::builder(), |builder, issuer| {
            builder.issuer(trusted_issuer(issuer.url()))
        });
    let guard = builder.any_verified_caller().build().unwrap();
    let fetches = || issuers.each_ref().map(TestIssuer::key_fetches);
    assert!(guard.health().iter().all(|issuer| !issuer.is_ready));
    pause().await;
    assert_eq!(fetches(), [0, 0]);
    guard.prefetch();
    for _ in 0..1000 {
        if guard.health().iter().all(|issuer| issuer.is_ready) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(guard.health().iter().all(|issuer| issuer.is_ready));
    guard.prefetch();
    pause().await;
    assert_eq!(fetches(), [1, 1], "a second call fetches nothing");
}

#[tokio::test]
async fn readiness_probes_alone_make_a_server_ready() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    for _ in 0..1000 {
        let response = guard.readiness().oneshot(request(&[])).await.unwrap();
        if response.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", guard.health());
}

#[tokio::test]
async fn known_keys_work_for_a_day_without_the_issuer_and_then_become_stale() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let known = long_token(&issuer);
    guard.ready().await.unwrap();
    drop(issuer);
    for hour in 0..23 {
        assert!(guard.verifier().verify(&known).await.is_ok(), "hour {hour}");
        advance_clock(HOUR).await;
    }
    assert!(guard.health()[0].is_ready);
    advance_clock(2 * HOUR).await;
    let result = guard.verifier().verify(&known).await;
    assert!(
        matches!(result, Err(VerifyError::KeysUnavailable { .. })),
        "{result:?}"
    );
    let health = guard.health().remove(0);
    assert!(!health.is_ready);
    let text = health.to_string();
    assert!(
        text.contains("too old to be used (`stale_after`): GET "),
        "{text}"
    );
}

#[tokio::test]
async fn stale_after_is_configurable() {
    let issuer = TestIssuer::start().await.unwrap();
    let trusted = trusted_issuer(issuer.url()).stale_after(2 * HOUR);
    let guard = OidcGuard::builder()
        .issuer(trusted)
        .any_verified_caller()
        .build()
        .unwrap();
    let known = long_token(&issuer);
    guard.ready().await.unwrap();
    drop(issuer);
    advance_clock(HOUR).await;
    assert!(guard.verifier().verify(&known).await.is_ok());
    advance_clock(HOUR).await;
    assert!(guard.verifier().verify(&known).await.is_err());
}

#[tokio::test]
async fn health_reports_keys_and_the_last_error() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    assert!(!guard.health()[0].is_ready);
    guard.ready().await.unwrap();
    let before = guard.health().remove(0);
    assert_eq!(before.issuer, issuer.url());
    assert_eq!((before.is_ready, before.usable_keys), (true, 1));
    assert!(before.last_success.is_some() && before.last_error.is_none());
    assert!(
        before
            .next_attempt
            .is_some_and(|pause| pause > Duration::from_secs(60))
    );
    issuer.rotate_key().unwrap();
    advance_clock(Duration::from_secs(6)).await;
    guard.verifier().verify(valid_token(&issuer)).await.unwrap();
    let after = guard.health().remove(0);
    assert_eq!(after.usable_keys, 2);
    assert_ne!(after.key_set_hash, before.key_set_hash);
    drop(issuer);
    advance_clock(HOUR).await;
    while guard.health()[0].last_error.is_none() {
        tokio::task::yield_now().await;
    }
    let during_outage = guard.health().remove(0);
    assert!(during_outage.is_ready, "ready during an outage");
    let texts = [before, after, during_outage].map(|health| health.to_string());
    assert!(texts[0].ends_with(": 1 usable"), "{}", texts[0]);
    assert!(texts[1].ends_with(": 2 usable"), "{}", texts[1]);
    let failed = ": 2 usable, but the last fetch failed: GET ";
    assert!(texts[2].contains(failed), "{}", texts[2]);
}

#[tokio::test]
async fn health_lists_skipped_keys() {
    let signer = Signer::new();
    let unsupported = json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA" });
    let guard = guard_with_keys(&[unsupported, signer.jwk()]);
    guard.ready().await.unwrap();
    let health = guard.health().remove(0);
    assert_eq!((health.usable_keys, health.skipped_keys.len()), (1, 1));
}

#[tokio::test]
async fn readiness_returns_200_once_keys_are_available() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(body_text(response).await.contains(issuer.url()));
    guard.ready().await.unwrap();
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn thousand_unknown_kids_cause_one_fetch_and_a_rotation_is_still_picked_up() {
    let (issuer, signer) = (TestIssuer::start().await.unwrap(), Signer::new());
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "iss": issuer.url(), "sub": "x", "aud": AUDIENCE, "iat": now, "exp": now + 600,
    });
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let header = format!(r#"{{"alg":"RS256","kid":"made-up-{number}"}}"#);
        let (verifier, forged) = (
            guard.verifier().clone(),
            signer.sign(&header, &claims.to_string()),
        );
        flood.spawn(async move { verifier.verify(forged).await.is_err() });
    }
    assert!(
        guard.verifier().verify(valid_token(&issuer)).await.is_ok(),
        "a valid token among them"
    );
    assert!(flood.join_all().await.into_iter().all(|refused| refused));
    assert_eq!(
        issuer.key_fetches(),
        2,
        "the first fetch and one for all unknown kids"
    );
}

/// As on a platform that gives a process no CPU time between requests.
#[test]
fn requests_drive_the_refresh_if_the_background_task_is_not_polled() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let servers = servers.unwrap();
    let issuer = servers.block_on(TestIssuer::start()).unwrap();
    let (guard, known) = (guard(issuer.url()), long_token(&issuer));
    let throttled = runtime();
    throttled.block_on(guard.ready()).unwrap();
    assert_eq!(issuer.key_fetches(), 1);
    let awake = runtime();
    awake.block_on(async {
        advance_clock(2 * HOUR).await;
        for _ in 0..1000 {
            assert!(guard.verifier().verify(&known).await.is_ok());
            if issuer.key_fetches() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the keys were not refreshed");
    });
    drop(throttled);
}

#[tokio::test]
async fn kubernetes_142012_failed_fetch_for_an_unknown_key_is_401_and_does_not_use_up_the_limit() {
    let fails = Arc::new(AtomicBool::new(false));
    let (old, new) = (Signer::new(), Signer::new());
    let (published, failing) = (json!({ "keys": [new.jwk()] }), fails.clone());
    let first = json!({ "keys": [{ "kty": "EC", "kid": "old", "crv": "P-256", "x": old.jwk()["x"], "y": old.jwk()["y"] }] });
    let requests = AtomicUsize::new(0);
    let client = mock_client(move |_| {
        let is_first = requests.fetch_add(1, Ordering::Relaxed) == 0;
        let fails = failing.load(Ordering::Relaxed);
        let body = if is_first { &first } else { &published };
        let response = http::Response::builder().status(if fails { 500 } else { 200 });
        response.body(body.to_string().into_bytes()).unwrap()
    });
    let issuer = Issuer::oidc(ISSUER_URL)
        .algorithms([Algorithm::ES256])
        .unknown_key_jitter(Duration::ZERO)
        .jwks_url("https://keys.example/jwks");
    let guard = guard_with_client(issuer, client);
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    let token = new.sign(HEADER, &claims(json!({})));
    fails.store(true, Ordering::Relaxed);
    let result = guard.verifier().verify(&token).await;
    assert_eq!(
        result.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownKey))
    );
    let next = guard.health()[0].next_attempt.unwrap();
    assert!(next <= Duration::from_secs(1), "{next:?}");
    fails.store(false, Ordering::Relaxed);
    advance_clock(Duration::from_secs(1)).await;
    assert!(
        guard.verifier().verify(&token).await.is_ok(),
        "the failed fetch does not delay the next one"
    );
}

#[tokio::test]
async fn openfga_3101_first_request_after_a_key_rotation_is_admitted() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    advance_clock(Duration::from_secs(6)).await;
    issuer.rotate_key().unwrap();
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service
        .oneshot(bearer_request(&valid_token(&issuer)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn unreachable_issuer_does_not_block_startup_and_is_reported_by_health() {
    let guard = guard("http://127.0.0.1:1");
    let service = guard.layer().layer(service_fn(echo_subject));
    let response = service.oneshot(request(&[])).await.unwrap();
    assert_eq!(
        response.status(),
        401,
        "a request without a token does not wait"
    );
    assert!(guard.ready().await.is_err());
    let health = guard.health().remove(0);
    assert!(!health.is_ready && health.last_error.is_some());
    let response = guard.readiness().oneshot(request(&[])).await.unwrap();
    assert!(body_text(response).await.contains("http://127.0.0.1:1"));
}

/// An issuer whose response can be changed, and the events of its guard. Time is paused.
struct Failing {
    guard: OidcGuard,
    /// The status of all responses, and the value of their header `Date`.
    response: Arc<Mutex<(u16, &'static str)>>,
    events: CapturedEvents,
}

impl Failing {
    /// Creates a guard whose keys are stale after two hours.
    fn new(status: u16) -> Self {
        let events = CapturedEvents::default();
        tracing_subscriber::registry().with(events.clone()).init();
        let response = Arc::new(Mutex::new((status, "")));
        let keys = json!({ "keys": [Signer::new().jwk()] }).to_string();
        let current = response.clone();
        let client = mock_client(move |request| {
            let body = if request.url().path() == "/jwks" {
                keys.clone()
            } else {
                let jwks_uri = format!("{ISSUER_URL}/jwks");
                json!({ "issuer": ISSUER_URL, "jwks_uri": jwks_uri }).to_string()
            };
            let (status, date) = *current.lock().unwrap();
            let response = http::Response::builder().status(status);
            let response = response.header("date", date);
            response.body(body.into_bytes()).unwrap()
        });
        let issuer = Issuer::oidc(ISSUER_URL).stale_after(2 * HOUR);
        let guard = guard_with_client(issuer, client);
        guard.prefetch();
        Self {
            guard,
            response,
            events,
        }
    }

    fn respond(&self, status: u16, date: &'static str) {
        *self.response.lock().unwrap() = (status, date);
    }

    /// Waits for this time. Returns the events since the last call, without those below `level`.
    async fn events_during(&self, duration: Duration, level: Level) -> Vec<CapturedEvent> {
        tokio::time::sleep(duration).await;
        assert_eq!(self.guard.health().len(), 1);
        let mut events = self.events.take();
        events.retain(|event| event.level <= level);
        events
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const NOT_FETCHED: &str = "keys could not be fetched";

#[tokio::test(start_paused = true)]
async fn a_failure_that_lasts_is_a_warning_every_five_minutes_and_a_changed_error_at_once() {
    if !is_child_process() {
        return run_in_child_process(
            "key_lifecycle::a_failure_that_lasts_is_a_warning_every_five_minutes_and_a_changed_error_at_once",
            &[],
        );
    }
    let issuer = Failing::new(500);
    let events = issuer.events_during(HOUR, Level::DEBUG).await;
    let [warnings, others] = [true, false].map(|is_warning| {
        let events = events.iter();
        let events = events.filter(|event| (event.level == Level::WARN) == is_warning);
        events.collect::<Vec<_>>()
    });
    assert!((11..=14).contains(&warnings.len()), "{warnings:?}");
    let repeated = |event: &&&CapturedEvent| event.message() == "keys still could not be fetched";
    assert!(others.iter().filter(repeated).count() > 300);
    for warning in &warnings {
        assert_eq!(warning.message(), NOT_FETCHED);
        assert_eq!(warning.field("issuer"), ISSUER_URL);
        assert_eq!(warning.field("error"), warnings[0].field("error"));
        assert_eq!(
            warning.field("consequence"),
            "no keys: the issuer's tokens get 503"
        );
    }
    assert_eq!(warnings[0].field("attempts"), "1");
    assert_eq!(warnings[0].field("failing_for_seconds"), "0");
    let seconds = |event: &CapturedEvent| -> u64 {
        let seconds = event.field("failing_for_seconds");
        seconds.parse().unwrap()
    };
    for pair in warnings.windows(2) {
        let pause = seconds(pair[1]) - seconds(pair[0]);
        assert!((299..=320).contains(&pause), "{pause}");
    }

    issuer.respond(404, "");
    let changed = issuer.events_during(MINUTE, Level::WARN).await;
    let is_new = |event: &&CapturedEvent| event.field("error").contains("404");
    assert_eq!(changed.iter().filter(is_new).count(), 1, "{changed:?}");

    issuer.respond(200, "");
    let recovered = issuer.events_during(MINUTE, Level::INFO).await;
    let [recovered] = &recovered[..] else {
        panic!("{recovered:?}");
    };
    assert_eq!(recovered.message(), "keys fetched");
    let failed_for: u64 = recovered.field("failed_for_seconds").parse().unwrap();
    assert!((3600..3700).contains(&failed_for), "{failed_for}");
    assert!(recovered.field("failed_attempts").parse::<u64>().unwrap() > 300);
}

#[tokio::test(start_paused = true)]
async fn a_failure_states_how_long_the_keys_are_used_and_the_end_of_that_time_is_an_error() {
    if !is_child_process() {
        return run_in_child_process(
            "key_lifecycle::a_failure_states_how_long_the_keys_are_used_and_the_end_of_that_time_is_an_error",
            &[],
        );
    }
    let issuer = Failing::new(200);
    let fetched = issuer.events_during(MINUTE, Level::INFO).await;
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    assert!(!fetched[0].fields.contains_key("failed_attempts"));
    issuer.respond(500, "");
    let events = issuer
        .events_during(2 * HOUR - 2 * MINUTE, Level::WARN)
        .await;
    assert!((11..=16).contains(&events.len()), "{events:?}");
    for event in &events {
        let text = event.field("consequence");
        let numbers = text.split(' ').filter_map(|word| word.parse::<u64>().ok());
        let [age, remaining] = numbers.collect::<Vec<_>>()[..] else {
            panic!("{text}");
        };
        let expected =
            format!("the keys fetched {age} s ago are used for at most {remaining} s longer");
        assert_eq!(text, expected);
        assert!((7199..=7200).contains(&(age + remaining)), "{text}");
    }

    let stale = issuer.events_during(30 * MINUTE, Level::WARN).await;
    let (errors, warnings): (Vec<_>, Vec<_>) =
        stale.iter().partition(|event| event.level == Level::ERROR);
    let [error] = errors[..] else {
        panic!("{errors:?}");
    };
    assert!(
        error
            .message()
            .starts_with("the keys are stale (`stale_after`)"),
        "{error:?}"
    );
    let age: u64 = error.field("age_seconds").parse().unwrap();
    assert!((7200..7215).contains(&age), "{age}");
    assert!(error.field("attempts").parse::<u64>().unwrap() > 100);
    assert!((5..=7).contains(&warnings.len()), "{warnings:?}");
    for warning in &warnings[1..] {
        let text = warning.field("consequence");
        assert!(
            text.ends_with(" s ago are stale: the issuer's tokens get 503"),
            "{text}"
        );
    }

    // Keys that are fetched again become stale again.
    issuer.respond(200, "");
    issuer.events_during(MINUTE, Level::WARN).await;
    issuer.respond(500, "");
    let again = issuer.events_during(3 * HOUR, Level::ERROR).await;
    assert_eq!(again.len(), 1, "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_large_difference_between_the_clocks_is_a_warning_only_when_it_begins() {
    if !is_child_process() {
        return run_in_child_process(
            "key_lifecycle::a_large_difference_between_the_clocks_is_a_warning_only_when_it_begins",
            &[],
        );
    }
    // 121 s before the guard's time, the same time, and 120 s after it.
    let [behind, equal, ahead] = ["07:57:59", "08:00:00", "08:02:00"]
        .map(|time| &*format!("Fri, 15 Jan 2027 {time} GMT").leak());
    let issuer = Failing::new(200);
    let clock = async |date, level| {
        issuer.respond(200, date);
        let mut events = issuer.events_during(5 * HOUR, level).await;
        events.retain(|event| event.message().starts_with("the issuer's clock is"));
        let found = events.iter();
        let found =
            found.map(|event| (event.level, event.field("clock_offset_seconds").to_owned()));
        found.collect::<Vec<_>>()
    };
    for (date, expected) in [
        (behind, Some((Level::WARN, "-121"))),
        (behind, None),
        (equal, Some((Level::INFO, "0"))),
        (equal, None),
        (ahead, Some((Level::WARN, "120"))),
        (behind, Some((Level::WARN, "-121"))),
    ] {
        let expected: Vec<_> = expected
            .map(|(level, seconds)| (level, seconds.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(clock(date, Level::INFO).await, expected, "{date}");
    }
}
