//! Help texts and units of the metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// The counters, with their help texts.
const COUNTERS: [(&str, &str); 11] = [
    (
        "oidc_guard_decisions_total",
        "Requests that the guard admitted or rejected, by reason and issuer.",
    ),
    (
        "oidc_guard_key_fetches_total",
        "Fetches of an issuer's keys, by issuer and outcome.",
    ),
    (
        "oidc_guard_cache_hits_total",
        "Tokens found in the cache of verified tokens.",
    ),
    (
        "oidc_guard_streams_ended_total",
        "Bodies that were ended because their token had expired or was revoked, by body (request or response), reason and issuer.",
    ),
    (
        "oidc_guard_policy_reads_total",
        "Reads of a policy file, by outcome.",
    ),
    (
        "oidc_guard_token_reviews_total",
        "Reviews of tokens by an API server, by issuer and outcome.",
    ),
    (
        "oidc_guard_token_review_unconfirmed_total",
        "Tokens accepted although the API server has not confirmed them, by issuer.",
    ),
    (
        "oidc_guard_token_review_limited_total",
        "Token reviews delayed, and requests decided, by a limit on reviews, by issuer and limit.",
    ),
    (
        "oidc_guard_shadow_policy_evaluations_total",
        "Requests for which a shadow policy was evaluated.",
    ),
    (
        "oidc_guard_shadow_policy_differences_total",
        "Requests on which the shadow policy would have decided otherwise, by issuer and difference (would_reject, would_allow).",
    ),
    (
        "oidc_guard_config_reads_total",
        "Reads of a configuration file, by outcome.",
    ),
];

/// The gauges, with their units, if any, and help texts.
const GAUGES: [(&str, Option<Unit>, &str); 5] = [
    (
        "oidc_guard_keys_last_success_timestamp_seconds",
        Some(Unit::Seconds),
        "When an issuer's keys were last fetched, by issuer. Not set for keys that never change.",
    ),
    (
        "oidc_guard_keys_stale_timestamp_seconds",
        Some(Unit::Seconds),
        "When an issuer's keys become stale and its tokens get 503, unless keys are fetched before, by issuer. Not set for keys \
         that never change.",
    ),
    (
        "oidc_guard_keys_age_seconds",
        Some(Unit::Seconds),
        "Age of an issuer's keys at the last fetch, readiness probe or call of health(), by issuer. The current age is the \
         difference to oidc_guard_keys_last_success_timestamp_seconds.",
    ),
    (
        "oidc_guard_usable_keys",
        None,
        "Number of an issuer's keys that can verify signatures, by issuer.",
    ),
    (
        "oidc_guard_key_set_hash",
        None,
        "First 32 bits of the hash of an issuer's key set, by issuer. Equal for replicas with the same keys.",
    ),
];

/// Registers the help texts and units of the metrics of this crate and of reqwest-wi-auth, which reads its files, with the
/// current recorder of the `metrics` facade.
///
/// [`OidcGuardBuilder::build`](crate::OidcGuardBuilder::build) calls it, so it is needed only if the recorder is installed
/// after the guard is built; the metrics that are recorded before are lost then. Without a recorder it does nothing. It can be
/// called any number of times.
///
/// ```
/// // After the recorder is installed:
/// tower_oidc_guard::describe_metrics();
/// ```
pub fn describe_metrics() {
    reqwest_wi_auth::describe_metrics();
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, unit, help) in GAUGES {
        match unit {
            Some(unit) => describe_gauge!(name, unit, help),
            None => describe_gauge!(name, help),
        }
    }
    describe_histogram!(
        "oidc_guard_verification_seconds",
        Unit::Seconds,
        "Time to verify a token that was not in the cache."
    );
    describe_histogram!(
        "oidc_guard_token_review_seconds",
        Unit::Seconds,
        "Time of a review of a token by an API server, by issuer."
    );
}
