//! The metrics of both libraries and the number of tasks, in Prometheus' text format.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Handle;

use crate::Error;

/// How often recorded samples are aggregated, so that they do not accumulate if the metrics are never scraped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The number of tasks of the runtime that have not ended. A number that grows without end is a leak.
const ALIVE_TASKS: &str = "tokio_alive_tasks";

/// A handle to the metrics recorder of the process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of the process, for the metrics of both libraries, which register their help texts.
    ///
    /// # Errors
    ///
    /// [`Error::Metrics`] if a recorder is already installed.
    pub fn install() -> Result<Self, Error> {
        let recorder = PrometheusBuilder::new().install_recorder();
        let recorder = recorder.map_err(|error| Error::Metrics(error.to_string()))?;
        tower_oidc_guard::describe_metrics();
        metrics::describe_gauge!(ALIVE_TASKS, "Tasks of the runtime that have not ended");
        Ok(Self(recorder))
    }

    /// Returns all metrics in Prometheus' text format. If called in a tokio runtime, they include the number of its tasks.
    pub(super) fn render(&self) -> String {
        if let Ok(runtime) = Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            metrics::gauge!(ALIVE_TASKS).set(tasks as f64);
        }
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
            tower_oidc_guard::describe_metrics();
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
