//! The report: a table, plots, the figures as JSON, and the last line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use demo::output::print_line;
use serde_json::json;

use crate::End;
use crate::plot;
use crate::record::{Record, TimerLateness};
use crate::samples::{Quantity, Series, write_csv};

/// The shortest and the longest warm-up.
const WARM_UP: (f64, f64) = (20.0, 300.0);
/// The part of the run that is warm-up, if it is between the two above.
const WARM_UP_PART: f64 = 1.0 / 6.0;
/// How many kinds of failures are printed.
const PRINTED_FAILURES: usize = 30;

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Report {
    minutes: f64,
    rate: u64,
    /// How long the load lasted.
    elapsed: Duration,
    /// The time at the start that is not judged, in seconds.
    warm_up: f64,
    requests: BTreeMap<&'static str, u64>,
    failures: BTreeMap<String, u64>,
    steps: BTreeMap<&'static str, u64>,
    delays: BTreeMap<&'static str, Duration>,
    lateness: TimerLateness,
    waited_in_vain: u64,
    series: Vec<Series>,
    exceeded: Vec<String>,
    /// The processor time of this process, in seconds.
    own_processor: f64,
}

/// Returns a line about the run so far.
pub(crate) fn progress(record: &Record, series: &[Series]) -> String {
    let requests: u64 = record.requests().values().sum();
    let failures: u64 = record.failures().values().sum();
    let used = series.iter().filter_map(|series| {
        let last = series.samples.last()?;
        let value = |quantity| last.get(quantity);
        Some(format!(
            "{}: {:.1} MiB, {:.0} descriptors, {:.0} tasks",
            series.name,
            value(Quantity::Memory),
            value(Quantity::Descriptors),
            value(Quantity::Tasks)
        ))
    });
    let used: Vec<_> = used.collect();
    format!(
        "{requests} requests, {failures} failures; {}",
        used.join("; ")
    )
}

impl Report {
    pub(crate) fn new(
        minutes: f64,
        end: End,
        rate: u64,
        elapsed: Duration,
        record: &Arc<Record>,
        series: Vec<Series>,
        own_processor: f64,
    ) -> Self {
        let warm_up = (elapsed.as_secs_f64() * WARM_UP_PART).clamp(WARM_UP.0, WARM_UP.1);
        let exceeded = series.iter().flat_map(|series| series.exceeded(warm_up));
        // A load that was cut short is a failure itself, and too short to judge growth.
        let exceeded = exceeded.filter(|_| end == End::Complete);
        Self {
            minutes,
            rate,
            elapsed,
            warm_up,
            requests: record.requests(),
            failures: record.failures(),
            steps: record.steps(),
            delays: record.delays(),
            lateness: record.lateness(),
            waited_in_vain: record.waited_in_vain(),
            exceeded: exceeded.collect(),
            series,
            own_processor,
        }
    }

    /// Returns whether no answer was unexpected, and nothing has grown beyond its limit.
    pub(crate) fn is_successful(&self) -> bool {
        self.failures.is_empty() && self.exceeded.is_empty()
    }

    /// Prints the report, without its last line.
    pub(crate) fn print(&self) {
        for series in &self.series {
            print_line("");
            for line in plot::lines(series, Quantity::Memory) {
                print_line(&line);
            }
        }
        print_line("");
        for (kind, count) in &self.requests {
            print_line(&format!("{count:9}  {kind}"));
        }
        print_line("");
        for (kind, count) in &self.steps {
            let delay = self.delays.get(kind);
            let delay = delay.map(|delay| format!(", took effect within {delay:.1?}"));
            print_line(&format!("{count:9}  {kind}{}", delay.unwrap_or_default()));
        }
        self.print_use();
        let TimerLateness {
            timers,
            over_100_ms,
            longest,
        } = self.lateness;
        print_line(&format!(
            "\ntimers of this process: {over_100_ms} of {timers} more than 100 ms late, the longest by {longest:.1?}"
        ));
        if self.waited_in_vain > 0 {
            print_line(&format!(
                "on this machine, {} requests have waited 5 s for a new key in vain, because its fetch took longer",
                self.waited_in_vain
            ));
        }
        for (kind, count) in self.failures.iter().take(PRINTED_FAILURES) {
            print_line(&format!("FAILURE: {count} × {kind}"));
        }
        for exceeded in &self.exceeded {
            print_line(&format!("LIMIT EXCEEDED: {exceeded}"));
        }
    }

