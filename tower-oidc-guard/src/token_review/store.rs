//! The tokens of one issuer and the state of their reviews, shared by requests and the driver.
//!
//! Everything is bounded: the tokens that are kept, those whose refusal is remembered, the requests that wait, and the reviews
//! that are under way. A flood of tokens displaces only tokens that are not in use, and a token whose refusal is displaced is
//! not accepted without a review.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::KnownToken;
use super::api::{Answer, Denial, DenialKind, Reviewer};
use super::error::TokenReviewError;
use super::health::TokenReviewHealth;
use super::log::{Effect, Limit, ReviewLog};
use super::outage::Outage;
use super::settings::{ReviewSettings, WhenUnavailable};
use super::token_bucket::TokenBucket;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::jose::TokenError;
use crate::telemetry;
use crate::text::log_line;

/// The number of requests that may wait for reviews of one issuer's tokens at a time.
const MAX_WAITING: usize = 1024;
/// How many refused tokens are remembered for each token that may be kept.
const REFUSED_PER_TOKEN: usize = 4;
/// How many tokens are looked at to find one that may be dropped.
const MAX_EVICTION_TRIES: usize = 8;
/// The part of the time to live after which a token in use is confirmed again.
const RENEWAL: f64 = 0.9;
/// How often requests ask for the renewal of a token that is due.
const RENEWAL_REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// How much longer than the time limit a review may take until it is considered lost with its runtime.
const LOST_MARGIN: Duration = Duration::from_secs(5);
/// When the driver looks again if nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The SHA-256 hash of a token.
pub(super) type Digest = [u8; 32];

pub(super) fn digest_of(token: &[u8]) -> Digest {
    let mut bytes = Digest::default();
    let hash = digest(&SHA256, token);
    for (byte, hashed) in bytes.iter_mut().zip(hash.as_ref()) {
        *byte = *hashed;
    }
    bytes
}

/// A token that has passed all offline checks, and what the API server has said about it. Requests read it without a lock.
pub(crate) struct ReviewedToken {
    digest: Digest,
    token: Box<[u8]>,
    identity: Identity,
    /// Whether the token is never accepted without confirmation, because the API server has refused it before, or may have.
    needs_confirmation: AtomicBool,
    standing: AtomicU8,
    /// Until when the confirmation is used, in milliseconds since the creation of [`Shared`]; 0 without a confirmation.
    valid_until: AtomicU64,
    /// Until when the token is accepted without confirmation, in the same unit.
    unconfirmed_until: AtomicU64,
    /// From when on a request requests a renewal, in the same unit.
    renew_at: AtomicU64,
    /// Whether the token was used since the start of its last review.
    is_used: AtomicBool,
    attempts: watch::Sender<Attempts>,
}

/// The ends of a token's reviews.
#[derive(Default)]
pub(super) struct Attempts {
    /// Whether the last review failed. Not if it was interrupted, in which case another one is made.
    has_failed: bool,
}

impl Attempts {
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }
}

/// Whether a [`ReviewedToken`] is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Kept,
    /// It was displaced by other tokens, or has expired.
    Dropped,
    /// The API server has refused it.
    Refused,
}

const KEPT: u8 = 0;
const DROPPED: u8 = 1;
const REVOKED: u8 = 2;
const EXPIRED: u8 = 3;

/// Whether a token is accepted without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    Confirmed,
    Unconfirmed,
    No,
}

impl ReviewedToken {
    fn new(digest: Digest, token: &[u8], identity: &Identity, prior: Prior) -> Self {
        Self {
            digest,
            token: token.into(),
            identity: identity.clone(),
            needs_confirmation: AtomicBool::new(prior != Prior::NotRefused),
            standing: AtomicU8::new(KEPT),
            valid_until: AtomicU64::new(0),
            unconfirmed_until: AtomicU64::new(0),
            renew_at: AtomicU64::new(0),
            is_used: AtomicBool::new(false),
            attempts: watch::Sender::default(),
        }
    }

