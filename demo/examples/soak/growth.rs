//! The rule by which growth is judged.
//!
//! A value (memory, descriptors, tasks, threads) may fluctuate, and it may settle at another level once. A leak grows all the time.
//! So a value has grown too much only if both of these exceed the limit, over the time after the warm-up:
//!
//! 1. the median of the last tenth less the median of the first tenth: a peak of some samples does not change a median,
//! 2. the slope times the duration. The slope is the median of the slopes between the samples of the first half and those half
//!    the time later (Theil and Sen, with as many pairs as samples), which does not change with some outliers or with one step
//!    late in the run.

use std::fmt;

/// How much a value may grow: a fixed amount and a fraction of its first level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// The fixed amount, in the unit of the value.
    pub(crate) amount: f64,
    /// The fraction of the first level.
    pub(crate) fraction: f64,
}

/// How a value has changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Growth {
    /// The median of the first tenth.
    pub(crate) first: f64,
    /// The median of the last tenth.
    pub(crate) last: f64,
    /// The slope times the duration.
    pub(crate) trend: f64,
    /// The largest growth that is allowed.
    pub(crate) allowed: f64,
}

impl Growth {
    /// Judges samples: pairs of a time in seconds and a value, in the order of time. Returns `None` if there are fewer than ten.
    pub(crate) fn measure(samples: &[(f64, f64)], limit: Limit) -> Option<Self> {
        let tenth = samples.len() / 10;
        if tenth == 0 {
            return None;
        }
        let first = median(values(&samples[..tenth]));
        let last = median(values(&samples[samples.len() - tenth..]));
        let half = samples.len() / 2;
        let slopes = samples[..half].iter().zip(&samples[samples.len() - half..]);
        let slopes = slopes
            .filter(|(early, late)| late.0 > early.0)
            .map(|(early, late)| (late.1 - early.1) / (late.0 - early.0));
        let duration = samples[samples.len() - 1].0 - samples[0].0;
        Some(Self {
            first,
            last,
            trend: median(slopes.collect()) * duration,
            allowed: limit.amount + limit.fraction * first,
        })
    }

    /// Returns whether the value has grown by more than is allowed.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.last - self.first > self.allowed && self.trend > self.allowed
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            last,
            trend,
            allowed,
        } = self;
        write!(
            f,
            "{first:.1} to {last:.1}, trend {trend:+.1}, allowed +{allowed:.1}"
        )
    }
}

fn values(samples: &[(f64, f64)]) -> Vec<f64> {
    samples.iter().map(|(_, value)| *value).collect()
}

/// Returns the median, or 0 if there are no values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        amount: 4.0,
        fraction: 0.1,
    };

    /// Returns a sample per second for 100 s.
    fn samples(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..100).map(f64::from).map(|t| (t, value(t))).collect()
    }

    fn is_exceeded(value: impl Fn(f64) -> f64) -> bool {
        Growth::measure(&samples(value), LIMIT)
            .unwrap()
            .is_exceeded()
    }

    #[test]
    fn steady_growth_beyond_the_limit_is_exceeded_with_and_without_noise() {
        let noise = |t: f64| (t * 7.0).sin() * 3.0;
        assert!(is_exceeded(|t| 20.0 + 0.1 * t));
        assert!(is_exceeded(|t| 20.0 + 0.1 * t + noise(t)));
        // In steps, as an allocator takes memory from the system.
        assert!(is_exceeded(|t| 20.0 + (t / 20.0).floor() * 2.5));
    }

    #[test]
    fn growth_within_the_limit_is_not_exceeded() {
        assert!(!is_exceeded(|t| 20.0 + 0.05 * t));
        assert!(!is_exceeded(|t| 200.0 + 0.2 * t));
        assert!(!is_exceeded(|t| 200.0 - 0.2 * t));
    }

    #[test]
    fn noise_peaks_and_one_late_step_are_not_exceeded() {
        assert!(!is_exceeded(|t| 20.0 + (t * 7.0).sin() * 15.0));
        let is_peak = |t: f64| (94.0..98.0).contains(&t);
        assert!(!is_exceeded(|t| if is_peak(t) { 500.0 } else { 20.0 }));
        assert!(!is_exceeded(|t| if t >= 80.0 { 60.0 } else { 20.0 }));
    }

    #[test]
    fn too_few_samples_are_not_judged() {
        assert_eq!(Growth::measure(&samples(|t| t)[..9], LIMIT), None);
        assert!(Growth::measure(&samples(|t| t)[..10], LIMIT).is_some());
    }

    #[test]
    fn the_median_of_an_even_number_of_values_is_between_the_two_in_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert_eq!(median(vec![5.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
