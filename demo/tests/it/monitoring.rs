//! The dashboard and the alert rules name only metrics and labels that the libraries record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest_middleware::ClientBuilder;
use reqwest_wi_auth::testing::{FakeGoogle, FakeMetadataServer, Kubelet};
use reqwest_wi_auth::{
    BearerAuth, Error, FixedToken, GoogleFederation, MetadataServer, ProjectedToken, Token,
    TokenSource,
};
use serde_json::Value;
use tower_oidc_guard::testing::{FakeApiServer, MemoryIssuer};
use tower_oidc_guard::{
    OidcGuard, OidcGuardBuilder, Policy, PolicyFile, TokenReview, WhenUnavailable,
};

use crate::support::AUDIENCE;

/// Labels that Prometheus adds to each series that it scrapes.
const TARGET_LABELS: [&str; 3] = ["namespace", "job", "instance"];

/// The labels of each metric.
type Scraped = BTreeMap<String, BTreeSet<String>>;

const A_DAY: Duration = Duration::from_secs(86_400);

/// The body of a stream that never ends.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<hyper::body::Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// A source whose token is rejected until it is refreshed.
struct Renewed {
    old: Token,
    new: Token,
}

#[reqwest_wi_auth::async_trait]
impl TokenSource for Renewed {
    fn current(&self) -> Result<Token, Error> {
        Ok(self.old.clone())
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        Ok(self.new.clone())
    }
}

/// Waits until a condition holds, for up to 20 s.
async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 20 s");
}

/// Causes everything that both libraries record, and returns what a scrape then contains.
async fn scrape() -> (Scraped, String) {
    let recorder = PrometheusBuilder::new().install_recorder().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, "allow: [\"system:serviceaccount:shop:web\"]").unwrap();
    let policy = PolicyFile::open(&policy).await.unwrap();
    let cluster = MemoryIssuer::kubernetes().unwrap();
    let is_tomorrow = Arc::new(AtomicBool::new(false));
    let shown = is_tomorrow.clone();
    let expired = move || shown.load(Ordering::Relaxed);
    let guard = OidcGuard::builder()
        .issuer(cluster.issuer().audience(AUDIENCE))
        .http_client(cluster.client())
        .policy(policy.policy())
        .clock(move || SystemTime::now() + if expired() { A_DAY } else { Duration::ZERO })
        .shadow_policy(Policy::members(["system:serviceaccounts:shop"]))
        .build()
        .unwrap();
    let config = folder.path().join("guard.yaml");
    let content = "issuers: [{ platform: google, audiences: [a] }]\nallow: []\n";
    std::fs::write(&config, content).unwrap();
    let _config = OidcGuardBuilder::from_file(&config).await.unwrap();
    let app = axum::Router::new()
        .route("/", axum::routing::get(async || "ok"))
        .layer(guard.layer())
        .route(
            "/stream",
            axum::routing::get(async move || {
                is_tomorrow.store(true, Ordering::Relaxed);
                axum::body::Body::new(Endless)
            })
            .layer(guard.layer().end_streams_with_token()),
        );
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(demo::server::serve(listener, app, std::future::pending()));

    let mint = |name: &str| {
        let spec = cluster.token().audience(AUDIENCE);
        spec.service_account("shop", name)
    };
    let volume = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(volume.path()).unwrap();
    let first = mint("web").mint();
    kubelet.write([("token", first.as_str())]).unwrap();
    let projected = ProjectedToken::open(kubelet.path("token")).await.unwrap();
    let mut changes = projected.subscribe();
    kubelet.rotate("token", mint("web").mint()).unwrap();
    changes.next().await.unwrap();
    kubelet.rotate("token", "not a token").unwrap();
    wait_until("the invalid token is read", || {
        projected.health().last_error.is_some()
    })
    .await;
    let renewed = Renewed {
        old: Token::new(mint("web").bad_signature().mint()).unwrap(),
        new: Token::new(mint("web").mint()).unwrap(),
    };
    let http = || reqwest::Client::builder().no_proxy().build().unwrap();
    for (auth, expected) in [
        (
            BearerAuth::for_origin(&url, projected.clone()).unwrap(),
            200,
        ),
        (
            BearerAuth::for_origin(&url, projected.clone()).unwrap(),
            200,
        ),
        (BearerAuth::for_origin(&url, renewed).unwrap(), 200),
    ] {
        let client = ClientBuilder::new(http()).with(auth).build();
        let response = client.get(&url).send().await.unwrap();
        assert_eq!(response.status(), expected);
    }
    assert_eq!(http().get(&url).send().await.unwrap().status(), 401);
    let stream = http().get(format!("{url}/stream"));
    // The stream is ended at once, with or without the head of its response.
    let stream = match stream.bearer_auth(mint("web").mint()).send().await {
        Ok(response) => response.bytes().await,
        Err(error) => Err(error),
    };
    assert!(stream.is_err());

    let metadata = FakeMetadataServer::start().await.unwrap();
    let server = MetadataServer::with_host(metadata.host()).unwrap();
    let identity = server.open(AUDIENCE).await.unwrap();
    let google = FakeGoogle::start().await.unwrap();
    let subject = FixedToken::new(Token::new(google.subject_token()).unwrap());
    let federation = GoogleFederation::builder(google.audience(), subject)
        .service_account_impersonation_url(google.impersonation_url())
        .token_url(google.token_url())
        .allow_origin(google.url())
        .build()
        .unwrap();
    let federated = federation.open(AUDIENCE).await.unwrap();
    review_a_token().await;
    // The task that reviews tokens records the time while the verification already returns.
    wait_until("the time of a token review is recorded", || {
        let text = recorder.render();
        text.contains("oidc_guard_token_review_seconds_count")
    })
    .await;
    guard.health();
    let text = recorder.render();
    drop((identity, federated, projected, guard));

    let mut scraped = Scraped::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, _)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let all = scraped.entry(name.to_owned()).or_default();
        let names = labels.split("\",").filter_map(|label| {
            let (name, _) = label.split_once("=\"")?;
            Some(name.trim_matches(',').to_owned())
        });
        all.extend(names);
    }
    (scraped, text)
}

