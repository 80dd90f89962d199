//! The log of refused requests: a summary at the default level, and each request at DEBUG.

use std::future::Future as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, BuildError, Issuer, OidcGuard, OidcGuardBuilder, Policy};
use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::events::CapturedEvents;
use crate::support::in_memory::{
    GKE_SA, SERVERLESS, cluster, guard_builder, send_request, token_spec, token_status,
};
use crate::support::logs::CapturedLogs;
use crate::support::mock_client::mock_client;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::Signer;
use crate::support::{
    AUDIENCE, Body, HEADER, ISSUER_URL, NOW, bearer_request, claims, guard_builder_with_keys,
    issuer_settings, request, unix_time,
};

/// A text that is only in what callers send.
const SENT: &str = "zqx";

/// Runs a test alone in a child process, with paused time, and with a subscriber for events of this level and above.
fn run(name: &str, level: LevelFilter, test: impl AsyncFnOnce(CapturedEvents)) {
    if !is_child_process() {
        return run_in_child_process(&format!("refused_requests::{name}"), &[]);
    }
    let events = CapturedEvents::default();
    let subscriber = tracing_subscriber::registry()
        .with(events.clone())
        .with(level);
    let _default = tracing::subscriber::set_default(subscriber);
    paused_runtime().block_on(test(events));
}

