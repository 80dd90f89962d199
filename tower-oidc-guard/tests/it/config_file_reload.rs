//! Configuration files that are followed whole: issuers, audiences, settings and the policy.
#![cfg(all(feature = "policy-file", unix))]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http::header::WWW_AUTHENTICATE;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use reqwest_wi_auth::testing::Kubelet;
use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{BuildError, Issuer, OidcGuard, OidcGuardBuilder, Policy};

use crate::support::in_memory::{SERVERLESS, send_request, token_status};
use crate::support::logs::CapturedLogs;
use crate::support::mock_client::mock_client;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::Signer;
use crate::support::{
    Body, HEADER, NOW, bearer_request, claims, echo_subject, unix_time, wait_until,
};

/// Issuers in memory, and a configuration file in a volume.
struct Followed {
    issuers: Vec<MemoryIssuer>,
    kubelet: Kubelet,
    _folder: tempfile::TempDir,
}

impl Followed {
    fn new(count: usize) -> Self {
        let issuer = |index| MemoryIssuer::new(format!("https://i{index}.example")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self {
            issuers: (0..count).map(issuer).collect(),
            kubelet: Kubelet::new(folder.path()).unwrap(),
            _folder: folder,
        }
    }

    fn write(&self, content: &str) {
        self.kubelet.write([("guard.yaml", content)]).unwrap();
    }

    async fn builder(&self, content: &str) -> OidcGuardBuilder {
        self.write(content);
        let builder = OidcGuardBuilder::from_file(self.kubelet.path("guard.yaml")).await;
        let client = MemoryIssuer::client_for(&self.issuers);
        builder.unwrap().http_client(client)
    }

    async fn guard(&self, content: &str) -> OidcGuard {
        self.builder(content).await.build().unwrap()
    }

    fn token(&self, issuer: usize, audience: &str) -> String {
        let token = self.issuers[issuer].token().audience(audience);
        token.service_account("shop", "web").mint()
    }

    fn fetches(&self) -> Vec<u64> {
        let issuers = self.issuers.iter();
        issuers.map(MemoryIssuer::key_fetches).collect()
    }
}

/// Returns the entry of an issuer in a file.
fn entry(issuer: usize, audience: &str) -> String {
    format!(
        "  - {{ url: \"https://i{issuer}.example\", platform: kubernetes, audiences: [{audience}] }}\n"
    )
}

/// Returns a file that trusts these issuers for an audience.
fn file(issuers: impl IntoIterator<Item = usize>, audience: &str) -> String {
    let entries: String = issuers
        .into_iter()
        .map(|issuer| entry(issuer, audience))
        .collect();
    format!("issuers:\n{entries}allow: [allAuthenticatedUsers]\n")
}

async fn status(guard: &OidcGuard, token: &str) -> u16 {
    token_status(guard.layer(), token).await
}

fn last_error(guard: &OidcGuard) -> Option<String> {
    let health = guard.policy_health();
    health[0].last_error.as_ref().map(ToString::to_string)
}

#[tokio::test]
async fn changed_audiences_take_effect_for_cached_tokens_too_and_without_a_fetch() {
    let followed = Followed::new(2);
    let guard = followed.guard(&file([0, 1], "a")).await;
    let (layer, verifier) = (guard.layer(), guard.verifier().clone());
    let (for_a, for_b) = (followed.token(0, "a"), followed.token(0, "b"));
    assert_eq!(token_status(layer.clone(), &for_a).await, 200);
    assert_eq!(status(&guard, &followed.token(1, "a")).await, 200);
    assert_eq!(token_status(layer.clone(), &for_b).await, 401);
    followed.write(&format!(
        "issuers:\n{}{}allow: [allAuthenticatedUsers]\n",
        entry(0, "b"),
        entry(1, "a")
    ));
    wait_until(async || token_status(layer.clone(), &for_b).await == 200).await;
    assert_eq!(token_status(layer.clone(), &for_a).await, 401);
    assert!(verifier.verify(&for_a).await.is_err());
    assert!(verifier.verify(&for_b).await.is_ok());
    assert_eq!(status(&guard, &followed.token(1, "a")).await, 200);
    assert_eq!(followed.fetches(), [1, 1]);
}

#[tokio::test]
async fn narrower_settings_of_an_issuer_refuse_tokens_that_are_cached() {
    let with = |more: &str| {
        format!(
            "issuers: [{{ url: \"https://i0.example\", platform: kubernetes, audiences: [a], {more} }}]\nallow: [allAuthenticatedUsers]\n"
        )
    };
    for (narrower, fetches) in [
        ("claims: { tenant: shop }", 1),
        ("token_types: [at+jwt]", 1),
        ("max_lifetime_seconds: 1", 1),
        // Other algorithms need another set of keys.
        ("algorithms: [PS512]", 2),
    ] {
        let followed = Followed::new(1);
        let guard = followed.guard(&with("leeway_seconds: 5")).await;
        let token = followed.token(0, "a");
        assert_eq!(status(&guard, &token).await, 200);
        followed.write(&with(narrower));
        wait_until(async || status(&guard, &token).await == 401).await;
        assert_eq!(followed.fetches(), [fetches], "{narrower}");
    }
}

#[tokio::test]
async fn issuers_are_added_and_removed_everywhere() {
    let followed = Followed::new(2);
    let resource = "protected_resource: https://orders.example\n";
    let content = |issuers: &[usize]| file(issuers.iter().copied(), "a") + resource;
    let guard = followed.guard(&content(&[0])).await;
    let (layer, readiness) = (guard.layer(), guard.readiness());
    let own = guard
        .layer_with(Policy::members(["system:serviceaccounts"]).audience("a"))
        .unwrap();
    let metadata = guard.resource_metadata().unwrap();
    guard.ready().await.unwrap();
    let tokens = [followed.token(0, "a"), followed.token(1, "a")];
    let servers = async || {
        let request = Request::new(Body::default());
        let response = metadata.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        document["authorization_servers"].as_array().unwrap().len()
    };
    assert_eq!((servers().await, guard.health().len()), (1, 1));
    // A layer with members of the only Kubernetes cluster does not fit two of them.
    drop(own);
    followed.write(&content(&[0, 1]));
    wait_until(async || token_status(layer.clone(), &tokens[1]).await == 200).await;
    assert_eq!(token_status(layer.clone(), &tokens[0]).await, 200);
    assert_eq!((servers().await, guard.health().len()), (2, 2));
    followed.write(&content(&[1]));
    wait_until(async || token_status(layer.clone(), &tokens[0]).await == 401).await;
    assert_eq!(token_status(layer.clone(), &tokens[1]).await, 200);
    assert_eq!((servers().await, guard.health().len()), (1, 1));
    let probe = readiness.oneshot(Request::new(())).await.unwrap();
    assert_eq!(probe.status(), 200);
    assert_eq!(followed.fetches(), [1, 1]);
}

#[tokio::test]
async fn the_policy_and_the_issuers_change_together() {
    let followed = Followed::new(2);
    let of = |issuer: usize| {
        format!(
            "issuers:\n{}allow: [{{ issuer: \"https://i{issuer}.example\", members: [\"system:serviceaccounts:shop\"] }}]\n",
            entry(issuer, "a")
        )
    };
    let guard = followed.guard(&of(0)).await;
    let tokens = [followed.token(0, "a"), followed.token(1, "a")];
    let caller = guard.verifier().verify(&tokens[0]).await.unwrap();
    assert!(guard.policy().explain(&caller).is_allowed());
    followed.write(&of(1));
    wait_until(async || status(&guard, &tokens[1]).await == 200).await;
    assert_eq!(status(&guard, &tokens[0]).await, 401);
    assert!(!guard.policy().explain(&caller).is_allowed());
}

#[tokio::test]
async fn a_change_that_does_not_fit_a_layer_is_rejected_as_a_whole() {
    let followed = Followed::new(2);
    let guard = followed.guard(&file([0, 1], "a")).await;
    let of_second = "principal:https://i1.example#system:serviceaccount:shop:web";
    let layer = guard.layer_with(Policy::members([of_second])).unwrap();
    let tokens = [followed.token(0, "a"), followed.token(1, "a")];
    assert_eq!(token_status(layer.clone(), &tokens[0]).await, 403);
    assert_eq!(token_status(layer.clone(), &tokens[1]).await, 200);
    followed.write(&file([0], "b"));
    wait_until(async || last_error(&guard).is_some()).await;
    let error = last_error(&guard).unwrap();
    let expected =
        "line 1, column 1: the policy of a layer (`OidcGuard::layer_with`) does not fit: ";
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("https://i1.example"), "{error}");
    assert_eq!(token_status(layer.clone(), &tokens[1]).await, 200);
    assert_eq!(status(&guard, &tokens[0]).await, 200);
    // Without the layer, the same content fits.
    drop(layer);
    followed.write(&format!("{}# again\n", file([0], "b")));
    wait_until(async || status(&guard, &tokens[0]).await == 401).await;
    wait_until(async || last_error(&guard).is_none()).await;
}

