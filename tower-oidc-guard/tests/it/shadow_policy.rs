//! Shadow policies: evaluated beside the enforced policy, and never enforced.
#![cfg(feature = "metrics")]

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Method, Request};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use proptest::prelude::*;
use tower_oidc_guard::testing::{MemoryIssuer, TokenSpec};
use tower_oidc_guard::{
    AuditDecision, AuditEvent, BuildError, Identity, Issuer, OidcGuard, OidcGuardBuilder, Policy,
    PolicyError, WhenUnavailable,
};
use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::allocations::allocations;
use crate::support::events::{CapturedEvent, CapturedEvents};
use crate::support::in_memory::{
    CLUSTER, GKE_SA, GOOGLE, cluster, fetch_jwks, guard_builder, send_request, token_spec,
    token_status,
};
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::reviews::{ReviewingCluster, review};
use crate::support::{AUDIENCE, Body, bearer_request, request};

const OTHER: &str = "https://id.example";
const LEGACY: &str = "system:serviceaccount:id-namespace:legacy";

/// Runs a test alone in a child process, with paused time, and with a subscriber for events of this level and above.
fn run(name: &str, level: LevelFilter, test: impl AsyncFnOnce(CapturedEvents)) {
    if !is_child_process() {
        return run_in_child_process(&format!("shadow_policy::{name}"), &[]);
    }
    let events = CapturedEvents::default();
    let subscriber = tracing_subscriber::registry()
        .with(events.clone())
        .with(level);
    let _default = tracing::subscriber::set_default(subscriber);
    runtime().block_on(test(events));
}

/// Creates a runtime whose time is paused. No test with it uses a socket.
fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap()
}

/// Everyone in the namespace, without `legacy`.
fn without_legacy() -> Policy {
    namespace().deny([LEGACY])
}

fn namespace() -> Policy {
    Policy::members(["system:serviceaccounts:id-namespace"])
}

fn legacy(cluster: &MemoryIssuer) -> String {
    let spec = token_spec(cluster);
    spec.service_account("id-namespace", "legacy").mint()
}

/// The counters of shadow policies since the last call: the evaluations, and the differences of each kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counted {
    evaluations: u64,
    /// The kind and the issuer of each difference, in order, without those that are 0.
    differences: Vec<(String, u64)>,
}

fn counted(snapshotter: &Snapshotter) -> Counted {
    let mut counted = Counted::default();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let DebugValue::Counter(count) = value else {
            continue;
        };
        match key.key().name() {
            "oidc_guard_shadow_policy_evaluations_total" => counted.evaluations += count,
            "oidc_guard_shadow_policy_differences_total" if count > 0 => {
                let labels = key.key().labels();
                let labels: Vec<_> = labels
                    .map(|label| format!("{}={}", label.key(), label.value()))
                    .collect();
                counted.differences.push((labels.join(","), count));
            }
            _ => {}
        }
    }
    counted.differences.sort();
    counted
}

/// Runs a test with its own recorder, without a subscriber.
fn with_metrics(test: impl AsyncFnOnce(Snapshotter)) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || runtime().block_on(test(snapshotter)));
}

fn difference(kind: &str, issuer: &str, count: u64) -> (String, u64) {
    (format!("difference={kind},issuer={issuer}"), count)
}

#[test]
fn a_shadow_policy_is_evaluated_and_not_enforced_for_layers_admit_and_authorize() {
    with_metrics(async |snapshotter| {
        let cluster = cluster();
        let guard = guard_builder(&cluster)
            .policy(without_legacy())
            .shadow_policy(Policy::members([LEGACY]))
            .build()
            .unwrap();
        let (member, legacy) = (token_spec(&cluster).mint(), legacy(&cluster));
        let would = |kind: &str| Counted {
            evaluations: 1,
            differences: vec![difference(kind, CLUSTER, 1)],
        };
        counted(&snapshotter);
        // The first request waits for the keys, and the second one finds its token in the cache.
        for _ in 0..2 {
            assert_eq!(token_status(guard.layer(), &member).await, 200);
            assert_eq!(counted(&snapshotter), would("would_reject"));
        }
        assert_eq!(token_status(guard.layer(), &legacy).await, 403);
        assert_eq!(counted(&snapshotter), would("would_allow"));

        let mut admitted = bearer_request(&member);
        assert!(guard.admit(&mut admitted).await.is_ok());
        assert!(admitted.extensions().get::<Identity>().is_some());
        assert_eq!(counted(&snapshotter), would("would_reject"));
        let refused = guard.admit(&mut bearer_request(&legacy)).await.unwrap_err();
        assert_eq!(refused.status(), 403);
        assert_eq!(counted(&snapshotter), would("would_allow"));

        assert!(guard.authorize(&member).await.is_ok());
        assert_eq!(counted(&snapshotter), would("would_reject"));
        assert!(guard.authorize(&legacy).await.is_err());
        assert_eq!(counted(&snapshotter), would("would_allow"));
    });
}

#[test]
fn requests_that_are_rejected_whatever_the_policy_and_preflights_are_not_compared() {
    with_metrics(async |snapshotter| {
        let cluster = cluster();
        let guard = guard_builder(&cluster)
            .policy(Policy::members([GKE_SA]))
            .shadow_policy(Policy::members(["allUsers"]))
            .allow_cors_preflight()
            .build()
            .unwrap();
        let expired = token_spec(&cluster).claim("exp", 1).mint();
        let mut preflight = request(&[]);
        *preflight.method_mut() = Method::OPTIONS;
        for name in ["origin", "access-control-request-method"] {
            let value = HeaderValue::from_static("x");
            preflight.headers_mut().insert(name, value);
        }
        counted(&snapshotter);
        for (request, status) in [
            (bearer_request(&expired), 401),
            (bearer_request("x"), 401),
            (request(&["Bearer  x"]), 400),
            (preflight, 200),
        ] {
            let response = send_request(guard.layer(), request).await;
            assert_eq!(response.status(), status);
            assert_eq!(counted(&snapshotter), Counted::default(), "{status}");
        }
        // The guard itself rejects the unknown issuer of a token that only the signature could prove.
        assert!(guard.authorize(&expired).await.is_err());
        assert_eq!(counted(&snapshotter), Counted::default());
    });
}