/// Has a token confirmed by the API server of its cluster.
async fn review_a_token() {
    let api = FakeApiServer::start().await.unwrap();
    let volume = tempfile::tempdir().unwrap();
    api.write_pod_volume(&volume, "shop", "guard").unwrap();
    api.grant_token_reviews("shop", "guard");
    let issuer = api.issuer(&volume).unwrap().audience(AUDIENCE);
    let guard = OidcGuard::builder()
        .issuer(issuer.token_review(TokenReview::new(WhenUnavailable::Refuse)))
        .any_verified_caller()
        .build()
        .unwrap();
    let token = api.token("shop", "web").audience(AUDIENCE).mint();
    guard.verifier().verify(token).await.unwrap();
}

/// A word of a PromQL expression.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word<'e> {
    Name(&'e str),
    Symbol(char),
}

/// Splits an expression into names and symbols, without strings, numbers, durations and dashboard variables.
fn words(expression: &str) -> Vec<Word<'_>> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut words = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                let end = rest[1..].find(first);
                end.unwrap_or_else(|| panic!("unclosed string: {expression}")) + 2
            }
            '$' => 1 + rest[1..].find(|c| !is_part(c)).unwrap_or(rest.len() - 1),
            c if is_part(c) => {
                let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                if !first.is_ascii_digit() {
                    words.push(Word::Name(&rest[..length]));
                }
                length
            }
            c => {
                if !c.is_whitespace() {
                    words.push(Word::Symbol(c));
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    words
}

/// Operators and modifiers that are followed by a list of labels.
const GROUPINGS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Operators and modifiers that are not followed by a list of labels.
const KEYWORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// The functions and aggregations of PromQL that the expressions use.
const FUNCTIONS: [&str; 7] = ["time", "rate", "increase", "sum", "max", "min", "count"];

/// Returns what is wrong with an expression: metrics and labels that no scrape contains, and unknown functions.
fn faults(expression: &str, scraped: &Scraped) -> Vec<String> {
    let words = words(expression);
    let mut faults = Vec::new();
    let mut metrics = Vec::new();
    let mut grouping_labels = Vec::new();
    let mut matchers = Vec::new();
    let mut index = 0;
    while index < words.len() {
        let next = words.get(index + 1);
        match &words[index] {
            Word::Name(name) if GROUPINGS.contains(name) => {
                // `group_left` may have no list.
                if next == Some(&Word::Symbol('(')) {
                    index += 2;
                    while let Some(word) =
                        words.get(index).filter(|word| **word != Word::Symbol(')'))
                    {
                        if let Word::Name(label) = word {
                            grouping_labels.push(*label);
                        }
                        index += 1;
                    }
                }
            }
            Word::Name(name) if KEYWORDS.contains(name) => {}
            // A function, or an aggregation with the grouping first.
            Word::Name(name)
                if next == Some(&Word::Symbol('('))
                    || matches!(next, Some(Word::Name(grouping)) if GROUPINGS[..2].contains(grouping)) =>
            {
                if !FUNCTIONS.contains(name) {
                    faults.push(format!("unknown function {name}"));
                }
            }
            Word::Name(metric) => {
                metrics.push(*metric);
                if next == Some(&Word::Symbol('{')) {
                    index += 2;
                    while let Some(word) =
                        words.get(index).filter(|word| **word != Word::Symbol('}'))
                    {
                        if let Word::Name(label) = word {
                            matchers.push((*metric, *label));
                        }
                        index += 1;
                    }
                }
            }
            Word::Symbol(_) => {}
        }
        index += 1;
    }
    if metrics.is_empty() {
        faults.push("no metric".to_owned());
    }
    let has_label = |metric: &str, label: &str| {
        TARGET_LABELS.contains(&label)
            || scraped
                .get(metric)
                .is_some_and(|labels| labels.contains(label))
    };
    for metric in &metrics {
        if !scraped.contains_key(*metric) {
            faults.push(format!("no metric {metric}"));
        }
    }
    for (metric, label) in matchers {
        if !has_label(metric, label) {
            faults.push(format!("{metric} has no label {label}"));
        }
    }
    for label in grouping_labels {
        if !metrics.iter().any(|metric| has_label(metric, label)) {
            faults.push(format!("no metric with the label {label}"));
        }
    }
    faults
}

/// Returns the labels that a text shows: `{{label}}` of a legend, `{{ $labels.label }}` of an annotation.
fn shown_labels(text: &str) -> Vec<&str> {
    let inner = text.split("{{").skip(1);
    let inner = inner.map(|rest| rest.split("}}").next().unwrap_or_default().trim());
    inner
        .filter(|inner| !inner.starts_with("$value"))
        .map(|inner| inner.strip_prefix("$labels.").unwrap_or(inner))
        .collect()
}

/// Returns whether the result of an expression has a label.
fn result_has_label(expression: &str, label: &str, scraped: &Scraped) -> bool {
    let words = words(expression);
    let grouping = words.iter().position(|word| *word == Word::Name("by"));
    match grouping {
        Some(by) => words[by..]
            .iter()
            .take_while(|word| **word != Word::Symbol(')'))
            .any(|word| *word == Word::Name(label)),
        None => words.iter().any(|word| {
            matches!(word, Word::Name(metric) if scraped.get(*metric).is_some_and(|labels| labels.contains(label)))
        }),
    }
}

fn deployed(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

/// Returns the text of a member that must be one.
fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    let text = value[member].as_str();
    text.unwrap_or_else(|| panic!("no text {member:?} in {value}"))
}

/// Asserts that an object has these members, and no others than these and the optional ones.
fn assert_members(value: &Value, required: &[&str], optional: &[&str]) {
    let members = value
        .as_object()
        .unwrap_or_else(|| panic!("{value} is no object"));
    for name in required {
        assert!(members.contains_key(*name), "no {name:?} in {value}");
    }
    for name in members.keys() {
        let is_known = required.contains(&name.as_str()) || optional.contains(&name.as_str());
        assert!(is_known, "unknown member {name:?} in {value}");
    }
}

fn is_duration(text: &str) -> bool {
    let digits = text.trim_end_matches(['s', 'm', 'h', 'd']);
    text.len() == digits.len() + 1 && digits.parse::<u32>().is_ok()
}

fn check_alert_rules(scraped: &Scraped, used: &mut BTreeSet<String>) {
    let rules: Value = serde_saphyr::from_str(&deployed("alerts.yaml")).unwrap();
    assert_members(&rules, &["groups"], &[]);
    let mut names = BTreeSet::new();
    for group in rules["groups"].as_array().unwrap() {
        assert_members(group, &["name", "rules"], &["interval"]);
        for rule in group["rules"].as_array().unwrap() {
            assert_members(rule, &["alert", "expr", "labels", "annotations"], &["for"]);
            let (name, expression) = (text(rule, "alert"), text(rule, "expr"));
            assert!(names.insert(name), "{name} is defined twice");
            assert_eq!(faults(expression, scraped), [""; 0], "{name}: {expression}");
            assert!(
                rule.get("for")
                    .is_none_or(|time| time.as_str().is_some_and(is_duration))
            );
            assert_members(&rule["labels"], &["severity"], &[]);
            assert_members(&rule["annotations"], &["summary", "description"], &[]);
            for annotation in ["summary", "description"] {
                for label in shown_labels(text(&rule["annotations"], annotation)) {
                    let exists = result_has_label(expression, label, scraped);
                    assert!(exists, "{name}: the result has no label {label}");
                }
            }
            used.insert(expression.to_owned());
        }
    }
    assert!(names.len() >= 8, "{names:?}");
}

fn check_dashboard(scraped: &Scraped, used: &mut BTreeSet<String>) {
    let dashboard: Value = serde_json::from_str(&deployed("dashboard.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut targets = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let (title, expression) = (text(panel, "title"), text(target, "expr"));
            assert_eq!(
                faults(expression, scraped),
                [""; 0],
                "{title}: {expression}"
            );
            for label in shown_labels(text(target, "legendFormat")) {
                let exists = result_has_label(expression, label, scraped);
                assert!(exists, "{title}: the result has no label {label}");
            }
            used.insert(expression.to_owned());
            targets += 1;
        }
    }
    assert!(targets >= 15, "{targets} targets");
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alert_rules_name_existing_metrics_and_labels() {
    let (scraped, exposition) = scrape().await;
    let mut used = BTreeSet::new();
    check_alert_rules(&scraped, &mut used);
    check_dashboard(&scraped, &mut used);

    // The check finds each kind of mistake.
    for (expression, fault) in [
        (
            "sum(rate(oidc_guard_decision_total[5m]))",
            "no metric oidc_guard_decision_total",
        ),
        (
            "oidc_guard_decisions_total{reasons=\"x\"}",
            "oidc_guard_decisions_total has no label reasons",
        ),
        (
            "oidc_guard_usable_keys{path=\"x\"}",
            "oidc_guard_usable_keys has no label path",
        ),
        (
            "sum by (isuer) (oidc_guard_usable_keys)",
            "no metric with the label isuer",
        ),
        (
            "sum(oidc_guard_usable_keys) by (isuer)",
            "no metric with the label isuer",
        ),
        (
            "rates(oidc_guard_decisions_total[5m])",
            "unknown function rates",
        ),
        ("time() - 3600", "no metric"),
    ] {
        assert_eq!(faults(expression, &scraped), [fault], "{expression}");
    }
    let valid =
        "max by (issuer, job) (oidc_guard_usable_keys{issuer!=\"a}b\", job=~\"$job\"} > bool 2h)";
    assert_eq!(faults(valid, &scraped), [""; 0]);
    assert!(!result_has_label(
        "sum by (issuer) (oidc_guard_decisions_total)",
        "reason",
        &scraped
    ));

    // Names follow the conventions of Prometheus, and each metric has a help text and is shown.
    let words_used = used.iter().flat_map(|expression| words(expression));
    let all: BTreeSet<_> = words_used
        .filter_map(|word| match word {
            Word::Name(name) => Some(name),
            Word::Symbol(_) => None,
        })
        .collect();
    for line in exposition.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        if !(name.starts_with("oidc_guard_") || name.starts_with("reqwest_wi_auth_")) {
            continue;
        }
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        let help = format!("# HELP {name} ");
        assert!(exposition.contains(&help), "{name} has no help text");
        let is_shown = all.iter().any(|used| used.starts_with(name));
        assert!(
            is_shown || name == "oidc_guard_keys_age_seconds",
            "{name} is not shown"
        );
    }
    assert!(!exposition.contains("eyJ"), "a token is in a label");
}
