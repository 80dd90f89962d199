//! The resources that the programs use: memory, descriptors, threads, tasks and processor time, as Linux and their metrics state it.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Failure;
use crate::growth::{Growth, Limit, median};

/// The time slices of the processor time in `/proc`, per second, which is 100 on every platform of Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The largest number of samples that are saved. More are combined to medians.
const MAX_SAVED: usize = 240;

/// A value that is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// The resident memory, in MiB.
    Memory,
    /// The part of it that is not of a file, such as heap and stacks, in MiB.
    AnonymousMemory,
    /// Open file descriptors.
    Descriptors,
    /// Threads.
    Threads,
    /// Tasks of the runtime that have not ended.
    Tasks,
}

impl Quantity {
    /// All quantities, in the order of the report.
    pub(crate) const ALL: [Self; 5] = [
        Self::Memory,
        Self::AnonymousMemory,
        Self::Descriptors,
        Self::Threads,
        Self::Tasks,
    ];

    /// Returns the name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory, MiB",
            Self::AnonymousMemory => "of that anonymous, MiB",
            Self::Descriptors => "descriptors",
            Self::Threads => "threads",
            Self::Tasks => "tasks",
        }
    }

    /// Returns the name in saved figures.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::AnonymousMemory => "anonymous",
            Self::Descriptors => "descriptors",
            Self::Threads => "threads",
            Self::Tasks => "tasks",
        }
    }

    /// Returns how much the quantity may grow under load.
    ///
    /// Memory: the allocator keeps freed memory, and needs some per thread; 6 MiB and a tenth are more than that. With 100 requests
    /// per second, half of them for each server, a leak of 60 bytes per request exceeds it in an hour, and one of 2 KiB per request
    /// in two minutes. Descriptors, threads and
    /// tasks: while the issuer fails, callers with tokens of unknown keys wait for seconds, each on a connection, so their number
    /// depends on what happens at the time. A leak of one per ten requests exceeds the limit within two minutes, and of one per
    /// thousand in an hour. What is left once the load has ended is limited more strictly by [`REST_LIMIT`].
    pub(crate) fn limit(self) -> Limit {
        match self {
            Self::Memory | Self::AnonymousMemory => Limit {
                amount: 6.0,
                fraction: 0.1,
            },
            Self::Descriptors | Self::Threads | Self::Tasks => Limit {
                amount: 64.0,
                fraction: 0.5,
            },
        }
    }
}

/// By how much descriptors and tasks may differ before and after the load: connections to the issuer that are kept for reuse, and
/// tasks that end with a delay.
pub(crate) const REST_LIMIT: f64 = 8.0;

/// One sample of one program.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// The time since the start of the load, in seconds.
    pub(crate) seconds: f64,
    memory: f64,
    anonymous: f64,
    descriptors: f64,
    threads: f64,
    tasks: f64,
    /// The processor time since the start of the process, in seconds.
    pub(crate) processor: f64,
}

impl Sample {
    /// Returns a value of the sample.
    pub(crate) fn get(&self, quantity: Quantity) -> f64 {
        match quantity {
            Quantity::Memory => self.memory,
            Quantity::AnonymousMemory => self.anonymous,
            Quantity::Descriptors => self.descriptors,
            Quantity::Threads => self.threads,
            Quantity::Tasks => self.tasks,
        }
    }

    /// Samples a process.
    pub(crate) async fn take(
        process: u32,
        metrics: &str,
        http: &reqwest::Client,
        seconds: f64,
    ) -> Result<Self, Failure> {
        let text = http.get(metrics).send().await?.error_for_status()?;
        let text = text.text().await?;
        let mut tasks = text.lines().filter_map(|line| {
            let value = line.strip_prefix("tokio_alive_tasks ")?;
            value.parse().ok()
        });
        let tasks = tasks.next().ok_or("the metrics have no number of tasks")?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| -> Result<f64, Failure> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            let value = value.ok_or_else(|| format!("no {name} in /proc/{process}/status"))?;
            Ok(value.parse()?)
        };
        Ok(Self {
            seconds,
            memory: field("VmRSS:")? / 1024.0,
            anonymous: field("RssAnon:")? / 1024.0,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count() as f64,
            threads: field("Threads:")?,
            tasks,
            processor: processor_seconds(&process.to_string())?,
        })
    }
}

