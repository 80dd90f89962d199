//! The tokens of one issuer, and which of them is reviewed next.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::error::TokenReviewError;
use super::outage::Outage;
use super::policy::ReviewPolicy;
use super::refused::{Prior, RefusedTokens};
use super::settings::WhenUnavailable;
use super::token::{Digest, ReviewedToken};
use super::token_bucket::TokenBucket;
use crate::jose::TokenError;
use crate::sync::atomic::Ordering;

/// The part of the time to live after which a token in use is confirmed again.
///
/// With the default of 60 s that leaves 10 s, for which the API server itself may repeat a positive answer.
pub(super) const RENEWAL: f64 = 5.0 / 6.0;
/// How much longer than twice the time limit a review, which may be made twice, takes until it is considered lost with its
/// runtime.
pub(super) const LOST_MARGIN: Duration = Duration::from_secs(5);
/// When the driver looks again if nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The tokens of one issuer, and which of them is reviewed next.
pub(super) struct Store {
    pub(super) policy: Arc<ReviewPolicy>,
    pub(super) tokens: HashMap<Digest, Kept>,
    pub(super) refused: RefusedTokens,
    /// The tokens that are confirmed again if they are in use, by time.
    pub(super) due: BTreeSet<(Instant, Digest)>,
    /// The tokens that wait for their first review.
    pub(super) first: VecDeque<Digest>,
    /// The tokens in use that wait for a further review.
    pub(super) renewals: VecDeque<Digest>,
    pub(super) last_started: Queue,
    /// The number of tokens that were queued since the rate last delayed reviews.
    pub(super) newly_queued: usize,
    pub(super) under_way: HashMap<u64, UnderWay>,
    pub(super) next_review: u64,
    pub(super) bucket: TokenBucket,
    pub(super) outage: Outage,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<Arc<TokenReviewError>>,
}

pub(super) struct Kept {
    pub(super) token: Arc<ReviewedToken>,
    pub(super) phase: Phase,
    /// The number of requests that wait for the token.
    pub(super) waiting: usize,
    /// The audiences that were confirmed with the token.
    pub(super) audiences: Vec<String>,
    /// When the token was last confirmed.
    pub(super) confirmed: Option<Instant>,
    /// Whether the token was used before its last review was started.
    pub(super) was_in_use: bool,
}

/// The next event in the reviews of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing, until it is used.
    Idle,
    /// It is confirmed again at this time if it is in use.
    Due(Instant),
    Queued(Queue),
    /// The review with this number is under way.
    UnderWay(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    First,
    Renewals,
}

pub(super) struct UnderWay {
    pub(super) digest: Digest,
    pub(super) started: Instant,
    pub(super) was_in_use: bool,
}

/// A review to be started.
pub(super) struct Start {
    pub(super) number: u64,
    pub(super) token: Arc<ReviewedToken>,
    pub(super) policy: Arc<ReviewPolicy>,
}

impl Store {
    pub(super) fn new(policy: Arc<ReviewPolicy>, now: Instant) -> Self {
        Self {
            tokens: HashMap::new(),
            refused: RefusedTokens::default(),
            due: BTreeSet::new(),
            first: VecDeque::new(),
            renewals: VecDeque::new(),
            last_started: Queue::Renewals,
            newly_queued: 0,
            under_way: HashMap::new(),
            next_review: 0,
            bucket: TokenBucket::new(policy.settings.per_second, now),
            outage: Outage::default(),
            last_success: None,
            last_error: None,
            policy,
        }
    }

    /// Returns what is remembered about a token, or the error if it is refused without asking.
    pub(super) fn prior(
        &mut self,
        digest: &Digest,
        wall_clock: Duration,
    ) -> Result<Prior, TokenError> {
        let now = Instant::now();
        let may_ask = self.outage.retry_at().is_none_or(|at| now >= at);
        self.refused.prior(digest, now, wall_clock, may_ask)
    }

    /// Makes room for a token, if the limit is reached. Returns whether there is room.
    ///
    /// Tokens without a current confirmation are dropped first, and those in use last. With [`WhenUnavailable::Accept`] the one
    /// that was confirmed first is dropped even if it is in use: otherwise tokens for which there is no room would be accepted
    /// without ever being reviewed. Tokens that something waits for are never dropped.
    pub(super) fn make_room(&mut self, now: u64) -> bool {
        let settings = &self.policy.settings;
        let drops_any = settings.when_unavailable == WhenUnavailable::Accept;
        let limit = settings.tokens;
        while self.tokens.len() >= limit {
            let candidates = self.tokens.iter().filter_map(|(digest, kept)| {
                let is_under_way = matches!(kept.phase, Phase::UnderWay(_));
                if is_under_way || kept.waiting > 0 || kept.token.is_watched() {
                    return None;
                }
                let is_confirmed = kept.token.is_confirmed(now);
                let is_in_use = kept.token.is_in_use() || (is_confirmed && kept.was_in_use);
                let is_droppable = !is_in_use || drops_any;
                is_droppable.then_some(((is_confirmed, is_in_use, kept.confirmed), *digest))
            });
            let Some((_, digest)) = candidates.min_by_key(|(key, _)| *key) else {
                return false;
            };
            self.drop_token(&digest);
        }
        true
    }

