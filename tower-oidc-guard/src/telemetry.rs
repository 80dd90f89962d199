//! Spans, events and, with the feature `metrics`, metrics through the `metrics` facade.
//!
//! The README lists the metrics with their kinds and labels.
//!
//! No label contains anything that a caller sends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::guard::BodyKind;
use crate::identity::{Identity, TokenEnd};
use crate::policy::{Difference, PolicyRole};
use crate::rejection::Rejection;

/// The label for requests without a token of a trusted issuer.
pub(crate) const NO_ISSUER: &str = "none";

/// The metadata of counters for the recorder, as the macros of the facade compose it.
#[cfg(feature = "metrics")]
static METADATA: metrics::Metadata<'static> =
    metrics::Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));

/// Counts the requests that are allowed with a token of one issuer.
///
/// The key, which is the name with its labels and their hash, is composed once. A handle of the counter is not kept: it belongs to
/// the recorder that was current when it was registered, and a recorder may be installed later, or for one thread only, so that
/// counts would be lost.
pub(crate) struct AllowedCounter {
    #[cfg(feature = "metrics")]
    key: metrics::Key,
}

impl AllowedCounter {
    #[cfg_attr(not(feature = "metrics"), expect(unused_variables))]
    pub(crate) fn new(issuer: &Arc<str>) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            key: {
                let reason = metrics::Label::from_static_parts("reason", "allowed");
                let issuer = metrics::Label::new("issuer", issuer.clone());
                metrics::Key::from_parts("oidc_guard_decisions_total", vec![reason, issuer])
            },
        }
    }

    fn increment(&self) {
        #[cfg(feature = "metrics")]
        metrics::with_recorder(|recorder| {
            let counter = recorder.register_counter(&self.key, &METADATA);
            counter.increment(1);
        });
    }
}

/// Records that a caller is allowed. Returns the span in which the service handles the request.
pub(crate) fn record_allowed(identity: &Identity) -> Span {
    identity.allowed_counter().increment();
    if !may_log_spans() {
        return Span::none();
    }
    tracing::debug_span!(
        "oidc_guard",
        decision = "allowed",
        issuer = &**identity.issuer_label(),
        subject = identity.printable_subject(),
    )
}

/// Calls a function in a span that [`record_allowed`] or [`record_anonymous`] has returned.
#[inline]
pub(crate) fn in_span<T>(span: &Span, function: impl FnOnce() -> T) -> T {
    // Entering and leaving takes some dozen instructions even if there is no span.
    if span.is_none() {
        function()
    } else {
        span.in_scope(function)
    }
}

/// Returns whether anything may receive a span of the level `DEBUG`: a subscriber, or without one the logger of the `log` crate, if
/// a crate enables tracing's feature `log`.
///
/// The macros of tracing check this themselves, but compose the values of the fields before they look at the level of the logger.
#[inline]
fn may_log_spans() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG || log::max_level() >= log::LevelFilter::Debug
}

/// Records that a request without a token is allowed. Returns the span in which the service handles the request.
pub(crate) fn record_anonymous() -> Span {
    count_decision("anonymous", None);
    tracing::debug_span!("oidc_guard", decision = "anonymous")
}

/// Counts a rejected request.
pub(crate) fn count_rejected(rejection: &Rejection, issuer: Option<&Arc<str>>) {
    count_decision(rejection.reason(), issuer);
}

/// Counts a request for which a shadow policy is evaluated.
pub(crate) fn count_shadow_evaluation() {
    // Without labels, so that nothing is allocated.
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_shadow_policy_evaluations_total").increment(1);
}

/// Counts a request on which the shadow policy would have decided otherwise.
pub(crate) fn count_shadow_difference(difference: Difference, issuer: Option<&Arc<str>>) {
    increment_shadow_differences(difference, issuer, 1);
}

