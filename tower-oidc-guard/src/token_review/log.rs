//! Log events about reviews: on change and every 5 minutes, never for each request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::api::{Answer, Denial, DenialKind};
use super::error::TokenReviewError;
use super::settings::{ReviewSettings, WhenUnavailable};
use crate::identity::Identity;
use crate::keys::failures::Failures;
use crate::telemetry;
use crate::text::log_line;

/// The time after which an event that occurs again is logged again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);
/// The time after which a token of an object that no longer exists is logged again: such tokens are part of normal operation.
const GONE_INTERVAL: Duration = Duration::from_secs(10);

/// A limit on reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Rate,
    Concurrency,
    Tokens,
    /// The number of requests that wait.
    Waiting,
}

/// The effect of a limit on a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The review is made later.
    Delayed,
    /// A request is decided without it.
    Decided,
}

/// The events that have been logged.
#[derive(Default)]
pub(super) struct ReviewLog {
    failures: Failures,
    has_succeeded: bool,
    limited: [Throttle; 8],
    refused: [Throttle; 3],
}

/// Lets one event pass per interval, and counts the others.
#[derive(Default)]
struct Throttle {
    logged: Option<Instant>,
    suppressed: usize,
}

impl Throttle {
    /// Records this number of events. Returns the number since the last event that passed, if this one passes.
    fn pass(&mut self, events: usize, now: Instant, interval: Duration) -> Option<usize> {
        let is_recent = |logged: Instant| now.saturating_duration_since(logged) < interval;
        if self.logged.is_some_and(is_recent) {
            self.suppressed = self.suppressed.saturating_add(events);
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.suppressed).saturating_add(events))
    }
}

impl Limit {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Tokens => "tokens",
            Self::Waiting => "waiting",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Rate => "raise `max_reviews_per_second` or `ttl`",
            Self::Concurrency => {
                "raise `max_concurrent_reviews`, or find out why the API server is slow"
            }
            Self::Tokens => "raise `max_tokens`",
            Self::Waiting => {
                "1024 requests wait already; raise `max_reviews_per_second`, or lower `time_limit`"
            }
        }
    }
}

/// Returns what it means for requests that tokens are not reviewed.
fn consequence(settings: &ReviewSettings) -> &'static str {
    match settings.when_unavailable {
        WhenUnavailable::Accept => {
            "tokens are accepted without confirmation, those of deleted pods as well"
        }
        WhenUnavailable::Refuse => {
            "tokens that were not confirmed within `ttl` are refused with 503"
        }
    }
}

impl ReviewLog {
    /// Records that a limit has an effect on this number of reviews.
    pub(super) fn limited(
        &mut self,
        issuer: &Arc<str>,
        settings: &ReviewSettings,
        limit: Limit,
        effect: Effect,
        reviews: usize,
    ) {
        telemetry::record_limited_reviews(issuer, limit.name(), reviews);
        let index = 2 * limit as usize + effect as usize;
        let Some(throttle) = self.limited.get_mut(index) else {
            return;
        };
        let Some(count) = throttle.pass(reviews, Instant::now(), REMINDER_INTERVAL) else {
            return;
        };
        let (issuer, limit, advice) = (&**issuer, limit.name(), limit.setting());
        match effect {
            Effect::Delayed => tracing::warn!(
                issuer,
                limit,
                reviews = count,
                advice,
                "a limit on token reviews delays reviews"
            ),
            Effect::Decided => tracing::warn!(
                issuer,
                limit,
                requests = count,
                consequence = consequence(settings),
                advice,
                "a limit on token reviews decides on requests"
            ),
        }
    }

    /// Records a review, for debugging.
    pub(super) fn reviewed(
        &mut self,
        issuer: &Arc<str>,
        caller: &Identity,
        result: &Result<Answer, Arc<TokenReviewError>>,
        duration: Duration,
    ) {
        tracing::debug!(
            issuer = &**issuer,
            subject = caller.printable_subject(),
            confirmed = matches!(result, Ok(Answer::Confirmed { .. })),
            error = match result {
                Ok(Answer::Refused(refusal)) => Some(refusal.text.clone()),
                Ok(Answer::Confirmed { .. }) => None,
                Err(error) => Some(log_line(&**error)),
            },
            milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "token reviewed"
        );
    }

    /// Records that the API server has reviewed a token.
    pub(super) fn succeeded(&mut self, issuer: &Arc<str>, now: Instant) {
        let failed = self.failures.end(now);
        if failed.is_none() && self.has_succeeded {
            return;
        }
        self.has_succeeded = true;
        tracing::info!(
            issuer = &**issuer,
            failed_attempts = failed.map(|failed| failed.attempts),
            failed_for_seconds = failed.map(|failed| failed.lasting.as_secs()),
            "the API server reviews tokens"
        );
    }

    /// Records that the API server could not review a token.
    pub(super) fn failed(
        &mut self,
        issuer: &Arc<str>,
        settings: &ReviewSettings,
        error: &TokenReviewError,
        now: Instant,
    ) {
        let (issuer, error) = (&**issuer, log_line(error));
        let (failed, is_warning) = self.failures.record(&error, now);
        let attempts = failed.attempts;
        let failing_for_seconds = failed.lasting.as_secs();
        let consequence = consequence(settings);
        if is_warning {
            tracing::warn!(
                issuer,
                error,
                consequence,
                attempts,
                failing_for_seconds,
                "tokens could not be reviewed"
            );
        } else {
            tracing::debug!(
                issuer,
                error,
                consequence,
                attempts,
                failing_for_seconds,
                "tokens still could not be reviewed"
            );
        }
    }

    /// Records that the API server has refused a token.
    pub(super) fn refused(
        &mut self,
        issuer: &Arc<str>,
        caller: &Identity,
        refusal: &Denial,
        now: Instant,
    ) {
        let interval = match refusal.kind {
            DenialKind::Gone | DenialKind::Expired => GONE_INTERVAL,
            DenialKind::NotRecognized => REMINDER_INTERVAL,
        };
        let throttle = self.refused.get_mut(refusal.kind as usize);
        let Some(tokens) = throttle.and_then(|throttle| throttle.pass(1, now, interval)) else {
            return;
        };
        let issuer = &**issuer;
        let subject = caller.printable_subject();
        let api_server = &*refusal.text;
        match refusal.kind {
            DenialKind::Gone => tracing::info!(
                issuer,
                subject,
                api_server,
                tokens,
                "token revoked: the pod, service account or node that it is bound to no longer exists"
            ),
            DenialKind::Expired => tracing::info!(
                issuer,
                subject,
                api_server,
                tokens,
                "token refused: it has expired by the API server's clock"
            ),
            DenialKind::NotRecognized => tracing::warn!(
                issuer,
                subject,
                api_server,
                tokens,
                "token refused: it is valid by the issuer's keys, but the API server does not recognize it; check that it is the API server of the issuer's cluster, and that the guard's audiences are those of the callers"
            ),
        }
    }
}