fn paused_runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Returns the only element of a list.
fn only<T: std::fmt::Debug>(mut list: Vec<T>) -> T {
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

#[test]
fn the_first_refusal_is_logged_at_once_and_those_that_follow_once_per_interval() {
    let name = "the_first_refusal_is_logged_at_once_and_those_that_follow_once_per_interval";
    run(name, LevelFilter::INFO, async |events| {
        let cluster = cluster();
        let issuer = Issuer::kubernetes(cluster.url()).audience("https://a.example");
        let guard = OidcGuard::builder()
            .issuer(issuer.audience("https://b.example"))
            .http_client(cluster.client())
            .any_verified_caller()
            .build()
            .unwrap();
        let other = token_spec(&cluster).mint();
        let expired = cluster.token().audience("https://a.example");
        let expired = expired.claim("exp", 1).mint();
        assert_eq!(token_status(guard.layer(), &other).await, 401);
        let first = only(events.take_summaries());
        assert_eq!(
            first.message(),
            "1 request refused: 1 wrong_audience, expected https://a.example or https://b.example"
        );
        assert_eq!((first.level, first.is_root), (Level::WARN, true));
        assert_eq!(first.field("count"), "1");
        assert_eq!(first.field("reasons"), "wrong_audience=1");
        assert!(!first.fields.contains_key("seconds"), "{first:?}");

        for _ in 0..30 {
            token_status(guard.layer(), &other).await;
        }
        // All layers of a guard have one summary.
        let layer = guard.layer_with(Policy::members([GKE_SA])).unwrap();
        for _ in 0..7 {
            token_status(layer.clone(), &expired).await;
        }
        pass(9).await;
        assert!(events.take_summaries().is_empty());
        pass(2).await;
        let second = only(events.take_summaries());
        assert_eq!(
            second.message(),
            "37 requests refused in the last 10 s: 30 wrong_audience, expected https://a.example or https://b.example; \
             7 expired, leeway 60 s: compare the clocks, and check that the caller replaces its token in time"
        );
        assert_eq!((second.level, second.is_root), (Level::WARN, true));
        assert_eq!(second.field("count"), "37");
        assert_eq!(second.field("seconds"), "10");
        assert_eq!(second.field("reasons"), "wrong_audience=30 expired=7");

        // A window without refusals ends the series, so that the next one is logged at once.
        pass(60).await;
        assert!(events.take_summaries().is_empty());
        token_status(guard.layer(), &other).await;
        let next = only(events.take_summaries());
        assert!(
            next.message().starts_with("1 request refused: "),
            "{next:?}"
        );
    });
}

#[test]
fn a_flood_of_refused_requests_makes_one_line_per_interval_and_each_request_is_counted() {
    let name =
        "a_flood_of_refused_requests_makes_one_line_per_interval_and_each_request_is_counted";
    run(name, LevelFilter::INFO, async |events| {
        let cluster = cluster();
        let guard = guard_builder(&cluster).any_verified_caller();
        let guard = guard.refusal_summary_interval(Duration::from_secs(60));
        let guard = guard.build().unwrap();
        let mut lines = 0;
        let mut counted = 0;
        let mut take = || {
            for event in events.take_summaries() {
                lines += 1;
                counted += event.field("count").parse::<u64>().unwrap();
                assert!(event.message().len() < 1000, "{event:?}");
            }
        };
        for round in 0..100_u32 {
            for number in 0..1000 {
                let token = format!("{SENT}{number}.{round}");
                let scheme = format!("{SENT}{number} x");
                let sent = match number % 4 {
                    0 => request(&[]),
                    1 => request(&[&scheme]),
                    2 => request(&[&scheme, &scheme]),
                    _ => bearer_request(&token),
                };
                send_request(guard.layer(), sent).await;
            }
            pass(3).await;
            take();
        }
        pass(61).await;
        take();
        assert_eq!(counted, 100_000);
        // 300 s in windows of 60 s, and the first request.
        assert!((2..=7).contains(&lines), "{lines}");
    });
}

/// A guard and a request that it refuses.
struct Case {
    reason: &'static str,
    /// The summary without the count in front, or its beginning if it ends with `…`.
    expected: String,
    guard: OidcGuard,
    request: Request<Body>,
}

/// Returns a case for each reason. Everything that the caller chooses contains [`SENT`].
fn cases() -> Vec<Case> {
    let signer = Signer::new();
    let case = |reason: &'static str, expected: &str, guard: OidcGuardBuilder, token: Value| {
        let token = match token {
            Value::String(authorization) => Some(authorization),
            changes => {
                let mut payload = json!({ "sub": SENT, "jti": SENT, "zqx": SENT });
                payload
                    .as_object_mut()
                    .unwrap()
                    .append(&mut changes["claims"].as_object().cloned().unwrap_or_default());
                let header = changes["header"].as_str().unwrap_or(HEADER);
                let token = signer.sign(header, &claims(payload));
                Some(format!("Bearer {token}"))
            }
        };
        let mut sent = Request::new(Body::new());
        *sent.uri_mut() = format!("/{SENT}?{SENT}").parse().unwrap();
        sent.headers_mut()
            .insert("x-zqx", HeaderValue::from_static(SENT));
        for value in token.iter().filter(|value| !value.is_empty()) {
            let value = HeaderValue::from_str(value).unwrap();
            sent.headers_mut().insert("authorization", value);
        }
        Case {
            reason,
            expected: expected.to_owned(),
            guard: guard.build().unwrap(),
            request: sent,
        }
    };
    let with =
        |issuer: Issuer| guard_builder_with_keys(&[signer.jwk()], issuer).any_verified_caller();
    let usual = || with(issuer_settings());
    let token = |payload: Value| json!({ "claims": payload });
    let header = |header: Value| json!({ "header": header.to_string() });
    let clock = "leeway 0 s: compare this machine's clock with the issuer's";
    let audiences = ["b", "c", "d", "e"];
    let more_audiences = audiences.iter().fold(issuer_settings(), |issuer, name| {
        issuer.audience(format!("https://{name}.example"))
    });
    let unavailable = mock_client(|_| {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    });
    vec![
        case(
            "missing_token",
            "missing_token, expected `Authorization: Bearer TOKEN`",
            usual(),
            json!(""),
        ),
        case(
            "unsupported_scheme",
            "unsupported_scheme (credentials of the scheme Basic), expected `X`",
            usual().token_from([SERVERLESS, HeaderName::from_static("authorization")]),
            json!("bAsIc zqx"),
        ),
        case(
            "unsupported_scheme",
            "unsupported_scheme (credentials of an unknown scheme), expected `Authorization: Bearer TOKEN`",
            usual(),
            json!("zqx zqx"),
        ),
        case(
            "unsupported_scheme",
            "unsupported_scheme (a value without a scheme), expected `Authorization: Bearer TOKEN`",
            usual(),
            json!("zqx.zqx.zqx"),
        ),
        case(
            "malformed_request",
            "malformed_request (`Bearer` is not followed by one space and a token)",
            usual(),
            json!("Bearer  zqx"),
        ),
        case(
            "too_long",
            "too_long, expected at most 1024 bytes (`max_token_bytes`)",
            usual().max_token_bytes(1024),
            token(json!({ "long": SENT.repeat(1000) })),
        ),
        case(
            "malformed",
            "malformed (not three parts)",
            usual(),
            json!("Bearer zqx"),
        ),
        case(
            "malformed",
            "malformed (the claim `exp` is missing)",
            usual(),
            token(json!({ "exp": null })),
        ),
        case(
            "unsupported_algorithm",
            "unsupported_algorithm, expected RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA or Ed25519",
            usual(),
            header(json!({ "alg": SENT })),
        ),
        case(
            "algorithm_not_allowed",
            "algorithm_not_allowed, expected RS256 or PS256",
            with(issuer_settings().algorithms([Algorithm::RS256, Algorithm::PS256])),
            token(json!({})),
        ),
        case(
            "wrong_type",
            "wrong_type, expected the `typ` JWT or none",
            usual(),
            header(json!({ "alg": "ES256", "typ": SENT })),
        ),
        case(
            "wrong_type",
            "wrong_type, expected the `typ` at+jwt",
            with(issuer_settings().token_types(["at+jwt"])),
            token(json!({})),
        ),
        case(
            "unknown_issuer",
            "unknown_issuer, expected https://issuer.example or https://old.example, compared exactly, with any slash at the end",
            with(issuer_settings().also_known_as("https://old.example")),
            token(json!({ "iss": format!("{ISSUER_URL}/{SENT}") })),
        ),
        case(
            "wrong_audience",
            "wrong_audience, expected https://auth-server.example, https://b.example, https://c.example and 2 more",
            with(more_audiences),
            token(json!({ "aud": [SENT, "zqx2"] })),
        ),
        case(
            "lives_too_long",
            "lives_too_long, expected `iat`, and at most 300 s from `iat` to `exp`",
            with(issuer_settings().max_lifetime(Duration::from_secs(300))),
            token(json!({})),
        ),
        case(
            "sender_constrained",
            "sender_constrained, expected a token without the claim `cnf`",
            usual(),
            token(json!({ "cnf": { "jkt": SENT } })),
        ),
        case(
            "unmet_claim",
            "unmet_claim, expected the required value of tenant and team",
            with(
                issuer_settings()
                    .require_claim("tenant", "secret")
                    .require_claim("team", 1),
            ),
            token(json!({ "tenant": SENT })),
        ),
        case(
            "unmet_claim",
            "unmet_claim, expected true from the condition of `require`",
            with(issuer_settings().require(|_| false)),
            token(json!({})),
        ),
        case(
            "expired",
            "expired, leeway 0 s: compare the clocks, and check that the caller replaces its token in time",
            usual(),
            token(json!({ "exp": NOW - 5 })),
        ),
        case(
            "not_yet_valid",
            &format!("not_yet_valid, {clock}"),
            usual(),
            token(json!({ "nbf": NOW + 77 })),
        ),
        case(
            "issued_in_future",
            &format!("issued_in_future, {clock}"),
            usual(),
            token(json!({ "iat": NOW + 77, "nbf": null })),
        ),
        case(
            "unknown_key",
            "unknown_key, the issuer has 1 usable key, fetched 0 s ago",
            usual(),
            header(json!({ "alg": "ES256", "kid": SENT })),
        ),
        case(
            "bad_signature",
            "bad_signature, the issuer has 1 usable key, fetched 0 s ago",
            usual(),
            {
                let token = Signer::new().sign(HEADER, &claims(json!({ "sub": SENT })));
                json!(format!("Bearer {token}"))
            },
        ),
        case(
            "not_allowed",
            "not_allowed, by a policy with 2 members: the log level DEBUG of tower_oidc_guard shows each caller and the rule that decided",
            guard_builder_with_keys(&[signer.jwk()], issuer_settings()).policy(Policy::any_of([
                Policy::members([format!("principal:{ISSUER_URL}#a")]),
                Policy::members([format!("principal:{ISSUER_URL}#b")]),
            ])),
            token(json!({})),
        ),
        case(
            "keys_unavailable",
            "keys_unavailable, the last fetch of keys failed: …",
            OidcGuard::builder()
                .issuer(issuer_settings())
                .any_verified_caller()
                .http_client(unavailable)
                .clock(|| unix_time(NOW)),
            token(json!({})),
        ),
    ]
}

