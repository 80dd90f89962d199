//! Which issuers must have usable keys for a guard to be ready.

use tower::ServiceExt as _;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard, OidcGuardBuilder, ReadyWhen};

use crate::support::{AUDIENCE, Body, body_text, trusted_issuer, valid_token};

/// An issuer that cannot be reached.
const UNREACHABLE: &str = "http://127.0.0.1:1";

/// Returns the builder of a guard that trusts a running issuer and [`UNREACHABLE`], in this order.
fn builder(running: &TestIssuer) -> OidcGuardBuilder {
    OidcGuard::builder()
        .issuer(trusted_issuer(running.url()))
        .issuer(trusted_issuer(UNREACHABLE))
        .any_verified_caller()
}

/// Returns the status and the body of the response to a readiness probe.
async fn probe(guard: &OidcGuard) -> (u16, String) {
    let probe = http::Request::new(Body::new());
    let response = guard.readiness().oneshot(probe).await.unwrap();
    (response.status().as_u16(), body_text(response).await)
}

#[tokio::test]
async fn by_default_every_issuer_must_have_keys() {
    let running = TestIssuer::start().await.unwrap();
    let guard = builder(&running).build().unwrap();
    let error = guard.ready().await.unwrap_err();
    assert_eq!(error.issuer(), UNREACHABLE);
    assert_eq!(error.causes().count(), 1);
    assert!(!guard.is_ready());
    let (status, body) = probe(&guard).await;
    assert_eq!(status, 503);
    assert!(
        body.starts_with(&format!("no keys of {UNREACHABLE}: GET ")),
        "{body}"
    );
    assert!(
        body.contains("Connection refused") && body.lines().count() == 1,
        "{body}"
    );
    let required: Vec<_> = guard
        .health()
        .iter()
        .map(|issuer| issuer.is_required)
        .collect();
    assert_eq!(required, [true, true]);
}

#[tokio::test]
async fn one_unreachable_issuer_does_not_keep_the_guard_from_being_ready_if_others_suffice() {
    let running = TestIssuer::start().await.unwrap();
    let named = ReadyWhen::issuers([running.url()]);
    for (ready_when, is_required) in [(ReadyWhen::AnyIssuer, false), (named, true)] {
        let guard = builder(&running).ready_when(ready_when).build().unwrap();
        assert!(!guard.is_ready(), "nothing was fetched yet");
        let (status, body) = probe(&guard).await;
        assert_eq!((status, body.lines().count()), (503, 2), "{body}");
        assert!(body.contains("have not been fetched yet"), "{body}");

        guard.ready().await.unwrap();
        assert!(guard.is_ready());
        let unreachable = || guard.health().remove(1);
        while unreachable().last_error.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let (status, body) = probe(&guard).await;
        assert_eq!(status, 200, "{body}");
        let lines: Vec<_> = body.lines().collect();
        assert_eq!(lines, ["ready", &unreachable().to_string()]);
        assert!(lines[1].contains("Connection refused"), "{body}");
        let required: Vec<_> = guard
            .health()
            .iter()
            .map(|issuer| issuer.is_required)
            .collect();
        assert_eq!(required, [is_required, false]);
        guard
            .verifier()
            .verify(valid_token(&running))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_required_issuer_without_keys_keeps_the_guard_from_being_ready() {
    let running = TestIssuer::start().await.unwrap();
    let named = ReadyWhen::issuers([UNREACHABLE, UNREACHABLE]);
    let guard = builder(&running).ready_when(named).build().unwrap();
    assert_eq!(guard.ready().await.unwrap_err().issuer(), UNREACHABLE);
    assert_eq!(probe(&guard).await.0, 503);
    assert!(!guard.is_ready());
}

#[tokio::test]
async fn if_no_issuer_has_keys_the_error_contains_the_cause_for_each_of_them() {
    for ready_when in [ReadyWhen::AllIssuers, ReadyWhen::AnyIssuer] {
        let others = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
        let builder = others.iter().fold(OidcGuard::builder(), |builder, url| {
            builder.issuer(trusted_issuer(url))
        });
        let guard = builder.any_verified_caller().ready_when(ready_when);
        let guard = guard.build().unwrap();
        let error = guard.ready().await.unwrap_err();
        let issuers: Vec<_> = error
            .causes()
            .map(|(issuer, _)| issuer.to_owned())
            .collect();
        assert_eq!(issuers, others);
        let text = error.to_string();
        for url in others {
            assert!(
                text.contains(&format!("no usable keys for issuer {url:?}: GET {url}/")),
                "{text}"
            );
        }
        assert_eq!(text.matches("Connection refused").count(), 2, "{text}");
        let (status, body) = probe(&guard).await;
        assert_eq!((status, body.lines().count()), (503, 2), "{body}");
    }
}

#[tokio::test]
async fn required_issuers_are_named_by_their_iss_or_label_and_others_do_not_build() {
    let builder = || {
        let google = Issuer::google().audience(AUDIENCE);
        let other = Issuer::oidc("https://id.example").also_known_as("https://old.example");
        OidcGuard::builder()
            .issuer(google)
            .issuer(other.audience(AUDIENCE))
            .any_verified_caller()
    };
    for (name, expected) in [
        ("https://accounts.google.com", [true, false]),
        ("accounts.google.com", [true, false]),
        ("https://id.example", [false, true]),
        ("https://old.example", [false, true]),
    ] {
        let guard = builder().ready_when(ReadyWhen::issuers([name]));
        let health = guard.build().unwrap().health();
        let required: Vec<_> = health.iter().map(|issuer| issuer.is_required).collect();
        assert_eq!(required, expected, "{name}");
    }
    for name in [
        "https://id.example/",
        "https://ID.example",
        "all",
        "",
        "google",
    ] {
        let names = ReadyWhen::issuers(["https://id.example", name]);
        let error = builder().ready_when(names).build().unwrap_err();
        assert!(matches!(error, BuildError::ReadyWhen { .. }), "{error:?}");
        let text = error.to_string();
        for part in [
            &*format!("{name:?}"),
            "\"https://accounts.google.com\", \"https://id.example\"",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    let error = builder().ready_when(ReadyWhen::Issuers(Vec::new())).build();
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("the list of issuers is empty")
    );
}
