//! Audits: an event and a callback for each decision.

use std::future::Future as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_oidc_guard::{
    Algorithm, AuditDecision, AuditEvent, AuditPath, BuildError, Identity, OidcGuard,
    OidcGuardBuilder, Policy,
};
use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::events::{CapturedEvent, CapturedEvents};
use crate::support::in_memory::send_request;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::Signer;
use crate::support::{
    AUDIENCE, Body, HEADER, ISSUER_URL, NOW, claims, guard_builder_with_keys, issuer_settings,
};

/// The decisions that a callback received, each in the form of an event's fields.
type Received = Arc<Mutex<Vec<Vec<(&'static str, String)>>>>;

/// Returns the fields of an event that are present, except for the time.
fn fields(event: &AuditEvent<'_>) -> Vec<(&'static str, String)> {
    let time = event.time.duration_since(UNIX_EPOCH).unwrap();
    let audience = (!event.audiences.is_empty()).then(|| event.audiences.join(" "));
    let fields = [
        ("time_unix_ms", Some(time.as_millis().to_string())),
        ("decision", Some(event.decision.as_str().to_owned())),
        ("reason", Some(event.reason.to_owned())),
        ("rule", event.rule.map(str::to_owned)),
        ("issuer", event.issuer.map(str::to_owned)),
        ("subject", event.subject.map(str::to_owned)),
        ("credential_id", event.credential_id.map(str::to_owned)),
        ("audience", audience),
        ("method", event.method.map(ToString::to_string)),
        ("path", event.path.map(str::to_owned)),
    ];
    let present = fields.into_iter();
    let mut present: Vec<_> = present
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    present.sort();
    present
}

/// Runs a test alone in a child process, with paused time, and with a subscriber for events of this level and above.
fn run(name: &str, level: LevelFilter, test: impl AsyncFnOnce(CapturedEvents)) {
    if !is_child_process() {
        return run_in_child_process(&format!("audit::{name}"), &[]);
    }
    let events = CapturedEvents::default();
    let subscriber = tracing_subscriber::registry()
        .with(events.clone())
        .with(level);
    let _default = tracing::subscriber::set_default(subscriber);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test(events));
}

fn take_audit(events: &CapturedEvents) -> Vec<CapturedEvent> {
    let mut taken = events.take();
    taken.retain(|event| event.target == "oidc_guard::audit");
    taken
}

/// Returns a request with this value of `Authorization`.
fn sent(authorization: &str) -> Request<Body> {
    let request = Request::put("/orders/7?zqx=1");
    let request = match authorization {
        "" => request,
        value => request.header("authorization", value),
    };
    request.body(Body::new()).unwrap()
}

fn builder(signer: &Signer) -> OidcGuardBuilder {
    let issuer = issuer_settings().require_claim("team", "shop");
    guard_builder_with_keys(&[signer.jwk()], issuer)
}

/// Returns the `Authorization` of a token with these claims instead of the usual ones.
fn bearer(signer: &Signer, changes: Value) -> String {
    let mut all = json!({ "sub": "caller", "jti": "id-1", "team": "shop" });
    let members = all.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    format!("Bearer {}", signer.sign(HEADER, &claims(all)))
}