#[tokio::test]
async fn layers_with_a_policy_follow_the_issuers() {
    let followed = Followed::new(1);
    let guard = followed.guard(&file([0], "a")).await;
    let shop = Policy::members(["system:serviceaccounts:shop"]);
    let bank = Policy::members(["system:serviceaccounts:bank"]);
    let (shop, bank) = (
        guard.layer_with(shop).unwrap(),
        guard.layer_with(bank).unwrap(),
    );
    let token = followed.token(0, "b");
    assert_eq!(token_status(shop.clone(), &token).await, 401);
    followed.write(&file([0], "b"));
    wait_until(async || token_status(shop.clone(), &token).await == 200).await;
    assert_eq!(token_status(bank.clone(), &token).await, 403);
    let late = Policy::members(["system:serviceaccounts:shop"]).audience("b");
    let late = guard.layer_with(late).unwrap();
    assert_eq!(token_status(late, &token).await, 200);
}

#[tokio::test]
async fn content_that_cannot_take_effect_changes_nothing_and_is_reported_with_its_position() {
    let followed = Followed::new(1);
    let guard = followed
        .builder(&file([0], "a"))
        .await
        .strip_token()
        .build()
        .unwrap();
    let token = followed.token(0, "a");
    assert_eq!(status(&guard, &token).await, 200);
    let valid = file([0], "b");
    for (content, expected) in [
        ("allow: [".to_owned(), "line 1, column"),
        ("allow: []\n".to_owned(), "no issuer is configured"),
        (
            format!("{valid}relam: x\n"),
            "line 4, column 1: unknown field \"relam\"; did you mean \"realm\"?",
        ),
        (
            format!("{valid}realm: \"caf\u{e9}\"\n"),
            "line 4, column 1: `realm` is",
        ),
        (
            format!("{valid}max_token_bytes: 7\n"),
            "line 4, column 1: `max_token_bytes` is 7",
        ),
        (
            format!("{valid}cache: {{ tokens: 0, bytes: 1 }}\n"),
            "line 4, column 1: `cache(0, 1)` cannot hold any token",
        ),
        (
            format!("{valid}ready_when: [\"https://other.example\"]\n"),
            "line 4, column 1: `ready_when` cannot be satisfied",
        ),
        (
            format!("{valid}ready_when: sometimes\n"),
            "line 4, column 13: `ready_when` must be `all-issuers`, `any-issuer` or a list of issuers",
        ),
        (
            format!("{valid}token_from: [\"a b\"]\n"),
            "line 4, column 14: \"a b\" is not the name of a header",
        ),
        (
            format!("{valid}without_cache: true\ncache: {{ tokens: 1, bytes: 100 }}\n"),
            "line 4, column 1: `cache` and `without_cache` are both set; remove one",
        ),
        (
            format!("{valid}strip_token: true\n"),
            "line 4, column 1: `strip_token` is set in code and in the configuration file; remove one of them",
        ),
        (
            format!("{valid}protected_resource: https://orders.example\n"),
            "line 4, column 1: `protected_resource` cannot be added or removed",
        ),
        (
            format!("issuers:\n{}{}allow: []\n", entry(0, "b"), entry(0, "c")),
            "line 3, column 5: issuer \"https://i0.example\" is configured twice",
        ),
        (
            format!(
                "issuers:\n{}allow: []\n",
                entry(0, "\"https://kubernetes.default.svc\"")
            ),
            "the Kubernetes API server's own",
        ),
        (
            format!(
                "issuers:\n{}allow: [\"user:jane@example.com\"]\n",
                entry(0, "b")
            ),
            "line 3, column 9: the policy has members of Google",
        ),
        (format!("{valid}audiences: [c]\n"), "line 4, column 13: "),
    ] {
        followed.write(&content);
        wait_until(async || last_error(&guard).is_some_and(|error| error.contains(expected))).await;
        assert_eq!(status(&guard, &token).await, 200, "{content}");
    }
    followed.write(&valid);
    wait_until(async || status(&guard, &token).await == 401).await;
    wait_until(async || last_error(&guard).is_none()).await;
}

