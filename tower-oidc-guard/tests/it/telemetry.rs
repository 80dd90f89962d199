//! Metrics and log events.
#![cfg(feature = "metrics")]

use std::collections::BTreeSet;
use std::sync::Mutex;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use serde_json::json;
use tower_oidc_guard::Policy;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::events::CapturedEvents;
use crate::support::in_memory::{
    CLUSTER, GKE_SA, cluster, guard_builder, send_request, token_spec,
};
use crate::support::logs::{CapturedLogs, assert_absent};
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::Signer;
use crate::support::streams::{Streams, channel};
use crate::support::{Body, bearer_request, claims, request};

/// Returns the name and labels of each metric, as text, and its value.
fn snapshot(snapshotter: &Snapshotter) -> Vec<(String, DebugValue)> {
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let text = |(key, _, _, value): (metrics_util::CompositeKey, _, _, _)| {
        let labels: Vec<_> = key
            .key()
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        (format!("{} {}", key.key().name(), labels.join(",")), value)
    };
    metrics.map(text).collect()
}

/// Creates a runtime whose time is paused. No test here uses a socket, so waiting takes no real time.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

#[test]
fn decisions_fetches_keys_cache_hits_and_durations_are_recorded() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        runtime().block_on(async {
            let cluster = cluster();
            let guard = guard_builder(&cluster)
                .policy(Policy::members([GKE_SA]))
                .build()
                .unwrap();
            let token = token_spec(&cluster).mint();
            send_request(guard.layer(), bearer_request(&token)).await;
            send_request(guard.layer(), bearer_request(&token)).await;
            send_request(
                guard.layer(),
                bearer_request(&token_spec(&cluster).service_account("a", "b").mint()),
            )
            .await;
            send_request(guard.layer(), bearer_request("x")).await;
            send_request(guard.layer(), request(&[])).await;
            guard.health();
        });
    });
    let metrics = snapshot(&snapshotter);
    let value = |name: &str| {
        let found = metrics.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("{name} of {metrics:?}")).1
    };
    let decisions = |reason: &str, issuer: &str| {
        value(&format!(
            "oidc_guard_decisions_total reason={reason},issuer={issuer}"
        ))
    };
    assert_eq!(decisions("allowed", CLUSTER), &DebugValue::Counter(2));
    assert_eq!(decisions("not_allowed", CLUSTER), &DebugValue::Counter(1));
    assert_eq!(decisions("malformed", "none"), &DebugValue::Counter(1));
    assert_eq!(decisions("missing_token", "none"), &DebugValue::Counter(1));
    assert_eq!(
        value("oidc_guard_cache_hits_total "),
        &DebugValue::Counter(1)
    );
    let fetches = value(&format!(
        "oidc_guard_key_fetches_total issuer={CLUSTER},outcome=ok"
    ));
    assert_eq!(fetches, &DebugValue::Counter(1));
    assert!(
        matches!(value(&format!("oidc_guard_key_set_hash issuer={CLUSTER}")), DebugValue::Gauge(hash) if hash.0 > 0.0)
    );
    assert!(matches!(
        value(&format!("oidc_guard_keys_age_seconds issuer={CLUSTER}")),
        DebugValue::Gauge(_)
    ));
    let failed = format!("oidc_guard_key_fetches_total issuer={CLUSTER},outcome=failed");
    assert_eq!(value(&failed), &DebugValue::Counter(0));
    let usable = value(&format!("oidc_guard_usable_keys issuer={CLUSTER}"));
    assert_eq!(usable, &DebugValue::Gauge(1.0.into()));
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let fetched = format!("oidc_guard_keys_last_success_timestamp_seconds issuer={CLUSTER}");
    let DebugValue::Gauge(fetched) = value(&fetched) else {
        panic!("{fetched} is no gauge");
    };
    assert!((now.unwrap().as_secs_f64() - fetched.0).abs() < 60.0);
    let stale = value(&format!(
        "oidc_guard_keys_stale_timestamp_seconds issuer={CLUSTER}"
    ));
    assert!(
        matches!(stale, DebugValue::Gauge(stale) if (stale.0 - fetched.0 - 86_400.0).abs() < 1e-3),
        "{stale:?}"
    );
    assert!(
        matches!(value("oidc_guard_verification_seconds "), DebugValue::Histogram(times) if times.len() >= 3)
    );
}