#[test]
fn requests_without_a_token_are_compared() {
    with_metrics(async |snapshotter| {
        let cluster = cluster();
        let build = |policy: &Policy, shadow: &Policy, settings: fn(OidcGuardBuilder) -> _| {
            let builder = guard_builder(&cluster).policy(policy.clone());
            let builder: OidcGuardBuilder = settings(builder.shadow_policy(shadow.clone()));
            builder.build().unwrap()
        };
        let (named, anyone) = (Policy::members([GKE_SA]), Policy::members(["allUsers"]));
        let none = |builder: OidcGuardBuilder| builder;
        let optional = |builder: OidcGuardBuilder| builder.allow_missing_token();
        for (guard, status, expected) in [
            (build(&named, &anyone, none), 401, Some("would_allow")),
            (build(&anyone, &named, none), 200, Some("would_reject")),
            (build(&anyone, &anyone, none), 200, None),
            (build(&named, &named, none), 401, None),
            // The setting admits them, whatever the policy.
            (build(&anyone, &named, optional), 200, None),
            (build(&named, &anyone, optional), 200, None),
        ] {
            for request in [request(&[]), request(&["Basic x"])] {
                counted(&snapshotter);
                let response = send_request(guard.layer(), request).await;
                assert_eq!(response.status(), status);
                let differences = expected.map(|kind| difference(kind, "none", 1));
                let expected = Counted {
                    evaluations: 1,
                    differences: differences.into_iter().collect(),
                };
                assert_eq!(counted(&snapshotter), expected);
            }
        }
    });
}

#[test]
fn a_layer_has_its_own_shadow_policy_and_not_that_of_the_guard() {
    with_metrics(async |snapshotter| {
        let cluster = cluster();
        let nobody = || Policy::members([LEGACY]);
        let guard = guard_builder(&cluster)
            .policy(namespace())
            .shadow_policy(nobody())
            .build()
            .unwrap();
        let token = token_spec(&cluster).mint();
        let other = guard.layer_with(Policy::members([GKE_SA])).unwrap();
        let shadowed = other.with_shadow_policy(nobody()).unwrap();
        let replaced = guard.layer().with_shadow_policy(without_legacy()).unwrap();
        for (layer, evaluations, differences) in [
            (guard.layer(), 1, 1),
            (other.clone(), 0, 0),
            (shadowed, 1, 1),
            (replaced, 1, 0),
            (guard.layer(), 1, 1),
        ] {
            counted(&snapshotter);
            assert_eq!(token_status(layer, &token).await, 200);
            let counted = counted(&snapshotter);
            assert_eq!(counted.evaluations, evaluations);
            assert_eq!(counted.differences.len(), differences);
        }
        let error = other.with_shadow_policy(Policy::members(["user:jane@example.com"]));
        assert!(matches!(
            error,
            Err(PolicyError::NoIssuerForPlatform { .. })
        ));
    });
}

