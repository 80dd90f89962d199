//! A summary of refused requests in the log, so that an operator sees at the default level what is refused, and why.
//!
//! The refusals of a [window](super::summary_windows) are counted by reason and issuer. An event consists of counts and of what
//! is configured, and contains nothing from a request.

use std::cmp::Reverse;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tracing::Level;

use super::expected::{detail, expected};
use super::summary_windows::{Elapsed, OutsideSpans, Summarized, SummaryWindows};
use crate::jose::TokenError;
use crate::policy::ResolvedPolicy;
use crate::rejection::Rejection;
use crate::verifier::{TokenVerifier, alternatives};

/// The most combinations of reason and issuer that a message describes.
const MAX_DESCRIBED: usize = 8;

/// Counts and logs the refused requests of a guard and all its layers, which share it.
#[derive(Clone)]
pub(super) struct RefusalSummary(Arc<SummaryWindows<Refusals>>);

/// The settings that the events describe.
struct Refusals {
    verifier: TokenVerifier,
    token_headers: Vec<HeaderName>,
}

/// The refusals for one reason that concern one issuer.
struct Counted {
    rejection: Rejection,
    /// The label of the issuer, if it is a trusted one.
    issuer: Option<Arc<str>>,
    /// The number of members of the policy that did not allow the callers, or `None` if there are several such policies.
    members: Option<usize>,
    count: u64,
}

/// The refusals of one window.
struct Summary {
    counted: Vec<Counted>,
    elapsed: Option<Elapsed>,
}

impl RefusalSummary {
    pub(super) fn new(
        interval: Duration,
        verifier: TokenVerifier,
        token_headers: Vec<HeaderName>,
    ) -> Self {
        let refusals = Refusals {
            verifier,
            token_headers,
        };
        Self(Arc::new(SummaryWindows::new(interval, refusals)))
    }

    /// Takes over from another summary, so that the current window goes on. Logs what that one has counted.
    #[cfg(feature = "policy-file")]
    pub(super) fn succeed(&self, previous: &Self) {
        self.0.succeed(&previous.0);
    }

    /// Counts a refused request. `issuer` is the label of the token's issuer, if that is a trusted one, and `policy` the policy
    /// of the layer.
    pub(super) fn record(
        &self,
        rejection: Rejection,
        issuer: Option<&Arc<str>>,
        policy: &ResolvedPolicy,
    ) {
        let members = match rejection {
            Rejection::NotAllowed | Rejection::InsufficientScope => {
                Some(policy.as_policy().allowed_members())
            }
            _ => None,
        };
        self.0
            .record(|counted| count(counted, rejection, issuer, members));
    }
}

impl Summarized for Refusals {
    type Counted = Vec<Counted>;

    fn is_empty(counted: &Vec<Counted>) -> bool {
        counted.is_empty()
    }

    /// Logs a summary, at the level INFO if all requests lacked a token, which is usual for some services.
    fn log(&self, counted: Vec<Counted>, elapsed: Option<Elapsed>) {
        let summary = Summary { counted, elapsed };
        let mut all = summary.counted.iter();
        let expected = all.all(|counted| counted.rejection == Rejection::MissingToken);
        let is_enabled = if expected {
            tracing::enabled!(Level::INFO)
        } else {
            tracing::enabled!(Level::WARN)
        };
        if !is_enabled {
            return;
        }
        let (count, seconds) = (summary.count(), summary.seconds());
        let reasons = summary.reasons();
        let message = self.message(summary);
        let _outside = OutsideSpans::leave();
        // Events of two levels are two events.
        if expected {
            tracing::info!(parent: None, count, seconds, reasons, "{message}");
        } else {
            tracing::warn!(parent: None, count, seconds, reasons, "{message}");
        }
    }
}