#[test]
fn the_summary_of_each_reason_has_what_is_configured_and_nothing_that_the_caller_sent() {
    let name = "the_summary_of_each_reason_has_what_is_configured_and_nothing_that_the_caller_sent";
    run(name, LevelFilter::INFO, async |events| {
        let mut reasons = Vec::new();
        for case in cases() {
            let sent = format!("{:?}", case.request);
            assert!(sent.contains(SENT), "{sent}");
            let span = tracing::error_span!("request", path = SENT);
            let sending = send_request(case.guard.layer(), case.request);
            let response = tracing::Instrument::instrument(sending, span).await;
            assert!(!response.status().is_success(), "{}", case.reason);
            for event in events.all() {
                assert!(!format!("{event:?}").contains(SENT), "{event:?}");
            }
            let event = only(events.take_summaries());
            let message = event.message();
            let text = message
                .strip_prefix("1 request refused: 1 ")
                .unwrap_or(message);
            let expected = case.expected.replace(
                "expected `X`",
                "expected `x-serverless-authorization: Bearer TOKEN` or `Authorization: Bearer TOKEN`",
            );
            match expected.strip_suffix('…') {
                Some(start) => assert!(text.starts_with(start), "{text}"),
                None => assert_eq!(text, expected),
            }
            assert_eq!(event.field("reasons"), format!("{}=1", case.reason));
            let level = if case.reason == "missing_token" {
                Level::INFO
            } else {
                Level::WARN
            };
            assert_eq!((event.level, event.is_root), (level, true));
            // Characters that JSON escapes would make the text differ from that of the plain format.
            assert!(!message.contains(['"', '\\']), "{message}");
            assert!(!message.contains(char::is_control), "{message}");
            reasons.push(case.reason);
        }
        reasons.dedup();
        assert_eq!(reasons.len(), 20, "{reasons:?}");
    });
}