#[test]
fn a_shadow_policy_has_to_fit_the_trusted_issuers_and_may_not_be_set_twice() {
    let cluster = cluster();
    let builder = || guard_builder(&cluster).policy(namespace());
    for (shadow, part) in [
        (
            Policy::members(["user:jane@example.com"]),
            "no trusted issuer is",
        ),
        (
            Policy::members(["system:serviceacount:a:b"]),
            "has no known form",
        ),
        (
            namespace().audience("https://unknown.example"),
            "https://unknown.example",
        ),
        (
            Policy::members_of("https://unknown.example", [GKE_SA]),
            "https://unknown.example",
        ),
    ] {
        let error = builder().shadow_policy(shadow).build().unwrap_err();
        assert!(matches!(error, BuildError::ShadowPolicy(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("the shadow policy is invalid: ") && text.contains(part),
            "{text}"
        );
    }
    let twice = builder().shadow_policy(namespace());
    let error = twice.shadow_policy(namespace()).build().unwrap_err();
    let BuildError::Conflict { first, second, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((first, second), ("shadow_policy", "shadow_policy"));
    let guard = builder().shadow_policy(without_legacy()).build().unwrap();
    assert!(guard.shadow_policy().is_some());
    assert!(builder().build().unwrap().shadow_policy().is_none());
}

#[test]
fn counters_are_registered_for_each_issuer_only_if_there_is_a_shadow_policy() {
    let names = |builder: OidcGuardBuilder| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let _guard = metrics::with_local_recorder(&recorder, || builder.build().unwrap());
        let metrics = snapshotter.snapshot().into_vec().into_iter();
        let names = metrics.filter_map(|(key, _, help, _)| {
            let name = key.key().name().to_owned();
            let is_shadow = name.contains("shadow");
            assert!(help.is_some(), "{name}");
            is_shadow.then(|| {
                let labels = key.key().labels();
                let labels = labels.map(|label| format!("{}={}", label.key(), label.value()));
                format!("{name} {}", labels.collect::<Vec<_>>().join(","))
            })
        });
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let cluster = cluster();
    let builder = || guard_builder(&cluster).policy(namespace());
    assert_eq!(names(builder()), [""; 0]);
    let differences = "oidc_guard_shadow_policy_differences_total";
    assert_eq!(
        names(builder().shadow_policy(namespace())),
        [
            format!("{differences} difference=would_allow,issuer={CLUSTER}"),
            format!("{differences} difference=would_allow,issuer=none"),
            format!("{differences} difference=would_reject,issuer={CLUSTER}"),
            format!("{differences} difference=would_reject,issuer=none"),
            "oidc_guard_shadow_policy_evaluations_total ".to_owned(),
        ]
    );
}

#[test]
fn a_condition_that_panics_does_not_affect_the_request_and_counts_as_a_rejection() {
    let name = "a_condition_that_panics_does_not_affect_the_request_and_counts_as_a_rejection";
    run(name, LevelFilter::DEBUG, async |events| {
        std::panic::set_hook(Box::new(|_| {}));
        let cluster = cluster();
        let panics = || namespace().require(|caller| panic!("{}", caller.subject()));
        let token = token_spec(&cluster).mint();
        for is_audited in [false, true] {
            let builder = guard_builder(&cluster).policy(namespace());
            let builder = builder.shadow_policy(panics());
            let builder = if is_audited {
                builder.audit_events()
            } else {
                builder
            };
            let guard = builder.build().unwrap();
            // The policy is not evaluated for a minute after a panic.
            for pause in [0, 1, 61] {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                assert_eq!(token_status(guard.layer(), &token).await, 200);
                assert!(guard.authorize(&token).await.is_ok());
            }
            let logged = events.take();
            let paused = logged
                .iter()
                .filter(|event| event.message().contains("of the shadow policy panicked"));
            assert_eq!(paused.count(), 2);
            let summary = summaries(&logged).remove(0);
            assert_eq!(
                summary.message(),
                format!(
                    "the shadow policy differs for 1 request: 1 would be rejected, such as that of {GKE_SA} of {CLUSTER} \
                     (policy: system:serviceaccounts:id-namespace is an allowed member; \
                     shadow policy: a condition of `require` panicked)"
                )
            );
            let audited: Vec<_> = logged
                .iter()
                .filter(|event| event.target == "oidc_guard::audit")
                .collect();
            assert_eq!(audited.len(), if is_audited { 6 } else { 0 });
            let evaluated = audited
                .into_iter()
                .filter(|event| event.fields.contains_key("shadow_decision"));
            let evaluated: Vec<_> = evaluated.collect();
            assert_eq!(evaluated.len(), if is_audited { 2 } else { 0 });
            for event in evaluated {
                assert_eq!(event.field("shadow_decision"), "rejected");
                assert_eq!(
                    event.field("shadow_rule"),
                    "a condition of `require` panicked"
                );
            }
            let diagnosis = guard.diagnose(&token).await;
            assert_eq!(diagnosis.is_admitted_by_shadow_policy(), Some(false));
            // Logs what is counted.
            drop(guard);
            events.take();
        }
        // A rejected request is not announced as one that would be admitted.
        let guard = guard_builder(&cluster)
            .policy(Policy::members([LEGACY]))
            .shadow_policy(panics())
            .build()
            .unwrap();
        events.take();
        assert_eq!(token_status(guard.layer(), &token).await, 403);
        assert!(summaries(&events.take()).is_empty());
    });
}

/// Returns the summaries of differences.
fn summaries(events: &[CapturedEvent]) -> Vec<CapturedEvent> {
    let all = events.iter().filter(|event| {
        event.target.ends_with("::shadow") && event.fields.contains_key("would_reject")
    });
    all.cloned().collect()
}

#[test]
fn the_first_difference_is_logged_at_once_and_those_that_follow_once_per_interval() {
    let name = "the_first_difference_is_logged_at_once_and_those_that_follow_once_per_interval";
    run(name, LevelFilter::INFO, async |events| {
        let cluster = cluster();
        let guard = guard_builder(&cluster)
            .policy(namespace())
            .shadow_policy(Policy::any_of([
                without_legacy(),
                Policy::members(["system:serviceaccounts:ops"]),
            ]))
            .build()
            .unwrap();
        let (equal, legacy) = (token_spec(&cluster).mint(), legacy(&cluster));
        let ops = token_spec(&cluster).service_account("ops", "admin").mint();
        assert_eq!(token_status(guard.layer(), &equal).await, 200);
        assert!(summaries(&events.take()).is_empty());
        assert_eq!(token_status(guard.layer(), &legacy).await, 200);
        let first = summaries(&events.take()).remove(0);
        let rejected = format!(
            "1 would be rejected, such as that of {LEGACY} of {CLUSTER} \
             (policy: system:serviceaccounts:id-namespace is an allowed member; shadow policy: {LEGACY} is denied)"
        );
        assert_eq!(
            first.message(),
            format!("the shadow policy differs for 1 request: {rejected}")
        );
        assert_eq!((first.level, first.is_root), (Level::INFO, true));
        assert_eq!(first.field("count"), "1");
        assert_eq!(first.field("would_reject"), "1");
        assert_eq!(first.field("would_allow"), "0");
        assert!(!first.fields.contains_key("seconds"), "{first:?}");

        for _ in 0..7 {
            assert_eq!(token_status(guard.layer(), &legacy).await, 200);
        }
        for _ in 0..30 {
            assert_eq!(token_status(guard.layer(), &ops).await, 403);
            assert_eq!(token_status(guard.layer(), &equal).await, 200);
        }
        assert!(summaries(&events.take()).is_empty());
        tokio::time::sleep(Duration::from_secs(11)).await;
        let mut logged = summaries(&events.take());
        assert_eq!(logged.len(), 1, "{logged:?}");
        let second = logged.remove(0);
        let admin = format!("system:serviceaccount:ops:admin of {CLUSTER}");
        assert_eq!(
            second.message(),
            format!(
                "the shadow policy differs for 37 requests in the last 10 s: 30 would be allowed, such as that of {admin} \
                 (policy: {admin} is not an allowed member; shadow policy: system:serviceaccounts:ops is an allowed member); {}",
                rejected.replacen('1', "7", 1)
            )
        );
        assert_eq!(second.field("seconds"), "10");
        assert_eq!(second.field("would_reject"), "7");
        assert_eq!(second.field("would_allow"), "30");
        assert!(second.is_root);

        // A window without differences ends the series, so that the next one is logged at once.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(summaries(&events.take()).is_empty());
        token_status(guard.layer(), &legacy).await;
        assert_eq!(summaries(&events.take()).len(), 1);
        // What is counted is logged when the guard ends.
        token_status(guard.layer(), &legacy).await;
        assert!(summaries(&events.take()).is_empty());
        drop(guard);
        assert_eq!(summaries(&events.take()).len(), 1);
    });
}

#[test]
fn each_difference_is_a_debug_event_and_nothing_from_a_token_can_forge_a_line() {
    let name = "each_difference_is_a_debug_event_and_nothing_from_a_token_can_forge_a_line";
    run(name, LevelFilter::DEBUG, async |events| {
        let cluster = cluster();
        let hostile = format!("a\nINFO shadow\u{1b}[2K\u{202e}{}", "x".repeat(3000));
        let guard = guard_builder(&cluster)
            .policy(Policy::any_verified_caller())
            .shadow_policy(Policy::members([GKE_SA]))
            .without_refusal_summary()
            .build()
            .unwrap();
        let token = token_spec(&cluster).claim("sub", hostile.as_str()).mint();
        for _ in 0..3 {
            assert_eq!(token_status(guard.layer(), &token).await, 200);
        }
        let logged = events.take();
        assert!(summaries(&logged).is_empty(), "summaries are turned off");
        let shadow: Vec<_> = logged
            .iter()
            .filter(|event| event.target.ends_with("::shadow"))
            .collect();
        assert_eq!(shadow.len(), 3, "{shadow:?}");
        for event in shadow {
            assert_eq!(event.level, Level::DEBUG);
            assert_eq!(event.field("difference"), "would_reject");
            assert_eq!(event.field("issuer"), CLUSTER);
            assert!(event.field("rule").contains("allAuthenticatedUsers"));
            for field in ["subject", "shadow_rule"] {
                let value = event.field(field);
                assert!(value.contains(r"\n") && value.contains(r"\u{1b}"));
                assert!(!value.contains(char::is_control) && !value.contains('\u{202e}'));
                assert!(value.chars().count() < 500, "{}", value.len());
            }
        }
    });
}

#[test]
fn a_flood_of_differences_makes_one_line_per_interval_and_each_is_counted() {
    let name = "a_flood_of_differences_makes_one_line_per_interval_and_each_is_counted";
    run(name, LevelFilter::INFO, async |events| {
        let cluster = cluster();
        let guard = guard_builder(&cluster)
            .policy(Policy::members([GKE_SA]))
            .shadow_policy(Policy::members(["allUsers"]))
            .without_refusal_summary()
            .refusal_summary_interval(Duration::from_secs(60))
            .build()
            .unwrap();
        for _ in 0..5000 {
            let response = send_request(guard.layer(), request(&[])).await;
            assert_eq!(response.status(), 401);
        }
        tokio::time::sleep(Duration::from_secs(61)).await;
        let logged = summaries(&events.take());
        let counts: Vec<_> = logged.iter().map(|event| event.field("count")).collect();
        assert_eq!(counts, ["1", "4999"]);
        assert_eq!(
            logged[1].message(),
            "the shadow policy differs for 4999 requests in the last 60 s: 4999 would be allowed, such as one without a token \
             (policy: a token is required; shadow policy: allUsers is an allowed member)"
        );
    });
}

#[test]
fn audit_events_have_the_decision_of_the_shadow_policy_only_if_there_is_one() {
    let name = "audit_events_have_the_decision_of_the_shadow_policy_only_if_there_is_one";
    run(name, LevelFilter::INFO, async |events| {
        let cluster = cluster();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let received = calls.clone();
        let builder = guard_builder(&cluster)
            .policy(without_legacy())
            .audit_events();
        let guard = builder
            .on_decision(move |event| {
                let rule = event.shadow_rule.map(str::to_owned);
                received.lock().unwrap().push((event.shadow_decision, rule));
            })
            .shadow_policy(Policy::members([LEGACY, "allUsers"]))
            .build()
            .unwrap();
        let token = token_spec(&cluster).mint();
        let expired = token_spec(&cluster).claim("exp", 1).mint();
        let anyone = "allUsers is an allowed member";
        for (request, decision, shadow) in [
            (bearer_request(&token), "allowed", Some("allowed")),
            (
                bearer_request(&legacy(&cluster)),
                "rejected",
                Some("allowed"),
            ),
            (request(&[]), "rejected", Some("anonymous")),
            (bearer_request(&expired), "rejected", None),
            (bearer_request("x"), "rejected", None),
        ] {
            send_request(guard.layer(), request).await;
            let mut logged = events.take();
            logged.retain(|event| event.target == "oidc_guard::audit");
            assert_eq!(logged.len(), 1, "{logged:?}");
            assert_eq!(logged[0].field("decision"), decision);
            let found = logged[0].fields.get("shadow_decision").map(String::as_str);
            assert_eq!(found, shadow);
            let rule = logged[0].fields.get("shadow_rule").map(String::as_str);
            assert_eq!(rule, shadow.map(|_| anyone));
            let call = calls.lock().unwrap().remove(0);
            assert_eq!(call.0.map(AuditDecision::as_str), shadow);
            assert_eq!(call.1.as_deref(), rule);
        }
        let guard = guard_builder(&cluster).policy(without_legacy());
        let guard = guard.audit_events().build().unwrap();
        assert_eq!(token_status(guard.layer(), &token).await, 200);
        for event in events.take() {
            assert!(
                !event.fields.keys().any(|name| name.contains("shadow")),
                "{event:?}"
            );
        }
    });
}

#[tokio::test]
async fn a_diagnosis_has_the_decision_of_the_shadow_policy() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(namespace())
        .shadow_policy(without_legacy())
        .build()
        .unwrap();
    let legacy = guard.diagnose(legacy(&cluster)).await;
    assert!(legacy.is_admitted());
    assert_eq!(legacy.is_admitted_by_shadow_policy(), Some(false));
    assert_eq!(
        legacy.shadow_rule(),
        Some(format!("{LEGACY} is denied").as_str())
    );
    assert_eq!(
        legacy.failed_checks().count(),
        0,
        "it does not affect the decision"
    );
    let text = legacy.to_string();
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    assert_eq!(lines[0], format!("admitted: \"{LEGACY}\" of \"{CLUSTER}\""));
    assert_eq!(
        lines[1].trim_start(),
        "hint: if the shadow policy was enforced, the request would be rejected with 403"
    );
    let columns: Vec<_> = lines[2]
        .split("  ")
        .filter(|part| !part.is_empty())
        .collect();
    let columns: Vec<_> = columns.into_iter().map(str::trim).collect();
    assert_eq!(
        columns,
        ["shadow policy", "rejected", &format!("{LEGACY} is denied")]
    );
    let equal = guard.diagnose(token_spec(&cluster).mint()).await;
    assert_eq!(equal.is_admitted_by_shadow_policy(), Some(true));
    assert!(!equal.to_string().contains("if the shadow policy"));
    let expired = token_spec(&cluster).claim("exp", 1).mint();
    let expired = guard.diagnose(expired).await;
    assert_eq!(expired.is_admitted_by_shadow_policy(), None);
    assert!(!expired.to_string().contains("shadow"));
    let layer = guard
        .layer_with(Policy::members([LEGACY]))
        .unwrap()
        .with_shadow_policy(namespace())
        .unwrap();
    let member = layer.diagnose(token_spec(&cluster).mint()).await;
    assert!(!member.is_admitted());
    assert_eq!(member.is_admitted_by_shadow_policy(), Some(true));
    assert!(member.to_string().contains("would be admitted"));
}

#[test]
fn a_shadow_policy_that_agrees_allocates_nothing() {
    let cluster = cluster();
    runtime().block_on(async {
        let many = (0..100).map(|number| format!("system:serviceaccount:shop:account-{number}"));
        let builder = || guard_builder(&cluster).policy(Policy::members([GKE_SA]));
        let shadow = Policy::any_of([
            Policy::members(many).deny([LEGACY]),
            Policy::members([GKE_SA])
                .audience(AUDIENCE)
                .require(|caller| caller.kubernetes().is_some()),
        ]);
        let without = builder().build().unwrap();
        let with = builder().shadow_policy(shadow).build().unwrap();
        let token = token_spec(&cluster).mint();
        let mut counts = Vec::new();
        for guard in [&without, &with] {
            // The token is cached by the first call.
            for _ in 0..3 {
                assert!(guard.authorize(&token).await.is_ok());
            }
            let request = || bearer_request(&token);
            let mut requests: Vec<_> = (0..10).map(|_| request()).collect();
            for request in &mut requests {
                let mut admit = std::pin::pin!(guard.admit(request));
                let count = allocations(|| {
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    assert!(admit.as_mut().poll(&mut context).is_ready());
                });
                counts.push(count);
            }
        }
        let (without, with) = counts.split_at(10);
        assert_eq!(without, with);
    });
}

#[test]
fn requests_whose_tokens_are_reviewed_are_compared_once_and_the_shadow_policy_causes_no_review() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        runtime().block_on(async {
            let cluster = ReviewingCluster::new().await;
            let account = |name: &str| format!("system:serviceaccount:shop:{name}");
            for is_audited in [false, true] {
                let builder = cluster.builder(review(WhenUnavailable::Refuse));
                let builder = builder
                    .policy(Policy::members([account("web")]))
                    .shadow_policy(Policy::members([account("legacy")]));
                let announced = Arc::new(Mutex::new(Vec::new()));
                let received = announced.clone();
                let builder = if is_audited {
                    builder.on_decision(move |event| {
                        received.lock().unwrap().push(is_announced(event));
                    })
                } else {
                    builder
                };
                let guard = builder.build().unwrap();
                let (issuer, reviews) = (&guard.health()[0].issuer, cluster.api.token_reviews());
                for (name, status, kind, count) in [
                    ("legacy", 403, "would_allow", 0),
                    ("web", 200, "would_reject", 1),
                ] {
                    // The first request waits for the keys and the review.
                    let token = cluster.token(name);
                    for _ in 0..2 {
                        counted(&snapshotter);
                        assert_eq!(token_status(guard.layer(), &token).await, status);
                        let expected = Counted {
                            evaluations: 1,
                            differences: vec![difference(kind, issuer, 1)],
                        };
                        assert_eq!(counted(&snapshotter), expected, "{name}");
                        assert_eq!(cluster.api.token_reviews() - reviews, count);
                    }
                    let announced = std::mem::take(&mut *announced.lock().unwrap());
                    assert_eq!(announced, vec![true; if is_audited { 2 } else { 0 }]);
                }
            }
        });
    });
}

