//! The table of checks.

use std::fmt::Write as _;

use serde_json::json;

use crate::escape::{escape, escape_json};
use crate::output::print_line;

/// The width of the column with the names of the checks.
const NAME_WIDTH: usize = 14;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Passed,
    /// It passed, but something is unusual.
    Warning,
    Failed,
    /// It cannot be made, because of an earlier result or a setting.
    Skipped,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// A check and its result. The texts may contain text from a file, a token or a server. They are escaped when printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Status,
    /// The finding.
    pub(super) found: String,
    /// The expectation that was not met.
    expected: Option<String>,
    /// The remedy.
    advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self {
            name,
            status,
            found: found.into(),
            expected: None,
            advice: None,
        }
    }

    pub(super) fn passed(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Passed, found)
    }

    pub(super) fn warning(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Warning, found)
    }

    pub(super) fn failed(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Failed, found)
    }

    pub(super) fn skipped(name: &'static str, reason: impl Into<String>) -> Self {
        Self::new(name, Status::Skipped, reason)
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub(super) fn is_failed(&self) -> bool {
        self.status == Status::Failed
    }

    /// Returns the rows of the table for this check.
    fn rows(&self) -> String {
        let (status, name) = (self.status.as_str(), self.name);
        let mut rows = format!("{status:<7}  {name:<NAME_WIDTH$}  {}", escape(&self.found));
        for (label, text) in [("expected", &self.expected), ("to do", &self.advice)] {
            if let Some(text) = text {
                // Writing to a `String` cannot fail.
                let _ = write!(rows, "\n{:<9}{label:<NAME_WIDTH$}  {}", "", escape(text));
            }
        }
        rows
    }

    fn to_json(&self, service: &str) -> String {
        let line = json!({
            "service": service,
            "check": self.name,
            "result": self.status.as_str().to_ascii_lowercase(),
            "found": self.found,
            "expected": self.expected,
            "to_do": self.advice,
        });
        escape_json(&line.to_string()).into_owned()
    }
}

/// The format of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableFormat {
    Text,
    /// One JSON object per check, each on its own line.
    Json,
}

/// Prints checks when they are added, and counts their results.
#[derive(Debug)]
pub(super) struct Table {
    format: TableFormat,
    service: String,
    passed: usize,
    warnings: usize,
    failed: usize,
    skipped: usize,
}

impl Table {
    pub(super) fn new(format: TableFormat) -> Self {
        Self {
            format,
            service: String::new(),
            passed: 0,
            warnings: 0,
            failed: 0,
            skipped: 0,
        }
    }

    /// Starts the part of the table for a service.
    pub(super) fn start(&mut self, service: &str, identity: &str) {
        service.clone_into(&mut self.service);
        if self.format == TableFormat::Text {
            print_line(&escape(&format!("{service} (identity: {identity})")));
        }
    }

    pub(super) fn add(&mut self, check: &Check) {
        let count = match check.status {
            Status::Passed => &mut self.passed,
            Status::Warning => &mut self.warnings,
            Status::Failed => &mut self.failed,
            Status::Skipped => &mut self.skipped,
        };
        *count += 1;
        match self.format {
            TableFormat::Text => print_line(&check.rows()),
            TableFormat::Json => print_line(&check.to_json(&self.service)),
        }
    }

    pub(super) fn add_all<'c>(&mut self, checks: impl IntoIterator<Item = &'c Check>) {
        for check in checks {
            self.add(check);
        }
    }

    /// Prints the numbers of results, and returns whether no check failed.
    pub(super) fn finish(self) -> bool {
        let Self {
            passed,
            warnings,
            failed,
            skipped,
            ..
        } = self;
        match self.format {
            TableFormat::Text => print_line(&format!(
                "check: {passed} ok, {warnings} warnings, {failed} failed, {skipped} skipped"
            )),
            TableFormat::Json => print_line(
                &json!({ "ok": passed, "warnings": warnings, "failed": failed, "skipped": skipped })
                    .to_string(),
            ),
        }
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_has_rows_for_what_was_found_and_expected_and_what_to_do() {
        let check = Check::failed("audience", "a\nb").expected("c").advice("d");
        assert_eq!(
            check.rows(),
            "FAILED   audience        a\\nb\n         expected        c\n         to do           d"
        );
        let line: serde_json::Value = serde_json::from_str(&check.to_json("s")).unwrap();
        assert_eq!(
            line,
            json!({ "service": "s", "check": "audience", "result": "failed", "found": "a\nb", "expected": "c", "to_do": "d" })
        );
    }

    #[test]
    fn warnings_and_skipped_checks_are_no_failures() {
        let mut table = Table::new(TableFormat::Json);
        table.add_all(&[
            Check::passed("a", ""),
            Check::warning("b", ""),
            Check::skipped("c", ""),
        ]);
        assert!(table.finish());
        let mut table = Table::new(TableFormat::Json);
        table.add(&Check::failed("a", ""));
        assert!(!table.finish());
    }
}
