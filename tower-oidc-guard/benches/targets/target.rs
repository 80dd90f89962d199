//! Measuring times and comparing them with targets.

use std::time::{Duration, Instant};

const BATCHES: usize = 1500;
/// How often that many batches are run at most.
const REPETITIONS: usize = 6;

/// A value that depends on the speed of the machine.
pub(crate) struct Absolute {
    value: f64,
    unit: &'static str,
}

impl Absolute {
    pub(crate) fn new(value: f64, unit: &'static str) -> Self {
        Self { value, unit }
    }
}

/// Runs batches of each function in turn and returns the lowest time per call of each.
///
/// As long as `ratio` of these times is above `limit`, further batches are run: while the machine or its host is busy, it takes longer
/// until each function has once run undisturbed.
pub(crate) fn best<const N: usize>(
    batch: u32,
    work: [&dyn Fn(); N],
    ratio: impl Fn([Duration; N]) -> f64,
    limit: f64,
) -> [Duration; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..REPETITIONS {
        for _ in 0..BATCHES {
            for (work, best) in work.iter().zip(&mut best) {
                let began = Instant::now();
                (0..batch).for_each(|_| work());
                *best = (*best).min(began.elapsed());
            }
        }
        if ratio(best.map(|time| time / batch)) <= limit {
            break;
        }
    }
    best.map(|time| time / batch)
}

/// Measures two functions, and compares the ratio of their times with a limit. Returns whether the target is met.
pub(crate) fn ratio(name: &str, batch: u32, work: [&dyn Fn(); 2], limit: f64) -> bool {
    let times = best(batch, work, quotient, limit);
    print_ratio(name, times, limit)
}

/// Compares the ratio of two times with a limit. Returns whether the target is met.
pub(crate) fn print_ratio(name: &str, times: [Duration; 2], limit: f64) -> bool {
    println!("{name}: {:.2?} over {:.2?}", times[0], times[1]);
    target(name, quotient(times), "times", limit)
}

/// Returns how much longer `whole` takes than `bare`, divided by `over`.
pub(crate) fn added_over([bare, whole, over]: [Duration; 3]) -> f64 {
    quotient([whole.saturating_sub(bare), over])
}

fn quotient([time, over]: [Duration; 2]) -> f64 {
    time.as_secs_f64() / over.as_secs_f64()
}

/// Prints the line of a target and returns whether it is met. The absolute value of a ratio is printed as well.
pub(crate) fn target_with(
    name: &str,
    value: f64,
    unit: &str,
    limit: f64,
    absolute: Absolute,
) -> bool {
    let Absolute {
        value: of,
        unit: in_unit,
    } = absolute;
    println!("target {name}: {value:.3} {unit} (limit {limit}), {of:.0} {in_unit}");
    value <= limit
}

/// Returns the median of some values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the line of a target and returns whether it is met.
pub(crate) fn target(name: &str, value: f64, unit: &str, limit: f64) -> bool {
    println!("target {name}: {value:.3} {unit} (limit {limit})");
    value <= limit
}