/// A caller in the property below, with its `Authorization`, and whether the request is a preflight.
struct Caller {
    name: &'static str,
    authorization: Option<String>,
    is_preflight: bool,
}

/// The issuers of the property below: a cluster, Google and another one.
struct Issuers {
    keys: Vec<(Issuer, String)>,
    callers: Vec<Caller>,
}

impl Issuers {
    fn new() -> Self {
        let issuers = [CLUSTER, GOOGLE, OTHER].map(|url| MemoryIssuer::new(url).unwrap());
        let [kubernetes, google, other] = &issuers;
        let account = |namespace: &str, name: &str| {
            let spec = kubernetes.token().audience(AUDIENCE);
            spec.service_account(namespace, name)
        };
        let email = |email: &str| google.token().audience(AUDIENCE).google_account("1", email);
        let subject = |name: &str| {
            let spec = other.token().audience(AUDIENCE).claim("sub", name);
            spec.claim("team", name)
        };
        let tokens: [(&str, TokenSpec); 13] = [
            ("web", account("shop", "web")),
            ("legacy", account("shop", "legacy")),
            ("admin", account("ops", "admin")),
            ("claims", account("shop", "web").claim("team", "shop")),
            ("scope", account("shop", "web").claim("scope", "read write")),
            ("second audience", account("shop", "web").audience("second")),
            ("no account", account("shop", "web").claim("sub", "jane")),
            ("jane", email("jane@example.com")),
            ("joe", email("joe@example.com")),
            (
                "unverified",
                email("jane@example.com").claim("email_verified", false),
            ),
            ("shop of another issuer", subject("shop")),
            ("ci of another issuer", subject("ci")),
            ("expired", account("shop", "web").claim("exp", 1)),
        ];
        let bearer = |(name, token): (&'static str, TokenSpec)| Caller {
            name,
            authorization: Some(format!("Bearer {}", token.mint())),
            is_preflight: false,
        };
        let mut callers: Vec<_> = tokens.into_iter().map(bearer).collect();
        for (name, authorization, is_preflight) in [
            ("no token", None, false),
            ("another scheme", Some("Basic x"), false),
            ("malformed", Some("Bearer x"), false),
            ("preflight", None, true),
        ] {
            callers.push(Caller {
                name,
                authorization: authorization.map(str::to_owned),
                is_preflight,
            });
        }
        let trusted = [
            Issuer::kubernetes(CLUSTER),
            Issuer::google(),
            Issuer::oidc(OTHER),
        ];
        let trusted = trusted.map(|issuer| issuer.audience(AUDIENCE).audience("second"));
        let keys = issuers
            .each_ref()
            .map(|issuer| runtime().block_on(fetch_jwks(issuer)));
        Self {
            keys: trusted.into_iter().zip(keys).collect(),
            callers,
        }
    }