/// Registers the counters of shadow policies, so that they are 0 rather than absent until the first difference.
pub(crate) fn register_shadow_policy<'l>(issuers: impl Iterator<Item = &'l Arc<str>>) {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_shadow_policy_evaluations_total").increment(0);
    for issuer in issuers.map(Some).chain([None]) {
        for difference in Difference::ALL {
            increment_shadow_differences(difference, issuer, 0);
        }
    }
}

fn increment_shadow_differences(difference: Difference, issuer: Option<&Arc<str>>, by: u64) {
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "oidc_guard_shadow_policy_differences_total",
        "difference" => difference.as_str(),
        "issuer" => issuer_label(issuer)
    )
    .increment(by);
    #[cfg(not(feature = "metrics"))]
    let _ = (difference, issuer, by);
}

/// Returns the metric label for an issuer.
#[cfg(feature = "metrics")]
fn issuer_label(issuer: Option<&Arc<str>>) -> metrics::SharedString {
    issuer.map_or_else(
        || NO_ISSUER.into(),
        |issuer| metrics::SharedString::from(issuer.clone()),
    )
}

fn count_decision(reason: &'static str, issuer: Option<&Arc<str>>) {
    #[cfg(feature = "metrics")]
    {
        let issuer = issuer_label(issuer);
        metrics::counter!("oidc_guard_decisions_total", "reason" => reason, "issuer" => issuer)
            .increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (reason, issuer);
}

/// Records that the body of a request or of its response was ended with its token.
pub(crate) fn record_stream_ended(identity: &Identity, body: BodyKind, end: TokenEnd) {
    let (issuer, body, reason) = (identity.issuer_label(), body.as_str(), end.reason());
    tracing::debug!(
        body,
        reason,
        issuer = &**issuer,
        subject = identity.printable_subject(),
        "stream ended with its token"
    );
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "oidc_guard_streams_ended_total",
        "body" => body,
        "reason" => reason,
        "issuer" => metrics::SharedString::from(issuer.clone())
    )
    .increment(1);
}

/// Records that a token was found in the cache.
pub(crate) fn record_cache_hit() {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_cache_hits_total").increment(1);
}

/// Measures a verification that the cache does not answer, until it is dropped.
pub(crate) struct VerificationTimer(#[cfg(feature = "metrics")] std::time::Instant);

impl VerificationTimer {
    pub(crate) fn start() -> Self {
        Self(
            #[cfg(feature = "metrics")]
            std::time::Instant::now(),
        )
    }
}

#[cfg(feature = "metrics")]
impl Drop for VerificationTimer {
    fn drop(&mut self) {
        metrics::histogram!("oidc_guard_verification_seconds").record(self.0.elapsed());
    }
}

/// Records a fetch of keys: the hash of the key set, or `None` if the fetch failed.
pub(crate) fn record_key_fetch(issuer: &Arc<str>, hash: Option<&str>) {
    #[cfg(feature = "metrics")]
    {
        let outcome = outcome(hash.is_some());
        let issuer = metrics::SharedString::from(issuer.clone());
        metrics::counter!("oidc_guard_key_fetches_total", "issuer" => issuer.clone(), "outcome" => outcome)
            .increment(1);
        let number = hash.and_then(|hash| u32::from_str_radix(hash.get(..8)?, 16).ok());
        if let Some(number) = number {
            metrics::gauge!("oidc_guard_key_set_hash", "issuer" => issuer).set(f64::from(number));
        }
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, hash);
}

/// Registers the help texts of the metrics with the current recorder, if there is one.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    crate::describe_metrics();
}

