//! The shadow policy: a second policy whose decisions are compared with those of the enforced one.
//!
//! 1. It is evaluated for each request on which the enforced policy decides: with a valid token, or without a token. A request
//!    that is rejected whatever the policy, such as one with an expired token, is not compared, and neither is a CORS preflight.
//! 2. A difference is counted, logged at the level DEBUG, part of a [summary](super::summary_windows) and, if the audit is
//!    turned on, of the audit. The request proceeds as the enforced policy has decided.
//! 3. A condition of the shadow policy that panics does not affect the request. Once enforced, it would not let the request
//!    reach the service, so it is compared as a rejection. The policy is then not evaluated for a minute.
//! 4. A shadow policy that no longer fits the issuers, because a configuration file has changed, is suspended until it does.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Level;

use super::audit::AuditDecision;
use super::summary_windows::{Elapsed, OutsideSpans, Summarized, SummaryWindows};
use crate::identity::Identity;
use crate::policy::{Decision, Difference, ResolvedPolicy};
use crate::telemetry;
use crate::text::printable;

/// The most kinds of differences that a message describes.
const MAX_DESCRIBED: usize = 8;
/// The most characters of a subject or a rule in a message. A service account and its namespace have up to 340.
const MAX_TEXT: usize = 400;
/// The time for which a policy with a condition that has panicked is not evaluated, since each panic is reported by the panic hook.
const PAUSE: Duration = Duration::from_secs(60);
const PANICKED: &str = "a condition of `require` panicked";
pub(super) const MISSING_TOKEN_SETTING: &str = "the setting `allow_missing_token`";

/// A policy that is evaluated but not enforced.
#[derive(Debug, Clone)]
pub(super) struct ShadowPolicy {
    pub(super) policy: ResolvedPolicy,
    /// Whether the guard admits requests without a token, whatever the policy.
    allow_missing_token: bool,
    /// Logs a summary of the differences; `None` if summaries are turned off.
    summary: Option<Arc<SummaryWindows<Differences>>>,
    pause: Arc<Pause>,
}

/// The time for which the policy is not evaluated because one of its conditions has panicked.
#[derive(Debug)]
struct Pause {
    start: Instant,
    /// The end of the pause in milliseconds since `start`, or 0 if there was none.
    until: AtomicU64,
}

impl Pause {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            until: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_over(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == 0 || until <= self.now()
    }

    fn begin(&self) {
        let milliseconds = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
        let until = self.now().saturating_add(milliseconds);
        self.until.store(until, Ordering::Relaxed);
        tracing::warn!(
            seconds = PAUSE.as_secs(),
            "a condition of the shadow policy panicked; the request is not affected, and the shadow policy is not evaluated for a while"
        );
    }
}

/// A decision of the enforced policy on a request or a token.
pub(super) struct EnforcedDecision<'d> {
    pub(super) policy: &'d ResolvedPolicy,
    /// The caller, or `None` for a request without a token.
    pub(super) caller: Option<&'d Identity>,
    pub(super) is_admitted: bool,
    /// Which rule decided, if it is known.
    pub(super) rule: Option<&'d str>,
}

/// The decision of a shadow policy, with its rule.
pub(super) struct ShadowDecision {
    pub(super) decision: AuditDecision,
    pub(super) rule: String,
    /// Whether a condition panicked.
    is_panic: bool,
}

impl ShadowPolicy {
    /// Creates a shadow policy. `interval` is that of summaries, or `None` to log none.
    pub(super) fn new(
        policy: ResolvedPolicy,
        allow_missing_token: bool,
        interval: Option<Duration>,
    ) -> Self {
        let summary = interval.map(|interval| SummaryWindows::new(interval, Differences));
        Self {
            policy,
            allow_missing_token,
            summary: summary.map(Arc::new),
            pause: Arc::new(Pause::new()),
        }
    }

    /// Takes over from another shadow policy: the current window of its summary goes on. Logs whether it is suspended, if that
    /// is a change.
    #[cfg(feature = "policy-file")]
    pub(super) fn succeed(&self, previous: &Self) {
        if let (Some(summary), Some(earlier)) = (&self.summary, &previous.summary) {
            summary.succeed(earlier);
        }
        let (now, before) = (self.policy.suspension(), previous.policy.suspension());
        if now != before {
            let error = now.map(|error| error.to_string());
            telemetry::record_shadow_suspension(error.as_deref());
        }
    }

    /// Returns whether the policy is evaluated at the moment.
    fn is_evaluated(&self) -> bool {
        !self.policy.is_suspended() && self.pause.is_over()
    }

    /// Compares the decision on a request. Allocates nothing unless there is a difference.
    pub(super) fn compare(&self, enforced: &EnforcedDecision<'_>) {
        if !self.is_evaluated() {
            return;
        }
        telemetry::count_shadow_evaluation();
        let is_admitted = match enforced.caller {
            None if self.allow_missing_token => true,
            caller => unless_panicking(|| match caller {
                Some(caller) => self.policy.allows(caller),
                None => self.policy.allows_anonymous(),
            })
            .unwrap_or_else(|| {
                self.pause.begin();
                false
            }),
        };
        if is_admitted != enforced.is_admitted {
            self.record_difference(enforced, None);
        }
    }