    fn builder(&self, settings: &Settings) -> OidcGuardBuilder {
        let mut builder = OidcGuard::builder().without_refusal_summary();
        for (issuer, keys) in &self.keys {
            builder = builder.issuer(issuer.clone().keys_json(keys.as_str()));
        }
        if settings.allow_missing_token {
            builder = builder.allow_missing_token();
        }
        if settings.allow_cors_preflight {
            builder = builder.allow_cors_preflight();
        }
        builder
    }
}

impl Caller {
    fn request(&self) -> Request<Body> {
        let authorization = self.authorization.as_deref();
        let mut request = request(authorization.as_slice());
        if self.is_preflight {
            *request.method_mut() = Method::OPTIONS;
            for name in ["origin", "access-control-request-method"] {
                let value = HeaderValue::from_static("x");
                request.headers_mut().insert(name, value);
            }
        }
        request
    }
}

#[derive(Debug, Clone)]
struct Settings {
    allow_missing_token: bool,
    allow_cors_preflight: bool,
    is_audited: bool,
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        prop::bool::weighted(0.2),
        any::<bool>(),
        prop::bool::weighted(0.7),
    )
        .prop_map(
            |(allow_missing_token, allow_cors_preflight, is_audited)| Settings {
                allow_missing_token,
                allow_cors_preflight,
                is_audited,
            },
        )
}