#[test]
fn a_summary_names_the_issuer_if_several_are_trusted_and_is_short_whatever_the_settings() {
    let name =
        "a_summary_names_the_issuer_if_several_are_trusted_and_is_short_whatever_the_settings";
    run(name, LevelFilter::INFO, async |events| {
        let signer = Signer::new();
        let many = |issuer: Issuer| {
            (0..1000).fold(issuer, |issuer, number| {
                issuer.audience(format!("https://{number}.example/{}", "a".repeat(500)))
            })
        };
        let keys = json!({ "keys": [signer.jwk()] }).to_string();
        let other = |number: usize| {
            let other = Issuer::oidc(format!("https://{number}.example")).audience("other");
            other.keys_json(keys.as_str())
        };
        let guard = guard_builder_with_keys(&[signer.jwk()], many(issuer_settings()));
        let guard = (0..100).fold(guard, |guard, number| guard.issuer(other(number)));
        let guard = guard.any_verified_caller().build().unwrap();
        let send = async |changes: Value| {
            let token = signer.sign(HEADER, &claims(changes));
            token_status(guard.layer(), &token).await
        };
        send(json!({ "aud": SENT })).await;
        let first = only(events.take_summaries());
        let text =
            format!("1 request refused: 1 wrong_audience of {ISSUER_URL}, expected https://");
        assert!(first.message().starts_with(&text), "{first:?}");
        for number in 0..100 {
            send(json!({ "iss": format!("https://{number}.example"), "aud": SENT })).await;
            send(json!({ "iss": format!("https://{number}.example"), "exp": 1, "aud": "other" }))
                .await;
            send(json!({ "iss": SENT })).await;
        }
        pass(11).await;
        let second = only(events.take_summaries());
        assert_eq!(
            second.field("reasons"),
            "expired=100 unknown_issuer=100 wrong_audience=100"
        );
        let message = second.message();
        let start = format!(
            "300 requests refused in the last 10 s: 100 unknown_issuer, expected {ISSUER_URL}, "
        );
        assert!(message.starts_with(&start), "{message}");
        assert!(message.ends_with("; 193 for other reasons"), "{message}");
        assert!(message.len() < 2000, "{} {message}", message.len());
    });
}

#[test]
fn requests_without_a_token_are_logged_at_info_unless_others_are_refused_too() {
    let name = "requests_without_a_token_are_logged_at_info_unless_others_are_refused_too";
    run(name, LevelFilter::INFO, async |events| {
        let guard = guard_builder(&cluster())
            .any_verified_caller()
            .build()
            .unwrap();
        for (sent, level) in [(0, Level::INFO), (1, Level::WARN), (2, Level::INFO)] {
            send_request(guard.layer(), request(&[])).await;
            if sent == 1 {
                send_request(guard.layer(), request(&["Basic YTpi"])).await;
            }
            let mut summaries = events.take_summaries();
            pass(11).await;
            summaries.extend(events.take_summaries());
            let last = summaries.last().unwrap();
            assert_eq!(last.level, level, "{last:?}");
            pass(11).await;
        }
    });
}

