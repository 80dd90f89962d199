//! The reviews of one issuer's tokens, shared by requests, by the driver, and by the verifiers of a guard that replace each other.
//!
//! Everything is bounded: the tokens that are kept, those whose refusal is remembered, the requests that wait, and the reviews
//! that are under way. A flood of tokens displaces tokens that are not in use first, and a token whose refusal is displaced is
//! not accepted without a review.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::KnownToken;
use super::api::{Answer, Denial, DenialKind, Reviewer};
use super::error::TokenReviewError;
use super::health::TokenReviewHealth;
use super::log::{Effect, Limit, ReviewLog};
use super::policy::ReviewPolicy;
use super::refused::Prior;
use super::settings::{ReviewSettings, WhenUnavailable};
use super::store::{Kept, LOST_MARGIN, Phase, Queue, RENEWAL, Start, Store};
use super::token::{Digest, ReviewedToken, Standing, digest_of};
use crate::background_task::BackgroundTask;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::jose::TokenError;
use crate::keys::sources::ApiServer;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Handle, Mutex, MutexGuard, Notify};
use crate::telemetry;
use crate::text::log_line;

/// The number of requests that may wait for reviews of one issuer's tokens at a time.
const MAX_WAITING: usize = 1024;
/// How many refused tokens are remembered for each token that may be kept.
const REFUSED_PER_TOKEN: usize = 4;
/// How often requests ask for the renewal of a token that is due.
const RENEWAL_REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// A description of a token's reviews.
pub(crate) enum ReviewDescription {
    Confirmed,
    Refused {
        error: TokenError,
        text: String,
    },
    /// The API server was not asked, or did not answer.
    NotReviewed(String),
}

/// The result of [`Shared::keep`].
pub(super) enum Lookup {
    Refused(TokenError),
    /// The token is kept, and counts as waited for until [`Shared::end_wait`].
    Kept {
        token: Arc<ReviewedToken>,
        prior: Prior,
    },
    /// All tokens that are kept are in use.
    NoRoom {
        prior: Prior,
    },
}

/// The tokens of one issuer and their reviews.
pub(super) struct Shared {
    /// The issuer's label in logs and metrics.
    pub(super) label: Arc<str>,
    api: ApiServer,
    reviewer: Reviewer,
    clock: Clock,
    created: Instant,
    store: Mutex<Store>,
    /// Locked after the store is unlocked: a subscriber of log events may panic.
    log: Mutex<ReviewLog>,
    /// The version of the store's policy. Read without the lock.
    version: AtomicU64,
    /// Until when it is known without a further attempt that reviews fail, in milliseconds since `created`; 0 if they do not. Read
    /// without the lock.
    fails_until: AtomicU64,
    /// The number of verifiers that use this.
    users: AtomicUsize,
    waiting: AtomicUsize,
    pub(super) driver: BackgroundTask,
    /// Wakes the driver.
    pub(super) wake: Arc<Notify>,
}

/// Reviews to be started, and how many others the rate delays.
#[derive(Default)]
pub(super) struct Dispatched {
    pub(super) started: Vec<Start>,
    delayed: usize,
}

impl Shared {
    pub(super) fn new(label: Arc<str>, policy: Arc<ReviewPolicy>, clock: Clock) -> Self {
        let created = Instant::now();
        let api = policy.settings.api.clone();
        Self {
            label,
            reviewer: Reviewer::new(api.clone()),
            api,
            clock,
            created,
            version: AtomicU64::new(policy.version),
            store: Mutex::new(Store::new(policy, created)),
            log: Mutex::default(),
            fails_until: AtomicU64::new(0),
            users: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            driver: BackgroundTask::default(),
            wake: Arc::default(),
        }
    }