#[test]
fn keys_that_never_change_have_no_time_of_their_last_fetch() {
    let keys = {
        let cluster = cluster();
        runtime().block_on(crate::support::in_memory::fetch_jwks(&cluster))
    };
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let build = || {
        let issuer = tower_oidc_guard::Issuer::kubernetes(CLUSTER).audience("a");
        let builder = tower_oidc_guard::OidcGuard::builder().issuer(issuer.keys_json(keys));
        builder.any_verified_caller().build().unwrap()
    };
    let _guard = metrics::with_local_recorder(&recorder, build);
    let names = names(&snapshotter);
    assert!(names.contains(&format!("oidc_guard_usable_keys issuer={CLUSTER}")));
    for timestamp in [
        "oidc_guard_keys_last_success_timestamp_seconds",
        "oidc_guard_keys_stale_timestamp_seconds",
    ] {
        assert!(!names.iter().any(|name| name.starts_with(timestamp)));
    }
}

#[test]
fn building_a_guard_describes_each_metric_of_both_libraries() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        guard_builder(&cluster())
            .any_verified_caller()
            .build()
            .unwrap();
        metrics::counter!("oidc_guard_decisions_total").increment(1);
        metrics::counter!("reqwest_wi_auth_resends_total").increment(1);
        metrics::histogram!("oidc_guard_verification_seconds").record(1.0);
    });
    for (key, unit, help, _) in snapshotter.snapshot().into_vec() {
        let name = key.key().name();
        assert!(help.is_some(), "{name} has no help text");
        let has_seconds = unit == Some(metrics::Unit::Seconds);
        assert_eq!(has_seconds, name.ends_with("_seconds"), "{name}");
    }
}

#[test]
fn ten_thousand_hostile_tokens_add_no_metric_label() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (first, last) = metrics::with_local_recorder(&recorder, || {
        runtime().block_on(async {
            let (cluster, signer) = (cluster(), Signer::new());
            let guard = guard_builder(&cluster)
                .any_verified_caller()
                .build()
                .unwrap();
            guard.ready().await.unwrap();
            let mut after_some = BTreeSet::new();
            for number in 0..10_000 {
                let hostile = match number % 5 {
                    0 => signer.sign(
                        &json!({ "alg": "ES256", "kid": number.to_string() }).to_string(),
                        &claims(json!({ "iss": number.to_string() })),
                    ),
                    1 => signer.sign(
                        r#"{"alg":"RS256"}"#,
                        &claims(json!({ "iss": CLUSTER, "sub": number.to_string() })),
                    ),
                    2 => format!("{number}"),
                    3 => signer.sign(&json!({ "alg": number.to_string() }).to_string(), "{}"),
                    _ => token_spec(&cluster)
                        .claim("iat", number)
                        .header("kid", number)
                        .mint(),
                };
                let response = send_request(guard.layer(), bearer_request(&hostile)).await;
                assert!(response.status().is_client_error());
                if number == 100 {
                    after_some = names(&snapshotter);
                }
            }
            (after_some, names(&snapshotter))
        })
    });
    assert!(!first.is_empty());
    assert_eq!(first, last);
}

