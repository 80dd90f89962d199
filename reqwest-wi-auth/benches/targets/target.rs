//! A figure and its limit.

use std::fmt::Display;

/// A figure that must not be over its limit.
pub(crate) struct Target {
    name: &'static str,
    value: f64,
    unit: &'static str,
    limit: f64,
}

impl Target {
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str, limit: f64) -> Self {
        Self {
            name,
            value,
            unit,
            limit,
        }
    }

    pub(crate) fn is_met(&self) -> bool {
        self.value <= self.limit
    }

    pub(crate) fn print(&self) {
        let Self {
            name, unit, limit, ..
        } = self;
        println!(
            "target {name}: {} {unit} (limit {limit})",
            rounded(self.value)
        );
    }
}

/// With two decimals where there are any.
pub(crate) fn rounded(value: f64) -> impl Display {
    (value * 100.0).round() / 100.0
}