    /// Returns the identity whose revocation the reviews of this token report.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            KEPT => Standing::Kept,
            DROPPED => Standing::Dropped,
            _ => Standing::Refused,
        }
    }

    /// Returns the error for requests with this token, which was refused.
    pub(super) fn refusal(&self) -> TokenError {
        match self.standing.load(Ordering::Acquire) {
            EXPIRED => TokenError::Expired,
            _ => TokenError::TokenRevoked,
        }
    }

    pub(super) fn is_confirmed(&self, now: u64) -> bool {
        now < self.valid_until.load(Ordering::Acquire)
    }

    /// Returns whether a request with this token is accepted without waiting, and if so, records the use.
    pub(super) fn admitted(&self, now: u64, is_lenient: bool) -> Admitted {
        let admitted = if self.is_confirmed(now) {
            Admitted::Confirmed
        } else if !self.needs_confirmation.load(Ordering::Relaxed)
            && (is_lenient || now < self.unconfirmed_until.load(Ordering::Relaxed))
        {
            Admitted::Unconfirmed
        } else {
            return Admitted::No;
        };
        // The flag is written once, so that threads do not contend for it.
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        admitted
    }

    pub(super) fn is_renewal_due(&self, now: u64) -> bool {
        now >= self.renew_at.load(Ordering::Relaxed)
    }

    pub(super) fn attempts(&self) -> watch::Receiver<Attempts> {
        self.attempts.subscribe()
    }

    /// Returns whether the token was used since its last review, or something waits for its revocation.
    fn is_in_use(&self) -> bool {
        let revocation = self.identity.validity().revocation.as_ref();
        self.is_used.load(Ordering::Relaxed)
            || revocation.is_some_and(|revocation| revocation.is_watched())
    }

    fn refuse(&self, kind: DenialKind) {
        let standing = match kind {
            DenialKind::Expired => EXPIRED,
            DenialKind::Gone | DenialKind::NotRecognized => REVOKED,
        };
        self.standing.store(standing, Ordering::Release);
        // The end of the token's time ends its streams, so an expired one need not be revoked.
        if standing == REVOKED
            && let Some(revocation) = &self.identity.validity().revocation
        {
            revocation.revoke();
        }
    }

    fn end_attempt(&self, has_failed: bool) {
        self.attempts.send_replace(Attempts { has_failed });
    }
}

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
    Kept {
        token: Arc<ReviewedToken>,
        prior: Prior,
    },
    /// All tokens that are kept are in use.
    NoRoom {
        prior: Prior,
    },
}

/// The memory of a token without a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prior {
    /// The API server has not refused it.
    NotRefused,
    /// The API server has refused it, and may be asked again.
    Refused,
    /// It may be one that the API server has refused and that is forgotten.
    Unknown,
}

/// The tokens and their reviews.
pub(super) struct Shared {
    /// The issuer's label in logs and metrics.
    pub(super) label: Arc<str>,
    pub(super) settings: ReviewSettings,
    reviewer: Reviewer,
    clock: Clock,
    created: Instant,
    store: Mutex<Store>,
    /// Whether reviews fail. Read without the lock.
    is_failing: AtomicBool,
    is_closed: AtomicBool,
    waiting: AtomicUsize,
    /// Wakes the driver.
    pub(super) wake: Arc<Notify>,
}

struct Store {
    tokens: HashMap<Digest, Kept>,
    /// The tokens that are kept, in the order in which they are considered for being dropped. May contain some that are not
    /// kept any more.
    order: VecDeque<Digest>,
    refused: HashMap<Digest, RefusedToken>,
    /// Until when a token that is not remembered may be one that was refused, counted from the Unix epoch.
    forgotten_until: Duration,
    /// The tokens that are confirmed again if they are in use, by time.
    due: BTreeSet<(Instant, Digest)>,
    /// The tokens that wait for their first review.
    first: VecDeque<Digest>,
    /// The tokens in use that wait for a further review.
    renewals: VecDeque<Digest>,
    last_started: Queue,
    /// The number of tokens that were queued since the rate last delayed reviews.
    newly_queued: usize,
    under_way: HashMap<u64, UnderWay>,
    next_review: u64,
    bucket: TokenBucket,
    outage: Outage,
    last_success: Option<SystemTime>,
    last_error: Option<Arc<TokenReviewError>>,
    log: ReviewLog,
}

struct Kept {
    token: Arc<ReviewedToken>,
    phase: Phase,
    /// The number of requests that wait for the token.
    waiting: usize,
}

/// The next event in the reviews of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing, until it is used.
    Idle,
    /// It is confirmed again at this time if it is in use.
    Due(Instant),
    Queued(Queue),
    /// The review with this number is under way.
    UnderWay(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    First,
    Renewals,
}

