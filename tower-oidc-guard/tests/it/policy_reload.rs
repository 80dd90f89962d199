//! Log events of reloaded policy files, and the status of files in the policies of layers.
#![cfg(all(feature = "policy-file", unix))]

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::{Issuer, OidcGuard, Policy, PolicyFile};
use tracing::subscriber::DefaultGuard;

use crate::support::in_memory::{cluster, guard_builder};
use crate::support::logs::CapturedLogs;
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::wait_until;

const GOOGLE_WARNING: &str = "the policy allows allAuthenticatedUsers, and Google is a trusted issuer: anyone on the internet can get such a token";
const DENY_WARNING: &str = "the policy allows allUsers and has a deny list: requests without a token are rejected, because a denied caller could leave its token out";

/// A policy file in a volume, and everything that is logged while it is used.
struct Reloads {
    kubelet: Kubelet,
    file: PolicyFile,
    logs: CapturedLogs,
    _subscribed: DefaultGuard,
    _folder: tempfile::TempDir,
}

impl Reloads {
    async fn start(content: &str) -> Self {
        let logs = CapturedLogs::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_writer(logs.clone())
            .finish();
        let subscribed = tracing::subscriber::set_default(subscriber);
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet.write([("shop.yaml", content)]).unwrap();
        let file = PolicyFile::open(kubelet.path("shop.yaml")).await.unwrap();
        Self {
            kubelet,
            file,
            logs,
            _subscribed: subscribed,
            _folder: folder,
        }
    }