#[test]
fn a_summary_has_the_same_text_in_the_plain_format() {
    let name = "a_summary_has_the_same_text_in_the_plain_format";
    if !is_child_process() {
        return run_in_child_process(&format!("refused_requests::{name}"), &[]);
    }
    let (logs, events) = (CapturedLogs::default(), CapturedEvents::default());
    let plain = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(logs.clone());
    let subscriber = tracing_subscriber::registry()
        .with(events.clone())
        .with(plain)
        .with(LevelFilter::INFO);
    let _default = tracing::subscriber::set_default(subscriber);
    paused_runtime().block_on(async {
        let cluster = cluster();
        let guard = guard_builder(&cluster)
            .any_verified_caller()
            .build()
            .unwrap();
        let span = tracing::error_span!("request", path = SENT);
        let other = token_spec(&cluster).claim("aud", SENT).mint();
        let sending = token_status(guard.layer(), &other);
        tracing::Instrument::instrument(sending, span).await;
    });
    let text = logs.text();
    let message = only(events.take_summaries()).message().to_owned();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains(&message))
        .collect();
    let line = only(lines);
    assert!(
        line.contains("WARN tower_oidc_guard::guard::refusal_summary: "),
        "{line}"
    );
    assert!(
        line.ends_with("count=1 reasons=\"wrong_audience=1\""),
        "{line}"
    );
    assert!(!text.contains(SENT), "{text}");
}

#[test]
fn no_refusal_stays_unlogged_when_the_guard_or_its_runtime_ends_or_without_a_runtime() {
    let name = "no_refusal_stays_unlogged_when_the_guard_or_its_runtime_ends_or_without_a_runtime";
    if !is_child_process() {
        return run_in_child_process(&format!("refused_requests::{name}"), &[]);
    }
    let events = CapturedEvents::default();
    let subscriber = tracing_subscriber::registry()
        .with(events.clone())
        .with(LevelFilter::INFO);
    let _default = tracing::subscriber::set_default(subscriber);
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let guard = || {
        let issuer = issuer_settings().keys_json(keys.as_str());
        let guard = OidcGuard::builder().issuer(issuer).any_verified_caller();
        guard
            .refusal_summary_interval(Duration::from_secs(1))
            .build()
            .unwrap()
    };
    let counts = || -> Vec<u64> {
        let events = events.take_summaries().into_iter();
        events
            .map(|event| event.field("count").parse().unwrap())
            .collect()
    };
    // The guard ends.
    let ending = guard();
    let runtime = paused_runtime();
    runtime.block_on(async {
        for _ in 0..4 {
            send_request(ending.layer(), request(&[])).await;
        }
    });
    assert_eq!(counts(), [1]);
    drop(ending);
    assert_eq!(counts(), [3]);
    runtime.block_on(tokio::task::yield_now());
    assert_eq!(
        runtime.metrics().num_alive_tasks(),
        0,
        "the task ends with the guard"
    );

    // The runtime ends.
    let staying = guard();
    runtime.block_on(async {
        for _ in 0..5 {
            send_request(staying.layer(), request(&[])).await;
        }
    });
    assert_eq!(counts(), [1]);
    drop(runtime);
    assert_eq!(counts(), [4]);
    // In another runtime, the window continues.
    let runtime = paused_runtime();
    runtime.block_on(async {
        send_request(staying.layer(), request(&[])).await;
        send_request(staying.layer(), request(&[])).await;
        assert_eq!(runtime.metrics().num_alive_tasks(), 1);
        pass(2).await;
        assert_eq!(counts(), [2]);
        pass(2).await;
        assert_eq!(
            runtime.metrics().num_alive_tasks(),
            0,
            "the task ends with the window"
        );
    });
    drop(runtime);

    // Without a runtime, and in one without timers, the next refusal ends the window.
    for timers in ["none", "disabled"] {
        let guard = guard();
        let send = || {
            let sending = send_request(guard.layer(), request(&[]));
            if timers == "none" {
                let mut sending = std::pin::pin!(sending);
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(sending.as_mut().poll(&mut context).is_ready());
            } else {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    sending.await;
                    tokio::task::yield_now().await;
                });
            }
        };
        (0..3).for_each(|_| send());
        std::thread::sleep(Duration::from_millis(1100));
        send();
        let counts = counts();
        // The machine may be so slow that the first requests are in several windows.
        assert!(counts.len() >= 2, "{timers}: {counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), 4, "{timers}: {counts:?}");
    }
}

