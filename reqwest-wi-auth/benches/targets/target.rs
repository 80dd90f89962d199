//! A measured value and its limit.

use std::fmt::Display;

/// A measured value that must not exceed its limit.
pub(crate) struct Target {
    name: &'static str,
    value: f64,
    unit: &'static str,
    limit: f64,
    /// The absolute value of a ratio.
    absolute: Option<String>,
}

impl Target {
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str, limit: f64) -> Self {
        Self {
            name,
            value,
            unit,
            limit,
            absolute: None,
        }
    }

    /// Creates a target for a ratio to a fixed piece of work of the same run, which hardly depends on the speed of
    /// the machine. `absolute` is printed as well.
    pub(crate) fn ratio(
        name: &'static str,
        ratio: f64,
        work: &'static str,
        limit: f64,
        absolute: String,
    ) -> Self {
        Self {
            absolute: Some(absolute),
            ..Self::new(name, ratio, work, limit)
        }
    }

    pub(crate) fn is_met(&self) -> bool {
        self.value <= self.limit
    }

    pub(crate) fn print(&self) {
        let Self {
            name, unit, limit, ..
        } = self;
        let value = rounded(self.value);
        match &self.absolute {
            Some(absolute) => println!("target {name}: {value} {unit} (limit {limit}), {absolute}"),
            None => println!("target {name}: {value} {unit} (limit {limit})"),
        }
    }
}

/// Rounds to at most two decimals.
pub(crate) fn rounded(value: f64) -> impl Display {
    (value * 100.0).round() / 100.0
}
