//! The metrics of both libraries, in Prometheus' text format.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::Error;

/// How often recorded samples are aggregated, so that they do not accumulate if the metrics are never scraped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A handle to the metrics recorder of the process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of the process and registers the metrics' help texts.
    ///
    /// # Errors
    ///
    /// [`Error::Metrics`] if a recorder is already installed.
    pub fn install() -> Result<Self, Error> {
        let recorder = PrometheusBuilder::new().install_recorder();
        let recorder = recorder.map_err(|error| Error::Metrics(error.to_string()))?;
        describe();
        Ok(Self(recorder))
    }

    /// Returns all metrics in Prometheus' text format.
    pub(super) fn render(&self) -> String {
        self.0.render()
    }

    /// Aggregates recorded samples at an interval. Never completes.
    pub(super) async fn upkeep(self) {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.0.run_upkeep();
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The counters of both libraries, with their help texts.
const COUNTERS: [(&str, &str); 8] = [
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
        "oidc_guard_policy_reads_total",
        "Reads of a policy file, by outcome.",
    ),
    (
        "reqwest_wi_auth_file_changes_total",
        "New contents read from watched files.",
    ),
    (
        "reqwest_wi_auth_file_failures_total",
        "Failed reads of watched files.",
    ),
    (
        "reqwest_wi_auth_metadata_fetches_total",
        "Tokens requested from the metadata server, by outcome.",
    ),
    (
        "reqwest_wi_auth_resends_total",
        "Requests resent with a newer token after a 401.",
    ),
];

/// Registers a help text for each metric that the libraries record.
fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    describe_gauge!(
        "oidc_guard_keys_age_seconds",
        Unit::Seconds,
        "Time since an issuer's keys were last fetched, by issuer."
    );
    describe_gauge!(
        "oidc_guard_key_set_hash",
        "First 32 bits of the hash of an issuer's key set, by issuer. Equal for replicas with the same keys."
    );
    describe_histogram!(
        "oidc_guard_verification_seconds",
        Unit::Seconds,
        "Time to verify a token that was not in the cache."
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the names of the metrics that a source file records: the first string in each recording macro.
    fn recorded_names(source: &str) -> impl Iterator<Item = &str> {
        let macros = ["counter!(", "gauge!(", "histogram!(", "count!("];
        macros.into_iter().flat_map(move |recording| {
            source
                .match_indices(recording)
                .filter_map(move |(start, _)| {
                    let arguments = source[start + recording.len()..].trim_start();
                    arguments.strip_prefix('"')?.split('"').next()
                })
        })
    }

    #[test]
    fn each_recorded_metric_has_a_help_text() {
        let sources = crate::test_support::library_sources();
        let names: BTreeSet<&str> = sources
            .iter()
            .flat_map(|source| recorded_names(source))
            .collect();
        assert!(names.len() >= 10, "{names:?}");
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            for name in &names {
                metrics::counter!(name.to_string()).increment(1);
            }
        });
        let text = handle.render();
        for name in &names {
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "{name} has no help text"
            );
        }
    }
}