#[tokio::test]
async fn the_settings_of_the_guard_follow_the_file() {
    let followed = Followed::new(1);
    let base = file([0], "a");
    let guard = followed.guard(&base).await;
    let token = followed.token(0, "a");
    let layer = guard.layer();
    let anonymous = async || send_request(layer.clone(), Request::new(Body::default())).await;
    assert_eq!(anonymous().await.status(), 401);
    let challenge = async || {
        let response = send_request(layer.clone(), bearer_request("not.a.token")).await;
        let challenge = response.headers().get(WWW_AUTHENTICATE);
        challenge.map(|challenge| challenge.to_str().unwrap().to_owned())
    };
    followed.write(&format!(
        "{base}realm: orders\nwithout_error_description: true\n"
    ));
    let expected = "Bearer realm=\"orders\", error=\"invalid_token\"".to_owned();
    wait_until(async || challenge().await.as_ref() == Some(&expected)).await;
    followed.write(&format!("{base}allow_missing_token: true\n"));
    wait_until(async || anonymous().await.status() == 200).await;
    assert!(challenge().await.unwrap().contains("realm=\"protected\""));
    followed.write(&format!("{base}token_from: [x-serverless-authorization]\n"));
    wait_until(async || token_status(layer.clone(), &token).await == 401).await;
    let request = Request::get("/").header(SERVERLESS, format!("Bearer {token}"));
    let request = request.body(Body::default()).unwrap();
    assert_eq!(send_request(layer.clone(), request).await.status(), 200);
    followed.write(&format!("{base}max_token_bytes: 1024\n"));
    wait_until(async || token_status(layer.clone(), &token).await == 200).await;
    assert_eq!(token_status(layer.clone(), &"x".repeat(1025)).await, 401);
    followed.write(&base);
    wait_until(async || anonymous().await.status() == 401).await;
    assert_eq!(followed.fetches(), [1]);
}