fn names(snapshotter: &Snapshotter) -> BTreeSet<String> {
    snapshot(snapshotter)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn events_of_the_service_are_in_a_span_with_issuer_and_subject() {
    if !is_child_process() {
        return run_in_child_process(
            "telemetry::events_of_the_service_are_in_a_span_with_issuer_and_subject",
            &[],
        );
    }
    let logs = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
    let subscriber = subscriber
        .with_ansi(false)
        .with_writer(logs.clone())
        .finish();
    let (cluster, sent) = (cluster(), Mutex::new(Vec::new()));
    tracing::subscriber::with_default(subscriber, || {
        runtime().block_on(async {
            use tower::{Layer as _, ServiceExt as _, service_fn};
            let guard = guard_builder(&cluster)
                .policy(Policy::members([GKE_SA]))
                .build()
                .unwrap();
            let handler = service_fn(|_: http::Request<Body>| async {
                tokio::task::yield_now().await;
                tracing::info!("in the handler");
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
            let token = token_spec(&cluster).mint();
            let service = guard.layer().layer(handler);
            service
                .clone()
                .oneshot(bearer_request(&token))
                .await
                .unwrap();
            let stranger = token_spec(&cluster).service_account("a", "b").mint();
            service
                .clone()
                .oneshot(bearer_request(&stranger))
                .await
                .unwrap();
            let forged = token_spec(&cluster)
                .claim("iss", "https://evil.example/\"injected")
                .mint();
            service.oneshot(bearer_request(&forged)).await.unwrap();
            sent.lock().unwrap().extend([token, stranger, forged]);
        });
    });
    let text = logs.text();
    let handler = text
        .lines()
        .find(|line| line.contains("in the handler"))
        .unwrap();
    for field in ["oidc_guard", "decision=\"allowed\"", CLUSTER, GKE_SA] {
        assert!(handler.contains(field), "{handler}");
    }
    assert!(
        text.contains("reason=\"not_allowed\"") && text.contains("not an allowed member"),
        "{text}"
    );
    assert!(
        text.contains("reason=\"unknown_issuer\" issuer=\"none\""),
        "{text}"
    );
    assert!(
        !text.contains("injected"),
        "the issuer of an untrusted token is logged: {text}"
    );
    for token in sent.lock().unwrap().iter() {
        assert_absent(token, &text);
    }
}

#[test]
fn streams_that_are_ended_are_counted_and_logged() {
    if !is_child_process() {
        return run_in_child_process(
            "telemetry::streams_that_are_ended_are_counted_and_logged",
            &[],
        );
    }
    use http_body_util::BodyExt as _;
    let events = CapturedEvents::default();
    let subscriber = tracing_subscriber::registry().with(events.clone());
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tracing::subscriber::with_default(subscriber, || {
            runtime().block_on(async {
                let streams = Streams::new();
                let (sender, body) = channel();
                let mut ended = streams.response(http::Response::new(body)).await;
                ended.body_mut().frame().await.unwrap().unwrap_err();
                // A stream that has ended by itself is not one of them.
                drop(sender);
                let (sender, body) = channel();
                drop(sender);
                let complete = streams.response(http::Response::new(body)).await;
                complete.into_body().collect().await.unwrap();
            });
        });
    });
    let metrics = snapshot(&snapshotter);
    let ended: Vec<_> = metrics
        .iter()
        .filter(|(key, _)| key.starts_with("oidc_guard_streams_ended_total"))
        .collect();
    let key =
        format!("oidc_guard_streams_ended_total body=response,reason=expired,issuer={CLUSTER}");
    assert_eq!(ended, [&(key, DebugValue::Counter(1))]);
    let events = events.take();
    let mut logged = events
        .iter()
        .filter(|event| event.message() == "stream ended with its token");
    let event = logged.next().unwrap();
    assert_eq!(event.level, tracing::Level::DEBUG);
    assert_eq!(event.field("body"), "response");
    assert_eq!(event.field("reason"), "expired");
    assert_eq!(event.field("issuer"), CLUSTER);
    assert_eq!(event.field("subject"), GKE_SA);
    assert!(logged.next().is_none());
}