    /// Prints what each program uses at start and end.
    fn print_use(&self) {
        print_line(&format!(
            "\n{:20} {:24} {:>8} {:>12} {:>12} {:>8}  {:>10} {:>10}",
            "program", "", "before", "first tenth", "last tenth", "after", "trend", "allowed"
        ));
        for series in &self.series {
            for quantity in Quantity::ALL {
                let Some(growth) = series.growth(quantity, self.warm_up) else {
                    continue;
                };
                print_line(&format!(
                    "{:20} {:24} {:8.1} {:12.1} {:12.1} {:8.1}  {:>+10.1} {:>+10.1}",
                    series.name,
                    quantity.name(),
                    series.before.get(quantity),
                    growth.first,
                    growth.last,
                    series.after.get(quantity),
                    growth.trend,
                    growth.allowed
                ));
            }
        }
        let cores = |seconds: f64| seconds / self.elapsed.as_secs_f64();
        let used = self.series.iter().filter_map(|series| {
            let last = series.samples.last()?;
            let used = cores(last.processor - series.before.processor);
            Some(format!("{} {used:.2}", series.name))
        });
        let used: Vec<_> = used.collect();
        print_line(&format!(
            "\ncores in use: {}, this process {:.2}",
            used.join(", "),
            cores(self.own_processor)
        ));
    }

    /// Saves the samples and the figures in a folder.
    pub(crate) fn save(&self, folder: &Path) -> std::io::Result<()> {
        write_csv(&folder.join("samples.csv"), &self.series)?;
        let programs = self.series.iter();
        let programs = programs.map(|series| (series.name, series.to_json(self.warm_up)));
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1000.0).round();
        let delays = self.delays.iter();
        let delays = delays.map(|(kind, delay)| (*kind, milliseconds(*delay)));
        let figures = json!({
            "minutes": self.minutes,
            "rate": self.rate,
            "build": if cfg!(debug_assertions) { "debug" } else { "release" },
            "warm_up_seconds": self.warm_up,
            "requests": self.requests,
            "failures": self.failures,
            "exceeded": self.exceeded,
            "steps": self.steps,
            "longest_delays_milliseconds": delays.collect::<BTreeMap<_, _>>(),
            "timers": {
                "count": self.lateness.timers,
                "over_100_ms_late": self.lateness.over_100_ms,
                "longest_milliseconds": milliseconds(self.lateness.longest),
            },
            "requests_that_waited_for_a_new_key_in_vain": self.waited_in_vain,
            "driver_processor_seconds": self.own_processor,
            "columns": std::iter::once("seconds").chain(Quantity::ALL.map(Quantity::key)).collect::<Vec<_>>(),
            "programs": programs.collect::<BTreeMap<_, _>>(),
        });
        std::fs::write(folder.join("soak.json"), format!("{figures:#}\n"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests: u64 = self.requests.values().sum();
        let failures: u64 = self.failures.values().sum();
        let step = |kind: &str| self.steps.get(kind).copied().unwrap_or_default();
        write!(
            f,
            "soak: {} minutes, {requests} requests, {failures} failures, {} limits exceeded, {} token rotations, \
             {} key rotations, {} issuer outages, {} policy changes, {} configuration changes, {} certificate changes",
            self.minutes,
            self.exceeded.len(),
            step("token rotations"),
            step("key rotations"),
            step("issuer outages"),
            step("policy changes"),
            step("configuration changes"),
            step("certificate changes"),
        )
    }
}