    /// Compares the decision on a request, and returns that of the shadow policy with its rule. Returns `None` while the policy is
    /// not evaluated.
    pub(super) fn compare_explained(
        &self,
        enforced: &EnforcedDecision<'_>,
    ) -> Option<ShadowDecision> {
        if !self.is_evaluated() {
            return None;
        }
        telemetry::count_shadow_evaluation();
        let decision = self.explain(enforced.caller);
        if decision.is_panic {
            self.pause.begin();
        }
        if decision.is_admitted() != enforced.is_admitted {
            self.record_difference(enforced, Some(&decision.rule));
        }
        Some(decision)
    }

    /// Evaluates the policy for a diagnosis. Returns `None` while it does not fit the trusted issuers.
    pub(super) fn diagnose(&self, caller: &Identity) -> Option<ShadowDecision> {
        (!self.policy.is_suspended()).then(|| self.explain(Some(caller)))
    }

    /// Evaluates the policy for a caller, or for a request without a token.
    fn explain(&self, caller: Option<&Identity>) -> ShadowDecision {
        if caller.is_none() && self.allow_missing_token {
            return ShadowDecision {
                decision: AuditDecision::Anonymous,
                rule: MISSING_TOKEN_SETTING.to_owned(),
                is_panic: false,
            };
        }
        let decision = explain(&self.policy, caller);
        let is_allowed = decision.as_ref().is_some_and(Decision::is_allowed);
        ShadowDecision {
            decision: match caller {
                _ if !is_allowed => AuditDecision::Rejected,
                Some(_) => AuditDecision::Allowed,
                None => AuditDecision::Anonymous,
            },
            is_panic: decision.is_none(),
            rule: decision.map_or_else(|| PANICKED.to_owned(), |decision| decision.reason().into()),
        }
    }

    /// Records that the decisions on a request differ. `rule` is that of the shadow policy, if it is known.
    #[cold]
    fn record_difference(&self, enforced: &EnforcedDecision<'_>, rule: Option<&str>) {
        let difference = if enforced.is_admitted {
            Difference::WouldReject
        } else {
            Difference::WouldAllow
        };
        let issuer = enforced.caller.map(Identity::issuer_label);
        telemetry::count_shadow_difference(difference, issuer);
        let is_logged = tracing::enabled!(Level::DEBUG);
        let needs_example = self.summary.as_ref().is_some_and(|summary| {
            summary.with_counted(|counted| !counted.has_example(difference, issuer))
        });
        // Composing texts for each request is avoided.
        let example =
            (is_logged || needs_example).then(|| Example::new(enforced, self, difference, rule));
        if let Some(example) = example.as_ref().filter(|_| is_logged) {
            tracing::debug!(
                difference = difference.as_str(),
                issuer = issuer.map_or(telemetry::NO_ISSUER, |issuer| issuer),
                subject = example.subject.as_deref(),
                rule = example.rule.as_deref(),
                shadow_rule = example.shadow_rule.as_deref(),
                "the shadow policy would have decided otherwise"
            );
        }
        if let Some(summary) = &self.summary {
            summary.record(|counted| counted.add(difference, issuer, example));
        }
    }
}

impl ShadowDecision {
    pub(super) fn is_admitted(&self) -> bool {
        self.decision != AuditDecision::Rejected
    }
}

/// Returns the decision of a policy, or `None` if one of its conditions panicked.
fn explain(policy: &ResolvedPolicy, caller: Option<&Identity>) -> Option<Decision> {
    unless_panicking(|| match caller {
        Some(caller) => policy.explain(caller),
        None => policy.explain_anonymous(),
    })
}

/// Calls a function that evaluates a policy. Returns `None` if it panicked, which the panic hook has reported.
fn unless_panicking<R>(evaluate: impl FnOnce() -> R) -> Option<R> {
    // The guard has no state that an evaluation changes. That of a condition is up to the condition.
    catch_unwind(AssertUnwindSafe(evaluate)).ok()
}

/// A request on which the policies differ.
struct Example {
    issuer: Option<Arc<str>>,
    /// The subject of the caller, or `None` for a request without a token.
    subject: Option<String>,
    /// Which rule of the enforced policy decided. Unknown if the content of a policy file has been replaced since, and so is
    /// that of the shadow policy.
    rule: Option<String>,
    shadow_rule: Option<String>,
}

