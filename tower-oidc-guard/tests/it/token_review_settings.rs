//! The settings of token reviews, and what operators see of them.

use std::time::Duration;

use serde_json::json;
use tower_oidc_guard::{
    BuildError, CheckResult, Issuer, OidcGuard, Policy, TokenError, TokenReview, VerifyError,
    WhenUnavailable,
};
use tracing_subscriber::filter::LevelFilter;

use crate::support::AUDIENCE;
use crate::support::logs::{BothFormats, assert_absent};
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::recorded::recorded_path;
use crate::support::reviews::{ReviewingCluster, as_time_passes, pass, review, verify};

fn build(issuer: Issuer) -> Result<OidcGuard, BuildError> {
    OidcGuard::builder()
        .issuer(issuer)
        .any_verified_caller()
        .build()
}

fn error(issuer: Issuer) -> String {
    build(issuer.audience(AUDIENCE)).unwrap_err().to_string()
}

fn refuse() -> TokenReview {
    TokenReview::new(WhenUnavailable::Refuse)
}

#[test]
fn settings_that_cannot_work_do_not_build() {
    let cluster = || Issuer::kubernetes("https://cluster.example");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "content").unwrap();
    let remote = || {
        refuse()
            .api_server("https://api.example:6443")
            .token_file(&file)
            .ca_file(&file)
    };
    assert!(build(cluster().token_review(remote()).audience(AUDIENCE)).is_ok());
    for (issuer, expected) in [
        (
            Issuer::oidc("https://id.example").token_review(remote()),
            "`token_review` is for Kubernetes issuers",
        ),
        (
            Issuer::google().token_review(remote()),
            "`token_review` is for Kubernetes issuers",
        ),
        (
            cluster().token_review(remote()).token_review(remote()),
            "`token_review` is set twice",
        ),
        (cluster().token_review(refuse()), "`api_server` is not set"),
        (
            cluster().token_review(refuse().api_server("https://api.example")),
            "`token_file` is not set",
        ),
        (
            cluster().token_review(refuse().api_server("https://api.example").token_file(&file)),
            "`ca_file` is not set",
        ),
        (
            cluster().token_review(remote().token_file("/nowhere/token")),
            "/nowhere/token, the `token_file` of `token_review`, cannot be read",
        ),
    ] {
        let error = error(issuer);
        assert!(error.contains(expected), "{error}");
    }
    for url in [
        "http://api.example",
        "https://api.example/path",
        "https://user@api.example",
        "https://api.example?a=b",
        "api.example:6443",
        "",
    ] {
        let error = error(cluster().token_review(remote().api_server(url)));
        assert!(
            error.contains("is not an https URL without path"),
            "{error}"
        );
    }
    for (review, expected) in [
        (
            remote().ttl(Duration::ZERO),
            "`ttl` of `token_review` is out of range; expected 1 to 600 s",
        ),
        (remote().ttl(Duration::from_secs(601)), "`ttl`"),
        (remote().time_limit(Duration::ZERO), "`time_limit`"),
        (remote().time_limit(Duration::from_secs(31)), "`time_limit`"),
        (
            remote().max_reviews_per_second(0),
            "`max_reviews_per_second`",
        ),
        (
            remote().max_concurrent_reviews(0),
            "`max_concurrent_reviews`",
        ),
        (
            remote().max_concurrent_reviews(1025),
            "`max_concurrent_reviews`",
        ),
        (remote().max_tokens(0), "`max_tokens`"),
    ] {
        let error = error(cluster().token_review(review));
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_with_inline_keys_is_reviewed_by_its_configured_api_server() {
    let cluster = ReviewingCluster::new().await;
    let setting = || {
        review(WhenUnavailable::Refuse)
            .api_server(format!(
                "https://{}:{}",
                cluster.api.host(),
                cluster.api.port()
            ))
            .token_file(cluster.volume.path().join("token"))
            .ca_file(cluster.volume.path().join("ca.crt"))
    };
    let in_cluster = build(cluster.issuer().token_review(setting())).unwrap_err();
    let in_cluster = in_cluster.to_string();
    assert!(in_cluster.contains("`api_server` of `token_review` is for issuers other than"));
    let keys = key_set(&cluster).await;
    let issuer = Issuer::kubernetes(cluster.api.issuers().remove(0)).keys_json(keys);
    let guard = build(issuer.token_review(setting()).audience(AUDIENCE)).unwrap();
    let mint = |name: &str| {
        let spec = cluster.api.token("shop", name).audience(AUDIENCE);
        spec.issued_at(std::time::SystemTime::now()).mint()
    };
    cluster.api.set_clock(std::time::SystemTime::now);
    cluster
        .api
        .write_pod_volume(&cluster.volume, "shop", "guard")
        .unwrap();
    verify(&guard, &mint("web")).await.unwrap();
    let gone = mint("gone");
    cluster.api.delete_pod("shop", "gone");
    let revoked = VerifyError::InvalidToken(TokenError::TokenRevoked);
    assert_eq!(verify(&guard, &gone).await, Err(revoked));
    assert_eq!(cluster.api.token_reviews(), 2);
}

/// Returns the key set of the cluster.
async fn key_set(cluster: &ReviewingCluster) -> String {
    let ca = reqwest::Certificate::from_pem(cluster.api.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([ca])
        .build();
    let url = format!(
        "https://{}:{}/openid/v1/jwks",
        cluster.api.host(),
        cluster.api.port()
    );
    let request = client
        .unwrap()
        .get(url)
        .bearer_auth(cluster.api.admin_token());
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn recorded_answers_of_real_api_servers_are_understood() {
    let cluster = ReviewingCluster::new().await;
    let revoked = Err(VerifyError::InvalidToken(TokenError::TokenRevoked));
    for (recording, expected) in [
        ("v1.36/rs256/review-right-audience.json", Ok(())),
        ("v1.36/rs256/review-wrong-audience.json", revoked),
        ("v1.36/rs256/review-bad-signature.json", revoked),
        ("v1.36/rs256/review-one-of-two.json", revoked),
        ("v1.20/negotiation/tokenreview-with-the-role.http", Ok(())),
        (
            "v1.20/negotiation/tokenreview-account-deleted.http",
            revoked,
        ),
        ("v1.20/negotiation/tokenreview-bad-signature.http", revoked),
        ("v1.20/negotiation/tokenreview-wrong-audience.http", revoked),
        ("v1.20/negotiation/tokenreview-garbage.http", revoked),
    ] {
        let text = std::fs::read_to_string(recorded_path(recording)).unwrap();
        let body = text.replace("\r\n", "\n");
        let body = match body.split_once("\n\n") {
            Some((_, body)) if recording.ends_with(".http") => body.to_owned(),
            _ => body,
        };
        cluster.api.map_responses(move |request, response| {
            if request.uri().path().ends_with("/tokenreviews") {
                response.map(|_| body.clone())
            } else {
                response
            }
        });
        let guard = cluster.guard(review(WhenUnavailable::Accept));
        let token = cluster
            .api
            .token("id-namespace", "gke-sa")
            .audience(AUDIENCE);
        assert_eq!(verify(&guard, &token.mint()).await, expected, "{recording}");
    }
}

#[cfg(feature = "policy-file")]
#[tokio::test]
async fn a_configuration_file_has_the_settings_and_errors_have_positions() {
    use tower_oidc_guard::{OidcGuardBuilder, PolicyFile};

    let folder = tempfile::tempdir().unwrap();
    for name in ["token", "ca.crt"] {
        std::fs::write(folder.path().join(name), "content").unwrap();
    }
    let path = folder.path().join("guard.yaml");
    let write = |review: &str| {
        let content = format!(
            "allow: [allUsers]\nissuers:\n  - url: https://cluster.example\n    platform: kubernetes\n    audiences: [shop]\n    token_review: {review}\n"
        );
        std::fs::write(&path, content).unwrap();
    };
    let files = format!(
        "api_server: 'https://api.example', token_file: '{0}/token', ca_file: '{0}/ca.crt'",
        folder.path().display()
    );
    write(&format!(
        "{{ when_unavailable: accept, ttl_seconds: 30, time_limit_seconds: 2, max_reviews_per_second: 5, max_concurrent_reviews: 2, max_tokens: 100, {files} }}"
    ));
    let guard = OidcGuardBuilder::from_file(&path)
        .await
        .unwrap()
        .build()
        .unwrap();
    let health = guard.health().remove(0).token_review.unwrap();
    assert_eq!(health.when_unavailable, WhenUnavailable::Accept);
    for (review, expected) in [
        (
            "{ ttl_seconds: 30 }".to_owned(),
            "6:19: the field `when_unavailable` is missing; write `accept`",
        ),
        (
            "{ when_unavailable: acept }".to_owned(),
            "6:39: unknown value of `when_unavailable` \"acept\"; did you mean `accept`?",
        ),
        (
            "{ when_unavailable: refuse, ttl: 30 }".to_owned(),
            "unknown field \"ttl\"",
        ),
        (
            "{ when_unavailable: refuse, ttl_seconds: 0 }".to_owned(),
            "6:19: `ttl` of `token_review` is out of range; expected 1 to 600 s",
        ),
        (
            "{ when_unavailable: refuse, ttl_seconds: '30' }".to_owned(),
            "`ttl_seconds` must be a whole number of seconds",
        ),
        ("~".to_owned(), "`token_review`"),
        ("refuse".to_owned(), "expected fields"),
    ] {
        write(&review);
        let error = PolicyFile::check(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{review}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_diagnosis_tells_what_is_gone_from_a_wrong_api_server_and_an_outage() {
    let cluster = ReviewingCluster::new().await;
    let policy = Policy::members(["system:serviceaccounts:shop"]);
    let builder = cluster.builder(review(WhenUnavailable::Refuse));
    let guard = builder.policy(policy).build().unwrap();
    let check = async |token: &str| {
        let diagnosis = guard.diagnose(token).await;
        let check = diagnosis
            .checks()
            .iter()
            .find(|check| check.name() == "token review");
        let check = check.unwrap();
        (check.result(), check.found().to_owned())
    };
    let token = cluster.token("web");
    assert_eq!(check(&token).await.0, CheckResult::Passed);
    let gone = cluster.token("gone");
    cluster.api.delete_pod("shop", "gone");
    let (result, found) = check(&gone).await;
    let reason = "token_revoked";
    assert_eq!(result, CheckResult::Failed { reason });
    assert!(
        found.contains(
            "no longer exists: [invalid bearer token, service account token has been invalidated]"
        ),
        "{found}"
    );
    let other = cluster.api.token("other", "web").audience(AUDIENCE).mint();
    assert_eq!(check(&other).await.0, CheckResult::NotChecked);
    cluster.api.map_responses(|request, response| {
        if request.uri().path().ends_with("/tokenreviews") {
            let status = json!({ "user": {}, "error": "invalid bearer token" });
            let body = json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status });
            response.map(|_| body.to_string())
        } else {
            response
        }
    });
    let (result, found) = check(&cluster.token("unknown")).await;
    assert_eq!(result, CheckResult::Failed { reason });
    assert!(found.contains("does not recognize the token"), "{found}");
    cluster.api.map_responses(|_, response| response);
    cluster.api.withdraw_token_reviews("shop", "guard");
    let (result, found) = check(&cluster.token("later")).await;
    let reason = "token_review_unavailable";
    assert_eq!(result, CheckResult::Failed { reason });
    assert!(found.contains("system:auth-delegator"), "{found}");
}

#[test]
fn reviews_are_logged_on_change_with_what_to_do_and_without_tokens() {
    let name =
        "token_review_settings::reviews_are_logged_on_change_with_what_to_do_and_without_tokens";
    if !is_child_process() {
        return run_in_child_process(name, &[]);
    }
    let (logs, all) = (BothFormats::default(), BothFormats::default());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let subscribed = logs.subscribe(LevelFilter::INFO);
        let cluster = ReviewingCluster::new().await;
        let settings = review(WhenUnavailable::Accept).max_reviews_per_second(2);
        let guard = cluster.guard(settings.clone());
        let tokens: Vec<_> = (0..5).map(|n| cluster.token(&format!("web-{n}"))).collect();
        verify(&guard, &tokens[0]).await.unwrap();
        assert_eq!(logs.events("the API server reviews tokens").len(), 1);
        cluster.api.withdraw_token_reviews("shop", "guard");
        for _ in 0..120 {
            for token in &tokens {
                verify(&guard, token).await.unwrap();
            }
            pass(&guard, Duration::from_secs(1)).await;
        }
        let failed = logs.events("tokens could not be reviewed");
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(
            failed[0]["consequence"],
            "tokens are accepted without confirmation, those of deleted pods as well"
        );
        assert!(
            failed[0]["error"]
                .as_str()
                .unwrap()
                .contains("kubectl create clusterrolebinding")
        );
        cluster.api.grant_token_reviews("shop", "guard");
        cluster.api.delete_pod("shop", "web-3");
        pass(&guard, Duration::from_secs(60)).await;
        assert_eq!(logs.events("the API server reviews tokens").len(), 2);
        let revoked =
            "token revoked: the pod, service account or node that it is bound to no longer exists";
        let events = logs.events(revoked);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["subject"], "system:serviceaccount:shop:web-3");
        assert_eq!(
            logs.events("a limit on token reviews delays reviews").len(),
            1
        );
        drop(subscribed);

        let _subscribed = all.subscribe(LevelFilter::TRACE);
        let guard = cluster.guard(settings);
        // Time stands still, so that the API server's answer is not too late, and is logged.
        verify(&guard, &tokens[0]).await.unwrap();
        for token in &tokens {
            // The rate delays some of the reviews.
            as_time_passes(verify(&guard, token)).await.ok();
        }
        assert!(!all.events("token reviewed").is_empty());
        for token in &tokens {
            let (_, signature) = token.rsplit_once('.').unwrap();
            assert_absent(signature, &all.plain_text());
            assert_absent(signature, &format!("{guard:?} {:?}", guard.health()));
        }
    });
}

#[cfg(feature = "metrics")]
#[test]
fn reviews_and_unconfirmed_tokens_are_counted() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let cluster = ReviewingCluster::new().await;
            let guard = cluster.guard(review(WhenUnavailable::Accept));
            verify(&guard, &cluster.token("web")).await.unwrap();
            let gone = cluster.token("gone");
            cluster.api.delete_pod("shop", "gone");
            verify(&guard, &gone).await.unwrap_err();
            cluster.api.withdraw_token_reviews("shop", "guard");
            for _ in 0..3 {
                verify(&guard, &cluster.token("later")).await.unwrap();
            }
        });
    });
    let counted: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .filter_map(|(key, _, _, value)| {
            let labels = key.key().labels().filter(|label| label.key() != "issuer");
            let labels: Vec<_> = labels.map(|label| label.value().to_owned()).collect();
            let name = key.key().name().strip_prefix("oidc_guard_token_review")?;
            match value {
                DebugValue::Counter(count) if count > 0 => {
                    Some((format!("{name} {}", labels.join(",")), count))
                }
                _ => None,
            }
        })
        .collect();
    let count = |name: &str| {
        let found = counted.iter().find(|(counted, _)| counted == name);
        found.map(|(_, count)| *count)
    };
    assert_eq!(count("s_total confirmed"), Some(1), "{counted:?}");
    assert_eq!(count("s_total gone"), Some(1), "{counted:?}");
    assert_eq!(count("s_total missing_role"), Some(1), "{counted:?}");
    assert_eq!(count("_unconfirmed_total "), Some(3), "{counted:?}");
}

#[test]
fn a_revoked_token_appears_in_the_audit() {
    use std::sync::{Arc, Mutex};

    let reasons = Arc::new(Mutex::new(Vec::new()));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster = ReviewingCluster::new().await;
        let received = reasons.clone();
        let guard = cluster
            .builder(review(WhenUnavailable::Refuse))
            .any_verified_caller()
            .on_decision(move |event| {
                let subject = event.subject.map(str::to_owned);
                received
                    .lock()
                    .unwrap()
                    .push((event.reason.to_owned(), subject));
            })
            .build()
            .unwrap();
        let token = cluster.token("web");
        cluster.api.delete_pod("shop", "web");
        let rejection = guard.authorize(&token).await.unwrap_err();
        assert_eq!(
            (rejection.reason(), rejection.status().as_u16()),
            ("token_revoked", 401)
        );
        assert_eq!(rejection.error_code(), Some("invalid_token"));
    });
    let subject = Some("system:serviceaccount:shop:web".to_owned());
    assert_eq!(
        *reasons.lock().unwrap(),
        [("token_revoked".to_owned(), subject)]
    );
}
