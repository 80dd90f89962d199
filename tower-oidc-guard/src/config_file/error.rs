//! Errors in the content of a configuration file.

use std::fmt;

use crate::policy::PolicyError;

/// A position in a file. Both numbers begin at 1; a column is counted in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl Position {
    /// The first character of a file.
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    /// Returns the position after the last character of a text.
    pub(super) fn at_end_of(text: &str) -> Self {
        let last_line = text.rsplit('\n').next().unwrap_or_default();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1);
        Self {
            line: number(text.matches('\n').count()),
            column: number(last_line.chars().count()),
        }
    }
}

/// A value with its position in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Positioned<T> {
    pub(crate) position: Position,
    pub(crate) value: T,
}

/// An error in the content of a configuration file, with its position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContentError {
    pub(crate) position: Position,
    pub(crate) reason: Reason,
}

/// The reason of a [`ContentError`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reason {
    /// The file is not YAML, or a field or value is not as expected.
    Text(String),
    /// A member, audience or claim of the policy is invalid, or does not fit the guard.
    Policy(PolicyError),
}

impl ContentError {
    pub(crate) fn new(position: Position, reason: impl Into<String>) -> Self {
        Self {
            position,
            reason: Reason::Text(reason.into()),
        }
    }

    pub(crate) fn from_policy(position: Position, error: PolicyError) -> Self {
        Self {
            position,
            reason: Reason::Policy(error),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Policy(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        write!(f, "line {line}, column {column}: {}", self.reason)
    }
}

impl std::error::Error for ContentError {}