#[test]
fn each_decision_is_an_event_and_a_call_with_the_same_documented_fields() {
    let name = "each_decision_is_an_event_and_a_call_with_the_same_documented_fields";
    run(name, LevelFilter::INFO, async |events| {
        let signer = Signer::new();
        let member = |subject: &str| format!("principal:{ISSUER_URL}#{subject}");
        let received = Received::default();
        let guard = |builder: OidcGuardBuilder| {
            let received = received.clone();
            let builder = builder.audit_events().audit_path(AuditPath::Uri);
            let callback =
                move |event: &AuditEvent<'_>| received.lock().unwrap().push(fields(event));
            builder.on_decision(callback).build().unwrap()
        };
        let allowed = Policy::members([member("caller")]);
        let named = guard(
            builder(&signer)
                .policy(allowed.clone())
                .allow_cors_preflight(),
        );
        let optional = guard(builder(&signer).policy(allowed).allow_missing_token());
        let everyone = guard(builder(&signer).policy(Policy::members(["allUsers"])));
        let preflight = || {
            let mut request = sent("");
            *request.method_mut() = Method::OPTIONS;
            for name in ["origin", "access-control-request-method"] {
                request
                    .headers_mut()
                    .insert(name, http::HeaderValue::from_static("x"));
            }
            request
        };
        let token = |changes: Value| sent(&bearer(&signer, changes));
        let identity = |subject: &str| json!({ "issuer": ISSUER_URL, "subject": subject, "credential_id": "id-1", "audience": AUDIENCE });
        let rule = |mut fields: Value, rule: &str| {
            fields["rule"] = rule.into();
            fields
        };
        let issuer = json!({ "issuer": ISSUER_URL });
        let forged = format!(
            "Bearer {}",
            Signer::new().sign(HEADER, &claims(json!({ "team": "shop" })))
        );
        for (guard, request, decision, reason, others) in [
            (
                &named,
                token(json!({})),
                "allowed",
                "allowed",
                rule(
                    identity("caller"),
                    &format!("{} is an allowed member", member("caller")),
                ),
            ),
            (
                &everyone,
                token(json!({ "aud": ["https://b.example", AUDIENCE], "jti": null })),
                "allowed",
                "allowed",
                json!({
                    "issuer": ISSUER_URL, "subject": "caller", "rule": "allUsers is an allowed member",
                    "audience": format!("https://b.example {AUDIENCE}"),
                }),
            ),
            (
                &named,
                token(json!({ "sub": "other" })),
                "rejected",
                "not_allowed",
                rule(
                    identity("other"),
                    &format!("other of {ISSUER_URL} is not an allowed member"),
                ),
            ),
            (
                &named,
                token(json!({ "team": "x" })),
                "rejected",
                "unmet_claim",
                identity("caller"),
            ),
            // The claims of tokens that are not verified are not in the audit.
            (
                &named,
                token(json!({ "aud": "zqx" })),
                "rejected",
                "wrong_audience",
                issuer.clone(),
            ),
            (
                &named,
                token(json!({ "exp": 1 })),
                "rejected",
                "expired",
                issuer.clone(),
            ),
            (&named, sent(&forged), "rejected", "bad_signature", issuer),
            (
                &named,
                token(json!({ "iss": "zqx" })),
                "rejected",
                "unknown_issuer",
                json!({}),
            ),
            (
                &named,
                sent("Bearer zqx"),
                "rejected",
                "malformed",
                json!({}),
            ),
            (
                &named,
                sent("Bearer  zqx"),
                "rejected",
                "malformed_request",
                json!({}),
            ),
            (
                &named,
                sent("Basic zqx"),
                "rejected",
                "unsupported_scheme",
                json!({}),
            ),
            (&named, sent(""), "rejected", "missing_token", json!({})),
            (
                &named,
                preflight(),
                "anonymous",
                "anonymous",
                json!({ "rule": "the setting `allow_cors_preflight`", "method": "OPTIONS" }),
            ),
            (
                &optional,
                sent(""),
                "anonymous",
                "anonymous",
                json!({ "rule": "the setting `allow_missing_token`" }),
            ),
            (
                &everyone,
                sent("Basic zqx"),
                "anonymous",
                "anonymous",
                json!({ "rule": "allUsers is an allowed member" }),
            ),
        ] {
            let response = send_request(guard.layer(), request).await;
            assert_eq!(response.status() == 200, decision != "rejected", "{reason}");
            let mut expected = json!({
                "time_unix_ms": (NOW * 1000).to_string(), "decision": decision, "reason": reason,
                "method": "PUT", "path": "/orders/7",
            });
            let members = expected.as_object_mut().unwrap();
            members.extend(others.as_object().unwrap().clone());
            let mut expected: Vec<_> = members
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect();
            expected.sort();

            let mut logged = take_audit(&events);
            assert_eq!(logged.len(), 1, "{logged:?}");
            let mut logged = logged.remove(0);
            assert_eq!(logged.level, Level::INFO);
            assert_eq!(logged.fields.remove("message").unwrap(), "decision");
            let logged: Vec<_> = logged.fields.into_iter().collect();
            assert_eq!(logged, expected, "{reason}");
            let mut calls = std::mem::take(&mut *received.lock().unwrap());
            assert_eq!(calls.len(), 1, "{calls:?}");
            let call = calls.remove(0).into_iter();
            let call: Vec<_> = call.map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(call, expected, "{reason}");
            assert!(!format!("{logged:?}").contains("zqx"), "{logged:?}");
        }
    });
}

#[test]
fn without_the_settings_no_decision_is_logged() {
    let name = "without_the_settings_no_decision_is_logged";
    run(name, LevelFilter::TRACE, async |events| {
        let signer = Signer::new();
        let guard = builder(&signer)
            .any_verified_caller()
            .audit_path(AuditPath::Uri);
        let guard = guard.build().unwrap();
        for authorization in [&bearer(&signer, json!({})), "Bearer x", ""] {
            send_request(guard.layer(), sent(authorization)).await;
        }
        assert!(take_audit(&events).is_empty());
    });
}