/// Registers the counters of an issuer, so that they are 0 rather than absent until the first fetch.
pub(crate) fn register_issuer(issuer: &Arc<str>) {
    #[cfg(feature = "metrics")]
    for is_ok in [true, false] {
        let issuer = metrics::SharedString::from(issuer.clone());
        let outcome = outcome(is_ok);
        metrics::counter!("oidc_guard_key_fetches_total", "issuer" => issuer, "outcome" => outcome)
            .increment(0);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = issuer;
}

/// The outcomes of token reviews, as label values.
#[cfg(feature = "metrics")]
const REVIEW_OUTCOMES: [&str; 6] = [
    "confirmed",
    "gone",
    "expired",
    "not_recognized",
    "missing_role",
    "failed",
];

/// The limits on token reviews, as label values.
#[cfg(feature = "metrics")]
const REVIEW_LIMITS: [&str; 4] = ["rate", "concurrency", "tokens", "waiting"];

/// Registers the counters of an issuer whose tokens are reviewed, so that they are 0 rather than absent until the first review.
pub(crate) fn register_token_reviews(issuer: &Arc<str>) {
    #[cfg(feature = "metrics")]
    {
        for outcome in REVIEW_OUTCOMES {
            let issuer = metrics::SharedString::from(issuer.clone());
            metrics::counter!("oidc_guard_token_reviews_total", "issuer" => issuer, "outcome" => outcome)
                .increment(0);
        }
        for limit in REVIEW_LIMITS {
            let issuer = metrics::SharedString::from(issuer.clone());
            metrics::counter!("oidc_guard_token_review_limited_total", "issuer" => issuer, "limit" => limit)
                .increment(0);
        }
        let issuer = metrics::SharedString::from(issuer.clone());
        metrics::counter!("oidc_guard_token_review_unconfirmed_total", "issuer" => issuer)
            .increment(0);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = issuer;
}

/// Records a token review.
pub(crate) fn record_token_review(issuer: &Arc<str>, outcome: &'static str, duration: Duration) {
    #[cfg(feature = "metrics")]
    {
        let issuer = metrics::SharedString::from(issuer.clone());
        metrics::counter!("oidc_guard_token_reviews_total", "issuer" => issuer.clone(), "outcome" => outcome)
            .increment(1);
        metrics::histogram!("oidc_guard_token_review_seconds", "issuer" => issuer).record(duration);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, outcome, duration);
}

/// Records that a token was accepted although the API server has not confirmed it.
pub(crate) fn record_unconfirmed_token(issuer: &Arc<str>) {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_token_review_unconfirmed_total", "issuer" => metrics::SharedString::from(issuer.clone()))
        .increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = issuer;
}

/// Records that a limit delays token reviews, or decides on requests.
pub(crate) fn record_limited_reviews(issuer: &Arc<str>, limit: &'static str, reviews: usize) {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_token_review_limited_total", "issuer" => metrics::SharedString::from(issuer.clone()), "limit" => limit)
        .increment(u64::try_from(reviews).unwrap_or(u64::MAX));
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, limit, reviews);
}

/// When keys that may change were fetched, and when they become stale, counted from the Unix epoch.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code))]
pub(crate) struct KeyTimes {
    pub(crate) fetched: Duration,
    pub(crate) stale: Duration,
}

/// Records the keys of an issuer: how many are usable, and their times, unless they never change.
pub(crate) fn record_keys(issuer: &Arc<str>, usable: usize, times: Option<KeyTimes>) {
    #[cfg(feature = "metrics")]
    {
        let issuer = metrics::SharedString::from(issuer.clone());
        let usable = u32::try_from(usable).unwrap_or(u32::MAX);
        metrics::gauge!("oidc_guard_usable_keys", "issuer" => issuer.clone()).set(usable);
        if let Some(KeyTimes { fetched, stale }) = times {
            metrics::gauge!("oidc_guard_keys_last_success_timestamp_seconds", "issuer" => issuer.clone())
                .set(fetched);
            metrics::gauge!("oidc_guard_keys_stale_timestamp_seconds", "issuer" => issuer)
                .set(stale);
        }
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, usable, times);
}

/// Records that an issuer is no longer trusted. Its gauges become NaN, which meets no condition of an alert, since the `metrics`
/// facade cannot remove them.
#[cfg(feature = "policy-file")]
pub(crate) fn record_issuer_removed(issuer: &Arc<str>) {
    #[cfg(feature = "metrics")]
    for gauge in [
        "oidc_guard_usable_keys",
        "oidc_guard_keys_last_success_timestamp_seconds",
        "oidc_guard_keys_stale_timestamp_seconds",
        "oidc_guard_keys_age_seconds",
        "oidc_guard_key_set_hash",
    ] {
        let issuer = metrics::SharedString::from(issuer.clone());
        metrics::gauge!(gauge, "issuer" => issuer).set(f64::NAN);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = issuer;
}

/// Records that a configuration file was read, and whether its content was accepted.
#[cfg(feature = "policy-file")]
pub(crate) fn record_config_read<T, E>(read: &Result<T, E>) {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_config_reads_total", "outcome" => outcome(read.is_ok()))
        .increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = read;
}

/// Records a change of the settings in a configuration file. `widened_by` lists the changes by which the guard may admit callers
/// that it did not admit before.
#[cfg(feature = "policy-file")]
pub(crate) fn record_config_change(path: &Path, changes: &str, widened_by: Option<&str>) {
    let path = path.display();
    match widened_by {
        Some(widened_by) => tracing::warn!(
            %path,
            changes,
            widened_by,
            "configuration changed: the guard may admit callers that it did not admit before"
        ),
        None => tracing::info!(%path, changes, "configuration changed"),
    }
}

/// Records the age of an issuer's keys.
pub(crate) fn record_keys_age(issuer: &Arc<str>, age: Duration) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("oidc_guard_keys_age_seconds", "issuer" => metrics::SharedString::from(issuer.clone()))
        .set(age);
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, age);
}