/// Returns the processor time of a process, or of this one for `self`, in seconds.
pub(crate) fn processor_seconds(process: &str) -> Result<f64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of the program, in parentheses, may contain spaces.
    let (_, fields) = stat.rsplit_once(") ").ok_or("/proc has another format")?;
    let ticks = |index: usize| -> Result<f64, Failure> {
        let field = fields.split(' ').nth(index);
        Ok(field.ok_or("/proc has another format")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The samples of one program.
#[derive(Debug)]
pub(crate) struct Series {
    /// The name of the program.
    pub(crate) name: &'static str,
    /// Before the load, while only the client polls.
    pub(crate) before: Sample,
    /// Under load.
    pub(crate) samples: Vec<Sample>,
    /// After the load, once its connections are closed.
    pub(crate) after: Sample,
}

impl Series {
    /// Returns the samples of a quantity after the warm-up, as pairs of seconds and value.
    fn after_warm_up(&self, quantity: Quantity, warm_up: f64) -> Vec<(f64, f64)> {
        let samples = self.samples.iter();
        let samples = samples.filter(|sample| sample.seconds >= warm_up);
        samples
            .map(|sample| (sample.seconds, sample.get(quantity)))
            .collect()
    }

    /// Judges a quantity.
    pub(crate) fn growth(&self, quantity: Quantity, warm_up: f64) -> Option<Growth> {
        Growth::measure(&self.after_warm_up(quantity, warm_up), quantity.limit())
    }

    /// Returns the limits that are exceeded, for a reader.
    pub(crate) fn exceeded(&self, warm_up: f64) -> Vec<String> {
        let mut exceeded = Vec::new();
        for quantity in Quantity::ALL {
            let (name, value) = (self.name, quantity.name());
            match self.growth(quantity, warm_up) {
                None => exceeded.push(format!("{name}: too few samples of {value} to judge")),
                Some(growth) if growth.is_exceeded() => {
                    exceeded.push(format!("{name}: {value}: {growth}"));
                }
                Some(_) => {}
            }
        }
        for quantity in [Quantity::Descriptors, Quantity::Tasks] {
            if !self.is_at_rest(quantity, &self.after) {
                let (before, after) = (self.before.get(quantity), self.after.get(quantity));
                exceeded.push(format!(
                    "{}: {}: {before} before the load and {after} after it, allowed +{REST_LIMIT}",
                    self.name,
                    quantity.name()
                ));
            }
        }
        exceeded
    }

    /// Returns whether a sample after the load has no more of a quantity than before it.
    pub(crate) fn is_at_rest(&self, quantity: Quantity, sample: &Sample) -> bool {
        sample.get(quantity) <= self.before.get(quantity) + REST_LIMIT
    }

    /// Returns the figures to be saved.
    pub(crate) fn to_json(&self, warm_up: f64) -> Value {
        let values = |sample: &Sample| -> Value {
            Quantity::ALL
                .iter()
                .map(|quantity| {
                    let value = (sample.get(*quantity) * 100.0).round() / 100.0;
                    (quantity.key().to_owned(), value.into())
                })
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let growth = Quantity::ALL.iter().filter_map(|quantity| {
            let growth = self.growth(*quantity, warm_up)?;
            let round = |value: f64| (value * 100.0).round() / 100.0;
            let value = json!({
                "first": round(growth.first), "last": round(growth.last),
                "trend": round(growth.trend), "allowed": round(growth.allowed),
            });
            Some((quantity.key().to_owned(), value))
        });
        let growth: serde_json::Map<_, _> = growth.collect();
        let size = self.samples.len().div_ceil(MAX_SAVED).max(1);
        let saved: Vec<_> = self
            .samples
            .chunks(size)
            .map(|chunk| {
                let middle = |value: &dyn Fn(&Sample) -> f64| {
                    (median(chunk.iter().map(value).collect()) * 100.0).round() / 100.0
                };
                let mut row = vec![middle(&|sample| sample.seconds)];
                row.extend(
                    Quantity::ALL
                        .iter()
                        .map(|quantity| middle(&|sample| sample.get(*quantity))),
                );
                row
            })
            .collect();
        json!({
            "before": values(&self.before),
            "after": values(&self.after),
            "growth": growth,
            "processor_seconds": self.samples.last().map(|last| last.processor - self.before.processor),
            "samples": saved,
        })
    }
}

/// Writes all samples as CSV.
pub(crate) fn write_csv(path: &Path, all: &[Series]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let header = Quantity::ALL.map(Quantity::key).join(",");
    writeln!(file, "program,seconds,{header},processor_seconds")?;
    for series in all {
        for sample in &series.samples {
            let values = Quantity::ALL.map(|quantity| format!("{:.2}", sample.get(quantity)));
            let (name, seconds, values) = (series.name, sample.seconds, values.join(","));
            writeln!(file, "{name},{seconds:.1},{values},{:.2}", sample.processor)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the limits that are exceeded by 100 samples of a program.
    fn exceeded(sample: impl Fn(f64) -> Sample, after: Sample) -> Vec<String> {
        let samples = (0..100).map(f64::from);
        let samples = samples.map(|seconds| Sample {
            seconds,
            ..sample(seconds)
        });
        let series = Series {
            name: "program",
            before: Sample::default(),
            samples: samples.collect(),
            after,
        };
        series.exceeded(10.0)
    }

    #[test]
    fn growing_memory_and_tasks_that_are_left_are_reported() {
        let at_rest = Sample::default();
        assert!(exceeded(|_| at_rest, at_rest).is_empty());
        let memory = |seconds| Sample {
            memory: 20.0 + seconds * 0.2,
            ..Sample::default()
        };
        let found = exceeded(memory, at_rest);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("program: memory, MiB: "), "{found:?}");
        for tasks in [8.0, 9.0] {
            let left = Sample {
                tasks,
                ..Sample::default()
            };
            let found = exceeded(|_| at_rest, left);
            assert_eq!(!found.is_empty(), tasks > REST_LIMIT, "{found:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_processor_time_of_this_process_is_read() {
        assert!(processor_seconds("self").unwrap() >= 0.0);
        assert!(processor_seconds("nobody").is_err());
    }
}