#[test]
fn a_path_is_only_in_the_audit_if_it_is_chosen() {
    let name = "a_path_is_only_in_the_audit_if_it_is_chosen";
    run(name, LevelFilter::INFO, async |events| {
        let signer = Signer::new();
        for (path, expected) in [
            (AuditPath::default(), None),
            (AuditPath::Matched, Some("/orders/{id}")),
            (AuditPath::Uri, Some("/orders/7")),
        ] {
            let guard = builder(&signer).any_verified_caller().audit_events();
            let guard = guard.audit_path(path).build().unwrap();
            let handler = axum::routing::put(async |caller: Identity| caller.subject().to_owned());
            let app = axum::Router::new()
                .route("/orders/{id}", handler)
                .route_layer(guard.layer());
            for (authorization, status) in [(bearer(&signer, json!({})), 200), (String::new(), 401)]
            {
                let request = sent(&authorization).map(axum::body::Body::new);
                let response = app.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), status);
                let logged = take_audit(&events);
                assert_eq!(logged.len(), 1, "{logged:?}");
                let found = logged[0].fields.get("path").map(String::as_str);
                assert_eq!(found, expected, "{path:?}");
            }
            // A service without a router has no matched path.
            send_request(guard.layer(), sent("")).await;
            let logged = take_audit(&events);
            let found = logged[0].fields.get("path").map(String::as_str);
            assert_eq!(
                found,
                expected.filter(|_| path == AuditPath::Uri),
                "{path:?}"
            );
        }
    });
}

#[test]
fn claims_with_control_characters_cannot_forge_audit_events() {
    let name = "claims_with_control_characters_cannot_forge_audit_events";
    run(name, LevelFilter::INFO, async |events| {
        let signer = Signer::new();
        let received = Arc::new(Mutex::new(Vec::new()));
        let subjects = received.clone();
        let guard = builder(&signer)
            .any_verified_caller()
            .audit_events()
            .on_decision(move |event| {
                subjects
                    .lock()
                    .unwrap()
                    .push(event.subject.map(str::to_owned))
            })
            .build()
            .unwrap();
        let hostile = "a\nINFO oidc_guard::audit: decision\u{1b}[2K\u{202e}";
        let changes = json!({ "sub": hostile, "jti": hostile, "aud": [hostile, AUDIENCE, "a b"] });
        assert_eq!(
            send_request(guard.layer(), sent(&bearer(&signer, changes)))
                .await
                .status(),
            200
        );
        let logged = take_audit(&events).remove(0);
        for name in ["subject", "credential_id", "audience"] {
            let value = logged.field(name);
            assert!(
                !value.contains(char::is_control) && !value.contains('\u{202e}'),
                "{value}"
            );
            assert!(
                value.contains(r"\n") && value.contains(r"\u{1b}"),
                "{value}"
            );
        }
        let audiences: Vec<_> = logged.field("audience").split(' ').collect();
        assert_eq!(audiences.len(), 3, "{audiences:?}");
        assert_eq!(&audiences[1..], [AUDIENCE, r"a\u{20}b"]);
        assert_eq!(*received.lock().unwrap(), [Some(hostile.to_owned())]);
    });
}

#[test]
fn a_callback_that_panics_does_not_affect_the_decision_and_is_logged() {
    let name = "a_callback_that_panics_does_not_affect_the_decision_and_is_logged";
    run(name, LevelFilter::INFO, async |events| {
        let signer = Signer::new();
        let guard = builder(&signer).any_verified_caller();
        let guard = guard
            .on_decision(|event| panic!("{}", event.reason))
            .build()
            .unwrap();
        for (authorization, status) in [(&*bearer(&signer, json!({})), 200), ("Bearer x", 401)] {
            let response = send_request(guard.layer(), sent(authorization)).await;
            assert_eq!(response.status(), status);
            let mut errors = events.take();
            errors.retain(|event| event.level == Level::ERROR);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].message().contains("`on_decision` panicked"),
                "{errors:?}"
            );
        }
    });
}

#[test]
fn one_callback_receives_the_decisions_of_all_layers_also_without_a_runtime_or_a_subscriber() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let decisions = Arc::new(Mutex::new(Vec::new()));
    let received = decisions.clone();
    let build = |builder: OidcGuardBuilder| builder.any_verified_caller().build();
    let issuer = issuer_settings().algorithms([Algorithm::ES256]);
    let guard = OidcGuard::builder()
        .issuer(issuer.keys_json(keys))
        .clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
        .on_decision(move |event| received.lock().unwrap().push(event.decision));
    let guard = build(guard).unwrap();
    let denying = Policy::any_verified_caller().deny([format!("principal:{ISSUER_URL}#caller")]);
    for layer in [guard.layer(), guard.layer_with(denying).unwrap()] {
        let token = signer.sign(HEADER, &claims(json!({})));
        let sending = send_request(layer, sent(&format!("Bearer {token}")));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::pin!(sending).poll(&mut context).is_ready());
    }
    let expected = [AuditDecision::Allowed, AuditDecision::Rejected];
    assert_eq!(*decisions.lock().unwrap(), expected);
    let twice = OidcGuard::builder().issuer(issuer_settings());
    let twice = twice.on_decision(|_| {}).on_decision(|_| {});
    assert!(matches!(
        build(twice),
        Err(BuildError::Conflict {
            first: "on_decision",
            ..
        })
    ));
}
