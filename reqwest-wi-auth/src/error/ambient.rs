//! Errors of the choice of a source by the environment.

use std::fmt;

use crate::AmbientSource;

/// An error of [`ambient`](crate::ambient): no source was chosen.
///
/// The text lists what was found and what to do. It contains no token, and no value of a variable that is a credential.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AmbientError {
    /// Several sources are configured for the workload, and none of them has precedence.
    #[error(
        "{} sources of tokens for the audience {audience:?} are configured: {}; expected one: remove the others, switch them off with `Ambient::builder().without(…)`, or set WI_TOKEN_FILE to the path of the token file to use",
        found.len(),
        list(found)
    )]
    Ambiguous {
        /// The audience of the tokens.
        audience: String,
        /// The sources, and what was found of each.
        found: Vec<AmbientFinding>,
    },
    /// A source is configured for the workload, but incompletely or with an error. No other source is used in its place, since
    /// that would be another identity.
    #[error(
        "the configured source of tokens for the audience {audience:?} cannot be used: {}; correct it, or switch it off with `Ambient::builder().without(…)`",
        list(found)
    )]
    Unusable {
        /// The audience of the tokens.
        audience: String,
        /// The sources, and why they cannot be used.
        found: Vec<AmbientFinding>,
    },
    /// There is no source.
    #[error(
        "no source of tokens for the audience {audience:?} was found; looked for, in this order: {}",
        list(looked_for)
    )]
    NotFound {
        /// The audience of the tokens.
        audience: String,
        /// The sources, what was found of each, and how to provide it.
        looked_for: Vec<AmbientFinding>,
    },
    /// The files of the environment could not be read in time, for example because a network file system does not respond.
    #[error(
        "the environment was not inspected within {} s; check the file systems of the token files and of the files that are named in environment variables",
        limit.as_secs()
    )]
    Timeout {
        /// The time limit.
        limit: std::time::Duration,
    },
    /// The environment was inspected outside a tokio runtime.
    #[error(
        "the environment cannot be inspected outside a tokio runtime; open the source within one"
    )]
    NoRuntime,
}

/// A source, and a description of what was found of it in the environment or why it was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmbientFinding {
    /// The source.
    pub source: AmbientSource,
    /// A description of what was found.
    pub reason: String,
}

impl AmbientError {
    /// Returns whether a later attempt may succeed without a change of configuration or code.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

impl fmt::Display for AmbientFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.reason)
    }
}

/// Returns findings as a list within a sentence.
pub(crate) fn list(findings: &[AmbientFinding]) -> String {
    let texts: Vec<_> = findings.iter().map(AmbientFinding::to_string).collect();
    texts.join("; ")
}