    /// Puts other settings into effect. Confirmations stay valid if an audience that was confirmed is still accepted.
    pub(super) fn adopt(
        &mut self,
        policy: Arc<ReviewPolicy>,
        now: Instant,
        milliseconds: impl Fn(Instant) -> u64,
    ) {
        let (old, new) = (self.policy.settings.ttl, policy.settings.ttl);
        let unconfirmed_until = milliseconds(now + new);
        for (digest, kept) in &mut self.tokens {
            // Written only while the store is locked.
            let unconfirmed = &kept.token.unconfirmed_until;
            if unconfirmed.load(Ordering::Relaxed) > unconfirmed_until {
                unconfirmed.store(unconfirmed_until, Ordering::Relaxed);
            }
            let is_accepted = kept
                .audiences
                .iter()
                .any(|one| policy.audiences.contains(one));
            let Some(confirmed) = kept.confirmed.filter(|_| is_accepted) else {
                kept.token.valid_until.store(0, Ordering::Release);
                continue;
            };
            if new < old {
                let valid_until = milliseconds(confirmed + new);
                kept.token.valid_until.store(valid_until, Ordering::Release);
            }
            let due = confirmed + new.mul_f64(RENEWAL);
            if let Phase::Due(earlier) = kept.phase
                && due < earlier
            {
                self.due.remove(&(earlier, *digest));
                kept.phase = Phase::Due(due);
                self.due.insert((due, *digest));
                let renew_at = milliseconds(due);
                kept.token.renew_at.store(renew_at, Ordering::Relaxed);
            }
        }
        if self.policy.settings.per_second != policy.settings.per_second {
            self.bucket = TokenBucket::new(policy.settings.per_second, now);
        }
        self.policy = policy;
    }

    /// Returns whether something waits for the revocation of a token.
    pub(super) fn is_watched(&self) -> bool {
        self.tokens.values().any(|kept| kept.token.is_watched())
    }

    /// Has the state of a token checked again at that time.
    pub(super) fn schedule(&mut self, digest: &Digest, at: Instant) {
        if let Some(kept) = self.tokens.get_mut(digest) {
            if let Phase::Due(due) = kept.phase {
                self.due.remove(&(due, *digest));
            }
            kept.phase = Phase::Due(at);
            self.due.insert((at, *digest));
        }
    }

    pub(super) fn drop_token(&mut self, digest: &Digest) {
        if let Some(kept) = self.tokens.remove(digest) {
            kept.token.drop_state();
            if let Phase::Due(due) = kept.phase {
                self.due.remove(&(due, *digest));
            }
        }
    }

    /// Queues a token for a review, unless it is queued or under review already.
    pub(super) fn queue(&mut self, digest: &Digest, queue: Queue) {
        let Some(kept) = self.tokens.get_mut(digest) else {
            return;
        };
        match kept.phase {
            // A request waits for the renewal, so it is as urgent as a first review.
            Phase::Queued(Queue::Renewals) if queue == Queue::First => {}
            Phase::Queued(_) => return,
            Phase::UnderWay(number) if self.under_way.contains_key(&number) => return,
            Phase::UnderWay(_) => {}
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
    pub(super) fn queue_due(&mut self, now: Instant, wall_clock: Duration) {
        while let Some((due, digest)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(kept) = self.tokens.get_mut(&digest) else {
                continue;
            };
            kept.phase = Phase::Idle;
            if wall_clock >= kept.token.identity().validity().end {
                self.drop_token(&digest);
                continue;
            }
            // The API server allows no leeway: it would refuse a token that is still accepted.
            let has_expired = wall_clock >= kept.token.identity().times().expires_at;
            if !has_expired && kept.token.is_in_use() {
                self.queue(&digest, Queue::Renewals);
            } else {
                // It may be used again, and something may wait for its revocation later.
                let ttl = self.policy.settings.ttl;
                self.schedule(&digest, now + ttl.mul_f64(RENEWAL));
            }
        }
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.first.is_empty() || !self.renewals.is_empty()
    }

    /// Removes the next token from the queues, which take turns. Tokens that nobody waits for any more are left out.
    pub(super) fn pop_queued(&mut self) -> Option<(Queue, Digest)> {
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
                let ttl = self.policy.settings.ttl;
                self.schedule(&digest, Instant::now() + ttl);
                continue;
            }
            return Some((queue, digest));
        }
    }

    pub(super) fn push_front(&mut self, queue: Queue, digest: Digest) {
        match queue {
            Queue::First => self.first.push_front(digest),
            Queue::Renewals => self.renewals.push_front(digest),
        }
    }

    pub(super) fn start(&mut self, digest: Digest, now: Instant) -> Option<Start> {
        let kept = self.tokens.get_mut(&digest)?;
        let number = self.next_review;
        self.next_review += 1;
        kept.phase = Phase::UnderWay(number);
        let was_in_use = kept.token.is_used.swap(false, Ordering::Relaxed);
        kept.was_in_use = was_in_use;
        let review = UnderWay {
            digest,
            started: now,
            was_in_use,
        };
        self.under_way.insert(number, review);
        let (token, policy) = (kept.token.clone(), self.policy.clone());
        Some(Start {
            number,
            token,
            policy,
        })
    }

    /// Has a token reviewed again, after its review failed or was interrupted.
    pub(super) fn review_again(&mut self, token: &ReviewedToken, was_in_use: bool, at: Instant) {
        if was_in_use {
            token.is_used.store(true, Ordering::Relaxed);
        }
        self.schedule(&token.digest, at);
    }

    /// Gives up reviews that have not ended for so long that their runtime does not run any more.
    pub(super) fn forget_lost(&mut self, now: Instant, limit: Duration) {
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
    pub(super) fn next_due(&mut self, now: Instant) -> Instant {
        let settings = &self.policy.settings;
        let mut next = now + IDLE;
        if let Some((due, _)) = self.due.first() {
            next = next.min(*due);
        }
        if let Some(started) = self.under_way.values().map(|review| review.started).min() {
            next = next.min(started + 2 * settings.time_limit + LOST_MARGIN);
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