    /// Has a function answer in place of the API server.
    #[cfg(test)]
    pub(super) fn answer_with(mut self, answer: super::api::AnswerFn) -> Self {
        self.reviewer.answer = Some(answer);
        self
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, ReviewLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn api(&self) -> &ApiServer {
        &self.api
    }

    /// Records that a verifier uses this.
    pub(super) fn add_user(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that a verifier does not use this any more. The driver ends with the last one, and with the last stream.
    pub(super) fn remove_user(&self) {
        self.users.fetch_sub(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Returns whether a verifier uses this, or something waits for the revocation of a token.
    pub(super) fn is_used(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0 || self.store().is_watched()
    }

    /// Puts the policy of a verifier into effect, unless that of a later one is.
    pub(super) fn adopt(&self, policy: &Arc<ReviewPolicy>) {
        if policy.version <= self.version.load(Ordering::Acquire) {
            return;
        }
        let mut store = self.store();
        if policy.version > store.policy.version {
            store.adopt(policy.clone(), Instant::now(), |time| {
                self.milliseconds(time)
            });
            self.version.store(policy.version, Ordering::Release);
        }
        drop(store);
        self.wake.notify_one();
    }

    /// Returns a time in milliseconds since the creation.
    pub(super) fn milliseconds(&self, time: Instant) -> u64 {
        let time = time.saturating_duration_since(self.created);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns whether it is known without a further attempt that reviews fail. `now` is in milliseconds since the creation.
    pub(super) fn is_failing(&self, now: u64) -> bool {
        now < self.fails_until.load(Ordering::Relaxed)
    }

    pub(super) fn record_unconfirmed(&self) {
        telemetry::record_unconfirmed_token(&self.label);
    }

    /// Records that a limit decides on a request.
    pub(super) fn limited(&self, settings: &ReviewSettings, limit: Limit) {
        let mut log = self.log();
        log.limited(&self.label, settings, limit, Effect::Decided, 1);
    }

    /// Returns the time after which another attempt is of use.
    pub(super) fn retry_after(&self) -> Duration {
        let retry_at = self.store().outage.retry_at();
        let wait = retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        wait.unwrap_or_default().max(Duration::from_secs(1))
    }

    /// Returns what is remembered about a token.
    pub(super) fn find(&self, digest: &Digest) -> KnownToken {
        let mut store = self.store();
        if let Some(kept) = store.tokens.get(digest) {
            return KnownToken::Kept(kept.token.clone());
        }
        match store.prior(digest, self.clock.since_epoch()) {
            Ok(_) => KnownToken::New,
            Err(error) => KnownToken::Refused(error),
        }
    }

    /// Remembers the tokens that others were refused, and those that they may have forgotten.
    pub(super) fn remember_refused(&self, earlier: &Self) {
        let refused = earlier.store().refused.clone();
        self.store().refused = refused;
    }

    /// Returns the state of a token, which is kept from now on if there is room, and is waited for.
    pub(super) fn keep(&self, token: &[u8], identity: &Identity) -> Lookup {
        let digest = digest_of(token);
        let now = self.milliseconds(Instant::now());
        let mut store = self.store();
        let prior = match store.prior(&digest, self.clock.since_epoch()) {
            Err(error) => return Lookup::Refused(error),
            Ok(prior) => prior,
        };
        if let Some(kept) = store.tokens.get_mut(&digest) {
            kept.waiting += 1;
            let token = kept.token.clone();
            let needs_confirmation = token.needs_confirmation.load(Ordering::Relaxed);
            let prior = if needs_confirmation {
                prior
            } else {
                Prior::NotRefused
            };
            return Lookup::Kept { token, prior };
        }
        if !store.make_room(now) {
            return Lookup::NoRoom { prior };
        }
        let token = Arc::new(ReviewedToken::new(digest, token, identity, prior));
        let kept = Kept {
            token: token.clone(),
            phase: Phase::Idle,
            waiting: 1,
            audiences: Vec::new(),
            confirmed: None,
            was_in_use: false,
        };
        store.tokens.insert(digest, kept);
        // Not later than that, it is checked whether the token has ended.
        let ttl = store.policy.settings.ttl;
        store.schedule(&digest, Instant::now() + ttl);
        Lookup::Kept { token, prior }
    }

    /// Records that a request does not wait for a token any more.
    fn end_wait(&self, digest: &Digest) {
        if let Some(kept) = self.store().tokens.get_mut(digest) {
            kept.waiting = kept.waiting.saturating_sub(1);
        }
    }

    /// Requests the first review of a token. Returns whether it is of use to wait for it.
    pub(super) fn request_first_review(
        self: &Arc<Self>,
        token: &ReviewedToken,
        now: Instant,
    ) -> bool {
        let dispatched = {
            let mut store = self.store();
            let retry_at = store.outage.retry_at();
            let is_idle = store.under_way.is_empty();
            let Some(kept) = store.tokens.get(&token.digest) else {
                return token.standing() == Standing::Refused;
            };
            if matches!(kept.phase, Phase::UnderWay(number) if store.under_way.contains_key(&number))
            {
                return true;
            }
            if token.is_confirmed(self.milliseconds(now)) {
                // By a review that has ended since the request has looked.
                return true;
            }
            if retry_at.is_some_and(|retry_at| now < retry_at || !is_idle) {
                return false;
            }
            store.queue(&token.digest, Queue::First);
            self.dispatch(&mut store, now)
        };
        self.spawn(dispatched);
        true
    }

    /// Requests the renewal of a token that is due, from a request with it.
    pub(super) fn request_renewal(self: &Arc<Self>, token: &ReviewedToken) {
        let now = Instant::now();
        let dispatched = {
            let mut store = self.store();
            let next = self.milliseconds(now + RENEWAL_REQUEST_INTERVAL);
            token.renew_at.store(next, Ordering::Relaxed);
            store.queue(&token.digest, Queue::Renewals);
            self.dispatch(&mut store, now)
        };
        self.spawn(dispatched);
        self.wake.notify_one();
    }

    /// Accepts a token without confirmation for the time to live, and has it reviewed once that is possible.
    pub(super) fn accept_unconfirmed(&self, token: &ReviewedToken, ttl: Duration) {
        let now = Instant::now();
        token.is_used.store(true, Ordering::Relaxed);
        let mut store = self.store();
        // The request may have begun with settings that others have replaced.
        let until = self.milliseconds(now + ttl.min(store.policy.settings.ttl));
        token.unconfirmed_until.store(until, Ordering::Relaxed);
        let due = store.outage.retry_at().unwrap_or(now).max(now);
        let renew_at = self.milliseconds(due.max(now + RENEWAL_REQUEST_INTERVAL));
        token.renew_at.store(renew_at, Ordering::Relaxed);
        let phase = store.tokens.get(&token.digest).map(|kept| kept.phase);
        if matches!(phase, Some(Phase::Idle | Phase::Due(_))) {
            store.schedule(&token.digest, due);
        }
        drop(store);
        self.wake.notify_one();
    }

    /// Records that a request has waited for the time limit without a result.
    pub(super) fn record_missed_deadline(&self, token: &ReviewedToken, settings: &ReviewSettings) {
        let limit = {
            let store = self.store();
            let phase = store.tokens.get(&token.digest).map(|kept| kept.phase);
            let Some(Phase::Queued(_)) = phase else {
                return;
            };
            if store.under_way.len() >= settings.concurrent {
                Limit::Concurrency
            } else {
                Limit::Rate
            }
        };
        self.limited(settings, limit);
    }

    /// Starts what is due. Returns when to look again.
    pub(super) fn run_due(self: &Arc<Self>) -> Instant {
        let now = Instant::now();
        let (dispatched, next) = {
            let mut store = self.store();
            let dispatched = self.dispatch(&mut store, now);
            (dispatched, store.next_due(now))
        };
        self.spawn(dispatched);
        next
    }

    /// Returns the reviews that are to be started now, within the limits.
    fn dispatch(&self, store: &mut Store, now: Instant) -> Dispatched {
        let mut dispatched = Dispatched::default();
        // Without a runtime, nothing can be started.
        if Handle::try_current().is_err() {
            return dispatched;
        }
        let settings = &store.policy.clone().settings;
        store.forget_lost(now, 2 * settings.time_limit + LOST_MARGIN);
        store.queue_due(now, self.clock.since_epoch());
        while store.has_queued() {
            let retry_at = store.outage.retry_at();
            let is_too_early = retry_at.is_some_and(|at| now < at);
            if is_too_early || (retry_at.is_some() && !store.under_way.is_empty()) {
                break;
            }
            if store.under_way.len() >= settings.concurrent {
                break;
            }
            let Some((queue, digest)) = store.pop_queued() else {
                break;
            };
            if !store.bucket.take(now) {
                store.push_front(queue, digest);
                let queued = store.first.len() + store.renewals.len();
                dispatched.delayed = store.newly_queued.min(queued);
                store.newly_queued = 0;
                break;
            }
            store.last_started = queue;
            dispatched.started.extend(store.start(digest, now));
            if retry_at.is_some() {
                // No other request waits while one review is made to find out whether the API server answers again.
                let until = self.milliseconds(now + settings.time_limit + LOST_MARGIN);
                self.fails_until.store(until, Ordering::Relaxed);
            }
        }
        if !store.has_queued() {
            store.newly_queued = 0;
        }
        dispatched
    }

    /// Spawns these reviews on the current runtime, and logs what is delayed.
    ///
    /// Must be called without the lock: at the shutdown of the runtime a review is dropped at once.
    fn spawn(self: &Arc<Self>, dispatched: Dispatched) {
        self.spawn_reviews(dispatched.started);
        if dispatched.delayed > 0 {
            let policy = self.store().policy.clone();
            let (limit, effect) = (Limit::Rate, Effect::Delayed);
            let mut log = self.log();
            log.limited(
                &self.label,
                &policy.settings,
                limit,
                effect,
                dispatched.delayed,
            );
        }
    }

    /// Makes a review.
    pub(super) async fn review(&self, start: &Start) -> Result<Answer, TokenReviewError> {
        let ReviewPolicy {
            settings,
            audiences,
            ..
        } = &*start.policy;
        let token = &start.token;
        let subject = token.identity().subject();
        let ask = || {
            let limit = settings.time_limit;
            self.reviewer
                .review(&token.token, subject, audiences, limit)
        };
        let answer = ask().await?;
        // Some failures of an API server look like a deleted pod, and streams end with a confirmed token.
        let was_confirmed = token.valid_until.load(Ordering::Acquire) > 0;
        match answer {
            Answer::Refused(denial) if denial.kind == DenialKind::Gone && was_confirmed => {
                ask().await
            }
            answer => Ok(answer),
        }
    }

    /// Records the result of a review.
    pub(super) fn finish(
        self: &Arc<Self>,
        start: &Start,
        result: Result<Answer, TokenReviewError>,
    ) {
        let now = Instant::now();
        let token = &start.token;
        let result = result.map_err(Arc::new);
        let (dispatched, duration) = {
            let mut store = self.store();
            let Some(review) = store.under_way.remove(&start.number) else {
                // It took so long that it was considered lost.
                return;
            };
            match &result {
                Ok(answer) => {
                    store.outage.end();
                    store.last_error = None;
                    store.last_success = Some(self.clock.now());
                    self.fails_until.store(0, Ordering::Relaxed);
                    match answer {
                        Answer::Confirmed { audiences } => {
                            self.confirm(&mut store, token, audiences, review.started);
                        }
                        Answer::Refused(denial) => self.refuse(&mut store, token, denial, now),
                    }
                }
                Err(error) => {
                    store.outage.failed(now, error.retry_after());
                    store.last_error = Some(error.clone());
                    let retry_at = store.outage.retry_at().unwrap_or(now);
                    let until = self.milliseconds(retry_at);
                    self.fails_until.store(until, Ordering::Relaxed);
                    store.review_again(token, review.was_in_use, retry_at);
                }
            }
            token.end_attempt(result.is_err());
            let duration = now.saturating_duration_since(review.started);
            (self.dispatch(&mut store, now), duration)
        };
        self.spawn(dispatched);
        self.wake.notify_one();
        telemetry::record_token_review(&self.label, outcome(&result), duration);
        let settings = &start.policy.settings;
        let mut log = self.log();
        log.reviewed(&self.label, token.identity(), &result, duration);
        match &result {
            Ok(answer) => {
                log.succeeded(&self.label, now);
                if let Answer::Refused(denial) = answer {
                    log.refused(&self.label, token.identity(), denial, now);
                }
            }
            Err(error) => log.failed(&self.label, settings, error, now),
        }
    }

    /// Records that a review was dropped with its runtime. The token is reviewed again by the next caller that looks.
    pub(super) fn interrupted(&self, start: &Start) {
        {
            let mut store = self.store();
            let Some(review) = store.under_way.remove(&start.number) else {
                return;
            };
            store.review_again(&start.token, review.was_in_use, Instant::now());
        }
        start.token.end_attempt(false);
        self.wake.notify_one();
    }

    /// Records that a token is valid for these audiences by a review that was started at that time.
    fn confirm(
        &self,
        store: &mut Store,
        token: &ReviewedToken,
        audiences: &[String],
        started: Instant,
    ) {
        // The settings may have been replaced since the review was started.
        let policy = store.policy.clone();
        if !audiences.iter().any(|one| policy.audiences.contains(one)) {
            store.schedule(&token.digest, started);
            return;
        }
        let ttl = policy.settings.ttl;
        let due = started + ttl.mul_f64(RENEWAL);
        let renew_at = self.milliseconds(due);
        token.renew_at.store(renew_at, Ordering::Relaxed);
        let valid_until = self.milliseconds(started + ttl);
        token.valid_until.store(valid_until, Ordering::Release);
        token.needs_confirmation.store(false, Ordering::Relaxed);
        store.refused.remove(&token.digest);
        if let Some(kept) = store.tokens.get_mut(&token.digest) {
            kept.audiences = audiences.to_vec();
            kept.confirmed = Some(started);
        }
        store.schedule(&token.digest, due);
    }

    fn refuse(&self, store: &mut Store, token: &ReviewedToken, denial: &Denial, now: Instant) {
        token.refuse(denial.kind);
        store.tokens.remove(&token.digest);
        let settings = &store.policy.settings;
        let limit = settings.tokens.saturating_mul(REFUSED_PER_TOKEN);
        let (ttl, end) = (settings.ttl, token.identity().validity().end);
        let denial = denial.clone();
        store
            .refused
            .insert(token.digest, denial, end, now, ttl, limit);
    }

    /// Returns the state of the reviews.
    pub(super) fn health(&self, when_unavailable: WhenUnavailable) -> TokenReviewHealth {
        let store = self.store();
        TokenReviewHealth {
            when_unavailable,
            is_available: store.outage.retry_at().is_none(),
            tokens: store.tokens.len(),
            refused_tokens: store.refused.len(),
            under_way: store.under_way.len(),
            last_success: store.last_success,
            last_error: store.last_error.clone(),
        }
    }

    /// Describes what is known about a token: a confirmation, or why there is none.
    pub(super) fn describe(&self, digest: &Digest) -> ReviewDescription {
        let now = self.milliseconds(Instant::now());
        {
            let store = self.store();
            if let Some(denial) = store.refused.denial(digest) {
                return ReviewDescription::Refused {
                    error: denial.kind.error(),
                    text: describe_denial(denial),
                };
            }
            let kept = store.tokens.get(digest);
            if kept.is_some_and(|kept| kept.token.is_confirmed(now)) {
                return ReviewDescription::Confirmed;
            }
        }
        ReviewDescription::NotReviewed(self.obstacle())
    }

    /// Returns why tokens cannot be reviewed.
    pub(super) fn obstacle(&self) -> String {
        match &self.store().last_error {
            Some(error) => log_line(&**error),
            None => "a limit on reviews is reached, or the API server does not answer within `time_limit`".to_owned(),
        }
    }
}

/// Describes why a token is refused.
fn describe_denial(denial: &Denial) -> String {
    let meaning = match denial.kind {
        DenialKind::Gone => {
            "the pod, service account or node that the token is bound to no longer exists"
        }
        DenialKind::Expired => "the token has expired by the API server's clock",
        DenialKind::NotRecognized => {
            "the API server does not recognize the token; is it the API server of the token's cluster?"
        }
    };
    format!("{meaning}: {}", denial.text)
}

/// Returns the outcome of a review as the label of a metric.
fn outcome(result: &Result<Answer, Arc<TokenReviewError>>) -> &'static str {
    match result {
        Ok(Answer::Confirmed { .. }) => "confirmed",
        Ok(Answer::Refused(denial)) => match denial.kind {
            DenialKind::Gone => "gone",
            DenialKind::Expired => "expired",
            DenialKind::NotRecognized => "not_recognized",
        },
        Err(error) if matches!(**error, TokenReviewError::MissingRole { .. }) => "missing_role",
        Err(_) => "failed",
    }
}

/// A request that waits for a token that is kept, until it is dropped.
pub(super) struct Waiting<'s> {
    pub(super) shared: &'s Shared,
    pub(super) digest: Digest,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.end_wait(&self.digest);
    }
}

/// A slot among the requests that wait.
pub(super) struct WaitSlot<'s>(&'s Shared);

impl<'s> WaitSlot<'s> {
    /// Returns a slot, or `None` if all are taken.
    pub(super) fn acquire(shared: &'s Shared) -> Option<Self> {
        let one_more = |waiting| (waiting < MAX_WAITING).then_some(waiting + 1);
        shared
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self(shared))
    }
}

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