/// Records that a policy file was read, and whether its content was accepted.
#[cfg(feature = "policy-file")]
pub(crate) fn record_policy_read<T, E>(read: &Result<T, E>) {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_policy_reads_total", "outcome" => outcome(read.is_ok()))
        .increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = read;
}

/// Records a change of the policy in a file. `widened_by` lists the changes by which it may allow callers that it did not allow
/// before. A shadow policy allows no callers, so nothing about it is a warning.
#[cfg(feature = "policy-file")]
pub(crate) fn record_policy_change(
    role: PolicyRole,
    path: &Path,
    changes: &str,
    widened_by: Option<&str>,
) {
    let path = path.display();
    match (role, widened_by) {
        (PolicyRole::Shadow, _) => tracing::info!(
            %path,
            changes,
            widened_by,
            "shadow policy changed; it affects no request"
        ),
        (PolicyRole::Enforced, Some(widened_by)) => tracing::warn!(
            %path,
            changes,
            widened_by,
            "policy changed: it may allow callers that it did not allow before"
        ),
        (PolicyRole::Enforced, None) => tracing::info!(%path, changes, "policy changed"),
    }
}

/// Records that a shadow policy is suspended, with the reason, or that it is resumed.
#[cfg(feature = "policy-file")]
pub(crate) fn record_shadow_suspension(error: Option<&str>) {
    match error {
        Some(error) => tracing::warn!(
            error,
            "shadow policy suspended, which affects no request: it does not fit the trusted issuers, and is not evaluated until it does"
        ),
        None => tracing::info!("shadow policy resumed: it fits the trusted issuers again"),
    }
}

/// Records a warning about a policy that allows more, or less, than its author may expect. `path` is that of the file that has
/// changed, if one has.
pub(crate) fn record_too_wide(role: PolicyRole, path: Option<&Path>, warning: &'static str) {
    let prefix = match role {
        PolicyRole::Enforced => "",
        PolicyRole::Shadow => "shadow policy: ",
    };
    match path {
        Some(path) => tracing::warn!(path = %path.display(), "{prefix}{warning}"),
        None => tracing::warn!("{prefix}{warning}"),
    }
}

#[cfg(feature = "metrics")]
fn outcome(is_ok: bool) -> &'static str {
    if is_ok { "ok" } else { "failed" }
}