#[test]
fn the_summary_can_be_turned_off_and_its_interval_has_a_range() {
    let name = "the_summary_can_be_turned_off_and_its_interval_has_a_range";
    run(name, LevelFilter::INFO, async |events| {
        let builder = || guard_builder(&cluster()).any_verified_caller();
        let guard = builder().without_refusal_summary().build().unwrap();
        for _ in 0..3 {
            send_request(guard.layer(), bearer_request("x")).await;
        }
        pass(20).await;
        assert!(events.take_summaries().is_empty());
        for interval in [
            Duration::ZERO,
            Duration::from_millis(999),
            Duration::from_secs(3601),
        ] {
            let error = builder()
                .refusal_summary_interval(interval)
                .build()
                .unwrap_err();
            assert!(
                matches!(error, BuildError::RefusalSummaryInterval { interval: found } if found == interval)
            );
        }
        for seconds in [1, 3600] {
            let builder = builder().refusal_summary_interval(Duration::from_secs(seconds));
            assert!(builder.build().is_ok());
        }
    });
}

#[test]
fn each_refusal_is_one_debug_event_with_all_that_is_known() {
    let name = "each_refusal_is_one_debug_event_with_all_that_is_known";
    run(name, LevelFilter::DEBUG, async |events| {
        for case in cases() {
            let reason = case.reason;
            let is_verified = matches!(reason, "not_allowed" | "unmet_claim");
            let response = send_request(case.guard.layer(), case.request).await;
            let mut all = events.take();
            all.retain(|event| event.fields.contains_key("decision"));
            let event = only(all);
            assert_eq!(event.level, Level::DEBUG);
            assert_eq!(event.field("decision"), "rejected");
            assert_eq!(event.field("reason"), reason);
            assert_eq!(event.field("status"), response.status().as_str());
            let no_issuer = [
                "missing_token",
                "unsupported_scheme",
                "malformed_request",
                "too_long",
                "malformed",
                "unsupported_algorithm",
                "unknown_issuer",
            ];
            let issuer = if no_issuer.contains(&reason) {
                "none"
            } else {
                ISSUER_URL
            };
            assert_eq!(event.field("issuer"), issuer, "{reason}");
            // Only a verified token contributes anything that the caller chose.
            let subject = event.fields.get("subject").map(String::as_str);
            assert_eq!(subject, is_verified.then_some(SENT), "{reason}");
            let mut others = event.clone();
            others.fields.remove("subject");
            others.fields.remove("rule");
            assert!(!format!("{others:?}").contains(SENT), "{others:?}");
            let difference = event.fields.get("clock_difference_seconds");
            let expected = match reason {
                "expired" => Some("5"),
                "not_yet_valid" | "issued_in_future" => Some("77"),
                _ => None,
            };
            assert_eq!(difference.map(String::as_str), expected, "{reason}");
            match reason {
                "not_allowed" => assert_eq!(
                    event.field("rule"),
                    format!(
                        "{SENT} of {ISSUER_URL} is not an allowed member; {SENT} of {ISSUER_URL} is not an allowed member"
                    )
                ),
                "wrong_audience" => {
                    let text = "https://auth-server.example, https://b.example";
                    assert!(event.field("expected").starts_with(text), "{event:?}");
                }
                "malformed" | "malformed_request" => {
                    assert!(!event.fields.contains_key("expected"), "{event:?}");
                }
                _ => assert!(!event.field("expected").is_empty(), "{event:?}"),
            }
        }
    });
}

#[test]
fn a_cached_token_that_expires_is_refused_with_its_subject() {
    let name = "a_cached_token_that_expires_is_refused_with_its_subject";
    run(name, LevelFilter::DEBUG, async |events| {
        let signer = Signer::new();
        let now = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(NOW));
        let clock = now.clone();
        let guard = guard_builder_with_keys(&[signer.jwk()], issuer_settings())
            .clock(move || unix_time(clock.load(std::sync::atomic::Ordering::Relaxed)))
            .any_verified_caller()
            .build()
            .unwrap();
        let token = signer.sign(HEADER, &claims(json!({ "sub": SENT, "aud": AUDIENCE })));
        assert_eq!(token_status(guard.layer(), &token).await, 200);
        now.store(NOW + 700, std::sync::atomic::Ordering::Relaxed);
        for subject in [Some(SENT), None] {
            assert_eq!(token_status(guard.layer(), &token).await, 401);
            let mut all = events.take();
            all.retain(|event| event.fields.contains_key("decision"));
            let event = only(all);
            assert_eq!(event.field("reason"), "expired");
            assert_eq!(event.field("clock_difference_seconds"), "100");
            // The second time, the token is not in the cache and is refused before its signature is verified.
            assert_eq!(event.fields.get("subject").map(String::as_str), subject);
        }
    });
}