struct UnderWay {
    digest: Digest,
    started: Instant,
    was_in_use: bool,
}

#[derive(Clone)]
struct RefusedToken {
    refusal: Denial,
    /// When the token ends, counted from the Unix epoch.
    end: Duration,
    /// When the API server is asked again, if its answer can change.
    ask_again: Option<Instant>,
}

/// A review to be started.
pub(super) struct Start {
    pub(super) number: u64,
    pub(super) token: Arc<ReviewedToken>,
}

impl Shared {
    pub(super) fn new(
        label: Arc<str>,
        settings: ReviewSettings,
        reviewer: Reviewer,
        clock: Clock,
    ) -> Self {
        let created = Instant::now();
        let store = Store {
            tokens: HashMap::new(),
            order: VecDeque::new(),
            refused: HashMap::new(),
            forgotten_until: Duration::ZERO,
            due: BTreeSet::new(),
            first: VecDeque::new(),
            renewals: VecDeque::new(),
            last_started: Queue::Renewals,
            newly_queued: 0,
            under_way: HashMap::new(),
            next_review: 0,
            bucket: TokenBucket::new(settings.per_second, created),
            outage: Outage::default(),
            last_success: None,
            last_error: None,
            log: ReviewLog::default(),
        };
        Self {
            label,
            settings,
            reviewer,
            clock,
            created,
            store: Mutex::new(store),
            is_failing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            wake: Arc::default(),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn audiences(&self) -> &[String] {
        self.reviewer.audiences()
    }

    /// Takes over the refusals that others have remembered.
    pub(super) fn inherit_refusals(&self, earlier: &Self) {
        let limit = self.settings.tokens.saturating_mul(REFUSED_PER_TOKEN);
        let now = self.clock.since_epoch();
        let (refused, forgotten_until) = {
            let earlier = earlier.store();
            (earlier.refused.clone(), earlier.forgotten_until)
        };
        let mut store = self.store();
        store.forgotten_until = store.forgotten_until.max(forgotten_until);
        for (digest, refused) in refused {
            store.remember_refusal(digest, refused, limit, now);
        }
    }

    /// Returns a time in milliseconds since the creation.
    pub(super) fn milliseconds(&self, time: Instant) -> u64 {
        milliseconds(time.saturating_duration_since(self.created))
    }

    /// Ends the driver.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(super) fn accepts_unconfirmed(&self) -> bool {
        self.settings.when_unavailable == WhenUnavailable::Accept
    }

    /// Returns whether tokens are accepted without confirmation because reviews fail.
    pub(super) fn is_lenient(&self) -> bool {
        self.accepts_unconfirmed() && self.is_failing.load(Ordering::Relaxed)
    }

    pub(super) fn record_unconfirmed(&self) {
        telemetry::record_unconfirmed_token(&self.label);
    }

    /// Records that a limit decides on a request.
    pub(super) fn limited(&self, limit: Limit) {
        self.store()
            .log
            .limited(&self.label, &self.settings, limit, Effect::Decided, 1);
    }

    /// Returns the time after which another attempt is of use.
    pub(super) fn retry_after(&self) -> Duration {
        let retry_at = self.store().outage.retry_at();
        let wait = retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        wait.unwrap_or(Duration::from_secs(1))
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

    /// Returns the state of a token, which is kept from now on if there is room.
    pub(super) fn keep(&self, token: &[u8], identity: &Identity) -> Lookup {
        let digest = digest_of(token);
        let now = self.clock.since_epoch();
        let mut store = self.store();
        let prior = match store.prior(&digest, now) {
            Err(error) => return Lookup::Refused(error),
            Ok(prior) => prior,
        };
        if let Some(kept) = store.tokens.get(&digest) {
            let token = kept.token.clone();
            let needs_confirmation = token.needs_confirmation.load(Ordering::Relaxed);
            let prior = if needs_confirmation {
                prior
            } else {
                Prior::NotRefused
            };
            return Lookup::Kept { token, prior };
        }
        if store.tokens.len() >= self.settings.tokens && !store.make_room() {
            return Lookup::NoRoom { prior };
        }
        let token = Arc::new(ReviewedToken::new(digest, token, identity, prior));
        store.order.push_back(digest);
        store.tokens.insert(
            digest,
            Kept {
                token: token.clone(),
                phase: Phase::Idle,
                waiting: 0,
            },
        );
        Lookup::Kept { token, prior }
    }

    /// Counts a request that waits for a token, until the returned value is dropped.
    pub(super) fn wait_for<'s>(&'s self, token: &ReviewedToken) -> Waiting<'s> {
        if let Some(kept) = self.store().tokens.get_mut(&token.digest) {
            kept.waiting += 1;
        }
        Waiting {
            shared: self,
            digest: token.digest,
        }
    }