/// Generates policies of every kind that fit the issuers.
fn policy() -> impl Strategy<Value = Policy> {
    const MEMBERS: [&str; 11] = [
        "system:serviceaccount:shop:web",
        "system:serviceaccount:shop:legacy",
        "system:serviceaccounts:shop",
        "system:serviceaccounts",
        "system:authenticated",
        "user:jane@example.com",
        "serviceAccount:joe@example.com",
        "principal:https://id.example#ci",
        "principal:https://cluster.example#jane",
        "allAuthenticatedUsers",
        "allUsers",
    ];
    let members = |most| prop::sample::subsequence(MEMBERS.to_vec(), 0..=most);
    let leaf = members(4).prop_map(Policy::members);
    let leaf = prop_oneof![
        4 => leaf,
        1 => Just(Policy::members_of(OTHER, ["allAuthenticatedUsers"])),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        let list = prop::collection::vec(inner.clone(), 0..3);
        prop_oneof![
            list.clone().prop_map(Policy::any_of),
            list.prop_map(Policy::all_of),
            (inner.clone(), members(2)).prop_map(|(policy, denied)| policy.deny(denied)),
            inner
                .clone()
                .prop_map(|policy| policy.require_claim("team", "shop")),
            inner.clone().prop_map(|policy| policy.audience("second")),
            inner
                .clone()
                .prop_map(|policy| policy.require_scope("read")),
            inner.prop_map(|policy| policy.require(|caller| caller.subject().len() % 2 == 0)),
        ]
    })
}

/// Returns whether an audit event announces that the request would be decided otherwise.
fn is_announced(event: &AuditEvent<'_>) -> bool {
    let is_admitted = |decision: AuditDecision| decision != AuditDecision::Rejected;
    let shadow = event.shadow_decision.map(is_admitted);
    shadow.is_some_and(|shadow| shadow != is_admitted(event.decision))
}