impl Refusals {
    fn message(&self, mut summary: Summary) -> String {
        let count = summary.count();
        let requests = if count == 1 { "request" } else { "requests" };
        let mut message = format!("{count} {requests} refused");
        if let Some(seconds) = summary.seconds() {
            let _ = write!(message, " in the last {seconds} s");
        }
        let counted = &mut summary.counted;
        // Of equal counts, those that are probably a setting come first, since the number of described reasons is limited.
        counted.sort_by_key(|counted| {
            let rejection = &counted.rejection;
            let is_junk = matches!(
                rejection,
                Rejection::MalformedRequest(_) | Rejection::InvalidToken(TokenError::Malformed(_))
            );
            (Reverse(counted.count), is_junk, rejection.reason())
        });
        for (index, counted) in counted.iter().take(MAX_DESCRIBED).enumerate() {
            message.push_str(if index == 0 { ": " } else { "; " });
            let _ = write!(message, "{} {}", counted.count, counted.rejection.reason());
            if let Some(detail) = detail(&counted.rejection) {
                let _ = write!(message, " ({detail})");
            }
            if let Some(issuer) = &counted.issuer
                && self.verifier.issuer_count() > 1
            {
                let _ = write!(message, " of {}", alternatives([&**issuer], 1));
            }
            if let Some(advice) = self.advice(counted) {
                let _ = write!(message, ", {advice}");
            }
        }
        let rest: u64 = counted
            .iter()
            .skip(MAX_DESCRIBED)
            .map(|rest| rest.count)
            .sum();
        if rest > 0 {
            let _ = write!(message, "; {rest} for other reasons");
        }
        message
    }

    /// Returns what is accepted, and what to do.
    fn advice(&self, counted: &Counted) -> Option<String> {
        if !matches!(
            counted.rejection,
            Rejection::NotAllowed | Rejection::InsufficientScope
        ) {
            let issuer = counted.issuer.as_deref();
            return expected(
                &counted.rejection,
                issuer,
                &self.verifier,
                &self.token_headers,
            );
        }
        let policy = match counted.members {
            Some(1) => "by a policy with 1 member".to_owned(),
            Some(members) => format!("by a policy with {members} members"),
            None => "by several policies".to_owned(),
        };
        Some(format!(
            "{policy}: the log level DEBUG of tower_oidc_guard shows each caller and the rule that decided"
        ))
    }
}

/// Counts a refusal.
fn count(
    counted: &mut Vec<Counted>,
    mut rejection: Rejection,
    issuer: Option<&Arc<str>>,
    members: Option<usize>,
) {
    // The time to wait depends on the moment, and is of no interest here.
    if let Rejection::KeysUnavailable { retry_after }
    | Rejection::TokenReviewUnavailable { retry_after } = &mut rejection
    {
        *retry_after = Duration::ZERO;
    }
    let is_same = |counted: &&mut Counted| {
        counted.rejection == rejection && counted.issuer.as_ref() == issuer
    };
    match counted.iter_mut().find(is_same) {
        Some(counted) => {
            counted.count += 1;
            counted.members = counted.members.filter(|count| Some(*count) == members);
        }
        None => counted.push(Counted {
            rejection,
            issuer: issuer.cloned(),
            members,
            count: 1,
        }),
    }
}

impl Summary {
    fn count(&self) -> u64 {
        self.counted.iter().map(|counted| counted.count).sum()
    }

    /// Returns the time in which the refusals were counted, in seconds.
    fn seconds(&self) -> Option<u64> {
        self.elapsed.map(Elapsed::seconds)
    }

    /// Returns the number of refusals for each reason, such as `wrong_audience=30 expired=7`.
    fn reasons(&self) -> String {
        let mut counts: Vec<(&str, u64)> = Vec::new();
        for counted in &self.counted {
            let reason = counted.rejection.reason();
            match counts.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, count)) => *count += counted.count,
                None => counts.push((reason, counted.count)),
            }
        }
        counts.sort_by_key(|(reason, count)| (Reverse(*count), *reason));
        let counts = counts.iter();
        let texts: Vec<_> = counts
            .map(|(reason, count)| format!("{reason}={count}"))
            .collect();
        texts.join(" ")
    }
}

impl fmt::Debug for RefusalSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RefusalSummary").field(&self.0).finish()
    }
}