#[tokio::test]
async fn a_setting_in_code_and_in_the_file_does_not_build() {
    let followed = Followed::new(1);
    let base = file([0], "a");
    let builder = followed.builder(&format!("{base}realm: orders\n")).await;
    let error = builder.clone().realm("shop").build().unwrap_err();
    assert!(
        matches!(error, BuildError::SettingInFile { setting: "realm" }),
        "{error}"
    );
    assert!(builder.allow_missing_token().build().is_ok());
}

#[tokio::test]
async fn functions_and_issuers_in_code_stay() {
    let followed = Followed::new(2);
    let in_code = Issuer::kubernetes("https://i1.example")
        .require(|claims| claims.get("iss").is_some())
        .audience("code");
    let decisions = Arc::new(AtomicU64::new(0));
    let counted = decisions.clone();
    let guard = followed
        .builder(&file([0], "a"))
        .await
        .issuer(in_code)
        .on_decision(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let tokens = [followed.token(0, "b"), followed.token(1, "code")];
    assert_eq!(status(&guard, &tokens[1]).await, 200);
    followed.write(&file([0], "b"));
    wait_until(async || status(&guard, &tokens[0]).await == 200).await;
    let before = decisions.load(Ordering::Relaxed);
    assert_eq!(status(&guard, &tokens[1]).await, 200);
    assert_eq!(decisions.load(Ordering::Relaxed), before + 1);
    assert_eq!(followed.fetches(), [1, 1]);
}

#[tokio::test]
async fn a_request_that_waits_for_keys_is_decided_by_the_settings_it_began_with() {
    let followed = Followed::new(2);
    let guard = followed.guard(&file([0, 1], "a")).await;
    let token = followed.token(0, "a");
    let mut waiting = pin!(status(&guard, &token));
    poll_fn(|cx| {
        assert!(
            waiting.as_mut().poll(cx).is_pending(),
            "the keys have not been fetched"
        );
        Poll::Ready(())
    })
    .await;
    followed.write(&file([1], "a"));
    wait_until(async || status(&guard, &token).await == 401).await;
    assert_eq!(waiting.await, 200);
}

#[tokio::test]
async fn a_new_issuer_without_keys_affects_no_other_request_and_not_the_readiness() {
    let followed = Followed::new(2);
    let guard = followed.guard(&file([0], "a")).await;
    guard.ready().await.unwrap();
    followed.issuers[1].fail(http::StatusCode::INTERNAL_SERVER_ERROR);
    followed.write(&file([0, 1], "a"));
    wait_until(async || guard.health().len() == 2).await;
    assert!(guard.is_ready());
    assert_eq!(status(&guard, &followed.token(0, "a")).await, 200);
    assert_eq!(status(&guard, &followed.token(1, "a")).await, 503);
    let probe = guard.readiness().oneshot(Request::new(())).await.unwrap();
    assert_eq!(probe.status(), 200);
    assert!(!guard.health()[1].is_required);
    // An issuer that had no keys at the start is required.
    let unready = followed.guard(&file([1], "a")).await;
    followed.write(&file([1], "b"));
    let token = followed.token(1, "b");
    wait_until(async || status(&unready, &token).await == 503).await;
    assert!(!unready.is_ready());
}

#[tokio::test]
async fn a_guard_is_not_ready_without_the_keys_of_any_issuer() {
    let followed = Followed::new(1);
    let with = |more: &str| {
        format!(
            "issuers: [{{ url: \"https://i0.example\", platform: kubernetes, audiences: [a]{more} }}]\nallow: [allAuthenticatedUsers]\n"
        )
    };
    let guard = followed.guard(&with("")).await;
    guard.ready().await.unwrap();
    followed.write(&with(", jwks_url: \"https://unknown.example/keys\""));
    wait_until(async || !guard.is_ready()).await;
    assert!(guard.health()[0].is_required);
    assert!(guard.ready().await.is_err());
    assert_eq!(status(&guard, &followed.token(0, "a")).await, 503);
    followed.write(&with(""));
    wait_until(async || guard.ready().await.is_ok()).await;
    assert_eq!(status(&guard, &followed.token(0, "a")).await, 200);
}

#[tokio::test]
async fn keys_are_used_further_if_only_the_limits_of_fetches_change() {
    let followed = Followed::new(1);
    let with = |more: &str| {
        format!(
            "issuers: [{{ url: \"https://i0.example\", platform: kubernetes, audiences: [a], {more} }}]\nallow: [allAuthenticatedUsers]\nrealm: \"{more}\"\n"
        )
    };
    let guard = followed.guard(&with("fetch_timeout_seconds: 9")).await;
    guard.ready().await.unwrap();
    let hash = || guard.health()[0].key_set_hash.clone();
    let before = hash();
    followed.issuers[0].fail(http::StatusCode::INTERNAL_SERVER_ERROR);
    for more in [
        "stale_after_seconds: 9999",
        "fetch_timeout_seconds: 3",
        "max_document_bytes: 99999",
        "max_keys: 7",
        "unknown_key_jitter_seconds: 1",
    ] {
        followed.write(&with(more));
        let challenge = async || {
            let response = send_request(guard.layer(), bearer_request("x")).await;
            format!("{:?}", response.headers().get(WWW_AUTHENTICATE))
        };
        wait_until(async || challenge().await.contains(more)).await;
        assert_eq!(status(&guard, &followed.token(0, "a")).await, 200, "{more}");
        assert!(guard.is_ready());
        assert_eq!(hash(), before);
    }
    followed.issuers[0].recover();
}

#[tokio::test]
async fn the_tasks_of_a_removed_issuer_end_and_those_of_a_dropped_guard_too() {
    let followed = Followed::new(3);
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    // The timer of the summary is a task as well.
    let builder = followed.builder(&file([0], "a")).await;
    let guard = builder.without_refusal_summary().build().unwrap();
    guard.ready().await.unwrap();
    wait_until(async || metrics.num_alive_tasks() <= before + 2).await;
    let with_one = metrics.num_alive_tasks();
    for _ in 0..3 {
        followed.write(&file([0, 1, 2], "a"));
        wait_until(async || status(&guard, &followed.token(2, "a")).await == 200).await;
        followed.write(&file([0], "a"));
        wait_until(async || status(&guard, &followed.token(2, "a")).await == 401).await;
    }
    wait_until(async || metrics.num_alive_tasks() == with_one).await;
    let layer = guard.layer();
    drop(guard);
    followed.write(&file([0], "b"));
    wait_until(async || token_status(layer.clone(), &followed.token(0, "b")).await == 200).await;
    drop(layer);
    wait_until(async || metrics.num_alive_tasks() == before).await;
}

#[tokio::test]
async fn a_change_is_logged_with_its_differences() {
    if !is_child_process() {
        return run_in_child_process(
            "config_file_reload::a_change_is_logged_with_its_differences",
            &[],
        );
    }
    let logs = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .without_time()
        .with_writer(logs.clone())
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let followed = Followed::new(2);
    let _guard = followed.guard(&file([0], "a")).await;
    let wider = "configuration changed: the guard may admit callers that it did not admit before";
    let members = "allow: [allAuthenticatedUsers]\n";
    for (content, message, changes) in [
        (
            file([0, 1], "a") + "realm: shop\n",
            wider,
            "changes=\"+ issuer https://i1.example (audiences: a), realm: default -> shop\" widened_by=\"+ issuer https://i1.example (audiences: a)\"",
        ),
        (
            file([0], "a"),
            "configuration changed",
            "changes=\"- issuer https://i1.example (its tokens get 401), realm: shop -> default\"",
        ),
        (
            format!(
                "issuers: [{{ url: \"https://i0.example\", platform: kubernetes, audiences: [b], leeway_seconds: 90, claims: {{ tenant: secret }} }}]\n{members}"
            ),
            wider,
            "changes=\"issuer https://i0.example: audiences: + b, issuer https://i0.example: audiences: - a, issuer https://i0.example: leeway_seconds: default -> 90, issuer https://i0.example: claims: + tenant\" widened_by=",
        ),
        (
            format!(
                "issuers: [{{ url: \"https://i0.example\", platform: kubernetes, audiences: [b], leeway_seconds: 9, max_lifetime_seconds: 60, claims: {{ tenant: secret }} }}]\n{members}"
            ),
            "configuration changed",
            "changes=\"issuer https://i0.example: leeway_seconds: 90 -> 9, issuer https://i0.example: max_lifetime_seconds: none -> 60\"",
        ),
        (
            format!(
                "issuers: [{{ url: \"https://i0.example\", platform: kubernetes, audiences: [b], leeway_seconds: 9, max_lifetime_seconds: 60, claims: {{ tenant: secret }} }}]\n{members}allow_missing_token: true\n"
            ),
            wider,
            "widened_by=\"allow_missing_token: default -> true\"",
        ),
    ] {
        logs.clear();
        followed.write(&content);
        wait_until(async || logs.text().contains("configuration changed")).await;
        let text = logs.text();
        let line = text
            .lines()
            .find(|line| line.contains("configuration changed"))
            .unwrap();
        let level = if message == wider { "WARN" } else { "INFO" };
        let start = format!("{level} tower_oidc_guard::telemetry: {message} path=");
        assert!(line.trim_start().starts_with(&start), "{line}");
        assert!(line.contains(changes), "{line}\n{changes}");
        assert!(!text.contains("secret"), "{text}");
    }
    // What means the same is no change.
    logs.clear();
    let error = "configuration changed";
    followed.write("allow: [nobody");
    wait_until(async || logs.text().contains("keeping the previous")).await;
    assert!(!logs.text().contains(error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_100_issuers_is_changed_under_load_without_a_failed_request() {
    const ISSUERS: usize = 100;
    const CHANGED: usize = 42;
    // One key for all issuers, because the generation of 100 takes long.
    let signer = Signer::new();
    let key_set = json!({ "keys": [signer.jwk()] }).to_string();
    let fetches = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let counted = fetches.clone();
    let client = mock_client(move |request| {
        let url = request.url().to_string();
        *counted.lock().unwrap().entry(url).or_default() += 1;
        Response::new(key_set.clone().into_bytes())
    });
    let token = |issuer: usize, audience: &str| {
        let iss = format!("https://i{issuer}.example");
        signer.sign(HEADER, &claims(json!({ "iss": iss, "aud": audience })))
    };
    let content = |audiences: &str| {
        let entries: String = (0..ISSUERS)
            .map(|issuer| {
                let audiences = if issuer == CHANGED { audiences } else { "a" };
                format!(
                    "  - {{ url: \"https://i{issuer}.example\", jwks_url: \"https://i{issuer}.example/keys\", algorithms: [ES256], audiences: [{audiences}] }}\n"
                )
            })
            .collect();
        format!("issuers:\n{entries}allow: [allAuthenticatedUsers]\n")
    };
    let followed = Followed::new(0);
    followed.write(&content("a"));
    let guard = OidcGuardBuilder::from_file(followed.kubelet.path("guard.yaml"))
        .await
        .unwrap()
        .http_client(client)
        .clock(|| unix_time(NOW))
        .build()
        .unwrap();
    guard.ready().await.unwrap();
    let before = fetches.lock().unwrap().clone();
    assert_eq!(before.len(), ISSUERS);
    assert!(before.values().all(|count| *count == 1), "{before:?}");
    let tokens: Arc<Vec<_>> = Arc::new((0..ISSUERS).map(|issuer| token(issuer, "a")).collect());
    let is_done = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..300)
        .map(|client| {
            let (layer, tokens) = (guard.layer(), tokens.clone());
            let (is_done, sent) = (is_done.clone(), sent.clone());
            tokio::spawn(async move {
                // Hundreds of requests are in flight at any time.
                let service = layer.layer(service_fn(async |request| {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    echo_subject(request).await
                }));
                let (mut failed, mut index) = (0, client);
                while !is_done.load(Ordering::Relaxed) {
                    index += 1;
                    let request = bearer_request(&tokens[index % ISSUERS]);
                    let response = service.clone().oneshot(request).await.unwrap();
                    failed += u64::from(response.status() != 200);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                failed
            })
        })
        .collect();
    for change in 0..21 {
        let audience = format!("change{change}");
        followed.write(&content(&format!("a, {audience}")));
        let token = token(CHANGED, &audience);
        wait_until(async || guard.verifier().verify(&token).await.is_ok()).await;
    }
    is_done.store(true, Ordering::Relaxed);
    for client in clients {
        assert_eq!(client.await.unwrap(), 0, "requests have failed");
    }
    assert!(sent.load(Ordering::Relaxed) >= 300);
    let after = fetches.lock().unwrap().clone();
    assert_eq!(after, before, "no keys were fetched again");
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_of_a_change() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    if !is_child_process() {
        return run_in_child_process("config_file_reload::metrics_of_a_change", &[]);
    }
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // The file is read on another thread.
    recorder.install().unwrap();
    // Counters begin at zero again after each snapshot.
    let snapshot = || {
        let all = snapshotter.snapshot().into_vec().into_iter();
        let named = all.map(|(key, _, _, value)| {
            let labels = key.key().labels().map(|label| label.value().to_owned());
            let labels: Vec<_> = labels.collect();
            (format!("{} {}", key.key().name(), labels.join(" ")), value)
        });
        named.collect::<Vec<_>>()
    };
    let find = |all: &[(String, DebugValue)], name: &str| {
        let mut all = all.iter();
        let (_, value) = all.find(|(own, _)| own.trim() == name)?;
        match value {
            DebugValue::Counter(count) => Some(*count as f64),
            DebugValue::Gauge(value) => Some(value.into_inner()),
            DebugValue::Histogram(values) => Some(values.len() as f64),
        }
    };
    let followed = Followed::new(3);
    let guard = followed.guard(&file([0, 1, 2], "a")).await;
    guard.ready().await.unwrap();
    let tokens: Vec<_> = (0..3).map(|issuer| followed.token(issuer, "a")).collect();
    for token in &tokens {
        assert_eq!(status(&guard, token).await, 200);
    }
    let before = snapshot();
    assert_eq!(find(&before, "oidc_guard_config_reads_total ok"), Some(1.0));
    assert_eq!(
        find(&before, "oidc_guard_usable_keys https://i2.example"),
        Some(1.0)
    );
    // The first issuer stays, the second gets another audience, and the third is removed.
    followed.write(&format!(
        "issuers:\n{}{}allow: [allAuthenticatedUsers]\n",
        entry(0, "a"),
        entry(1, "a, b")
    ));
    wait_until(async || guard.health().len() == 2).await;
    let after = snapshot();
    for gauge in [
        "usable_keys",
        "keys_last_success_timestamp_seconds",
        "keys_stale_timestamp_seconds",
        "keys_age_seconds",
        "key_set_hash",
    ] {
        let value = |issuer: usize| {
            find(
                &after,
                &format!("oidc_guard_{gauge} https://i{issuer}.example"),
            )
            .unwrap()
        };
        assert!(value(2).is_nan(), "{gauge}");
        assert!(!value(0).is_nan() && !value(1).is_nan(), "{gauge}");
    }
    for token in &tokens[..2] {
        assert_eq!(status(&guard, token).await, 200);
    }
    let used = snapshot();
    assert_eq!(
        find(&used, "oidc_guard_cache_hits_total"),
        Some(1.0),
        "of the issuer that stays"
    );
    assert_eq!(
        find(&used, "oidc_guard_verification_seconds"),
        Some(1.0),
        "of the other one"
    );
    followed.write("allow: [nobody");
    wait_until(async || last_error(&guard).is_some()).await;
    assert!(find(&snapshot(), "oidc_guard_config_reads_total failed") >= Some(1.0));
}