#[test]
fn promoting_a_shadow_policy_changes_exactly_the_requests_that_it_announced() {
    let issuers = Issuers::new();
    let (changed, unchanged) = (Cell::new(0_u32), Cell::new(0_u32));
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(enforced in policy(), shadow in policy(), settings in settings())| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let announced = Arc::new(Mutex::new(Vec::new()));
        let received = announced.clone();
        let builder = issuers.builder(&settings).policy(enforced).shadow_policy(shadow.clone());
        let builder = if settings.is_audited {
            builder.on_decision(move |event| received.lock().unwrap().push(is_announced(event)))
        } else {
            builder
        };
        let promoted = issuers.builder(&settings).policy(shadow).build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            let guard = builder.build().unwrap();
            // Twice, so that tokens are verified and then found in the cache.
            for caller in issuers.callers.iter().chain(&issuers.callers) {
                counted(&snapshotter);
                let status = |guard: &OidcGuard| {
                    let response = runtime().block_on(send_request(guard.layer(), caller.request()));
                    response.status()
                };
                let (before, after) = (status(&guard), status(&promoted));
                let is_changed = before.is_success() != after.is_success();
                let counter = if is_changed { &changed } else { &unchanged };
                counter.set(counter.get() + 1);
                let counted = counted(&snapshotter).differences;
                let differences: u64 = counted.iter().map(|(_, count)| count).sum();
                assert_eq!(differences, u64::from(is_changed), "{}: {before} {after}", caller.name);
                if let [(labels, _)] = &counted[..] {
                    let kind = if before.is_success() { "would_reject" } else { "would_allow" };
                    assert!(labels.contains(kind), "{}: {labels}", caller.name);
                }
                let audited = std::mem::take(&mut *announced.lock().unwrap());
                let expected = if settings.is_audited { vec![is_changed] } else { Vec::new() };
                assert_eq!(audited, expected, "{}: {before} {after}", caller.name);
            }
        });
    });
    let counts = (changed.get(), unchanged.get());
    assert!(counts.0 > 200 && counts.1 > 200, "{counts:?}");
}

#[cfg(all(feature = "policy-file", unix))]
mod files {
    use reqwest_wi_auth::testing::Kubelet;
    use tower_oidc_guard::PolicyFile;

    use super::*;
    use crate::support::logs::CapturedLogs;
    use crate::support::wait_until;

    const WITHOUT_LEGACY: &str = "allow: [\"system:serviceaccounts:id-namespace\"]\ndeny: [\"system:serviceaccount:id-namespace:legacy\"]\n";

    /// A guard whose policy and shadow policy are in files of a volume.
    struct Files {
        kubelet: Kubelet,
        shadow: PolicyFile,
        guard: OidcGuard,
        cluster: MemoryIssuer,
        _folder: tempfile::TempDir,
    }

    impl Files {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let kubelet = Kubelet::new(folder.path()).unwrap();
            let everyone = "allow: [\"system:serviceaccounts:id-namespace\"]\n";
            kubelet
                .write([("policy.yaml", everyone), ("shadow.yaml", WITHOUT_LEGACY)])
                .unwrap();
            let open = async |name| PolicyFile::open(kubelet.path(name)).await.unwrap();
            let (enforced, shadow) = (open("policy.yaml").await, open("shadow.yaml").await);
            let cluster = cluster();
            let guard = guard_builder(&cluster)
                .policy(enforced.policy())
                .shadow_policy(shadow.policy())
                .build()
                .unwrap();
            Self {
                kubelet,
                shadow,
                guard,
                cluster,
                _folder: folder,
            }
        }

        /// Returns what the shadow policy would decide on `legacy`.
        async fn shadow_allows_legacy(&self) -> bool {
            let diagnosis = self.guard.diagnose(legacy(&self.cluster)).await;
            assert!(diagnosis.is_admitted());
            diagnosis.is_admitted_by_shadow_policy().unwrap()
        }