    /// Requests the first review of a token. Returns whether it is of use to wait for it.
    pub(super) fn request_first_review(
        self: &Arc<Self>,
        token: &ReviewedToken,
        now: Instant,
    ) -> bool {
        let started = {
            let mut store = self.store();
            let retry_at = store.outage.retry_at();
            let is_idle = store.under_way.is_empty();
            let Some(kept) = store.tokens.get(&token.digest) else {
                return token.standing() == Standing::Refused;
            };
            if let Phase::UnderWay(_) = kept.phase {
                return true;
            }
            if retry_at.is_some_and(|retry_at| now < retry_at || !is_idle) {
                return false;
            }
            store.queue(&token.digest, Queue::First);
            self.dispatch(&mut store, now)
        };
        self.spawn(started);
        true
    }

    /// Requests the renewal of a token that is due, from a request with it.
    pub(super) fn request_renewal(self: &Arc<Self>, token: &ReviewedToken) {
        let now = Instant::now();
        let started = {
            let mut store = self.store();
            let next = self.milliseconds(now + RENEWAL_REQUEST_INTERVAL);
            token.renew_at.store(next, Ordering::Relaxed);
            store.queue(&token.digest, Queue::Renewals);
            self.dispatch(&mut store, now)
        };
        self.spawn(started);
        self.wake.notify_one();
    }

    /// Accepts a token without confirmation for the time to live, and has it reviewed once that is possible.
    pub(super) fn accept_unconfirmed(&self, token: &ReviewedToken) {
        let now = Instant::now();
        let until = self.milliseconds(now + self.settings.ttl);
        token.unconfirmed_until.store(until, Ordering::Relaxed);
        token.is_used.store(true, Ordering::Relaxed);
        let mut store = self.store();
        let due = store.outage.retry_at().unwrap_or(now);
        let renew_at = self.milliseconds(due.max(now + RENEWAL_REQUEST_INTERVAL));
        token.renew_at.store(renew_at, Ordering::Relaxed);
        if let Some(kept) = store.tokens.get_mut(&token.digest)
            && kept.phase == Phase::Idle
        {
            kept.phase = Phase::Due(due);
            store.due.insert((due, token.digest));
        }
        drop(store);
        self.wake.notify_one();
    }

    /// Records that a request has waited for the time limit without a result.
    pub(super) fn record_missed_deadline(&self, token: &ReviewedToken) {
        let mut store = self.store();
        let phase = store.tokens.get(&token.digest).map(|kept| kept.phase);
        if let Some(Phase::Queued(_)) = phase {
            let limit = if store.under_way.len() >= self.settings.concurrent {
                Limit::Concurrency
            } else {
                Limit::Rate
            };
            store
                .log
                .limited(&self.label, &self.settings, limit, Effect::Decided, 1);
        }
    }

    /// Starts what is due. Returns when to look again.
    pub(super) fn run_due(self: &Arc<Self>) -> Instant {
        let now = Instant::now();
        let (started, next) = {
            let mut store = self.store();
            let started = self.dispatch(&mut store, now);
            (started, store.next_due(now, &self.settings))
        };
        self.spawn(started);
        next
    }

    /// Returns the reviews that are to be started now, within the limits.
    fn dispatch(&self, store: &mut Store, now: Instant) -> Vec<Start> {
        // Without a runtime, nothing can be started.
        if Handle::try_current().is_err() {
            return Vec::new();
        }
        store.forget_lost(now, self.settings.time_limit + LOST_MARGIN);
        store.queue_due(now, self.clock.since_epoch());
        let mut started = Vec::new();
        while store.has_queued() {
            let is_probe = store.outage.retry_at().is_some();
            let is_too_early = store.outage.retry_at().is_some_and(|at| now < at);
            if is_too_early || (is_probe && !store.under_way.is_empty()) {
                break;
            }
            if store.under_way.len() >= self.settings.concurrent {
                break;
            }
            let Some((queue, digest)) = store.pop_queued() else {
                break;
            };
            if !store.bucket.take(now) {
                store.push_front(queue, digest);
                let queued = store.first.len() + store.renewals.len();
                let delayed = store.newly_queued.min(queued);
                if delayed > 0 {
                    let (label, settings) = (&self.label, &self.settings);
                    let effect = Effect::Delayed;
                    store
                        .log
                        .limited(label, settings, Limit::Rate, effect, delayed);
                }
                store.newly_queued = 0;
                break;
            }
            store.last_started = queue;
            started.extend(store.start(digest, now));
        }
        if !store.has_queued() {
            store.newly_queued = 0;
        }
        started
    }