    /// Replaces the file, waits until it was read, and returns the lines that were logged.
    async fn write(&self, content: &str) -> Vec<String> {
        self.logs.clear();
        // Content that is not valid, and different each time, is always logged.
        static MARKERS: AtomicU64 = AtomicU64::new(0);
        let marker = MARKERS.fetch_add(1, Ordering::Relaxed);
        let marker = format!("allow: [\"{marker}\"]\n");
        let error = || self.file.health().last_error.map(|error| error.to_string());
        let before = error();
        self.kubelet.rotate("shop.yaml", &marker).unwrap();
        wait_until(async || error().is_some() && error() != before).await;
        let marked = error();
        wait_until(async || self.logs.text().contains("has no known form")).await;
        self.logs.clear();
        self.kubelet.rotate("shop.yaml", content).unwrap();
        wait_until(async || error() != marked && !self.logs.text().is_empty()).await;
        let path = self.file.path().display().to_string();
        let text = self.logs.text().replace(&path, "shop.yaml");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

fn narrower(changes: &str) -> String {
    format!("INFO tower_oidc_guard::telemetry: policy changed path=shop.yaml changes=\"{changes}\"")
}

fn wider(changes: &str, widened_by: &str) -> String {
    format!(
        "WARN tower_oidc_guard::telemetry: policy changed: it may allow callers that it did not allow before path=shop.yaml changes=\"{changes}\" widened_by=\"{widened_by}\""
    )
}

#[tokio::test]
async fn each_accepted_change_is_one_event_that_says_what_changed() {
    if !is_child_process() {
        return run_in_child_process(
            "policy_reload::each_accepted_change_is_one_event_that_says_what_changed",
            &[],
        );
    }
    let reloads = Reloads::start("allow: [\"system:serviceaccount:shop:web\"]\n").await;
    assert_eq!(reloads.logs.text(), "", "the first content is no change");
    let recovered = "INFO reqwest_wi_auth::telemetry: file loaded again after an error; its content has not changed path=shop.yaml";
    for (content, expected) in [
        (
            "# Shop\nallow:\n  - 'system:serviceaccount:shop:web'\n  - system:serviceaccount:shop:web\n",
            recovered.to_owned(),
        ),
        (
            "allow: [allUsers]\ndeny: [\"system:serviceaccount:shop:legacy\"]\naudiences: [a]\nclaims: { hd: example.com }\n",
            wider(
                "+ allUsers, - system:serviceaccount:shop:web, + deny system:serviceaccount:shop:legacy, audiences: any -> a, claims: + hd example.com",
                "+ allUsers",
            ),
        ),
        (
            "allow: [allUsers]\naudiences: [a, \"https://b\"]\nclaims: { hd: example.org }\n",
            wider(
                "- deny system:serviceaccount:shop:legacy, audiences: + https://b, claims: hd example.com -> example.org",
                "- deny system:serviceaccount:shop:legacy, audiences: + https://b, claims: hd example.com -> example.org",
            ),
        ),
        (
            "allow: []\naudiences: [a]\nclaims: { hd: example.org, n: 1 }\n",
            narrower("- allUsers, audiences: - https://b, claims: + n 1"),
        ),
        (
            "allow: []\n",
            narrower("audiences: a -> any, claims: - hd example.org, claims: - n 1"),
        ),
        (
            "allow: [allUsers, \"system:serviceaccounts:shop\"]\ndeny: [\"system:serviceaccount:shop:legacy\"]\n",
            wider(
                "+ allUsers, + system:serviceaccounts:shop, + deny system:serviceaccount:shop:legacy",
                "+ allUsers, + system:serviceaccounts:shop",
            ),
        ),
        (
            "allow: [\"system:serviceaccount:shop:web\"]\n",
            narrower(
                "+ system:serviceaccount:shop:web, - allUsers, - system:serviceaccounts:shop, - deny system:serviceaccount:shop:legacy",
            ),
        ),
        ("allow: []\n", narrower("- system:serviceaccount:shop:web")),
        (
            "allow: []\nissuers: [{ platform: google, audiences: [a] }]\n",
            narrower("issuers changed (no effect until a restart)"),
        ),
    ] {
        assert_eq!(reloads.write(content).await, [expected], "{content}");
    }
}

#[tokio::test]
async fn warnings_about_wide_policies_are_repeated_at_reloads() {
    if !is_child_process() {
        return run_in_child_process(
            "policy_reload::warnings_about_wide_policies_are_repeated_at_reloads",
            &[],
        );
    }
    let reloads = Reloads::start("allow: []\n").await;
    let guard = OidcGuard::builder()
        .issuer(Issuer::google().audience("a"))
        .policy(Policy::any_of([
            reloads.file.policy(),
            Policy::members(["user:jane@example.com"]),
        ]))
        .build()
        .unwrap();
    let layers: Vec<_> = (0..3)
        .map(|_| guard.layer_with(reloads.file.policy()).unwrap())
        .collect();
    let narrow = guard
        .layer_with(reloads.file.policy().require_claim("hd", "example.com"))
        .unwrap();
    let warning = |text: &str| format!("WARN tower_oidc_guard::telemetry: {text} path=shop.yaml");
    let lines = reloads.write("allow: [allAuthenticatedUsers]\n").await;
    let changed = wider("+ allAuthenticatedUsers", "+ allAuthenticatedUsers");
    assert_eq!(lines, [changed, warning(GOOGLE_WARNING)]);
    let lines = reloads
        .write("allow: [allUsers]\ndeny: [\"user:a@example.com\"]\n")
        .await;
    let changed = wider(
        "+ allUsers, - allAuthenticatedUsers, + deny user:a@example.com",
        "+ allUsers",
    );
    assert_eq!(lines, [changed, warning(DENY_WARNING)]);
    drop((guard, layers));
    let lines = reloads.write("allow: [allAuthenticatedUsers]\n").await;
    assert_eq!(lines.len(), 1, "only the narrowed layer is left: {lines:?}");
    drop(narrow);
}

#[tokio::test]
async fn each_different_error_is_a_warning_once() {
    if !is_child_process() {
        return run_in_child_process("policy_reload::each_different_error_is_a_warning_once", &[]);
    }
    let reloads = Reloads::start("allow: []\n").await;
    let guard = guard_builder(&cluster())
        .policy(reloads.file.policy())
        .build()
        .unwrap();
    let errors = [
        (
            "allow: [gke-sa]\n",
            "line 1, column 9: the member \\\"gke-sa\\\" has no known form",
        ),
        (
            "allow:\n\t- a\n",
            "line 2, column 2: the line is indented with a tab; use spaces",
        ),
        (
            "allwo: []\n",
            "line 1, column 1: unknown field \\\"allwo\\\"; did you mean \\\"allow\\\"?",
        ),
        (
            "allow:\n- user:jane@example.com\n",
            "line 2, column 3: the policy has members of Google, and no trusted issuer is of that platform",
        ),
    ];
    // Each is written twice: the second time it is not logged again.
    for (content, text) in errors.iter().chain(&errors) {
        reloads.kubelet.rotate("shop.yaml", content).unwrap();
        let plain = text.replace('\\', "");
        let is_reported = async || {
            let error = guard.policy_health()[0].last_error.clone();
            error.is_some_and(|error| error.to_string().contains(&plain))
        };
        wait_until(is_reported).await;
    }
    reloads.kubelet.rotate("shop.yaml", "allow: []\n").unwrap();
    wait_until(async || reloads.logs.text().contains("loaded again")).await;
    let logged = reloads.logs.text();
    let lines: Vec<_> = logged.lines().collect();
    assert_eq!(lines.len(), errors.len() + 1, "{logged}");
    for (line, (_, text)) in lines.iter().zip(errors) {
        assert!(line.trim().starts_with("WARN"), "{line}");
        assert!(
            line.contains(text) || line.contains(&text.replace('\\', "")),
            "{line}"
        );
    }
    assert!(lines[errors.len()].trim().starts_with("INFO"), "{logged}");
}

#[tokio::test]
async fn files_of_layers_are_in_policy_health_as_long_as_the_layer_exists() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut files = Vec::new();
    for name in ["own", "layer", "nested"] {
        std::fs::write(path(name), "allow: []\n").unwrap();
        files.push(PolicyFile::open(path(name)).await.unwrap());
    }
    let [own, of_layer, nested] = files.try_into().unwrap_or_else(|_| panic!("three files"));
    let guard = guard_builder(&cluster())
        .policy(own.policy())
        .build()
        .unwrap();
    let paths = || {
        let health = guard.policy_health().into_iter();
        let names = health.map(|file| {
            file.path
                .file_name()
                .unwrap()
                .to_owned()
                .into_string()
                .unwrap()
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(paths(), ["own"]);
    let layer = guard.layer_with(of_layer.policy()).unwrap();
    let again = guard.layer_with(Policy::any_of([
        of_layer.policy(),
        own.policy(),
        nested.policy().audience("x"),
    ]));
    assert!(again.is_err(), "no issuer accepts the audience");
    assert_eq!(paths(), ["own", "layer"]);
    let again = guard
        .clone()
        .layer_with(Policy::any_of([
            of_layer.policy(),
            own.policy(),
            nested.policy(),
        ]))
        .unwrap();
    assert_eq!(paths(), ["own", "layer", "nested"]);
    // A service keeps its layer's policy.
    let service = tower::Layer::layer(&layer, ());
    drop(layer);
    drop(again);
    assert_eq!(paths(), ["own", "layer"]);
    std::fs::write(path("layer"), "allow: [x]\n").unwrap();
    let has_error = async || {
        let health = guard.policy_health();
        health
            .iter()
            .any(|file| file.path.ends_with("layer") && file.last_error.is_some())
    };
    wait_until(has_error).await;
    drop(service);
    assert_eq!(paths(), ["own"]);
}
