//! The metrics of both libraries, as Prometheus reads them.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::Error;

/// How often recorded samples are folded together, so that they do not pile up where nobody reads the metrics.
const UPKEEP: Duration = Duration::from_secs(5);

/// Collects the metrics of the process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of the process and describes the metrics.
    ///
    /// # Errors
    ///
    /// If there is a recorder already.
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

    /// Folds recorded samples together, again and again.
    pub(super) async fn upkeep(self) {
        let mut interval = tokio::time::interval(UPKEEP);
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

const COUNTERS: [(&str, &str); 8] = [
    (
        "oidc_guard_decisions_total",
        "Requests that the guard has decided on, by reason and issuer.",
    ),
    (
        "oidc_guard_key_fetches_total",
        "Fetches of an issuer's keys, by issuer and outcome.",
    ),
    (
        "oidc_guard_cache_hits_total",
        "Tokens that were found in the cache of verified tokens.",
    ),
    (
        "oidc_guard_policy_reads_total",
        "Reads of a policy file, by outcome.",
    ),
    (
        "reqwest_wi_auth_file_changes_total",
        "New contents of followed files.",
    ),
    (
        "reqwest_wi_auth_file_failures_total",
        "Reads of followed files that failed.",
    ),
    (
        "reqwest_wi_auth_metadata_fetches_total",
        "Tokens requested from the metadata server, by outcome.",
    ),
    (
        "reqwest_wi_auth_resends_total",
        "Requests that were sent again with another token after a 401.",
    ),
];

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
        "The first 32 bits of the hash of an issuer's key set, by issuer. Replicas with the same keys have the same value."
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
    use std::path::Path;

    use super::*;

    /// Collects the names of metrics that a library's source records: the strings behind the macros that record them.
    fn recorded(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                recorded(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for recording in ["counter!(", "gauge!(", "histogram!(", "count!("] {
                    for (at, _) in source.match_indices(recording) {
                        let rest = source[at + recording.len()..].trim_start();
                        if let Some(name) = rest
                            .strip_prefix('"')
                            .and_then(|rest| rest.split('"').next())
                        {
                            names.insert(name.to_owned());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn each_metric_of_the_libraries_has_a_help_text() {
        let mut names = BTreeSet::new();
        for library in ["reqwest-wi-auth", "tower-oidc-guard"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            recorded(&root.join("..").join(library).join("src"), &mut names);
        }
        assert!(names.len() >= 10, "{names:?}");
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            for name in &names {
                metrics::counter!(name.clone()).increment(1);
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