    /// Makes a review.
    pub(super) async fn review(&self, token: &ReviewedToken) -> Result<Answer, TokenReviewError> {
        let subject = token.identity.subject();
        self.reviewer.review(&token.token, subject).await
    }

    /// Records the result of a review.
    pub(super) fn finish(
        self: &Arc<Self>,
        start: &Start,
        result: Result<Answer, TokenReviewError>,
    ) {
        let now = Instant::now();
        let token = &start.token;
        let started = {
            let mut store = self.store();
            let Some(review) = store.under_way.remove(&start.number) else {
                // It took so long that it was considered lost.
                return;
            };
            let duration = now.saturating_duration_since(review.started);
            telemetry::record_token_review(&self.label, outcome(&result), duration);
            let has_failed = result.is_err();
            let log = &mut store.log;
            log.reviewed(&self.label, token.identity(), &result, duration);
            match result {
                Ok(answer) => {
                    store.outage.end();
                    store.last_error = None;
                    store.last_success = Some(self.clock.now());
                    self.is_failing.store(false, Ordering::Relaxed);
                    store.log.succeeded(&self.label, now);
                    match answer {
                        Answer::Confirmed => self.confirm(&mut store, token, review.started),
                        Answer::Refused(refusal) => self.refuse(&mut store, token, refusal, now),
                    }
                }
                Err(error) => {
                    self.is_failing.store(true, Ordering::Relaxed);
                    store.outage.failed(now, error.retry_after());
                    store.log.failed(&self.label, &self.settings, &error, now);
                    store.last_error = Some(Arc::new(error));
                    let retry_at = store.outage.retry_at().unwrap_or(now);
                    store.review_again(token, review.was_in_use, retry_at);
                }
            }
            token.end_attempt(has_failed);
            self.dispatch(&mut store, now)
        };
        self.spawn(started);
        self.wake.notify_one();
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

    /// Records that a token is valid by a review that was started at that time.
    fn confirm(&self, store: &mut Store, token: &ReviewedToken, started: Instant) {
        let ttl = self.settings.ttl;
        let due = started + ttl.mul_f64(RENEWAL);
        token
            .renew_at
            .store(self.milliseconds(due), Ordering::Relaxed);
        token
            .valid_until
            .store(self.milliseconds(started + ttl), Ordering::Release);
        token.needs_confirmation.store(false, Ordering::Relaxed);
        store.refused.remove(&token.digest);
        if let Some(kept) = store.tokens.get_mut(&token.digest) {
            kept.phase = Phase::Due(due);
            store.due.insert((due, token.digest));
        }
    }

    fn refuse(&self, store: &mut Store, token: &ReviewedToken, refusal: Denial, now: Instant) {
        token.refuse(refusal.kind);
        store.tokens.remove(&token.digest);
        store
            .log
            .refused(&self.label, token.identity(), &refusal, now);
        let ask_again =
            (refusal.kind == DenialKind::NotRecognized).then(|| now + self.settings.ttl);
        let refused = RefusedToken {
            refusal,
            end: token.identity.validity().end,
            ask_again,
        };
        let limit = self.settings.tokens.saturating_mul(REFUSED_PER_TOKEN);
        store.remember_refusal(token.digest, refused, limit, self.clock.since_epoch());
    }

    /// Returns the state of the reviews.
    pub(super) fn health(&self) -> TokenReviewHealth {
        let store = self.store();
        TokenReviewHealth {
            when_unavailable: self.settings.when_unavailable,
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
            if let Some(refused) = store.refused.get(digest) {
                return ReviewDescription::Refused {
                    error: refused.refusal.kind.error(),
                    text: describe_refusal(&refused.refusal),
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
fn describe_refusal(refusal: &Denial) -> String {
    let meaning = match refusal.kind {
        DenialKind::Gone => {
            "the pod, service account or node that the token is bound to no longer exists"
        }
        DenialKind::Expired => "the token has expired by the API server's clock",
        DenialKind::NotRecognized => {
            "the API server does not recognize the token; is it the API server of the token's cluster?"
        }
    };
    format!("{meaning}: {}", refusal.text)
}

/// Returns the outcome of a review as the label of a metric.
fn outcome(result: &Result<Answer, TokenReviewError>) -> &'static str {
    match result {
        Ok(Answer::Confirmed) => "confirmed",
        Ok(Answer::Refused(refusal)) => match refusal.kind {
            DenialKind::Gone => "gone",
            DenialKind::Expired => "expired",
            DenialKind::NotRecognized => "not_recognized",
        },
        Err(TokenReviewError::MissingRole { .. }) => "missing_role",
        Err(_) => "failed",
    }
}

impl Store {
    /// Returns what is remembered about a token, or the error if it is refused without asking.
    fn prior(&mut self, digest: &Digest, now: Duration) -> Result<Prior, TokenError> {
        let asked_at = Instant::now();
        let is_too_early = self.outage.retry_at().is_some_and(|at| asked_at < at);
        match self.refused.get(digest) {
            Some(refused) if now >= refused.end => {
                self.refused.remove(digest);
            }
            Some(refused) => {
                let is_due = |at| asked_at >= at;
                if !is_too_early && refused.ask_again.is_some_and(is_due) {
                    return Ok(Prior::Refused);
                }
                return Err(refused.refusal.kind.error());
            }
            None => {}
        }
        if now < self.forgotten_until {
            return Ok(Prior::Unknown);
        }
        Ok(Prior::NotRefused)
    }

    /// Remembers a refusal. If there is no room, the one that is forgotten is that of the token that ends first.
    fn remember_refusal(
        &mut self,
        digest: Digest,
        refused: RefusedToken,
        limit: usize,
        now: Duration,
    ) {
        if self.refused.len() >= limit {
            self.refused.retain(|_, refused| now < refused.end);
        }
        if self.refused.len() >= limit {
            let first = self.refused.iter().min_by_key(|(_, refused)| refused.end);
            if let Some((digest, end)) = first.map(|(digest, refused)| (*digest, refused.end)) {
                self.forgotten_until = self.forgotten_until.max(end);
                self.refused.remove(&digest);
            }
        }
        self.refused.insert(digest, refused);
    }

    /// Drops a token that is not in use. Returns whether there is one.
    fn make_room(&mut self) -> bool {
        let mut tries = 0;
        while tries < MAX_EVICTION_TRIES
            && let Some(digest) = self.order.pop_front()
        {
            let Some(kept) = self.tokens.get(&digest) else {
                continue;
            };
            tries += 1;
            let is_under_way = matches!(kept.phase, Phase::UnderWay(_));
            if is_under_way || kept.waiting > 0 || kept.token.is_in_use() {
                self.order.push_back(digest);
                continue;
            }
            self.drop_token(&digest);
            return true;
        }
        false
    }

    fn drop_token(&mut self, digest: &Digest) {
        if let Some(kept) = self.tokens.remove(digest) {
            kept.token.standing.store(DROPPED, Ordering::Release);
            if let Phase::Due(due) = kept.phase {
                self.due.remove(&(due, *digest));
            }
        }
    }

    /// Queues a token for a review, unless it is queued or under review already.
    fn queue(&mut self, digest: &Digest, queue: Queue) {
        let Some(kept) = self.tokens.get_mut(digest) else {
            return;
        };
        match kept.phase {
            Phase::Queued(_) | Phase::UnderWay(_) => return,
            Phase::Due(due) => {
                self.due.remove(&(due, *digest));
            }
            Phase::Idle => {}
        }
        kept.phase = Phase::Queued(queue);
        self.newly_queued += 1;
        match queue {
            Queue::First => self.first.push_back(*digest),
            Queue::Renewals => self.renewals.push_back(*digest),
        }
    }

    /// Queues the tokens that are due and in use.
    fn queue_due(&mut self, now: Instant, wall_clock: Duration) {
        while let Some((due, digest)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(kept) = self.tokens.get_mut(&digest) else {
                continue;
            };
            kept.phase = Phase::Idle;
            let validity = kept.token.identity.validity();
            if wall_clock >= validity.end {
                self.drop_token(&digest);
                continue;
            }
            // The API server allows no leeway: it would refuse a token that is still accepted.
            let has_expired = wall_clock >= kept.token.identity.times().expires_at;
            if !has_expired && kept.token.is_in_use() {
                self.queue(&digest, Queue::Renewals);
            }
        }
    }

    fn has_queued(&self) -> bool {
        !self.first.is_empty() || !self.renewals.is_empty()
    }

    /// Removes the next token from the queues, which take turns. Tokens that nobody waits for any more are left out.
    fn pop_queued(&mut self) -> Option<(Queue, Digest)> {
        loop {
            let is_first_next = self.last_started == Queue::Renewals || self.renewals.is_empty();
            let queue = if is_first_next && !self.first.is_empty() {
                Queue::First
            } else {
                Queue::Renewals
            };
            let digest = match queue {
                Queue::First => self.first.pop_front()?,
                Queue::Renewals => self.renewals.pop_front()?,
            };
            let Some(kept) = self.tokens.get_mut(&digest) else {
                continue;
            };
            if kept.phase != Phase::Queued(queue) {
                continue;
            }
            if kept.waiting == 0 && !kept.token.is_in_use() {
                kept.phase = Phase::Idle;
                continue;
            }
            return Some((queue, digest));
        }
    }

    fn push_front(&mut self, queue: Queue, digest: Digest) {
        match queue {
            Queue::First => self.first.push_front(digest),
            Queue::Renewals => self.renewals.push_front(digest),
        }
    }

    fn start(&mut self, digest: Digest, now: Instant) -> Option<Start> {
        let kept = self.tokens.get_mut(&digest)?;
        let number = self.next_review;
        self.next_review += 1;
        kept.phase = Phase::UnderWay(number);
        let was_in_use = kept.token.is_used.swap(false, Ordering::Relaxed);
        let review = UnderWay {
            digest,
            started: now,
            was_in_use,
        };
        self.under_way.insert(number, review);
        let token = kept.token.clone();
        Some(Start { number, token })
    }

    /// Has a token reviewed again, after its review failed or was interrupted.
    fn review_again(&mut self, token: &ReviewedToken, was_in_use: bool, at: Instant) {
        if was_in_use {
            token.is_used.store(true, Ordering::Relaxed);
        }
        if let Some(kept) = self.tokens.get_mut(&token.digest) {
            kept.phase = Phase::Idle;
            if kept.token.is_in_use() {
                kept.phase = Phase::Due(at);
                self.due.insert((at, token.digest));
            }
        }
    }

    /// Gives up reviews that have not ended for so long that their runtime does not run any more.
    fn forget_lost(&mut self, now: Instant, limit: Duration) {
        let is_lost = |review: &UnderWay| now.saturating_duration_since(review.started) >= limit;
        let lost = self.under_way.iter().filter(|(_, review)| is_lost(review));
        let lost: Vec<_> = lost.map(|(number, _)| *number).collect();
        for number in lost {
            let Some(review) = self.under_way.remove(&number) else {
                continue;
            };
            if let Some(kept) = self.tokens.get(&review.digest) {
                let token = kept.token.clone();
                self.review_again(&token, review.was_in_use, now);
            }
        }
    }

    /// Returns when something is due that no other event starts.
    fn next_due(&mut self, now: Instant, settings: &ReviewSettings) -> Instant {
        let mut next = now + IDLE;
        if let Some((due, _)) = self.due.first() {
            next = next.min(*due);
        }
        if let Some(started) = self.under_way.values().map(|review| review.started).min() {
            next = next.min(started + settings.time_limit + LOST_MARGIN);
        }
        if self.has_queued() && self.under_way.len() < settings.concurrent {
            match self.outage.retry_at() {
                Some(retry_at) if self.under_way.is_empty() => next = next.min(retry_at),
                Some(_) => {}
                None => next = next.min(self.bucket.next(now)),
            }
        }
        next.max(now)
    }
}

/// A request that waits for a token.
pub(super) struct Waiting<'s> {
    shared: &'s Shared,
    digest: Digest,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(kept) = self.shared.store().tokens.get_mut(&self.digest) {
            kept.waiting = kept.waiting.saturating_sub(1);
        }
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

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