        /// Returns the names of the files with their status: whether they are shadows, and whether they have an error.
        fn health(&self) -> Vec<(String, bool, bool)> {
            let health = self.guard.policy_health().into_iter();
            let health = health.map(|file| {
                let name = file
                    .path
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                (name, file.is_shadow, file.last_error.is_some())
            });
            health.collect()
        }
    }

    #[tokio::test]
    async fn a_shadow_policy_follows_its_file_and_a_bad_file_affects_nothing() {
        let files = Files::start().await;
        let status = |is_shadow_bad| {
            vec![
                ("policy.yaml".to_owned(), false, false),
                ("shadow.yaml".to_owned(), true, is_shadow_bad),
            ]
        };
        assert_eq!(files.health(), status(false));
        assert!(files.shadow.health().is_shadow);
        assert!(!files.shadow_allows_legacy().await);
        for bad in [
            "alow: []\n",
            "allow: [\"user:jane@example.com\"]\n",
            "allow: [x]\n",
            "",
        ] {
            files.kubelet.rotate("shadow.yaml", "allow: []\n").unwrap();
            wait_until(async || !files.health()[1].2).await;
            files.kubelet.rotate("shadow.yaml", bad).unwrap();
            wait_until(async || files.health()[1].2).await;
            assert_eq!(files.health(), status(true), "{bad}");
            let token = token_spec(&files.cluster).mint();
            assert_eq!(token_status(files.guard.layer(), &token).await, 200);
            assert!(!files.shadow_allows_legacy().await, "{bad}");
        }
        let everyone = "allow: [\"system:serviceaccounts\"]\n";
        files.kubelet.rotate("shadow.yaml", everyone).unwrap();
        wait_until(async || files.shadow_allows_legacy().await).await;
        assert_eq!(files.health(), status(false));
    }

    #[tokio::test]
    async fn a_file_that_is_also_enforced_is_not_a_shadow() {
        let files = Files::start().await;
        let layer = files.guard.layer_with(files.shadow.policy()).unwrap();
        let is_shadow = || {
            let health = files.guard.policy_health();
            (health[1].is_shadow, files.shadow.health().is_shadow)
        };
        assert_eq!(is_shadow(), (false, false));
        drop(layer);
        assert_eq!(is_shadow(), (true, true));
        // Another layer's shadow policy.
        let layer = files
            .guard
            .layer()
            .with_shadow_policy(files.shadow.policy());
        assert_eq!(is_shadow(), (true, true));
        drop((layer, files.guard));
        assert!(!files.shadow.health().is_shadow, "no guard uses it");
    }

    #[tokio::test]
    async fn logs_of_reloads_say_that_it_is_a_shadow_policy() {
        if !is_child_process() {
            return run_in_child_process(
                "shadow_policy::files::logs_of_reloads_say_that_it_is_a_shadow_policy",
                &[],
            );
        }
        let logs = CapturedLogs::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_writer(logs.clone())
            .finish();
        let _subscribed = tracing::subscriber::set_default(subscriber);
        let files = Files::start().await;
        assert_eq!(logs.text(), "");
        for (content, level, parts) in [
            (
                "allow: [allUsers]\ndeny: [\"system:serviceaccount:a:b\"]\n",
                "INFO",
                &[
                    "shadow policy changed; it affects no request",
                    "widened_by=\"+ allUsers",
                    "WARN tower_oidc_guard::telemetry: shadow policy: the policy allows allUsers and has a deny list",
                ][..],
            ),
            (
                "alow: []\n",
                "WARN",
                &["shadow policy, which affects no request: line 1, column 1: unknown field"],
            ),
        ] {
            logs.clear();
            files.kubelet.rotate("shadow.yaml", content).unwrap();
            wait_until(async || parts.iter().all(|part| logs.text().contains(part))).await;
            let text = logs.text();
            assert!(text.trim_start().starts_with(level), "{text}");
            assert!(text.contains("shadow.yaml"), "{text}");
        }
        logs.clear();
        files.kubelet.rotate("policy.yaml", "allow: []\n").unwrap();
        wait_until(async || logs.text().contains("policy changed")).await;
        assert!(!logs.text().contains("shadow"), "{}", logs.text());
    }

    #[tokio::test]
    async fn shadow_policies_of_a_guard_and_its_layers_go_on_when_its_configuration_file_changes() {
        if !is_child_process() {
            return run_in_child_process(
                "shadow_policy::files::shadow_policies_of_a_guard_and_its_layers_go_on_when_its_configuration_file_changes",
                &[],
            );
        }
        let (folder, cluster) = (tempfile::tempdir().unwrap(), cluster());
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("keys.json"), fetch_jwks(&cluster).await).unwrap();
        let write = |audiences: &str, allowed: &str| {
            let keys = path("keys.json");
            let content = format!(
                "issuers:\n  - {{ url: \"{CLUSTER}\", platform: kubernetes, audiences: [{audiences}], keys_file: {keys:?} }}\nallow: [\"{allowed}\"]\n"
            );
            std::fs::write(path("new.yaml"), content).unwrap();
            std::fs::rename(path("new.yaml"), path("guard.yaml")).unwrap();
        };
        let own = format!("{AUDIENCE:?}");
        write(&own, "system:serviceaccounts:id-namespace");
        let builder = tower_oidc_guard::OidcGuardBuilder::from_file(path("guard.yaml")).await;
        let guard = builder
            .unwrap()
            .shadow_policy(without_legacy())
            .build()
            .unwrap();
        let layer = guard
            .layer_with(Policy::members([GKE_SA]))
            .unwrap()
            .with_shadow_policy(namespace().audience(AUDIENCE))
            .unwrap();
        let replaced = guard.layer().with_shadow_policy(Policy::members([GKE_SA]));
        let replaced = replaced.unwrap();
        let legacy = legacy(&cluster);
        let shadows = async || {
            let diagnoses = [
                guard.diagnose(&legacy).await,
                layer.diagnose(&legacy).await,
                replaced.diagnose(&legacy).await,
            ];
            diagnoses.map(|diagnosis| {
                (
                    diagnosis.is_admitted(),
                    diagnosis.is_admitted_by_shadow_policy(),
                )
            })
        };
        let expected = [
            (true, Some(false)),
            (false, Some(true)),
            (true, Some(false)),
        ];
        assert_eq!(shadows().await, expected);
        write(
            &format!("{own}, \"https://more.example\""),
            "system:serviceaccounts",
        );
        let ops = token_spec(&cluster).service_account("ops", "admin").mint();
        wait_until(async || token_status(guard.layer(), &ops).await == 200).await;
        assert_eq!(shadows().await, expected);

        // A shadow policy that does not fit the new issuers is suspended, and does not keep the file from taking effect.
        let logs = CapturedEvents::default();
        let subscriber = tracing_subscriber::registry().with(logs.clone());
        // The file is read on another thread.
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let more = "\"https://more.example\"";
        write(more, "system:serviceaccounts");
        let other = token_spec(&cluster).audience("https://more.example");
        let other = other.mint();
        wait_until(async || token_status(guard.layer(), &ops).await == 401).await;
        assert_eq!(token_status(guard.layer(), &other).await, 200);
        let suspended = layer.diagnose(&other).await;
        assert_eq!(suspended.is_admitted_by_shadow_policy(), None);
        // The content of the file is known to be in effect a moment later.
        wait_until(async || guard.policy_health()[0].last_error.is_none()).await;
        wait_until(async || {
            let all = logs.all().into_iter();
            let texts = all.map(|event| event.message().to_owned());
            texts
                .filter(|text| text.starts_with("shadow policy suspended"))
                .count()
                == 1
        })
        .await;
        write(&format!("{own}, {more}"), "system:serviceaccounts");
        wait_until(async || token_status(guard.layer(), &ops).await == 200).await;
        assert_eq!(shadows().await, expected);
    }
}