impl Example {
    fn new(
        enforced: &EnforcedDecision<'_>,
        shadow: &ShadowPolicy,
        difference: Difference,
        shadow_rule: Option<&str>,
    ) -> Self {
        let caller = enforced.caller;
        let is_admitted = difference == Difference::WouldReject;
        let rule = || match caller {
            None if shadow.allow_missing_token => Some(MISSING_TOKEN_SETTING.to_owned()),
            caller => {
                let decision = explain(enforced.policy, caller)?;
                (decision.is_allowed() == is_admitted).then(|| shortened(decision.reason()))
            }
        };
        let explain_shadow = || {
            let decision = shadow.explain(caller);
            (decision.is_admitted() != is_admitted).then(|| shortened(&decision.rule))
        };
        Self {
            issuer: caller.map(Identity::issuer_label).cloned(),
            subject: caller.map(|caller| shortened(caller.subject())),
            rule: enforced.rule.map(shortened).or_else(rule),
            shadow_rule: shadow_rule.map(shortened).or_else(explain_shadow),
        }
    }

    fn describe(&self, message: &mut String) {
        let _ = match (&self.subject, &self.issuer) {
            (Some(subject), Some(issuer)) => {
                write!(
                    message,
                    ", such as that of {subject} of {}",
                    shortened(issuer)
                )
            }
            _ => write!(message, ", such as one without a token"),
        };
        let rules = [("policy", &self.rule), ("shadow policy", &self.shadow_rule)];
        let rules = rules
            .into_iter()
            .filter_map(|(name, rule)| Some(format!("{name}: {}", rule.as_ref()?)));
        let rules: Vec<_> = rules.collect();
        if !rules.is_empty() {
            let _ = write!(message, " ({})", rules.join("; "));
        }
    }
}

/// Returns text that may be from a token, with characters escaped that are not printable, and shortened.
fn shortened(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}

/// Logs the differences of a window.
struct Differences;

/// The differences of one kind that concern one issuer.
struct CountedKind {
    difference: Difference,
    /// The label of the issuer, or `None` for requests without a token.
    issuer: Option<Arc<str>>,
    count: u64,
    /// The first of them, if it was described.
    example: Option<Example>,
}

/// The differences of one window: at most two kinds for each issuer.
#[derive(Default)]
struct CountedDifferences(Vec<CountedKind>);

impl CountedDifferences {
    fn find(&self, difference: Difference, issuer: Option<&Arc<str>>) -> Option<usize> {
        let mut kinds = self.0.iter();
        kinds.position(|kind| kind.difference == difference && kind.issuer.as_ref() == issuer)
    }

    fn has_example(&self, difference: Difference, issuer: Option<&Arc<str>>) -> bool {
        let found = self.find(difference, issuer);
        found.is_some_and(|index| self.0[index].example.is_some())
    }

    fn add(&mut self, difference: Difference, issuer: Option<&Arc<str>>, example: Option<Example>) {
        match self.find(difference, issuer) {
            Some(index) => {
                let kind = &mut self.0[index];
                kind.count += 1;
                kind.example = kind.example.take().or(example);
            }
            None => self.0.push(CountedKind {
                difference,
                issuer: issuer.cloned(),
                count: 1,
                example,
            }),
        }
    }

    /// Returns the number of differences, of one kind or of all.
    fn count(&self, difference: Option<Difference>) -> u64 {
        let kinds = self.0.iter();
        let kinds = kinds.filter(|kind| difference.is_none_or(|own| kind.difference == own));
        kinds.map(|kind| kind.count).sum()
    }
}

impl Summarized for Differences {
    type Counted = CountedDifferences;

    fn is_empty(counted: &CountedDifferences) -> bool {
        counted.0.is_empty()
    }

    fn log(&self, counted: CountedDifferences, elapsed: Option<Elapsed>) {
        if !tracing::enabled!(Level::INFO) {
            return;
        }
        let count = counted.count(None);
        let would_reject = counted.count(Some(Difference::WouldReject));
        let would_allow = counted.count(Some(Difference::WouldAllow));
        let seconds = elapsed.map(Elapsed::seconds);
        let message = message(counted, count, seconds);
        let _outside = OutsideSpans::leave();
        tracing::info!(parent: None, count, seconds, would_reject, would_allow, "{message}");
    }
}

fn message(counted: CountedDifferences, count: u64, seconds: Option<u64>) -> String {
    let requests = if count == 1 { "request" } else { "requests" };
    let mut message = format!("the shadow policy differs for {count} {requests}");
    if let Some(seconds) = seconds {
        let _ = write!(message, " in the last {seconds} s");
    }
    let mut kinds = counted.0;
    kinds.sort_by_key(|kind| Reverse(kind.count));
    for (index, kind) in kinds.iter().take(MAX_DESCRIBED).enumerate() {
        message.push_str(if index == 0 { ": " } else { "; " });
        let _ = write!(message, "{} {}", kind.count, kind.difference.description());
        if let Some(example) = &kind.example {
            example.describe(&mut message);
        }
    }
    let rest: u64 = kinds
        .iter()
        .skip(MAX_DESCRIBED)
        .map(|kind| kind.count)
        .sum();
    if rest > 0 {
        let _ = write!(message, "; {rest} of other issuers");
    }
    message
}
